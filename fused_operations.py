"""What a layer does besides its matrix products, each with its gradient written out.

Between two products a layer runs chains of element-wise operations: bias and gelu; bias, dropout, residual
connection and LayerNorm; dropout of attention weights. TensorFlow on a CPU runs each operation of a chain by
itself, and each reads and writes whole tensors. Here a chain is one function that XLA compiles to one loop,
where `compile_chains` says so; the products, the softmax and the sums over tokens stay TensorFlow's, whose
kernels are faster there. A whole update under XLA takes the same functions in.

Chains compute in float32 and return the type they are given. Dropout's masks are hashes of an entry's place
and a seed: cheap enough to be computed again in the backward pass, so no mask is kept.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

_compiles = False


def compile_chains(enabled: bool) -> None:
    """Compile each chain with XLA in the graphs that are traced from now on; off until called.

    Off is for graphs that others run, who may have no XLA, and for the whole update under XLA.
    """
    global _compiles
    _compiles = enabled


def chain(function: Callable) -> Callable:
    """A function of tensors, and of numbers by keyword, as one compiled loop where `compile_chains` is on."""
    compiled = tf.function(function, jit_compile=True, autograph=False)

    def call(*tensors, **numbers):
        return (compiled if _compiles else function)(*tensors, **numbers)

    return call


def with_gradient(function: Callable) -> Callable:
    """tf.custom_gradient, with the gradient's operations named after the place where it was called.

    A profile of a step is told apart by those names.
    """

    def scoped(*inputs):
        scope = tf.get_current_name_scope()
        outputs, gradient = function(*inputs)

        def scoped_gradient(*upstream):
            # A scope name that ends in / is absolute, not nested in the open scope.
            with tf.name_scope(f"{scope}/gradient/" if scope else "gradient"):
                return gradient(*upstream)

        return outputs, scoped_gradient

    return tf.custom_gradient(scoped)


@chain
def _after(upstream: tf.Tensor, small: tf.Tensor) -> tf.Tensor:
    """`small` unchanged, but depending on `upstream`, for a gradient to recompute something from it.

    A recomputation from the forward pass's own tensor would be found to be a duplicate, and its first result
    kept in memory: by TensorFlow's graph optimizer, and by XLA, which ignores control dependencies.
    """
    # A zero that neither optimizer can simplify away: at least 0 by abs, at most 0 by minimum.
    zero = tf.minimum(tf.abs(tf.cast(tf.reshape(upstream, [-1])[0], tf.float32)), 0.0)
    return small + tf.cast(zero, small.dtype)


def dimensions(tensor: tf.Tensor) -> list:
    """The dimensions of a tensor: numbers where they are known, else scalar tensors."""
    if tensor.shape.is_fully_defined():
        return tensor.shape.as_list()
    dynamic = tf.unstack(tf.shape(tensor))
    return [dynamic[axis] if size is None else size for axis, size in enumerate(tensor.shape)]


def _compiles_for_processor() -> bool:
    return _compiles and not tf.config.list_physical_devices("GPU")


def _column_sums(rows: tf.Tensor) -> tf.Tensor:
    """[rows, columns] -> [columns]: a bias's gradient."""
    if not _compiles_for_processor():
        return tf.raw_ops.BiasAddGrad(out_backprop=rows)
    # Quicker on a CPU. A GPU would round to TF32.
    ones = tf.ones([1, dimensions(rows)[0]], rows.dtype)
    return tf.squeeze(tf.matmul(ones, rows), 0)


class Normalized(NamedTuple):
    """What a LayerNorm gives, and what it was made of.

    The gradient of a product with the outputs needs no more than the normal values, which LayerNorm's own
    gradient keeps in any case, so that the outputs can be let go of.

    Attributes:
        outputs: [rows, width], normal * gamma + beta.
        normal: [rows, width], of mean 0 and variance 1 in each row; gets no gradient.
        gamma, beta: float32 [width].
    """

    outputs: tf.Tensor
    normal: tf.Tensor
    gamma: tf.Tensor
    beta: tf.Tensor

    def kernel_gradient(self, upstream: tf.Tensor, column_sums: tf.Tensor) -> tf.Tensor:
        """outputs^T upstream, [width, columns], from the sums over all rows of upstream [rows, columns]."""
        of_normal = tf.matmul(self.normal, upstream, transpose_a=True)
        scaled = self.gamma[:, None] * tf.cast(of_normal, tf.float32)
        return tf.cast(scaled + self.beta[:, None] * tf.cast(column_sums, tf.float32), upstream.dtype)


# ---------------------------------------------------------------------------------------------- dropout


def dropout_seeds(seed: tf.Tensor | None, salts: Sequence[int]) -> list[tf.Tensor | None]:
    """The seeds of some places in the model: uint32 [2] each, from an update's int32 [2]; None stays None.

    Args:
        salts: set the places apart.
    """
    if seed is None:
        return [None] * len(salts)
    with tf.name_scope("dropout"):
        first, second = tf.unstack(tf.bitcast(seed, tf.uint32))
        first = _mixed(tf.bitwise.bitwise_xor(first, tf.constant(salts, tf.uint32)))
        return tf.unstack(tf.stack([first, _mixed(second + first)], axis=1))


def dropout(inputs: tf.Tensor, rate: float, seed: tf.Tensor | None) -> tf.Tensor:
    """Zero a share `rate` of the entries and scale up the rest; `seed` as from `dropout_seeds`."""
    if seed is None or rate == 0:
        return inputs

    @with_gradient
    def dropped(inputs):
        return _dropout(inputs, seed, rate=rate), lambda upstream: _dropout(upstream, seed, rate=rate)

    return dropped(inputs)


def _dropped_float32(values: tf.Tensor, seed: tf.Tensor, rate: float) -> tf.Tensor:
    if rate == 0:
        return values
    threshold = round(rate * 2**32)
    scale = 2**32 / (2**32 - threshold)
    return tf.where(_hashes(tf.shape(values), seed) >= _uint32(threshold), values * scale, 0.0)


def _hashes(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """uint32 of `shape`: the finalizer of MurmurHash3 (Appleby) over places, keyed before and between."""
    places = tf.bitcast(tf.range(tf.reduce_prod(shape)), tf.uint32)
    bits = (places + seed[0]) * _uint32(0x9E3779B1)
    bits = _folded(bits, 16) * _uint32(0x85EBCA6B) + seed[1]
    return tf.reshape(_folded(_folded(bits, 13) * _uint32(0xC2B2AE35), 16), shape)


def _mixed(word: tf.Tensor) -> tf.Tensor:
    word = _folded(word, 16) * _uint32(0x85EBCA6B)
    return _folded(_folded(word, 13) * _uint32(0xC2B2AE35), 16)


def _folded(word: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(word, tf.bitwise.right_shift(word, _uint32(bits)))


def _uint32(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint32)


@chain
def _dropout(values, seed, *, rate):
    return tf.cast(_dropped_float32(tf.cast(values, tf.float32), seed, rate), values.dtype)


# ------------------------------------------------------------------------------------------------- gelu


@with_gradient
def gelu_of_sum(products: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """gelu(products + bias), x * Phi(x) with the exact error function (Hendrycks and Gimpel 2016).

    Args:
        products: [rows, columns]. bias: [columns].
    """

    def gradient(upstream):
        of_sum = _gelu_gradient(products, bias, upstream)
        return of_sum, _column_sums(of_sum)

    return _gelu(products, bias), gradient


def feed_forward(
    states: Normalized, kernel: tf.Tensor, bias: tf.Tensor, output_kernel: tf.Tensor
) -> tf.Tensor:
    """gelu(states kernel + bias) output_kernel, [rows, units].

    Of the forward pass it keeps the inner products alone, the largest tensors of a layer: gelu's values are
    computed again, and the outputs of the LayerNorm before it are not needed (Normalized).

    Args:
        kernel: [width, columns]. bias: [columns]. output_kernel: [columns, units].
    """
    columns = kernel.shape[1]
    spare = _spare_columns(columns, kernel.dtype)

    @with_gradient
    def fed_forward(outputs, kernel, bias, output_kernel):
        products = tf.matmul(outputs, _with_spare(kernel, spare, 1, outputs))

        def gradient(upstream):
            again = _with_spare(_after(upstream, bias), spare, 0, upstream)
            of_output_kernel = tf.matmul(_gelu(products, again), upstream, transpose_a=True)
            # gelu's values are let go of before as large a tensor is made.
            with tf.control_dependencies([of_output_kernel]):
                of_gelu = tf.matmul(
                    upstream, _with_spare(output_kernel, spare, 0, upstream), transpose_b=True
                )
            of_sum = _gelu_gradient(products, again, of_gelu)
            of_bias = _column_sums(of_sum)
            of_kernel = states.kernel_gradient(of_sum, of_bias)
            of_outputs = tf.matmul(of_sum, _with_spare(kernel, spare, 1, of_sum), transpose_b=True)
            return of_outputs, of_kernel[:, :columns], of_bias[:columns], of_output_kernel[:columns]

        values = _gelu(products, _with_spare(bias, spare, 0, products))
        return tf.matmul(values, _with_spare(output_kernel, spare, 0, products)), gradient

    return fed_forward(states.outputs, kernel, bias, output_kernel)


def _spare_columns(columns: int, dtype: tf.DType) -> int:
    """How many columns of zeros an inner product gets on a processor.

    Rows of 4 KiB begin at the same places of a processor's cache, which makes products that sum over rows
    half as fast. A cache line of zeros shifts them; gelu and its gradient leave it zero.
    """
    aliased = columns == 1024 and dtype == tf.float32
    return 16 if aliased and _compiles_for_processor() else 0


def _with_spare(weights: tf.Tensor, spare: int, axis: int, needed_by: tf.Tensor) -> tf.Tensor:
    """Weights with zeros appended, no earlier than what they are to be multiplied with is there."""
    if not spare:
        return weights
    with tf.control_dependencies([needed_by]):
        return tf.pad(weights, [[0, spare if axis == place else 0] for place in range(weights.shape.rank)])


@chain
def _gelu(products, bias):
    inputs = tf.cast(products, tf.float32) + tf.cast(bias, tf.float32)
    return tf.cast(inputs * _normal_cdf(inputs), products.dtype)


@chain
def _gelu_gradient(products, bias, upstream):
    inputs = tf.cast(products, tf.float32) + tf.cast(bias, tf.float32)
    density = 0.3989422804014327 * tf.exp(-0.5 * inputs * inputs)
    slope = _normal_cdf(inputs) + inputs * density
    return tf.cast(tf.cast(upstream, tf.float32) * slope, products.dtype)


def _normal_cdf(inputs: tf.Tensor) -> tf.Tensor:
    return 0.5 * (1.0 + tf.math.erf(inputs * 0.7071067811865476))


# -------------------------------------------------------------------------- residual connection, LayerNorm


def residual_layer_norm(
    products: tf.Tensor,
    bias: tf.Tensor,
    residual: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    *,
    epsilon: float,
    rate: float,
    seed: tf.Tensor | None,
) -> Normalized:
    """LayerNorm(dropout(products + bias) + residual) (Ba et al. 2016), statistics in float32.

    Args:
        products, residual: [rows, columns]. bias, gamma, beta: [columns]; the last two are float32.
        epsilon: added to the variance.
        rate, seed: of dropout; the seed as from `dropout_seeds`.
    """
    if seed is None:
        rate, seed = 0.0, tf.zeros([2], tf.uint32)

    @with_gradient
    def normalized(products, bias, residual, gamma, beta):
        outputs, normal, scale = _residual_layer_norm(
            products, bias, residual, gamma, beta, seed, epsilon=epsilon, rate=rate
        )

        def gradient(upstream, _):
            # A gather of some rows hands down slices.
            upstream = tf.convert_to_tensor(upstream)
            of_residual, of_products, of_gamma = _residual_layer_norm_gradient(
                normal, scale, gamma, upstream, seed, rate=rate
            )
            return (
                of_products,
                _column_sums(of_products),
                of_residual,
                tf.cast(_column_sums(of_gamma), gamma.dtype),
                tf.cast(_column_sums(upstream), beta.dtype),
            )

        return (outputs, normal), gradient

    with tf.name_scope("layer_norm"):
        outputs, normal = normalized(products, bias, residual, gamma, beta)
        fixed = (tf.stop_gradient(tensor) for tensor in (normal, gamma, beta))
        return Normalized(outputs, *fixed)


@chain
def _residual_layer_norm(products, bias, residual, gamma, beta, seed, *, epsilon, rate):
    inputs = _dropped_float32(tf.cast(products, tf.float32) + tf.cast(bias, tf.float32), seed, rate)
    inputs += tf.cast(residual, tf.float32)
    centred = inputs - tf.reduce_mean(inputs, axis=1, keepdims=True)
    scale = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), axis=1, keepdims=True) + epsilon)
    normal = centred * scale
    return tf.cast(normal * gamma + beta, products.dtype), tf.cast(normal, products.dtype), scale


@chain
def _residual_layer_norm_gradient(normal, scale, gamma, upstream, seed, *, rate):
    normal, upstream_32 = tf.cast(normal, tf.float32), tf.cast(upstream, tf.float32)
    of_normal = upstream_32 * gamma
    mean = tf.reduce_mean(of_normal, axis=1, keepdims=True)
    along = tf.reduce_mean(of_normal * normal, axis=1, keepdims=True)
    of_inputs = scale * (of_normal - mean - normal * along)
    gradients = of_inputs, _dropped_float32(of_inputs, seed, rate), upstream_32 * normal
    return tuple(tf.cast(value, upstream.dtype) for value in gradients)


# --------------------------------------------------------------------------------------------- attention


def attention(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    bias: tf.Tensor,
    *,
    rate: float,
    seed: tf.Tensor | None,
) -> tf.Tensor:
    """dropout(softmax(query key^T + bias)) value (Vaswani et al. 2017, section 3.2.1), softmax in float32.

    The softmax's gradient needs the sum over a row of weights times their gradients, which is also the sum
    over an output of it times its gradient (Dao et al. 2022, appendix B.2): of far fewer entries.

    Args:
        query, key, value: [batch, heads, length, size of a head]; the queries are scaled already.
        bias: [batch, 1, 1 or length, length], added to the scores; gets no gradient.
        rate, seed: of dropout; the seed as from `dropout_seeds`.

    Returns:
        [batch * length, heads * size of a head].
    """
    if rate == 0:
        seed = None

    @with_gradient
    def attended(query, key, value):
        # No chain: TensorFlow's optimizer of graphs wants to know the shape of what a softmax is given.
        scores = tf.cast(tf.matmul(query, key, transpose_b=True), tf.float32) + tf.cast(bias, tf.float32)
        weights = tf.cast(tf.nn.softmax(scores), query.dtype)

        def dropped_weights(seed):
            with tf.name_scope("dropout"):
                return _dropout(weights, seed, rate=rate)

        outputs = _merge_heads(tf.matmul(weights if seed is None else dropped_weights(seed), value))
        batch, heads, length, size = dimensions(query)

        def gradient(upstream):
            by_head = tf.reshape(_float32_products(upstream, outputs), [batch, length, heads, size])
            shared = tf.transpose(tf.reduce_sum(by_head, axis=3, keepdims=True), [0, 2, 1, 3])
            upstream = tf.transpose(tf.reshape(upstream, [batch, length, heads, size]), [0, 2, 1, 3])
            of_weights = tf.matmul(upstream, value, transpose_b=True)
            if seed is None:
                of_scores, dropped = _softmax_gradient(weights, of_weights, shared), weights
            else:
                # Dropped again instead of kept: cheaper than a layer's largest tensor held until now.
                again = _after(upstream, seed)
                of_scores = _dropped_softmax_gradient(weights, of_weights, shared, again, rate=rate)
                dropped = dropped_weights(again)
            return (
                tf.matmul(of_scores, key),
                tf.matmul(of_scores, query, transpose_a=True),
                tf.matmul(dropped, upstream, transpose_a=True),
            )

        return outputs, gradient

    return attended(query, key, value)


@chain
def _float32_products(left, right):
    return tf.cast(left, tf.float32) * tf.cast(right, tf.float32)


@chain
def _softmax_gradient(weights, of_weights, shared):
    return tf.cast(tf.cast(weights, tf.float32) * (tf.cast(of_weights, tf.float32) - shared), weights.dtype)


@chain
def _dropped_softmax_gradient(weights, of_weights, shared, seed, *, rate):
    of_weights = _dropped_float32(tf.cast(of_weights, tf.float32), seed, rate)
    return tf.cast(tf.cast(weights, tf.float32) * (of_weights - shared), weights.dtype)


# ------------------------------------------------------------------------------------------------- heads


def split_heads(
    products: tf.Tensor, bias: tf.Tensor, *, batch, length, heads: int, scale: float = 1.0
) -> tf.Tensor:
    """(products + bias) * scale, [batch * length, hidden] -> [batch, heads, length, size of a head].

    Args:
        batch, length: numbers, or scalar tensors where they are not known.
    """
    size = products.shape[1] // heads

    @with_gradient
    def split(products, bias):
        shape = tf.stack([batch, length, heads, size])

        def gradient(upstream):
            of_products = _merge_heads(upstream)
            if scale != 1:
                of_products *= tf.cast(scale, of_products.dtype)
            return of_products, _column_sums(of_products)

        biased = _scaled_sum(products, bias, scale=scale)
        return tf.transpose(tf.reshape(biased, shape), [0, 2, 1, 3]), gradient

    return split(products, bias)


@chain
def _scaled_sum(products, bias, *, scale):
    return (products + bias) * tf.cast(scale, products.dtype)


def _merge_heads(tensor: tf.Tensor) -> tf.Tensor:
    """[batch, heads, length, size of a head] -> [batch * length, hidden]."""
    return tf.reshape(tf.transpose(tensor, [0, 2, 1, 3]), [-1, tensor.shape[1] * tensor.shape[3]])

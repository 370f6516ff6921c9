"""ELECTRA's networks as Keras layers: embeddings, encoder, the heads of pre-training and of fine-tuning.

Hidden states travel as [batch * length, hidden], so that every dense product is one plain matrix product;
only the attention sees [batch, heads, length, size of a head]. Dropout is stateless: a call is given the
pair of integers that its masks follow from, or None to run without dropout. Weights are named as in
Google's checkpoints (electra/encoder/layer_0/attention/self/query/kernel). What stands between the products,
with its gradients, is in fused_operations.py.

The losses are in pretraining.py, with the sampling, and in question_answering.py and classification.py.
"""

import functools

import keras
import tensorflow as tf

import fused_operations
import vocabulary_softmax
from architecture import ElectraConfig
from keyed_random import derive_key
from shared_graph import calls_through_one_graph

# Added to the attention scores of padding and of other examples: far enough below any score, and finite in
# float16.
_PADDING_SCORE = -10000.0


def dropout(inputs: tf.Tensor, rate: float, seed: tf.Tensor | None, salt: int) -> tf.Tensor:
    """Zero a share of the entries and scale up the rest.

    Args:
        rate: share of zeros.
        seed: int32 [2], or None for no dropout.
        salt: sets this place in the model apart from all others.
    """
    with tf.name_scope("dropout"):
        return fused_operations.dropout(inputs, rate, *fused_operations.dropout_seeds(seed, [salt]))


def gelu(inputs: tf.Tensor) -> tf.Tensor:
    """x * Phi(x) with the exact error function (Hendrycks and Gimpel 2016), as Google's ELECTRA."""
    return tf.nn.gelu(inputs, approximate=False)


class Embeddings(keras.layers.Layer):
    """Sum of word, position and token-type embeddings, normalised."""

    def __init__(self, config: ElectraConfig, **kwargs):
        super().__init__(**kwargs)
        self._config = config
        self._layer_norm = _layer_norm(config)

    def build(self, input_shape=None):
        config = self._config
        width = config.embedding_size
        self.word_embeddings = self._add_table("word_embeddings", config.vocab_size, width)
        self.position_embeddings = self._add_table(
            "position_embeddings", config.max_position_embeddings, width
        )
        self.token_type_embeddings = self._add_table("token_type_embeddings", config.type_vocab_size, width)
        self._layer_norm.build((None, width))
        self.salt = _salt(self)

    def call(self, input_ids, segment_ids, dropout_seed=None, position_ids=None):
        """All ids: int [batch, length]; positions from 0 by default. Returns [batch * length, width]."""
        words = tf.gather(self.word_embeddings.value, input_ids)
        token_types = tf.gather(self.token_type_embeddings.value, segment_ids)
        if position_ids is None:
            positions = self.position_embeddings.value[: fused_operations.dimensions(input_ids)[1]]
        else:
            positions = tf.gather(self.position_embeddings.value, position_ids)
        embeddings = words + positions + token_types
        embeddings = tf.reshape(embeddings, [-1, self._config.embedding_size])
        embeddings = tf.cast(self._layer_norm(embeddings), self.compute_dtype)
        return dropout(embeddings, self._config.hidden_dropout_prob, dropout_seed, self.salt)

    def _add_table(self, name: str, rows: int, width: int):
        # Rows are gathered in float32 and cast afterwards: casting the table first would cost its whole size.
        initializer = _initializer(self._config)
        return self.add_weight(name=name, shape=(rows, width), initializer=initializer, autocast=False)


class SelfAttention(keras.layers.Layer):
    """Multi-head scaled dot-product self-attention (Vaswani et al. 2017, section 3.2), without its output
    projection."""

    def __init__(self, config: ElectraConfig, **kwargs):
        super().__init__(**kwargs)
        self._config = config
        self.query = _dense(config.hidden_size, config, "query")
        self.key = _dense(config.hidden_size, config, "key")
        self.value = _dense(config.hidden_size, config, "value")

    def build(self, input_shape=None):
        for projection in (self.query, self.key, self.value):
            projection.build((None, self._config.hidden_size))
        self.salt = _salt(self)

    def call(self, hidden, attention_bias, dropout_seed=None):
        """hidden: [batch * length, hidden]; attention_bias: [batch, 1, 1 or length, length].

        dropout_seed: of this place alone, uint32 [2] as from fused_operations.dropout_seeds, or None.
        """
        config = self._config
        batch, _, _, length = fused_operations.dimensions(attention_bias)
        heads, head_size = config.num_attention_heads, config.hidden_size // config.num_attention_heads

        def of_heads(projection: keras.layers.Dense, scale: float = 1.0):
            products, bias = _product(projection, hidden)
            return fused_operations.split_heads(
                products, bias, batch=batch, length=length, heads=heads, scale=scale
            )

        return fused_operations.attention(
            # Scaling the queries costs less than scaling the scores.
            of_heads(self.query, head_size**-0.5),
            of_heads(self.key),
            of_heads(self.value),
            attention_bias,
            rate=config.attention_probs_dropout_prob,
            seed=dropout_seed,
        )


class ResidualOutput(keras.layers.Layer):
    """Dense projection, dropout, residual connection, LayerNorm: the end of both halves of a layer.

    The projection's product is the caller's, who may compute it together with what stands before it.
    """

    def __init__(self, config: ElectraConfig, input_size: int, **kwargs):
        super().__init__(**kwargs)
        self._config, self._input_size = config, input_size
        self.dense = _dense(config.hidden_size, config, "dense")
        self._layer_norm = _layer_norm(config)

    def build(self, input_shape=None):
        self.dense.build((None, self._input_size))
        self._layer_norm.build((None, self._config.hidden_size))
        self.salt = _salt(self)

    def kernel(self) -> tf.Tensor:
        """[input size, hidden size], in the compute type."""
        return _cast_weight(self.dense, self.dense.kernel)

    def call(self, products, residual, dropout_seed=None) -> fused_operations.Normalized:
        """products: [rows, hidden size], inputs times `kernel()`; dropout_seed: of this place alone."""
        return fused_operations.residual_layer_norm(
            products,
            _cast_weight(self.dense, self.dense.bias),
            residual,
            self._layer_norm.gamma.value,
            self._layer_norm.beta.value,
            epsilon=self._config.layer_norm_eps,
            rate=self._config.hidden_dropout_prob,
            seed=dropout_seed,
        )


class EncoderLayer(keras.layers.Layer):
    """Self-attention and feed-forward, each with residual and LayerNorm (post-norm, as in BERT)."""

    def __init__(self, config: ElectraConfig, **kwargs):
        super().__init__(**kwargs)
        self._config = config
        self.self_attention = SelfAttention(config, name="self")
        self.attention_output = ResidualOutput(config, config.hidden_size, name="output")
        self.intermediate = _dense(config.intermediate_size, config, "dense")
        self.feed_forward_output = ResidualOutput(config, config.intermediate_size, name="output")

    def build(self, input_shape=None):
        with keras.name_scope("attention"):
            self.self_attention.build()
            self.attention_output.build()
        with keras.name_scope("intermediate"):
            self.intermediate.build((None, self._config.hidden_size))
        self.feed_forward_output.build()
        places = (self.self_attention, self.attention_output, self.feed_forward_output)
        self.salts = [place.salt for place in places]

    def call(self, hidden, attention_bias, dropout_seeds):
        """dropout_seeds: of `salts`, each uint32 [2] or None."""
        of_weights, of_attention, of_feed_forward = dropout_seeds
        with tf.name_scope("attention"):
            context = self.self_attention(hidden, attention_bias, of_weights)
            products = tf.matmul(context, self.attention_output.kernel())
            attended = self.attention_output(products, hidden, of_attention)
        with tf.name_scope("feed_forward"):
            inner = self.intermediate
            weights = (_cast_weight(inner, inner.kernel), _cast_weight(inner, inner.bias))
            products = fused_operations.feed_forward(attended, *weights, self.feed_forward_output.kernel())
            return self.feed_forward_output(products, attended.outputs, of_feed_forward).outputs


class Encoder(keras.layers.Layer):
    """Embeddings, their projection where they are narrower than the hidden states, and the layers.

    Args:
        embeddings: an Embeddings layer of another encoder to share (the generator's is the discriminator's).

    Attributes:
        recompute: keep for the backward pass the layers' inputs alone, and compute the rest again there, a
            layer at a time (Chen et al. 2016, section 3); off until set.
    """

    def __init__(self, config: ElectraConfig, embeddings: Embeddings | None = None, **kwargs):
        # Not autocast: the layers' weights are handed to their graph in float32, and cast there.
        super().__init__(autocast=False, **kwargs)
        self.config = config
        self.recompute = False
        self._owns_embeddings = embeddings is None
        self.embeddings = Embeddings(config, name="embeddings") if embeddings is None else embeddings
        self._project = None
        if config.embedding_size != config.hidden_size:
            self._project = _dense(config.hidden_size, config, "embeddings_project")
        self._layers_of_encoder = [
            EncoderLayer(config, name=f"layer_{number}") for number in range(config.num_hidden_layers)
        ]

    def build(self, input_shape=None):
        if self._owns_embeddings:
            self.embeddings.build()
        if self._project is not None:
            self._project.build((None, self.config.embedding_size))
        with keras.name_scope("encoder"):
            for layer in self._layers_of_encoder:
                layer.build()

    def call(
        self,
        input_ids,
        input_mask,
        segment_ids,
        dropout_seed=None,
        position_ids=None,
        example_numbers=None,
    ):
        """Encode sequences.

        Args:
            input_ids, input_mask, segment_ids: int [batch, length]; the mask is 1 for tokens, 0 for padding.
            dropout_seed: int32 [2], or None for no dropout.
            position_ids: int [batch, length], a token's place in its example; None counts from 0.
            example_numbers: int [batch, length], where a sequence holds several examples: the number of a
                token's example from 1, 0 for padding. Tokens see those of their own example alone.

        Returns:
            [batch * length, hidden size].
        """
        hidden = self.embeddings(input_ids, segment_ids, dropout_seed, position_ids)
        if self._project is not None:
            hidden = self._project(hidden)
        if example_numbers is None:
            unseen = 1 - tf.cast(input_mask, tf.float32)[:, None, None, :]
        else:
            unseen = tf.cast(
                example_numbers[:, None, :, None] != example_numbers[:, None, None, :], tf.float32
            )
        attention_bias = tf.cast(unseen * _PADDING_SCORE, self.compute_dtype)
        layers = self._layers_of_encoder
        seeds = fused_operations.dropout_seeds(
            dropout_seed, [salt for layer in layers for salt in layer.salts]
        )
        call = calls_through_one_graph(layers, self.name) if tf.inside_function() else EncoderLayer.__call__
        for number, layer in enumerate(layers):
            compute = functools.partial(call, layer, dropout_seeds=seeds[3 * number : 3 * number + 3])
            if self.recompute:
                compute = tf.recompute_grad(compute)
            hidden = compute(hidden, attention_bias)
        # tf.recompute_grad takes no IndexedSlices, which a later gather of rows would pass back as gradient.
        return _with_dense_gradient(hidden) if self.recompute else hidden


class DiscriminatorHead(keras.layers.Layer):
    """The logit that a token was replaced: dense, gelu, dense to one number."""

    def __init__(self, config: ElectraConfig, **kwargs):
        super().__init__(**kwargs)
        self._config = config
        self.dense = _dense(config.hidden_size, config, "dense")
        self.dense_prediction = _dense(1, config, "dense_prediction")

    def build(self, input_shape=None):
        for layer in (self.dense, self.dense_prediction):
            layer.build((None, self._config.hidden_size))

    def call(self, hidden):
        """hidden: [tokens, hidden size]. Returns float32 [tokens]."""
        states = fused_operations.gelu_of_sum(*_product(self.dense, hidden))
        return _logits(self.dense_prediction(states))


class MaskedLmHead(keras.layers.Layer):
    """Logits over the vocabulary: dense to the embedding size, gelu, LayerNorm, the tied word table."""

    def __init__(self, config: ElectraConfig, embeddings: Embeddings, **kwargs):
        super().__init__(**kwargs)
        self._config = config
        self._embeddings = embeddings
        self.dense = _dense(config.embedding_size, config, "dense")
        self._layer_norm = _layer_norm(config)

    def build(self, input_shape=None):
        self.dense.build((None, self._config.hidden_size))
        self._layer_norm.build((None, self._config.embedding_size))
        self.output_bias = self.add_weight(
            name="output_bias", shape=(self._config.vocab_size,), initializer="zeros", autocast=False
        )

    def call(self, hidden):
        """hidden: [picks, hidden size]. Returns float32 [picks, vocabulary]."""
        return self.padded_logits(hidden)[:, : self._config.vocab_size]

    def padded_logits(self, hidden):
        """The same with entries that no softmax sees, to a width that suits it (vocabulary_softmax.py)."""
        with tf.name_scope(self.name):
            states = self._layer_norm(fused_operations.gelu_of_sum(*_product(self.dense, hidden)))
            states, table = (
                tf.cast(tensor, self.compute_dtype)
                for tensor in (states, self._embeddings.word_embeddings.value)
            )
            return vocabulary_softmax.padded_logits(states, table, self.output_bias.value)


class JointSpanHead(keras.layers.Layer):
    """The start of an answer, its end given the start, and whether the text holds an answer at all.

    In Google's form a hidden layer of 512 with gelu stands before the end's and the answerability's logit. In
    NVIDIA's, which is XLNet's (Yang et al. 2019), it is as wide as the encoder with tanh, the end's is
    normalised, and the answerability's logit has no bias.

    Args:
        variant: google or xlnet.
        answerable: whether there is an answerability's part.
    """

    _GOOGLE_UNITS = 512

    def __init__(self, config: ElectraConfig, variant: str, answerable: bool, **kwargs):
        super().__init__(**kwargs)
        self._config, self._is_xlnet = config, variant == "xlnet"
        units = config.hidden_size if self._is_xlnet else self._GOOGLE_UNITS
        self._activation = tf.tanh if self._is_xlnet else gelu
        self.start = _dense(1, config, "start")
        self.end_hidden = _dense(units, config, "end_hidden")
        self.end = _dense(1, config, "end")
        self._end_norm = _layer_norm(config) if self._is_xlnet else None
        self.answerable = None
        if answerable:
            self.answerable_hidden = _dense(units, config, "answerable_hidden")
            self.answerable = _dense(1, config, "answerable", use_bias=not self._is_xlnet)

    def build(self, input_shape=None):
        width, units = self._config.hidden_size, self.end_hidden.units
        self.start.build((None, width))
        self.end_hidden.build((None, 2 * width))
        self.end.build((None, units))
        if self._end_norm is not None:
            with keras.name_scope("end_hidden"):
                self._end_norm.build((None, units))
        if self.answerable is not None:
            self.answerable_hidden.build((None, 2 * width))
            self.answerable.build((None, units))

    def start_logits(self, hidden):
        """hidden: [batch, length, hidden size]. Returns float32 [batch, length]."""
        return _logits(self.start(hidden))

    def end_logits(self, hidden, start_states):
        """The end's logits for each of some starts.

        Args:
            hidden: [batch, length, hidden size].
            start_states: [batch, starts, hidden size], the hidden states of the starts.

        Returns:
            float32 [batch, starts, length].
        """
        # A product with [start; token] is the sum of two: each token's half is computed once for all starts.
        width = self._config.hidden_size
        kernel = _cast_weight(self.end_hidden, self.end_hidden.kernel)
        bias = _cast_weight(self.end_hidden, self.end_hidden.bias)
        of_starts = tf.matmul(start_states, kernel[:width]) + bias
        of_tokens = tf.matmul(hidden, kernel[width:])
        states = self._activation(of_starts[:, :, None] + of_tokens[:, None])
        if self._end_norm is not None:
            states = self._end_norm(states)
        return _logits(self.end(states))

    def null_logit(self, hidden, start_state):
        """The logit that the text holds no answer.

        Args:
            hidden: [batch, length, hidden size]; [CLS] stands first.
            start_state: [batch, hidden size], the (expected) hidden state of the start.

        Returns:
            float32 [batch].
        """
        first, second = hidden[:, 0], start_state
        if self._is_xlnet:
            first, second = second, first
        states = self._activation(self.answerable_hidden(tf.concat([first, second], axis=-1)))
        return _logits(self.answerable(states))


class SequenceHead(keras.layers.Layer):
    """Outputs for a whole sequence, from the hidden state of [CLS]: dense, gelu, dense, each after dropout.

    As Hugging Face's ElectraForSequenceClassification. Google's code has the last dense layer alone.
    """

    def __init__(self, config: ElectraConfig, outputs: int, **kwargs):
        super().__init__(**kwargs)
        self._config = config
        self.dense = _dense(config.hidden_size, config, "dense")
        self.out_proj = _dense(outputs, config, "out_proj")

    def build(self, input_shape=None):
        for layer in (self.dense, self.out_proj):
            layer.build((None, self._config.hidden_size))
        self.salts = (_salt(self.dense), _salt(self.out_proj))

    def call(self, states, dropout_seed=None):
        """states: [batch, hidden size]. Returns float32 [batch, outputs]."""
        rate, (before, between) = self._config.hidden_dropout_prob, self.salts
        states = gelu(self.dense(dropout(states, rate, dropout_seed, before)))
        return tf.cast(self.out_proj(dropout(states, rate, dropout_seed, between)), tf.float32)


class TokenHead(keras.layers.Dense):
    """Outputs for each token: dropout and a dense layer, as Hugging Face's ElectraForTokenClassification."""

    def __init__(self, config: ElectraConfig, outputs: int, **kwargs):
        super().__init__(outputs, kernel_initializer=_initializer(config), **kwargs)
        self._config = config

    def build(self, input_shape=None):
        super().build((None, self._config.hidden_size))
        self.salt = _salt(self)

    def call(self, hidden, dropout_seed=None):
        """hidden: [tokens, hidden size]. Returns float32 [tokens, outputs]."""
        hidden = dropout(hidden, self._config.hidden_dropout_prob, dropout_seed, self.salt)
        return tf.cast(super().call(hidden), tf.float32)


def _dense(units: int, config: ElectraConfig, name: str, **options) -> keras.layers.Dense:
    return keras.layers.Dense(units, kernel_initializer=_initializer(config), name=name, **options)


def _product(layer: keras.layers.Dense, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A dense layer up to its bias, [rows, units], and the bias, both in the layer's compute type."""
    products = tf.matmul(tf.cast(inputs, layer.compute_dtype), _cast_weight(layer, layer.kernel))
    return products, _cast_weight(layer, layer.bias)


def _cast_weight(layer: keras.layers.Layer, weight: keras.Variable) -> tf.Tensor:
    return tf.cast(weight.value, layer.compute_dtype)


@tf.custom_gradient
def _with_dense_gradient(tensor: tf.Tensor) -> tf.Tensor:
    return tf.identity(tensor), tf.convert_to_tensor


def _logits(outputs: tf.Tensor) -> tf.Tensor:
    """Drop the last axis, of one entry."""
    return tf.cast(tf.squeeze(outputs, -1), tf.float32)


def _initializer(config: ElectraConfig) -> keras.initializers.Initializer:
    # A new object each time: one initializer gives every weight of a shape the same values.
    return keras.initializers.TruncatedNormal(stddev=config.initializer_range)


def _layer_norm(config: ElectraConfig) -> keras.layers.LayerNormalization:
    return keras.layers.LayerNormalization(epsilon=config.layer_norm_eps, name="LayerNorm")


def _salt(layer: keras.layers.Layer) -> int:
    """A number for a layer's dropout that depends on its place in the model alone."""
    return derive_key("dropout", layer.path) & 0x7FFFFFFF

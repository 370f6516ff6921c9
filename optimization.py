"""Learning-rate schedules, AdamW and LAMB, with the parameter groups that ELECTRA's recipes use.

The optimizers are plain objects over named variables: their slots go into checkpoints by name, and an update
is a few fused operations. Accumulation, clipping and loss scaling are the engine's (training.py).
"""

import abc
import re
from collections.abc import Callable, Iterable, Mapping

import tensorflow as tf

from fused_operations import chain

EPSILON = 1e-6

Schedule = Callable[[int], float]


def polynomial_decay_after_warmup(
    learning_rate: float, num_train_steps: int, num_warmup_steps: int, power: float, end_lr: float
) -> Schedule:
    """NVIDIA's schedule: linear warm-up, then polynomial decay over the remaining updates.

    The learning rate of an update is a function of the number of updates before it, so the first one has 0.
    """

    def schedule(step: int) -> float:
        if step < num_warmup_steps:
            return learning_rate * step / num_warmup_steps
        done = min(1.0, (step - num_warmup_steps) / (num_train_steps - num_warmup_steps))
        return (learning_rate - end_lr) * (1.0 - done) ** power + end_lr

    return schedule


def polynomial_decay_times_warmup(
    learning_rate: float, num_train_steps: int, num_warmup_steps: int, power: float, end_lr: float
) -> Schedule:
    """Google's schedule: polynomial decay over all updates, times min(1, step / warm-up)."""

    def schedule(step: int) -> float:
        done = min(1.0, step / num_train_steps)
        decayed = (learning_rate - end_lr) * (1.0 - done) ** power + end_lr
        return decayed * min(1.0, step / num_warmup_steps) if num_warmup_steps else decayed

    return schedule


SCHEDULES = {"nvidia": polynomial_decay_after_warmup, "google": polynomial_decay_times_warmup}


def is_bias_or_layer_norm(name: str) -> bool:
    """The parameters without weight decay, and without LAMB's trust ratio under --skip_adaptive."""
    return name.endswith("bias") or "/LayerNorm/" in name


def layerwise_multipliers(names: Iterable[str], decay: float, layers: int) -> dict[str, float]:
    """Learning-rate multipliers for fine-tuning, smaller towards the input, as Google's ELECTRA.

    Embeddings and their projection have depth 0, encoder layer i depth i + 1, the task's head depth n + 2;
    a multiplier is decay ** (n + 2 - depth). So the top layer gets decay ** 2: depth n + 1 was a pooler's,
    which ELECTRA does not have, but the published results were obtained this way.
    """

    def depth(name: str) -> int:
        match = re.search(r"/layer_(\d+)/", name)
        if match:
            return int(match.group(1)) + 1
        return 0 if name.startswith("electra/") else layers + 2

    return {name: decay ** (layers + 2 - depth(name)) for name in names}


class Optimizer(abc.ABC):
    """First and second moments of named variables, and one update of all of them.

    Args:
        variables: float32 variables by name.
        weight_decay_rate: decoupled weight decay, on all but biases and LayerNorm.
        multipliers: what the learning rate of a variable is multiplied by, by name; 1 where none is given.
    """

    def __init__(
        self,
        variables: dict[str, tf.Variable],
        *,
        beta_1: float,
        beta_2: float,
        weight_decay_rate: float,
        multipliers: Mapping[str, float] | None = None,
    ):
        self._variables = variables
        self._beta_1, self._beta_2 = beta_1, beta_2
        self._weight_decay_rate = weight_decay_rate
        self._multipliers = multipliers or {}
        self._m = {name: tf.Variable(tf.zeros_like(value)) for name, value in variables.items()}
        self._v = {name: tf.Variable(tf.zeros_like(value)) for name, value in variables.items()}
        self.iterations = tf.Variable(0, dtype=tf.int64)

    def named_variables(self) -> dict[str, tf.Variable]:
        """The state that a checkpoint must hold."""
        slots = {f"m/{name}": slot for name, slot in self._m.items()}
        slots |= {f"v/{name}": slot for name, slot in self._v.items()}
        return slots | {"iterations": self.iterations}

    def apply(
        self, gradients: dict[str, tf.Tensor], learning_rate: tf.Tensor, applied: tf.Tensor | bool = True
    ) -> None:
        """One update.

        Args:
            gradients: dense, by variable name.
            applied: whether it changes anything. If not, the gradients must be zeros. No branch depends on
                it, which TensorFlow would build twice, and start only when all it may need is there.
        """
        self.iterations.assign_add(tf.cast(applied, tf.int64))
        constants = self._constants(tf.where(applied, learning_rate, 0.0), applied)
        for name, gradient in gradients.items():
            self._update(name, gradient, **constants)

    def _multiplier(self, name: str) -> float:
        return self._multipliers.get(name, 1.0)

    def _decay_rate(self, name: str) -> float:
        return 0.0 if is_bias_or_layer_norm(name) else self._weight_decay_rate

    def _corrections(self) -> tuple[tf.Tensor, tf.Tensor]:
        """1 - beta**t of both moments, in float64: in float32 the first updates would lose four digits."""
        # Before the first update that is applied there would be nothing to divide by.
        t = tf.cast(tf.maximum(self.iterations, 1), tf.float64)
        return 1 - tf.pow(tf.constant(self._beta_1, tf.float64), t), 1 - tf.pow(
            tf.constant(self._beta_2, tf.float64), t
        )

    @abc.abstractmethod
    def _constants(self, learning_rate: tf.Tensor, applied: tf.Tensor | bool) -> dict[str, tf.Tensor]:
        """What all variables' updates share, computed once an update: arguments of `_update`.

        With `applied` False, learning rate 0 and gradients of zeros they leave variables and slots unchanged.
        """

    @abc.abstractmethod
    def _update(self, name: str, gradient: tf.Tensor, **constants: tf.Tensor) -> None:
        """Update one variable and its slots."""


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): w -= lr * (u + decay * w).

    u = m_hat / (sqrt(v_hat) + eps) with bias correction (NVIDIA's form), or m / (sqrt(v) + eps) without it
    (Google's).
    """

    def __init__(self, variables: dict[str, tf.Variable], *, bias_correction: bool = True, **settings):
        super().__init__(variables, **settings)
        self._bias_correction = bias_correction

    def _constants(self, learning_rate, applied):
        step_size, epsilon = learning_rate, tf.constant(EPSILON)
        if self._bias_correction:
            # m_hat / (sqrt(v_hat) + eps) = (c2 / c1) * m / (sqrt(v) + c2 * eps), c2 = sqrt(1 - beta_2**t):
            # so the fused kernel, which knows no corrections of this form, computes it exactly.
            correction_1, correction_2 = self._corrections()
            root_2 = tf.sqrt(correction_2)
            step_size = learning_rate * tf.cast(root_2 / correction_1, tf.float32)
            epsilon = tf.cast(EPSILON * root_2, tf.float32)
        return {
            "learning_rate": learning_rate,
            "step_size": step_size,
            "epsilon": epsilon,
            "beta_1": tf.where(applied, tf.constant(self._beta_1, tf.float32), 1.0),
            "beta_2": tf.where(applied, tf.constant(self._beta_2, tf.float32), 1.0),
            "zero": tf.constant(0.0),
        }

    def _update(self, name, gradient, *, learning_rate, step_size, epsilon, beta_1, beta_2, zero):
        variable, multiplier = self._variables[name], self._multiplier(name)
        if self._decay_rate(name):
            # Not times 1 - a share: float32 has nothing between 1 and 1 - 6e-8.
            variable.assign_sub(variable * (learning_rate * (multiplier * self._decay_rate(name))))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._m[name].handle,
            v=self._v[name].handle,
            beta1_power=zero,
            beta2_power=zero,
            lr=step_size if multiplier == 1 else step_size * multiplier,
            beta1=beta_1,
            beta2=beta_2,
            epsilon=epsilon,
            grad=gradient,
            use_locking=True,
        )


class Lamb(Optimizer):
    """LAMB (You et al. 2020, algorithm 2): w -= lr * trust * u, u = m_hat / (sqrt(v_hat) + eps) + decay * w.

    trust = |w| / |u| where both are positive, else 1.

    Args:
        skip_adaptive: trust is 1 for biases and LayerNorm.
    """

    def __init__(self, variables: dict[str, tf.Variable], *, skip_adaptive: bool = False, **settings):
        super().__init__(variables, **settings)
        self._skip_adaptive = skip_adaptive

    def _constants(self, learning_rate, applied):
        correction_1, correction_2 = (tf.cast(value, tf.float32) for value in self._corrections())
        # What stays of the moments, and what is new in them.
        shares = tf.constant([self._beta_1, 1 - self._beta_1, self._beta_2, 1 - self._beta_2], tf.float32)
        shares = tf.where(applied, shares, tf.constant([1.0, 0.0, 1.0, 0.0]))
        return {
            "learning_rate": learning_rate,
            "shares": shares,
            "correction_1": correction_1,
            "correction_2": correction_2,
        }

    def _update(self, name, gradient, *, learning_rate, shares, correction_1, correction_2):
        variable, m, v = self._variables[name], self._m[name], self._v[name]
        new_m, new_v, direction = _lamb_direction(
            variable.read_value(),
            m.read_value(),
            v.read_value(),
            gradient,
            shares,
            correction_1,
            correction_2,
            decay_rate=self._decay_rate(name),
        )
        m.assign(new_m)
        v.assign(new_v)
        rate = learning_rate * self._multiplier(name)
        if not (self._skip_adaptive and is_bias_or_layer_norm(name)):
            weight_norm, direction_norm = tf.norm(variable), tf.norm(direction)
            both = (weight_norm > 0) & (direction_norm > 0)
            rate *= tf.where(both, weight_norm / tf.where(both, direction_norm, 1.0), 1.0)
        variable.assign_sub(rate * direction)


@chain
def _lamb_direction(
    variable, m, v, gradient, shares, correction_1, correction_2, *, decay_rate
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    m = shares[0] * m + shares[1] * gradient
    v = shares[2] * v + shares[3] * tf.square(gradient)
    direction = (m / correction_1) / (tf.sqrt(v / correction_2) + EPSILON)
    return m, v, direction + decay_rate * variable

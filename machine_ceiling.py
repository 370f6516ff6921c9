"""How many floating-point operations a second a machine does at most, in the precision of a run.

For known GPUs that is what their maker says, for everything else what the largest of a few matrix products is
measured to reach. How many operations a step needs is model_flops.py's.
"""

import itertools
import math
import re
import time
from collections.abc import Callable

# TFLOP/s of dense products by precision, without the doubling by structured sparsity, at boost clock. From
# NVIDIA's data sheets: V100 and A100 (SXM), T4, A10, H100 and H200 Tensor Core GPU. What a GPU has no unit
# for is left out; tf32 is plain float32 before Ampere. The first name found in a device's name counts.
GPU_TFLOPS = {
    "H200": {"fp32": 67, "tf32": 494, "amp": 989, "bf16": 989},
    "H100 PCIe": {"fp32": 51, "tf32": 378, "amp": 756, "bf16": 756},
    "H100 NVL": {"fp32": 60, "tf32": 417, "amp": 835, "bf16": 835},
    "H100": {"fp32": 67, "tf32": 494, "amp": 989, "bf16": 989},
    "A100": {"fp32": 19.5, "tf32": 156, "amp": 312, "bf16": 312},
    "A10": {"fp32": 31.2, "tf32": 62.5, "amp": 125, "bf16": 125},
    "T4": {"fp32": 8.1, "tf32": 8.1, "amp": 65},
    "V100": {"fp32": 15.7, "tf32": 15.7, "amp": 125},
}
_DTYPES = {"fp32": "float32", "tf32": "float32", "amp": "float16", "bf16": "bfloat16"}
# (rows, inner size, columns): square ones of rising cost, and one as long as a batch is.
_SHAPES = ((512, 512, 512), (1024, 1024, 1024), (4096, 768, 3072), (2048, 2048, 2048), (8192, 8192, 8192))
_SECONDS_AT_START = 0.3


class Ceiling:
    """The ceiling of this process's device during a run; looked for when it is first needed."""

    def __init__(self, precision: str):
        self._precision = precision
        self._flops_per_second = 0.0

    def utilization(self, flops_per_second: float) -> float:
        """The share of the ceiling that a rate is, 0 to 1.

        One that was measured while other programs computed may be too low: what the run reaches raises it.
        """
        self._flops_per_second = self._flops_per_second or of_run(self._precision)
        self._flops_per_second = max(self._flops_per_second, flops_per_second)
        return flops_per_second / self._flops_per_second


def of_run(precision: str) -> float:
    """FLOP/s at most of this process's device, for a run's log: tabulated, or measured in under a second.

    Several workers measure at the same time, so each finds its share of processors that they have in common.
    """
    return _of_device(precision) or measure(precision, _SECONDS_AT_START)


def tabulated(device_name: str, precision: str) -> float | None:
    """FLOP/s that the maker of a GPU says it does at most; None for what is not in the table."""
    for name, tflops in GPU_TFLOPS.items():
        if re.search(rf"\b{name}\b", device_name):
            return tflops[precision] * 1e12 if precision in tflops else None
    return None


def measure(precision: str, seconds: float) -> float:
    """FLOP/s of the quickest matrix product of a few shapes on this process's device.

    Args:
        seconds: about how long they take turns; a shape that would take longer than is left is not tried.
    """
    import tensorflow as tf

    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(precision != "fp32")
    end, highest = time.perf_counter() + seconds, 0.0
    products: dict[tuple, Callable[[], None]] = {}
    for shape in itertools.cycle(_SHAPES):
        left = end - time.perf_counter()
        flops = 2 * math.prod(shape)
        if left <= 0 and highest:
            break
        # The first run of a shape is slower, and not timed; its matrices take time to fill, too.
        runs = 1 if shape in products else 4
        if highest and runs * flops / highest > left:
            continue
        if shape not in products:
            products[shape] = _product(shape, _DTYPES[precision])
            products[shape]()
        start = time.perf_counter()
        products[shape]()
        highest = max(highest, flops / (time.perf_counter() - start))
    tf.config.experimental.enable_tensor_float_32_execution(before)
    return highest


def _product(shape: tuple[int, int, int], dtype: str) -> Callable[[], None]:
    """Does a product of matrices of this shape, (rows, inner size, columns), to its end."""
    import tensorflow as tf

    rows, inner, columns = shape
    # Stateless draws: a run's own random numbers must not depend on whether its speed was measured.
    left, right = (
        tf.cast(tf.random.stateless_uniform(sizes, (1, 2), -1.0), dtype)
        for sizes in ((rows, inner), (inner, columns))
    )

    def run() -> None:
        # One number of the outcome, which waits for all of it without copying it from a GPU.
        tf.matmul(left, right)[0, 0].numpy()

    return run


def _of_device(precision: str) -> float | None:
    import tensorflow as tf

    for gpu in tf.config.get_visible_devices("GPU"):
        name = tf.config.experimental.get_device_details(gpu).get("device_name", "")
        return tabulated(name, precision)
    return None

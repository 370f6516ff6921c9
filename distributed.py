"""The process's place among the workers, and the device it computes on: precision, TF32, XLA, determinism.

One worker is all there is so far; a job of several is refused instead of running as many strangers in one
folder.
"""

import ctypes
import os
import platform
from dataclasses import dataclass

from command_line import UsageError

_SIZE_VARIABLES = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
_DTYPE_POLICIES = {"fp32": "float32", "tf32": "float32", "amp": "mixed_float16", "bf16": "mixed_bfloat16"}


@dataclass(frozen=True)
class Workers:
    """This worker's number and how many there are."""

    rank: int = 0
    size: int = 1


def find_workers() -> Workers:
    """The workers of this job.

    Raises:
        UsageError: the process was started as one of several.
    """
    for name in _SIZE_VARIABLES:
        if os.environ.get(name, "1") != "1":
            raise UsageError(f"{name}={os.environ[name]}: training by several workers is not supported yet")
    return Workers()


def set_up_device(precision: str, *, deterministic: bool, seed: int) -> None:
    """Prepare TensorFlow and Keras for a run; to be called before any layer is made.

    Args:
        precision: fp32, tf32, amp or bf16.
        deterministic: refuse operations whose results may differ from run to run.
        seed: of the initial weights.
    """
    import keras
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.experimental.enable_tensor_float_32_execution(precision != "fp32")
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.config.set_dtype_policy(_DTYPE_POLICIES[precision])
    keras.utils.set_random_seed(seed & 0xFFFFFFFF)


def keep_freed_memory() -> None:
    """Have the C library keep large freed blocks for the next update; to be called before TensorFlow loads.

    On the CPU TensorFlow allocates every large tensor of an update anew. By default glibc asks the system for
    each and gives it back, and the system fills it with zeros again: some 7 % of an update.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)
    # One arena: the others cannot hold blocks of this size.
    mallopt(m_arena_max, 1)

"""The device that a process computes on: its share of GPUs and processors, precision, determinism, memory."""

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from affinity import take_processors
from command_line import RunFailure, UsageError
from workers import Workers

_VECTOR_WIDTH = "--xla_cpu_prefer_vector_width"
_DTYPE_POLICIES = {"fp32": "float32", "tf32": "float32", "amp": "mixed_float16", "bf16": "mixed_bfloat16"}


def take_share(workers: Workers, affinity: str) -> None:
    """Take the processors of --affinity, and the GPU of this worker's local rank or its share of the threads.

    To be called before anything is computed or exchanged; a single worker takes all there is.

    Raises:
        UsageError: more workers on this machine than GPUs, where it has any.
    """
    sharing = take_processors(affinity, workers.local_rank, workers.local_size)
    if workers.size == 1:
        return
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    # With --gpus-per-task Slurm shows each task a GPU of its own, and no other.
    has_own = len(gpus) == 1 and "SLURM_GPUS_PER_TASK" in os.environ
    if gpus and workers.local_size > len(gpus) and not has_own:
        raise UsageError(
            f"{workers.local_size} workers on {platform.node()}, which has {len(gpus)} GPUs: each needs one"
        )
    if gpus:
        gpu = gpus[0 if has_own else workers.local_rank]
        tf.config.set_visible_devices(gpu, "GPU")
        tf.config.experimental.set_memory_growth(gpu, True)
    elif workers.local_size > 1:
        # Each would start as many threads as there are processors, and they would only displace each other.
        threads = max(1, len(os.sched_getaffinity(0)) // sharing)
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        # Two at least, so that an exchange with the others goes on beside computing.
        tf.config.threading.set_inter_op_parallelism_threads(max(2, threads))


def use_whole_vectors() -> None:
    """Have XLA use 512-bit vectors where the processor has them; by default it stays at 256.

    To be called before anything is compiled; a choice in the environment's XLA_FLAGS stands.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    processors = Path("/proc/cpuinfo")
    if _VECTOR_WIDTH in flags or not processors.exists():
        return
    if " avx512f " in processors.read_text(encoding="utf-8", errors="replace"):
        os.environ["XLA_FLAGS"] = f"{flags} {_VECTOR_WIDTH}=512".strip()


def set_up_device(precision: str, *, deterministic: bool, seed: int) -> None:
    """Prepare TensorFlow and Keras; to be called before any layer is made.

    Args:
        precision: fp32, tf32, amp or bf16.
        deterministic: refuse operations whose results may differ from run to run.
        seed: of the initial weights.
    """
    import keras
    import tensorflow as tf

    for gpu in tf.config.get_visible_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.experimental.enable_tensor_float_32_execution(precision != "fp32")
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.config.set_dtype_policy(_DTYPE_POLICIES[precision])
    keras.utils.set_random_seed(seed & 0xFFFFFFFF)


def optimize_graphs(enabled: bool) -> None:
    """Whether TensorFlow's graph optimizer works over what is traced; on a GPU it always does.

    Where chains are compiled (fused_operations.py) it finds nothing that makes an update faster there,
    and looks for it for five seconds (docs/performance.md).
    """
    import tensorflow as tf

    enabled = enabled or bool(tf.config.get_visible_devices("GPU"))
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": not enabled})


def prepare_tensorflow() -> None:
    """Set what TensorFlow reads from the environment; to be called before it loads.

    Its notes on loading are left out. On every x86 processor products are oneDNN's: by itself TensorFlow uses
    them only where there is AVX-512 VNNI or the like, and elsewhere Eigen's, which are slower and take more
    memory (docs/performance.md). What the environment has stands.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if platform.machine() in ("x86_64", "AMD64"):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


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


@contextlib.contextmanager
def memory_named(smaller: str) -> Iterator[None]:
    """Turn what TensorFlow raises where a device's memory is full into one line.

    Args:
        smaller: the flags that take less.

    Raises:
        RunFailure: says so.
    """
    import tensorflow as tf

    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        line = (str(error).strip().splitlines() or [""])[0]
        raise RunFailure(f"the device's memory is full; {smaller} takes less ({line})") from error


def describe_environment() -> dict[str, str]:
    """Versions and the machine, by names in capitals as NVIDIA's logs have them."""
    import tensorflow as tf

    build = tf.sysconfig.get_build_info()
    gpus = tf.config.get_visible_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus]
    versions = {
        f"{name.upper()}_VERSION": str(build[f"{name}_version"])
        for name in ("cuda", "cudnn")
        if f"{name}_version" in build
    }
    return versions | {
        "PYTHON_VERSION": platform.python_version(),
        "PLATFORM": platform.platform(),
        "PROCESSORS": str(len(os.sched_getaffinity(0))),
        "DEVICES": ", ".join(names) or "CPU",
    }

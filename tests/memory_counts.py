"""How much memory a computation needs, by TensorFlow's own count."""

import pytest
import tensorflow as tf


def peak_bytes(call) -> int:
    """Most bytes that TensorFlow holds on the processor during a second call, over those before it.

    Small tensors are not counted: a megabyte is enough.
    """
    call()
    try:
        tf.config.experimental.reset_memory_stats("CPU:0")
        before = tf.config.experimental.get_memory_info("CPU:0")["current"]
    except (ValueError, tf.errors.OpError):
        pytest.skip("this TensorFlow does not count a processor's memory")
    call()
    peak = tf.config.experimental.get_memory_info("CPU:0")["peak"]
    if not peak:
        pytest.skip("this TensorFlow does not count a processor's memory")
    return peak - before

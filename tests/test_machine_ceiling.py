"""The ceiling is what a maker says of its GPU, or what this machine's products really reach."""

import time

import numpy as np
import pytest

import machine_ceiling
from machine_ceiling import GPU_TFLOPS, tabulated


@pytest.mark.parametrize(
    ("device", "precision", "tflops"),
    [
        ("Tesla V100-SXM2-32GB", "amp", 125),
        ("Tesla T4", "fp32", 8.1),
        ("NVIDIA A10", "bf16", 125),
        ("NVIDIA A100-SXM4-80GB", "tf32", 156),
        ("NVIDIA A100-PCIE-40GB", "amp", 312),
        ("NVIDIA H100 80GB HBM3", "bf16", 989),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA H100 NVL", "tf32", 417),
        ("NVIDIA H200", "fp32", 67),
    ],
)
def test_gpus_are_found_by_the_names_that_drivers_give_them(device, precision, tflops):
    assert tabulated(device, precision) == tflops * 1e12


@pytest.mark.parametrize(
    ("device", "precision"),
    [("NVIDIA A10G", "amp"), ("NVIDIA L40S", "amp"), ("Tesla V100-SXM2-16GB", "bf16"), ("", "fp32")],
)
def test_what_is_not_in_the_table_is_left_to_measurement(device, precision):
    assert tabulated(device, precision) is None


def test_the_table_has_every_gpu_of_the_launchers_and_narrower_precisions_are_quicker():
    assert {"V100", "T4", "A10", "A100", "H100", "H200"} <= GPU_TFLOPS.keys()
    for tflops in GPU_TFLOPS.values():
        assert tflops["fp32"] <= tflops["tf32"] < tflops["amp"] == tflops.get("bf16", tflops["amp"])


def test_measured_ceiling_is_that_of_numpys_product_within_an_order():
    """Another library's float32 product on the same processors, the best of a few."""
    left = np.random.default_rng(0).standard_normal((1024, 1024), np.float32)
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        left @ left
        seconds.append(time.perf_counter() - start)
    measured = machine_ceiling.measure("fp32", 0.5)
    assert 0.2 < measured / (2 * 1024**3 / min(seconds)) < 20


def test_measuring_leaves_the_runs_random_numbers_and_precision_alone():
    import tensorflow as tf

    drawn = []
    for measures in (False, True):
        tf.random.set_seed(1)
        tf.config.experimental.enable_tensor_float_32_execution(False)
        if measures:
            machine_ceiling.measure("tf32", 0.05)
        drawn.append(float(tf.random.normal([])))
        assert not tf.config.experimental.tensor_float_32_execution_enabled()
        tf.config.experimental.enable_tensor_float_32_execution(True)
    assert drawn[0] == drawn[1]


def test_a_runs_measurement_takes_less_than_a_second_of_processor_time_a_core(monkeypatch):
    monkeypatch.setattr(machine_ceiling, "_of_device", lambda precision: None)
    start = time.thread_time()
    assert machine_ceiling.of_run("bf16") > 1e8
    assert time.thread_time() - start < 1.0


def test_a_ceiling_is_found_once_and_raised_by_what_a_run_reaches(monkeypatch):
    asked = []
    monkeypatch.setattr(machine_ceiling, "of_run", lambda precision: asked.append(precision) or 100.0)
    ceiling = machine_ceiling.Ceiling("bf16")
    assert not asked
    assert [ceiling.utilization(rate) for rate in (50, 200, 50)] == [0.5, 1.0, 0.25]
    assert asked == ["bf16"]

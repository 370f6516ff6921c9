"""A process and its device: the GPU of a worker's rank, a full memory, what TensorFlow reads as it loads."""

import os
import platform
import subprocess
import sys

import pytest
from training_runs import ROOT

from command_line import RunFailure, UsageError
from device import memory_named, prepare_tensorflow, take_share
from workers import Workers


@pytest.fixture
def two_gpus(monkeypatch):
    """TensorFlow finds two GPUs; returns what it was told to use."""
    import tensorflow as tf

    told = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [f"{kind} 0", f"{kind} 1"])
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *words: told.append(words))
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda *words: told.append(words))
    return told


@pytest.mark.parametrize("local_rank", [0, 1])
def test_a_worker_takes_the_gpu_of_its_local_rank(two_gpus, local_rank):
    take_share(Workers(2 + local_rank, 4, local_rank, 2), "none")
    assert two_gpus == [(f"GPU {local_rank}", "GPU"), (f"GPU {local_rank}", True)]


def test_fewer_gpus_than_workers_of_a_machine_are_refused(two_gpus):
    with pytest.raises(UsageError, match=r"3 workers on .*, which has 2 GPUs"):
        take_share(Workers(0, 6, 0, 3), "none")
    assert not two_gpus


def test_a_task_that_slurm_shows_its_own_gpu_alone_takes_it(two_gpus, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["the task's own"])
    with pytest.raises(UsageError):
        take_share(Workers(1, 2, 1, 2), "none")
    monkeypatch.setenv("SLURM_GPUS_PER_TASK", "1")
    take_share(Workers(1, 2, 1, 2), "none")
    assert two_gpus[0] == ("the task's own", "GPU")


def test_a_single_worker_takes_all_there_is(two_gpus):
    take_share(Workers(), "none")
    assert not two_gpus


def test_a_full_device_is_one_line_with_what_takes_less():
    tf = pytest.importorskip("tensorflow")
    with pytest.raises(RunFailure) as caught, memory_named("a smaller --train_batch_size"):
        raise tf.errors.ResourceExhaustedError(None, None, "failed to allocate 9 GB\nmore lines")
    assert str(caught.value) == (
        "the device's memory is full; a smaller --train_batch_size takes less (failed to allocate 9 GB)"
    )
    with pytest.raises(ValueError, match="another"), memory_named("less"):
        raise ValueError("another")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere TensorFlow itself chooses")
@pytest.mark.parametrize(("chosen", "used"), [(None, "True"), ("0", "False")])
def test_products_are_onednns_unless_the_user_says_otherwise(chosen, used):
    program = (
        "import device; device.prepare_tensorflow()\n"
        "from tensorflow.python.util import _pywrap_util_port\n"
        "print(_pywrap_util_port.IsMklEnabled())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    if chosen is not None:
        environment["TF_ENABLE_ONEDNN_OPTS"] = chosen
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == used, found.stderr


def test_the_users_own_level_of_tensorflows_notes_stands(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    prepare_tensorflow()
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"


def test_graphs_are_optimized_only_where_chains_are_not_compiled():
    program = (
        "import tensorflow as tf\n"
        "from configuration import PretrainingConfig\n"
        "from training_run import set_up_training\n"
        "for chains, xla in (True, False), (False, False), (True, False), (True, True):\n"
        "    set_up_training(PretrainingConfig(model_name='a', compile_chains=chains, xla=xla))\n"
        "    print(tf.config.optimizer.get_experimental_options()['disable_meta_optimizer'])"
    )
    command = [sys.executable, "-c", program]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert found.stdout.split() == ["True", "False", "True", "False"], found.stderr

"""What a dry run warns of, at both sides of each limit."""

import pytest
from electra_cases import tiny_config

import pretraining_dry_run
from batching import UpdateData
from pretraining_dry_run import what_looks_wrong

# The paper's small: 128 sequences an update at 5e-4, a million updates.
PAPERS = {"model_size": "small", "optimizer": "adam", "learning_rate": 5e-4, "num_train_steps": 1000}


def flags(padding: float = 0.1, sequences: int = 128, examples: int = 12_800, **changes) -> list[str]:
    """The flags that the warnings name."""
    config = tiny_config(**PAPERS | changes)
    return [line.split()[0] for line in what_looks_wrong(config, sequences, examples, padding)]


def test_the_papers_recipe_looks_right():
    assert flags() == []


@pytest.mark.parametrize(
    ("fine", "wrong", "flag"),
    [
        ({"num_warmup_steps": 500}, {"num_warmup_steps": 501}, "--num_warmup_steps"),
        ({"examples": 3200}, {"examples": 3199}, "--num_train_steps"),
        ({"padding": 0.3}, {"padding": 0.31}, "--max_seq_length"),
        ({"learning_rate": 1.9e-3}, {"learning_rate": 2.1e-3}, "--learning_rate"),
        ({"learning_rate": 1.3e-4}, {"learning_rate": 1.2e-4}, "--learning_rate"),
    ],
    ids=str,
)
def test_each_limit_is_where_it_is_said_to_be(fine, wrong, flag):
    assert flags(**fine) == [] and flags(**wrong) == [flag]


def test_the_recipes_rate_grows_with_the_root_of_the_batch():
    """64 times the batch, 8 times the rate; NVIDIA's own for LAMB."""
    rates = {"sequences": 64 * 128, "examples": 10**6}
    assert flags(**rates, learning_rate=8 * 5e-4) == []
    assert flags(**rates, learning_rate=64 * 5e-4) == ["--learning_rate"]
    nvidias = {"optimizer": "lamb", "model_size": "base", "sequences": 67_584, "examples": 10**8}
    assert flags(**nvidias, learning_rate=6e-3) == []


def test_the_time_of_many_micro_batches_is_that_of_the_first_and_of_each_further_one(monkeypatch):
    """5 s an update and 2 s a micro-batch by a hand-kept clock: one of 10 micro-batches takes 25 s."""
    now = [0.0]
    monkeypatch.setattr(pretraining_dry_run.time, "perf_counter", lambda: now[0])

    class Engine:
        most = 0

        def update(self, data, learning_rate, stop):
            self.most = max(self.most, len(data.micro_batches))
            now[0] += 5 + 2 * len(data.micro_batches)

    engine = Engine()
    for count, seconds in ((1, 7), (2, 9), (10, 25)):
        data = UpdateData(1, [{}] * count, {}, count, count, str)
        assert pretraining_dry_run._seconds_of_update(tiny_config(), engine, data) == seconds
    assert engine.most == 2

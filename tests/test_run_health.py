"""Every rule finds the fault that it is there for in a made-up log, and nothing in one without it."""

import math
from types import SimpleNamespace

import pytest
from run_logs import UPDATES, real_fine_tuning_log, real_quickstart_log, training_line, write_run

import run_health
import training
from command_line import RunFailure
from loss_scale import LossScale
from run_log import read_run
from telemetry import DllLog


def findings(folder, **run) -> dict[str, run_health.Finding]:
    return {finding.rule: finding for finding in run_health.examine(read_run(str(write_run(folder, **run))))}


def faults(folder, **run) -> list[str]:
    return [rule for rule, finding in findings(folder, **run).items() if finding.healthy is False]


def always(**values):
    return lambda update: values


def after(first: int, **values):
    return lambda update: values if update >= first else {}


def at(*places: int, **values):
    return lambda update: values if update in places else {}


def test_a_healthy_run_is_healthy_by_every_rule(tmp_path):
    found = findings(tmp_path)
    assert {rule: finding.evidence for rule, finding in found.items() if not finding.healthy} == {}
    assert len(found) == len(run_health.RULES) == 14
    assert run_health.is_healthy(list(found.values()))


MAJORITY = {"disc_accuracy": 85.9, "disc_auc": 0.52}
PLATEAU = {"eval_masked_lm_loss_masked_only": 7.09}
FAULTS = {
    "a loss that is no number": ("finite numbers", {"training": at(7000, masked_lm_loss=math.nan)}),
    "an infinite held-out loss": ("finite numbers", {"held_out": at(10_000, eval_total_loss=math.inf)}),
    "majority class": ("off the majority class", {"training": always(**MAJORITY)}),
    "majority class, of a log that does not have its rate": (
        "off the majority class",
        # 15 % of the tokens picked, 6 % of the samples the original: 85.9 % are original.
        {"training": always(**MAJORITY, sampled_masked_lm_accuracy=6.0, disc_majority_accuracy=None)},
    ),
    "generator on the plateau": ("generator past word frequencies", {"held_out": always(**PLATEAU)}),
    "generator on the plateau, without held-out text": (
        "generator past word frequencies",
        {"training": always(masked_lm_loss=6.8), "held_out": always(eval_masked_lm_loss_masked_only=None)},
    ),
    # 15 % picked, 70 % of them the original again: 4.5 % of the tokens are replaced.
    "generator too strong": (
        "enough replaced tokens",
        {"training": after(15_000, sampled_masked_lm_accuracy=70.0)},
    ),
    "loss that jumps and stays": (
        "loss without lasting spikes",
        {"training": after(12_000, total_loss=30.0, masked_lm_loss=6.0)},
    ),
    "loss that creeps up": (
        "loss without lasting spikes",
        {
            "training": lambda update: {
                "total_loss": 12.0 + max(0, update - 10_000) / 2000,
                "masked_lm_loss": 4.0 + max(0, update - 10_000) / 10_000,
            }
        },
    ),
    "gradients that jump every so often": (
        "gradients without frequent spikes",
        {"training": at(8000, 11_000, 14_000, 17_000, grad_norm=40.0)},
    ),
    "loss scale that sinks": ("loss scale holds", {"training": after(19_000, loss_scale=4.0)}),
    # Begun at 16 x 32,768: 4 are left of each share.
    "loss scale of an accumulated update that sinks": (
        "loss scale holds",
        {
            "settings": {"loss_scale_shares": 16.0},
            "training": lambda update: {"loss_scale": 16 * 32768.0 if update < 19_000 else 16 * 4.0},
        },
    ),
    "one update in fifty skipped": ("loss scale holds", {"training": always(skipped_updates=10.0)}),
    "learning rate too high": ("learning rate of a recipe", {"training": always(learning_rate=5e-3)}),
    "learning rate too low": ("learning rate of a recipe", {"training": always(learning_rate=1e-7)}),
    "no warm-up": ("learning rate of a recipe", {"settings": {"num_warmup_steps": 0}}),
    "data by heart": (
        "data not repeated to harm",
        {
            "training": lambda update: {"epoch": update / 1000},
            "held_out": lambda update: {"eval_masked_lm_loss_masked_only": 4.0 + abs(update - 10_000) / 1e4},
        },
    ),
    # Learned at .15 by update 10,000, at .25 by the last; the generator's held-out loss stays what it was.
    "data by heart, of the discriminator alone": (
        "data not repeated to harm",
        {
            "training": lambda update: {"epoch": update / 1000},
            "held_out": lambda update: {
                "eval_masked_lm_loss_masked_only": 4.0,
                "eval_disc_loss": 0.15 + abs(update - 10_000) / 1e5,
            },
        },
    ),
    "data by heart, of a discriminator without a generator": (
        "data not repeated to harm",
        {
            "training": lambda update: {"epoch": update / 1000},
            "held_out": lambda update: {
                "eval_masked_lm_loss_masked_only": None,
                "eval_disc_loss": 0.15 + abs(update - 10_000) / 1e5,
            },
        },
    ),
    "half of it padding": ("little padding", {"training": always(tokens_per_second=100.0 * 64)}),
    "a slow disk": ("not waiting for data", {"training": always(data_wait=0.3, worst_data_wait=0.3)}),
    "one worker's slow disk": (
        "no slow worker",
        {"training": always(worst_data_wait=0.4, worst_data_wait_worker=3.0)},
    ),
    "half as fast in the end": (
        "steady throughput",
        {"training": after(15_500, train_perf=50.0, tokens_per_second=5760.0)},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_by_its_rule_and_by_no_other(fault, tmp_path):
    rule, run = FAULTS[fault]
    assert faults(tmp_path, **run) == [rule]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_comes_with_evidence_and_advice(fault, tmp_path):
    rule, run = FAULTS[fault]
    finding = findings(tmp_path, **run)[rule]
    assert any(character.isdigit() for character in finding.evidence) or "warm-up" in finding.evidence
    assert len(finding.advice) > 20


EARLY = range(100, 2001, 100)
HARMLESS = {
    "majority class, early": {"training": always(**MAJORITY), "updates": EARLY},
    "plateau, early": {"training": always(masked_lm_loss=6.99), "updates": EARLY},
    "a spike that recovers": {"training": at(9000, total_loss=60.0, grad_norm=90.0)},
    "a spike on the last line": {"training": at(UPDATES[-1], total_loss=60.0)},
    "norms that rise as learning sets in": {"training": after(9000, grad_norm=15.0)},
    "many epochs while held-out loss falls": {"training": lambda update: {"epoch": update / 500}},
    "few epochs while held-out loss rises": {
        "held_out": lambda update: {"eval_masked_lm_loss_masked_only": 4.0 + update / 1e4}
    },
    "many epochs while the generator makes the task harder": {
        "training": lambda update: {"epoch": update / 1000},
        "held_out": lambda update: {
            "eval_masked_lm_loss_masked_only": 6.5 - update / 1e4,
            "eval_disc_loss": 0.15 + update / 1e5,
        },
    },
    "a loss that rises because the generator learns": {
        "training": lambda update: {"total_loss": 12.0 + 8.0 * update / UPDATES[-1]}
    },
    "a minute's run on a busy machine": {
        "updates": range(1, 41),
        "training": after(30, train_perf=20.0, tokens_per_second=2304.0),
        "settings": {"sequences_per_update": 8},
    },
    "a scale that settles lower": {"training": after(9000, loss_scale=1024.0)},
    "a narrow network's high rate": {
        "settings": {"hidden_size": 64},
        "training": always(learning_rate=3e-3),
    },
    "no warm-up from trained weights": {"settings": {"num_warmup_steps": 0, "init_weights": "a"}},
    "an update that float16 could not hold": {
        "training": at(9000, grad_norm=float("inf"), skipped_updates=1.0, loss_scale=16384.0)
    },
    "three updates skipped of few": {
        "updates": range(10, 401, 10),
        "training": at(250, 300, 350, skipped_updates=1.0),
    },
    "a slow minute": {"training": at(12_000, 12_500, train_perf=20.0, tokens_per_second=2304.0)},
}


@pytest.mark.parametrize("what", HARMLESS)
def test_what_only_looks_like_a_fault_is_none(what, tmp_path):
    assert faults(tmp_path, **HARMLESS[what]) == []


def test_a_majority_class_that_is_normal_is_called_so(tmp_path):
    finding = findings(tmp_path, training=always(**MAJORITY), updates=EARLY)["off the majority class"]
    assert finding.evidence == (
        "accuracy 85.9 %, majority rate 85.9 %, AUC 0.520: not learning yet, normal up to update 10,000 of "
        "this run"
    )


def test_trained_weights_and_large_batches_must_learn_sooner(tmp_path):
    updates = range(100, 3001, 100)
    majority = {"training": always(**MAJORITY), "updates": updates}
    for number, settings in enumerate(({"init_weights": "weights"}, {"sequences_per_update": 67_584})):
        settings |= {"num_warmup_steps": 100}
        assert faults(tmp_path / str(number), settings=settings, **majority) == ["off the majority class"]


def test_an_evaluation_before_training_says_nothing_of_the_generator(tmp_path):
    """Random weights are evaluated at update 0; the training loss shows what has been learned since."""
    log = DllLog(tmp_path / "logs" / "dllogger.log")
    for name, value in {"do_eval_only": True, "model_name": "made_up"}.items():
        log.parameter({name: value})
    log.log((0,), {"eval_masked_lm_loss_masked_only": 10.4, "eval_unigram_cross_entropy": 7.1})
    log.close()
    write_run(tmp_path, held_out=always(eval_masked_lm_loss_masked_only=None))
    found = {finding.rule: finding for finding in run_health.examine(read_run(str(tmp_path)))}
    finding = found["generator past word frequencies"]
    assert finding.healthy and "in training" in finding.evidence


def test_an_evaluation_is_judged_by_its_own_update(tmp_path):
    """At 5,000 a plateau was normal; the run is at 12,000 and has not been evaluated since."""
    plateau = {"eval_masked_lm_loss_masked_only": 7.05}
    finding = findings(
        tmp_path,
        updates=range(500, 12_001, 500),
        held_out=lambda update: plateau if update == 5000 else {"eval_masked_lm_loss_masked_only": None},
    )["generator past word frequencies"]
    assert finding.healthy and "normal up to update 10,000" in finding.evidence


def test_the_slow_worker_is_one_that_was(tmp_path):
    """Workers 3 and 7 in turn: not 5, which lies between them."""

    def waiting(update):
        return {"worst_data_wait": 0.4, "worst_data_wait_worker": 7.0 if update % 1000 else 3.0}

    finding = findings(tmp_path, training=waiting)["no slow worker"]
    assert finding.healthy is False and finding.evidence[-8:] in ("worker 3", "worker 7")


def test_a_spike_is_told_with_its_end(tmp_path):
    finding = findings(tmp_path, training=at(9000, total_loss=60.0))["loss without lasting spikes"]
    # The median of the ten lines before: 25 - 13 * update / 20,000 between updates 6,000 and 6,500.
    assert finding.evidence == ("phase 1, update 9,000: loss 60 after 20.94, down again after 1 line")


def faults_of_failure(folder, failure: str) -> list[run_health.Finding]:
    """What is at fault with a healthy run that then ended by itself."""
    log = DllLog(write_run(folder) / "logs" / "dllogger.log")
    log.log((), {"failure": failure})
    log.close()
    return [finding for finding in run_health.examine(read_run(str(folder))) if finding.healthy is False]


def message_of_training(loss: float, loss_scale: LossScale) -> str:
    """What training.py ends a run with after an update that could not be applied."""
    data = SimpleNamespace(number=20_001, origin=lambda: "a.tfrecord records 7")
    with pytest.raises(RunFailure) as failure:
        training._check_finite(
            SimpleNamespace(applied=False, loss=loss), SimpleNamespace(loss_scale=loss_scale), data
        )
    return str(failure.value)


def test_a_failure_of_numbers_is_told_as_one_and_another_as_what_it_is(tmp_path):
    collapsed = LossScale(enabled=True)
    collapsed.value = 0.5
    for number, message in enumerate(
        (
            message_of_training(math.nan, LossScale(False)),
            message_of_training(1.0, LossScale(False)),
            message_of_training(1.0, collapsed),
            "the held-out evaluation at update 20000 gave no finite eval_disc_loss",
        )
    ):
        (fault,) = faults_of_failure(tmp_path / str(number), message)
        assert (fault.rule, "--learning_rate" in fault.advice) == ("finite numbers", True), message
    for number, message in enumerate(
        (
            "OSError: [Errno 28] No space left on device: 'checkpoints/ckpt-20000/model.safetensors'",
            "UnknownError: worker 3 is lost: HorovodAllreduce has been shut down",
            "the device's memory is full; a smaller --train_batch_size takes less (node loss/gradient)",
            "after update 20000 the weights of worker 3 differ from the others'",
        )
    ):
        (fault,) = faults_of_failure(tmp_path / f"other{number}", message)
        assert fault.rule == "not ended by a failure" and message in fault.evidence
        assert "--restore_checkpoint=latest" in fault.advice and "--learning_rate" not in fault.advice


def test_a_run_that_ended_by_a_failure_says_why(tmp_path):
    message = "the loss of update 20001 is nan; its data: a.tfrecord records 7"
    (fault,) = faults_of_failure(tmp_path, message)
    assert fault.rule == "finite numbers" and "a.tfrecord records 7" in fault.evidence
    # Another start goes on from the checkpoint before.
    write_run(tmp_path, updates=range(20_500, 21_001, 500))
    assert run_health.is_healthy(run_health.examine(read_run(str(tmp_path))))


def test_a_log_without_the_figures_is_not_judged_and_not_at_fault(tmp_path):
    """NVIDIA's logs have neither gradient norms nor learning rates nor epochs."""
    kept = ("train_perf", "total_loss", "disc_accuracy", "disc_auc")
    unknown = {name: None for name in training_line(1) if name not in kept}
    found = findings(
        tmp_path,
        settings={"workers": 1, "learning_rate": None, "unigram_entropy": None},
        training=always(**unknown),
        held_out=always(eval_masked_lm_loss_masked_only=None),
    )
    judged = [rule for rule, finding in found.items() if finding.healthy is not None]
    always_judged = ["finite numbers", "not ended by a failure", "loss without lasting spikes"]
    assert judged == [*always_judged, "steady throughput"]
    assert run_health.is_healthy(list(found.values()))


def test_check_prints_rules_and_its_exit_code_is_the_verdict(tmp_path, run_program):
    healthy = write_run(tmp_path / "a")
    ill = write_run(tmp_path / "b", {"model_name": "ill"}, training=always(**MAJORITY))
    done = run_program("run_report.py", "--check", healthy)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith(
        "made_up: healthy after 20,000"
    )
    done = run_program("run_report.py", healthy, ill, "--check", cwd=tmp_path)
    assert done.returncode == 1
    assert "ill: UNHEALTHY after 20,000 updates" in done.stdout
    assert "UNHEALTHY   off the majority class: accuracy 85.9 %" in done.stdout
    assert done.stdout.count("advice:") == 1
    assert not list(tmp_path.glob("*.png"))


def test_the_quickstarts_log_is_healthy():
    run = read_run(str(real_quickstart_log()))
    found = run_health.examine(run)
    assert run_health.is_healthy(found), run_health.describe(run, found)
    # Neither float16 nor several workers, and no ten minutes.
    assert sum(finding.healthy is None for finding in found) == 3


def test_batches_of_fine_tuning_are_not_taken_for_padded_to_the_longest_window():
    """The run had 188 of 384 tokens in a window, in batches padded to the next of eight lengths."""
    run = read_run(str(real_fine_tuning_log()))
    found = {finding.rule: finding for finding in run_health.examine(run)}
    assert found["little padding"].healthy is None
    assert run_health.is_healthy(list(found.values())), run_health.describe(run, list(found.values()))

"""The engine: exact accumulation, clipping, overflows, and what stops a run."""

import itertools
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from electra_cases import NO_DROPOUT, VOCABULARY_SIZE, masked_batch, normalizers, tiny_config
from memory_counts import peak_bytes
from training_runs import ROOT

import fused_operations
from batching import UpdateData
from command_line import RunFailure
from loss_scale import LossScale
from optimization import AdamW, Lamb
from pretraining import PretrainingModel
from stall_watch import StallWatch
from stop_signal import StopSignal
from training import Engine, Hooks, LoopPlan, _longest_wait, in_one_part, run_loop
from workers import Workers


def _update(number, *batches) -> UpdateData:
    return UpdateData(
        number=number,
        micro_batches=list(batches),
        normalizers=normalizers(*batches),
        sequences=sum(len(batch["input_ids"]) for batch in batches),
        tokens=int(sum(batch["input_mask"].sum() for batch in batches)),
        origin=lambda: "shard-7 record 3",
    )


def _engine(accumulation=1, optimizer="adam", loss_scaling=False, jit_compile=False, seed=5, **changes):
    tf.keras.utils.set_random_seed(1)
    model = PretrainingModel(tiny_config(num_hidden_layers=1, **changes), VOCABULARY_SIZE)
    model.build()
    variables = model.named_variables()
    kind = {"adam": AdamW, "lamb": Lamb}[optimizer]
    engine = Engine(
        model.loss_parts,
        variables,
        kind(variables, beta_1=0.9, beta_2=0.999, weight_decay_rate=0.01),
        accumulation_steps=accumulation,
        loss_scaling=loss_scaling,
        jit_compile=jit_compile,
        seed=seed,
    )
    return engine, variables


class _NeverStopped:
    exit_code = 0

    @staticmethod
    def agree(workers) -> None:
        pass


def _split(batch, sizes):
    starts = np.cumsum([0, *sizes])
    return [{n: v[a:b] for n, v in batch.items()} for a, b in itertools.pairwise(starts)]


@pytest.mark.parametrize("optimizer", ["adam", "lamb"])
def test_k_micro_batches_equal_one_batch_k_times_as_large(optimizer):
    """To float tolerance, although the micro-batches hold different numbers of tokens and picks."""
    batches = [masked_batch(12, seed=seed) for seed in range(3)]
    counts = [batch["input_mask"][:4].sum() for batch in batches] + [batches[0]["input_mask"][4:8].sum()]
    assert len(set(counts)) > 1
    whole, whole_variables = _engine(1, optimizer, **NO_DROPOUT)
    parts, part_variables = _engine(3, optimizer, **NO_DROPOUT)
    for number, batch in enumerate(batches, start=1):
        one = whole.update(_update(number, batch), 1e-2, _NeverStopped)
        three = parts.update(_update(number, *_split(batch, [4, 4, 4])), 1e-2, _NeverStopped)
        assert three.loss == pytest.approx(one.loss, rel=1e-5)
        assert three.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-4)
        for name, value in one.sums.items():
            np.testing.assert_allclose(three.sums[name].numpy(), value.numpy(), rtol=1e-5, err_msg=name)
    for name, variable in whole_variables.items():
        np.testing.assert_allclose(part_variables[name].numpy(), variable.numpy(), atol=2e-4, err_msg=name)


def test_accumulators_start_empty_in_every_update():
    """The second update with accumulation equals the same update by an engine that did nothing before."""
    batches = _split(masked_batch(8, seed=1), [4, 4])
    used, used_variables = _engine(2, **NO_DROPOUT)
    used.update(_update(1, *_split(masked_batch(8, seed=9), [4, 4])), 0.0, _NeverStopped)
    fresh, fresh_variables = _engine(2, **NO_DROPOUT)
    norms = [
        engine.update(_update(2, *batches), 0.0, _NeverStopped).gradient_norm for engine in (used, fresh)
    ]
    assert norms[0] == norms[1]
    for name in used_variables:
        np.testing.assert_array_equal(used_variables[name].numpy(), fresh_variables[name].numpy())


def test_gradients_are_clipped_to_global_norm_one():
    """The first moment after one update is (1 - beta_1) times the clipped gradient."""
    engine, _ = _engine(**NO_DROPOUT)
    result = engine.update(_update(1, masked_batch(8)), 0.0, _NeverStopped)
    assert result.gradient_norm > 1
    moments = engine._optimizer.named_variables()
    squares = sum(float(tf.reduce_sum(value**2)) for name, value in moments.items() if name.startswith("m/"))
    assert np.sqrt(squares) / (1 - 0.9) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("untied_generator", [True, False])
def test_parts_of_the_loss_have_the_gradient_of_their_sum(untied_generator):
    engine, variables = _engine(**NO_DROPOUT, untied_generator=untied_generator)
    tf.keras.utils.set_random_seed(1)
    whole = PretrainingModel(
        tiny_config(num_hidden_layers=1, **NO_DROPOUT, untied_generator=untied_generator), VOCABULARY_SIZE
    )
    whole.build()
    batch = masked_batch(8)
    with tf.GradientTape() as tape:
        loss, _ = whole({name: tf.constant(value) for name, value in batch.items()}, normalizers(batch))
    gradients = tape.gradient(loss, list(whole.named_variables().values()))
    clipped, norm = tf.clip_by_global_norm([tf.convert_to_tensor(value) for value in gradients], 1.0)
    result = engine.update(_update(1, batch), 0.0, _NeverStopped)
    assert result.loss == pytest.approx(float(loss), rel=1e-6)
    assert result.gradient_norm == pytest.approx(float(norm), rel=1e-5)
    moments = engine._optimizer.named_variables()
    for name, gradient in zip(variables, clipped, strict=True):
        np.testing.assert_allclose(moments[f"m/{name}"], 0.1 * gradient, atol=1e-6, err_msg=name)


def test_what_a_part_of_the_loss_keeps_is_let_go_of_before_the_next():
    weight = tf.Variable(0.5)
    megabytes = 16

    def parts(batch, normalizers, dropout_seed):
        for number in range(3):
            values = tf.fill([256, 1024], 1.0 + number) * weight
            for _ in range(megabytes):
                # Its gradient is made of its values.
                values = tf.tanh(values)
            yield tf.reduce_mean(values), {f"n_{number}": tf.constant(1.0, tf.float64)}

    optimizer = AdamW({"w": weight}, beta_1=0.9, beta_2=0.999, weight_decay_rate=0.0)
    options = {"accumulation_steps": 1, "loss_scaling": False, "jit_compile": False, "seed": 0}
    engine = Engine(parts, {"w": weight}, optimizer, **options)
    used = peak_bytes(lambda: engine.update(_linear_update(1, [1.0]), 0.0, _NeverStopped))
    assert 0.9 * megabytes < used / 2**20 < 1.5 * megabytes


def test_same_seed_same_weights_bit_for_bit_and_another_seed_others():
    """Dropout included: its masks follow from the seed, the update and the micro-batch."""
    runs = []
    for seed in (5, 5, 6):
        engine, variables = _engine(seed=seed)
        for number in (1, 2):
            engine.update(_update(number, masked_batch(8, seed=number)), 1e-2, _NeverStopped)
        runs.append({name: variable.numpy() for name, variable in variables.items()})
    assert all(np.array_equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not all(np.array_equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_dropout_differs_between_updates_and_between_micro_batches():
    engine, _ = _engine(2)
    seeds = {tuple(engine._dropout_seed(update, micro)) for update in range(50) for micro in range(20)}
    assert len(seeds) == 1000
    batch = masked_batch(4)
    engine, _ = _engine()
    losses = [engine.update(_update(number, batch), 0.0, _NeverStopped).loss for number in (1, 2, 1)]
    assert losses[0] == losses[2] != losses[1]


@pytest.fixture
def chains(request):
    """A switch for compiled chains, off again after the test."""
    request.addfinalizer(lambda: fused_operations.compile_chains(False))
    return fused_operations.compile_chains


def _updated(**changes):
    """What an update of two micro-batches gives, and the weights after it."""
    engine, variables = _engine(2, **changes)
    result = engine.update(_update(1, *_split(masked_batch(8), [4, 4])), 1e-2, _NeverStopped)
    return result, {name: variable.numpy() for name, variable in variables.items()}


def _assert_same_update(ours, truth):
    assert ours[0].loss == pytest.approx(truth[0].loss, rel=1e-5)
    assert ours[0].gradient_norm == pytest.approx(truth[0].gradient_norm, rel=1e-4)
    for name, weights in truth[1].items():
        np.testing.assert_allclose(ours[1][name], weights, atol=2e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, NO_DROPOUT], ids=["dropout", "no dropout"])
def test_compiled_chains_compute_the_same_update(changes, chains):
    """With dropout too: its masks are hashes, the same ones whoever computes them."""
    plain = _updated(**changes)
    chains(True)
    _assert_same_update(_updated(**changes), plain)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "chains"])
def test_recomputing_layers_computes_the_same_update(compiled, chains):
    """With dropout, whose masks come back the same."""
    chains(compiled)
    _assert_same_update(_updated(recompute=True), _updated())


@pytest.mark.slow
def test_xla_computes_the_same_update():
    plain, plain_variables = _engine(2, **NO_DROPOUT)
    compiled, compiled_variables = _engine(2, jit_compile=True, **NO_DROPOUT)
    batches = _split(masked_batch(8), [4, 4])
    results = [e.update(_update(1, *batches), 1e-2, _NeverStopped) for e in (plain, compiled)]
    assert results[1].loss == pytest.approx(results[0].loss, rel=1e-5)
    for name, variable in plain_variables.items():
        np.testing.assert_allclose(
            compiled_variables[name].numpy(), variable.numpy(), atol=2e-4, err_msg=name
        )


# ----------------------------------------------------------------------------------------- what goes wrong


def _linear_engine(loss_scaling=False, accumulation=2):
    """A model of one weight, whose gradient is the mean of x and whose loss is the mean of y."""
    weight = tf.Variable(0.5)

    def loss(batch, normalizers, dropout_seed):
        slope = weight * batch["x"]
        value = tf.reduce_sum(slope - tf.stop_gradient(slope) + batch["y"]) / normalizers["n"]
        return value, {"n": tf.cast(tf.size(batch["x"]), tf.float64)}

    engine = Engine(
        in_one_part(loss),
        {"w": weight},
        AdamW({"w": weight}, beta_1=0.9, beta_2=0.999, weight_decay_rate=0.0),
        accumulation_steps=accumulation,
        loss_scaling=loss_scaling,
        jit_compile=False,
        seed=0,
    )
    return engine, weight


def _linear_update(number, x, y=0.0) -> UpdateData:
    parts = [{"x": np.float32([value]), "y": np.float32([y])} for value in x]
    return UpdateData(number, parts, {"n": np.float32(2)}, 2, 2, lambda: "shard-7 records 3, 9")


def _run(engine, updates, **plan):
    saved = []
    hooks = Hooks(lambda *_: None, saved.append, lambda *_: None, lambda *_: None)
    count = len(updates)
    settings = {
        "first_update": 1,
        "last_update": count,
        "stop_after": count,
        "log_every": 1,
        "save_every": 1,
        "evaluate_every": 0,
    } | plan
    done, _ = run_loop(engine, iter(updates), lambda step: 0.1, LoopPlan(**settings), hooks, _NeverStopped)
    return done, saved


def test_an_overflow_skips_the_whole_accumulated_update_and_is_counted():
    """One bad micro-batch of two: nothing moves, the scale halves, the next update is a clean one."""
    engine, weight = _linear_engine(loss_scaling=True)
    before = engine.loss_scale.value
    result = engine.update(_linear_update(1, [1.0, np.float32(3e38)]), 0.1, _NeverStopped)
    assert not result.applied and float(weight) == 0.5
    assert int(engine._optimizer.iterations) == 0
    assert engine.loss_scale.value == before / 2
    result = engine.update(_linear_update(2, [1.0, 3.0]), 0.1, _NeverStopped)
    assert result.applied and result.gradient_norm == pytest.approx(2.0)
    assert float(weight) == pytest.approx(0.5 - 0.1, rel=1e-4)  # Adam's first step: the learning rate


def test_the_loss_scale_does_not_change_the_gradient():
    plain, weight = _linear_engine()
    scaled, scaled_weight = _linear_engine(loss_scaling=True)
    for engine in (plain, scaled):
        engine.update(_linear_update(1, [0.25, 0.5]), 0.1, _NeverStopped)
    assert float(weight) == float(scaled_weight)


def test_the_loss_scale_doubles_after_two_thousand_good_updates():
    scale = LossScale(enabled=True)
    for _ in range(2000):
        scale.update(applied=True)
    assert scale.value == 2 * LossScale.INITIAL
    scale.update(applied=False)
    assert scale.value == LossScale.INITIAL and scale.updates_without_overflow == 0


def test_the_first_loss_scale_makes_up_for_the_division_by_all_micro_batches():
    """By the power of two below their number, so that no digit of a gradient changes."""
    for shares, factor in ((1, 1), (2, 2), (3, 2), (8, 8), (384, 256)):
        assert LossScale(True, shares).value == factor * LossScale.INITIAL
    assert LossScale(False, 8).value == 1.0
    engine, *_ = _engine(accumulation=4, loss_scaling=True)
    assert engine.loss_scale.value == 4 * LossScale.INITIAL


def test_a_run_that_turns_to_float16_begins_with_the_first_loss_scale():
    """A checkpoint of a run without scaling has a scale of 1, which would let its gradients vanish."""
    for state in (LossScale(False).state(), {"value": 1.0, "updates_without_overflow": 0}):
        scale = LossScale(True)
        scale.restore(state)
        assert scale.value == LossScale.INITIAL
    lowered = LossScale(True)
    lowered.update(applied=False)
    for state in (lowered.state(), {"value": lowered.value, "updates_without_overflow": 0}):
        scale = LossScale(True)
        scale.restore(state)
        assert scale.value == LossScale.INITIAL / 2
    # Divided among eight micro-batches now, and among two before.
    lowered, scale = LossScale(True, 2), LossScale(True, 8)
    lowered.update(applied=False)
    scale.restore(lowered.state())
    assert scale.value == 4 * LossScale.INITIAL
    plain = LossScale(False)
    plain.restore(lowered.state())
    assert plain.value == 1.0


def test_the_last_update_is_evaluated_before_it_is_saved():
    """What is saved as done has been evaluated, whatever ends the process."""
    for stop_after, expected in ((2, ["saved 2"]), (3, ["evaluated 3", "saved 3"])):
        engine, _ = _linear_engine()
        seen = []
        hooks = Hooks(
            lambda *_: None,
            lambda number, seen=seen: seen.append(f"saved {number}"),
            lambda number, check_stop, seen=seen: seen.append(f"evaluated {number}"),
            lambda *_: None,
        )
        plan = LoopPlan(1, 3, stop_after, 1, 9, evaluate_every=0, evaluates_last=True)
        updates = [_linear_update(number, [1.0, 3.0]) for number in (1, 2, 3)]
        run_loop(engine, iter(updates), lambda step: 0.1, plan, hooks, _NeverStopped)
        assert seen == expected


def test_a_nan_loss_stops_the_run_with_its_data_and_saves_nothing_after_it():
    engine, weight = _linear_engine()
    updates = [_linear_update(1, [1, 1]), _linear_update(2, [1, 1], y=np.nan), _linear_update(3, [1, 1])]
    saved = []
    hooks = Hooks(lambda *_: None, saved.append, lambda *_: None, lambda *_: None)
    plan = LoopPlan(1, 3, 3, log_every=1, save_every=1, evaluate_every=0)
    with pytest.raises(RunFailure, match=r"update 2 is nan.*shard-7 records 3, 9"):
        run_loop(engine, iter(updates), lambda step: 0.1, plan, hooks, _NeverStopped)
    assert saved == [1] and np.isfinite(float(weight))


def test_an_infinite_gradient_without_loss_scaling_stops_the_run():
    engine, weight = _linear_engine()
    with pytest.raises(RunFailure, match="gradient of update 1"):
        _run(engine, [_linear_update(1, [1.0, np.float32(3e38)])])
    assert float(weight) == 0.5


@pytest.mark.parametrize(("accumulation", "collapsed"), [(1, 1.0), (2, 2.0)])
def test_a_collapsed_loss_scale_stops_the_run(accumulation, collapsed):
    """After as many overflows, however many micro-batches an update's loss is divided among."""
    engine, _ = _linear_engine(loss_scaling=True, accumulation=accumulation)
    overflow = _linear_update(1, [np.float32(3e38), 1.0][:accumulation])
    engine.loss_scale.value = 2 * collapsed
    _run(engine, [overflow])
    assert engine.loss_scale.value == collapsed
    with pytest.raises(RunFailure, match=f"loss scale fell below {collapsed:g} at update 1"):
        _run(engine, [overflow])


# ------------------------------------------------------------------------------------------------ the loop


def test_the_loop_saves_at_multiples_and_at_the_end():
    engine, _ = _linear_engine()
    updates = [_linear_update(number, [1.0, 2.0]) for number in range(1, 8)]
    assert _run(engine, updates, save_every=3) == (7, [3, 6, 7])


def test_steps_of_this_run_stop_the_loop_early():
    engine, _ = _linear_engine()
    updates = [_linear_update(number, [1.0, 2.0]) for number in range(1, 8)]
    assert _run(engine, updates, save_every=5, stop_after=2) == (2, [2])


def test_a_signal_ends_the_loop_with_a_checkpoint_of_whole_updates():
    """Also in the middle of an accumulated update, whose first half is given up."""
    engine, _ = _linear_engine()
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    try:
        stop = StopSignal()

        def updates():
            yield _linear_update(1, [1.0, 2.0])
            signal.raise_signal(signal.SIGTERM)
            yield _linear_update(2, [1.0, 2.0])

        saved = []
        hooks = Hooks(lambda *_: None, saved.append, lambda *_: None, lambda *_: None)
        plan = LoopPlan(1, 9, 9, log_every=100, save_every=100, evaluate_every=0)
        done, _ = run_loop(engine, updates(), lambda step: 0.1, plan, hooks, stop)
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])
    assert (done, saved, stop.exit_code) == (1, [1], 143)
    assert int(engine._optimizer.iterations) == 1


@pytest.mark.parametrize(("last", "batches"), [(9, 3), (2, 10)])
def test_a_signal_ends_an_evaluation_and_what_was_trained_is_saved(last, batches, monkeypatch):
    """In the middle of a training; the last one is done to its end, as no restart would make up for it."""
    engine, _ = _linear_engine()
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    stop = StopSignal()
    computed, saved = [], []

    def evaluate(done, check_stop):
        for batch in range(1, 11):
            check_stop()
            computed.append(batch)
            if batch == 3:
                stop._remember(signal.SIGTERM, None)

    hooks = Hooks(lambda *_: None, saved.append, evaluate, lambda *_: None)
    plan = LoopPlan(1, last, last, log_every=100, save_every=100, evaluate_every=2)
    updates = iter([_linear_update(number, [1.0, 2.0]) for number in range(1, last + 1)])
    done, _ = run_loop(engine, updates, lambda step: 0.1, plan, hooks, stop)
    assert (done, saved, stop.exit_code, len(computed)) == (2, [2], 143, batches)


def test_a_signal_after_the_last_update_of_one_worker_counts_for_all(monkeypatch):
    """It comes as the last update is logged, when the workers have agreed that there is none."""

    class OneOfTwo(Workers):
        def sum(self, values):
            return np.asarray(values)

        def gather(self, item):
            return [item, 143]

    engine, _ = _linear_engine()
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    stop = StopSignal()
    plan = LoopPlan(1, 1, 1, log_every=100, save_every=100, evaluate_every=0)
    hooks = Hooks(lambda *_: None, lambda *_: None, lambda *_: None, lambda *_: None)
    updates = iter([_linear_update(1, [1.0, 2.0])])
    done, _ = run_loop(engine, updates, lambda step: 0.1, plan, hooks, stop, OneOfTwo(rank=0, size=2))
    assert (done, stop.exit_code) == (1, 143)


def _ends_by_a_later_sigterm(told: str) -> None:
    """A process that has been told to stop so still saves; a SIGTERM two seconds later ends it."""
    code = f"""
import os, signal, time
from stop_signal import StopSignal
stop = StopSignal()
{told}
assert stop.exit_code == 143
print("saved", flush=True)
time.sleep(2.1)
os.kill(os.getpid(), signal.SIGTERM)
print("still there", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == -signal.SIGTERM and done.stdout == "saved\n", done.stderr


def test_a_signal_is_remembered_and_one_that_follows_at_once_is_the_same():
    """As from a batch system to the whole group and from the launcher again; a later one kills."""
    _ends_by_a_later_sigterm(
        """
for _ in range(2):
    os.kill(os.getpid(), signal.SIGTERM)
"""
    )


def test_the_end_of_the_time_only_reminds_who_was_told_before_it():
    """SIGUSR1 ahead of a limit, SIGTERM at it, as Slurm sends them: only a further SIGTERM kills."""
    _ends_by_a_later_sigterm(
        """
os.kill(os.getpid(), signal.SIGUSR1)
time.sleep(2.1)
for number in (signal.SIGUSR1, signal.SIGTERM):
    os.kill(os.getpid(), number)
"""
    )


def test_an_update_longer_than_the_stall_timeout_makes_progress_with_its_micro_batches(tmp_path, monkeypatch):
    """18 micro-batches of a quarter of a second, where three seconds without progress end a worker."""
    ended = threading.Event()
    monkeypatch.setattr(StallWatch, "_end", lambda watch: ended.set())
    engine, _ = _linear_engine(accumulation=18)
    accumulate = engine._accumulate

    def slow(*arguments):
        time.sleep(0.25)
        return accumulate(*arguments)

    engine._accumulate = slow
    updates = iter([_linear_update(1, np.ones(18))])
    hooks = Hooks(lambda *_: None, lambda *_: None, lambda *_: None, lambda *_: None)
    plan = LoopPlan(1, 1, 1, log_every=100, save_every=0, evaluate_every=0)
    watch = StallWatch(tmp_path / "stalled", rank=0, size=2, timeout=3.0)
    try:
        done, _ = run_loop(engine, updates, lambda step: 0.1, plan, hooks, _NeverStopped, watch=watch)
    finally:
        watch.stop()
    assert done == 1 and not ended.is_set()


@pytest.mark.parametrize(
    ("waits", "expected"),
    [([0.1, 0.4, 0.2], (0.4, 1)), ([0.3, 0.1, 0.2], (0.3, 0)), ([0.0, 0.0, 0.0], (0.0, 0))],
)
def test_worker_that_waits_longest_for_data_is_known_to_all(waits, expected):
    """What the other workers put into the exchange is added by hand."""

    class OneOfThree(Workers):
        def sum(self, values):
            others = np.array(waits)
            others[self.rank] = 0
            return values + others

    for rank, wait in enumerate(waits):
        found = _longest_wait({"data_wait": wait}, OneOfThree(rank=rank, size=3))
        assert (found["worst_data_wait"], found["worst_data_wait_worker"]) == expected
    assert _longest_wait({}, OneOfThree(rank=0, size=3)) == {}

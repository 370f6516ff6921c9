"""Span heads and their loss against Hugging Face and against NumPy."""

from math import erf

import numpy as np
import pytest
import tensorflow as tf
from squad_cases import CONFIG, VOCABULARY, random_tensors, random_windows

import weight_conversion
from batching import UpdateData
from optimization import AdamW, layerwise_multipliers
from question_answering import QuestionAnsweringModel
from training import Engine, in_one_part

NORMALIZERS = {"windows": np.float32(3)}


def _model(joint: bool, variant: str = "google", version_2: bool = True, beam: int = 3):
    model = QuestionAnsweringModel(
        CONFIG, joint_head=joint, variant=variant, version_2=version_2, beam_size=beam
    )
    model.build()
    variables = model.named_variables()
    for name, tensor in random_tensors({n: v.shape for n, v in variables.items()}).items():
        # Heads with weights as large as a trained one's.
        variables[name].assign(tensor * (1 if name.startswith("electra/") else 8))
    return model


def _hidden(model, batch) -> np.ndarray:
    hidden = model.electra(*(tf.constant(batch[k]) for k in ("input_ids", "input_mask", "segment_ids")))
    return hidden.numpy().reshape(*batch["input_ids"].shape, -1).astype(np.float64)


def _log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _gelu(x):
    return x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))


class NumpyJointHead:
    """Both forms of the head, written from their description with [start; token] joined as such."""

    def __init__(self, model, variant):
        self.w = {
            n.removeprefix("squad_head/"): v.numpy().astype(np.float64)
            for n, v in model.named_variables().items()
        }
        self.variant = variant

    def dense(self, name, x):
        return x @ self.w[f"{name}/kernel"] + self.w.get(f"{name}/bias", 0.0)

    def starts(self, hidden, mask):
        return self.dense("start", hidden)[..., 0] - 1e4 * (1 - mask)

    def ends(self, hidden, start_state, mask):
        joined = np.concatenate([np.broadcast_to(start_state[:, None], hidden.shape), hidden], -1)
        states = self.dense("end_hidden", joined)
        if self.variant == "xlnet":
            states = np.tanh(states)
            centred = states - states.mean(-1, keepdims=True)
            states = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
            states = states * self.w["end_hidden/LayerNorm/gamma"] + self.w["end_hidden/LayerNorm/beta"]
        else:
            states = _gelu(states)
        return self.dense("end", states)[..., 0] - 1e4 * (1 - mask)

    def null(self, hidden, start_state):
        parts = [hidden[:, 0], start_state]
        activation = _gelu
        if self.variant == "xlnet":
            parts, activation = parts[::-1], np.tanh
        return self.dense(
            "answerable", activation(self.dense("answerable_hidden", np.concatenate(parts, -1)))
        )[:, 0]


def test_plain_head_and_its_loss_equal_hugging_face(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is the independent truth here")
    transformers = pytest.importorskip("transformers", reason="Hugging Face is the independent truth here")
    model = _model(joint=False)
    variables = {name: variable.numpy() for name, variable in model.named_variables().items()}
    weight_conversion.write_question_answering(tmp_path / "qa", CONFIG, variables, VOCABULARY, {})
    theirs, info = transformers.ElectraForQuestionAnswering.from_pretrained(
        tmp_path / "qa", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    # Without padding: Hugging Face's loss lets padding be chosen.
    batch = {name: values[:1] for name, values in random_windows(CONFIG).items()}
    with torch.no_grad():
        output = theirs.eval()(
            input_ids=torch.tensor(batch["input_ids"].astype(np.int64)),
            attention_mask=torch.tensor(batch["input_mask"]),
            token_type_ids=torch.tensor(batch["segment_ids"].astype(np.int64)),
            start_positions=torch.tensor(batch["start_positions"].astype(np.int64)),
            end_positions=torch.tensor(batch["end_positions"].astype(np.int64)),
        )
    ours = model.predict(batch)
    assert np.abs(output.start_logits.numpy()).max() > 0.1
    np.testing.assert_allclose(ours["start_logits"], output.start_logits.numpy(), atol=1e-4)
    np.testing.assert_allclose(ours["end_logits"], output.end_logits.numpy(), atol=1e-4)
    loss, _ = model(batch, {"windows": np.float32(1)})
    assert float(loss) == pytest.approx(float(output.loss), abs=1e-4)


@pytest.mark.parametrize("variant", ["google", "xlnet"])
def test_joint_heads_loss_equals_numpy(variant):
    model, batch = _model(True, variant), random_windows(CONFIG)
    head, hidden, mask = NumpyJointHead(model, variant), _hidden(model, batch), batch["context_mask"]
    rows = np.arange(3)
    starts = head.starts(hidden, mask)
    gold = hidden[rows, batch["start_positions"]]
    ends = head.ends(hidden, gold, mask)
    expected_start = np.einsum("bl,blh->bh", np.exp(_log_softmax(starts)), hidden)
    null = head.null(hidden, gold if variant == "xlnet" else expected_start)
    span = (
        -(
            _log_softmax(starts)[rows, batch["start_positions"]]
            + _log_softmax(ends)[rows, batch["end_positions"]]
        )
        / 2
    )
    signs = np.where(batch["is_impossible"] == 1, 1, -1)
    answerable = np.log1p(np.exp(-signs * null))
    loss, sums = model(batch, NORMALIZERS)
    assert float(loss) == pytest.approx((span + 0.5 * answerable).mean(), rel=1e-4)
    assert float(sums["span_loss"]) == pytest.approx(span.sum(), rel=1e-4)
    assert float(sums["answerable_loss"]) == pytest.approx(answerable.sum(), rel=1e-4)


@pytest.mark.parametrize("variant", ["google", "xlnet"])
def test_joint_heads_beams_equal_numpy(variant):
    model, batch = _model(True, variant), random_windows(CONFIG)
    head, hidden, mask = NumpyJointHead(model, variant), _hidden(model, batch), batch["context_mask"]
    starts = _log_softmax(head.starts(hidden, mask))
    output = {name: tensor.numpy() for name, tensor in model.predict(batch).items()}
    for row in range(3):
        best = np.argsort(-starts[row])[:3]
        assert output["start_index"][row].tolist() == best.tolist()
        np.testing.assert_allclose(output["start_log_probs"][row], starts[row, best], atol=1e-3)
        for beam, start in enumerate(best):
            ends = _log_softmax(head.ends(hidden[[row]], hidden[[row], start], mask[[row]]))[0]
            best_ends = np.argsort(-ends)[:3]
            assert output["end_index"][row, beam].tolist() == best_ends.tolist()
            np.testing.assert_allclose(output["end_log_probs"][row, beam], ends[best_ends], atol=1e-3)
    expected_start = np.einsum("bl,blh->bh", np.exp(starts), hidden)
    np.testing.assert_allclose(output["null_logit"], head.null(hidden, expected_start), atol=1e-3)


def test_joint_head_proposes_no_token_of_the_question_or_padding():
    batch = random_windows(CONFIG)
    output = _model(True, beam=8).predict(batch)
    likely = output["start_log_probs"].numpy() > -100
    allowed = np.take_along_axis(batch["context_mask"], output["start_index"].numpy(), axis=1)
    assert likely.sum() > 10 and allowed[likely].all()


def test_answerability_is_learnt_on_squad_2_alone():
    batch = random_windows(CONFIG)
    loss, sums = _model(True, version_2=False)(batch, NORMALIZERS)
    assert "answerable_loss" not in sums
    assert float(loss) == pytest.approx(float(sums["span_loss"]) / 3, rel=1e-5)


@pytest.mark.parametrize("joint", [True, False])
def test_longer_padding_changes_no_output(joint):
    model, batch = _model(joint), random_windows(CONFIG)
    longer = {
        name: np.pad(values, [(0, 0), (0, 12)]) if values.ndim == 2 else values
        for name, values in batch.items()
    }
    short, long = model.predict(batch), model.predict(longer)
    for name in short:
        expected = short[name].numpy()
        got = long[name].numpy()
        if not joint:
            real = batch["input_mask"] > 0
            expected, got = expected[real], got[:, : batch["input_mask"].shape[1]][real]
        np.testing.assert_allclose(got, expected, atol=1e-4)
    np.testing.assert_allclose(model(batch, NORMALIZERS)[0], model(longer, NORMALIZERS)[0], atol=1e-5)


def test_micro_batches_add_up_to_the_whole_batch():
    model, batch = _model(True), random_windows(CONFIG)
    whole, _ = model(batch, NORMALIZERS)
    parts = [
        model({name: values[row : row + 1] for name, values in batch.items()}, NORMALIZERS)[0]
        for row in range(3)
    ]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-5)


def test_layerwise_rates_are_googles():
    """decay ** (n + 2 - depth) of 12 layers, by hand."""
    names = [
        "electra/embeddings/word_embeddings",
        "electra/embeddings_project/kernel",
        "electra/encoder/layer_0/output/dense/kernel",
        "electra/encoder/layer_11/output/dense/kernel",
        "squad_head/start/kernel",
        "qa_outputs/bias",
    ]
    found = layerwise_multipliers(names, 0.8, 12)
    assert [found[name] for name in names] == pytest.approx([0.8**14, 0.8**14, 0.8**13, 0.8**2, 1, 1])


def test_a_multiplier_scales_the_step_and_the_decay_of_its_variable():
    settings = {"beta_1": 0.9, "beta_2": 0.999, "weight_decay_rate": 0.1}
    moved = {}
    for multiplier, rate in ((0.25, 0.4), (1.0, 0.1)):
        variable = tf.Variable([1.0, -2.0])
        optimizer = AdamW(
            {"electra/kernel": variable}, multipliers={"electra/kernel": multiplier}, **settings
        )
        for gradient in ([0.3, 0.1], [-0.2, 0.4]):
            optimizer.apply({"electra/kernel": tf.constant(gradient)}, tf.constant(rate))
        moved[multiplier] = variable.numpy()
    np.testing.assert_allclose(moved[0.25], moved[1.0], rtol=1e-6)


class _NeverStopped:
    exit_code = 0


class _Training:
    """An engine over a model that batches of several lengths train."""

    def __init__(self):
        model = _model(joint=False)
        self.variables = model.named_variables()
        self.optimizer = AdamW(self.variables, beta_1=0.9, beta_2=0.999, weight_decay_rate=0.01)
        options = {"accumulation_steps": 1, "loss_scaling": False, "jit_compile": False, "seed": 3}
        self.engine = Engine(in_one_part(model), self.variables, self.optimizer, lengths_vary=True, **options)

    def state(self) -> dict[str, np.ndarray]:
        everything = self.variables | self.optimizer.named_variables()
        return {name: variable.numpy() for name, variable in everything.items()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        for name, variable in (self.variables | self.optimizer.named_variables()).items():
            variable.assign(state[name])

    def update(self, number: int, length: int) -> None:
        batch = random_windows(CONFIG, 4, length)
        data = UpdateData(number, [batch], {"windows": np.float32(4)}, 4, 4 * length, lambda: "")
        assert self.engine.update(data, 1e-3, _NeverStopped()).applied


def test_a_restart_that_meets_another_length_first_computes_the_same():
    whole, restarted = _Training(), _Training()
    whole.update(1, 24)
    after_first = whole.state()
    whole.update(2, 48)
    whole.update(3, 24)
    restarted.restore(after_first)
    restarted.update(2, 48)
    restarted.update(3, 24)
    expected, found = whole.state(), restarted.state()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)

"""A pre-training run starts from released weights as Hugging Face would go on with them."""

import numpy as np
import pytest
import tensorflow as tf
from electra_cases import VOCABULARY_SIZE, random_examples, tiny_config
from safetensors.numpy import load_file
from weight_cases import KERNEL, VOCABULARY, huggingface, huggingface_pair, pretraining_model, start_from

from masking import MaskingRule
from pretraining import PretrainingModel, held_out_metrics
from pretraining_data import HeldOutData
from tfrecords import Shards, ShardWriter, frame_record, serialize_examples
from training import add_sums

torch = pytest.importorskip("torch", reason="PyTorch is the independent truth here")
pytest.importorskip("transformers", reason="Hugging Face is the independent truth here")

import huggingface_evaluation  # noqa: E402 (it needs PyTorch)

LENGTH = 32
WORD_TABLE = "electra.embeddings.word_embeddings.weight"
GENERATOR_KERNEL = KERNEL.replace("electra/", "generator/")


def _model(**changes) -> PretrainingModel:
    # One head, as the pair has.
    return pretraining_model(**({"num_attention_heads": 1} | changes))


def _held_out(folder, count: int = 11) -> HeldOutData:
    """Held-out batches of 4, of random examples of several lengths."""
    examples = random_examples(count, LENGTH, seed=3)
    with ShardWriter(folder / "held_out.tfrecord") as writer:
        for row in range(count):
            tokens = int(examples["input_mask"][row].sum())
            first = tokens - int(examples["segment_ids"][row].sum())
            (payload,) = serialize_examples(examples["input_ids"][row][:tokens], [tokens], [first], LENGTH)
            frame = frame_record(payload)
            writer.write_frames(frame, [len(frame)])
    return HeldOutData(
        Shards([str(folder / "held_out.tfrecord")], flag="eval_tfrecords"),
        MaskingRule.of(VOCABULARY, 0.15, 4),
        max_seq_length=LENGTH,
        batch_size=4,
        most_batches=0,
        unigram_log_probabilities=np.full(VOCABULARY_SIZE, -np.log(VOCABULARY_SIZE)),
    )


def _evaluate(model: PretrainingModel, data: HeldOutData) -> dict[str, float]:
    sums = None
    for number in range(data.batches):
        batch, unigram_loss = data.batch(number)
        tensors = {name: tf.constant(value) for name, value in batch.items()}
        _, of_batch = model(tensors, {"picks": np.float32(1), "tokens": np.float32(1)})
        of_batch = {name: value.numpy() for name, value in of_batch.items()} | {
            "unigram_loss": unigram_loss.sum()
        }
        sums = of_batch if sums is None else add_sums(sums, of_batch)
    return held_out_metrics(sums, tiny_config())


def test_the_first_held_out_evaluation_of_a_released_pair_is_hugging_faces(tmp_path):
    discriminator, generator = huggingface_pair(tmp_path / "pair")
    model, data = _model(), _held_out(tmp_path)
    random = _evaluate(model, data)
    initial = start_from(tmp_path / "pair", model)
    assert not initial.missing and not initial.unused and not initial.remarks
    ours = _evaluate(model, data)
    batches = [data.batch(number)[0] for number in range(data.batches)]
    theirs = huggingface_evaluation.evaluate(discriminator, generator, batches)
    for name in ("masked_lm_loss", "masked_lm_accuracy", "masked_lm_loss_masked_only", "disc_loss"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name
    assert ours["disc_accuracy"] == pytest.approx(theirs["disc_accuracy"], rel=1e-4)
    assert abs(random["masked_lm_loss"] - ours["masked_lm_loss"]) > 0.05


def test_one_network_of_a_pair_warns_of_what_its_lack_means(tmp_path):
    huggingface_pair(tmp_path)
    model = _model()
    before = {name: variable.numpy() for name, variable in model.named_variables().items()}
    initial = start_from(tmp_path / "discriminator", model)
    assert KERNEL in initial.tensors and GENERATOR_KERNEL not in initial.tensors
    (remark,) = initial.remarks
    assert "no weights for the generator's encoder" in remark and "easy to tell at first" in remark
    np.testing.assert_array_equal(model.named_variables()[GENERATOR_KERNEL].numpy(), before[GENERATOR_KERNEL])

    initial = start_from(tmp_path / "generator", _model())
    assert GENERATOR_KERNEL in initial.tensors and KERNEL not in initial.tensors
    (remark,) = initial.remarks
    assert "no weights for the discriminator's encoder" in remark and "hard to tell" in remark


def test_embeddings_that_a_pair_does_not_share_are_the_discriminators_said_once(tmp_path):
    huggingface("ElectraForPreTraining", tmp_path / "discriminator", seed=1)
    sizes = {"hidden_size": 16, "intermediate_size": 64}
    huggingface("ElectraForMaskedLM", tmp_path / "generator", seed=2, **sizes)
    initial = start_from(tmp_path, _model())
    (remark,) = initial.remarks
    assert "5 weights of generator that both networks share differ" in remark
    table = load_file(tmp_path / "discriminator/model.safetensors")[WORD_TABLE]
    np.testing.assert_array_equal(initial.tensors["electra/embeddings/word_embeddings"], table)

    untied = _model(untied_generator_embeddings=True)
    initial = start_from(tmp_path, untied)
    assert not initial.remarks and not initial.missing
    table = load_file(tmp_path / "generator/model.safetensors")[WORD_TABLE]
    np.testing.assert_array_equal(initial.tensors["generator/embeddings/word_embeddings"], table)


def test_plain_masked_language_modelling_goes_on_from_a_masked_language_model(tmp_path):
    huggingface("ElectraForMaskedLM", tmp_path)
    for options in ({"electra_objective": False}, {"untied_generator": False}):
        initial = start_from(tmp_path, _model(**options))
        assert KERNEL in initial.tensors and "generator_predictions/output_bias" in initial.tensors
        assert not initial.unused and not initial.remarks
        assert all(name.startswith("discriminator_predictions/") for name in initial.missing)


def test_a_pair_of_pickles_starts_a_run_as_its_safetensors_do(tmp_path):
    huggingface_pair(tmp_path)
    expected = start_from(tmp_path, _model()).tensors
    for folder in (tmp_path / "discriminator", tmp_path / "generator"):
        tensors = load_file(folder / "model.safetensors")
        torch.save({name: torch.tensor(t) for name, t in tensors.items()}, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    found = start_from(tmp_path, _model())
    assert not found.missing and found.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found.tensors[name], tensor)

"""Weights go to Hugging Face and come from there as the same numbers."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from electra_cases import VOCABULARY_SIZE, random_examples
from safetensors.numpy import load_file, save_file
from training_runs import ROOT, one_line_error
from weight_cases import VOCABULARY, pretraining_model, start_from

import checkpointing
import electra_weights
import postprocess_pretrained_ckpt
from command_line import UsageError

torch = pytest.importorskip("torch", reason="PyTorch is the independent truth here")
transformers = pytest.importorskip("transformers", reason="Hugging Face is the independent truth here")

SIZES = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}


def _electra(kind: str, folder, seed: int = 0, **changes):
    torch.manual_seed(seed)
    config = transformers.ElectraConfig(embedding_size=24, **(SIZES | changes))
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def _bert(folder):
    torch.manual_seed(1)
    model = transformers.BertModel(transformers.BertConfig(**SIZES)).eval()
    model.save_pretrained(folder)
    return model


def _inputs():
    examples = random_examples(3)
    ours = [tf.constant(examples[name]) for name in ("input_ids", "input_mask", "segment_ids")]
    names = ("input_ids", "attention_mask", "token_type_ids")
    theirs = {n: torch.tensor(t.numpy().astype(np.int64)) for n, t in zip(names, ours, strict=True)}
    return ours, theirs, examples["input_mask"].reshape(-1) > 0


def _same_hidden_states(encoder, model) -> None:
    ours, theirs, real = _inputs()
    with torch.no_grad():
        expected = model(**theirs).last_hidden_state.numpy().reshape(-1, 32)
    np.testing.assert_allclose(encoder(*ours).numpy()[real], expected[real], atol=1e-4)


def test_a_pair_starts_both_networks_with_hugging_faces_logits(tmp_path):
    discriminator = _electra("ElectraForPreTraining", tmp_path / "discriminator")
    generator = _electra(
        "ElectraForMaskedLM",
        tmp_path / "generator",
        hidden_size=16,
        num_attention_heads=1,
        intermediate_size=64,
    )
    # Released pairs share their embeddings; here they are made to.
    tensors = load_file(tmp_path / "generator" / "model.safetensors")
    shared = load_file(tmp_path / "discriminator" / "model.safetensors")
    tensors |= {name: tensor for name, tensor in shared.items() if name.startswith("electra.embeddings.")}
    save_file(tensors, tmp_path / "generator" / "model.safetensors", metadata={"format": "pt"})
    generator = transformers.ElectraForMaskedLM.from_pretrained(tmp_path / "generator").eval()

    model = pretraining_model()
    initial = start_from(tmp_path, model)
    assert not initial.missing and not initial.unused and not initial.remarks
    ours, theirs, real = _inputs()
    with torch.no_grad():
        expected = discriminator(**theirs).logits.numpy().reshape(-1)
        expected_lm = generator(**theirs).logits.numpy().reshape(-1, VOCABULARY_SIZE)
    logits = model.discriminator_head(model.electra(*ours)).numpy()
    np.testing.assert_allclose(logits[real], expected[real], atol=1e-4)
    lm_logits = model.masked_lm_head(model.generator(*ours)).numpy()
    np.testing.assert_allclose(lm_logits[real], expected_lm[real], atol=1e-4)


def test_a_discriminator_alone_leaves_the_generator_random_and_says_so(tmp_path):
    _electra("ElectraForPreTraining", tmp_path)
    initial = start_from(tmp_path, pretraining_model())
    assert initial.missing and all(name.startswith("generator") for name in initial.missing)
    assert any("generator's encoder" in remark for remark in initial.remarks)


def test_a_generator_alone_starts_the_generator_and_the_embeddings(tmp_path):
    _electra("ElectraForMaskedLM", tmp_path, hidden_size=16, num_attention_heads=1, intermediate_size=64)
    initial = start_from(tmp_path, pretraining_model())
    found = set(initial.tensors)
    assert "electra/embeddings/word_embeddings" in found and "generator_predictions/output_bias" in found
    assert "generator/encoder/layer_1/output/dense/kernel" in found
    assert any("discriminator's encoder" in remark for remark in initial.remarks)


def test_a_bert_starts_both_networks_when_they_are_as_wide(tmp_path):
    bert = _bert(tmp_path)
    model = pretraining_model(embedding_size=32, generator_hidden_size=1.0)
    initial = start_from(tmp_path, model)
    _same_hidden_states(model.electra, bert)
    _same_hidden_states(model.generator, bert)
    assert {name.split("/")[0] for name in initial.missing} == {
        "discriminator_predictions",
        "generator_predictions",
    }
    assert [name.split(": ")[1] for name in initial.unused] == ["pooler.dense.bias", "pooler.dense.weight"]


def test_a_narrower_generator_starts_from_random_weights_said_aloud(tmp_path):
    _bert(tmp_path)
    initial = start_from(tmp_path, pretraining_model(embedding_size=32, generator_hidden_size=0.5))
    assert any("generator is narrower" in remark for remark in initial.remarks)
    assert "electra/encoder/layer_1/attention/self/query/kernel" in initial.tensors
    assert not any(name.startswith("generator/encoder") for name in initial.tensors)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 64, "intermediate_size": 48}, "hidden_size 32"),
        ({"num_hidden_layers": 3}, "num_hidden_layers 2"),
        ({"num_attention_heads": 8}, "num_attention_heads 4"),
        ({"embedding_size": 40}, "embedding_size 24"),
    ],
    ids=str,
)
def test_another_architecture_stops_and_names_the_sizes(tmp_path, changes, words):
    _electra("ElectraForPreTraining", tmp_path)
    with pytest.raises(UsageError, match=words):
        start_from(tmp_path, pretraining_model(**changes))


def test_a_tensor_of_another_shape_than_its_config_says_stops(tmp_path):
    _electra("ElectraForPreTraining", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["electra.encoder.layer.0.output.dense.bias"] = np.zeros(31, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match=r"output\.dense\.bias is \(31,\)"):
        start_from(tmp_path, pretraining_model())


def test_weights_of_another_vocabulary_stop(tmp_path):
    _electra("ElectraForPreTraining", tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(reversed(VOCABULARY.pieces)) + "\n")
    with pytest.raises(UsageError, match=r"vocab\.txt is not the vocabulary"):
        start_from(tmp_path, pretraining_model())


def test_a_folder_without_weights_or_of_another_kind_stops(tmp_path):
    with pytest.raises(UsageError, match=r"holds no config\.json"):
        start_from(tmp_path, pretraining_model())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(UsageError, match="'gpt2' is neither electra nor bert"):
        start_from(tmp_path, pretraining_model())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "electra", "hidden_size": 32}))
    with pytest.raises(UsageError, match=r"holds no model\.safetensors"):
        start_from(tmp_path, pretraining_model())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "folders"),
    [
        ((), ["discriminator", "generator"]),
        (("--untied_generator=False",), ["discriminator", "generator"]),
        (("--untied_generator_embeddings",), ["discriminator", "generator"]),
        (("--uniform_generator",), ["discriminator"]),
        (("--electra_objective=False",), ["discriminator", "generator"]),
    ],
    ids=lambda value: "".join(value) if isinstance(value, tuple) else "",
)
def test_every_kind_of_run_exports_folders_that_hugging_face_loads_whole(runs, tmp_path, options, folders):
    """Without a missing or unexpected key, with the vocabulary, and as the weights of the checkpoint."""
    name = "export" + "".join(options).replace("=", "-")
    runs.run(name, *options, num_train_steps=2, num_warmup_steps=1)
    output = tmp_path / "exports"
    command = [sys.executable, str(ROOT / "postprocess_pretrained_ckpt.py")]
    arguments = ["--pretrained_checkpoint", str(runs.folder(name)), "--output_dir", str(output)]
    for _ in range(2):  # the second export replaces the first
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in output.iterdir()) == folders
    kinds = {"discriminator": "ElectraForPreTraining", "generator": "ElectraForMaskedLM"}
    if options == ("--electra_objective=False",):
        kinds["discriminator"] = "ElectraModel"
    saved = runs.weights(name, "ckpt-2")
    for folder in folders:
        model, info = getattr(transformers, kinds[folder]).from_pretrained(
            output / folder, output_loading_info=True
        )
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert f"import AutoTokenizer, {kinds[folder]}\n" in (output / folder / "README.md").read_text()
        own = folder == "discriminator" or "--untied_generator_embeddings" not in options
        table = saved[f"{'electra' if own else 'generator'}/embeddings/word_embeddings"]
        np.testing.assert_array_equal(model.get_input_embeddings().weight.detach().numpy(), table)
        tokenizer = transformers.AutoTokenizer.from_pretrained(output / folder)
        assert tokenizer("T3w1 t5w2")["input_ids"] == tokenizer.convert_tokens_to_ids(
            ["[CLS]", "t3w1", "t5w2", "[SEP]"]
        )


def _checkpoint(folder, *, generator: bool = True, **state) -> str:
    """A checkpoint of a tiny run, with the weights of one seed and without an optimizer's."""
    model = pretraining_model()
    tensors = {name: variable.numpy() for name, variable in model.named_variables().items()}
    if not generator:
        prefixes = ("electra/", electra_weights.DISCRIMINATOR_HEAD)
        tensors = {name: tensor for name, tensor in tensors.items() if name.startswith(prefixes)}
    configs = {"discriminator": model.discriminator_config, "generator": model.generator_config}
    state |= {name: dataclasses.asdict(config) for name, config in configs.items()}
    (folder / "checkpoints").mkdir(parents=True)
    VOCABULARY.save(folder / "vocab.txt")
    path = checkpointing.save(
        folder / "checkpoints",
        "ckpt-",
        3,
        model=tensors,
        optimizer={},
        state=state,
        extra_files={name: (folder / name).read_text() for name in ("vocab.txt", "tokenizer_config.json")},
        keep=0,
    )
    return str(path)


def _export(monkeypatch, checkpoint, output) -> None:
    flags = ["--pretrained_checkpoint", str(checkpoint), "--output_dir", str(output)]
    monkeypatch.setattr("sys.argv", ["postprocess_pretrained_ckpt.py", *flags])
    postprocess_pretrained_ckpt.main()


def test_no_network_is_exported_where_one_cannot_be(tmp_path, monkeypatch):
    checkpoint = _checkpoint(tmp_path / "run", phase=1, config={})
    (tmp_path / "out" / "generator").mkdir(parents=True)
    (tmp_path / "out" / "generator" / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="generator: is there already and is no exported model"):
        _export(monkeypatch, checkpoint, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["generator"]


def test_a_discriminator_is_not_exported_beside_another_runs_generator(tmp_path, monkeypatch):
    """Whoever reads the folder would take the two for one run's."""
    pair = _checkpoint(tmp_path / "pair", phase=1, config={})
    alone = _checkpoint(tmp_path / "alone", generator=False, phase=1, config={})
    _export(monkeypatch, pair, tmp_path / "out")
    before = (tmp_path / "out" / "discriminator").stat().st_ino
    with pytest.raises(UsageError, match=f"--output_dir {tmp_path}/out: holds another run's generator"):
        _export(monkeypatch, alone, tmp_path / "out")
    assert (tmp_path / "out" / "discriminator").stat().st_ino == before
    _export(monkeypatch, alone, tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["discriminator"]


def test_a_checkpoint_of_fine_tuning_is_told_from_one_of_pretraining(tmp_path, monkeypatch):
    checkpoint = _checkpoint(tmp_path / "run", generator=False, meaning={})
    export = f"a checkpoint of fine-tuning, whose export is {tmp_path}/run/model"
    with pytest.raises(UsageError, match=f"--pretrained_checkpoint {checkpoint}: {export}"):
        _export(monkeypatch, tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_starts_from_hugging_face_weights(runs, tmp_path, language):
    """The first checkpoint of a run whose learning rate is 0 holds the folder's numbers."""
    pieces = len((language / "vocab.txt").read_text().split())
    sizes = {"vocab_size": pieces, "num_hidden_layers": 1, "num_attention_heads": 2}
    _electra("ElectraForPreTraining", tmp_path, **sizes)
    done = runs.run("initial", f"--init_weights={tmp_path}", learning_rate=0, num_train_steps=3)
    assert "starting from the weights in" in done.stdout and "missing, random" in done.stdout
    theirs = load_file(tmp_path / "model.safetensors")
    ours = runs.weights("initial", "ckpt-3")
    np.testing.assert_array_equal(
        ours["electra/encoder/layer_0/intermediate/dense/kernel"],
        theirs["electra.encoder.layer.0.intermediate.dense.weight"].T,
    )
    error = one_line_error(runs.run("misfit", f"--init_weights={tmp_path}", expect=2, hidden_size=64))
    assert "hidden_size 32" in error


@pytest.mark.slow
def test_exporting_bad_input_stops_with_one_line(run_program, tmp_path):
    arguments = ["postprocess_pretrained_ckpt.py", "--output_dir", tmp_path / "out"]
    done = run_program(*arguments, "--pretrained_checkpoint", tmp_path / "nowhere")
    assert done.returncode == 2 and "nowhere: no such folder" in one_line_error(done)
    done = run_program(*arguments, "--pretrained_checkpoint", tmp_path)
    assert done.returncode == 2 and "neither a checkpoint" in one_line_error(done)
    assert not (tmp_path / "out").exists()

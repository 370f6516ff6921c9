"""Weights come in from every kind of source as the numbers that they are, or stop with one line."""

import dataclasses
import json
import pickle
import sys

import numpy as np
import pytest
from electra_cases import VOCABULARY_SIZE, tiny_config
from safetensors.numpy import load_file, save_file
from weight_cases import (
    GENERATOR_SIZES,
    KERNEL,
    VOCABULARY,
    assert_same_outputs,
    huggingface,
    huggingface_pair,
)

import checkpointing
import electra_weights
import pretrained_models
import weight_conversion
from command_line import UsageError
from pretraining import PretrainingModel

torch = pytest.importorskip("torch", reason="PyTorch is the independent truth here")
transformers = pytest.importorskip("transformers", reason="Hugging Face is the independent truth here")


def _load(name):
    return pretrained_models.load_pretrained(str(name), "electra_model")


def _assert_equal(one, two) -> None:
    assert one.tensors.keys() == two.tensors.keys()
    for name, tensor in one.tensors.items():
        np.testing.assert_array_equal(tensor, two.tensors[name])
        assert tensor.dtype == two.tensors[name].dtype == np.float32


def _to_pickle(folder, state=None) -> None:
    """Store the folder's weights, or others, as PyTorch does without safetensors."""
    path = folder / "model.safetensors"
    torch.save(
        state or {name: torch.tensor(value) for name, value in load_file(path).items()},
        folder / "pytorch_model.bin",
    )
    path.unlink()


# --------------------------------------------------------------------------------- Hugging Face's folders


@pytest.mark.parametrize(
    ("kind", "head", "more"),
    [
        ("ElectraForPreTraining", "discriminator", {"discriminator_predictions"}),
        ("ElectraForMaskedLM", "masked_lm", {"generator_predictions"}),
        ("ElectraForQuestionAnswering", "", {"qa_outputs"}),
        ("ElectraModel", "", set()),
        ("BertModel", "", {"pooler"}),
        ("BertForQuestionAnswering", "", {"qa_outputs"}),
    ],
)
def test_a_network_has_hugging_faces_outputs_from_safetensors_and_from_pickle(tmp_path, kind, head, more):
    model = huggingface(kind, tmp_path)
    network = _load(tmp_path)
    encoder = getattr(model, "electra", getattr(model, "bert", model))
    assert_same_outputs(network, model if head else encoder, head)
    assert {name.split("/")[0] for name in network.tensors} == {"electra"} | more
    assert network.is_masked_lm == (head == "masked_lm")
    assert network.vocabulary == VOCABULARY and network.settings["model_type"] in ("electra", "bert")
    if "qa_outputs" in more:
        np.testing.assert_array_equal(
            network.tensors["qa_outputs/kernel"], model.qa_outputs.weight.detach().numpy().T
        )
    # The tied output table is in old pickles too.
    _to_pickle(tmp_path, model.state_dict())
    _assert_equal(_load(tmp_path), network)


def test_names_go_to_hugging_face_and_back():
    config = pretrained_models.ElectraConfig(VOCABULARY_SIZE, 24, 32, 2, 1, 48)
    heads = ["discriminator_predictions/dense_prediction/kernel", electra_weights.OUTPUT_BIAS]
    heads += ["generator_predictions/LayerNorm/gamma", "qa_outputs/kernel", "squad_head/start/bias"]
    heads += ["squad_head/end_hidden/LayerNorm/beta", "pooler/dense/kernel"]
    for name in [*electra_weights.encoder_shapes(config), *heads]:
        assert electra_weights.our_name(electra_weights.huggingface_name(name)) == name


def test_old_names_of_layer_norms_are_known(tmp_path):
    huggingface("BertModel", tmp_path)
    network = _load(tmp_path)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in load_file(tmp_path / "model.safetensors").items()
    }
    save_file({f"bert.{name}": value for name, value in old.items()}, tmp_path / "model.safetensors")
    encoder = {n: t for n, t in _load(tmp_path).tensors.items() if "pooler" not in n}
    assert len(encoder) == 5 + 2 * 16
    for name, tensor in encoder.items():
        np.testing.assert_array_equal(tensor, network.tensors[name])


def test_shards_are_read_as_one_file(tmp_path):
    model = huggingface("ElectraForPreTraining", tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    VOCABULARY.save(tmp_path / "many" / "vocab.txt")
    shards = sorted((tmp_path / "many").glob("model-*.safetensors"))
    assert len(shards) > 2 and not (tmp_path / "many" / "model.safetensors").exists()
    _assert_equal(_load(tmp_path / "many"), _load(tmp_path / "one"))

    shards[1].unlink()
    with pytest.raises(UsageError, match=f"{shards[1].name}, which model.safetensors.index.json names"):
        _load(tmp_path / "many")
    index = tmp_path / "many" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../one/model.safetensors"}}))
    with pytest.raises(UsageError, match=r"'\.\./one/model\.safetensors', which is outside the folder"):
        _load(tmp_path / "many")


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_half_precision_weights_are_read_exactly(tmp_path, kind):
    model = huggingface("ElectraForPreTraining").to(getattr(torch, kind))
    model.save_pretrained(tmp_path)
    network = _load(tmp_path)
    expected = model.electra.encoder.layer[1].output.dense.weight.detach().float().numpy().T
    np.testing.assert_array_equal(network.tensors[KERNEL], expected)
    _to_pickle(tmp_path, model.state_dict())
    _assert_equal(_load(tmp_path), network)


def test_a_pair_gives_its_discriminator_and_a_generator_only_when_asked_for(tmp_path):
    discriminator, generator = huggingface_pair(tmp_path)
    assert_same_outputs(_load(tmp_path), discriminator, "discriminator")
    assert_same_outputs(_load(tmp_path / "generator"), generator, "masked_lm")
    networks = pretrained_models.load_networks(str(tmp_path), "input")
    assert [network.is_masked_lm for network in networks] == [False, True]
    assert networks[1].config.hidden_size == GENERATOR_SIZES["hidden_size"]


def test_a_padded_word_table_is_cut_to_the_vocabulary(tmp_path):
    huggingface("ElectraForMaskedLM", tmp_path, vocab_size=224)
    table = load_file(tmp_path / "model.safetensors")["electra.embeddings.word_embeddings.weight"]
    network = _load(tmp_path)
    assert network.config.vocab_size == VOCABULARY_SIZE and "from 224 rows" in network.remarks[0]
    np.testing.assert_array_equal(network.tensors[electra_weights.WORD_TABLE], table[:VOCABULARY_SIZE])
    assert network.tensors[electra_weights.OUTPUT_BIAS].shape == (VOCABULARY_SIZE,)


def test_the_vocabulary_is_found_in_tokenizer_json_too(tmp_path):
    """Version 5 of transformers saves no vocab.txt."""
    huggingface("ElectraModel", tmp_path / "model")
    for cased in (False, True):
        tokenizer = transformers.ElectraTokenizer(
            vocab=VOCABULARY.ids, do_lower_case=not cased, strip_accents=cased
        )
        (tmp_path / "model" / "vocab.txt").unlink(missing_ok=True)
        (tmp_path / "model" / "tokenizer.json").write_text(tokenizer.backend_tokenizer.to_str())
        vocabulary = _load(tmp_path / "model").vocabulary
        assert vocabulary.pieces == VOCABULARY.pieces
        assert (vocabulary.do_lower_case, vocabulary.strip_accents) == (not cased, cased)
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": {}}}))
    with pytest.raises(UsageError, match=r"tokenizer\.json holds no WordPiece vocabulary"):
        _load(tmp_path / "model")


# ---------------------------------------------------------------------------------- checkpoints of our own


def test_a_run_its_checkpoints_and_one_of_them_are_read(tmp_path):
    model = PretrainingModel(tiny_config(), VOCABULARY_SIZE)
    model.build()
    variables = {name: variable.numpy() for name, variable in model.named_variables().items()}
    state = {
        "discriminator": vars(model.discriminator_config),
        "generator": vars(model.generator_config),
    }
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for step in (3, 12):
        variables["electra/embeddings/LayerNorm/beta"] = np.full(24, step, np.float32)
        checkpointing.save(
            folder,
            "ckpt-",
            step,
            model=variables,
            optimizer={},
            state=state,
            extra_files=VOCABULARY.files(),
            keep=0,
        )
    for name, step in ((folder.parent, 12), (folder, 12), (folder / "ckpt-3", 3)):
        network = _load(name)
        assert (network.tensors["electra/embeddings/LayerNorm/beta"] == step).all()
        assert network.config == model.discriminator_config and network.vocabulary == VOCABULARY
    discriminator, generator = pretrained_models.load_networks(str(folder), "input")
    np.testing.assert_array_equal(
        generator.tensors["electra/encoder/layer_1/output/dense/kernel"],
        variables["generator/encoder/layer_1/output/dense/kernel"],
    )
    assert generator.config == model.generator_config
    assert not any(name.startswith("generator") for name in discriminator.tensors)

    weights = folder / "ckpt-12" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(UsageError, match=r"--electra_model .*ckpt-12: model\.safetensors does not have its"):
        _load(folder)


# ---------------------------------------------------------------------------------------------- bad input


class _Evil:
    """Unpickling it leaves a file behind."""

    def __init__(self, target):
        self._target = target

    def __reduce__(self):
        return open, (str(self._target), "w")


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_pickle_that_holds_code_is_refused_and_not_executed(tmp_path, as_zip):
    huggingface("ElectraModel", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    trap = tmp_path / "executed"
    if as_zip:
        torch.save({"weights": _Evil(trap)}, tmp_path / "pytorch_model.bin")
    else:
        (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"weights": _Evil(trap)}))
    with pytest.raises(UsageError, match=r"pytorch_model\.bin holds more than weights, or is damaged"):
        _load(tmp_path)
    assert not trap.exists()


def test_parameters_with_their_gradients_are_weights_too(tmp_path):
    """As torch.save(dict(model.named_parameters())) leaves them."""
    huggingface("ElectraModel", tmp_path)
    expected = _load(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    _to_pickle(tmp_path, {name: torch.nn.Parameter(torch.tensor(value)) for name, value in weights.items()})
    _assert_equal(_load(tmp_path), expected)


def test_a_tensor_that_is_no_plain_array_is_named_in_one_line(tmp_path):
    huggingface("ElectraModel", tmp_path)
    _to_pickle(tmp_path, {"weight": torch.ones(2).to_sparse()})
    with pytest.raises(
        UsageError, match=r"pytorch_model\.bin holds a tensor that is no plain array \(.*parse"
    ):
        _load(tmp_path)


def test_a_pickle_without_torch_stops_and_says_what_to_install(tmp_path, monkeypatch):
    huggingface("ElectraModel", tmp_path)
    _to_pickle(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match="can be read only where PyTorch is installed"):
        _load(tmp_path)


def _write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def _configure(**changes):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def _without(name):
    def change(folder):
        tensors = load_file(folder / "model.safetensors")
        del tensors[name]
        save_file(tensors, folder / "model.safetensors")

    return change


def _cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _truncate_pickle(folder):
    _to_pickle(folder)
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:2000])


def _list_for_weights(folder):
    (folder / "model.safetensors").unlink()
    torch.save([torch.zeros(2)], folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"holds no config\.json, no checkpoint of a run"),
        (_write("config.json", b"{"), r"config\.json cannot be read"),
        (_write("config.json", b"[]"), r"config\.json is not a JSON object"),
        (_configure(model_type="gpt2"), "'gpt2' is neither electra nor bert"),
        (_configure(hidden_act="relu"), "hidden_act 'relu' is not supported"),
        (_configure(num_attention_heads=5), "hidden_size 32: must be divisible"),
        (_configure(num_attention_heads=None), "a size that is no number"),
        (_configure(num_hidden_layers=3), "lacks 16 weights of the encoder, first electra.encoder.layer.2"),
        (_configure(intermediate_size=64), r"intermediate\.dense\.weight is \(32, 48\)"),
        (_without("electra.embeddings.LayerNorm.bias"), "first electra.embeddings.LayerNorm.bias"),
        (_cut, r"model\.safetensors is damaged"),
        (_write("model.safetensors", b""), r"model\.safetensors is damaged"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors and no pytorch_model"),
        (_truncate_pickle, r"pytorch_model\.bin (is damaged|holds more)"),
        (_list_for_weights, "holds no table of weights"),
        (_write("vocab.txt", b"a\nb\n"), r"the vocabulary lacks \[PAD\]"),
        (_write("vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\na\n"), "'a' stands twice"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_folder_is_said_in_one_line(tmp_path, damage, words):
    huggingface("ElectraForPreTraining", tmp_path)
    damage(tmp_path)
    with pytest.raises(UsageError, match=words) as caught:
        _load(tmp_path)
    assert str(caught.value).startswith("--electra_model ")


def test_what_is_wrong_with_a_source_is_said_by_the_flag_that_named_it(tmp_path):
    """Of its vocabulary, its shapes and its weights; a program has not every flag of another."""

    def refusal(action) -> str:
        with pytest.raises(UsageError) as caught:
            action()
        return str(caught.value)

    huggingface("ElectraModel", tmp_path)
    network = pretrained_models.load_pretrained(str(tmp_path), "init_checkpoint")
    where = f"--init_checkpoint {tmp_path}"
    variables = dict.fromkeys(("electra/encoder/layer_9/kernel", "head/kernel"))
    text = refusal(lambda: pretrained_models.assign_weights(variables, network, "head/"))
    assert text.startswith(f"{where}: lacks 1 weights of the encoder")
    variables = {KERNEL: np.zeros((1, 2))}
    text = refusal(lambda: pretrained_models.assign_weights(variables, network, "head/"))
    assert text.startswith(f"{where}: {KERNEL} is ")
    alone = dataclasses.replace(network, vocabulary=None)
    text = refusal(lambda: weight_conversion.write_network(tmp_path / "out", alone, "output_dir"))
    assert text.startswith(f"{where}: has no vocab.txt")
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    text = refusal(lambda: pretrained_models.load_pretrained(str(tmp_path), "input"))
    assert text.startswith(f"--input {tmp_path}/vocab.txt: the vocabulary lacks ")


def test_an_output_table_that_is_not_the_word_table_stops(tmp_path):
    model = huggingface("ElectraForMaskedLM", tmp_path)
    state = dict(model.state_dict())
    state["generator_lm_head.weight"] = state["generator_lm_head.weight"] + 1
    _to_pickle(tmp_path, state)
    with pytest.raises(UsageError, match=r"generator_lm_head\.weight is not the word table"):
        _load(tmp_path)


@pytest.mark.parametrize(
    "name", ["nowhere", "/nowhere/at/all", "tests/nowhere", "a/b/c", "owner/", "~/model", "x y/z"]
)
def test_a_mistyped_path_is_not_looked_for_on_the_hub(monkeypatch, name):
    monkeypatch.chdir(pretrained_models.Path(__file__).parents[1])
    with pytest.raises(UsageError, match=f"--electra_model {name}: no such folder"):
        pretrained_models.find_source(name, "electra_model")


def test_what_a_name_stands_for_is_seen_without_reading_it(tmp_path):
    for name in (
        "a.index",
        "pair/generator/config.json",
        "hf/config.json",
        "run/checkpoints/ckpt-5/state.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    kinds = {"a": "google", "a.index": "google", "pair": "pair", "hf": "folder", "run": "run", ".": "google"}
    for name, kind in kinds.items():
        assert pretrained_models.find_source(str(tmp_path / name), "flag").kind == kind
    assert pretrained_models.find_source("google/electra-small-discriminator", "flag").kind == "hub"

"""Any weights become Hugging Face folders with the same numbers, and so do fine-tuned ones."""

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from electra_cases import VOCABULARY_SIZE
from safetensors.numpy import load_file
from weight_cases import (
    VOCABULARY,
    google_tensors,
    huggingface,
    huggingface_pair,
    inputs,
    write_google_checkpoint,
)

import convert_weights
import files
import pretrained_models
import weight_conversion
from command_line import UsageError

torch = pytest.importorskip("torch", reason="PyTorch is the independent truth here")
huggingface_hub = pytest.importorskip("huggingface_hub", reason="it reads model cards")
transformers = pytest.importorskip("transformers", reason="Hugging Face is the independent truth here")


def _loaded_whole(folder, kind):
    model, info = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def _assert_same_state(one, two) -> None:
    one, two = one.state_dict(), two.state_dict()
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


# ------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("ElectraForPreTraining", {}),
        ("ElectraForPreTraining", {"embedding_size": 32}),
        ("ElectraForMaskedLM", {}),
        ("ElectraForQuestionAnswering", {}),
        ("ElectraModel", {}),
    ],
    ids=str,
)
def test_a_round_trip_is_equal_bit_by_bit(tmp_path, kind, sizes):
    model = huggingface(kind, tmp_path / "theirs", layer_norm_eps=1e-7, **sizes)
    network = pretrained_models.load_pretrained(str(tmp_path / "theirs"), "input")
    left_out = weight_conversion.write_network(tmp_path / "ours", network, "output")
    assert not left_out
    again = _loaded_whole(tmp_path / "ours", kind)
    _assert_same_state(model, again)
    assert again.config.architectures == [kind] and again.config.layer_norm_eps == 1e-7
    assert (tmp_path / "ours" / "vocab.txt").read_bytes() == (tmp_path / "theirs" / "vocab.txt").read_bytes()


def test_a_plain_span_head_is_exported_with_equal_logits(tmp_path):
    model = huggingface("ElectraForQuestionAnswering", tmp_path / "theirs")
    network = pretrained_models.load_pretrained(str(tmp_path / "theirs"), "input")
    weight_conversion.write_question_answering(
        tmp_path / "ours", network.config, network.tensors, VOCABULARY, {"joint_head": False}
    )
    again = _loaded_whole(tmp_path / "ours", "ElectraForQuestionAnswering")
    _, theirs, _ = inputs()
    with torch.no_grad():
        one, two = model(**theirs), again(**theirs)
    assert torch.equal(one.start_logits, two.start_logits) and torch.equal(one.end_logits, two.end_logits)
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["squad_head"] == {"joint_head": False}


def test_a_joint_span_head_comes_back_and_its_encoder_is_hugging_faces(tmp_path):
    encoder = huggingface("ElectraModel", tmp_path / "theirs")
    network = pretrained_models.load_pretrained(str(tmp_path / "theirs"), "input")
    random = np.random.RandomState(0)
    head = {
        "squad_head/start/kernel": random.normal(size=(32, 1)).astype(np.float32),
        "squad_head/start/bias": np.ones(1, np.float32),
        "squad_head/end_hidden/kernel": random.normal(size=(64, 32)).astype(np.float32),
        "squad_head/end_hidden/LayerNorm/gamma": random.normal(size=32).astype(np.float32),
        "squad_head/end_hidden/LayerNorm/beta": random.normal(size=32).astype(np.float32),
    }
    settings = {"joint_head": True, "variant": "xlnet"}
    for _ in range(2):  # the second export replaces the first
        weight_conversion.write_question_answering(
            tmp_path / "ours", network.config, network.tensors | head, VOCABULARY, settings
        )
    stored = load_file(tmp_path / "ours" / "model.safetensors")
    assert stored["squad_head.end_hidden.weight"].shape == (32, 64)
    assert "squad_head.end_hidden.LayerNorm.weight" in stored
    again = pretrained_models.load_pretrained(str(tmp_path / "ours"), "electra_model")
    assert again.settings["squad_head"] == settings
    assert again.tensors.keys() == network.tensors.keys() | head.keys()
    for name, tensor in (network.tensors | head).items():
        np.testing.assert_array_equal(again.tensors[name], tensor)
    _assert_same_state(transformers.ElectraModel.from_pretrained(tmp_path / "ours"), encoder)
    weight_conversion.write_network(tmp_path / "converted", again, "output")
    assert (
        pretrained_models.load_pretrained(str(tmp_path / "converted"), "f").settings["squad_head"] == settings
    )


@pytest.mark.parametrize(
    "kind", ["BertForSequenceClassification", "BertForMultipleChoice", "ElectraForMultipleChoice"]
)
def test_a_classifier_that_is_not_of_tokens_does_not_become_one_of_tokens(tmp_path, kind):
    """Its name and its shape are those of the head that labels tokens."""
    huggingface(kind, tmp_path / "theirs", id2label={0: "one"}, label2id={"one": 0})
    (network,) = pretrained_models.load_networks(str(tmp_path / "theirs"), "input")
    assert f"note: the classifier of {kind} is none of ELECTRA's heads and is left out" in (
        convert_weights.describe(network)
    )
    weight_conversion.write_network(tmp_path / "ours", network, "output")
    encoder = _loaded_whole(tmp_path / "ours", "ElectraModel")
    assert encoder.config.architectures == ["ElectraModel"] and encoder.config.id2label[0] == "LABEL_0"


@pytest.mark.parametrize(
    ("kind", "names_it"),
    [
        ("BertForTokenClassification", True),
        ("ElectraForTokenClassification", True),
        ("ElectraForTokenClassification", False),
        ("ElectraForSequenceClassification", True),
    ],
)
def test_a_classifier_of_electras_kinds_is_kept_with_its_labels(tmp_path, kind, names_it):
    model = huggingface(
        kind, tmp_path / "theirs", id2label={0: "one", 1: "two"}, label2id={"one": 0, "two": 1}
    )
    if not names_it:
        settings = json.loads((tmp_path / "theirs" / "config.json").read_text())
        del settings["architectures"]
        (tmp_path / "theirs" / "config.json").write_text(json.dumps(settings))
    network = pretrained_models.load_pretrained(str(tmp_path / "theirs"), "input")
    weight_conversion.write_network(tmp_path / "ours", network, "output")
    again = _loaded_whole(tmp_path / "ours", kind.replace("Bert", "Electra"))
    assert again.config.id2label == {0: "one", 1: "two"}
    _, theirs, real = inputs()
    with torch.no_grad():
        logits, expected = again(**theirs).logits, model(**theirs).logits
    if logits.ndim == 3:
        logits, expected = (part.flatten(0, 1)[real] for part in (logits, expected))
    assert torch.allclose(logits, expected, atol=1e-5)


def test_an_export_never_replaces_what_is_no_export(tmp_path):
    huggingface("ElectraModel", tmp_path / "theirs")
    network = pretrained_models.load_pretrained(str(tmp_path / "theirs"), "input")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("x")
    for name in ("letters", "file"):
        with pytest.raises(UsageError, match=f"--output .*{name}: is there already and is no exported model"):
            weight_conversion.write_network(tmp_path / name, network, "output")
    assert (tmp_path / "letters" / "letter.txt").read_text() == "dear"
    (tmp_path / "empty").mkdir()
    weight_conversion.write_network(tmp_path / "empty", network, "output")
    assert (tmp_path / "empty" / "config.json").exists()


@pytest.mark.parametrize("output", ["", ".", "../work", "..", "{parent}"])
def test_an_export_never_replaces_the_folder_that_somebody_works_in(output, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    shown = Path(output.format(parent=tmp_path))
    told = f"^--output {re.escape(str(shown))}: the working directory cannot be replaced, nor one above it"
    with pytest.raises(UsageError, match=told):
        weight_conversion.check_replaceable(shown, "output")
    weight_conversion.check_replaceable("../other", "output")


@pytest.mark.parametrize(
    "other", ["optimizer.pt", "checkpoint-500/state.pt", "pytorch_model.bin", ".git/HEAD"]
)
def test_an_export_never_replaces_a_folder_that_holds_more_than_an_export(other, tmp_path):
    """Converted in place, for one: the folder of somebody's own training stays as it is."""
    folder = tmp_path / "theirs"
    huggingface("ElectraModel", folder)
    network = pretrained_models.load_pretrained(str(folder), "input")
    (folder / other).parent.mkdir(exist_ok=True)
    (folder / other).write_text("weeks of work")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    name = other.partition("/")[0]
    with pytest.raises(UsageError, match=f"--output {folder}: is not replaced, because it holds '{name}',"):
        weight_conversion.write_network(folder, network, "output")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_of_two_networks_none_is_written_where_one_cannot_be(tmp_path, monkeypatch):
    huggingface_pair(tmp_path / "pair")
    (tmp_path / "out" / "generator").mkdir(parents=True)
    (tmp_path / "out" / "generator" / "letter.txt").write_text("dear")
    arguments = ["--input", str(tmp_path / "pair"), "--output", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["convert_weights.py", *arguments])
    with pytest.raises(UsageError, match="generator: is there already and is no exported model"):
        convert_weights.main()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["generator"]


def test_an_export_replaces_an_export_with_all_that_it_has(tmp_path):
    huggingface("ElectraModel", tmp_path / "theirs")
    network = pretrained_models.load_pretrained(str(tmp_path / "theirs"), "input")
    for card in ("one", "two"):
        weight_conversion.write_network(tmp_path / "ours", network, "output", card)
        assert (tmp_path / "ours" / "README.md").read_text() == card
    # In place too, where there is nothing else.
    weight_conversion.write_network(tmp_path / "theirs", network, "output")
    _assert_same_state(
        _loaded_whole(tmp_path / "theirs", "ElectraModel"), _loaded_whole(tmp_path / "ours", "ElectraModel")
    )


def _convert(monkeypatch, source: Path, output: Path) -> str:
    """The card that convert_weights.py writes."""
    monkeypatch.setattr("sys.argv", ["convert_weights.py", "--input", str(source), "--output", str(output)])
    assert convert_weights.main() == 0
    return (output / "README.md").read_text()


def test_converted_weights_keep_the_card_that_lay_beside_them(tmp_path, monkeypatch):
    huggingface("ElectraModel", tmp_path / "theirs")
    text = "# Theirs\n\nTrained on | bars | and `ticks`."
    (tmp_path / "theirs" / "README.md").write_text(f"---\nlicense: apache-2.0\ntags:\n- x\n---\n{text}\n")
    card = _convert(monkeypatch, tmp_path / "theirs", tmp_path / "ours")
    parsed = huggingface_hub.ModelCard(card)
    assert parsed.data.license == "apache-2.0" and parsed.data.tags == ["x"]
    assert f"`{tmp_path / 'theirs'}`" in card and card.endswith(f"{text}\n")
    # In place, once more and again, it says so once.
    cards = [_convert(monkeypatch, tmp_path / "ours", tmp_path / "ours") for _ in range(2)]
    assert cards[0] == cards[1] and cards[0].count("convert_weights.py") == 2


def test_a_card_of_converted_weights_says_what_they_are_and_what_is_not_recorded(tmp_path, monkeypatch):
    model = huggingface("ElectraForMaskedLM", tmp_path / "theirs")
    card = _convert(monkeypatch, tmp_path / "theirs", tmp_path / "ours")
    parsed = huggingface_hub.ModelCard(card)
    assert (parsed.data.license, parsed.data.pipeline_tag) == ("unknown", "fill-mask")
    assert f"| `hidden_size` | `{model.config.hidden_size}` |" in card
    assert "Not recorded: no card lay beside the weights." in card


def test_an_export_that_fails_leaves_the_earlier_one(tmp_path, monkeypatch):
    huggingface("ElectraModel", tmp_path / "theirs")
    network = pretrained_models.load_pretrained(str(tmp_path / "theirs"), "input")
    weight_conversion.write_network(tmp_path / "ours", network, "output", "one")

    flush = files.flush_to_disk

    def fill_disk(path):
        if path.name == "model.safetensors":
            raise OSError("no space left on device")
        flush(path)

    monkeypatch.setattr(files, "flush_to_disk", fill_disk)
    with pytest.raises(OSError, match="no space"):
        weight_conversion.write_network(tmp_path / "ours", network, "output", "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "theirs"]
    assert (tmp_path / "ours" / "README.md").read_text() == "one"


# ------------------------------------------------------------------------------------------- the program


@pytest.mark.slow
def test_a_joint_google_checkpoint_becomes_two_folders(tmp_path, run_program):
    """Padded, cased, with slots: the folders load whole, and their weights are the checkpoint's."""
    sizes = {"vocab_size": VOCABULARY_SIZE + 5}
    discriminator, generator = huggingface_pair(**sizes)
    tensors = google_tensors(generator, "generator") | google_tensors(discriminator)
    prefix = write_google_checkpoint(tmp_path / "electra_tiny" / "model.ckpt-7", tensors)
    error = run_program("convert_weights.py", "--input", prefix, "--output", tmp_path / "out")
    assert error.returncode == 2 and "has no vocab.txt" in error.stderr
    pieces = [*VOCABULARY.pieces[:-1], "Paris"]
    (prefix.parent / "vocab.txt").write_text("\n".join(pieces) + "\n")
    done = run_program("convert_weights.py", "--input", prefix.parent, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for words in (
        "ElectraForPreTraining",
        "ElectraForMaskedLM",
        "2 layers of 32",
        "211 pieces, cased",
        "216",
    ):
        assert words in done.stdout, done.stdout
    for name, kind, model in (
        ("discriminator", "ElectraForPreTraining", discriminator),
        ("generator", "ElectraForMaskedLM", generator),
    ):
        again = _loaded_whole(tmp_path / "out" / name, kind).state_dict()
        for weight, tensor in model.state_dict().items():
            rows = VOCABULARY_SIZE if tensor.shape[:1] == (VOCABULARY_SIZE + 5,) else None
            assert torch.equal(again[weight], tensor[:rows]), weight
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out" / name)
        assert tokenizer("Paris")["input_ids"][1] == VOCABULARY_SIZE - 1


@pytest.mark.slow
def test_a_bert_becomes_an_electra_without_its_pooler(tmp_path, run_program):
    bert = huggingface("BertModel", tmp_path / "bert")
    done = run_program("convert_weights.py", "--input", tmp_path / "bert", "--output", tmp_path / "electra")
    assert done.returncode == 0, done.stderr
    assert "left out: 2 that no ELECTRA has, first pooler.dense.bias" in done.stdout
    electra = _loaded_whole(tmp_path / "electra", "ElectraModel")
    _, theirs, _ = inputs()
    with torch.no_grad():
        assert torch.allclose(
            electra(**theirs).last_hidden_state, bert(**theirs).last_hidden_state, atol=1e-6
        )


@pytest.mark.slow
def test_bad_input_stops_with_one_line(tmp_path, usage_error):
    error = usage_error("convert_weights.py", "--input", tmp_path / "nowhere", "--output", tmp_path / "out")
    assert "--input" in error and "nowhere: no such folder" in error
    error = usage_error("convert_weights.py", "--input", tmp_path, "--output", tmp_path / "out")
    assert "holds no config.json, no checkpoint of a run and no TensorFlow checkpoint" in error
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------ the hub


class _Hub(http.server.ThreadingHTTPServer):
    """The routes of the Hugging Face hub that a download asks for, over one folder."""

    def __init__(self, folder, name):
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.name, self.commit = name, "0123456789abcdef0123456789abcdef01234567"
        self.contents = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _HubHandler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        hub.asked.append(path)
        api, files = f"/api/models/{hub.name}", f"/{hub.name}/resolve/{hub.commit}/"
        headers = {"X-Repo-Commit": hub.commit}
        if path == f"{api}/revision/main":
            siblings = [{"rfilename": name} for name in hub.contents]
            content = json.dumps({"id": hub.name, "sha": hub.commit, "siblings": siblings}).encode()
        elif path.startswith(f"{api}/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in hub.contents.items()
            ]
            content = json.dumps(tree).encode()
        elif path.startswith(files) and path.removeprefix(files) in hub.contents:
            content = hub.contents[path.removeprefix(files)]
            headers["ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(tmp_path):
    """A hub with one model, whose folder holds pickles and other frameworks' weights too."""
    huggingface("ElectraForPreTraining", tmp_path / "model")
    (tmp_path / "model" / "tf_model.h5").write_bytes(b"weights of another framework")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"never wanted")
    server = _Hub(tmp_path / "model", "somebody/electra-tiny")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def _convert_from_hub(hub, tmp_path, name="somebody/electra-tiny", **environment):
    proxies = {key: "" for key in os.environ if key.lower().endswith("_proxy")}
    environment = {"HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": hub.url, **proxies, **environment}
    command = [sys.executable, str(ROOT / "convert_weights.py"), "--input", name, "--output", "out"]
    return subprocess.run(
        command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
def test_a_name_on_the_hub_is_downloaded_once_and_then_read_offline(tmp_path, hub):
    done = _convert_from_hub(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "somebody/electra-tiny: ElectraForPreTraining" in done.stdout
    model = transformers.ElectraForPreTraining.from_pretrained(tmp_path / "model")
    _assert_same_state(_loaded_whole(tmp_path / "out", "ElectraForPreTraining"), model)
    fetched = {path.rpartition("/")[2] for path in hub.asked if "/resolve/" in path}
    assert fetched == {"config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json"}

    hub.asked.clear()
    offline = _convert_from_hub(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert offline.returncode == 0 and not hub.asked, offline.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "environment"),
    [
        ("somebody/electra-tiny", {"HF_HUB_OFFLINE": "1"}),
        ("somebody/else", {}),
        ("somebody/electra-tiny", {"HF_ENDPOINT": "http://127.0.0.1:9"}),
    ],
    ids=["offline", "unknown", "unreachable"],
)
def test_a_hub_that_cannot_be_asked_gives_one_line(tmp_path, hub, name, environment):
    done = _convert_from_hub(hub, tmp_path, name, **environment)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert f"--input {name}: no such folder, and not" in line
    assert not (tmp_path / "out").exists()

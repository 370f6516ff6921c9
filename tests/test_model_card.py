"""Every export has a model card that the hub can read, and that says what the run recorded and no more."""

import json

import numpy as np
import pytest
from run_logs import write_run
from weight_cases import VOCABULARY

import model_card
from architecture import ElectraConfig
from markdown_text import code, plain, table
from pretrained_models import PretrainedModel

huggingface_hub = pytest.importorskip("huggingface_hub")

CONFIG = ElectraConfig(
    vocab_size=69,
    embedding_size=24,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=64,
)


def network(*heads: str) -> PretrainedModel:
    tensors = {name: np.zeros((3, 4), np.float32) for name in ("electra/embeddings/word_embeddings", *heads)}
    return PretrainedModel("ckpt", CONFIG, tensors, VOCABULARY, {}, "input")


DISCRIMINATOR = network("discriminator_predictions/dense/kernel")
GENERATOR = network("generator_predictions/dense/kernel")


def checkpoint(folder, name="made_up", **objective):
    """Update 12,000 of a run whose log goes up to 20,000, with an evaluation every 5,000."""
    shards = folder / "shards"
    shards.mkdir()
    (shards / "pretrain_data.tfrecord-0-of-1").write_bytes(b"")
    sources = [{"name": "a", "licence": "CC BY-SA 4.0"}, {"name": "b"}]
    manifest = {"title": "Made up", "documents": 4321, "tokens": 1234567, "sources": sources}
    (shards / "manifest.json").write_text(json.dumps(manifest | {"settings": {"max_seq_length": 128}}))
    settings = {"model_name": name, "pretrain_tfrecords": str(shards), "seed": 7} | objective
    path = write_run(folder / "run", settings) / "checkpoints" / "ckpt-12000"
    path.mkdir(parents=True)
    (path / "state.json").write_text(json.dumps({"config": settings, "step": 12_000, "phase": 1}))
    return path


def test_the_hub_reads_its_front_matter(tmp_path):
    path = checkpoint(tmp_path, name='a "name": #1 | *b*')
    discriminator, generator = (
        huggingface_hub.ModelCard(model_card.render(path, one, "cc-by-sa-4.0")).data
        for one in (DISCRIMINATOR, GENERATOR)
    )
    assert discriminator.license == generator.license == "cc-by-sa-4.0"
    assert discriminator.library_name == "transformers" and "electra" in discriminator.tags
    assert (discriminator.pipeline_tag, generator.pipeline_tag) == (None, "fill-mask")


def test_it_says_what_was_recorded(tmp_path):
    """The last evaluation before the checkpoint is that of update 10,000: AUC .58 + .3 / 2."""
    card = model_card.render(checkpoint(tmp_path), DISCRIMINATOR, "unknown")
    for text in (
        "# made\\_up: ELECTRA discriminator",
        "ElectraForPreTraining",
        "24 parameters",
        "| `hidden_size` | `32` |",
        "| documents | 4,321 |",
        "| their licences | CC BY-SA 4.0; not recorded |",
        "| `learning_rate` | `0.0002` |",
        "| `seed` | `7` |",
        "At update 10,000",
        "| replaced-token AUC | 0.730 |",
        "Not stated.",
    ):
        assert text in card, text
    assert "masked-LM" not in card.partition("## Held-out")[2]


def test_the_generators_card_has_the_generators_figures(tmp_path):
    card = model_card.render(checkpoint(tmp_path), GENERATOR, "mit")
    assert "ElectraForMaskedLM" in card and "| masked-LM loss at [MASK], nats | 5.000 |" in card
    assert "AUC" not in card and "`mit`" in card


def test_a_run_by_masked_lm_alone_has_no_discriminator_and_no_generator(tmp_path):
    """Its two folders hold one encoder, without a head and with that of masked LM."""
    path = checkpoint(tmp_path, electra_objective=False)
    encoder, with_head = (model_card.render(path, one, "mit") for one in (network(), GENERATOR))
    assert "# made\\_up: ELECTRA encoder" in encoder and "ElectraModel" in encoder
    assert "# made\\_up: masked language model" in with_head and "pipeline_tag: fill-mask" in with_head
    for card in (encoder, with_head):
        assert "masked language modelling alone" in card and "To be fine-tuned" in card
        assert not [
            word for word in ("discriminator", "generator", "replace") if word in _without_tables(card)
        ]


def test_a_generator_that_is_the_discriminators_encoder_is_not_called_worse_than_it(tmp_path):
    card = model_card.render(checkpoint(tmp_path, untied_generator=False), GENERATOR, "mit")
    assert "the discriminator's own encoder" in card and "better choice" not in card
    assert "fill in masks" in card


def _without_tables(card: str) -> str:
    return "\n".join(line for line in card.splitlines() if not line.startswith("|"))


def test_a_checkpoint_by_itself_says_what_it_knows(tmp_path):
    """Moved away from its run, without log and shards."""
    path = tmp_path / "elsewhere" / "a" / "ckpt-p2-5"
    path.mkdir(parents=True)
    settings = {"pretrain_tfrecords": "gone/*", "learning_rate": 0.5, "phase2": True}
    (path / "state.json").write_text(json.dumps({"config": settings, "step": 5, "phase": 2}))
    card = model_card.render(path, DISCRIMINATOR, "unknown")
    assert "Shards `gone/*`, whose manifest was not there" in card
    assert "| setting | phase 2 |" in card and "| `learning_rate` | `0.5` |" in card
    assert "Not known: the run's log was not there at the export." in card
    assert "Not evaluated" not in card


def test_a_run_without_held_out_text_was_not_evaluated(tmp_path):
    path = checkpoint(tmp_path)
    (path.parents[1] / "logs" / "dllogger.log").unlink()
    write_run(path.parents[1], updates=(500, 12_000))
    assert "Not evaluated on held-out text." in model_card.render(path, DISCRIMINATOR, "mit")


def test_data_are_those_that_the_checkpoint_has_seen(tmp_path):
    """Phase 1's checkpoint saw one folder of shards, phase 2's both; so it is where the log is gone."""
    first = checkpoint(tmp_path)
    shards = tmp_path / "shards_512"
    shards.mkdir()
    (shards / "pretrain_data.tfrecord-0-of-1").write_bytes(b"")
    (shards / "manifest.json").write_text(json.dumps({"title": "Long", "settings": {"max_seq_length": 512}}))
    settings = {"phase2": True, "max_seq_length": 512, "pretrain_tfrecords": str(shards)}
    write_run(first.parents[1], settings, updates=(500, 1000))
    second = first.with_name("ckpt-p2-1000")
    second.mkdir()
    (second / "state.json").write_text(json.dumps({"config": settings, "step": 1000, "phase": 2}))
    titles = ("Made up, sequences of 128", "Long, sequences of 512")
    for path, seen in ((first, (True, False)), (second, (True, True))):
        card = model_card.render(path, DISCRIMINATOR, "mit")
        assert tuple(title in card for title in titles) == seen
        assert ("| setting | phase 1 | phase 2 |" in card) == seen[1]
    (first.parents[1] / "logs" / "dllogger.log").unlink()
    card = model_card.render(first, DISCRIMINATOR, "mit")
    assert tuple(title in card for title in titles) == (True, False)


def test_text_in_tables_stays_text():
    assert table(("a", "b"), [("1", "2")], right=(1,)) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"
    assert plain("a|b <i>*x*</i>\n_") == r"a&#124;b &#60;i&#62;\*x\*&#60;/i&#62; \_"
    assert (code("a*b"), code("a|`")) == ("`a*b`", r"a&#124;\`")

"""A fine-tuned network -> its model card, README.md in the form of the Hugging Face hub.

The card says what the run read, was set to and measured, and of what is not recorded that it is not. What it
shares with the cards of pre-trained networks is model_card.py's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import checkpointing
import files
import tfrecords
from architecture import ElectraConfig
from command_line import UsageError
from electra_weights import Tensors
from markdown_text import code, plain, table
from model_card import architecture_table, front_matter, how_to_load, licence_note
from weight_conversion import architecture_name

_PIPELINES = {
    "ElectraForQuestionAnswering": "question-answering",
    "ElectraForSequenceClassification": "text-classification",
    "ElectraForTokenClassification": "token-classification",
}


@dataclass(frozen=True)
class ReadFile:
    """A file that a run read: what for, where it lies, and how much it holds, in words."""

    purpose: str
    path: str
    counts: str


@dataclass(frozen=True)
class FineTuned:
    """What a card is made of.

    Attributes:
        task: for people, such as SQuAD 2.0.
        program: that fine-tuned.
        source: the weights that it started from.
        tensors: of the fine-tuned network, by our names.
        updates: that were done.
        settings: of the training, by flag or fact.
        metrics: as logged, by name; {} where nothing was scored.
        use: what the network does, in a sentence or two.
        labels: that it gives.
    """

    task: str
    program: str
    source: str
    config: ElectraConfig
    tensors: Tensors
    read: Sequence[ReadFile]
    updates: int
    settings: Mapping[str, object]
    metrics: Mapping[str, float]
    use: str
    licence: str
    labels: Sequence[str] = field(default=())


def render(model: FineTuned) -> str:
    """The card."""
    name = architecture_name(model.tensors)
    pipeline = _PIPELINES.get(name, "")
    tags = [pipeline] if pipeline else ["question-answering"]
    sections = [
        front_matter(model.licence, pipeline, tags),
        f"# ELECTRA, fine-tuned on {plain(model.task)}",
        _introduction(model, name if pipeline else ""),
        architecture_table(model.config, model.tensors),
        _base(model.source),
        _data(model.read),
        _training(model),
        _metrics(model),
        _use(model),
        licence_note(model.licence, "Those of the base weights and of the data are not recorded here."),
    ]
    return "\n\n".join(sections) + "\n"


def _introduction(model: FineTuned, name: str) -> str:
    what = f"An encoder with a head for {plain(model.task)}, after {model.updates:,} updates."
    if name:
        return f"{what}\n\n{how_to_load(name)}"
    # The joint span head is nobody else's.
    return f"""{what} Hugging Face transformers has no such head and loads the encoder alone; the
toolkit that it was trained with answers with it:

```bash
python run_inference.py --electra_model "this folder" --question "..." --context "..."
```"""


def _base(source: str) -> str:
    cards = _cards_of_data(source)
    if cards:
        where = "The data of its pre-training are described in " + ", ".join(map(code, cards)) + "."
    else:
        where = "Where the data of its pre-training are described is not recorded."
    return f"## Base weights\n\nFrom {code(source)}. {where}"


def _cards_of_data(source: str) -> list[str]:
    """The data cards of a pre-training run whose checkpoint the weights came from, where they still are."""
    try:
        state = files.read_json(Path(source) / checkpointing.STATE_NAME)
        shards = tfrecords.find_shards(state["config"]["pretrain_tfrecords"], "pretrain_tfrecords")
    except (OSError, ValueError, KeyError, TypeError, UsageError):
        return []
    cards = dict.fromkeys(Path(shard).parent / tfrecords.DATA_CARD_NAME for shard in shards)
    return [str(card) for card in cards if card.is_file()]


def _data(read: Sequence[ReadFile]) -> str:
    rows = [
        (plain(file.purpose), code(Path(file.path).name), plain(file.counts), code(_checksum(file.path)))
        for file in read
    ]
    return f"## Data\n\n{table(('for', 'file', 'holds', 'SHA-256'), rows)}"


def _checksum(path: str) -> str:
    try:
        return files.sha256_of_file(path)
    except OSError:
        return "not there any more"


def _training(model: FineTuned) -> str:
    rows = [
        (code(name), code(str(value))) for name, value in model.settings.items() if value not in (None, "")
    ]
    return f"## Training\n\nBy `{model.program}`.\n\n{table(('setting', 'value'), rows)}"


def _metrics(model: FineTuned) -> str:
    if not model.metrics:
        return "## Metrics\n\nNot evaluated."
    rows = [(code(name), f"{value:.6g}") for name, value in model.metrics.items()]
    text = "Of the evaluation file above, as the run logged them."
    return f"## Metrics\n\n{text}\n\n{table(('metric', 'value'), rows, right=(1,))}"


def _use(model: FineTuned) -> str:
    labels = f" Its labels are {', '.join(map(code, model.labels))}." if model.labels else ""
    return f"""## Intended use

{plain(model.use)}{labels}
It learned from the files above, in their language and kind of text; it may repeat their mistakes and
prejudices and those of its pre-training, and what it says is not checked for truth."""

"""A checkpoint's network -> its model card, README.md in the form of the Hugging Face hub.

The card says what the checkpoint, the run's log and its data's manifest record, and of what is not recorded
that it is not. Nothing in it depends on when it is written.
"""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import checkpointing
import files
import run_log
from architecture import ElectraConfig
from command_line import UsageError
from configuration import PretrainingConfig
from electra_weights import DISCRIMINATOR_HEAD, Tensors
from markdown_text import code, plain, table
from pretrained_models import PretrainedModel
from run_log import Phase, RunLog, read_run
from weight_conversion import MODEL_CARD_NAME, architecture_name

# Of weights that no card lies beside.
NOT_RECORDED = "## Data, training and metrics\n\nNot recorded: no card lay beside the weights."
LICENCE_NOT_RECORDED = "## Licence\n\nNot recorded beside the weights."

_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_SETTINGS = (
    "max_seq_length",
    "num_train_steps",
    "train_batch_size",
    "gradient_accumulation_steps",
    "global_batch_size",
    "workers",
    "sequences_per_update",
    "optimizer",
    "learning_rate",
    "lr_schedule",
    "num_warmup_steps",
    "weight_decay_rate",
    "opt_beta_1",
    "opt_beta_2",
    "mask_prob",
    "disc_weight",
    "gen_weight",
    "temperature",
    "electra_objective",
    "precision",
    "seed",
    "init_weights",
)
# (label, key, format); each network's card has its own.
_MASKED_LM = (
    ("masked-LM loss at [MASK], nats", "eval_masked_lm_loss_masked_only", "{:.3f}"),
    ("the same of word frequencies alone", "eval_unigram_cross_entropy", "{:.3f}"),
    ("masked-LM accuracy at [MASK], %", "eval_masked_lm_accuracy_masked_only", "{:.1f}"),
)
_DETECTION = (
    ("replaced-token accuracy, %", "eval_disc_accuracy", "{:.1f}"),
    ("the same of calling all tokens original, %", "eval_disc_majority_accuracy", "{:.1f}"),
    ("replaced-token AUC", "eval_disc_auc", "{:.3f}"),
    ("replaced-token precision", "eval_disc_precision", "{:.3f}"),
    ("replaced-token recall", "eval_disc_recall", "{:.3f}"),
)
_ALWAYS = (("held-out tokens", "eval_tokens", "{:,.0f}"),)


@dataclass(frozen=True)
class _Role:
    """What a network was in its run.

    Attributes:
        name: in the title.
        tags: for the hub.
        what: it is.
        use: what it is for.
    """

    name: str
    tags: tuple[str, ...]
    what: str
    use: str


_TO_FINE_TUNE = """To be fine-tuned: classification, tagging, extractive question answering, in the language
and the kind of text of the training data."""
_DISCRIMINATOR = _Role(
    "ELECTRA discriminator",
    ("replaced-token-detection",),
    "The network that ELECTRA's pre-training is for: an encoder, to be fine-tuned on a task.",
    f"{_TO_FINE_TUNE} As it is, it says of each token whether it was replaced.",
)
_GENERATOR = _Role(
    "ELECTRA generator",
    ("fill-mask",),
    "A masked language model: the network that proposed replacements in ELECTRA's training.",
    """To study the pre-training, to go on with it (`--init_weights`), and to fill in masks. As an
encoder for a task the discriminator is the better choice.""",
)
_TIED_GENERATOR = dataclasses.replace(
    _GENERATOR,
    what="A masked language model: the discriminator's own encoder, which proposed its replacements too.",
    use="To study the pre-training, to go on with it (`--init_weights`), and to fill in masks.",
)
# Of a run without the replaced-token objective.
_ENCODER = _Role(
    "ELECTRA encoder",
    (),
    "An encoder that was trained by masked language modelling alone, to be fine-tuned on a task.",
    _TO_FINE_TUNE,
)
_MASKED_LANGUAGE_MODEL = _Role(
    "masked language model",
    ("fill-mask",),
    "An encoder that was trained by masked language modelling alone, with the head that fills in masks.",
    f"{_TO_FINE_TUNE} As it is, it fills in masks.",
)


def render(checkpoint: Path, network: PretrainedModel, licence: str) -> str:
    """The card of one of a checkpoint's networks; `licence` is an identifier of the hub."""
    state = files.read_json(checkpoint / checkpointing.STATE_NAME)
    run = _run_of(checkpoint)
    phases = _phases(run, state)
    settings = state["config"]
    role = _role(network, settings)
    sections = [
        front_matter(licence, "fill-mask" if network.is_masked_lm else "", role.tags),
        f"# {plain(str(settings.get('model_name', 'ELECTRA')))}: {role.name}",
        _introduction(role, network, state),
        architecture_table(network.config, network.tensors),
        _data(phases, state),
        _training(phases),
        _held_out(run, state, network),
        _use(role),
        licence_note(licence, "The licences of the training text are listed above."),
    ]
    return "\n\n".join(sections) + "\n"


def _role(network: PretrainedModel, settings: dict) -> _Role:
    """By what a run's settings make of a network; old checkpoints do not have all of them."""
    if not settings.get("electra_objective", True):
        return _MASKED_LANGUAGE_MODEL if network.is_masked_lm else _ENCODER
    if not network.is_masked_lm:
        return _DISCRIMINATOR
    return _GENERATOR if settings.get("untied_generator", True) else _TIED_GENERATOR


def _run_of(checkpoint: Path) -> RunLog | None:
    """The run that a checkpoint lies in; None where its log is not there any more."""
    try:
        return read_run(str(checkpoint.resolve().parents[1]))
    except (UsageError, OSError):
        return None


def _phases(run: RunLog | None, state: dict) -> list[Phase]:
    """The phases up to the checkpoint's; that one by its settings where the log does not have it."""
    phases = [phase for phase in run.phases if phase.number <= state["phase"]] if run else []
    if not phases or phases[-1].number != state["phase"]:
        phases.append(Phase(state["phase"], settings=state["config"]))
    return phases


def front_matter(licence: str, pipeline_tag: str, tags: Sequence[str]) -> str:
    """What the hub reads of a card; "" for a network that none of its pipelines runs."""
    lines = ["---", f"license: {licence}", "library_name: transformers"]
    if pipeline_tag:
        lines.append(f"pipeline_tag: {pipeline_tag}")
    return "\n".join([*lines, "tags:", *(f"- {tag}" for tag in ("electra", *tags)), "---"])


def _introduction(role: _Role, network: PretrainedModel, state: dict) -> str:
    loading = how_to_load(architecture_name(network.tensors))
    return f"{role.what} From update {state['step']:,} of phase {state['phase']}.\n\n{loading}"


def card_beside(source: str) -> tuple[str, str]:
    """Front matter, without its rules, and text of the card in a folder of weights.

    Both "" where there is none, as of a checkpoint or a name on the hub; the first where a card has none.
    """
    try:
        card = (Path(source) / MODEL_CARD_NAME).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return "", ""
    found = _FRONT_MATTER.match(card)
    return (found[1], card[found.end() :]) if found else ("", card)


def how_to_load(name: str) -> str:
    """The lines that load a folder in Hugging Face transformers as the class of this name."""
    return f"""```python
from transformers import AutoTokenizer, {name}

model = {name}.from_pretrained("this folder")
tokenizer = AutoTokenizer.from_pretrained("this folder")
```"""


def architecture_table(config: ElectraConfig, tensors: Tensors) -> str:
    """The sizes of a network, and how many parameters it has."""
    rows = [(code(name), code(str(value))) for name, value in dataclasses.asdict(config).items()]
    count = sum(tensor.size for tensor in tensors.values())
    return f"## Architecture\n\n{count:,} parameters.\n\n{table(('setting', 'value'), rows)}"


def _data(phases: Sequence[Phase], state: dict) -> str:
    lines = ["## Training data", ""]
    manifests = run_log.manifests(phases)
    if not manifests:
        patterns = code(str(state["config"].get("pretrain_tfrecords", "")))
        return "\n".join([*lines, f"Shards {patterns}, whose manifest was not there at the export."])
    for _, manifest in manifests:
        sources = [source for source in manifest.get("sources", []) if isinstance(source, dict)]
        licences = sorted({str(source.get("licence", "not recorded")) for source in sources})
        names = ("documents", "examples", "tokens", "vocabulary_size")
        rows = [(name.replace("_", " "), f"{manifest[name]:,}") for name in names if name in manifest]
        rows += [("sources", f"{len(sources):,}"), ("their licences", plain("; ".join(licences)))]
        length = manifest.get("settings", {}).get("max_seq_length", "?")
        title = plain(str(manifest.get("title", "Pre-training examples")))
        lines += [f"{title}, sequences of {length}:", "", table(("", ""), rows), ""]
    return "\n".join([*lines, "`DATA_CARD.md` beside the shards has the whole account."])


def _training(phases: Sequence[Phase]) -> str:
    rows = [
        (code(name), *(code(str(phase.settings.get(name, "not recorded"))) for phase in phases))
        for name in _SETTINGS
        if any(phase.settings.get(name) not in (None, "") for phase in phases)
    ]
    header = ("setting", *(f"phase {phase.number}" for phase in phases))
    usual = len(dataclasses.fields(PretrainingConfig))
    return f"""## Training

{table(header, rows)}

`pretrain_config.json` in the run's folder has all {usual} settings."""


def _held_out(run: RunLog | None, state: dict, network: PretrainedModel) -> str:
    title = "## Held-out metrics\n\n"
    logged = [phase for phase in run.phases if phase.number == state["phase"]] if run else []
    if not logged:
        return f"{title}Not known: the run's log was not there at the export."
    lines = logged[0].held_out
    update = max((update for update in lines if update <= state["step"]), default=None)
    if update is None:
        return f"{title}Not evaluated on held-out text."
    values = lines[update]
    tells_tokens_apart = any(name.startswith(DISCRIMINATOR_HEAD) for name in network.tensors)
    wanted = (_DETECTION if tells_tokens_apart else _MASKED_LM) + _ALWAYS
    rows = [(label, form.format(values[key])) for label, key, form in wanted if key in values]
    return (
        f"{title}At update {update:,}, on text that was kept out of training, 15 % of its tokens picked.\n\n"
        + table(("", ""), rows, right=(1,))
    )


def _use(role: _Role) -> str:
    return f"""## Intended use

{role.use}
It was trained on text alone, whose mistakes and prejudices it may repeat; what it says is not checked for
truth, and no evaluation of either is part of this card."""


def licence_note(licence: str, of_data: str) -> str:
    """The section on the licence; `of_data` says where those of the data are found."""
    if licence == "unknown":
        return "## Licence\n\nNot stated. The export takes it from `--license`."
    return f"## Licence\n\n`{licence}`. {of_data}"

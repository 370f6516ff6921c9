"""Weights that were converted -> their model card, README.md in the form of the Hugging Face hub.

A checkpoint of pre-training gets the card that its export has. Others keep the card that lies beside them;
where none does, it says what the weights themselves do, and that the rest is not recorded.
"""

from pathlib import Path

import checkpointing
import files
import model_card
from markdown_text import code
from pretrained_models import PretrainedModel
from weight_conversion import architecture_name


def render(network: PretrainedModel) -> str:
    """The card."""
    checkpoint = _pretraining_checkpoint(network.source)
    if checkpoint is not None:
        return model_card.render(checkpoint, network, "unknown")
    front, card = model_card.card_beside(network.source)
    note = f"Converted by `convert_weights.py` from {code(network.source)}"
    if card:
        # Not once more where a folder is converted in its place.
        added = "" if card.lstrip().startswith(note) else f"{note}; the card that lay there follows.\n\n"
        text = f"{added}{card.strip()}\n"
        return f"---\n{front}\n---\n\n{text}" if front else text
    name = architecture_name(network.tensors)
    sections = [
        model_card.front_matter("unknown", "fill-mask" if network.is_masked_lm else "", []),
        f"# {name}",
        f"{note}.",
        model_card.how_to_load(name),
        model_card.architecture_table(network.config, network.tensors),
        model_card.NOT_RECORDED,
        model_card.LICENCE_NOT_RECORDED,
    ]
    return "\n\n".join(sections) + "\n"


def _pretraining_checkpoint(source: str) -> Path | None:
    """A checkpoint, if that is what the weights are of; None for others, those of fine-tuning among them."""
    state = Path(source) / checkpointing.STATE_NAME
    return Path(source) if state.is_file() and "phase" in files.read_json(state) else None

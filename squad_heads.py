"""The heads that answer questions, by the names of their weights: which one there is, and which to build."""

from dataclasses import dataclass

from electra_weights import JOINT_SPAN_HEAD, PLAIN_SPAN_HEAD
from pretrained_models import PretrainedModel


@dataclass(frozen=True)
class Head:
    """Which head answers: joint or plain, and the joint one's form."""

    joint: bool
    variant: str

    @property
    def prefix(self) -> str:
        """What its weights' names begin with."""
        return JOINT_SPAN_HEAD if self.joint else PLAIN_SPAN_HEAD


def choose_head(model: PretrainedModel, wanted: Head, *, keep: bool) -> Head:
    """The head to build: with `keep` the one that the weights have, where they have one, else the wanted."""
    if not keep:
        return wanted
    if any(name.startswith(JOINT_SPAN_HEAD) for name in model.tensors):
        # In XLNet's form alone is the end's hidden layer normalised.
        is_xlnet = f"{JOINT_SPAN_HEAD}end_hidden/LayerNorm/gamma" in model.tensors
        return Head(True, "xlnet" if is_xlnet else "google")
    if any(name.startswith(PLAIN_SPAN_HEAD) for name in model.tensors):
        return Head(False, wanted.variant)
    return wanted


def has_head(model: PretrainedModel, head: Head) -> bool:
    """Whether the weights hold this head."""
    return any(name.startswith(head.prefix) for name in model.tensors)

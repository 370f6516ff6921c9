"""The ELECTRA architectures: the size presets, and how the generator's follows from the discriminator's."""

import dataclasses
from dataclasses import dataclass

from command_line import UsageError, require, require_at_least

# Names and values as in Hugging Face's config.json, so that exports need no translation.
MODEL_SIZES = {
    "small": {
        "embedding_size": 128,
        "hidden_size": 256,
        "num_hidden_layers": 12,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
    },
    "base": {
        "embedding_size": 768,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
    "large": {
        "embedding_size": 1024,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
}

# Width of a generator's attention head.
_HEAD_SIZE = 64


@dataclass(frozen=True)
class ElectraConfig:
    """The architecture of one ELECTRA network (Clark et al. 2020, table 6).

    Raises:
        UsageError: a size that is not positive, or a hidden size that the heads do not divide.
    """

    vocab_size: int
    embedding_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02

    def __post_init__(self):
        require_at_least(1, self, "embedding_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
        require_at_least(1, self, "intermediate_size", "max_position_embeddings", "vocab_size")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            require(0.0 <= getattr(self, name) < 1.0, name, getattr(self, name), "must be in [0, 1)")
        require(
            self.hidden_size % self.num_attention_heads == 0,
            "hidden_size",
            self.hidden_size,
            f"must be divisible by --num_attention_heads {self.num_attention_heads}",
        )

    @classmethod
    def from_huggingface(cls, settings: dict) -> "ElectraConfig":
        """The architecture in a Hugging Face config.json (ELECTRA, or BERT, whose embeddings are as wide as
        its hidden states).

        Raises:
            UsageError: a size is missing or wrong.
        """
        fields = dataclasses.fields(cls)
        known = {field.name: settings[field.name] for field in fields if field.name in settings}
        if "hidden_size" in known:
            known = {"embedding_size": known["hidden_size"]} | known
        missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in known]
        if missing:
            raise UsageError(f"config.json: not of an ELECTRA or BERT network, lacks {', '.join(missing)}")
        return cls(**known)

    def generator(self, width: float, depth: float) -> "ElectraConfig":
        """The generator's architecture: `width` times the hidden size, `depth` times the layers.

        Heads of 64 and a feed-forward of 4 x hidden, as in Google's code; a width that those heads do not
        divide is rounded up to a multiple of 64, as in NVIDIA's. A generator as wide as the discriminator
        keeps its heads and feed-forward too, so that the same weights fit both.
        """
        hidden_size = max(1, round(self.hidden_size * width))
        heads = max(1, hidden_size // _HEAD_SIZE)
        if hidden_size % heads:
            heads = hidden_size // _HEAD_SIZE + 1
            hidden_size = heads * _HEAD_SIZE
        intermediate_size = 4 * hidden_size
        if hidden_size == self.hidden_size:
            heads, intermediate_size = self.num_attention_heads, self.intermediate_size
        return dataclasses.replace(
            self,
            hidden_size=hidden_size,
            num_hidden_layers=max(1, round(self.num_hidden_layers * depth)),
            num_attention_heads=heads,
            intermediate_size=intermediate_size,
        )

"""Small models, batches and data sets that several tests train or evaluate."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from configuration import PretrainingConfig
from keyed_random import draw_bits
from masking import MaskingRule, mask_batch
from tokenization import SPECIAL_PIECES

VOCABULARY_SIZE = 211
CLS, SEP, MASK = 2, 3, 4

TINY = {
    "model_name": "tiny",
    "embedding_size": 24,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "max_seq_length": 32,
    "generator_hidden_size": 0.5,
    "num_warmup_steps": 0,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def tiny_config(**changes) -> PretrainingConfig:
    """A pre-training configuration of a model that takes milliseconds."""
    return PretrainingConfig(**(TINY | changes))


def random_examples(
    count: int, length: int = 32, seed: int = 0, padded: bool = True
) -> dict[str, np.ndarray]:
    """Examples of random tokens: [CLS] A [SEP] B [SEP], of several lengths."""
    random = np.random.RandomState(seed)
    lengths = random.randint(length // 2, length + 1, count) if padded else np.full(count, length)
    places = np.arange(length)[None, :]
    mask = (places < lengths[:, None]).astype(np.int32)
    ids = random.randint(5, VOCABULARY_SIZE, (count, length)) * mask
    ids[:, 0] = CLS
    ids[np.arange(count), lengths // 2] = SEP
    ids[np.arange(count), lengths - 1] = SEP
    segments = ((places > lengths[:, None] // 2) & (mask > 0)).astype(np.int32)
    return {"input_ids": ids.astype(np.int32), "input_mask": mask, "segment_ids": segments}


def masked_batch(count: int, length: int = 32, seed: int = 0, padded: bool = True) -> dict[str, np.ndarray]:
    """A batch as the networks get it."""
    rule = MaskingRule(0.15, int(0.155 * length), MASK, (CLS, SEP, MASK))
    return mask_batch(random_examples(count, length, seed, padded), draw_bits(seed, np.arange(count)), rule)


def normalizers(*batches) -> dict[str, np.float32]:
    """The counts that the losses of an update of these batches are divided by."""
    return {
        "picks": np.float32(sum(batch["masked_lm_weights"].sum() for batch in batches)),
        "tokens": np.float32(sum(batch["input_mask"].sum() for batch in batches)),
    }


# ----------------------------------------------------------------------------------- a made-up language

TOPICS, WORDS_OF_A_TOPIC = 16, 4


def write_language(folder: Path, documents: int = 400, seed: int = 0) -> None:
    """A corpus of a language in which neighbours predict each other, its vocabulary, and shards.

    The shards, shards_32 and shards_64, are named by the length of their examples; a tenth is held out.

    A document is about one of 16 topics and uses the four words of that topic alone, at random. So a word's
    neighbours tell its topic: the best loss at a masked word is ln 4 = 1.39, while word frequencies alone
    give ln 64 = 4.16.
    """
    random = np.random.RandomState(seed)
    (folder / "text").mkdir(parents=True)
    lines = []
    for _ in range(documents):
        topic = random.randint(TOPICS)
        for _ in range(random.randint(2, 6)):
            words = random.randint(WORDS_OF_A_TOPIC, size=random.randint(6, 14))
            lines.append(" ".join(f"t{topic}w{word}" for word in words))
        lines.append("")
    (folder / "text" / "language.txt").write_text("\n".join(lines))
    words = [f"t{topic}w{word}" for topic in range(TOPICS) for word in range(WORDS_OF_A_TOPIC)]
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL_PIECES, *words]) + "\n")
    for length in (32, 64):
        arguments = {
            "--corpus-dir": folder / "text",
            "--vocab-file": folder / "vocab.txt",
            "--output-dir": folder / f"shards_{length}",
            "--max-seq-length": length,
            "--num-out-files": 3,
            "--held-out-fraction": 0.1,
        }
        program = Path(__file__).parents[1] / "build_pretraining_dataset.py"
        command = [sys.executable, program, *(str(word) for pair in arguments.items() for word in pair)]
        subprocess.run(command, check=True, capture_output=True, timeout=120)

"""A small folder of shards made by hand, so that all figures in its manifest can be worked out on paper."""

import hashlib
import json
from pathlib import Path

import numpy as np

from tfrecords import ShardWriter, frame_record, serialize_examples
from tokenization import SPECIAL_PIECES, Vocabulary

LENGTH = 12
VOCABULARY = Vocabulary((*SPECIAL_PIECES, "the", "cat", "sat", "##s", "mat"))
PAD, UNK, CLS, SEP, MASK, THE, CAT, SAT, S, MAT = range(10)

# Token ids and the length of segment 0, by shard.
EXAMPLES = [
    [([CLS, THE, CAT, S, SEP, SAT, SEP], 5), ([CLS, MAT, SEP], 3)],
    [([CLS, THE, UNK, SEP, THE, MAT, SAT, THE, CAT, S, SAT, SEP], 4), ([CLS, UNK, SEP], 3)],
    [([CLS, CAT, SEP], 3)],
]
TEXTS = ["[CLS] the cats [SEP] sat [SEP]", "[CLS] mat [SEP]"]
TEXTS.append("[CLS] the [UNK] [SEP] the mat sat the cats sat [SEP]")

# 28 tokens: 7 + 3 + 12 + 3 + 3; 5 x 12 = 60 places; two [UNK]. 16 of them are the documents'
# own, of which another 4 are in no example.
MANIFEST = {
    "settings": {"max_seq_length": LENGTH, "do_lower_case": True, "strip_accents": None},
    "vocabulary_sha256": hashlib.sha256("\n".join(VOCABULARY.pieces).encode()).hexdigest(),
    "vocabulary_size": 10,
    "sources": [{"name": "cats.txt", "bytes": 1234, "sha256": "ab" * 32}],
    "skipped_sources": [],
    "part": "train",
    "documents": 4,
    "examples": 5,
    "tokens": 28,
    "cut_off_tokens": 4,
    "cut_off_share": 0.2,
    "padding_share": 0.533333,
    "unknown_share": 0.071429,
    "length_histogram": {"3": 3, "7": 1, "12": 1},
}
TOKEN_COUNTS = [0, 2, 5, 7, 0, 4, 3, 3, 2, 2]


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"pretrain_data.tfrecord-{number}-of-{len(EXAMPLES)}"


def write_shard(path: Path, payloads: list[bytes]) -> None:
    frames = [frame_record(payload) for payload in payloads]
    with ShardWriter(path) as shard:
        shard.write_frames(b"".join(frames), [len(frame) for frame in frames])


def serialized(token_ids: list[int], first_length: int, length: int = LENGTH) -> bytes:
    """One example; `first_length` tokens are segment 0."""
    (payload,) = serialize_examples(np.array(token_ids, np.int32), [len(token_ids)], [first_length], length)
    return payload


def write_folder(folder: Path, **changes) -> Path:
    """The folder without its card; `changes` go over the manifest."""
    folder.mkdir(parents=True)
    shards = []
    for number, examples in enumerate(EXAMPLES):
        path = shard_path(folder, number)
        write_shard(path, [serialized(ids, first) for ids, first in examples])
        content = path.read_bytes()
        checksum = hashlib.sha256(content).hexdigest()
        shards.append(
            {"name": path.name, "examples": len(examples), "bytes": len(content), "sha256": checksum}
        )
    VOCABULARY.save(folder / "vocab.txt")
    np.save(folder / "token_counts.npy", np.array(TOKEN_COUNTS, np.int64))
    write_manifest(folder, MANIFEST | {"shards": shards} | changes)
    return folder


def write_manifest(folder: Path, manifest: dict) -> None:
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def read_manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def flip_bit(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(content))

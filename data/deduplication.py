"""Documents that come twice, word for word or nearly, over any number of parts and sources.

Two steps. `describe` turns a part's documents into descriptions of fixed size, which follow from that part
alone: a hash of the text and a MinHash signature of its word 5-grams. `find_duplicates` then decides over all
parts at once: the first of several like documents, in the order of the parts, is kept.

Two documents are near duplicates if their signatures say that the Jaccard similarity of their sets of word
5-grams is at least THRESHOLD. As always with locality-sensitive hashing (Leskovec, Rajaraman and Ullman,
"Mining of Massive Datasets", 3.4), only pairs whose signatures are equal in a whole band are looked at: of
pairs of similarity .8 all but 5 %, of .9 all but one in 8,000. A document is dropped only if an earlier one
that is kept is like it, so no chain of small differences joins documents that are not alike.

Memory does not grow with the texts: some 90 bytes a document in `find_duplicates`, which sorts one band at a
time; bands and signatures lie on disk meanwhile.
"""

import contextlib
import hashlib
import io
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from rensa import RMinHash

import files
import tfrecords
from data.documents import TextDocument, read_documents
from data.word_ngrams import WordHasher, hash_ngrams

THRESHOLD = 0.8
SHINGLE_WORDS = 5
SIGNATURE_SLOTS = 128
BANDS = 16

_BAND_SLOTS = SIGNATURE_SLOTS // BANDS
_SEED = 42
_LEAST_EQUAL_SLOTS = int(np.ceil(THRESHOLD * SIGNATURE_SLOTS))
_BLOCK_DOCUMENTS = 1024
_BLOCK_CHARACTERS = 4_000_000
_BLOCK_PAIRS = 1 << 14
_BLOCK_DECISIONS = 1 << 18
# Pages from one template fall into the same band by the thousands without being duplicates; each is compared
# with so many of those before it, lest the time grow with their square.
_MAX_COMPARISONS = 256

_ROW_BITS = np.uint64(32)
_ROW_MASK = np.uint64((1 << 32) - 1)
_BAND_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

# Where a dropped document is, and where the kept one is that it is like.
DUPLICATE = np.dtype(
    [("part", "<u4"), ("row", "<u4"), ("kept_part", "<u4"), ("kept_row", "<u4"), ("near", "?")]
)


# --------------------------------------------------------------------------------------- one part's documents


def describe(documents: Iterable[TextDocument], near: bool) -> Iterator[np.ndarray]:
    """The descriptions of documents, in order, in blocks; a function of the documents alone.

    Args:
        near: whether signatures are wanted, beside the hash of the text.

    Yields:
        arrays with the fields `text` (64 bits of BLAKE2b over the text, apart from case and white space) and,
        if `near`, `signature` (SIGNATURE_SLOTS uint32). A text of fewer than 5 words is one shingle; of one
        without a word, such as signs alone, the shingle is the text.
    """
    hasher = WordHasher()
    for block in _blocks(documents):
        described = np.zeros(len(block), _description_type(near))
        described["text"] = [_hash_text(document.text) for document in block]
        if near:
            described["signature"] = _signatures([_shingles(hasher, document.text) for document in block])
        yield described


def describe_part(result_path: str | Path, documents_path: str | Path, near: bool) -> dict[str, int]:
    """Write the descriptions of a part's file of documents; the number of `documents`."""
    return {"documents": write_descriptions(result_path, read_documents(documents_path), near)}


def write_descriptions(path: str | Path, documents: Iterable[TextDocument], near: bool) -> int:
    """Write the descriptions of documents, complete under its name or absent; returns their number.

    The file is a row of arrays in NumPy's .npy format, one a block.
    """
    count = 0
    temporary = files.temporary_path(path)
    try:
        with open(temporary, "wb") as stream:
            for block in describe(documents, near):
                # Not by NumPy into the file itself: it does not say that a disk is full.
                content = io.BytesIO()
                np.save(content, block, allow_pickle=False)
                stream.write(content.getbuffer())
                count += len(block)
        files.publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def description_bytes(near: bool) -> int:
    """What a document's description takes on disk."""
    return _description_type(near).itemsize


def _description_type(near: bool) -> np.dtype:
    return np.dtype([("text", "<u8")] + ([("signature", "<u4", SIGNATURE_SLOTS)] if near else []))


def _blocks(documents: Iterable[TextDocument]) -> Iterator[list[TextDocument]]:
    block: list[TextDocument] = []
    characters = 0
    for document in documents:
        block.append(document)
        characters += len(document.text)
        if len(block) == _BLOCK_DOCUMENTS or characters >= _BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _hash_text(text: str) -> int:
    normal = " ".join(text.casefold().split())
    digest = hashlib.blake2b(normal.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _shingles(hasher: WordHasher, text: str) -> np.ndarray:
    words = hasher.hash_words(text)
    if not len(words):
        # All sets of no shingle are alike, whatever the texts are.
        return np.array([_hash_text(text)], np.uint64)
    return hash_ngrams(words, min(SHINGLE_WORDS, len(words)))


def _signatures(shingles: list[np.ndarray]) -> np.ndarray:
    offsets = np.cumsum([0, *map(len, shingles)], dtype=np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        np.concatenate(shingles), offsets, SIGNATURE_SLOTS, _SEED
    )
    return np.array(matrix.to_rows(), np.uint32)


def _read_descriptions(path: str | Path) -> Iterator[np.ndarray]:
    with open(path, "rb") as stream:
        while stream.peek(1):
            yield np.load(stream, allow_pickle=False)


# ------------------------------------------------------------------------------------------------- all parts


def find_duplicates(
    result_path: str | Path, description_paths: Sequence[str | Path], exact: bool, near: bool
) -> dict[str, int]:
    """Decide which documents are dropped, and write that to a .npy file that `load_duplicates` reads.

    Meanwhile near ones take 64 bytes a document on disk, and 512 for each that shares a band.

    Args:
        description_paths: what `write_descriptions` wrote of each part, in the order of the parts.
        exact, near: which kinds are dropped; near ones need descriptions with signatures. Of near ones alone,
            equal documents are near duplicates too.

    Returns:
        the numbers of `documents`, `duplicates` and `near_duplicates`.
    """
    scratch = files.temporary_path(Path(result_path).with_suffix(".scratch"))
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        texts, sizes = _gather(description_paths, scratch, near)
        kept = np.arange(len(texts), dtype=np.int64)
        if exact:
            kept = _first_with_same_text(texts)
        del texts
        is_equal = kept != np.arange(len(kept))
        if near:
            kept = _first_alike(description_paths, scratch, kept)
        dropped = np.flatnonzero(kept != np.arange(len(kept)))
        duplicates = np.zeros(len(dropped), DUPLICATE)
        begins = np.cumsum([0, *sizes])
        for rows, part, row in ((dropped, "part", "row"), (kept[dropped], "kept_part", "kept_row")):
            duplicates[part] = parts = np.searchsorted(begins, rows, side="right") - 1
            duplicates[row] = rows - begins[parts]
        duplicates["near"] = ~is_equal[dropped]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    tfrecords.write_array(result_path, duplicates)
    near_count = int(duplicates["near"].sum())
    return {
        "documents": len(kept),
        "duplicates": len(dropped) - near_count,
        "near_duplicates": near_count,
    }


def scratch_bytes(near: bool) -> int:
    """What `find_duplicates` takes on disk for a document, at most: bands and signatures, then the result."""
    return max(DUPLICATE.itemsize, near * (BANDS + SIGNATURE_SLOTS) * np.dtype(np.uint32).itemsize)


def load_duplicates(path: str | Path) -> np.ndarray:
    """The documents that are dropped, `DUPLICATE` [dropped] in the order of the documents, memory-mapped."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _band_path(scratch: Path, band: int) -> Path:
    return scratch / f"band_{band:02d}"


def _gather(paths: Sequence[str | Path], scratch: Path, near: bool) -> tuple[np.ndarray, list[int]]:
    """All hashes of texts, the number of documents in each part; the bands' keys go to a file a band."""
    texts, sizes = [np.zeros(0, np.uint64)], []
    with contextlib.ExitStack() as stack:
        bands = [stack.enter_context(open(_band_path(scratch, band), "wb")) for band in range(BANDS * near)]
        for path in paths:
            sizes.append(0)
            for block in _read_descriptions(path):
                texts.append(block["text"].copy())
                sizes[-1] += len(block)
                for stream, keys in zip(bands, _band_keys(block["signature"]) if near else (), strict=True):
                    stream.write(keys)
    return np.concatenate(texts), sizes


def _band_keys(signatures: np.ndarray) -> np.ndarray:
    """32 bits a band and document; that different bands may share a key costs a comparison and no more."""
    slots = signatures.reshape(len(signatures), BANDS, _BAND_SLOTS).astype(np.uint64)
    keys = np.zeros(slots.shape[:2], np.uint64)
    for slot in range(_BAND_SLOTS):
        keys = (keys + slots[:, :, slot] + np.uint64(1)) * _BAND_MULTIPLIER
        keys ^= keys >> np.uint64(29)
    return np.ascontiguousarray((keys >> np.uint64(32)).astype(np.uint32).T)


def _first_with_same_text(texts: np.ndarray) -> np.ndarray:
    """For each document the first that has its text; it itself, if it is the first."""
    order = np.argsort(texts, kind="stable")
    begins = np.ones(len(texts), bool)
    begins[1:] = texts[order[1:]] != texts[order[:-1]]
    first = np.empty(len(texts), np.int64)
    first[order] = order[begins][np.cumsum(begins) - 1]
    return first


def _first_alike(paths: Sequence[str | Path], scratch: Path, kept: np.ndarray) -> np.ndarray:
    """For each document the kept one that stands for it, when near duplicates are dropped as well.

    Args:
        kept: the same, before.
    """
    own = np.arange(len(kept))
    considered = kept == own
    has_like_band = np.zeros(len(kept), bool)
    for band in range(BANDS):
        has_like_band[_rows(_in_company(_sorted_band(scratch, band, considered)))] = True
    signatures = _Signatures(paths, scratch, has_like_band)

    # A pass compares the documents of each band with those before them that are not alike among each other.
    # It may miss a pair of which one is like a third; so passes follow, over what would be kept, until they
    # find nothing. What is kept then is what going through the documents in order would keep.
    pairs = np.zeros(0, np.uint64)
    while True:
        stands_for, is_kept = _decide(pairs, kept)
        found = [pairs]
        for band in range(BANDS):
            found.append(_alike_in_band(_sorted_band(scratch, band, is_kept & has_like_band), signatures))
            found = [np.unique(np.concatenate(found))]
        if len(found[0]) == len(pairs):
            return stands_for
        pairs = found[0]


def _sorted_band(scratch: Path, band: int, considered: np.ndarray) -> np.ndarray:
    """A band's key above, the row below, of each document that is considered; like keys by row."""
    rows = np.flatnonzero(considered).astype(np.uint64)
    entries = np.fromfile(_band_path(scratch, band), np.uint32)[rows].astype(np.uint64)
    entries <<= _ROW_BITS
    entries |= rows
    entries.sort()
    return entries


def _rows(entries: np.ndarray) -> np.ndarray:
    return (entries & _ROW_MASK).astype(np.int64)


def _begins(entries: np.ndarray) -> np.ndarray:
    """Whether an entry is the first with its key."""
    keys = entries >> _ROW_BITS
    begins = np.ones(len(keys), bool)
    begins[1:] = keys[1:] != keys[:-1]
    return begins


def _in_company(entries: np.ndarray) -> np.ndarray:
    """The entries whose key others have too."""
    begins = _begins(entries)
    is_last = np.append(begins[1:], True)
    return entries[~(begins & is_last)]


def _alike_in_band(entries: np.ndarray, signatures: "_Signatures") -> np.ndarray:
    """Pairs of rows (the later above, the earlier below) with the same key and like signatures.

    Of the documents with one key, all are compared with the first; those that are not like it with the first
    of them, and so on.
    """
    pairs = [np.zeros(0, np.uint64)]
    for _ in range(_MAX_COMPARISONS):
        entries = _in_company(entries)
        if not len(entries):
            break
        begins = _begins(entries)
        rows = _rows(entries)
        earlier = rows[begins][np.cumsum(begins) - 1][~begins]
        later, entries = rows[~begins], entries[~begins]
        alike = signatures.alike(earlier, later)
        pairs.append((later[alike].astype(np.uint64) << _ROW_BITS) | earlier[alike].astype(np.uint64))
        entries = entries[~alike]
    return np.concatenate(pairs)


def _decide(pairs: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Go through the documents in order and keep those that no kept one before them is like.

    Args:
        pairs: sorted, of `_alike_in_band`.

    Returns:
        for each document the kept one that stands for it; whether it is kept.
    """
    stands_for = kept.copy()
    is_kept = kept == np.arange(len(kept))
    for begin in range(0, len(pairs), _BLOCK_DECISIONS):
        block = pairs[begin : begin + _BLOCK_DECISIONS]
        for later, earlier in zip(_rows(block >> _ROW_BITS).tolist(), _rows(block).tolist(), strict=True):
            if is_kept[later] and is_kept[earlier]:
                is_kept[later] = False
                stands_for[later] = earlier
    return stands_for[stands_for], is_kept


class _Signatures:
    """The signatures of the documents that have a band in common with others, on disk."""

    def __init__(self, paths: Sequence[str | Path], scratch: Path, wanted: np.ndarray):
        self._places = np.cumsum(wanted, dtype=np.int32) - 1
        path, begin = scratch / "signatures", 0
        with open(path, "wb") as stream:
            for block in (block for path in paths for block in _read_descriptions(path)):
                stream.write(block["signature"][wanted[begin : begin + len(block)]])
                begin += len(block)
        self._signatures = np.zeros((0, SIGNATURE_SLOTS), np.uint32)
        if wanted.any():
            self._signatures = np.memmap(path, np.uint32, "r").reshape(-1, SIGNATURE_SLOTS)

    def alike(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Whether the documents of the rows `left` and `right`, pair by pair, are near duplicates."""
        alike = np.empty(len(left), bool)
        for begin in range(0, len(left), _BLOCK_PAIRS):
            block = slice(begin, begin + _BLOCK_PAIRS)
            equal = self._of(left[block]) == self._of(right[block])
            alike[block] = np.count_nonzero(equal, axis=1) >= _LEAST_EQUAL_SLOTS
        return alike

    def _of(self, rows: np.ndarray) -> np.ndarray:
        return self._signatures[self._places[rows]]

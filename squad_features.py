"""Questions -> windows of tokens with labels and character offsets, cached on disk and memory-mapped.

A window is [CLS] question [SEP] piece of the context [SEP], as in BERT's run_squad.py (google-research/bert):
the windows of a context advance by doc_stride tokens. Kept are the tokens of each question and of each
distinct context, once, and where each window begins; the arrays of a batch are put together when asked for.
So neither making nor using features needs memory that grows with the number of questions.
"""

import bisect
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
from tqdm import tqdm

import files
from array_folder import ArrayFolder, ArrayWriters
from command_line import UsageError, require, require_at_least
from sliding_windows import shown_best, window_places
from squad_data import FAULT_NO_TOKEN, FAULTS, NO_FAULT, Question, answer_fault, iterate_questions
from tokenization import Vocabulary, build_tokenizer

# Of what lies in a cache folder: a change of the arrays or of the rules that make them is a new number.
_FORMAT_VERSION = 1
_CHUNK_QUESTIONS = 512

_RECORDED = [field.name for field in dataclasses.fields(Question) if field.name != "context"]

# Kept, because programs that answer question after question make features for each.
_tokenizer = functools.lru_cache(maxsize=1)(build_tokenizer)

_ARRAYS = {
    # Rows of bytes, tokens or windows one after the other; `_ends` says where each row ends.
    "contexts": np.uint8,
    "context_ends": np.int64,
    "records": np.uint8,
    "record_ends": np.int64,
    "context_tokens": np.int32,
    "context_spans": np.int32,
    "context_token_ends": np.int64,
    "question_tokens": np.int32,
    "question_token_ends": np.int64,
    "question_contexts": np.int32,
    "question_faults": np.uint8,
    "question_window_ends": np.int64,
    # One entry a window.
    "question_of": np.int32,
    "first_tokens": np.int32,
    "token_counts": np.int32,
    "lengths": np.int32,
    "start_positions": np.int32,
    "end_positions": np.int32,
    "holds_no_answer": np.bool_,
    "trainable": np.bool_,
}


@dataclass(frozen=True)
class FeatureRule:
    """How questions become windows; every length is in tokens.

    Attributes:
        max_seq_length: of a whole window.
        doc_stride: by how much the windows of a context advance; Hugging Face's `stride` is the overlap
            instead. Where a window has room for fewer, it advances by those, so that no token is left out.
        max_query_length: a question's tokens beyond it are cut off.

    Raises:
        UsageError: no progress, or no room for the context.
    """

    max_seq_length: int
    doc_stride: int
    max_query_length: int

    def __post_init__(self):
        require(self.doc_stride >= 1, "doc_stride", self.doc_stride, "windows would make no progress")
        require_at_least(1, self, "max_query_length")
        require(
            self.max_query_length + 3 < self.max_seq_length,
            "max_query_length",
            self.max_query_length,
            f"leaves no room for the context in --max_seq_length {self.max_seq_length} (three tokens are "
            "[CLS] and [SEP])",
        )

    def windows(self, question_tokens: int, context_tokens: int) -> list[tuple[int, int]]:
        """(first context token, number of context tokens) of each window; an empty context has one."""
        room = self.max_seq_length - question_tokens - 3
        return window_places(context_tokens, room, min(self.doc_stride, room))


class Features:
    """The windows of a set of questions, numbered from 0 in the order of the questions.

    Attributes:
        question_of: int32 [windows], the question of each window.
        lengths: int32 [windows], tokens of each, [CLS] and both [SEP] included.
        trainable: bool [windows], False for all windows of a question that `unusable` lists.
    """

    def __init__(self, folder: ArrayFolder, vocabulary: Vocabulary):
        self._folder, self._arrays = folder, folder.arrays
        self._cls_id, self._sep_id, self._pad_id = vocabulary.cls_id, vocabulary.sep_id, vocabulary.pad_id
        self.question_of = self._arrays["question_of"]
        self.lengths = self._arrays["lengths"]
        self.trainable = self._arrays["trainable"]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def num_questions(self) -> int:
        return len(self._arrays["record_ends"])

    def fingerprint(self) -> str:
        """SHA-256 of the tokens of all windows."""
        return self._checksum("context_tokens", "question_tokens", "question_of", "first_tokens", "lengths")

    def label_fingerprint(self) -> str:
        """SHA-256 of what training wants of the windows: their answers, and which can be trained on."""
        return self._checksum("start_positions", "end_positions", "holds_no_answer", "trainable")

    def _checksum(self, *names: str) -> str:
        digest = hashlib.sha256()
        for name in names:
            digest.update(self._arrays[name])
        self.release_memory()
        return digest.hexdigest()

    def question(self, number: int) -> Question:
        """Question `number`, with its context."""
        record = json.loads(self._row("records", "record_ends", number).tobytes())
        context = self._row("contexts", "context_ends", int(self._arrays["question_contexts"][number]))
        return Question(context=context.tobytes().decode("utf-8"), **record)

    def windows_of(self, question: int) -> range:
        """The windows of a question; there is at least one."""
        return range(*_bounds(self._arrays["question_window_ends"], question))

    def unusable(self) -> Iterator[tuple[str, str]]:
        """(id, reason) of each question that is left out of training."""
        for number in np.flatnonzero(self._arrays["question_faults"]):
            yield self.question(int(number)).id, FAULTS[self._arrays["question_faults"][number]]

    @property
    def num_unusable(self) -> int:
        return int(np.count_nonzero(self._arrays["question_faults"]))

    def batch(self, windows: Iterable[int], length: int) -> dict[str, np.ndarray]:
        """The arrays of some windows, int32, padded to `length`.

        Returns:
            input_ids, input_mask, segment_ids and context_mask [windows, length]: segment 1 is the context
            and its [SEP]; context_mask is 1 at the context's tokens and at [CLS], where answers may be.
            start_positions, end_positions and is_impossible [windows]: the tokens that cover the first gold
            answer; 0, 0 and 1 for a window that does not hold the whole of it.

        Raises:
            ValueError: a window is longer than `length`.
        """
        windows = np.asarray(windows, np.int64)
        if len(windows) and self.lengths[windows].max() > length:
            raise ValueError(f"a window of {self.lengths[windows].max()} tokens in a batch of {length}")
        ids = np.full((len(windows), length), self._pad_id, np.int32)
        mask, segments, context_mask = (np.zeros_like(ids) for _ in range(3))
        for row, window in enumerate(windows):
            query = self._row("question_tokens", "question_token_ends", int(self.question_of[window]))
            begin, end = len(query) + 2, self.lengths[window] - 1
            ids[row, 0] = self._cls_id
            ids[row, 1 : begin - 1] = query
            ids[row, begin - 1] = self._sep_id
            ids[row, begin:end] = self._context_piece("context_tokens", int(window))
            ids[row, end] = self._sep_id
            mask[row, : end + 1] = 1
            segments[row, begin : end + 1] = 1
            context_mask[row, begin:end] = 1
        context_mask[:, 0] = 1
        return {
            "input_ids": ids,
            "input_mask": mask,
            "segment_ids": segments,
            "context_mask": context_mask,
            "start_positions": self._arrays["start_positions"][windows],
            "end_positions": self._arrays["end_positions"][windows],
            "is_impossible": self._arrays["holds_no_answer"][windows].astype(np.int32),
        }

    def normalizers(self, windows: np.ndarray) -> dict[str, np.float32]:
        """What the loss of some windows is divided by: their number."""
        return {"windows": np.float32(len(windows))}

    def describe(self, windows: np.ndarray) -> str:
        """The ids of the questions that windows belong to, in one line."""
        questions = np.unique(self.question_of[windows])
        return "questions " + ", ".join(self.question(int(number)).id for number in questions)

    def spans(self, window: int) -> np.ndarray:
        """Characters of the context that each token stands for: int32 [length of the window, 2], begin and
        end; -1 at [CLS], the question and [SEP]."""
        spans = np.full((self.lengths[window], 2), -1, np.int32)
        piece = self._context_piece("context_spans", window)
        spans[len(spans) - 1 - len(piece) : -1] = piece
        return spans

    def best_context(self, window: int) -> np.ndarray:
        """Whether this is the window that shows each context token in most context: bool [length]."""
        others = self.windows_of(int(self.question_of[window]))
        firsts, counts = (
            self._arrays[name][others.start : others.stop] for name in ("first_tokens", "token_counts")
        )
        shown = shown_best(firsts, counts, window - others.start)
        best = np.zeros(self.lengths[window], bool)
        best[len(best) - 1 - len(shown) : -1] = shown
        return best

    def release_memory(self) -> None:
        """Give the pages read so far back; they are read from the files again when needed."""
        self._folder.release_memory()

    def _row(self, values: str, ends: str, number: int) -> np.ndarray:
        begin, end = _bounds(self._arrays[ends], number)
        return self._arrays[values][begin:end]

    def _context_piece(self, values: str, window: int) -> np.ndarray:
        context = int(self._arrays["question_contexts"][self.question_of[window]])
        begin, _ = _bounds(self._arrays["context_token_ends"], context)
        begin += int(self._arrays["first_tokens"][window])
        return self._arrays[values][begin : begin + int(self._arrays["token_counts"][window])]


def load_features(
    path: str | Path,
    flag: str,
    vocabulary: Vocabulary,
    rule: FeatureRule,
    version_2: bool,
    cache_dir: str | Path | None,
    skip_cache: bool = False,
) -> Features:
    """The features of a SQuAD file, from the cache if it holds them, else made and put there.

    Args:
        path, flag, version_2: as for squad_data.iterate_questions.
        cache_dir: folder with a folder for each combination of file, vocabulary and rule; None for none.
        skip_cache: neither read nor write the cache.

    Raises:
        UsageError: as iterate_questions; or a cache_dir that cannot be made.
    """
    if cache_dir is None or skip_cache:
        return build_features(iterate_questions(path, flag, version_2), vocabulary, rule)
    try:
        settings = _cache_settings(path, vocabulary, rule, version_2)
    except OSError as error:
        raise UsageError(f"--{flag} {path}: {error.strerror or error}") from None
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode("utf-8")).hexdigest()
    folder = Path(cache_dir) / f"{Path(path).stem}-{key[:32]}"
    cached = ArrayFolder.open(folder, settings)
    if cached is None:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--cache_dir {cache_dir}: {error.strerror or error}") from None
        # Of several processes that want the same features one makes them, and the others wait.
        try:
            with files.lock_folder(folder.parent, wait=True):
                cached = ArrayFolder.open(folder, settings)
                if cached is None:
                    questions = iterate_questions(path, flag, version_2)
                    cached = _fill_cache(questions, vocabulary, rule, folder, settings)
        except UsageError:
            # A folder that was made for a file that cannot be read.
            with contextlib.suppress(OSError):
                folder.parent.rmdir()
            raise
    return Features(cached, vocabulary)


def build_features(
    questions: Iterable[Question],
    vocabulary: Vocabulary,
    rule: FeatureRule,
    *,
    hide_progress: bool | None = None,
) -> Features:
    """The features of questions, in a temporary folder that goes when they do.

    `tokenizers` works on all cores; the environment's RAYON_NUM_THREADS limits it.
    """
    temporary = tempfile.TemporaryDirectory(prefix="squad_features_", ignore_cleanup_errors=True)
    _write_features(questions, vocabulary, rule, Path(temporary.name), {}, hide_progress)
    folder = ArrayFolder.open(temporary.name, {}, verify=False)
    # The files are removed when nothing refers to this object any more.
    folder.owner = temporary
    return Features(folder, vocabulary)


def _cache_settings(path, vocabulary: Vocabulary, rule: FeatureRule, version_2: bool) -> dict:
    """Everything that features follow from."""
    return {
        "format_version": _FORMAT_VERSION,
        "tokenizers_version": tokenizers.__version__,
        "file_sha256": files.sha256_of_file(path),
        "vocabulary_sha256": vocabulary.sha256,
        "do_lower_case": vocabulary.do_lower_case,
        "strip_accents": vocabulary.strip_accents,
        "version_2": version_2,
        **dataclasses.asdict(rule),
    }


def _fill_cache(questions, vocabulary, rule, folder: Path, settings: dict) -> ArrayFolder:
    files.remove_leftovers(folder.parent)
    temporary = files.temporary_path(folder)
    try:
        temporary.mkdir()
        _write_features(questions, vocabulary, rule, temporary, settings, None)
        files.replace_folder(temporary, folder)
    finally:
        files.remove_folder(temporary)
    return ArrayFolder.open(folder, settings, verify=False)


def _write_features(questions, vocabulary, rule, folder: Path, settings: dict, hide_progress) -> None:
    with ArrayWriters(folder, _ARRAYS, row_shapes={"context_spans": (2,)}) as writers:
        builder = _Builder(vocabulary, rule, writers)
        with tqdm(desc="questions to features", unit="question", disable=hide_progress) as bar:
            for chunk in _chunks(questions, _CHUNK_QUESTIONS):
                builder.add(chunk)
                bar.update(len(chunk))
        writers.finish(settings)


class _Builder:
    """Tokenizes questions and appends what they give to the arrays."""

    def __init__(self, vocabulary: Vocabulary, rule: FeatureRule, writers: ArrayWriters):
        self._tokenizer = _tokenizer(vocabulary)
        self._rule, self._writers = rule, writers
        self._contexts: dict[bytes, int] = {}
        self._question_count = 0
        # The spans of the contexts of one chunk, and of the last context before it.
        self._spans: dict[int, np.ndarray] = {}

    def add(self, questions: list[Question]) -> None:
        numbers = self._add_contexts([question.context for question in questions])
        encodings = self._tokenizer.encode_batch(
            [question.text for question in questions], add_special_tokens=False
        )
        for question, context, encoding in zip(questions, numbers, encodings, strict=True):
            self._add_question(question, context, encoding.ids[: self._rule.max_query_length])
        self._spans = {numbers[-1]: self._spans[numbers[-1]]}

    def _add_contexts(self, contexts: list[str]) -> list[int]:
        digests = [hashlib.sha256(context.encode("utf-8")).digest()[:16] for context in contexts]
        needed = {
            digest: context
            for digest, context in zip(digests, contexts, strict=True)
            if self._contexts.get(digest) not in self._spans
        }
        encodings = self._tokenizer.encode_batch(list(needed.values()), add_special_tokens=False)
        for (digest, context), encoding in zip(needed.items(), encodings, strict=True):
            spans = token_spans(context, encoding.offsets)
            # A context that came in an earlier chunk is there already, but its spans are wanted again.
            if digest not in self._contexts:
                self._contexts[digest] = len(self._contexts)
                self._writers.append("contexts", np.frombuffer(context.encode("utf-8"), np.uint8))
                self._writers.append("context_tokens", encoding.ids)
                self._writers.append("context_spans", spans)
                self._writers.end_row("context_ends", "contexts")
                self._writers.end_row("context_token_ends", "context_tokens")
            self._spans[self._contexts[digest]] = spans
        return [self._contexts[digest] for digest in digests]

    def _add_question(self, question: Question, context: int, query: list[int]) -> None:
        writers, spans = self._writers, self._spans[context]
        record = {name: getattr(question, name) for name in _RECORDED}
        writers.append("records", np.frombuffer(json.dumps(record).encode("ascii"), np.uint8))
        writers.end_row("record_ends", "records")
        writers.append("question_tokens", query)
        writers.end_row("question_token_ends", "question_tokens")
        fault, answer = answer_fault(question), None
        if question.answers and fault == NO_FAULT:
            answer = answer_tokens(spans, question.answer_start, len(question.answers[0]))
            fault = NO_FAULT if answer else FAULT_NO_TOKEN
        windows = np.array(self._rule.windows(len(query), len(spans)))
        firsts, counts = windows[:, 0], windows[:, 1]
        first, last = answer or (-1, -1)
        holds = (firsts <= first) & (last < firsts + counts)
        offsets = len(query) + 2 - firsts
        writers.append("question_contexts", [context])
        writers.append("question_faults", [fault])
        writers.append("question_of", np.full(len(windows), self._question_count))
        writers.append("first_tokens", firsts)
        writers.append("token_counts", counts)
        writers.append("lengths", len(query) + 3 + counts)
        writers.append("start_positions", np.where(holds, first + offsets, 0))
        writers.append("end_positions", np.where(holds, last + offsets, 0))
        writers.append("holds_no_answer", ~holds)
        writers.append("trainable", np.full(len(windows), fault == NO_FAULT))
        writers.end_row("question_window_ends", "question_of")
        self._question_count += 1


def token_spans(text: str, offsets: list[tuple[int, int]]) -> np.ndarray:
    """Characters that each token stands for: int32 [tokens, 2], begin and end, neither ever decreasing.

    Where the normalisation drops combining marks, joiners and tags, they belong to no token; here they
    belong to the token of the letter that they stand on, so that an answer does not lose its last accent.
    """
    spans = np.array(offsets, np.int32).reshape(-1, 2)
    if text.isascii():
        return spans
    ends = spans[:, 1]
    limits = np.append(spans[1:, 0], len(text))
    for token in np.flatnonzero(ends < limits):
        end, limit = int(ends[token]), int(limits[token])
        while end < limit and _belongs_to_letter_before(text[end]):
            end += 1
        ends[token] = end
    return spans


def answer_tokens(spans: np.ndarray, start: int, characters: int) -> tuple[int, int] | None:
    """The first and last token that share a character with an answer; None if no token does."""
    first = bisect.bisect_right(spans[:, 1], start)
    last = bisect.bisect_left(spans[:, 0], start + characters) - 1
    return (first, last) if first <= last else None


def _belongs_to_letter_before(character: str) -> bool:
    is_joiner_or_tag = character in "\u200c\u200d" or "\U000e0020" <= character <= "\U000e007f"
    return is_joiner_or_tag or unicodedata.category(character)[0] == "M"


def _bounds(ends: np.ndarray, row: int) -> tuple[int, int]:
    return (int(ends[row - 1]) if row else 0), int(ends[row])


def _chunks(questions: Iterable[Question], size: int) -> Iterator[list[Question]]:
    iterator = iter(questions)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk

"""Records with text in a named column: JSON lines, Parquet and Arrow, one after another in bounded memory."""

import io
import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from command_line import UsageError
from corpus_files import Member, Refused

if TYPE_CHECKING:
    import pyarrow

_TITLE_COLUMN = "title"
_MAX_RECORD_BYTES = 64_000_000
# Few, for a record may be a book.
_ROWS_AT_ONCE = 32
# JSON may name half of a character that UTF-16 writes in two.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# An Arrow file is its stream between this and an index; `datasets` writes the stream alone.
_ARROW_FILE_START = b"ARROW1\0\0"
_ARROW_END = b"\0\0\0\0"


class TextRecord(NamedTuple):
    """A record: its text, never empty, and what stands under `title`, or ""."""

    title: str
    text: str


class _BadLine(Exception):
    """A line of JSON, by its number from 1, that is no record; the message says why."""

    def __init__(self, number: int, why: str):
        super().__init__(why)
        self.number = number


def read_records(
    member: Member, column: str, label: str, lines_before: Callable[[], int] = lambda: 0
) -> Iterator[TextRecord]:
    """The records that have text, in order; the memory of an Arrow file's largest batch is taken at once.

    Args:
        column: the key or column of the text; it may be null or empty.
        label: name of the file in messages.
        lines_before: how many lines of the file are not in the member's stream; called for a message only.

    Raises:
        UsageError: a line is no JSON object with such a key, or there is no such column of text.
        one of `corpus_files.FAULTS`: the file is damaged, or not UTF-8.
    """
    if member.kind == "jsonl":
        records = _json_records(member.stream, column)
    else:
        records = _table_records(member, column, label)
    try:
        for title, text in records:
            if text:
                yield TextRecord(title, text)
    except _BadLine as error:
        raise UsageError(f"{label}: line {lines_before() + error.number}: {error}") from None


def _json_records(stream: io.BufferedIOBase, column: str) -> Iterator[tuple[str, str | None]]:
    number = 0
    while line := stream.readline(_MAX_RECORD_BYTES + 1):
        number += 1
        if len(line) > _MAX_RECORD_BYTES:
            raise _BadLine(number, f"longer than {_MAX_RECORD_BYTES:,} bytes")
        words = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        if not words:
            continue
        try:
            record = json.loads(words)
        except (ValueError, RecursionError) as error:
            raise _BadLine(number, f"not JSON ({error})") from None
        if not isinstance(record, dict):
            raise _BadLine(number, "not a JSON object")
        if column not in record:
            keys = ", ".join(map(repr, record)) or "no keys"
            raise _BadLine(number, f"no {column!r} among {keys} (--text_column)")
        text = record[column]
        if not isinstance(text, str | None):
            raise _BadLine(number, f"{column!r} is no text (--text_column)")
        title = record.get(_TITLE_COLUMN)
        yield _whole_characters(title if isinstance(title, str) else ""), text and _whole_characters(text)


def _whole_characters(text: str) -> str:
    return _LONE_SURROGATE.sub("\ufffd", text)


def _table_records(member: Member, column: str, label: str) -> Iterator[tuple[str, str | None]]:
    # Here, because a corpus without tables need not wait for it, nor hold it in every worker.
    import pyarrow

    batches = _parquet_batches if member.kind == "parquet" else _arrow_batches
    try:
        for batch in batches(member, column, label):
            texts = batch.column(column)
            # Nothing, where the text is the titles'.
            titles = batch.column(_TITLE_COLUMN) if batch.num_columns == 2 else None
            for row in range(batch.num_rows):
                yield (titles and titles[row].as_py()) or "", texts[row].as_py()
    except pyarrow.ArrowException as error:
        raise Refused(f"damaged ({str(error).splitlines()[0]})") from None


def _parquet_batches(member: Member, column: str, label: str) -> Iterator["pyarrow.RecordBatch"]:
    import pyarrow.parquet

    # Without pre_buffer and with a buffer, a column is read page by page rather than a row group at once.
    table = pyarrow.parquet.ParquetFile(
        member.stream, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
    )
    yield from table.iter_batches(
        _ROWS_AT_ONCE,
        row_groups=member.row_groups and range(*member.row_groups),
        columns=_wanted_columns(table.schema_arrow, column, label),
        use_threads=False,
    )


def _arrow_batches(member: Member, column: str, label: str) -> Iterator["pyarrow.RecordBatch"]:
    import pyarrow

    stream = _WatchedStream(member.stream)
    with pyarrow.ipc.open_stream(stream) as batches:
        columns = _wanted_columns(batches.schema, column, label)
        for batch in batches:
            batch = batch.select(columns)
            # Offsets of a damaged file would be followed anywhere in memory.
            batch.validate(full=True)
            yield batch
    # Arrow takes the end of a file for the end of the stream.
    if stream.last_read != _ARROW_END:
        raise EOFError("it ended before its end mark")


class _WatchedStream(io.RawIOBase):
    """An Arrow stream, without what a file puts before it, that remembers what was last read."""

    def __init__(self, stream: io.BufferedIOBase):
        self._stream = stream
        self._rest = stream.read(len(_ARROW_FILE_START))
        if self._rest == _ARROW_FILE_START:
            self._rest = b""
        self.last_read = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        self.last_read, self._rest = self._rest[:size], self._rest[size:]
        self.last_read += self._stream.read(size - len(self.last_read))
        return self.last_read


def _wanted_columns(schema: "pyarrow.Schema", column: str, label: str) -> list[str]:
    """The text's column and, where there is one of text, the titles'."""
    if column not in schema.names:
        names = ", ".join(map(repr, schema.names))
        raise UsageError(f"{label}: no column {column!r}; it has {names} (--text_column)")
    if not _is_text(schema.field(column).type):
        raise UsageError(
            f"{label}: column {column!r} is {schema.field(column).type}, no text (--text_column)"
        )
    has_title = (
        column != _TITLE_COLUMN
        and _TITLE_COLUMN in schema.names
        and _is_text(schema.field(_TITLE_COLUMN).type)
    )
    return [column, _TITLE_COLUMN] if has_title else [column]


def _is_text(kind: "pyarrow.DataType") -> bool:
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)

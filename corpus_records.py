"""Records with text in a named column: JSON lines and Parquet, one after another in bounded memory."""

import io
import json
import re
from collections.abc import Iterator

from command_line import UsageError
from corpus_files import Member, Refused

_MAX_RECORD_BYTES = 64_000_000
# Few, for a record may be a book.
_ROWS_AT_ONCE = 32
# JSON may name half of a character that UTF-16 writes in two.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def read_records(member: Member, column: str, label: str) -> Iterator[str]:
    """The texts of the records that have any, in order.

    Args:
        column: the key or column of the text; it may be null or empty.
        label: name of the file in messages.

    Raises:
        UsageError: a line is no JSON object with such a key, or there is no such column of text.
        one of `corpus_files.FAULTS`: the file is damaged, or not UTF-8.
    """
    read = _parquet_texts if member.kind == "parquet" else _json_texts
    for text in read(member.stream, column, label):
        if text:
            yield text


def _json_texts(stream: io.BufferedIOBase, column: str, label: str) -> Iterator[str | None]:
    number = 0
    while line := stream.readline(_MAX_RECORD_BYTES + 1):
        number += 1
        if len(line) > _MAX_RECORD_BYTES:
            raise UsageError(f"{label}: line {number}: longer than {_MAX_RECORD_BYTES:,} bytes")
        words = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        if not words:
            continue
        try:
            record = json.loads(words)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{label}: line {number}: not JSON ({error})") from None
        if not isinstance(record, dict):
            raise UsageError(f"{label}: line {number}: not a JSON object")
        if column not in record:
            raise UsageError(
                f"{label}: line {number}: no {column!r} among {', '.join(map(repr, record)) or 'no keys'} "
                "(--text_column)"
            )
        text = record[column]
        if not isinstance(text, str | None):
            raise UsageError(f"{label}: line {number}: {column!r} is no text (--text_column)")
        yield text and _LONE_SURROGATE.sub("\ufffd", text)


def _parquet_texts(stream: io.BufferedIOBase, column: str, label: str) -> Iterator[str | None]:
    # Here, because a corpus without Parquet need not wait for it, nor hold it in every worker.
    import pyarrow
    import pyarrow.parquet

    try:
        # Without pre_buffer and with a buffer, a column is read page by page rather than a row group at once.
        table = pyarrow.parquet.ParquetFile(
            stream, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
        )
        schema = table.schema_arrow
        if column not in schema.names:
            names = ", ".join(map(repr, schema.names))
            raise UsageError(f"{label}: no column {column!r}; it has {names} (--text_column)")
        kind = schema.field(column).type
        kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
        if not any(
            is_text(kind)
            for is_text in (
                pyarrow.types.is_string,
                pyarrow.types.is_large_string,
                pyarrow.types.is_string_view,
            )
        ):
            raise UsageError(f"{label}: column {column!r} is {kind}, no text (--text_column)")
        for batch in table.iter_batches(_ROWS_AT_ONCE, columns=[column], use_threads=False):
            for value in batch.column(0):
                yield value.as_py()
    except pyarrow.ArrowException as error:
        raise Refused(f"damaged ({str(error).splitlines()[0]})") from None

"""The same documents as text, records and archives, made by other libraries than those that read them."""

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile
import zipfile
from collections.abc import Callable

import pytest
import zstandard

PACKINGS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.compress,
    ".xz": lzma.compress,
}
FILES = 6


def made_up_documents() -> list[list[list[str]]]:
    """Six files of five documents of one to eight sentences, each ended by a full stop."""
    draw = random.Random(5)
    text = "The river Łódź runs over old stones and nobody counts them in winter née à 東京"

    def sentence(name: str) -> str:
        return f"Document {name} {' '.join(draw.choices(text.split(), k=draw.randint(2, 30)))} ends."

    return [
        [[sentence(f"{file}x{number}") for _ in range(draw.randint(1, 8))] for number in range(5)]
        for file in range(FILES)
    ]


DOCUMENTS = made_up_documents()
FLAT = [document for file in DOCUMENTS for document in file]


def as_text(documents: list[list[str]]) -> bytes:
    return "\n\n".join("\n".join(document) for document in documents).encode()


def as_json_lines(documents: list[list[str]], column: str = "text", joint: str = "\n") -> bytes:
    return b"".join(json.dumps({"id": 1, column: joint.join(d)}).encode() + b"\n" for d in documents)


def as_parquet(documents: list[list[str]], column: str = "text", **options) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = [" ".join(document) for document in documents]
    stream = io.BytesIO()
    parquet.write_table(pyarrow.table({"id": list(range(len(texts))), column: texts}), stream, **options)
    return stream.getvalue()


def as_arrow(documents: list[list[str]], column: str = "text", batch_rows: int = 7) -> bytes:
    """As Hugging Face's `datasets` writes them: a stream of record batches."""
    pyarrow = pytest.importorskip("pyarrow")
    texts = [" ".join(document) for document in documents]
    table = pyarrow.table({"id": list(range(len(texts))), column: texts})
    stream = io.BytesIO()
    with pyarrow.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return stream.getvalue()


def as_tar(files: dict[str, bytes], *more: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for info in more:
            tar.addfile(info)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def as_zip(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def text_files() -> dict[str, bytes]:
    return {f"folder/{number}.txt": as_text(file) for number, file in enumerate(DOCUMENTS)}


def mixed_files() -> dict[str, bytes]:
    """One file of each kind; other files, and those that hide, are no text."""
    return {
        "README.md": b"\xff no text",
        "0.txt": as_text(DOCUMENTS[0]),
        "__MACOSX/._0.txt": b"\xff no text",
        "1.txt.zst": zstandard.compress(as_text(DOCUMENTS[1])),
        "2.jsonl": as_json_lines(DOCUMENTS[2]),
        "3.jsonl.bz2": bz2.compress(as_json_lines(DOCUMENTS[3], joint=" ")),
        "4.parquet": as_parquet(DOCUMENTS[4][:3]),
        "4b.arrow": as_arrow(DOCUMENTS[4][3:]),
        "deep/5.txt.xz": lzma.compress(as_text(DOCUMENTS[5])),
    }


def openwebtext() -> bytes:
    """A tar.xz of .xz files that are tars of .txt files, and a zip among them."""
    files = list(text_files().items())
    return lzma.compress(
        as_tar(
            {
                "openwebtext/urlsf_subset00-1_data.xz": lzma.compress(as_tar(dict(files[:2]))),
                "openwebtext/urlsf_subset00-2_data.xz": lzma.compress(as_tar(dict(files[2:4]))),
                "openwebtext/urlsf_subset00-3.zip": as_zip(dict(files[4:])),
            }
        )
    )


FORMS: dict[str, Callable[[], bytes]] = {
    **{f"a.txt{suffix}": lambda pack=pack: pack(as_text(FLAT)) for suffix, pack in PACKINGS.items()},
    **{f"a.jsonl{suffix}": lambda pack=pack: pack(as_json_lines(FLAT)) for suffix, pack in PACKINGS.items()},
    **{f"a.tar{suffix}": lambda pack=pack: pack(as_tar(text_files())) for suffix, pack in PACKINGS.items()},
    "paragraphs.jsonl": lambda: as_json_lines(FLAT, joint=" "),
    "a.parquet": lambda: as_parquet(FLAT),
    "groups.parquet": lambda: as_parquet(FLAT, row_group_size=4, compression="zstd"),
    "a.arrow": lambda: as_arrow(FLAT),
    "a.tgz": lambda: gzip.compress(as_tar(text_files())),
    "a.txz": lambda: lzma.compress(as_tar(text_files())),
    "a.zip": lambda: as_zip(text_files()),
    "mixed.zip": lambda: as_zip(mixed_files()),
    "mixed.tar.gz": lambda: gzip.compress(as_tar(mixed_files())),
    "plain.xz": lambda: lzma.compress(as_text(FLAT)),
    "subset.xz": lambda: lzma.compress(as_tar(text_files())),
    "openwebtext.tar.xz": openwebtext,
}

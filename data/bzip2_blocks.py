"""bzip2 files block by block, from any byte on: nothing before is read, and damage stays in its block.

A block begins, at any bit, with 48 fixed bits. Behind a stream's header it decodes without the blocks before
it, and its checksum tells whether what was found is one. What the text means is not known here. (rapidgzip
and indexed_bzip2 decode in parallel too, but cannot begin in the middle of a file that was never decoded, and
stop at the first damaged block.)
"""

import bz2
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

MAGIC = b"BZh"

_BLOCK_MAGIC = 0x314159265359
_BLOCK_MAGIC_BITS = 48
# Of a magic that begins at bit s of a byte, the five whole bytes behind that one.
_MIDDLES = [((_BLOCK_MAGIC >> s) & ((1 << 40) - 1)).to_bytes(5, "big") for s in range(8)]
# "9" allows blocks of any size.
_HEADER = MAGIC + b"9"
_HEADER_BITS = 8 * len(_HEADER)
# Between the last block of a stream and the next stream's first one stand, after a magic of its own, the
# stream's checksum and a header. Blocks decode without these bits, and not with them: the checksum is that of
# all blocks.
_BETWEEN_STREAMS_BITS = 32 + _HEADER_BITS
# 900,000 characters that do not compress at all, and the tables of their code.
_LONGEST_BLOCK_BYTES = 1_000_000
_WINDOW_BYTES = 1 << 20


class Block(NamedTuple):
    """A piece of a file and its text.

    Attributes:
        begin: the byte of the file in which it begins.
        text: b"" where it is damaged or cut off.
        fault: what is damaged, in words: the block itself, or what follows it.
        is_last: whether no other one follows in the file.
    """

    begin: int
    text: bytes
    fault: str | None = None
    is_last: bool = False


def read_blocks(path: str | Path, begin: int = 0) -> Iterator[Block]:
    """The blocks that begin at byte `begin` or behind it, on to the end of the file, in constant memory.

    A file that was cut off ends with a block without text and without fault, or merely ends.
    """
    size = Path(path).stat().st_size
    with open(path, "rb") as stream:
        starts = _block_starts(stream, begin)
        start = next(starts, None)
        if begin == 0 and start != _HEADER_BITS:
            fault = None if start is None else f"bytes 0 to {start // 8:,} are damaged"
            yield Block(0, b"", fault, is_last=start is None)
        while start is not None:
            following = next(starts, None)
            # The last stream ends as if another one began behind the file.
            text = _decode(stream, start, 8 * size + _HEADER_BITS if following is None else following)
            fault = None
            if not text:
                text, end = _decode_slowly(stream, start)
                while following is not None and following <= end:
                    # These 48 bits stood by chance inside the block.
                    following = next(starts, None)
                if not text and (end or following is not None):
                    fault = f"the bzip2 block at byte {start // 8:,} is damaged"
                elif following is not None and not _decode(stream, start, following):
                    fault = f"bytes {end // 8:,} to {following // 8:,} are damaged"
            yield Block(start // 8, text, fault, is_last=following is None)
            start = following


def _block_starts(stream: BinaryIO, begin: int) -> Iterator[int]:
    """Bits of the file at which the magic of a block stands, from byte `begin` on, in order."""
    while True:
        stream.seek(begin)
        # A magic that begins in the window's last byte ends six bytes behind it.
        window = stream.read(_WINDOW_BYTES + 6)
        starts = []
        for shift, middle in enumerate(_MIDDLES):
            position = window.find(middle, 1)
            while position >= 0:
                bits = int.from_bytes(window[position - 1 : position + 6].ljust(7, b"\0"), "big")
                if bits >> (8 - shift) & ((1 << _BLOCK_MAGIC_BITS) - 1) == _BLOCK_MAGIC:
                    starts.append(8 * (begin + position - 1) + shift)
                position = window.find(middle, position + 1)
        yield from sorted(starts)
        if len(window) < _WINDOW_BYTES + 6:
            return
        begin += _WINDOW_BYTES


def _bits(stream: BinaryIO, begin: int, end: int) -> bytes:
    """Bits begin … end - 1 of a file, the first one at the beginning of a byte, zeros after the last one."""
    stream.seek(begin // 8)
    stored = stream.read((end + 7) // 8 - begin // 8)
    end = min(end, 8 * (begin // 8 + len(stored)))
    bits = int.from_bytes(stored, "big") >> (-end % 8)
    count = max(0, end - begin)
    return ((bits & ((1 << count) - 1)) << (-count % 8)).to_bytes((count + 7) // 8, "big")


def _decode(stream: BinaryIO, start: int, following: int) -> bytes:
    """The text of a block that another one follows, in its stream or the next one; b"" unless that is so."""
    bits = _bits(stream, start, following)
    inner = max(0, following - start - _BETWEEN_STREAMS_BITS) // 8
    decompressor = bz2.BZ2Decompressor()
    try:
        text = _decompress(decompressor, _HEADER + bits[:inner]) or _decompress(decompressor, bits[inner:])
    except OSError:
        return b""
    return b"" if decompressor.eof else text


def _decode_slowly(stream: BinaryIO, start: int) -> tuple[bytes, int]:
    """The text of a block whatever follows it, and the bit where its last byte begins.

    For a damaged block these are b"" and a bit of it; for one that the end of the file cuts off, b"" and 0.
    """
    decompressor = bz2.BZ2Decompressor()
    decompressor.decompress(_HEADER)
    bits = _bits(stream, start, start + 8 * _LONGEST_BLOCK_BYTES)
    # With its last byte the decompressor gives the text, before it sees what it would not take.
    for number in range(len(bits)):
        try:
            text = _decompress(decompressor, bits[number : number + 1])
        except OSError:
            return b"", start + 1
        if text:
            return text, start + 8 * number
    return b"", 0 if len(bits) < _LONGEST_BLOCK_BYTES else start + 1


def _decompress(decompressor: bz2.BZ2Decompressor, data: bytes) -> bytes:
    pieces = [decompressor.decompress(data)]
    # It may keep text back until it is called again.
    while pieces[-1] and not decompressor.eof:
        pieces.append(decompressor.decompress(b""))
    return b"".join(pieces)

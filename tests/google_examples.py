"""Google's way from lines of tokens to examples, written apart from ours to compare with it."""

from collections.abc import Iterator

from keyed_random import ScalarStream, derive_key


class GooglesBuilder:
    """google-research/electra, build_pretraining_dataset.ExampleBuilder, by reference.md's account of it: one
    line after another is added, an example comes out when there is enough, draws are taken in this order."""

    def __init__(self, max_length: int, stream: ScalarStream):
        self._max_length, self._stream = max_length, stream
        self._sentences, self._length = [], 0
        self._draw_target()

    def add_line(self, tokens: list[int]) -> tuple[list[int], list[int]] | None:
        if tokens:
            self._sentences.append(tokens)
            self._length += len(tokens)
        return self.emit() if self._length >= self._target else None

    def emit(self) -> tuple[list[int], list[int]] | None:
        if not self._sentences:
            return None
        first_target = 100_000 if self._stream.uniform() < 0.1 else (self._target - 3) // 2
        first, second = [], []
        for sentence in self._sentences:
            if not first or len(first) + len(sentence) < first_target:
                joins_first = True
            elif not second and len(first) < first_target:
                joins_first = self._stream.uniform() < 0.5
            else:
                joins_first = False
            (first if joins_first else second).extend(sentence)
        first = first[: self._max_length - 2]
        second = second[: max(0, self._max_length - len(first) - 3)]
        self._sentences, self._length = [], 0
        self._draw_target()
        return first, second

    def _draw_target(self) -> None:
        self._target = self._max_length
        if self._stream.uniform() < 0.05:
            self._target = self._stream.integer(5, self._max_length)


def googles_examples(
    lines: list[list[int]], max_length: int, key: int
) -> Iterator[tuple[list[int], list[int]]]:
    builder = GooglesBuilder(max_length, ScalarStream(derive_key(key, "segments")))
    for example in [*map(builder.add_line, lines), builder.emit()]:
        if example is not None:
            yield example


def joined(first: list[int], second: list[int], cls_id: int, sep_id: int) -> tuple[list[int], int]:
    """[CLS] first [SEP] (second [SEP]), and the length of segment 0."""
    return [cls_id, *first, sep_id, *second, *([sep_id] if second else [])], len(first) + 2

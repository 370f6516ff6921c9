"""Windows -> answers: batches of like length through the network, decoded question by question."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

import files
from command_line import RunFailure
from length_batches import bucket_lengths
from prediction_speed import PredictionClock
from question_answering import QuestionAnsweringModel
from squad_batches import block_batches, prediction_blocks
from squad_decoding import Decoded, DecodingRule, JointOutput, PlainOutput, WindowView, decode
from squad_features import Features
from workers import ALONE, Workers

_INPUTS = ("input_ids", "input_mask", "segment_ids", "context_mask")


class Predictor:
    """Answers the questions of Features.

    Args:
        model: built, with its weights.
        rule: how answers are chosen.
        batch_size: windows in a batch.
        max_seq_length: of the longest window.
        workers: who divide the questions among them.

    Attributes:
        clock: windows and batches, counted and timed.
        seconds: that all of it took.
    """

    def __init__(
        self,
        model: QuestionAnsweringModel,
        rule: DecodingRule,
        *,
        batch_size: int,
        max_seq_length: int,
        jit_compile: bool = False,
        workers: Workers = ALONE,
    ):
        self._workers = workers
        self._rule, self._batch_size = rule, batch_size
        self._buckets, self._fills_batches = bucket_lengths(max_seq_length), jit_compile
        # Without XLA one trace serves every length; with it each length is compiled once.
        signature = {name: tf.TensorSpec([None, None], tf.int32) for name in _INPUTS}
        self._predict = tf.function(
            model.predict, input_signature=[signature], jit_compile=jit_compile, autograph=False
        )
        self.clock = PredictionClock(workers)
        self.seconds = 0.0

    def answers(
        self,
        features: Features,
        *,
        hide_progress: bool | None = None,
        check_stop: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[str, Decoded]]:
        """The id of each question with its answer, in order; a block of questions is in memory at a time.

        Several workers take the blocks in turn and each gets all answers; numbers travel as JSON.

        Args:
            hide_progress: None shows the bar at a terminal alone.
            check_stop: called before each batch; what it raises ends the answers.

        Raises:
            RunFailure: the network's outputs are not numbers, on whichever worker.
        """
        started = time.monotonic()
        workers = self._workers
        blocks = prediction_blocks(features, self._batch_size, workers.size)
        with tqdm(total=len(features), desc="answering", unit="window", disable=hide_progress) as bar:
            for first in range(0, len(blocks), workers.size):
                turn = blocks[first : first + workers.size]
                own = workers.agree(lambda turn=turn: self._answer_own_block(features, turn, check_stop))
                answers = own if workers.size == 1 else _gathered(workers, own)
                bar.update(features.windows_of(turn[-1].stop - 1).stop - bar.n)
                features.release_memory()
                yield from answers
        self.seconds += time.monotonic() - started

    def _answer_own_block(
        self, features: Features, turn: list[range], check_stop: Callable[[], None]
    ) -> list[tuple[str, Decoded]]:
        """The answers of this worker's block of a turn; none where the turn has none for it."""
        if self._workers.rank >= len(turn):
            return []
        return self._answer_block(features, turn[self._workers.rank], check_stop)

    def _answer_block(
        self, features: Features, questions: range, check_stop: Callable[[], None]
    ) -> list[tuple[str, Decoded]]:
        outputs: dict[int, PlainOutput | JointOutput] = {}
        for length, windows in block_batches(
            features, questions, self._batch_size, self._buckets, filled=self._fills_batches
        ):
            check_stop()
            outputs |= self._outputs(features, windows, length)
        answers = []
        for number in questions:
            question = features.question(number)
            own = features.windows_of(number)
            views = [WindowView(features.spans(i), features.best_context(i)) for i in own]
            try:
                decoded = decode(question.context, views, [outputs[i] for i in own], self._rule)
            except ValueError as error:
                raise RunFailure(f"question {question.id!r}: {error}") from None
            answers.append((question.id, decoded))
        return answers

    def _outputs(self, features: Features, windows: np.ndarray, length: int) -> dict:
        batch = features.batch(windows, length)

        def compute() -> dict[str, np.ndarray]:
            tensors = self._predict({name: batch[name] for name in _INPUTS})
            return {name: tensor.numpy() for name, tensor in tensors.items()}

        arrays = self.clock.time(length, len(np.unique(windows)), compute)
        kind = JointOutput if self._rule.joint_head else PlainOutput
        return {
            int(window): kind(**{name: values[row] for name, values in arrays.items()})
            for row, window in enumerate(windows)
        }


def _gathered(workers: Workers, own: list[tuple[str, Decoded]]) -> list[tuple[str, Decoded]]:
    """The answers of a turn's blocks, in the order of the blocks."""
    parts = workers.gather([[name, dataclasses.asdict(decoded)] for name, decoded in own])
    return [(name, Decoded(**decoded)) for part in parts for name, decoded in part]


class JsonObjectFile:
    """A JSON object written entry by entry, and under its name only when it is complete."""

    def __init__(self, path: str | Path):
        self._path = Path(path)
        self._temporary = files.temporary_path(self._path)

    def __enter__(self) -> "JsonObjectFile":
        self._stream = open(self._temporary, "w", encoding="utf-8")
        self._stream.write("{")
        self._separator = "\n"
        return self

    def add(self, key: str, value: object) -> None:
        entry = f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
        self._stream.write(f"{self._separator}{entry}")
        self._separator = ",\n"

    def __exit__(self, kind, error, traceback) -> None:
        with self._stream:
            if kind is None:
                self._stream.write("\n}\n")
        if kind is None:
            files.publish(self._temporary, self._path)
        else:
            self._temporary.unlink(missing_ok=True)

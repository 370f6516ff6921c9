"""Text -> its tokens with the probability that each was replaced, and what a generator would put there.

The text goes in as [CLS] text [SEP], as a single segment. Which weights is found out in detection_inputs.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from command_line import RunFailure, UsageError
from detection_inputs import DetectionInputs
from electra_weights import DISCRIMINATOR_HEAD, MASKED_LM_HEAD
from length_batches import bucket_lengths, bucketed_batches
from modeling import DiscriminatorHead, Encoder, MaskedLmHead
from pretrained_models import PretrainedModel, assign_weights
from sliding_windows import shown_best, window_places
from tokenization import build_tokenizer, encodable

_INPUTS = ("input_ids", "input_mask", "segment_ids")


@dataclass(frozen=True)
class Token:
    """A token of a text.

    Attributes:
        piece: as the vocabulary has it.
        begin, end: its first character in the text and the one after its last.
        probability: that it was replaced, by the discriminator.
    """

    piece: str
    begin: int
    end: int
    probability: float


@dataclass(frozen=True)
class Alternatives:
    """What a generator puts in a token's place, the token itself being masked.

    Attributes:
        probability: of the token that stands there.
        best: the most probable pieces and their probabilities, the best first.
    """

    probability: float
    best: list[tuple[str, float]]

    def as_json(self) -> dict:
        """The same as an object of JSON."""
        best = [{"token": piece, "probability": probability} for piece, probability in self.best]
        return {"probability": self.probability, "best": best}


class TokenDetector:
    """Tells the tokens of texts of any length apart.

    Args:
        inputs: weights and vocabulary.
        alternatives: how many pieces `Alternatives` lists.
        batch_size: windows computed together at the most.
        jit_compile: compile with XLA.

    Attributes:
        has_generator: whether there are alternatives.

    Raises:
        UsageError: the weights are not those of such networks.
    """

    def __init__(
        self, inputs: DetectionInputs, *, alternatives: int, batch_size: int, jit_compile: bool = False
    ):
        self._vocabulary = inputs.vocabulary
        self._source = inputs.discriminator.source
        self._tokenizer = build_tokenizer(inputs.vocabulary)
        self._max_seq_length, self._batch_size = inputs.max_seq_length, batch_size
        self._fills_batches = jit_compile
        self._buckets = bucket_lengths(inputs.max_seq_length)
        self.has_generator = inputs.generator is not None
        matrix = {name: tf.TensorSpec([None, None], tf.int32) for name in _INPUTS}
        row = tf.TensorSpec([None], tf.int32)
        options = {"jit_compile": jit_compile, "autograph": False}
        probabilities = _discriminator(inputs.discriminator)
        self._probabilities = tf.function(probabilities, input_signature=[matrix], **options)
        if inputs.generator is not None:
            count = min(alternatives, inputs.vocabulary.size)
            best = _generator(inputs.generator, count)
            self._best = tf.function(best, input_signature=[matrix, row, row], **options)

    def tokens(self, text: str) -> list[Token]:
        """The tokens of a text, in its order; special ones are not among them.

        Raises:
            RunFailure: the network's outputs are not numbers.
        """
        cut = _CutText(self._tokenizer, encodable(text), self._max_seq_length)
        probabilities = np.zeros(len(cut.ids))
        for length, windows in self._batches(cut.lengths):
            output = self._probabilities(self._batch(cut, windows, length)).numpy()
            for window, row in zip(windows, output, strict=True):
                first, count = cut.windows[window]
                shown = cut.window_of[first : first + count] == window
                probabilities[first : first + count][shown] = row[1 : count + 1][shown]
        self._check(probabilities)
        return [
            Token(piece, begin, end, float(probability))
            for piece, (begin, end), probability in zip(cut.pieces, cut.spans, probabilities, strict=True)
        ]

    def alternatives(self, text: str, places: Sequence[int]) -> list[Alternatives]:
        """What the generator puts in the place of some of a text's tokens, one at a time.

        Args:
            places: numbers of tokens in the order of `tokens`.

        Raises:
            IndexError: there is no such token.
            RunFailure: the network's outputs are not numbers.
        """
        cut = _CutText(self._tokenizer, encodable(text), self._max_seq_length)
        places = np.asarray(places, np.int64).reshape(-1)
        if len(places) and not (places.min() >= 0 and places.max() < len(cut.ids)):
            raise IndexError(f"a text of {len(cut.ids)} tokens")
        windows = cut.window_of[places]
        positions = places - cut.firsts[windows] + 1
        found: dict[int, Alternatives] = {}
        for length, rows in self._batches(cut.lengths[windows]):
            batch = self._batch(cut, windows[rows], length)
            masked = positions[rows].astype(np.int32)
            originals = batch["input_ids"][np.arange(len(rows)), masked]
            batch["input_ids"][np.arange(len(rows)), masked] = self._vocabulary.mask_id
            outputs = [output.numpy() for output in self._best(batch, masked, originals)]
            self._check(outputs[0])
            for row, probability, values, ids in zip(rows, *outputs, strict=True):
                pieces = [self._vocabulary.pieces[number] for number in ids]
                best = list(zip(pieces, map(float, values), strict=True))
                found[int(row)] = Alternatives(float(probability), best)
        return [found[row] for row in range(len(places))]

    def _batches(self, lengths: np.ndarray) -> list[tuple[int, np.ndarray]]:
        return bucketed_batches(lengths, self._batch_size, self._buckets, filled=self._fills_batches)

    def _batch(self, cut: "_CutText", windows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """The arrays of some windows, int32 [windows, length]."""
        vocabulary = self._vocabulary
        ids = np.full((len(windows), length), vocabulary.pad_id, np.int32)
        mask = np.zeros_like(ids)
        for row, window in enumerate(windows):
            first, count = cut.windows[window]
            ids[row, 0] = vocabulary.cls_id
            ids[row, 1 : count + 1] = cut.ids[first : first + count]
            ids[row, count + 1] = vocabulary.sep_id
            mask[row, : count + 2] = 1
        return {"input_ids": ids, "input_mask": mask, "segment_ids": np.zeros_like(ids)}

    def _check(self, values: np.ndarray) -> None:
        if not np.isfinite(values).all():
            raise RunFailure(f"{self._source}: a logit is no number: its weights or the precision are broken")


class _CutText:
    """A text's tokens, and the windows that they are seen in.

    Attributes:
        ids: int32 [tokens].
        pieces, spans: of each token, the latter in characters of the text.
        windows: (first token, number of tokens) of each.
        firsts, lengths: int64 [windows]; the lengths with [CLS] and [SEP].
        window_of: int64 [tokens], the window that shows each token in most context.
    """

    def __init__(self, tokenizer, text: str, max_seq_length: int):
        encoding = tokenizer.encode(text, add_special_tokens=False)
        self.ids = np.array(encoding.ids, np.int32)
        self.pieces, self.spans = encoding.tokens, encoding.offsets
        room = max_seq_length - 2
        self.windows = window_places(len(self.ids), room, max(1, room // 2)) if len(self.ids) else []
        places = np.array(self.windows, np.int64).reshape(-1, 2)
        self.firsts, counts = places[:, 0], places[:, 1]
        self.lengths = counts + 2
        self.window_of = np.zeros(len(self.ids), np.int64)
        for number, (first, count) in enumerate(self.windows):
            self.window_of[first : first + count][shown_best(self.firsts, counts, number)] = number


def _discriminator(source: PretrainedModel):
    """A function from a batch to the probability of each token, float32 [batch, length]."""
    encoder = Encoder(source.config, name="electra")
    head = DiscriminatorHead(source.config, name="discriminator_predictions")
    _load(source, (encoder, head), DISCRIMINATOR_HEAD)

    def probabilities(batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        logits = head(encoder(*(batch[name] for name in _INPUTS)))
        return tf.reshape(tf.sigmoid(logits), tf.shape(batch["input_ids"]))

    return probabilities


def _generator(source: PretrainedModel, count: int):
    """A function from a batch, the masked position of each row and the id that stood there to the id's
    probability, float32 [batch], and the `count` highest ones with their ids, [batch, count]."""
    encoder = Encoder(source.config, name="electra")
    head = MaskedLmHead(source.config, encoder.embeddings, name="generator_predictions")
    _load(source, (encoder, head), MASKED_LM_HEAD)

    def best(batch: Mapping[str, tf.Tensor], positions: tf.Tensor, originals: tf.Tensor):
        hidden = encoder(*(batch[name] for name in _INPUTS))
        rows, length = tf.unstack(tf.shape(batch["input_ids"]))
        probabilities = tf.nn.softmax(head(tf.gather(hidden, tf.range(rows) * length + positions)))
        values, ids = tf.math.top_k(probabilities, count)
        return tf.gather(probabilities, originals, batch_dims=1), values, ids

    return best


def _load(source: PretrainedModel, layers: Sequence[keras.layers.Layer], head: str) -> None:
    variables = {}
    for layer in layers:
        layer.build()
        variables |= {variable.path: variable.value for variable in layer.trainable_variables}
    missing, _ = assign_weights(variables, source, head)
    if missing:
        raise UsageError(
            f"--{source.flag} {source.source}: lacks {len(missing)} weights of the head, first {missing[0]}"
        )

"""Questions and contexts as strings -> answers as strings, in one graph that needs no Python of ours.

The same windows, the same network and the same choice among spans as in squad_features.py,
question_answering.py and squad_decoding.py, written as TensorFlow operations over all questions of a call
together. The rules are explained there.
"""

from dataclasses import dataclass

import tensorflow as tf

from answering_inputs import AnsweringInputs
from question_answerer import load_answering_model
from serving_tokenization import GraphTokenizer, TokenizedTexts
from squad_features import FeatureRule

_STRINGS = tf.TensorSpec([None], tf.string)
_INPUTS = ("input_ids", "input_mask", "segment_ids", "context_mask")


@dataclass(frozen=True)
class _Windows:
    """The windows of all questions, padded to the longest: W windows of L tokens.

    Attributes:
        question: int32 [W], which question each belongs to; windows of a question follow one another.
        batch: int32 [W, L] by name, as squad_features.Features.batch gives them.
        is_context: bool [W, L], the tokens of the context.
        is_best: bool [W, L], where of all windows this one shows a token in most context.
        token: int32 [W, L], which token of all contexts stands there; 0 outside the context.
    """

    question: tf.Tensor
    batch: dict[str, tf.Tensor]
    is_context: tf.Tensor
    is_best: tf.Tensor
    token: tf.Tensor


@dataclass(frozen=True)
class _Spans:
    """Possible answers, one entry for each; scores are float64, in which the sum of two logits is exact.

    Attributes:
        question: int32.
        begin, end: int32, characters of the context.
        score: float64.
    """

    question: tf.Tensor
    begin: tf.Tensor
    end: tf.Tensor
    score: tf.Tensor

    def take(self, places: tf.Tensor) -> "_Spans":
        """Those at some places."""
        parts = (self.question, self.begin, self.end, self.score)
        return _Spans(*(tf.gather(part, places) for part in parts))


@dataclass(frozen=True)
class _Ranking:
    """The best answers of n questions, best first, padded: texts [n, k] with "", scores [n, k] with -inf."""

    texts: tf.Tensor
    scores: tf.Tensor


class ServingModel(tf.Module):
    """A fine-tuned model that answers strings; `answer` is its signature.

    Args:
        inputs: weights and rules.
        batch_size: windows computed together.

    Raises:
        UsageError: the weights are not those of such a network.
    """

    def __init__(self, inputs: AnsweringInputs, *, batch_size: int):
        super().__init__()
        vocabulary = inputs.vocabulary
        self._cls_id, self._sep_id, self._pad_id = vocabulary.cls_id, vocabulary.sep_id, vocabulary.pad_id
        self._rule, self._decoding = inputs.feature_rule, inputs.decoding_rule
        self._batch_size = batch_size
        self._tokenizer = GraphTokenizer(vocabulary)
        network = load_answering_model(inputs)
        # Only the weights are kept with the graph: a Keras layer would bring its own description along.
        self._weights = list(network.named_variables().values())
        self._predict = network.predict

    @tf.function(input_signature=[_STRINGS, _STRINGS], autograph=False)
    def answer(self, question, context) -> dict[str, tf.Tensor]:
        """Answer question i from context i.

        Args:
            question, context: string [n], UTF-8.

        Returns:
            answer: string [n], "" for none. probability: float32 [n], its own in the n-best list.
            n_best_text: string [n, k]; n_best_probability: float32 [n, k]. Best first; where there are fewer
            than k, the rest is "" with probability 0.
            null_odds: float32 [n], only where questions may have no answer.
        """
        same_number = tf.debugging.assert_equal(
            tf.size(question), tf.size(context), "as many contexts as questions are needed"
        )
        with tf.control_dependencies([same_number]):
            queries = self._tokenizer.tokenize(question)
            contexts = self._tokenizer.tokenize(context)
        windows = self._windows(queries.ids[:, : self._rule.max_query_length], contexts.ids)
        outputs = self._outputs(windows.batch)
        spans = self._spans(windows, outputs, contexts)
        ranking = _best_texts(spans, context, contexts, self._most_answers)
        if not self._decoding.version_2:
            return _result(ranking.texts[:, 0], _without_answers(ranking))
        return self._with_null(ranking, windows.question, outputs)

    @property
    def _most_answers(self) -> int:
        # In version 2 the empty text takes the place of the last answer, but never that of the only one.
        return max(1, self._decoding.n_best_size - int(self._decoding.version_2))

    # ---------------------------------------------------------------------------------------------- windows

    def _windows(self, queries: tf.RaggedTensor, contexts: tf.RaggedTensor) -> _Windows:
        query_lengths = tf.cast(queries.row_lengths(), tf.int32)
        context_lengths = tf.cast(contexts.row_lengths(), tf.int32)
        question, first, count = window_places(self._rule, query_lengths, context_lengths)
        query_length = tf.gather(query_lengths, question)
        # Columns beside the row of places: token p of the window stands at place p.
        begin, end = (query_length + 2)[:, None], (query_length + 2 + count)[:, None]
        # Without any window reduce_max gives the lowest int32.
        place = tf.range(tf.maximum(0, tf.reduce_max(end)) + 1)[None]
        is_query = (place >= 1) & (place < begin - 1)
        is_context = (place >= begin) & (place < end)
        context_begin = tf.gather(tf.cast(contexts.row_starts(), tf.int32), question)
        token = tf.where(is_context, (context_begin + first)[:, None] + place - begin, 0)
        query_begin = tf.gather(tf.cast(queries.row_starts(), tf.int32), question)
        ids = tf.fill(tf.shape(token), self._pad_id)
        for where, value in (
            (place == 0, self._cls_id),
            ((place == begin - 1) | (place == end), self._sep_id),
            (is_query, _ids_at(queries, tf.where(is_query, query_begin[:, None] + place - 1, 0))),
            (is_context, _ids_at(contexts, token)),
        ):
            ids = tf.where(where, value, ids)
        batch = {
            "input_ids": ids,
            "input_mask": tf.cast(place <= end, tf.int32),
            "segment_ids": tf.cast((place >= begin) & (place <= end), tf.int32),
            "context_mask": tf.cast(is_context | (place == 0), tf.int32),
        }
        left = place - begin
        nearest = tf.minimum(left, count[:, None] - 1 - left)
        # BERT's measure in hundredths, as in sliding_windows.shown_best.
        is_best = _is_first_best(100 * nearest + count[:, None], token, is_context, tf.size(contexts.values))
        return _Windows(question, batch, is_context, is_best, token)

    def _outputs(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """What the network says of each window, computed `batch_size` windows at a time."""
        size = self._batch_size
        windows = tf.shape(batch["input_ids"])[0]
        chunks = tf.maximum(1, -(-windows // size))

        def of_chunk(number):
            chunk = {name: batch[name][number * size : (number + 1) * size] for name in _INPUTS}
            return self._predict(chunk)

        def write(arrays, number, outputs):
            return {name: array.write(number, outputs[name]) for name, array in arrays.items()}

        first = of_chunk(0)
        arrays = {
            name: tf.TensorArray(output.dtype, chunks, infer_shape=False, element_shape=output.shape)
            for name, output in first.items()
        }
        _, arrays = tf.while_loop(
            lambda number, _: number < chunks,
            lambda number, arrays: (number + 1, write(arrays, number, of_chunk(number))),
            (1, write(arrays, 0, first)),
            parallel_iterations=1,
        )
        outputs = {name: array.concat() for name, array in arrays.items()}
        return {
            name: tf.debugging.check_numerics(output, name) if output.dtype.is_floating else output
            for name, output in outputs.items()
        }

    # ------------------------------------------------------------------------------------------------ spans

    def _spans(self, windows: _Windows, outputs: dict, contexts: TokenizedTexts) -> _Spans:
        """All spans that may be answers, ordered by question, then from the best score down; of equal scores
        by window, start and end."""
        choose = self._joint_spans if self._decoding.joint_head else self._plain_spans
        window, start, end, score = choose(windows, outputs)
        token = [tf.gather_nd(windows.token, tf.stack([window, place], 1)) for place in (start, end)]
        question = tf.gather(windows.question, window)
        spans = _Spans(
            question,
            tf.gather(contexts.begins.values, token[0]),
            tf.gather(contexts.ends.values, token[1]),
            score,
        )
        # Sorting is stable, so the order of the last key goes over that of those before it.
        spans = spans.take(tf.argsort(spans.score, direction="DESCENDING", stable=True))
        return spans.take(tf.argsort(spans.question, stable=True))

    def _plain_spans(self, windows: _Windows, outputs: dict):
        """window, start, end (tokens, int32) and score of every pair of one of the best starts and ends."""
        rule, questions = self._decoding, windows.question
        start_logits, end_logits = outputs["start_logits"], outputs["end_logits"]
        may_start, may_end = windows.is_context & windows.is_best, windows.is_context
        length = tf.shape(start_logits)[1]
        width = tf.minimum(rule.max_answer_length, length)

        def pairs(starts, ends):
            # [W, L, width]: may an answer start at l and end at l + w?
            places = tf.range(length)[:, None] + tf.range(width)[None]
            ends = tf.gather(tf.pad(ends, [[0, 0], [0, width]]), places, axis=1)
            return starts[:, :, None] & ends

        best = pairs(
            may_start & _highest(start_logits, may_start, rule.n_best_size),
            may_end & _highest(end_logits, may_end, rule.n_best_size),
        )
        # Where no best end follows a best start, every pair is allowed.
        found = tf.cast(tf.reduce_any(best, [1, 2]), tf.int32)
        lacks = tf.gather(tf.math.segment_sum(found, questions) == 0, questions)
        chosen = tf.cond(
            tf.reduce_any(lacks),
            lambda: best | (pairs(may_start, may_end) & lacks[:, None, None]),
            lambda: best,
        )
        window, start, distance = tf.unstack(tf.cast(tf.where(chosen), tf.int32), axis=1)
        end = start + distance
        scores = [
            tf.cast(tf.gather_nd(logits, tf.stack([window, place], 1)), tf.float64)
            for logits, place in ((start_logits, start), (end_logits, end))
        ]
        return window, start, end, scores[0] + scores[1]

    def _joint_spans(self, windows: _Windows, outputs: dict):
        """window, start, end (tokens, int32) and score of every allowed pair of the beam."""
        end = outputs["end_index"]
        shape = tf.shape(end)
        number = tf.range(shape[0])[:, None, None]
        window = tf.reshape(tf.broadcast_to(number, shape), [-1])
        start = tf.reshape(tf.broadcast_to(outputs["start_index"][:, :, None], shape), [-1])
        end = tf.reshape(end, [-1])
        log_probs = (outputs["start_log_probs"][:, :, None], outputs["end_log_probs"])
        score = tf.reshape(sum(tf.cast(part, tf.float64) for part in log_probs), [-1])
        may_start = tf.gather_nd(windows.is_context & windows.is_best, tf.stack([window, start], 1))
        may_end = tf.gather_nd(windows.is_context, tf.stack([window, end], 1))
        fits = (start <= end) & (end - start < self._decoding.max_answer_length)
        allowed = tf.where(may_start & may_end & fits)[:, 0]
        window, start, end, score = (tf.gather(part, allowed) for part in (window, start, end, score))
        length = tf.shape(windows.token, tf.int64)[1]
        wide = [tf.cast(part, tf.int64) for part in (window, start, end)]
        order = tf.argsort((wide[0] * length + wide[1]) * length + wide[2], stable=True)
        return tuple(tf.gather(part, order) for part in (window, start, end, score))

    # ------------------------------------------------------------------------------------------------- null

    def _with_null(self, ranking: _Ranking, question_of: tf.Tensor, outputs: dict) -> dict[str, tf.Tensor]:
        """The result where the empty text competes."""
        has_answer = ranking.scores[:, 0] > -float("inf")
        if self._decoding.joint_head:
            null_odds = tf.math.segment_min(tf.cast(outputs["null_logit"], tf.float64), question_of)
            null_score = null_odds + tf.where(has_answer, tf.reduce_logsumexp(ranking.scores, 1), 0)
        else:
            logits = [tf.cast(outputs[name][:, 0], tf.float64) for name in ("start_logits", "end_logits")]
            null_score = tf.math.segment_min(logits[0] + logits[1], question_of)
            null_odds = null_score - tf.where(has_answer, ranking.scores[:, 0], 0)
        texts = tf.pad(ranking.texts, [[0, 0], [0, 1]])
        scores = tf.concat([ranking.scores, null_score[:, None]], 1)
        order = tf.argsort(scores, direction="DESCENDING", stable=True)
        ranked = _Ranking(tf.gather(texts, order, batch_dims=1), tf.gather(scores, order, batch_dims=1))
        is_null = null_odds > self._decoding.null_score_diff_threshold
        answer = tf.where(is_null, "", ranking.texts[:, 0])
        return _result(answer, ranked) | {"null_odds": tf.cast(null_odds, tf.float32)}


def window_places(rule: FeatureRule, query_lengths: tf.Tensor, context_lengths: tf.Tensor):
    """FeatureRule.windows of many questions: int32 [windows], the question, the first context token and the
    number of context tokens of each; lengths are int32 [questions], in tokens."""
    room = rule.max_seq_length - query_lengths - 3
    stride = tf.minimum(rule.doc_stride, room)
    beyond_first = tf.maximum(0, context_lengths - room)
    counts = (beyond_first + stride - 1) // stride + 1
    question = tf.repeat(tf.range(tf.size(counts)), counts)
    number = tf.range(tf.size(question)) - tf.gather(tf.cumsum(counts, exclusive=True), question)
    first = number * tf.gather(stride, question)
    count = tf.minimum(tf.gather(room, question), tf.gather(context_lengths, question) - first)
    return question, first, count


def _ids_at(texts: tf.RaggedTensor, tokens: tf.Tensor) -> tf.Tensor:
    # One entry of padding: index 0 must exist even where there are no tokens.
    return tf.gather(tf.pad(texts.values, [[0, 1]]), tokens)


def _is_first_best(scores, token, is_context, num_tokens) -> tf.Tensor:
    """bool [W, L], where a token's score is the highest that any window gives it; of equal ones the first."""
    places = tf.where(is_context)
    scores, token = tf.gather_nd(scores, places), tf.gather_nd(token, places)
    highest = tf.gather(tf.math.unsorted_segment_max(scores, token, num_tokens), token)
    window = tf.where(scores == highest, places[:, 0], tf.int64.max)
    first = tf.gather(tf.math.unsorted_segment_min(window, token, num_tokens), token)
    best = tf.boolean_mask(places, window == first)
    ones = tf.ones(tf.shape(best)[:1], tf.int32)
    return tf.scatter_nd(best, ones, tf.shape(is_context, tf.int64)) > 0


def _highest(logits: tf.Tensor, is_allowed: tf.Tensor, limit: int) -> tf.Tensor:
    """bool [W, L], the `limit` highest allowed places of each row, of equal ones the first; where fewer are
    allowed, some that are not."""
    logits = tf.where(is_allowed, logits, -float("inf"))
    length = tf.shape(logits)[1]
    places = tf.math.top_k(logits, tf.minimum(limit, length)).indices
    return tf.reduce_any(tf.one_hot(places, length, True, False, dtype=tf.bool), 1)


def _best_texts(spans: _Spans, texts: tf.Tensor, contexts: TokenizedTexts, most: int) -> _Ranking:
    """The best `most` distinct texts of each question, of spans in the order that `_spans` gives; `texts` are
    the contexts as they came, which the answers are cut from byte by byte."""
    spans = spans.take(tf.where(spans.end > spans.begin)[:, 0])
    characters, rows = contexts.characters, contexts.characters.nrows()
    first = tf.gather(tf.cast(characters.row_starts(), tf.int32), spans.question)
    inside = tf.ragged.range(first + spans.begin, first + spans.end)
    text = tf.strings.unicode_encode(tf.gather(characters.values, inside), "UTF-8")
    names, number = tf.unique(tf.strings.join([tf.strings.as_string(spans.question), text], " "))
    distinct = tf.math.unsorted_segment_min(tf.range(tf.size(number)), number, tf.size(names))
    spans = spans.take(distinct)
    row = tf.cast(spans.question, tf.int64)

    def by_question(values, padding):
        ragged = tf.RaggedTensor.from_value_rowids(values, row, nrows=rows, validate=False)
        return ragged.to_tensor(padding, shape=[None, most])

    first_byte = tf.gather(tf.cast(contexts.bytes.row_starts(), tf.int32), spans.question)
    begin, end = (tf.gather(contexts.bytes.values, first_byte + place) for place in (spans.begin, spans.end))
    begin, length = by_question(begin, 0), by_question(end - begin, 0)
    scores = by_question(spans.score, tf.constant(-float("inf"), tf.float64))
    return _Ranking(tf.strings.substr(texts[:, None], begin, length), scores)


def _without_answers(ranking: _Ranking) -> _Ranking:
    """The same, but an empty text of score 0 where there is nothing at all."""
    first = ranking.scores[:, :1]
    first = tf.where(first > -float("inf"), first, 0)
    return _Ranking(ranking.texts, tf.concat([first, ranking.scores[:, 1:]], 1))


def _result(answer: tf.Tensor, ranking: _Ranking) -> dict[str, tf.Tensor]:
    probabilities = tf.nn.softmax(ranking.scores)
    is_answer = (ranking.texts == answer[:, None]) & (ranking.scores > -float("inf"))
    probability = tf.reduce_sum(tf.where(is_answer, probabilities, 0), 1)
    return {
        "answer": answer,
        "probability": tf.cast(probability, tf.float32),
        "n_best_text": ranking.texts,
        "n_best_probability": tf.cast(probabilities, tf.float32),
    }


def save(model: ServingModel, folder: str) -> None:
    """Write a SavedModel with `answer` as its default signature."""
    tf.saved_model.save(model, folder, signatures={"serving_default": model.answer})

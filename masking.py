"""What an example's masks and samples are: drawn on the host, from a key of the example's position.

A batch leaves here complete: the networks need no random numbers but dropout's. So the same sequences get
the same masks and the same samples whatever the number of workers and however often the run was restarted.
"""

import re
from dataclasses import dataclass

import numpy as np

from keyed_random import derive_key, draw_bits, draw_uniforms
from tokenization import Vocabulary

# Share of the picks that become [MASK]; the others stay as they are (paper, appendix A).
_MASK_TOKEN_SHARE = np.float32(0.85)


@dataclass(frozen=True)
class MaskingRule:
    """How many tokens are picked, and which ids are never picked."""

    mask_prob: float
    max_predictions: int
    mask_id: int
    never_picked: tuple[int, ...]

    @classmethod
    def of(cls, vocabulary: Vocabulary, mask_prob: float, max_predictions: int) -> "MaskingRule":
        never_picked = (vocabulary.cls_id, vocabulary.sep_id, vocabulary.mask_id)
        return cls(mask_prob, max_predictions, vocabulary.mask_id, never_picked)


def mask_keys(seed: int, positions: np.ndarray) -> np.ndarray:
    """The keys of the examples at these positions of a run: uint64, the shape of `positions`."""
    return draw_bits(derive_key(seed, "masks and samples"), positions)


def mask_batch(examples: dict[str, np.ndarray], keys: np.ndarray, rule: MaskingRule) -> dict[str, np.ndarray]:
    """Add picks, masked inputs and the samples' random numbers to a batch of examples.

    n = clip(round(tokens * mask_prob), 1, max_predictions) distinct tokens of each example are picked
    uniformly, tokens counting [CLS] and [SEP]; fewer where fewer may be picked.

    Args:
        examples: input_ids, input_mask, segment_ids: int32 [batch, length].
        keys: uint64 [batch], one for each example.

    Returns:
        The examples and, with picks = max_predictions:
        masked_input_ids: int32 [batch, length], the generator's input.
        masked_lm_positions: int32 [batch, picks], 0 where there is no pick.
        masked_lm_ids: int32 [batch, picks], the original ids at those positions.
        masked_lm_weights: float32 [batch, picks], 1 for a pick and 0 where there is none.
        masked_lm_is_mask: float32 [batch, picks], 1 for the picks that became [MASK].
        sample_uniforms: float32 [batch, picks] in [0, 1), the random number of each sample.
    """
    input_ids, input_mask = examples["input_ids"], examples["input_mask"]
    length = input_ids.shape[1]
    picks = min(rule.max_predictions, length)

    candidates = (input_mask > 0) & ~np.isin(input_ids, rule.never_picked)
    wanted = np.rint(input_mask.sum(axis=1) * rule.mask_prob)
    wanted = np.minimum(np.clip(wanted, 1, picks), candidates.sum(axis=1))

    # The picks are the candidates with the largest random numbers: every subset is equally likely. The lowest
    # bit goes to telling candidates from the others, which therefore sort behind them.
    scores = draw_bits(keys[:, None], np.arange(length)[None, :]) | np.uint64(1)
    scores = np.where(candidates, scores, np.uint64(0))
    order = np.argsort(scores, axis=1)[:, ::-1][:, :picks]
    is_pick = np.arange(picks)[None, :] < wanted[:, None]
    positions = np.where(is_pick, order, 0).astype(np.int32)

    pick_counters = np.arange(length, length + picks)[None, :]
    becomes_mask = is_pick & (draw_uniforms(keys[:, None], pick_counters) < _MASK_TOKEN_SHARE)
    sample_uniforms = draw_uniforms(keys[:, None], pick_counters + picks)

    masked_input_ids = input_ids.copy()
    rows, columns = np.nonzero(becomes_mask)
    masked_input_ids[rows, positions[rows, columns]] = rule.mask_id
    return examples | {
        "masked_input_ids": masked_input_ids,
        "masked_lm_positions": positions,
        "masked_lm_ids": np.take_along_axis(input_ids, positions, axis=1),
        "masked_lm_weights": is_pick.astype(np.float32),
        "masked_lm_is_mask": becomes_mask.astype(np.float32),
        "sample_uniforms": sample_uniforms,
    }


def describe_masked(batch: dict[str, np.ndarray], row: int, vocabulary: Vocabulary) -> str:
    """A masked example as text, its picks in brackets: [MASK piece], or [KEPT piece] for one that stays."""
    length = int(batch["input_mask"][row].sum())
    words = [vocabulary.pieces[token_id] for token_id in batch["input_ids"][row][:length]]
    picks = zip(batch["masked_lm_positions"][row], batch["masked_lm_is_mask"][row], strict=True)
    for (position, is_mask), weight in zip(picks, batch["masked_lm_weights"][row], strict=True):
        if weight:
            words[position] = f"[MASK {words[position]}]" if is_mask else f"[KEPT {words[position]}]"
    # As in plain text, a piece joins the one before it; within its brackets it stays a piece.
    return re.sub(r"(?<!\[MASK|\[KEPT) ##", "", " ".join(words))

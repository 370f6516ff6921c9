"""Picks are as many, as distinct, as uniform and as reproducible as the objective needs them."""

import numpy as np
import pytest

from keyed_random import derive_key, draw_bits
from masking import MaskingRule, mask_batch
from tokenization import SPECIAL_PIECES, Vocabulary

PAD, UNK, CLS, SEP, MASK = range(5)
RULE = MaskingRule(mask_prob=0.15, max_predictions=19, mask_id=MASK, never_picked=(CLS, SEP, MASK))


def keys_of(count: int, name: str = "test") -> np.ndarray:
    return draw_bits(derive_key(name), np.arange(count))


def random_batch(rows: int, length: int = 128, seed: int = 0) -> dict[str, np.ndarray]:
    """Examples of 0 to `length` real tokens, with special tokens in their midst and real tokens of id 0."""
    draw = np.random.RandomState(seed)
    lengths = draw.randint(0, length + 1, rows)
    lengths[:4] = [0, 1, 2, length]
    mask = np.arange(length)[None, :] < lengths[:, None]
    ids = draw.randint(5, 1000, (rows, length))
    ids[draw.uniform(size=ids.shape) < 0.05] = PAD
    specials = draw.uniform(size=ids.shape) < draw.choice([0.02, 0.5, 0.98], size=(rows, 1))
    ids = np.where(specials, draw.choice([CLS, SEP, MASK], size=ids.shape), ids)
    ids[:, 0] = CLS
    return {
        "input_ids": np.where(mask, ids, PAD).astype(np.int32),
        "input_mask": mask.astype(np.int32),
        "segment_ids": ((np.arange(length)[None, :] >= lengths[:, None] // 2) & mask).astype(np.int32),
    }


def one_example(length: int, tokens: int) -> dict[str, np.ndarray]:
    """A row [CLS] x … x [SEP] of so many real tokens."""
    ids = np.full((1, length), PAD)
    ids[0, :tokens] = 50
    ids[0, 0], ids[0, tokens - 1] = CLS, SEP
    mask = (np.arange(length)[None, :] < tokens).astype(np.int32)
    return {"input_ids": ids.astype(np.int32), "input_mask": mask, "segment_ids": np.zeros_like(mask)}


def repeated(example: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    return {name: np.repeat(values, count, axis=0) for name, values in example.items()}


def picks_of(batch: dict[str, np.ndarray], row: int) -> list[int]:
    return batch["masked_lm_positions"][row][batch["masked_lm_weights"][row] > 0].tolist()


@pytest.mark.parametrize(("mask_prob", "most"), [(0.15, 19), (0.25, 32), (0.5, 10), (0.9, 128), (0.01, 1)])
def test_number_of_picks_is_the_references(mask_prob, most):
    """clip(round(tokens * share), 1, most), [CLS] and [SEP] counted, no more than there are candidates."""
    rule = MaskingRule(mask_prob, most, MASK, (CLS, SEP, MASK))
    examples = random_batch(400)
    batch = mask_batch(examples, keys_of(400), rule)
    for row in range(400):
        real = [
            int(token)
            for token, is_real in zip(examples["input_ids"][row], examples["input_mask"][row], strict=True)
            if is_real
        ]
        candidates = [token for token in real if token not in (CLS, SEP, MASK)]
        wanted = min(max(1, min(most, round(len(real) * mask_prob))), len(candidates))
        assert len(picks_of(batch, row)) == wanted == batch["masked_lm_weights"][row].sum()


@pytest.mark.parametrize(
    ("tokens", "picks"), [(3, 1), (9, 1), (10, 2), (30, 4), (50, 8), (126, 19), (128, 19)]
)
def test_hand_worked_numbers_of_picks(tokens, picks):
    """.15 x 30 = 4.5 goes to the even 4, as in Google's code; 19.2 is cut to 19."""
    batch = mask_batch(one_example(128, tokens), keys_of(1), RULE)
    assert len(picks_of(batch, 0)) == picks


def test_picks_are_distinct_real_tokens_and_never_special():
    examples = random_batch(400, seed=1)
    batch = mask_batch(examples, keys_of(400), RULE)
    for row in range(400):
        picks = picks_of(batch, row)
        assert len(set(picks)) == len(picks)
        assert all(examples["input_mask"][row][place] == 1 for place in picks)
        assert not {int(examples["input_ids"][row][place]) for place in picks} & {CLS, SEP, MASK}


def test_every_output_says_the_same_of_the_picks():
    """Inputs differ from the original exactly where a pick became [MASK]; ids are the original ones."""
    examples = random_batch(300, seed=2)
    batch = mask_batch(examples, keys_of(300), RULE)
    for row in range(300):
        expected = examples["input_ids"][row].copy()
        for number in range(19):
            place = batch["masked_lm_positions"][row, number]
            is_pick = number < len(picks_of(batch, row))
            assert batch["masked_lm_weights"][row, number] == is_pick
            if is_pick:
                assert batch["masked_lm_ids"][row, number] == examples["input_ids"][row, place]
                if batch["masked_lm_is_mask"][row, number]:
                    expected[place] = MASK
            else:
                assert place == 0 and batch["masked_lm_is_mask"][row, number] == 0
        assert np.array_equal(batch["masked_input_ids"][row], expected)


def test_shapes_and_types_are_those_of_the_networks():
    batch = mask_batch(random_batch(7), keys_of(7), RULE)
    sequences = ("input_ids", "input_mask", "segment_ids", "masked_input_ids")
    floats = ("masked_lm_weights", "masked_lm_is_mask", "sample_uniforms")
    expected = dict.fromkeys(sequences, ((7, 128), np.int32))
    expected |= dict.fromkeys(("masked_lm_positions", "masked_lm_ids"), ((7, 19), np.int32))
    expected |= dict.fromkeys(floats, ((7, 19), np.float32))
    assert {name: (values.shape, values.dtype) for name, values in batch.items()} == expected


def test_examples_are_left_as_they_were():
    examples = random_batch(50)
    before = {name: values.copy() for name, values in examples.items()}
    for values in examples.values():
        values.flags.writeable = False
    batch = mask_batch(examples, keys_of(50), RULE)
    assert set(examples) == set(before)
    for name, values in before.items():
        assert np.array_equal(examples[name], values) and np.array_equal(batch[name], values)


def test_draws_follow_from_the_key_alone():
    """An example draws the same in any row of any batch; another key draws something else."""
    examples, keys = random_batch(64, seed=3), keys_of(64)
    whole = mask_batch(examples, keys, RULE)
    order = np.random.RandomState(0).permutation(64)
    for rows in (order, order[:1], order[5:12], np.array([9, 9, 9])):
        part = mask_batch({name: values[rows] for name, values in examples.items()}, keys[rows], RULE)
        for name, values in whole.items():
            assert np.array_equal(part[name], values[rows]), name
    other = mask_batch(examples, keys_of(64, "other"), RULE)
    for name in ("masked_lm_positions", "masked_lm_is_mask", "sample_uniforms"):
        assert not np.array_equal(whole[name], other[name])


def test_sequences_without_candidates_have_no_picks():
    """The empty sequences that fill up a last batch, and [CLS] [SEP]."""
    empty = {name: np.zeros((1, 16), np.int32) for name in ("input_ids", "input_mask", "segment_ids")}
    for examples in (empty, one_example(16, 2)):
        batch = mask_batch(examples, keys_of(1), RULE)
        assert batch["masked_lm_weights"].sum() == 0 == batch["masked_lm_positions"].sum()
        assert np.array_equal(batch["masked_input_ids"], examples["input_ids"])


def test_more_room_than_tokens_does_no_harm():
    rule = MaskingRule(0.9, 500, MASK, (CLS, SEP, MASK))
    batch = mask_batch(one_example(16, 16), keys_of(1), rule)
    assert sorted(picks_of(batch, 0)) == list(range(1, 15))


def test_every_candidate_is_picked_equally_often():
    """n of m without replacement: the counts' covariance is K f (1 - f) m / (m - 1) (1 - J / m), f = n / m,
    so that the scaled sum of the deviations' squares is chi-square with m - 1 degrees of freedom."""
    rows, tokens, picks = 20_000, 42, 6
    candidates = tokens - 2
    batch = mask_batch(repeated(one_example(64, tokens), rows), keys_of(rows), RULE)
    counts = np.bincount(batch["masked_lm_positions"][:, :picks].ravel(), minlength=64)
    assert counts.sum() == rows * picks and counts[1 : tokens - 1].sum() == rows * picks
    share = picks / candidates
    deviations = counts[1 : tokens - 1] - rows * share
    statistic = (deviations**2).sum() / (rows * share * (1 - share) * candidates / (candidates - 1))
    assert (statistic - (candidates - 1)) / np.sqrt(2 * (candidates - 1)) < 5


def test_every_pair_of_candidates_is_picked_equally_often():
    """Every subset is equally likely: no two tokens attract or avoid each other."""
    rows, tokens, picks = 20_000, 22, 3
    candidates = tokens - 2
    batch = mask_batch(repeated(one_example(32, tokens), rows), keys_of(rows), RULE)
    indicator = np.zeros((rows, 32))
    np.put_along_axis(indicator, batch["masked_lm_positions"][:, :picks], 1, axis=1)
    together = (indicator.T @ indicator)[1 : tokens - 1, 1 : tokens - 1]
    expected = rows * picks * (picks - 1) / (candidates * (candidates - 1))
    pairs = together[np.triu_indices(candidates, 1)]
    assert abs(pairs - expected).max() < 5 * np.sqrt(expected)


def test_eighty_five_in_a_hundred_picks_become_mask():
    rows = 5000
    batch = mask_batch(repeated(one_example(64, 64), rows), keys_of(rows), RULE)
    picks = int(batch["masked_lm_weights"].sum())
    assert picks == rows * 10
    for number in range(10):
        share = batch["masked_lm_is_mask"][:, number].mean()
        assert abs(share - 0.85) < 5 * np.sqrt(0.85 * 0.15 / rows), "whichever pick it is"
    assert abs(batch["masked_lm_is_mask"].sum() / picks - 0.85) < 5 * np.sqrt(0.85 * 0.15 / picks)


def test_numbers_of_the_samples_are_uniform_and_know_nothing_of_the_masks():
    rows = 20_000
    batch = mask_batch(repeated(one_example(64, 64), rows), keys_of(rows), RULE)
    uniforms, is_mask = batch["sample_uniforms"][:, :10], batch["masked_lm_is_mask"][:, :10]
    assert uniforms.min() >= 0 and uniforms.max() < 1
    counts = np.bincount((uniforms.ravel() * 50).astype(int), minlength=50)
    statistic = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert (statistic - 49) / np.sqrt(2 * 49) < 5
    bound = 5 / np.sqrt(uniforms.size)
    assert abs(np.corrcoef(uniforms.ravel(), is_mask.ravel())[0, 1]) < bound
    assert abs(np.corrcoef(uniforms.ravel(), batch["masked_lm_positions"][:, :10].ravel())[0, 1]) < bound
    assert abs(np.corrcoef(uniforms[:, :-1].ravel(), uniforms[:, 1:].ravel())[0, 1]) < bound


def test_rule_of_a_vocabulary_spares_its_special_tokens_wherever_they_stand():
    vocabulary = Vocabulary(("a", *SPECIAL_PIECES[::-1], "b"))
    rule = MaskingRule.of(vocabulary, 0.2, 25)
    assert rule == MaskingRule(0.2, 25, vocabulary.mask_id, rule.never_picked)
    assert set(rule.never_picked) == {1, 2, 3}

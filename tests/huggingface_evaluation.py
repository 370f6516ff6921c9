"""What Hugging Face's networks say of held-out batches: the independent truth of held-out evaluation."""

import numpy as np
import torch


def evaluate(discriminator, generator, batches: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Metrics on the same picks, from Hugging Face's logits; the samples by a float64 inverse CDF of them."""
    picks, tokens = [], []
    for batch in batches:
        for row in range(len(batch["input_ids"])):
            if batch["input_mask"][row].any():
                of_row = _evaluate_row(discriminator, generator, {n: v[row] for n, v in batch.items()})
                picks += of_row[0]
                tokens += of_row[1]
    nll, right, is_mask, sampled_right = map(np.array, zip(*picks, strict=True))
    loss, logit, replaced = map(np.array, zip(*tokens, strict=True))
    predicted = logit > 0
    return {
        "masked_lm_loss": nll.mean(),
        "masked_lm_accuracy": 100 * right.mean(),
        "masked_lm_loss_masked_only": nll[is_mask].mean(),
        "masked_lm_accuracy_masked_only": 100 * right[is_mask].mean(),
        "sampled_masked_lm_accuracy": 100 * sampled_right.mean(),
        "disc_loss": loss.mean(),
        "disc_accuracy": 100 * (predicted == replaced).mean(),
        "disc_precision": replaced[predicted].mean(),
        "disc_recall": predicted[replaced].mean(),
        "disc_majority_accuracy": 100 * max(replaced.mean(), 1 - replaced.mean()),
        "disc_auc": _area_under_curve(logit[replaced], logit[~replaced]),
        "tokens": len(tokens),
    }


def _evaluate_row(discriminator, generator, row: dict[str, np.ndarray]) -> tuple[list, list]:
    """(nll, right, became [MASK], sample is the original) of picks; (loss, logit, replaced) of tokens."""
    real = int(row["input_mask"].sum())
    types = torch.tensor(row["segment_ids"][:real].astype(np.int64))[None]
    masked = torch.tensor(row["masked_input_ids"][:real].astype(np.int64))[None]
    with torch.no_grad():
        logits = generator(input_ids=masked, token_type_ids=types).logits[0].double()
    original = row["input_ids"][:real].astype(np.int64)
    corrupted = original.copy()
    picks = []
    for pick in np.flatnonzero(row["masked_lm_weights"]):
        position = row["masked_lm_positions"][pick]
        log_probabilities = torch.log_softmax(logits[position], -1)
        ends = np.cumsum(log_probabilities.exp().numpy())
        corrupted[position] = np.searchsorted(ends, float(row["sample_uniforms"][pick]), side="right")
        picks.append(
            (
                -float(log_probabilities[original[position]]),
                int(log_probabilities.argmax()) == original[position],
                bool(row["masked_lm_is_mask"][pick]),
                corrupted[position] == original[position],
            )
        )
    with torch.no_grad():
        logits = discriminator(input_ids=torch.tensor(corrupted)[None], token_type_ids=types).logits
    logits = logits.reshape(-1).double()
    replaced = torch.tensor(corrupted != original)
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, replaced.double(), reduction="none")
    return picks, list(zip(losses.tolist(), logits.tolist(), replaced.tolist(), strict=True))


def _area_under_curve(positive: np.ndarray, negative: np.ndarray) -> float:
    """The share of pairs in the right order, pair by pair; ties count one half."""
    differences = positive[:, None] - negative[None, :]
    return float(((differences > 0) + 0.5 * (differences == 0)).mean())

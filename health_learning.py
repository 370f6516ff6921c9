"""Rules on what a run learns and is made to learn from: both networks' progress, learning rate, repetition.

Thresholds stand above the rules, with where they come from.
"""

from architecture import MODEL_SIZES
from health_finding import Finding, finite, last_trained, not_judged, recent
from run_log import Phase, Points, RunLog

# NVIDIA's recipe (base, 67,584 sequences an update) leaves the majority class between update 300 and 930, in
# a warm-up of 2,000; Google's (128 to 2,048 sequences) has 10,000 updates of warm-up.
_LARGE_BATCH = 4096
_EARLY_UPDATES, _EARLY_UPDATES_LARGE_BATCH = 10_000, 2_000
# Continued from trained weights: the quickstart has left it by update 40.
_EARLY_UPDATES_CONTINUED = 500
_MAJORITY_POINTS, _MAJORITY_AUC = 0.5, 0.55
# Tokens that kept their own piece are easy, so the training loss of unigram frequencies is below the entropy.
_PLATEAU_TRAINING, _PLATEAU_HELD_OUT = 0.95, 0.98
# Generators that are as large as the discriminator hurt it (Clark et al. 2020, figure 3). With 15 % picked,
# 5 % of the tokens are replaced where the generator is right at two picks of three.
_FEWEST_REPLACED = 0.05


def majority_class(run: RunLog) -> Finding:
    """Whether the discriminator has begun to tell tokens apart, or calls all of them original."""
    rule = "off the majority class"
    phase = last_trained(run)
    accuracy, auc = recent(phase, "disc_accuracy"), recent(phase, "disc_auc")
    majority = _majority_rate(phase)
    if accuracy is None or auc is None or majority is None:
        return not_judged(rule, "disc_accuracy, disc_auc and the share of replaced tokens")
    evidence = f"accuracy {accuracy:.1f} %, majority rate {majority:.1f} %, AUC {auc:.3f}"
    if accuracy > majority + _MAJORITY_POINTS or auc >= _MAJORITY_AUC:
        return Finding(rule, True, evidence)
    early = _early_updates(run)
    if run.updates <= early:
        return Finding(rule, True, f"{evidence}: not learning yet, normal up to update {early:,} of this run")
    return Finding(
        rule,
        False,
        f"{evidence}: after {run.updates:,} updates every token is still called original",
        "see whether the masked-LM loss falls; if it does, train longer or with larger batches; if not, "
        "check the learning rate, the vocabulary and the text (--show_update 1)",
    )


def unigram_plateau(run: RunLog) -> Finding:
    """Whether the generator knows more than how frequent each token is."""
    rule = "generator past word frequencies"
    phase = last_trained(run)
    updates, unigram = run.updates, recent(phase, "eval_unigram_cross_entropy", "held_out", 1)
    evaluated = finite(phase.points("held_out", "eval_masked_lm_loss_masked_only"))
    # One before the first update says nothing of the training.
    evaluated = [(update, loss) for update, loss in evaluated if update or not phase.training]
    if evaluated and unigram:
        update, loss = evaluated[-1]
        updates = run.phase_starts()[run.phases.index(phase)] + update
        limit, place = _PLATEAU_HELD_OUT * unigram, "held-out, at [MASK]"
    else:
        loss, unigram = recent(phase, "masked_lm_loss"), phase.setting("unigram_entropy")
        if loss is None or not unigram:
            return not_judged(rule, "masked_lm_loss and unigram_entropy")
        limit, place = _PLATEAU_TRAINING * unigram, "in training"
    evidence = f"masked-LM loss {loss:.3f} nats {place}; word frequencies alone give {unigram:.3f}"
    if loss < limit:
        return Finding(rule, True, evidence)
    early = _early_updates(run)
    if updates <= early:
        return Finding(rule, True, f"{evidence}: normal up to update {early:,} of this run")
    return Finding(
        rule,
        False,
        evidence,
        "the generator has not begun to use context: train longer, raise --learning_rate towards the "
        "recipe's, or widen it (--generator_hidden_size)",
    )


def generator_strength(run: RunLog) -> Finding:
    """Whether the generator leaves the discriminator enough replaced tokens to learn from."""
    rule = "enough replaced tokens"
    phase = last_trained(run)
    sampled, picked = recent(phase, "sampled_masked_lm_accuracy"), phase.setting("mask_prob", 0.15)
    if sampled is None:
        return not_judged(rule, "sampled_masked_lm_accuracy")
    replaced = picked * (1 - sampled / 100)
    evidence = (
        f"{sampled:.1f} % of the samples are the original token, so {100 * replaced:.1f} % of the tokens "
        f"are replaced"
    )
    if replaced >= _FEWEST_REPLACED:
        return Finding(rule, True, evidence)
    return Finding(
        rule,
        False,
        f"{evidence}, fewer than {100 * _FEWEST_REPLACED:.0f} %",
        "make the generator smaller (--generator_hidden_size 1/4 to 1/2), pick more (--mask_prob 0.25), or "
        "raise --temperature",
    )


# Google's rates are 2e-4 to 5e-4 with Adam, NVIDIA's 6e-3 and 4e-3 with LAMB at 67,584 and 27,648 sequences,
# and LAMB's authors take 6.25e-4 at 512 (You et al. 2020): from a twentieth (Adam, continued from trained
# weights) or a sixth of the lowest up to twice the highest.
_RATES = {"adam": (1e-5, 1e-3), "lamb": (1e-4, 1.2e-2)}
# Narrower networks bear higher rates, in proportion (Yang et al. 2022); the recipes' narrowest has 256.
_RECIPE_WIDTH = 256
# Up to four epochs are as good as fresh text (Muennighoff et al. 2023).
_EPOCHS = 4.0
_HELD_OUT_RISE = 1.02


def learning_rate(run: RunLog) -> Finding:
    """Whether the learning rate and its warm-up are those of a known recipe, or near."""
    rule = "learning rate of a recipe"
    told = []
    for phase in run.phases:
        rate, optimizer = phase.setting("learning_rate"), phase.settings.get("optimizer")
        rates = [value for _, value in phase.points("training", "learning_rate")]
        if rate is None or optimizer not in _RATES:
            continue
        # The peak that was reached, where the warm-up is over.
        rate = max(rates) if rates and phase.last_update > phase.setting("num_warmup_steps", 0) else rate
        lowest, highest = _RATES[optimizer]
        highest *= max(1.0, _RECIPE_WIDTH / _width(phase))
        told.append(f"phase {phase.number}: {optimizer}, at most {rate:.2g}")
        if not lowest <= rate <= highest:
            return Finding(
                rule,
                False,
                f"{told[-1]}; recipes for it have {lowest:.2g} to {highest:.2g}",
                "see configs/ for the rates of the published recipes, by size and batch",
            )
        from_random = phase.number == 1 and not phase.settings.get("init_weights")
        if from_random and not phase.setting("num_warmup_steps"):
            return Finding(
                rule,
                False,
                f"{told[-1]}, without warm-up from random weights",
                "give --num_warmup_steps: a hundredth (Google) to a fifth (NVIDIA) of the updates",
            )
    if not told:
        return not_judged(rule, "learning_rate and optimizer")
    return Finding(rule, True, "; ".join(told))


def repetition(run: RunLog) -> Finding:
    """Whether data are repeated so often that the model learns them by heart."""
    rule = "data not repeated to harm"
    told, judged = [], False
    for phase in run.phases:
        epochs = [value for _, value in phase.points("training", "epoch")]
        if not epochs:
            continue
        judged = True
        told.append(f"phase {phase.number}: {max(epochs):.2f} epochs")
        if max(epochs) <= _EPOCHS:
            continue
        masked_lm = finite(phase.points("held_out", "eval_masked_lm_loss_masked_only"))
        detection = finite(phase.points("held_out", "eval_disc_loss"))
        for name, points in (("masked-LM", masked_lm), ("replaced-token", detection)):
            if len(points) < 2:
                continue
            best_update, best = min(points, key=lambda point: point[1])
            last = _held_out_now(points)
            told[-1] += f", held-out {name} loss {last:.3f}, lowest {best:.3f} at update {best_update:,}"
            # A generator that has become better since makes the discriminator's task harder.
            explained = points is detection and _has_fallen(masked_lm, best_update)
            if last > _HELD_OUT_RISE * best and not explained:
                return Finding(
                    rule,
                    False,
                    told[-1],
                    f"take the checkpoint nearest to update {best_update:,}, or more text; up to "
                    f"{_EPOCHS:.0f} epochs do no harm",
                )
    return Finding(rule, True, "; ".join(told)) if judged else not_judged(rule, "epoch")


def _held_out_now(points: Points) -> float:
    """The lower of the last two evaluations; of two in all the last."""
    return min(value for _, value in points[-2:]) if len(points) > 2 else points[-1][1]


def _has_fallen(points: Points, since: float) -> bool:
    """Whether a held-out loss is lower now than it was after update `since`."""
    then = [value for update, value in points if update <= since][-1:]
    return bool(then) and _held_out_now(points) < then[0]


def _early_updates(run: RunLog) -> int:
    """Updates of all phases up to which a run may not have begun to learn."""
    first = run.phases[0]
    warm_up = int(first.setting("num_warmup_steps", 0))
    if first.settings.get("init_weights"):
        return max(_EARLY_UPDATES_CONTINUED, warm_up)
    is_large = (first.sequences_per_update() or 0) >= _LARGE_BATCH
    return max(_EARLY_UPDATES_LARGE_BATCH if is_large else _EARLY_UPDATES, warm_up)


def _majority_rate(phase: Phase) -> float | None:
    """In percent; of a log without it, from the share of the tokens that are picked and replaced."""
    rate = recent(phase, "disc_majority_accuracy")
    sampled = recent(phase, "sampled_masked_lm_accuracy")
    if rate is None and sampled is not None:
        rate = 100 * (1 - phase.setting("mask_prob", 0.15) * (1 - sampled / 100))
    return rate


def _width(phase: Phase) -> float:
    preset = MODEL_SIZES.get(str(phase.settings.get("model_size")), MODEL_SIZES["base"])
    return phase.setting("hidden_size") or preset["hidden_size"]

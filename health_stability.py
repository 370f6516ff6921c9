"""Rules on whether a run is stable: finite numbers, failures, spikes of loss and gradients, the loss scale.

Thresholds stand above the rules, with where they come from.
"""

import math
import re
from dataclasses import dataclass
from statistics import median

from health_finding import Finding, finite, not_judged, recent
from run_log import Phase, Points, RunLog

# As training.py and pretraining_run.py put it.
_NOT_FINITE = re.compile(r"the (loss|gradient) of update \d|the loss scale fell|gave no finite eval_")


def finite_numbers(run: RunLog) -> Finding:
    """Whether every number is finite, those too by which a start ended."""
    rule = "finite numbers"
    if _NOT_FINITE.search(run.failure):
        return Finding(
            rule,
            False,
            f"the run ended by itself: {run.failure}",
            "look at the sequences that the message names (--show_update), then go on from the last "
            "checkpoint with --skip_updates for them, or with a lower --learning_rate",
        )
    for phase in run.phases:
        for kind in ("training", "held_out"):
            for update, values in getattr(phase, kind).items():
                broken = [name for name, value in values.items() if not math.isfinite(value)]
                if values.get("skipped_updates"):
                    # The loss scale was too high for an update; the rule on it counts those.
                    broken = [name for name in broken if name != "grad_norm"]
                if broken:
                    return Finding(
                        rule,
                        False,
                        f"{broken[0]} is {values[broken[0]]} at update {update} of phase {phase.number}",
                        "go on from the last checkpoint before it, with a lower --learning_rate or "
                        "--precision bf16 or fp32",
                    )
    return Finding(rule, True, "every logged value is finite")


def not_ended_early(run: RunLog) -> Finding:
    """Whether the newest start ended by what is no fault of its numbers: a full disk, a lost worker."""
    rule = "not ended by a failure"
    if not run.failure:
        return Finding(rule, True, "the log names none")
    if _NOT_FINITE.search(run.failure):
        return Finding(rule, True, "its numbers ended it, which a rule of their own is about")
    return Finding(
        rule,
        False,
        f"the run ended by itself: {run.failure}",
        "mend what the message names, then go on from the last checkpoint with --restore_checkpoint=latest",
    )


# Between two log lines of the quickstart and of the recipes the loss moves by less than a tenth.
_LOSS_SPIKE = 1.25
# What a discriminator that tells tokens apart has at least, and a loss that is about as low as it ever was.
_LEARNED_AUC, _AT_ITS_LOWEST = 0.6, 1.02
# The quickstart's gradient norms are within a factor of two of their median; the clip takes the rest.
_GRADIENT_SPIKE, _MOST_GRADIENT_SPIKES = 5.0, 0.05
_LINES_BEFORE, _LINES_AFTER = 10, 10
# Scales of 8 to 32,768 were what mixed precision needed (Micikevicius et al. 2018). Ours begins at 32,768 for
# each of the shares that an update's loss is divided into.
_LOWEST_LOSS_SCALE = 8.0
# A settled scale is too high for one update in 2,000: after each doubling.
_MOST_SKIPPED, _FEW_SKIPPED = 0.01, 3


def loss_spikes(run: RunLog) -> Finding:
    """Whether the loss jumped, and whether it came down again."""
    rule = "loss without lasting spikes"
    told, judged = [], False
    for phase in run.phases:
        points = finite(phase.points("training", "total_loss") or phase.points("training", "step_loss"))
        judged = judged or len(points) > _LINES_BEFORE
        for spike in _spikes(points, _LOSS_SPIKE):
            told.append(_told(spike, phase, "loss"))
            lasts = spike.back_after is None and spike.lines_after >= _LINES_AFTER
            if lasts and not _generator_improves(phase):
                return Finding(
                    rule,
                    False,
                    told[-1],
                    "go on from the last checkpoint before it with --skip_updates over the spike, or with "
                    "a lower --learning_rate",
                )
        lowest, now = _lowest_and_now([value for _, value in points])
        if now > _LOSS_SPIKE * lowest and not _generator_improves(phase):
            return Finding(
                rule,
                False,
                f"phase {phase.number}: the loss has risen from {lowest:.4g} to {now:.4g}",
                "go back to a checkpoint from before the rise, with a lower --learning_rate",
            )
    if not judged:
        return not_judged(rule, f"more than {_LINES_BEFORE} lines with total_loss")
    return Finding(rule, True, "; ".join(told[-3:]) or "no line is a quarter above the ten before it")


def gradient_spikes(run: RunLog) -> Finding:
    """Whether gradient norms jump often."""
    rule = "gradients without frequent spikes"
    told, spikes, lines = [], 0, 0
    for phase in run.phases:
        points = finite(phase.points("training", "grad_norm"))
        lines += len(points)
        found = _spikes(points, _GRADIENT_SPIKE)
        # Where learning sets in, the norm rises for good while the loss falls.
        found = [spike for spike in found if not (spike.back_after is None and _loss_falls(phase, spike))]
        spikes += sum(spike.lines for spike in found)
        told += [_told(spike, phase, "norm") for spike in found]
    if lines <= _LINES_BEFORE:
        return not_judged(rule, f"more than {_LINES_BEFORE} lines with grad_norm")
    evidence = f"{spikes} of {lines} lines are over {_GRADIENT_SPIKE:g} times the norm before them"
    evidence = "; ".join([evidence, *told[-3:]])
    if spikes <= max(2, _MOST_GRADIENT_SPIKES * lines):
        return Finding(rule, True, evidence)
    return Finding(
        rule,
        False,
        evidence,
        "lower --learning_rate, lengthen --num_warmup_steps, or raise the batch; look at the data of such an "
        "update with --show_update",
    )


def loss_scale(run: RunLog) -> Finding:
    """Whether float16 holds the gradients."""
    rule = "loss scale holds"
    parts = zip(run.phases, run.curve("training", "loss_scale"), strict=True)
    # Of a log from before the shares were in it, as of one share.
    scales = [
        (update, scale / phase.setting("loss_scale_shares", 1.0))
        for phase, part in parts
        for update, scale in finite(part)
    ]
    if not scales:
        return Finding(rule, None, "no loss scale in the log: the run does not compute in float16")
    half = scales[len(scales) // 2 :]
    first, last = half[0][0], half[-1][0]
    skipped = sum(count for update, count in run.points("training", "skipped_updates") if update > first)
    share = skipped / max(1, last - first)
    evidence = (
        f"loss scale of one share {scales[-1][1]:g}, at most {max(scale for _, scale in scales):g}; "
        f"{100 * share:.2f} % of the later half's updates skipped"
    )
    is_rare = share <= _MOST_SKIPPED or skipped <= _FEW_SKIPPED
    if scales[-1][1] >= _LOWEST_LOSS_SCALE and is_rare:
        return Finding(rule, True, evidence)
    return Finding(
        rule,
        False,
        evidence,
        "use --precision bf16 or tf32, or lower --learning_rate; a loss scale that sinks means gradients "
        "that grow",
    )


@dataclass(frozen=True)
class _Spike:
    """A stretch of lines far above those before it.

    Attributes:
        lines: how many of them are above.
        back_after: lines until the value was down again; None where it was not.
        lines_after: how many lines the log has from the spike on.
    """

    update: float
    value: float
    before: float
    lines: int
    back_after: int | None
    lines_after: int


def _spikes(points: Points, factor: float) -> list[_Spike]:
    """Where a value is over `factor` times the median of the ten lines before it.

    It is down again where the median of three lines is not over the factor.
    """
    values = [value for _, value in points]
    spikes, place = [], _LINES_BEFORE
    while place < len(values):
        before = median(values[place - _LINES_BEFORE : place])
        if values[place] <= factor * before:
            place += 1
            continue
        end = place
        while end < len(values) and median(values[end : end + 3]) > factor * before:
            end += 1
        back = end < len(values)
        above = values[place:end]
        spikes.append(
            _Spike(
                points[place][0],
                max(above, default=values[place]),
                before,
                max(1, len(above)),
                max(1, end - place) if back else None,
                len(values) - place,
            )
        )
        # What follows is compared with lines after the spike.
        place = max(end, place + 1) + (_LINES_BEFORE if back and end - place > 1 else 0)
    return spikes


def _lowest_and_now(values: list[float]) -> tuple[float, float]:
    """The lowest median of ten lines, and that of the last ten; infinite and 0 of fewer than twenty."""
    if len(values) < 2 * _LINES_BEFORE:
        return math.inf, 0.0
    stretches = [values[first : first + _LINES_BEFORE] for first in range(len(values) - _LINES_BEFORE + 1)]
    return min(map(median, stretches)), median(stretches[-1])


def _generator_improves(phase: Phase) -> bool:
    """Whether a loss that rises is the discriminator's, whose task becomes harder as the generator learns.

    So it does where the discriminator starts from trained weights and the generator from random ones.
    """
    lowest, now = _lowest_and_now([loss for _, loss in finite(phase.points("training", "masked_lm_loss"))])
    auc = recent(phase, "disc_auc")
    return auc is not None and auc >= _LEARNED_AUC and now <= _AT_ITS_LOWEST * lowest < math.inf


def _told(spike: _Spike, phase: Phase, name: str) -> str:
    outcome = (
        f"not down again in {spike.lines_after} lines"
        if spike.back_after is None
        else f"down again after {spike.back_after} line{'s' if spike.back_after > 1 else ''}"
    )
    return (
        f"phase {phase.number}, update {spike.update:,}: {name} {spike.value:.4g} after {spike.before:.4g}, "
        f"{outcome}"
    )


def _loss_falls(phase: Phase, spike: _Spike) -> bool:
    losses = finite(phase.points("training", "total_loss"))
    before = [value for update, value in losses if update < spike.update][-_LINES_BEFORE:]
    after = [value for update, value in losses if update >= spike.update]
    return bool(before and after) and median(after) <= median(before)

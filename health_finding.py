"""What the rules on a run's health share: a finding, and the figures that they are made from."""

import math
from dataclasses import dataclass
from statistics import median

from run_log import Phase, Points, RunLog


@dataclass(frozen=True)
class Finding:
    """What a rule found.

    Attributes:
        healthy: None where the log does not have what the rule needs.
        evidence: the figures it rests on.
        advice: what to do; empty where nothing need be done.
    """

    rule: str
    healthy: bool | None
    evidence: str
    advice: str = ""


def not_judged(rule: str, needed: str) -> Finding:
    """The finding of a rule that the log has no figures for."""
    return Finding(rule, None, f"the log does not have {needed}")


def last_trained(run: RunLog) -> Phase:
    """The newest phase that has training lines; the newest of all where none has."""
    return next((phase for phase in reversed(run.phases) if phase.training), run.phases[-1])


def finite(points: Points) -> Points:
    """Points without those whose value is not finite, which a rule of their own is about."""
    return [(update, value) for update, value in points if math.isfinite(value)]


def recent(phase: Phase, key: str, kind: str = "training", lines: int = 3) -> float | None:
    """Median of the last lines that have a key; None where none has."""
    values = [value for _, value in finite(phase.points(kind, key))[-lines:]]
    return median(values) if values else None

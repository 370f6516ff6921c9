"""The health of a run: every rule over its log, with verdict, evidence and advice.

A rule is a pure function of a RunLog (run_log.py); the rules are in health_stability.py, health_learning.py
and health_speed.py. A rule that the log has no figures for says so and counts for nothing.
"""

from collections.abc import Callable, Sequence

import health_learning
import health_speed
import health_stability
from health_finding import Finding
from run_log import RunLog

RULES: tuple[Callable[[RunLog], Finding], ...] = (
    health_stability.finite_numbers,
    health_stability.not_ended_early,
    health_learning.majority_class,
    health_learning.unigram_plateau,
    health_learning.generator_strength,
    health_stability.loss_spikes,
    health_stability.gradient_spikes,
    health_stability.loss_scale,
    health_learning.learning_rate,
    health_learning.repetition,
    health_speed.padding,
    health_speed.waiting_for_data,
    health_speed.slow_worker,
    health_speed.steady_throughput,
)
_VERDICTS = {True: "healthy", False: "UNHEALTHY", None: "not judged"}


def examine(run: RunLog) -> list[Finding]:
    """What every rule finds."""
    return [rule(run) for rule in RULES]


def is_healthy(findings: Sequence[Finding]) -> bool:
    """Whether no rule found a fault."""
    return not any(finding.healthy is False for finding in findings)


def describe(run: RunLog, findings: Sequence[Finding]) -> str:
    """The verdict and every rule's finding, for a terminal."""
    lines = [f"{run.name}: {_VERDICTS[is_healthy(findings)]} after {run.updates:,} updates"]
    for finding in findings:
        lines.append(f"  {_VERDICTS[finding.healthy]:10}  {finding.rule}: {finding.evidence}")
        if finding.advice:
            lines.append(f"{'':14}advice: {finding.advice}")
    return "\n".join(lines)

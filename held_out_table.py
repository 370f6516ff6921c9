"""Tables of held-out figures: of one evaluation, and of a run, before and after, with its throughput."""

from collections.abc import Mapping
from statistics import median_high

from run_log import Phase

# (label, key, format)
_ROWS = (
    ("masked-LM loss at [MASK] (nats)", "eval_masked_lm_loss_masked_only", "{:.3f}"),
    ("  unigram cross-entropy (nats)", "eval_unigram_cross_entropy", "{:.3f}"),
    ("masked-LM accuracy at [MASK] (%)", "eval_masked_lm_accuracy_masked_only", "{:.1f}"),
    ("replaced-token accuracy (%)", "eval_disc_accuracy", "{:.1f}"),
    ("  majority rate (%)", "eval_disc_majority_accuracy", "{:.1f}"),
    ("replaced-token AUC", "eval_disc_auc", "{:.3f}"),
)


def table(phases: list[Phase]) -> str:
    """First and last evaluation of the last phase, and each phase's updates and median throughput."""
    lines = []
    last = phases[-1]
    if last.held_out:
        first_update, last_update = min(last.held_out), max(last.held_out)
        before, after = last.held_out[first_update], last.held_out[last_update]
        title = f"held-out, sequences of {last.max_seq_length}"
        before_title = f"at {first_update:,}" if first_update and first_update != last_update else "before"
        lines.append(f"{title:36} {before_title:>10} {'after':>10}")
        for label, key, form in _ROWS:
            if key in after:
                has_before = first_update != last_update and key in before
                first = form.format(before[key]) if has_before else "-"
                lines.append(f"{label:36} {first:>10} {form.format(after[key]):>10}")
    for phase in phases:
        rates = [value for _, value in phase.points("training", "train_perf")]
        if rates:
            label = f"phase {phase.number}, sequences of {phase.max_seq_length}"
            rate = median_high(rates)
            lines.append(f"{label:36} {phase.last_update:>10} updates, {rate:.1f} sequences/s")
    return "\n".join(lines)


def of_evaluation(title: str, values: Mapping[str, float]) -> str:
    """Every metric of an evaluation by its key without eval_, and its 95 % interval.

    Args:
        values: as logged: eval_<metric>, and eval_<metric>_low and eval_<metric>_high where it has them.
    """
    sequences, tokens = values["eval_sequences"], values["eval_tokens"]
    lines = [
        f"{title}: {sequences:,.0f} sequences, {tokens:,.0f} tokens",
        f"  {'metric':34} {'value':>10}   95 % interval",
    ]
    for key, value in values.items():
        low, high = values.get(f"{key}_low"), values.get(f"{key}_high")
        if key.endswith(("_low", "_high")) or key in ("eval_sequences", "eval_tokens"):
            continue
        interval = "-" if low is None else f"{low:.4f} to {high:.4f}"
        lines.append(f"  {key.removeprefix('eval_'):34} {value:10.4f}   {interval}")
    return "\n".join(lines)

"""NVIDIA's published loss curve of ELECTRA-base, and the runs that it may stand beside.

DeepLearningExamples, TensorFlow2/LanguageModeling/ELECTRA: the recipe of its README (LAMB, 67,584 sequences
an update in phase 1 and 27,648 in phase 2), total loss as read off the published plots.
"""

from architecture import MODEL_SIZES
from run_log import Phase, Points, RunLog

NAME = "NVIDIA's base, published"
_CURVES: dict[int, Points] = {
    1: [(0, 45.0), (300, 25.0), (700, 22.4), (930, 15.9), (2000, 12.6), (5000, 10.0), (10_000, 9.3)],
    2: [(0, 22.2), (300, 9.3), (930, 9.0)],
}
_SEQUENCES = {1: 67_584, 2: 27_648}
_LENGTHS = {1: 128, 2: 512}
_SETTINGS = {
    "optimizer": "lamb",
    "electra_objective": True,
    "uniform_generator": False,
    "mask_prob": 0.15,
    "disc_weight": 50.0,
    "gen_weight": 1.0,
    "init_weights": "",
}
# Other numbers of GPUs make batches that differ by a few sequences; twice as many is another curve.
_BATCH_FACTOR = 1.5


def curve(run: RunLog) -> list[Points]:
    """The curve beside each phase of the run, as far as that has come; empty where it is not comparable."""
    if differences(run):
        return []
    return [
        _until(phase.last_update, [(start + update, loss) for update, loss in _CURVES[phase.number]], start)
        for start, phase in zip(run.phase_starts(), run.phases, strict=True)
    ]


def differences(run: RunLog) -> list[str]:
    """What makes a run another one than NVIDIA's: settings as they are there."""
    return [f"phase {phase.number}: {text}" for phase in run.phases for text in _differences(phase)]


def _until(last_update: int, points: Points, start: int) -> Points:
    """The points up to an update of the phase, and one between two of them there."""
    end = start + last_update
    kept = [point for point in points if point[0] <= end]
    if len(kept) < len(points) and kept[-1][0] < end:
        (before, low), (after, high) = kept[-1], points[len(kept)]
        kept.append((end, low + (high - low) * (end - before) / (after - before)))
    return kept


def _differences(phase: Phase) -> list[str]:
    settings = phase.settings
    found = [
        f"{name} {settings.get(name, 'not recorded')}"
        for name, value in _SETTINGS.items()
        if settings.get(name) != value
    ]
    if settings.get("model_size") != "base":
        found.append(f"model_size {settings.get('model_size', 'not recorded')}")
    found += [
        f"{name} {settings[name]}"
        for name, size in MODEL_SIZES["base"].items()
        if settings.get(name, size) not in (None, size)
    ]
    if abs(phase.setting("generator_hidden_size", 0) - 1 / 3) > 0.01:
        found.append(f"generator_hidden_size {settings.get('generator_hidden_size', 'not recorded')}")
    if phase.max_seq_length != _LENGTHS[phase.number]:
        found.append(f"max_seq_length {phase.max_seq_length}")
    sequences = phase.sequences_per_update() or 0
    wanted = _SEQUENCES[phase.number]
    if not wanted / _BATCH_FACTOR <= sequences <= wanted * _BATCH_FACTOR:
        found.append(f"{sequences:,.0f} sequences an update, not {wanted:,}")
    return found

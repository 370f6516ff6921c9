"""Run a named result again and compare its figures with its record, or record them: scripts/reproduce.sh.

    python scripts/reproduce.py quickstart --seeds 1,2,3
    python scripts/reproduce.py pretrain_small --record --from results/pretrain_small

Figures are compared by their means over the seeds: within is what differs from the recorded mean by no more
than 95 % of repetitions would, by the recorded deviation, or than the figure's floor; of one recorded seed
there is the floor alone. Seconds and rates are shown only. --record
wants the code of one commit, from a working tree without changes, and writes docs/results/NAME.json, the logs
in docs/results/NAME/ and docs/results.md. --from takes a finished folder instead of running anything: one
seed's, or one that holds seed_<seed>/.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path

# Run by its path, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import result_records
import run_provenance
from named_results import RESULTS, ROOT, NamedResult
from result_records import SeedResult
from update_readme import with_current_records

import child_processes
import files
from command_line import EXIT_FAILURE, RunFailure, Terminated, UsageError, option, parse, require, run_program

_SECONDS_TO_END = 120.0
_NAMES = "\n".join(f"    {name:20}{result.summary}" for name, result in RESULTS.items())


@dataclass
class ReproductionConfig:
    """Settings of this program."""

    name: str = option(MISSING, "the result, one of the names above", group="result", positional=True)
    record: bool = option(False, "write the record instead of comparing with it", group="result")
    from_folder: str = option(
        "", "(also --from) a finished folder of the result's script; nothing is run", group="result"
    )
    seeds: str = option("", "seeds to run, 1,2,3; by default the result's own", group="result")
    work_dir: str = option("results/reproduce", "folder for what is run", group="result")
    default_precision: str = option("tf32", "what is recorded where PRECISION says nothing", group="result")

    def __post_init__(self):
        if self.name not in RESULTS:
            raise UsageError(f"name {self.name}: is none of {', '.join(RESULTS)}")
        require(
            not (self.from_folder and self.seeds), "seeds", self.seeds, "a finished folder has its own seeds"
        )
        self.seed_list()

    def seed_list(self) -> list[int]:
        """The seeds to run."""
        words = self.seeds.replace(",", " ").split()
        good = all(word.isdecimal() for word in words) and len({int(word) for word in words}) == len(words)
        require(good, "seeds", self.seeds, "must be different whole numbers, as in 1,2,3")
        return [int(word) for word in words] or list(RESULTS[self.name].seeds)


def main() -> int:
    words = ["--from_folder" + word[len("--from") :] if _is_from(word) else word for word in sys.argv[1:]]
    config = parse(ReproductionConfig, words, description=f"{__doc__}\nnames:\n{_NAMES}")
    return reproduce(config, RESULTS[config.name])


def reproduce(
    config: ReproductionConfig,
    result: NamedResult,
    records: Path = result_records.RECORDS,
    document: Path = result_records.DOCUMENT,
) -> int:
    """Run or read a result, then compare or record it; returns the exit code.

    Args:
        records, document: where the record and the table of all records go.
    """
    record = result_records.read(config.name, records)
    if config.record:
        _check_working_tree(config.name)
    elif record is None:
        raise UsageError(
            f"name {config.name}: has no record yet to compare with ({records / config.name}.json); "
            "--record makes one"
        )
    if config.from_folder:
        folders = _finished_folders(Path(config.from_folder))
    else:
        settings = {"PRECISION": config.default_precision}
        if not config.record:
            settings = _recorded_settings(record, result)
            _require_recorded_inputs(record, result)
        chosen = {name: value for name, value in settings.items() if not os.environ.get(name)}
        folders = _run_seeds(config, result, os.environ | chosen)
    results = {seed: _read(result, seed, folder) for seed, folder in folders.items()}
    provenance = {seed: run_provenance.read(folder) for seed, folder in folders.items()}
    if config.record:
        path = result_records.write(result_records.make(config.name, results, provenance), records)
        result_records.write_logs(config.name, results, folders, records)
        _update_document(document, records)
        print(f"wrote {path}")
        return 0
    return _compare(record, results, provenance, result)


# -------------------------------------------------------------------------------------------------- run


def _recorded_settings(record: Mapping, result: NamedResult) -> dict[str, str]:
    """The settings of a record, which those in the environment must not contradict.

    Raises:
        UsageError: they do, and hours of running could not be compared.
    """
    settings = record["settings"]
    now = settings | run_provenance.settings_in(os.environ, {*result.settings, *settings})
    _require_same(record, now, record["inputs"])
    if foreign := sorted(settings.keys() - set(result.settings)):
        raise UsageError(
            f"name {record['name']}: was recorded with {foreign[0]}={settings[foreign[0]]}, which only its "
            "script takes; run that, then compare with --from"
        )
    if settings:
        print("as recorded: " + " ".join(f"{name}={value}" for name, value in settings.items()), flush=True)
    return settings


def _require_recorded_inputs(record: Mapping, result: NamedResult) -> None:
    """Stop where the environment names other inputs than the record's.

    Raises:
        UsageError: it does, and hours of running could not be compared.
    """
    if told := result.input_difference(os.environ, record["inputs"]):
        raise UsageError(f"name {record['name']}: is no repetition of its record: {told}")


def _run_seeds(
    config: ReproductionConfig, result: NamedResult, surroundings: Mapping[str, str]
) -> dict[str, Path]:
    """Run what is not finished yet; returns the folder of each seed.

    Args:
        surroundings: the environment of the scripts, but for what each seed adds.
    """
    changes = run_provenance.changes()
    code = (run_provenance.commit()[:12] or "unknown") + (f"-{changes[:12]}" if changes else "")
    work = Path(config.work_dir).resolve() / f"{config.name}-{code}"
    folders = {}
    for seed in config.seed_list():
        folder = folders[str(seed)] = work / f"seed_{seed}"
        added = dict(result.environment(seed, folder, work))
        environment = {**surroundings, **added}
        command = list(result.command)
        for name, flag in result.flags.items():
            if environment.get(name):
                command += [flag, environment[name]]
        settings = run_provenance.settings_in(environment, (*result.settings, "SEED"))
        # Its script notes the start, but does not run where the folder is finished.
        run_provenance.require_settings(folder, settings)
        if not result.notes_provenance:
            run_provenance.note_start(folder, settings, command)
        if run_provenance.is_finished(run_provenance.read(folder)):
            print(f"seed {seed}: is finished in {folder}", flush=True)
            continue
        print(f"== {config.name}, seed {seed}, in {folder}", flush=True)
        _run(command, environment)
        if not result.notes_provenance:
            run_provenance.finish(folder)
    return folders


def _run(command: list[str], environment: Mapping[str, str]) -> None:
    """Run a script in the root of the repository; it and all that it started end with this process.

    Raises:
        RunFailure: it failed.
    """
    script = child_processes.start(command, environment, cwd=ROOT)
    try:
        status = script.wait()
    except (KeyboardInterrupt, Terminated):
        _end_group(script)
        raise
    if status:
        raise RunFailure(f"{' '.join(command)}: ended with status {status}")


def _end_group(script: subprocess.Popen) -> None:
    """Have a process and all of its group end; trainings save their state first."""
    # A launcher may pass on what the terminal has sent already; what is begun here is not broken off.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + _SECONDS_TO_END
        try:
            os.killpg(script.pid, number)
            while time.monotonic() < until:
                script.poll()
                os.killpg(script.pid, 0)
                time.sleep(0.05)
        except ProcessLookupError:
            return


# ------------------------------------------------------------------------------------------------- read


def _finished_folders(folder: Path) -> dict[str, Path]:
    """The folder of each seed: those below it, or the one itself.

    Raises:
        UsageError: there is none that a script has finished.
    """
    if not folder.is_dir():
        raise UsageError(f"--from {folder}: no such folder")
    below = sorted(folder.glob("seed_*"), key=lambda path: (len(path.name), path.name))
    folders = {path.name.removeprefix("seed_"): path for path in below}
    if not folders:
        starts = run_provenance.read(folder)
        folders = {starts[0]["settings"].get("SEED", "default") if starts else "default": folder}
    for path in folders.values():
        starts = run_provenance.read(path)
        if not starts:
            raise UsageError(f"--from {path}: holds no {run_provenance.FILE_NAME}, which the scripts write")
        if not run_provenance.is_finished(starts):
            raise UsageError(f"--from {path}: is not finished; run its script again, which goes on")
    return folders


def _read(result: NamedResult, seed: str, folder: Path) -> SeedResult:
    try:
        found = result.read(folder)
    except RunFailure as error:
        raise RunFailure(f"seed {seed}: {error}") from None
    found.figures["script_minutes"] = run_provenance.read(folder)[-1]["seconds"] / 60
    return found


# ---------------------------------------------------------------------------------- compared or recorded


def _check_working_tree(name: str) -> None:
    if run_provenance.is_dirty():
        raise UsageError(
            f"--record {name}: the working tree has changes (git status), so that no commit has its code; "
            "commit them first"
        )


def _compare(record: dict, results: dict[str, SeedResult], provenance: dict, result: NamedResult) -> int:
    settings, inputs = result_records.shared_settings(provenance), result_records.shared_inputs(results)
    _require_same(record, settings, inputs)
    rows = result_records.compare(record, results, result.figures)
    print(result_records.shown_rows(rows, result.figures))
    outside = [row.name for row in rows if row.is_within is False]
    print(
        f"{record['name']}, seeds {', '.join(results)} against {', '.join(record['seeds'])} at commit "
        f"{record['commit'][:12]}: {'outside: ' + ', '.join(outside) if outside else 'within the spread'}"
    )
    return EXIT_FAILURE if outside else 0


def _require_same(record: Mapping, settings: Mapping[str, str], inputs: Mapping[str, str]) -> None:
    told = result_records.differences(record, settings, inputs)
    if told:
        raise UsageError(f"name {record['name']}: is no repetition of its record: {'; '.join(told)}")


def _update_document(document: Path, records: Path) -> None:
    files.write_text(document, with_current_records(document.read_text(encoding="utf-8"), records))


def _is_from(word: str) -> bool:
    return word == "--from" or word.startswith("--from=")


if __name__ == "__main__":
    run_program(main)

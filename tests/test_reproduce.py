"""Named results: what is within a record's spread, what may be recorded, where figures are read."""

import dataclasses
import gzip
import hashlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from glue_files import write_own_files
from run_logs import UPDATES, held_out_line, real_quickstart_log, write_run
from squad_cases import write_questions
from training_runs import MODEL, ROOT

sys.path.append(str(ROOT / "scripts"))

import named_results
import reproduce
import result_records
import run_provenance
from named_results import RESULTS, NamedResult
from reproduce import ReproductionConfig
from result_records import Figure, SeedResult
from update_readme import with_current_records

import files
from command_line import RunFailure, UsageError
from run_log import read_run
from tokenization import load_vocabulary

FIGURES = {"loss": Figure("loss", 0.5), "minutes": Figure("minutes", None, 1)}
FIGURES["script_minutes"] = named_results.RESULTS["squad"].figures["script_minutes"]
DOCUMENT = "before\n<!-- record: stand_in -->\nold\n<!-- /record -->\nafter\n"
# Stands in for a training: its loss is 10 + its seed + SHIFT; it ends with STATUS.
STAND_IN = """set -e
echo "$SEED" >> "$OUT/../started"
echo "{\\"loss\\": $((10 + SEED + ${SHIFT:-0})), \\"minutes\\": 1.5}" > "$OUT/figures.json"
exit "${STATUS:-0}"
"""


def stand_in(folder: Path) -> NamedResult:
    (folder / "stand_in.sh").write_text(STAND_IN)
    return NamedResult(
        summary="a stand-in",
        command=("bash", str(folder / "stand_in.sh")),
        environment=lambda seed, own, work: {"SEED": str(seed), "OUT": str(own)},
        read=lambda own: SeedResult(files.read_json(own / "figures.json"), curves={"loss": [(1, 2.0)]}),
        figures=FIGURES,
        settings=("SHIFT",),
    )


class Reproductions:
    """reproduce() on the stand-in, with a repository, records and a document of its own."""

    def __init__(self, folder: Path):
        self.folder, self.repository, self.records = folder, folder / "repository", folder / "records"
        self.document = folder / "results.md"
        self.document.write_text(DOCUMENT)
        self.repository.mkdir()
        self.git("init", "--quiet")
        self.commit("code.py", "1")
        self.result = stand_in(folder)

    def git(self, *arguments: str) -> None:
        names = ["-c", "user.name=tester", "-c", "user.email=tester@example.invalid"]
        command = ["git", "-C", str(self.repository), *names, *arguments]
        subprocess.run(command, check=True, capture_output=True)

    def commit(self, name: str, content: str) -> None:
        (self.repository / name).write_text(content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", content)

    def run(self, **settings) -> int:
        config = ReproductionConfig(name="stand_in", **{"work_dir": str(self.folder / "work")} | settings)
        return reproduce.reproduce(config, self.result, self.records, self.document)

    def started(self) -> list[str]:
        """Seeds in the order of their starts."""
        return "".join(path.read_text() for path in self.folder.glob("work/*/started")).split()


@pytest.fixture
def reproductions(tmp_path, monkeypatch) -> Reproductions:
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    made = Reproductions(tmp_path)
    monkeypatch.setattr(run_provenance, "ROOT", made.repository)
    monkeypatch.setitem(RESULTS, "stand_in", made.result)
    for name in ("SEED", "SHIFT", "STATUS"):
        monkeypatch.delenv(name, raising=False)
    return made


# ------------------------------------------------------------------------------------------------- rule


def results(**losses: float) -> dict[str, SeedResult]:
    return {seed: SeedResult({"loss": loss, "minutes": loss}) for seed, loss in losses.items()}


def record_of(**losses: float) -> dict:
    mean, spread = result_records.means(results(**losses))
    return {"mean": mean, "spread": spread, "seeds": dict.fromkeys(losses)}


@pytest.mark.parametrize(
    ("recorded", "measured", "is_within"),
    [
        # Mean 10 with deviation 1. Student's t is 4.303 with 2 degrees of freedom: against one seed
        # 4.303 * sqrt(1/3 + 1) = 4.969 is allowed, two 4.303 * sqrt(1/3 + 1/2) = 3.928, three 3.513.
        ((9.0, 10.0, 11.0), (14.96,), True),
        ((9.0, 10.0, 11.0), (14.98,), False),
        ((9.0, 10.0, 11.0), (5.02,), False),
        ((9.0, 10.0, 11.0), (13.92, 13.92), True),
        ((9.0, 10.0, 11.0), (13.94, 13.94), False),
        ((9.0, 10.0, 11.0), (6.50, 6.48, 6.49), True),
        ((9.0, 10.0, 11.0), (6.47, 6.48, 6.48), False),
        # Mean 10 with deviation 1 of two seeds, and t is 12.706 with one degree: 15.562 against one.
        ((10 - 0.5**0.5, 10 + 0.5**0.5), (25.56,), True),
        ((10 - 0.5**0.5, 10 + 0.5**0.5), (25.57,), False),
        # Mean 10 with deviation .1, or of one seed: the floor of .5 is more.
        ((9.9, 10.0, 10.1), (10.49,), True),
        ((10.0,), (10.49, 10.49), True),
        ((10.0,), (9.49,), False),
        ((10.0,), (math.nan,), False),
        ((10.0,), (math.inf,), False),
    ],
)
def test_a_mean_is_within_students_bound_or_the_floor(recorded, measured, is_within):
    record = record_of(**{str(n): loss for n, loss in enumerate(recorded)})
    now = results(**{str(n): loss for n, loss in enumerate(measured)})
    loss, minutes = result_records.compare(record, now, FIGURES)
    assert loss.is_within is is_within
    assert minutes.is_within is None


@pytest.mark.parametrize(("recorded", "measured"), [(3, 1), (3, 3), (2, 3), (5, 2)])
def test_of_sound_repetitions_95_in_100_are_within(recorded, measured):
    """Of the same code: seeds drawn from one normal distribution, many times, without a floor."""
    random = np.random.default_rng(recorded + 10 * measured)
    repetitions = 3000
    old, new = (random.normal(7.0, 2.0, (repetitions, seeds)) for seeds in (recorded, measured))
    figures = {"loss": Figure("loss", 0.0)}
    is_within = []
    for own, other in zip(old, new, strict=True):
        record = {"mean": {"loss": own.mean()}, "spread": {"loss": own.std(ddof=1)}, "seeds": own}
        now = {str(n): SeedResult({"loss": loss}) for n, loss in enumerate(other)}
        (row,) = result_records.compare(record, now, figures)
        is_within.append(row.is_within)
    # Four standard errors of a share of 3000.
    assert np.mean(is_within) == pytest.approx(0.95, abs=0.016)


def test_a_figure_that_one_side_lacks_is_outside():
    record = record_of(a=10.0)
    del record["mean"]["loss"]
    by_name = {row.name: row for row in result_records.compare(record, results(a=10.0), FIGURES)}
    assert by_name["loss"].is_within is False
    now = {"a": SeedResult({"minutes": 1.0})}
    by_name = {row.name: row for row in result_records.compare(record_of(a=10.0), now, FIGURES)}
    assert by_name["loss"].is_within is False
    assert "OUTSIDE" in result_records.shown_rows(list(by_name.values()), FIGURES)


def test_a_figure_of_a_variant_is_judged_by_its_last_part():
    now = {"1": SeedResult({"half/loss": 10.4})}
    record = {"mean": {"half/loss": 10.0}, "spread": {"half/loss": 0.0}, "seeds": {"1": {}}}
    (row,) = result_records.compare(record, now, FIGURES)
    assert row.allowed == 0.5 and row.is_within


# ----------------------------------------------------------------------------------------------- driver


def test_a_recorded_result_is_within_when_it_is_run_again(reproductions, capsys):
    assert reproductions.run(record=True) == 0
    assert reproductions.started() == ["1", "2", "3"]
    record = json.loads((reproductions.records / "stand_in.json").read_text())
    assert record["mean"]["loss"] == 12 and record["spread"]["loss"] == 1
    assert [own["figures"]["loss"] for own in record["seeds"].values()] == [11, 12, 13]
    total = sum(own["figures"]["script_minutes"] for own in record["seeds"].values())
    assert 60 * total == pytest.approx(record["wall_seconds"], abs=0.2)
    assert record["seeds"]["1"]["curves"] == {"loss": [[1, 2.0]]}
    head = reproductions.repository / ".git"
    commit = subprocess.run(["git", "--git-dir", head, "rev-parse", "HEAD"], capture_output=True, text=True)
    assert record["commit"] == commit.stdout.strip() and len(record["commit"]) >= 40
    assert record["hardware"][0]["processors"] >= 1 and record["versions"]["python"]
    assert any(name.startswith("tensorflow") for name in record["versions"])
    assert record["wall_seconds"] >= 0 and record["date"].startswith("20")
    assert reproductions.run() == 0
    assert "within the spread" in capsys.readouterr().out
    # What is finished at this commit is not run again.
    assert reproductions.started() == ["1", "2", "3"]


def test_other_code_is_run_anew_and_may_be_outside(reproductions, capsys):
    reproductions.run(record=True)
    reproductions.commit("code.py", "2")
    script = Path(reproductions.result.command[1])
    script.write_text(STAND_IN.replace("10 + SEED", "13 + SEED"))
    assert reproductions.run() == 0, "three deviations away, of 3.513 that are allowed"
    assert len(reproductions.started()) == 6
    reproductions.commit("code.py", "3")
    script.write_text(STAND_IN.replace("10 + SEED", "14 + SEED"))
    assert reproductions.run() == 1
    assert "outside: loss" in capsys.readouterr().out


def test_each_state_of_code_that_is_not_committed_is_run_anew(reproductions):
    reproductions.run(record=True)
    for number, (name, content) in enumerate((("code.py", "2"), ("code.py", "3"), ("new.py", "4")), 2):
        (reproductions.repository / name).write_text(content)
        for _ in range(2):
            assert reproductions.run() == 0
            assert len(reproductions.started()) == 3 * number
    (reproductions.repository / "new.py").unlink()
    (reproductions.repository / "code.py").unlink()
    reproductions.run()
    assert len(reproductions.started()) == 15
    reproductions.git("checkout", "--quiet", "code.py")
    reproductions.run()
    assert len(reproductions.started()) == 15, "that of the commit, which is finished"


def test_the_record_stands_in_the_document(reproductions):
    reproductions.run(record=True, seeds="7,8")
    text = reproductions.document.read_text()
    assert "old" not in text and text.startswith("before\n") and text.endswith("<!-- /record -->\nafter\n")
    assert "| figure | seed 7 | seed 8 | mean ± spread |" in text
    # The deviation of 17 and 18 is the root of a half.
    assert "| loss | 17.000 | 18.000 | 17.500 ± 0.707 |" in text
    assert "| minutes | 1.5 | 1.5 | 1.5 ± 0.0 |" in text
    assert f"`bash {reproductions.folder}/stand_in.sh`" in text


def test_records_are_no_change_of_the_code_and_all_else_is(reproductions):
    (reproductions.repository / "docs/results").mkdir(parents=True)
    (reproductions.repository / "docs/results/squad.json").write_text("{}")
    assert not run_provenance.is_dirty()
    (reproductions.repository / "new.py").write_text("3")
    assert run_provenance.is_dirty()
    with pytest.raises(UsageError, match=r"--record stand_in: the working tree has changes"):
        reproductions.run(record=True)
    assert not reproductions.started() and not reproductions.records.exists()


def test_what_ran_with_changes_or_at_two_commits_is_not_recorded(reproductions):
    (reproductions.repository / "new.py").write_text("3")
    reproductions.records.mkdir()
    started = {"settings": {}, "inputs": {}, "commit": "0" * 40, "name": "stand_in", "seeds": {}}
    files.write_json(reproductions.records / "stand_in.json", record_of(a=12.0) | started)
    assert reproductions.run() == 0
    (ran,) = (reproductions.folder / "work").iterdir()
    (reproductions.repository / "new.py").unlink()
    with pytest.raises(UsageError, match="dirty working tree"):
        reproductions.run(record=True, from_folder=str(ran), work_dir="")
    shutil.rmtree(ran)
    reproductions.run(record=True)
    (ran,) = (reproductions.folder / "work").iterdir()
    provenance = ran / "seed_2" / "provenance.json"
    (start,) = files.read_json(provenance)
    files.write_json(provenance, [start | {"commit": "1" * 40}, start])
    with pytest.raises(UsageError, match="several commits"):
        reproductions.run(record=True, from_folder=str(ran), work_dir="")


def test_a_finished_folder_is_recorded_without_running_anything(reproductions):
    reproductions.run(record=True)
    (ran,) = (reproductions.folder / "work").iterdir()
    recorded = files.read_json(reproductions.records / "stand_in.json")
    shutil.rmtree(reproductions.records)
    # Later code: the record says at which commit the figures were made.
    reproductions.commit("code.py", "2")
    assert reproductions.run(record=True, from_folder=str(ran)) == 0
    assert files.read_json(reproductions.records / "stand_in.json") == recorded
    assert reproductions.run(record=True, from_folder=str(ran / "seed_3")) == 0
    record = files.read_json(reproductions.records / "stand_in.json")
    assert list(record["seeds"]) == ["3"] and record["mean"]["loss"] == 13 and record["spread"]["loss"] == 0
    assert len(reproductions.started()) == 3


def test_folders_that_no_script_has_finished_are_refused(reproductions):
    empty = reproductions.folder / "empty"
    with pytest.raises(UsageError, match=r"--from .*empty: no such folder"):
        reproductions.run(record=True, from_folder=str(empty))
    empty.mkdir()
    with pytest.raises(UsageError, match=r"holds no provenance.json"):
        reproductions.run(record=True, from_folder=str(empty))
    run_provenance.note_start(empty, {}, ["bash"])
    with pytest.raises(UsageError, match="is not finished"):
        reproductions.run(record=True, from_folder=str(empty))


def test_other_settings_are_named_before_anything_is_run(reproductions, monkeypatch):
    reproductions.run(record=True, seeds="1")
    monkeypatch.setenv("SHIFT", "1")
    with pytest.raises(UsageError, match="no repetition of its record: SHIFT is 1, recorded not set"):
        reproductions.run(seeds="2")
    assert reproductions.started() == ["1"]
    with pytest.raises(
        UsageError, match=r"seed_1: was begun with other settings \(SEED=1; now SHIFT=1, SEED=1\)"
    ):
        reproductions.run(record=True, seeds="1")


@pytest.mark.parametrize("record", [True, False])
def test_runs_of_different_settings_are_neither_recorded_nor_compared(reproductions, record):
    reproductions.run(record=True)
    (ran,) = (reproductions.folder / "work").iterdir()
    recorded = files.read_json(reproductions.records / "stand_in.json")
    provenance = ran / "seed_3" / "provenance.json"
    (start,) = files.read_json(provenance)
    other = start | {"settings": start["settings"] | {"SHIFT": "1"}}
    # Whichever start of the seed it was.
    for starts in ([other], [start, other], [other, start]):
        files.write_json(provenance, starts)
        with pytest.raises(UsageError, match=r"^seed 3: .* SHIFT is 1, there not set$"):
            reproductions.run(record=record, from_folder=str(ran))
    assert files.read_json(reproductions.records / "stand_in.json") == recorded


def test_a_finished_run_of_other_settings_is_not_recorded_as_one_of_these(reproductions, monkeypatch):
    reproductions.run(record=True, seeds="1")
    recorded = files.read_json(reproductions.records / "stand_in.json")
    # The scripts that note their settings themselves are not run for a folder that is finished.
    reproductions.result = dataclasses.replace(reproductions.result, notes_provenance=True)
    monkeypatch.setenv("SHIFT", "5")
    with pytest.raises(UsageError, match=r"seed_1: was begun with other settings \(SEED=1; now SHIFT=5, "):
        reproductions.run(record=True, seeds="1")
    assert reproductions.started() == ["1"]
    assert files.read_json(reproductions.records / "stand_in.json") == recorded
    monkeypatch.delenv("SHIFT")
    assert reproductions.run(record=True, seeds="1") == 0


def test_a_comparison_takes_the_records_settings(reproductions, monkeypatch, capsys):
    monkeypatch.setenv("SHIFT", "5")
    reproductions.run(record=True)
    monkeypatch.delenv("SHIFT")
    # 15 is two deviations from 17, and 10, without the setting, seven: 4.969 are allowed.
    assert reproductions.run(seeds="0") == 0
    assert "as recorded: SHIFT=5" in capsys.readouterr().out
    assert reproductions.run(seeds="2") == 0
    # A flag that its script was given by hand is none that this program can give it.
    path = reproductions.records / "stand_in.json"
    files.write_json(path, files.read_json(path) | {"settings": {"FLAGS": "--hidden_size 8"}})
    with pytest.raises(UsageError, match="was recorded with FLAGS=--hidden_size 8"):
        reproductions.run(seeds="6")
    assert reproductions.started() == ["1", "2", "3", "0"]


def test_a_record_notes_the_precision_that_the_machine_chose(reproductions, monkeypatch):
    settings = (*reproductions.result.settings, "PRECISION")
    reproductions.result = dataclasses.replace(reproductions.result, settings=settings)
    monkeypatch.delenv("PRECISION", raising=False)
    reproductions.run(record=True, seeds="1", default_precision="bf16")
    record = files.read_json(reproductions.records / "stand_in.json")
    assert record["settings"] == {"PRECISION": "bf16"}
    # Another machine computes as the record's did.
    assert reproductions.run(seeds="1", default_precision="tf32") == 0
    monkeypatch.setenv("PRECISION", "fp32")
    with pytest.raises(UsageError, match="PRECISION is fp32, recorded bf16"):
        reproductions.run(seeds="1")


def test_seeds_of_several_machines_are_recorded_with_all_of_them(reproductions):
    reproductions.run(record=True)
    (ran,) = (reproductions.folder / "work").iterdir()
    provenance = ran / "seed_2" / "provenance.json"
    (start,) = files.read_json(provenance)
    other = start["hardware"] | {"processor": "another processor"}
    files.write_json(provenance, [start | {"hardware": other}])
    reproductions.run(record=True, from_folder=str(ran))
    record = files.read_json(reproductions.records / "stand_in.json")
    assert record["hardware"] == [start["hardware"], other]
    assert "processors of another processor" in reproductions.document.read_text()
    files.write_json(provenance, [start | {"versions": {"python": "0"}}])
    with pytest.raises(UsageError, match="different versions of the packages"):
        reproductions.run(record=True, from_folder=str(ran))


@pytest.mark.parametrize("name", [name for name, result in RESULTS.items() if result.notes_provenance])
def test_the_settings_of_a_name_are_those_that_its_script_notes(name):
    script = (ROOT / RESULTS[name].command[1]).read_text()
    (noted,) = re.findall(r"^settings=\(([^)]*)\)", script, re.MULTILINE)
    # Every seed has its own, and FLAGS are what stands behind --.
    assert set(noted.split()) - {"SEED", "FLAGS"} == set(RESULTS[name].settings)


def test_a_failed_run_is_a_failure_and_goes_on_later(reproductions, monkeypatch):
    monkeypatch.setenv("STATUS", "7")
    with pytest.raises(RunFailure, match="ended with status 7"):
        reproductions.run(record=True, seeds="1,2")
    assert reproductions.started() == ["1"]
    monkeypatch.delenv("STATUS")
    assert reproductions.run(record=True, seeds="1,2") == 0
    assert reproductions.started() == ["1", "1", "2"]
    (ran,) = (reproductions.folder / "work").iterdir()
    assert len(files.read_json(ran / "seed_1" / "provenance.json")) == 2


def test_without_a_record_nothing_is_run(reproductions):
    with pytest.raises(UsageError, match="has no record yet"):
        reproductions.run()
    assert not reproductions.started()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["nothing"],
            "name nothing: is none of quickstart, squad, squad_huggingface, pretrain_small, ablation",
        ),
        (["quickstart", "--seeds", "1,1"], "--seeds 1,1: must be different whole numbers"),
        (
            ["quickstart", "--record", "--from", "/nowhere", "--seeds", "1"],
            "a finished folder has its own seeds",
        ),
        (["quickstart", "--from_scratch"], "unknown flag --from_scratch"),
        ([], "the following arguments are required: name"),
    ],
)
def test_mistakes_are_one_line_and_code_2(arguments, words):
    command = ["bash", str(ROOT / "scripts" / "reproduce.sh"), *arguments]
    environment = os.environ | {"PYTHON": sys.executable, "SEEDS": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert words in line


def test_help_lists_the_names(run_program):
    done = run_program("scripts/reproduce.py", "--help")
    assert done.returncode == 0 and "--record" in done.stdout
    assert all(
        f"    {name} " in done.stdout and result.summary in done.stdout for name, result in RESULTS.items()
    )


# A result whose script starts a process that takes its time to save, as trainings do.
_LONG = """import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {root!r} + "/scripts"]
import reproduce, run_provenance
from command_line import run_program
from named_results import NamedResult
from result_records import SeedResult
folder = Path({folder!r})
result = NamedResult("long", ("bash", str(folder / "long.sh")), lambda *_: {{"OUT": str(folder)}},
    lambda own: SeedResult({{}}), {{}})
run_provenance.is_dirty = lambda: False
settings = {{"record": True, "seeds": "1", "work_dir": str(folder / "work")}}
config = reproduce.ReproductionConfig(name="quickstart", **settings)
run_program(lambda: reproduce.reproduce(config, result, folder / "records", folder / "none.md"))
"""
_LONG_SCRIPT = """
(
  trap 'sleep 0.3; echo saved > "$OUT/saved"; exit' TERM
  echo > "$OUT/ready"
  while true; do sleep 0.05; done
) 2> /dev/null &
echo $! > "$OUT/pid"
wait
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all_that_was_started_after_it_has_saved(tmp_path, number):
    (tmp_path / "long.sh").write_text(_LONG_SCRIPT)
    (tmp_path / "program.py").write_text(_LONG.format(root=str(ROOT), folder=str(tmp_path)))
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")], stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(number)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "Traceback" not in messages, messages
    assert messages.splitlines()[-1] in ("program.py: error: interrupted", "program.py: error: terminated")
    assert (tmp_path / "saved").read_text() == "saved\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert not (tmp_path / "records").exists()


# ------------------------------------------------------------------------------------------ named results


def test_the_document_has_every_name_and_is_what_the_records_say():
    text = result_records.DOCUMENT.read_text(encoding="utf-8")
    assert with_current_records(text) == text, "run: python scripts/update_readme.py"
    for name in RESULTS:
        assert text.count(f"<!-- record: {name} -->") == 1
        if result_records.read(name) is None:
            assert f"<!-- record: {name} -->\nno record yet\n<!-- /record -->" in text
    recorded = {path.stem for path in result_records.RECORDS.glob("*.json")}
    assert recorded <= set(RESULTS)


def test_the_readme_lists_every_name():
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    (names,) = re.findall(r"`bash scripts/reproduce.sh NAME` runs one of our results again \(([^)]*)\)", text)
    assert re.findall(r"`(\w+)`", names) == list(RESULTS)


def test_the_quickstarts_figures_are_those_of_its_log(tmp_path):
    write_run(tmp_path / "results/models/quickstart")
    result = named_results.read_quickstart(tmp_path)
    last = held_out_line(UPDATES[-1])
    assert result.figures["masked_lm_loss"] == last["eval_masked_lm_loss_masked_only"] == 3.5
    assert result.figures["unigram_cross_entropy"] == last["eval_unigram_cross_entropy"]
    assert result.figures["disc_auc"] == last["eval_disc_auc"]
    assert result.figures["sequences_per_second"] == 100
    curve = result.curves["held_out_masked_lm_loss"]
    assert [update for update, _ in curve] == [5000, 10_000, 15_000, 20_000]
    assert set(result.figures) <= set(RESULTS["quickstart"].figures)


def test_a_real_quickstarts_figures_are_those_of_the_table_that_it_printed():
    figures = named_results.read_pretraining(real_quickstart_log()).figures
    # The README's, of the same seed.
    table = {"masked_lm_loss": "5.920", "unigram_cross_entropy": "7.383", "disc_auc": "0.838"}
    table |= {"disc_accuracy": "88.3", "disc_majority_accuracy": "86.2"}
    for name, shown in table.items():
        assert result_records._number(figures[name], RESULTS["quickstart"].figures[name].digits) == shown


def test_a_run_that_left_nothing_is_a_failure_in_one_line(tmp_path):
    for name in RESULTS:
        with pytest.raises(RunFailure):
            RESULTS[name].read(tmp_path)
    write_run(tmp_path / "results/models/quickstart", updates=range(500, 1001, 500))
    with pytest.raises(RunFailure, match="no held-out evaluation"):
        named_results.read_quickstart(tmp_path)


def test_updates_to_the_target_are_the_first_evaluation_under_it(tmp_path):
    # Word frequencies give 7.1 nats; .9 of that is 6.39, and the loss is 5.75, 5, 4.25, 3.5 by evaluation.
    write_run(tmp_path / "one/results/models/pretrain_small")
    result = named_results.read_pretrain_small(tmp_path / "one")
    assert result.figures["updates_to_target"] == 5000
    assert result.figures["health_faults"] == 0 and result.figures["starts"] == 1
    assert result.figures["minutes_to_target"] >= 0
    slow = {5000: 7.0, 10_000: 6.4, 15_000: 6.38, 20_000: 6.0}
    write_run(
        tmp_path / "two/results/models/pretrain_small",
        held_out=lambda update: {"eval_masked_lm_loss_masked_only": slow[update]},
    )
    figures = named_results.read_pretrain_small(tmp_path / "two").figures
    assert figures["updates_to_target"] == 15_000
    write_run(
        tmp_path / "three/results/models/pretrain_small",
        held_out=lambda update: {"eval_masked_lm_loss_masked_only": 6.9},
    )
    assert "updates_to_target" not in named_results.read_pretrain_small(tmp_path / "three").figures


def write_squad(
    folder: Path, exact: float, f1: float, question: str = "q1", train: str = "45", dev: str = "67"
) -> None:
    folder.mkdir(parents=True)
    files.write_json(folder / "eval_results.json", {"exact_match": exact, "f1": f1})
    files.write_json(folder / "predictions.json", {question: "an answer"})
    (folder / "weights.sha256").write_text("0123  model.safetensors\n")
    (folder / "questions.sha256").write_text(f"{train}  train-v1.1.json\n{dev}  dev-v1.1.json\n")


def test_squads_figures_are_its_scores_and_its_questions_are_known(tmp_path):
    write_squad(tmp_path / "a", 36.5, 48.25)
    write_squad(tmp_path / "b", 36.5, 48.25, question="q2")
    one, other = (named_results.read_squad(tmp_path / name) for name in "ab")
    assert one.figures == {"exact_match": 36.5, "f1": 48.25}
    assert one.inputs != other.inputs
    with pytest.raises(UsageError, match="seed 2: its run had other data"):
        result_records.shared_inputs({"1": one, "2": other})
    record = {"settings": {}, "inputs": one.inputs}
    assert result_records.differences(record, {}, one.inputs) == []
    (told,) = result_records.differences(record, {}, other.inputs)
    assert told.startswith("the input questions_sha256 is ")


def test_other_questions_to_train_on_are_other_inputs_though_the_answered_ones_are_the_same(tmp_path):
    write_squad(tmp_path / "a", 36.5, 48.25)
    write_squad(tmp_path / "b", 36.5, 48.25, train="46")
    write_squad(tmp_path / "c", 36.5, 48.25, dev="68")
    one, *others = (named_results.read_squad(tmp_path / name) for name in "abc")
    assert one.inputs["train_questions_sha256"] == "45" and one.inputs["dev_questions_sha256"] == "67"
    for name, other in zip(("train", "dev"), others, strict=True):
        (told,) = result_records.differences({"settings": {}, "inputs": one.inputs}, {}, other.inputs)
        assert told.startswith(f"the input {name}_questions_sha256 is ")


@pytest.mark.parametrize("name", ["squad", "squad_huggingface"])
@pytest.mark.parametrize("questions", ["", "other", "none"])
def test_a_comparison_on_other_questions_is_refused_before_anything_runs(tmp_path, name, questions):
    folder = tmp_path / questions
    if questions == "other":
        write_questions(folder)
    environment = os.environ | {
        "PYTHON": sys.executable,
        "SEEDS": "1",
        "PRECISION": "",
        "MAX_QUESTIONS": "",
        "SQUAD_DIR": str(folder) if questions else "",
        "REPRODUCE_DIR": str(tmp_path / "work"),
        # Nothing to download from, where something would try.
        "SQUAD_URL": "http://127.0.0.1:1",
        "PIP_INDEX_URL": "http://127.0.0.1:1",
    }
    command = ["bash", str(ROOT / "scripts/reproduce.sh"), name]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    told = f"SQUAD_DIR {folder}: has not the recorded questions" if questions else "SQUAD_DIR is not set"
    assert told in line and "python data/xquad_split.py --output_dir FOLDER" in line
    assert not (tmp_path / "work").exists()


def test_the_recorded_questions_are_those_that_the_split_makes(shared_data, tmp_path):
    environment = {"SQUAD_DIR": str(shared_data / "squad")}
    for name in ("squad", "squad_huggingface"):
        record = result_records.read(name)
        assert RESULTS[name].input_difference(environment, record["inputs"]) == ""
        # As named_results.read_squad has them of a run on these files.
        ids = [
            entry["id"]
            for article in files.read_json(shared_data / "squad/dev-v1.1.json")["data"]
            for paragraph in article["paragraphs"]
            for entry in paragraph["qas"]
        ]
        expected = hashlib.sha256(json.dumps(sorted(ids)).encode()).hexdigest()
        assert record["inputs"]["questions_sha256"] == expected
        for part in ("train", "dev"):
            rows = sorted(
                [
                    entry["id"],
                    entry["question"],
                    paragraph["context"],
                    [answer["text"]],
                    answer["answer_start"],
                ]
                for article in files.read_json(shared_data / f"squad/{part}-v1.1.json")["data"]
                for paragraph in article["paragraphs"]
                for entry in paragraph["qas"]
                for answer in entry["answers"]
            )
            text = "".join(json.dumps(row) + "\n" for row in rows)
            assert record["inputs"][f"{part}_questions_sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_an_ablations_figures_stand_by_variant(tmp_path):
    for variant, loss in (("mask_15", 5.5), ("masked_lm", 5.0)):
        write_run(
            tmp_path / "results/models" / variant,
            held_out=lambda update, loss=loss: {"eval_masked_lm_loss_masked_only": loss},
        )
        write_squad(tmp_path / "squad" / variant, 10 * loss, 20 * loss)
    result = named_results.read_ablation(tmp_path)
    assert result.figures["mask_15/masked_lm_loss"] == 5.5 and result.figures["masked_lm/f1"] == 100
    assert set(result.curves) == {"mask_15", "masked_lm"}
    assert set(result.logs) == {"mask_15.pre_training", "masked_lm.pre_training"}
    for name in result.figures:
        assert result_records.figure_of(name, RESULTS["ablation"].figures)


def test_each_seed_of_a_name_runs_its_script_in_a_folder_of_its_own(tmp_path):
    for name, result in RESULTS.items():
        assert (ROOT / result.command[1]).is_file(), name
        one, two = (dict(result.environment(seed, tmp_path / str(seed), tmp_path)) for seed in (1, 2))
        assert one["SEED"] == "1" and two["SEED"] == "2"
        own = [key for key, value in one.items() if value == str(tmp_path / "1")]
        assert len(own) == 1 and two[own[0]] == str(tmp_path / "2")


# ---------------------------------------------------------------------------------------------- scripts

# Stands in for Python: notes its arguments, and leaves a checkpoint where a training would.
_RECORDER = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$RECORD"
[[ $1 != run_pretraining.py || -z ${FAIL:-} ]] || exit 7
folder=$RESULTS_DIR/results/models/pretrain_small/checkpoints/ckpt-10
[[ $1 != run_pretraining.py ]] || mkdir -p "$folder"
[[ $1 != run_report.py || $* != *--check* ]] || exit "${HEALTH:-0}"
"""


@pytest.fixture
def scripted(tmp_path):
    """Run a script with the recorder in Python's place; returns the process and the commands it ran."""
    recorder, record = tmp_path / "python", tmp_path / "record"
    recorder.write_text(_RECORDER)
    recorder.chmod(0o755)
    (tmp_path / "shards/held_out").mkdir(parents=True)

    def run(script: str, *arguments: str, **environment):
        record.unlink(missing_ok=True)
        clean = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
        clean |= {"PYTHON": str(recorder), "RECORD": str(record), "RESULTS_DIR": str(tmp_path / "out")}
        clean |= {"SHARDS": str(tmp_path / "shards")} | environment
        command = ["bash", str(ROOT / "scripts" / script), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=clean, timeout=60)
        return done, record.read_text().splitlines() if record.exists() else []

    return run


def test_pre_training_is_stopped_half_way_resumed_and_reported(scripted, tmp_path):
    (tmp_path / "out").mkdir()
    done, commands = scripted("pretrain_small.sh", "--", "--hidden_size", "64", UPDATES="20", HEALTH="1")
    assert done.returncode == 0, done.stderr
    programs = [command.split()[0] for command in commands]
    reports = ["postprocess_pretrained_ckpt.py", "run_report.py", "run_report.py"]
    around = "scripts/run_provenance.py"
    assert programs == [around, *["run_pretraining.py"] * 2, *reports, around]
    first, second = commands[1:3]
    assert "--steps_this_run 10" in first and "--steps_this_run" not in second
    for command in (first, second):
        assert "--restore_checkpoint=latest" in command and "--hidden_size 64" in command
        assert "--num_train_steps 20" in command and f"--eval_tfrecords {tmp_path}/shards/held_out" in command
    # Its checkpoint stands beyond the half: nothing is left to stop.
    done, commands = scripted("pretrain_small.sh", UPDATES="20")
    assert sum(command.startswith("run_pretraining.py") for command in commands) == 1


@pytest.mark.parametrize("script", ["pretrain_small.sh", "ablation.sh"])
def test_a_failed_training_ends_the_script_with_its_code(scripted, script, tmp_path):
    (tmp_path / "out").mkdir()
    done, commands = scripted(script, FAIL="1")
    assert done.returncode == 7
    assert not any("--finished" in command for command in commands)


def test_a_variant_differs_from_the_first_in_one_flag(scripted, tmp_path):
    (tmp_path / "out").mkdir()
    done, commands = scripted("ablation.sh", GLUE_TASK="RTE", GLUE_DIR="glue", UPDATES="10")
    assert done.returncode == 0, done.stderr
    trained = [set(command.split()[1:]) for command in commands if command.startswith("run_pretraining.py")]
    names = {"mask_15", "mask_10", "mask_25", "generator_half", "masked_lm"}
    flags = [sorted(words - trained[0] - names) for words in trained]
    assert flags == [
        [],
        ["--mask_prob=0.10"],
        ["--mask_prob=0.25"],
        ["--generator_hidden_size=0.5"],
        ["--electra_objective=False"],
    ]
    tuned = [command for command in commands if command.startswith("run_tf_glue.py")]
    assert len(tuned) == 5 and all("--task RTE --data_dir glue" in command for command in tuned)


def test_variants_start_from_trained_weights_unless_it_is_told_otherwise(scripted, tmp_path):
    (tmp_path / "out").mkdir()
    settings = {"VARIANTS": "mask_15", "FINE_TUNE_EPOCHS": "0"}
    weights = tmp_path / "out/corpus/minilm"
    done, commands = scripted("ablation.sh", **settings)
    assert done.returncode == 0, done.stderr
    assert f"data/package_files.py minilm_weights --output_dir {weights}" in commands
    (trained,) = [command for command in commands if command.startswith("run_pretraining.py")]
    assert f"--config configs/quickstart_phase1.json --init_weights {weights} " in trained
    assert "--num_train_steps 240 --train_batch_size 8 --learning_rate 2e-4" in trained
    done, commands = scripted("ablation.sh", INIT="random", **settings)
    (trained,) = [command for command in commands if command.startswith("run_pretraining.py")]
    assert "--init_weights" not in trained and "--hidden_size 128" in trained
    assert not any("minilm" in command for command in commands)


def test_variants_are_fine_tuned_on_reviews_unless_it_is_told_otherwise(scripted, tmp_path):
    (tmp_path / "out").mkdir()
    settings = {"VARIANTS": "mask_15 masked_lm", "UPDATES": "10"}
    done, commands = scripted("ablation.sh", **settings)
    assert done.returncode == 0, done.stderr
    reviews = tmp_path / "out/corpus/movie_reviews"
    assert commands.count(f"data/movie_reviews.py --output_dir {reviews}") == 1
    tuned = [command for command in commands if command.startswith("run_tf_glue.py")]
    assert len(tuned) == 2
    for command, variant in zip(tuned, ("mask_15", "masked_lm"), strict=True):
        assert f"--train_file {reviews}/train.tsv --eval_file {reviews}/dev.tsv" in command
        assert f"models/{variant}/exports/discriminator" in command and f"reviews/{variant}" in command
    done, commands = scripted("ablation.sh", FINE_TUNE_EPOCHS="0", **settings)
    assert done.returncode == 0 and not any("reviews" in command for command in commands)


def test_a_variants_folder_notes_the_questions_that_it_is_fine_tuned_on(scripted, tmp_path):
    questions = str(tmp_path / "questions")
    done, commands = scripted("ablation.sh", VARIANTS="mask_15", SQUAD_DIR=questions, UPDATES="10")
    assert done.returncode == 0, done.stderr
    place = commands.index(f"scripts/squad_checksums.py {questions}")
    assert commands[place + 1].startswith(
        f"run_tf_squad.py --config configs/squad_quickstart.json --data_dir {questions}"
    )
    assert (tmp_path / "out/squad/mask_15/questions.sha256").is_file()


@pytest.mark.parametrize(
    ("script", "environment", "words"),
    [
        ("pretrain_small.sh", {"UPDATES": "many"}, "UPDATES many: must be a positive number"),
        ("pretrain_small.sh", {"SHARDS": "/nowhere"}, "SHARDS /nowhere: has neither"),
        ("ablation.sh", {"VARIANTS": "mask_15 other"}, "VARIANTS 'other': is none of"),
        ("ablation.sh", {"VARIANTS": "x[$(pwd>&2)]"}, "is none of"),
        ("pretrain_small.sh", {"MAX_SEQ_LENGTH": "a[1]"}, "MAX_SEQ_LENGTH a[1]: must be a positive number"),
        ("ablation.sh", {"INIT": "bert"}, "INIT 'bert': is none of minilm, random"),
        ("ablation.sh", {"VOCAB_SIZE": "90"}, "INIT=minilm has a vocabulary of its own"),
        ("ablation.sh", {"GLUE_TASK": "RTE"}, "GLUE_TASK RTE: needs GLUE_DIR"),
        ("ablation.sh", {"GLUE_TASK": "RTE", "SQUAD_DIR": "a"}, "one task, not both"),
        ("ablation.sh", {"FINE_TUNE_EPOCHS": "few"}, "FINE_TUNE_EPOCHS few: must be a whole number"),
    ],
)
def test_mistakes_of_the_scripts_are_one_line_and_code_2(scripted, script, environment, words):
    done, commands = scripted(script, **environment)
    assert done.returncode == 2 and words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not any(command.startswith("run_pretraining.py") for command in commands)


def small_environment(language: Path, folder: Path) -> dict[str, str]:
    settings = {
        "PYTHON": sys.executable,
        "RESULTS_DIR": folder,
        "SHARDS": language / "shards_32",
        "SEED": "3",
    }
    settings |= {
        "INIT": "random",
        "MAX_SEQ_LENGTH": 32,
        "UPDATES": 8,
        "BATCH": 4,
        "EVAL_EVERY": 4,
        "PRECISION": "fp32",
    }
    return os.environ | {name: str(value) for name, value in settings.items()}


def run_script(script: str, environment: dict[str, str]) -> None:
    flags = [word for name, value in MODEL.items() for word in (f"--{name}", str(value))]
    command = ["bash", str(ROOT / "scripts" / script), "--", *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def as_if_committed(folder: Path) -> None:
    """The tree that tests run in may have changes."""
    provenance = folder / "provenance.json"
    starts = [start | {"dirty": False, "commit": "0" * 40} for start in files.read_json(provenance)]
    files.write_json(provenance, starts)


@pytest.mark.slow
def test_a_small_pre_training_is_recorded_from_its_folder_and_agrees_with_itself(
    language, tmp_path, monkeypatch, capsys
):
    folder, environment = tmp_path / "run", small_environment(language, tmp_path / "run")
    run_script("pretrain_small.sh", environment)
    (start,) = run_provenance.read(folder)
    assert run_provenance.is_finished([start]) and start["settings"]["UPDATES"] == "8"
    assert start["settings"]["FLAGS"].startswith("--embedding_size 24")
    result = named_results.read_pretrain_small(folder)
    assert result.figures["starts"] == 2 and result.figures["masked_lm_loss"] > 0
    assert [update for update, _ in result.curves["held_out_masked_lm_loss"]] == [4, 8]
    assert "after 8 updates" in (folder / "health.txt").read_text()
    as_if_committed(folder)
    monkeypatch.setattr(run_provenance, "is_dirty", lambda: False)
    document = tmp_path / "results.md"
    document.write_text("<!-- record: pretrain_small -->\n<!-- /record -->\n")
    name = "pretrain_small"
    for record in (True, False):
        config = ReproductionConfig(name=name, record=record, from_folder=str(folder))
        assert reproduce.reproduce(config, RESULTS[name], tmp_path / "records", document) == 0
    assert "seed 3" in document.read_text()
    (log,) = (tmp_path / "records" / name).iterdir()
    assert log.name == "seed_3.pre_training.log.gz"
    recorded, own = read_run(str(log)), read_run(str(folder / "results/models/pretrain_small"))
    assert recorded.phases[-1].training == own.phases[-1].training
    text = gzip.decompress(log.read_bytes()).decode()
    assert str(tmp_path) not in text and '".../shards_32"' in text
    assert recorded.settings["results_dir"] == "./results"
    assert "within the spread" in capsys.readouterr().out
    record = files.read_json(tmp_path / "records" / f"{name}.json")
    assert record["inputs"]["text_sha256"] and list(record["seeds"]) == ["3"]
    record["mean"]["masked_lm_loss"] += 1
    files.write_json(tmp_path / "records" / f"{name}.json", record)
    assert reproduce.reproduce(config, RESULTS[name], tmp_path / "records", document) == 1


@pytest.mark.slow
def test_a_variant_is_trained_and_fine_tuned_and_read(language, tmp_path):
    folder = tmp_path / "run"
    task = {"GLUE_TASK": "RTE", "GLUE_DIR": str(write_own_files(tmp_path / "glue", "RTE"))}
    task |= {"VARIANTS": "masked_lm", "FINE_TUNE_EPOCHS": "1"}
    # Shards are made from text here, with a vocabulary of their own.
    task |= {"SHARDS": "", "TEXT": str(language / "text"), "VOCAB_SIZE": "90"}
    run_script("ablation.sh", small_environment(language, folder) | task)
    result = named_results.read_ablation(folder)
    assert 0 <= result.figures["masked_lm/eval_accuracy"] <= 1
    assert result.figures["masked_lm/masked_lm_loss"] > 0 and result.inputs["labels_sha256"]
    assert load_vocabulary(folder / "corpus/vocabulary_90/vocab.txt").size <= 90
    # There is no replaced-token detection.
    assert "masked_lm/disc_auc" not in result.figures
    assert run_provenance.is_finished(run_provenance.read(folder))

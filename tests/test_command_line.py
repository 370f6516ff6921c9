"""Fields are flags: spelled either way, checked and documented; a mistake is one line and exit code 2."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import MISSING, dataclass
from pathlib import Path

import pytest

import command_line
from command_line import UsageError, flag_table, from_dictionary, option, parse, require
from configuration import PretrainingConfig
from dataset_configuration import DatasetConfig, VocabularyConfig

ROOT = Path(__file__).parents[1]
PROGRAMS = {
    "build_pretraining_dataset.py": DatasetConfig,
    "build_vocabulary.py": VocabularyConfig,
    "run_pretraining.py": PretrainingConfig,
}


@dataclass
class Settings:
    """Every kind of field that the programs have."""

    name: str = option(MISSING, "a name", group="first")
    train_steps: int = option(10, "steps, 100 % of them", group="first")
    rate: float = option(0.5, "a rate", group="first")
    use_amp: bool = option(False, "a choice", group="second")
    use_cache: bool = option(True, "a choice that is on", group="second")
    do_lower_case: bool | None = option(None, "a choice left open", group="second", negative="--cased")
    width: int | None = option(None, "a number left open", group="second")
    size: str = option("base", "one of a few", group="second", choices=("small", "base"))
    restore: str = option("", "a path|a word", group="second", bare="latest")

    def __post_init__(self):
        require(self.train_steps > 0, "train_steps", self.train_steps, "must be positive")


def parsed(*words: str) -> Settings:
    return parse(Settings, ["--name", "n", *words], description="test")


def config_file(folder: Path, content) -> str:
    path = folder / "settings.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def message(*words: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse(Settings, words, description="test")
    return str(caught.value)


def test_hyphens_and_underscores_are_the_same():
    for words in (["--train-steps", "3"], ["--train_steps", "3"], ["--train-steps=3"], ["--train_steps=3"]):
        assert parsed(*words).train_steps == 3
    assert parsed("--name=a-b_c").name == "a-b_c", "the value keeps its hyphens"
    assert parsed("--name", "-1").name == "-1"


@pytest.mark.parametrize(
    "text", ["--well-known facts?", "--a-b=c d", "-- x-y", "-x-y z", "--train-steps of a run"]
)
def test_a_value_that_begins_like_a_flag_keeps_its_hyphens(text):
    """A question may begin so; argparse takes words with a space for values."""
    assert parsed("--name", text).name == text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], False),
        (["--use_amp"], True),
        (["--use_amp", "True"], True),
        (["--use_amp=true"], True),
        (["--use_amp", "1"], True),
        (["--use_amp", "yes"], True),
        (["--use_amp", "False"], False),
        (["--use_amp", "false"], False),
        (["--use_amp", "0"], False),
        (["--no_use_amp"], False),
        (["--use_amp", "--no-use-amp"], False),
        (["--no_use_amp", "--use_amp"], True),
    ],
)
def test_yes_and_no_in_every_spelling(words, expected):
    """`--flag False` is False: argparse's type=bool would take it for True."""
    assert parsed(*words).use_amp is expected


def test_yes_no_fields_that_are_on_or_open_are_turned_off_by_name():
    assert parsed().use_cache is True and parsed("--no-use-cache").use_cache is False
    assert parsed().do_lower_case is None
    assert parsed("--do-lower-case").do_lower_case is True
    for words in (["--cased"], ["--no_do_lower_case"], ["--do_lower_case", "False"]):
        assert parsed(*words).do_lower_case is False


def test_numbers_may_be_fractions_powers_of_ten_and_floats_that_are_whole():
    assert parsed("--rate", "1/3").rate == 1 / 3
    assert parsed("--rate", "6e-3").rate == 0.006
    for text, value in (("1e6", 10**6), ("12.0", 12), ("+5", 5), ("9007199254740993", 2**53 + 1)):
        steps = parsed("--train_steps", text).train_steps
        assert steps == value and type(steps) is int
    width = parsed("--width", "-1.0").width
    assert width == -1 and type(width) is int


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--train_steps", "1.5"], "'1.5' is not a whole number"),
        (["--train_steps", "many"], "'many' is not a whole number"),
        (["--train_steps", "inf"], "'inf' is not a whole number"),
        (["--train_steps", "nan"], "'nan' is not a whole number"),
        (["--train_steps"], "--train_steps: expected one argument"),
        (["--rate", "1/0"], "'1/0' is neither a number nor a fraction"),
        (["--rate", "1/2/3"], "'1/2/3' is neither a number nor a fraction"),
        (["--use_amp", "maybe"], "--use_amp: 'maybe' is neither True nor False"),
        (["--size", "huge"], "--size: invalid choice: 'huge'"),
        (["--train_step", "3"], "unknown flag --train_step (did you mean --train_steps?)"),
        (["--train-step=3"], "unknown flag --train_step (did you mean --train_steps?)"),
        (["--zzz"], "unknown flag --zzz"),
        (["--use_amp", "True", "stray"], "'stray' is neither a flag nor the value of one"),
        (["-x"], "'-x' is neither a flag nor the value of one"),
        (["--train_steps", "0"], "--train_steps 0: must be positive"),
    ],
)
def test_wrong_flag_is_named_with_its_value(words, told):
    assert told in message("--name", "n", *words)


def test_missing_required_flags_are_all_named():
    assert message() == "missing --name"


def test_bare_restore_means_latest():
    assert parsed().restore == ""
    assert parsed("--restore").restore == "latest"
    assert parsed("--restore", "--use_amp").restore == "latest"
    assert parsed("--restore", "a/path").restore == "a/path"
    assert parsed("--restore=latest").restore == "latest"


def test_flags_win_over_the_config_file_and_it_over_defaults(tmp_path):
    path = config_file(
        tmp_path, {"name": "from file", "train_steps": 7, "use_amp": True, "restore": "latest"}
    )
    settings = parse(Settings, ["--config", path, "--train-steps", "8"], description="test")
    assert settings == Settings(name="from file", train_steps=8, use_amp=True, restore="latest")
    assert parse(Settings, ["--no_use_amp", "--config", path], description="test").use_amp is False
    assert parse(Settings, ["--train_steps", "10", "--config", path], description="test").train_steps == 10, (
        "a flag that names the default is given all the same"
    )


def test_config_file_takes_the_values_of_flags(tmp_path):
    """Fractions and powers of ten as text, whole floats as integers, null where a field may be open."""
    content = {"name": "n", "rate": "1/4", "train_steps": 1e3, "use_amp": "False", "width": None}
    settings = parse(Settings, ["--config", config_file(tmp_path, content)], description="test")
    assert settings == Settings(name="n", rate=0.25, train_steps=1000)
    assert type(settings.train_steps) is int and type(settings.rate) is float
    whole = parse(Settings, ["--config", config_file(tmp_path, {"name": "n", "rate": 1})], description="test")
    assert type(whole.rate) is float


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"train_step": 1}, "unknown key 'train_step' (did you mean train_steps?)"),
        ({"zzz": 1}, "unknown key 'zzz'"),
        ({"train_steps": "many"}, "train_steps: 'many' is not a whole number"),
        ({"train_steps": 1.5}, "train_steps: 1.5 is not of type int"),
        ({"train_steps": True}, "train_steps: True is not of type int"),
        ({"train_steps": None}, "train_steps: None is not of type int"),
        ({"train_steps": [1]}, "train_steps: [1] is not of type int"),
        ('{"rate": NaN, "train_steps": NaN}', "train_steps: nan is not of type int"),
        ({"train_steps": 10**308 * 2}, "train_steps: a number of 309 digits is too large"),
        ({"rate": -(10**400)}, "rate: a number of 401 digits is too large"),
        ({"rate": "fast"}, "rate: 'fast' is neither a number nor a fraction"),
        ({"use_amp": 1}, "use_amp: 1 is not of type bool"),
        ({"name": 3}, "name: 3 is not of type str"),
        ({"size": "huge"}, "size: 'huge' is none of small, base"),
        ([1, 2], "a JSON object of settings is wanted, not a list"),
        ("{not json", "not JSON"),
        ("\xff\xfe", "not JSON"),
    ],
)
def test_wrong_config_file_is_named_with_the_key(tmp_path, content, told):
    path = config_file(tmp_path, content)
    if content == "\xff\xfe":
        Path(path).write_bytes(b"\xff\xfe")
    text = message("--name", "n", "--config", path)
    assert f"--config {path}: " in text and told in text


def test_config_file_holds_no_words_that_are_given_by_place(tmp_path):
    @dataclass
    class Placed:
        run_dir: tuple[str, ...] = option(MISSING, "folders", group="first", positional=True)

    for value in ("results", ["results"]):
        path = config_file(tmp_path, {"run_dir": value})
        with pytest.raises(
            UsageError, match=rf"--config {path}: run_dir: is given by its place on the command"
        ):
            parse(Placed, ["results", "--config", path], description="test")


def test_missing_config_file_is_named(tmp_path):
    assert message("--config", f"{tmp_path}/none.json") == f"--config {tmp_path}/none.json: " + os.strerror(2)
    assert "directory" in message("--config", str(tmp_path))


def test_recorded_settings_are_checked_as_a_config_file_is():
    assert from_dictionary(Settings, {"name": "n", "width": 3}, "here") == Settings(name="n", width=3)
    with pytest.raises(UsageError, match=r"here: unknown key 'widht' \(did you mean width\?\)"):
        from_dictionary(Settings, {"name": "n", "widht": 3}, "here")


def test_table_has_a_row_for_each_flag():
    lines = flag_table(Settings).splitlines()
    assert lines[:2] == ["| flag | default | meaning |", "|---|---|---|"]
    assert len(lines) == 2 + len(dataclasses.fields(Settings))
    assert "| `--name` | `required` | a name |" in lines
    assert "| `--train_steps` | `10` | steps, 100 % of them |" in lines
    assert "| `--width` | `none` | a number left open |" in lines
    assert r"| `--restore [latest or path]` | `none` | a path\|a word |" in lines, "a bar would end the cell"


# ---------------------------------------------------------------------------------------- whole programs


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_shows_each_flag_with_its_default(program, run_program):
    """argparse breaks lines where it likes, so the comparison leaves out all white space."""
    result = run_program(program, "--help")
    assert result.returncode == 0 and result.stderr == ""
    shown = "".join(result.stdout.split())
    for field in dataclasses.fields(PROGRAMS[program]):
        default = {MISSING: "required", None: "none", "": "none"}.get(field.default, field.default)
        assert "".join(f"{field.metadata['help']} [{default}]".split()) in shown, field.name
        assert f"--{field.name}" in shown


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_shows_the_command_to_start_with_on_a_line_of_its_own(program, run_program):
    lines = run_program(program, "--help").stdout.splitlines()
    assert any(line.startswith(f"    python {program} --") for line in lines)


@pytest.mark.parametrize("words", [["--help"], ["--model_sise", "base"]])
def test_help_and_wrong_flags_load_no_tensorflow(words):
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['run_pretraining.py', *{words}]\n"
        "try:\n"
        "    runpy.run_path('run_pretraining.py', run_name='__main__')\n"
        "except SystemExit as exit:\n"
        "    print('exit', exit.code, 'tensorflow' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.stdout.endswith(f"exit {0 if words == ['--help'] else 2} False\n")


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("words", [[], ["--seeed", "1"], ["--config", "missing.json"], ["stray"]])
def test_mistake_is_one_line_and_exit_code_2(program, words, usage_error):
    assert usage_error(program, *words).startswith(f"{program}: error: ")


# ------------------------------------------------------------------------------------- how programs end


def start(tmp_path: Path, body: str, **options) -> subprocess.Popen:
    """A program of `run_program` with this body, its text on a pipe."""
    script = tmp_path / "program.py"
    script.write_text(
        "import errno, os, sys, time\n"
        "from command_line import *\n"
        "def main():\n" + "".join(f"    {line}\n" for line in body.splitlines()) + "run_program(main)\n"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, str(script)], env=environment, cwd=tmp_path, **pipes)


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        ("print('done')", 0, ""),
        ("return 3", 3, ""),
        ("raise UsageError('--flag 1: is\\nwrong')", 2, "program.py: error: --flag 1: is wrong\n"),
        ("raise RunFailure('diverged')", 1, "program.py: error: diverged\n"),
        ("raise KeyboardInterrupt", 130, "program.py: error: interrupted\n"),
        (
            "raise OSError(errno.ENOSPC, 'full', 'a/file')",
            1,
            "program.py: error: no space left on the device while writing a/file\n",
        ),
        ("open('missing/file', 'w')", 1, "program.py: error: missing/file: No such file or directory\n"),
        (
            "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))\nwhile True: os.dup(2)",
            1,
            "program.py: error: too many open files: the limit is 20, which ulimit -n raises\n",
        ),
    ],
)
def test_end_of_a_program_is_its_exit_code_and_one_line(tmp_path, body, code, told):
    process = start(tmp_path, body)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (code, told)


def test_fault_of_the_program_itself_keeps_its_traceback(tmp_path):
    process = start(tmp_path, "return 1 / 0")
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1 and "Traceback" in stderr and "ZeroDivisionError" in stderr


@pytest.mark.parametrize(
    ("number", "code", "told"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_signal_cleans_up_and_ends_the_program(tmp_path, number, code, told):
    body = "try:\n    print('running', flush=True)\n    time.sleep(60)\nfinally:\n    print('cleaned up')"
    process = start(tmp_path, body)
    assert process.stdout.readline() == "running\n"
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout, stderr) == (code, "cleaned up\n", f"program.py: error: {told}\n")


def test_reader_that_goes_away_is_no_traceback(tmp_path):
    process = start(tmp_path, "for _ in range(100_000):\n    print('x' * 100)")
    process.stdout.close()
    stderr = process.stderr.read()
    assert process.wait(30) == 1 and stderr == ""


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")
def test_full_disk_under_the_output_is_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        process = start(tmp_path, "print('x' * 100_000)", stdout=full)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1 and stderr == "program.py: error: no space left on the device\n"


def test_help_answers_at_once(run_program):
    begin = time.monotonic()
    run_program("run_pretraining.py", "--help")
    assert time.monotonic() - begin < 5, "loading TensorFlow alone takes about as long"


def test_require_names_the_flag_the_value_and_the_reason():
    require(True, "flag", 1, "never seen")
    with pytest.raises(UsageError, match=r"^--flag 1: must be two$"):
        require(False, "flag", 1, "must be two")
    assert command_line.EXIT_USAGE == 2

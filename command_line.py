"""Dataclass fields as command-line flags, and the way every program ends.

A program describes its settings as one dataclass (configuration.py and its neighbours). From it come the
flags, their defaults, `--help`, the keys of a `--config` file and the table in the README: a default is
written once.
`run_program` turns a user's mistake into one line and exit code 2, and an interrupt into 130 or 143.
"""

import argparse
import dataclasses
import difflib
import errno
import itertools
import math
import os
import resource
import signal
import sys
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path

import files
import lean_imports

EXIT_FAILURE = 1
EXIT_OTHER_FAILED = 3
EXIT_USAGE = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM

_BOOLEAN_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class UsageError(Exception):
    """A mistake that the user can mend: one line that names the flag and the value (exit code 2)."""


class RunFailure(Exception):
    """A run that cannot go on through no fault of its flags: one line that says why (exit code 1)."""

    exit_code = EXIT_FAILURE


class OtherWorkerFailed(RunFailure):
    """A worker that could go on but for another one's end; exit code 3, so that the cause can be told."""

    exit_code = EXIT_OTHER_FAILED


class Terminated(BaseException):
    """SIGTERM or SIGUSR1 arrived in a program that has no checkpoint to write; cleans up as Ctrl-C does."""


def option(
    default,
    help: str,
    *,
    group: str,
    choices: Sequence[str] = (),
    bare=None,
    negative: str | None = None,
    positional: bool = False,
):
    """Declare a dataclass field that is a flag.

    Args:
        default: value without the flag; `dataclasses.MISSING` makes the flag required.
        help: one sentence for `--help` and the README.
        group: heading under which both list it.
        choices: the allowed words, for a string.
        bare: value of the flag given without a value (`--restore_checkpoint` alone).
        negative: a further spelling that sets a yes/no field to False, beside `--no_<name>`.
        positional: take the value by position instead of by flag; a tuple[str, ...] takes one or more.
    """
    metadata = {
        "help": help,
        "group": group,
        "choices": tuple(choices),
        "bare": bare,
        "negative": negative,
        "positional": positional,
    }
    return dataclasses.field(default=default, metadata=metadata)


def require(condition: bool, name: str, value: object, why: str) -> None:
    """Stop with the one line `--name value: why` unless the condition holds."""
    if not condition:
        raise UsageError(f"--{name} {value}: {why}")


def require_at_least(least: int, config: object, *names: str) -> None:
    """Stop unless each of these settings is at least `least`."""
    why = f"must be at least {least}" if least else "must not be negative"
    for name in names:
        require(getattr(config, name) >= least, name, getattr(config, name), why)


def abridged(names: Sequence[str], most: int = 8) -> str:
    """Names in one line, the first of them where there are many."""
    more = f", … ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def without_none(value: str) -> str:
    """A path, or "" for `None`: NVIDIA's launchers write out this default of theirs."""
    return "" if value == "None" else value


def parse(config_class: type, argv: Sequence[str] | None = None, *, description: str):
    """Settings from defaults, then `--config FILE.json`, then flags; the later ones win.

    Flags may be spelled with hyphens or underscores. Returns an instance of `config_class`, whose own
    `__post_init__` checks the values.

    Raises:
        UsageError: an unknown flag or key, a value that does not parse, a missing required flag.
    """
    flags = _flags(config_class)
    argv = [_with_underscores(word, flags) for word in (sys.argv[1:] if argv is None else argv)]
    argv = _with_values(config_class, argv)
    namespace, unknown = _build_parser(config_class, description).parse_known_args(argv)
    if unknown:
        raise UsageError(_unknown_words(config_class, unknown))
    given = vars(namespace)
    config_file = given.pop("config", None)
    settings = (_read_config_file(config_class, config_file) if config_file else {}) | given
    missing = [
        field.name
        for field in dataclasses.fields(config_class)
        if field.default is dataclasses.MISSING and field.name not in settings
    ]
    if missing:
        raise UsageError("missing " + ", ".join(f"--{name}" for name in missing))
    return config_class(**settings)


def from_dictionary(config_class: type, settings: dict, source: str):
    """An instance of `config_class` from JSON settings; an unknown key stops with its likely spelling."""
    return config_class(**_check_settings(config_class, settings, source))


def flag_table(config_class: type) -> str:
    """The flags of a program as a Markdown table, for the README; group by group, as in `--help`."""
    lines = ["| flag | default | meaning |", "|---|---|---|"]
    fields = dataclasses.fields(config_class)
    groups = list(dict.fromkeys(field.metadata["group"] for field in fields))
    for field in sorted(fields, key=lambda field: groups.index(field.metadata["group"])):
        choices = " ".join(("", "|".join(field.metadata["choices"]))).rstrip()
        cells = (_flag_name(field) + choices, f"`{_default_text(field)}`", field.metadata["help"])
        lines.append("| `{}` | {} | {} |".format(*(cell.replace("|", "\\|") for cell in cells)))
    return "\n".join(lines)


def run_program(main: Callable[[], int | None]) -> typing.NoReturn:
    """Run a program's `main` and exit with the code that says how it ended."""
    program = Path(sys.argv[0]).name
    lean_imports.keep_keras_lean()
    try:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, _raise_terminated)
        code = main() or 0
        sys.stdout.flush()
    except UsageError as error:
        code = _report(program, error, EXIT_USAGE)
    except RunFailure as error:
        code = _report(program, error, error.exit_code)
    except KeyboardInterrupt:
        code = _report(program, "interrupted", EXIT_INTERRUPTED)
    except Terminated:
        code = _report(program, "terminated", EXIT_TERMINATED)
    except BrokenPipeError:
        # The reader of a pipe went away (`… | head`); there is nobody left to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_FAILURE
    except OSError as error:
        message = _system_error(error)
        if message is None:
            raise
        code = _report(program, message, EXIT_FAILURE)
    # The outcome stands: what another worker's end or a launcher sends from here on must not change it.
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def _system_error(error: OSError) -> str | None:
    """One line for an error of the operating system; None for one that names no file (a bug of ours)."""
    if error.errno in files.FULL_DISK:
        return "no space left on the device" + (f" while writing {error.filename}" if error.filename else "")
    if error.errno == errno.EMFILE:
        # Memory mapping raises it without a file name.
        place = f" at {error.filename}" if error.filename else ""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"too many open files{place}: the limit is {limit}, which ulimit -n raises"
    return f"{error.filename}: {error.strerror}" if error.filename else None


def _report(program: str, message: object, code: int) -> int:
    line = " ".join(str(message).split())
    print(f"{program}: error: {line}", file=sys.stderr, flush=True)
    return code


def _raise_terminated(signal_number, frame):
    raise Terminated


def _flags(config_class: type) -> set[str]:
    """Every flag in its one spelling, with underscores."""
    fields = [field for field in dataclasses.fields(config_class) if not field.metadata["positional"]]
    negatives = (name for field in fields for name in _negatives(field))
    return {"--config", *(f"--{field.name}" for field in fields), *negatives}


def _negatives(field: dataclasses.Field) -> list[str]:
    """The flags that set a yes/no field to False."""
    if _value_type(field) is not bool:
        return []
    return [f"--no_{field.name}"] + ([field.metadata["negative"]] if field.metadata["negative"] else [])


def _with_underscores(word: str, flags: set[str]) -> str:
    name, equals, value = word.partition("=")
    flag = f"--{name[2:].replace('-', '_')}"
    # Whatever else begins with two hyphens may be a value, and stays as it is.
    return f"{flag}{equals}{value}" if name.startswith("--") and flag in flags else word


def _with_values(config_class: type, argv: list[str]) -> list[str]:
    """Yes/no flags with their value, where a program also takes words by position.

    `--check results/first` would else take the folder for the flag's value.
    """
    fields = dataclasses.fields(config_class)
    if not any(field.metadata["positional"] for field in fields):
        return argv
    bare = {f"--{field.name}" for field in fields if _value_type(field) is bool}
    followers = itertools.zip_longest(argv, argv[1:], fillvalue="")
    return [
        f"{word}=True" if word in bare and follower.lower() not in _BOOLEAN_WORDS else word
        for word, follower in followers
    ]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UsageError(message)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32, width=110)


def _build_parser(config_class: type, description: str) -> argparse.ArgumentParser:
    parser = _Parser(
        description=description.strip(),
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        usage="%(prog)s [--flag VALUE ...]   (words may be joined by - or _)",
    )
    parser.add_argument(
        "--config", metavar="FILE.json", help="settings of the same names from a JSON file; flags win over it"
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for field in dataclasses.fields(config_class):
        title = field.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        _add_flag(groups[title], field)
    return parser


def _add_flag(group, field: dataclasses.Field) -> None:
    kind = _value_type(field)
    metadata = field.metadata
    # argparse formats help texts with %.
    meaning = metadata["help"].replace("%", "%%")
    help_text = f"{meaning} [{_default_text(field)}]"
    name = field.name
    if metadata["positional"]:
        number = {"nargs": "+"} if kind == tuple[str, ...] else {"type": kind}
        group.add_argument(name, help=meaning, **number)
    elif kind is bool:
        group.add_argument(
            f"--{name}", nargs="?", const=True, type=_parse_bool, metavar="True|False", help=help_text
        )
        group.add_argument(
            *_negatives(field), dest=name, action="store_const", const=False, help=argparse.SUPPRESS
        )
    else:
        group.add_argument(
            f"--{name}",
            type={int: _parse_int, float: _parse_float}.get(kind, kind),
            choices=metadata["choices"] or None,
            metavar="|".join(metadata["choices"]) or {int: "N", float: "X"}.get(kind, "TEXT"),
            help=help_text,
            **({"nargs": "?", "const": metadata["bare"]} if metadata["bare"] is not None else {}),
        )


def _value_type(field: dataclasses.Field) -> type:
    annotation = field.type
    if isinstance(annotation, types.UnionType):
        annotation = next(part for part in typing.get_args(annotation) if part is not type(None))
    return annotation


def _flag_name(field: dataclasses.Field) -> str:
    if field.metadata["positional"]:
        return field.name
    return f"--{field.name}" + (
        "" if field.metadata["bare"] is None else f" [{field.metadata['bare']} or path]"
    )


def _default_text(field: dataclasses.Field) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    if field.default is None or field.default == "":
        return "none"
    return str(field.default)


def _parse_bool(text: str) -> bool:
    if text.lower() not in _BOOLEAN_WORDS:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return _BOOLEAN_WORDS[text.lower()]


def _parse_int(text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # NVIDIA's scripts write some whole numbers as floats ("-1.0") or in powers of ten ("1e6").
    if not value.is_integer():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text) if text.lstrip("+-").isdigit() else int(value)


def _parse_float(text: str) -> float:
    numerator, slash, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor a fraction") from None


def _read_config_file(config_class: type, path: str) -> dict:
    try:
        settings = files.read_json(path)
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(f"--config {path}: not JSON ({error})") from None
    if not isinstance(settings, dict):
        raise UsageError(
            f"--config {path}: a JSON object of settings is wanted, not a {type(settings).__name__}"
        )
    return _check_settings(config_class, settings, f"--config {path}")


def _check_settings(config_class: type, settings: dict, source: str) -> dict:
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    checked = {}
    for name, value in settings.items():
        if name not in fields:
            raise UsageError(f"{source}: unknown key {name!r}{_likely_spelling(name, config_class)}")
        checked[name] = _check_value(fields[name], value, source)
    return checked


def _unknown_words(config_class: type, words: list[str]) -> str:
    name = words[0].removeprefix("--").partition("=")[0].replace("-", "_")
    if not words[0].startswith("--") or not name:
        return f"{words[0]!r} is neither a flag nor the value of one"
    return f"unknown flag --{name}{_likely_spelling(name, config_class, '--')}"


def _likely_spelling(name: str, config_class: type, dashes: str = "") -> str:
    near = difflib.get_close_matches(name, [field.name for field in dataclasses.fields(config_class)], n=1)
    return f" (did you mean {dashes}{near[0]}?)" if near else ""


def _check_value(field: dataclasses.Field, value, source: str):
    kind = _value_type(field)
    optional = isinstance(field.type, types.UnionType)
    if field.metadata["positional"]:
        raise UsageError(f"{source}: {field.name}: is given by its place on the command line, not in a file")
    if value is None and optional:
        return None
    if isinstance(value, str) and kind is not str:
        parsers = {bool: _parse_bool, int: _parse_int, float: _parse_float}
        try:
            return parsers[kind](value)
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"{source}: {field.name}: {error}") from None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        raise UsageError(f"{source}: {field.name}: a number of {len(str(abs(value)))} digits is too large")
    if kind is float and is_number:
        return float(value)
    if kind is int and is_number and float(value).is_integer():
        return int(value)
    if type(value) is not kind:
        raise UsageError(f"{source}: {field.name}: {value!r} is not of type {kind.__name__}")
    if field.metadata["choices"] and value not in field.metadata["choices"]:
        choices = ", ".join(field.metadata["choices"])
        raise UsageError(f"{source}: {field.name}: {value!r} is none of {choices}")
    return value

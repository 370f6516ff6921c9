"""Ask a fine-tuned model questions about a text, or a discriminator which of its tokens look replaced.

    python run_inference.py --electra_model squad/model --question "Who wrote it?" --context_file text.txt
    python run_inference.py --electra_model squad/model --context_file text.txt
    python run_inference.py --electra_model squad/model --input questions.jsonl --output answers.jsonl
    python run_inference.py --electra_model exports/a/discriminator --context "A cat barked at us."
    python run_inference.py --electra_model MODEL --serve

The second asks for questions until an empty line, and keeps the text; the third answers a file of any length.
The last serves a page for either kind of model on this machine (docs/demo.md).
"""

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from answering_inputs import load_named, make_question, open_answering
from command_line import UsageError, parse, run_program
from detection_inputs import open_detection, tells_tokens_apart
from device import prepare_tensorflow, set_up_device
from pretrained_models import PretrainedModel
from squad_configuration import InferenceConfig

_TABLE_ROWS = 5
_PROMPT_HELP = "an empty line ends; /context TEXT or /context @FILE changes the text"


def main() -> int:
    config = parse(InferenceConfig, description=__doc__)
    prepare_tensorflow()
    # A terminal of another encoding must not end a session, nor a stray byte in what is piped in.
    if sys.stdin is None:
        # Closed by whoever started this: nothing can be read from it.
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    sys.stdin.reconfigure(errors="replace")
    sys.stdout.reconfigure(errors="backslashreplace")
    context = config.context
    if config.context_file:
        context = _read_context(config.context_file, "--context_file ")
    if config.input:
        _check_files(config, context)
    server = _server() if config.serve else None
    sockets = server.bind(config) if config.serve else []
    model = load_named(config)
    run = _detect if tells_tokens_apart(model) else _answer
    run(config, context, model, server and functools.partial(server.serve, config, sockets))
    return 0


def _server():
    """demo_server.py, where the package that it is built on is installed."""
    try:
        import demo_server
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "tornado":
            raise
        raise UsageError("--serve: needs the package tornado (bash scripts/install.sh)") from None
    return demo_server


def _set_up(config: InferenceConfig) -> dict:
    """Load TensorFlow, now that the flags are known to be good; returns how a network is to compute."""
    set_up_device(config.precision, deterministic=False, seed=0)
    return {"batch_size": config.batch_size, "jit_compile": config.xla}


def _answer(config: InferenceConfig, context: str, model: PretrainedModel, serve: Callable | None) -> None:
    config.check_answers()
    inputs = open_answering(config, model)
    computing = _set_up(config)
    import question_answerer

    answerer = question_answerer.Answerer(inputs, **computing)
    if serve is not None:
        serve(model, context, answerer=answerer)
    elif config.input:
        _answer_file(config, context, answerer)
    elif config.question:
        print(_shown(answerer.answer(config.question, context), config.json))
    else:
        _answer_prompts(config, context, answerer)


def _detect(config: InferenceConfig, context: str, model: PretrainedModel, serve: Callable | None) -> None:
    config.check_detects()
    inputs = open_detection(config, model)
    computing = _set_up(config)
    import replaced_tokens

    detector = replaced_tokens.TokenDetector(inputs, alternatives=config.alternatives, **computing)
    if serve is not None:
        serve(model, context, detector=detector)
    else:
        _print_tokens(config, context, detector)


# --------------------------------------------------------------------------------------------------- tokens


def _print_tokens(config: InferenceConfig, context: str, detector) -> None:
    """A line for each token: how probably it was replaced, itself, what the generator would put there."""
    tokens = detector.tokens(context)
    alternatives = [None] * len(tokens)
    if detector.has_generator:
        alternatives = detector.alternatives(context, range(len(tokens)))
    for token, others in zip(tokens, alternatives, strict=True):
        if config.json:
            entry = {"token": token.piece, "begin": token.begin, "end": token.end}
            entry |= {"probability": token.probability}
            entry |= {} if others is None else {"alternatives": others.as_json()}
            print(json.dumps(entry, ensure_ascii=False))
        else:
            mark = "*" if token.probability >= 0.5 else " "
            best = "" if others is None else "  ".join(f"{piece} {share:.4f}" for piece, share in others.best)
            print(f"{token.probability:.4f} {mark} {token.piece:<20} {best}".rstrip())


# ---------------------------------------------------------------------------------------------------- files


def _check_files(config: InferenceConfig, context: str) -> None:
    """See that the whole input can be answered and that there is a place for the answers, before any work."""
    if config.output:
        if not Path(config.output).parent.is_dir() or Path(config.output).is_dir():
            raise UsageError(f"--output {config.output}: no such folder, or a folder itself")
        for flag, path in (("input", config.input), ("context_file", config.context_file)):
            if path not in ("", "-") and os.path.realpath(path) == os.path.realpath(config.output):
                raise UsageError(f"--output {config.output}: is the --{flag}")
    # What comes through a pipe can be read once only; its lines are checked as they come.
    if _is_rereadable(config.input):
        for _ in _read_questions(config.input, context):
            pass


def _is_rereadable(path: str) -> bool:
    return path != "-" and (Path(path).is_file() or not Path(path).exists())


def _answer_file(config: InferenceConfig, context: str, answerer) -> None:
    """Answer line by line; what is written stays, whatever happens to the rest."""
    questions = (make_question(*entry) for entry in _read_questions(config.input, context))
    with _open_output(config.output) as stream:
        # A bar on the terminal that the answers go to would only be in their way.
        hide = None if config.output else True
        for answer in tqdm(answerer.answers(questions), desc="answering", unit="question", disable=hide):
            stream.write(json.dumps(answer.as_json(), ensure_ascii=False) + "\n")
        stream.flush()


def _read_questions(path: str, default_context: str) -> Iterator[tuple[str, str, str | int]]:
    """(question, context, id) of each line; the id is the line's number where it has none.

    Raises:
        UsageError: the file cannot be read, or a line is not such an object.
    """
    try:
        with contextlib.nullcontext(sys.stdin) if path == "-" else open(path, encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield _parse_line(line, default_context, number, f"--input {path}: line {number}")
    except OSError as error:
        raise UsageError(f"--input {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--input {path}: not UTF-8") from None


def _parse_line(line: str, default_context: str, number: int, where: str) -> tuple[str, str, str | int]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON ({error})") from None
    if not isinstance(entry, dict):
        raise UsageError(f"{where}: {type(entry).__name__} where an object is wanted")
    entry = {"id": number} | ({"context": default_context} if default_context else {}) | entry
    for name in ("question", "context"):
        if not isinstance(entry.get(name), str):
            raise UsageError(f"{where}: {name!r} is {'no text' if name in entry else 'missing'}")
    if type(entry["id"]) not in (str, int):
        raise UsageError(f"{where}: 'id' is neither text nor a whole number")
    return entry["question"], entry["context"], entry["id"]


def _open_output(path: str) -> contextlib.AbstractContextManager[TextIO]:
    if not path:
        return contextlib.nullcontext(sys.stdout)
    # Buffered by line, so that whoever follows the file sees whole answers.
    return open(path, "w", encoding="utf-8", errors="backslashreplace", buffering=1)


# --------------------------------------------------------------------------------------------------- prompt


def _answer_prompts(config: InferenceConfig, context: str, answerer) -> None:
    """Answer the lines of a terminal or a pipe until an empty one, or the end."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        # Makes the arrow keys work in input().
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401
        print(_PROMPT_HELP)
    while True:
        try:
            line = input("question> " if is_terminal else "").strip()
        except EOFError:
            return
        if not line:
            return
        command, _, rest = line.partition(" ")
        if command == "/context":
            context = _changed_context(rest.strip(), context)
        elif command.startswith("/"):
            print(_PROMPT_HELP, file=sys.stderr, flush=True)
        elif not context:
            print("no text to ask about yet: /context TEXT or /context @FILE", file=sys.stderr, flush=True)
        else:
            print(_shown(answerer.answer(line, context), config.json), flush=True)


def _changed_context(named: str, context: str) -> str:
    """The text after a /context line; the old one where there is nothing or no such file."""
    if named.startswith("@"):
        try:
            return _read_context(named[1:], "@")
        except UsageError as error:
            print(error, file=sys.stderr, flush=True)
            return context
    if not named:
        print(f"the text: {context or 'none'}", flush=True)
    return named or context


def _read_context(path: str, prefix: str) -> str:
    try:
        # Line ends stay as they are: places in the text are counted in the file's characters.
        with open(path, encoding="utf-8-sig", newline="") as stream:
            return stream.read()
    except OSError as error:
        raise UsageError(f"{prefix}{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{prefix}{path}: not UTF-8") from None


# -------------------------------------------------------------------------------------------------- display


def _shown(answer, as_json: bool) -> str:
    """An answer as a line of JSON, or as a few lines to read."""
    if as_json:
        return json.dumps(answer.as_json(), ensure_ascii=False)
    null_odds = "-" if answer.null_odds is None else f"{answer.null_odds:.4f}"
    lines = [
        f"answer: {answer.text or '(no answer)'}",
        f"probability: {answer.probability:.4f}",
        f"null odds: {null_odds}",
        "n-best:",
    ]
    for entry in answer.n_best[:_TABLE_ROWS]:
        lines.append(f"  {entry['probability']:.4f}  {' '.join(entry['text'].split()) or '(no answer)'}")
    more = len(answer.n_best) - _TABLE_ROWS
    return "\n".join([*lines, f"  … {more} more with --json"] if more > 0 else lines)


if __name__ == "__main__":
    run_program(main)

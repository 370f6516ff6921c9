"""What several test files share."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lean_imports
from device import prepare_tensorflow

lean_imports.keep_keras_lean()
# Before any test loads TensorFlow, and passed on to the programs that tests start.
prepare_tensorflow()

ROOT = Path(__file__).parents[1]


# Files that take minutes. Begun last, each would keep one process at work while the others have ended.
_LONGEST = ("test_run_pretraining", "test_worker_faults", "test_slurm", "test_readme", "test_containers",
    "test_distributed", "test_run_tf_squad")  # fmt: skip


def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real text, vocabulary and questions that lies beside the project on some machines."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no shared/data folder beside the project")
    return folder


@pytest.fixture(scope="session")
def run_program():
    """Run a program of the project: run_program("build_vocabulary.py", "--corpus-dir", folder)."""

    def run(program: str, *arguments, cwd=None, timeout: float = 120) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / program), *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, timeout=timeout, capture_output=True, text=True)

    return run


@pytest.fixture(scope="session")
def usage_error(run_program):
    """Run a program that must refuse its arguments: exit code 2 and one line on stderr, which is returned."""

    def run(program: str, *arguments, **options) -> str:
        result = run_program(program, *arguments, **options)
        assert result.returncode == 2, result.stdout + result.stderr
        (line,) = result.stderr.splitlines()
        return line

    return run


@pytest.fixture(scope="session")
def language(tmp_path_factory) -> Path:
    """The made-up language (electra_cases.py): text, vocabulary, shards of 32 and 64, a tenth held out."""
    from electra_cases import write_language

    folder = tmp_path_factory.mktemp("language") / "corpus"
    write_language(folder)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory, language):
    """Pre-training runs that the tests of one file share a results folder for."""
    from training_runs import Runs

    return Runs(tmp_path_factory.mktemp("results"), language)


@pytest.fixture(scope="module")
def workers(runs, tmp_path_factory):
    """The same by several workers; skips where Horovod is not installed, and kills what is left over."""
    from worker_jobs import WorkerRuns, need_horovod

    need_horovod()
    started = WorkerRuns(runs, tmp_path_factory.mktemp("jobs"))
    yield started
    for job in started.jobs:
        job.close()


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, where it and playwright are installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no Chromium on the PATH (apt-get install chromium)")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=executable)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser):
    """Open an address; returns the page, whose `told` has all messages of its console and every request."""
    contexts = []

    def open_page(address, width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.told = []
        page.on("console", lambda message: page.told.append(message.text))
        page.on("pageerror", lambda error: page.told.append(str(error)))
        page.on("request", lambda request: page.told.append(request.url))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()

"""run_inference.py --serve as a process, asked over HTTP; and its server with an answerer that waits."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Serves without a network: an answer comes when the file that the question names is there.
_WAITING = """
import pathlib, sys, time
import demo_server
from answering_cases import open_model
from command_line import run_program
from question_answerer import Answer
from squad_configuration import InferenceConfig

class Waiting:
    def answer(self, question, context):
        pathlib.Path(question + ".asked").touch()
        while not pathlib.Path(question).exists():
            time.sleep(0.01)
        return Answer("", "", 1.0, None, [{"text": "", "probability": 1.0}], [[0, 0]])

def main():
    config = InferenceConfig(electra_model=sys.argv[1], serve=True, port=0)
    model = open_model(sys.argv[1]).model
    demo_server.serve(config, demo_server.bind(config), model, "", answerer=Waiting())

run_program(main)
"""


@dataclass
class DemoServer:
    """A started server: its process, and the port that it chose."""

    process: subprocess.Popen
    url: str
    port: int

    def request(self, method: str, path: str, body: bytes | str = b"", **headers) -> tuple[int, dict, bytes]:
        """Status, headers and body of the answer; `headers` go over those of a page's script."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        names = {"Content-Type": "application/json"} | headers
        try:
            connection.request(method, path, body, names)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def ask(self, path: str, content: object, expect: int = 200) -> dict:
        """What the answer to some JSON holds."""
        status, _, body = self.request("POST", path, json.dumps(content))
        assert status == expect, (status, body)
        return json.loads(body)

    def end(self, number: int) -> tuple[int, str]:
        """Exit code after a signal, and what was written to stderr."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@contextlib.contextmanager
def served(*flags) -> Iterator[DemoServer]:
    """run_inference.py --serve on a free port."""
    with _started([str(ROOT / "run_inference.py"), "--serve", "--port", "0", *map(str, flags)]) as server:
        yield server


@contextlib.contextmanager
def waiting(model: Path) -> Iterator[DemoServer]:
    """A server each of whose answers waits for a file."""
    with _started(["-c", _WAITING, str(model)]) as server:
        yield server


@contextlib.contextmanager
def _started(arguments: list[str]) -> Iterator[DemoServer]:
    places = [str(ROOT), str(ROOT / "tests")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        line = process.stdout.readline()
        if not line.startswith("http://"):
            raise AssertionError(line + process.communicate(timeout=60)[1])
        url = line.split()[0]
        yield DemoServer(process, url, int(url.rstrip("/").rpartition(":")[2]))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()

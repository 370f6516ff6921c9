"""Executes the steps of one target of the Dockerfile without a container engine, as root, in a chroot.

    python tests/dockerfile_steps.py cpu --debootstrap --argument DLLOGGER= --then 'id; python --version'
    python tests/dockerfile_steps.py cpu --base FOLDER --then 'bash scripts/run_pretraining.sh --help'

Every stage is an overlay over the tree of files that stands for its base image (a folder; one that
debootstrap makes; or by default this machine's own root), so that nothing of the tree itself changes. RUN,
COPY, ARG, ENV, WORKDIR and USER mean what docker says they mean, .dockerignore included; an instruction that
is not known here is an error. A cache mount is this user's ~/.cache. --then runs a command as `docker run`
would, in the finished image. All mounts end with the process.
"""

import argparse
import fnmatch
import os
import re
import shlex
import shutil
import signal
import string
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from docker.utils.build import exclude_paths
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NAMED_CERTIFICATES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")


@dataclass
class Stage:
    """An image in the making: its steps, its tree of files, and what its instructions have set so far."""

    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)
    tree: Path = Path()
    layer: Path = Path()
    environment: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"

    def words(self, text: str) -> list[str]:
        """Split at blanks as a shell does, with ARG and ENV in place of their names."""
        return shlex.split(string.Template(text).safe_substitute(self.arguments | self.environment))

    def inside(self, path: str) -> Path:
        """A path of the image, here."""
        return self.tree / os.path.normpath(os.path.join(self.folder, path)).lstrip("/")


def read_stages(path: Path) -> dict[str, Stage]:
    """Name -> stage, each with its steps, in the order of the file."""
    stages: dict[str, Stage] = {}
    parser = DockerfileParser(str(path))
    for step in parser.structure:
        instruction, value = step["instruction"], step["value"]
        if instruction == "FROM":
            name = re.fullmatch(r"\S+ AS (\S+)", value).group(1)
            stages[name] = Stage(name)
        elif instruction != "COMMENT" and stages:
            stages[name].steps.append((instruction, value))
    return stages


def needed(stages: dict[str, Stage], target: str) -> list[Stage]:
    """The stages that a target copies from, and it, in the order to build them."""
    sources = [re.match(r"--from=(\S+)", value) for name, value in stages[target].steps if name == "COPY"]
    order = [stage for match in sources if match for stage in needed(stages, match.group(1))]
    return [*order, stages[target]]


class Builder:
    """Executes stages over one base tree; must run as root in a mount namespace of its own."""

    def __init__(self, base: Path, workspace: Path, given: dict[str, str]):
        self.base, self.workspace, self.given = base, workspace, given
        self.stages: dict[str, Stage] = {}
        patterns = (ROOT / ".dockerignore").read_text().splitlines()
        # Those two reach the engine in any case, but not the image.
        self.context = sorted(exclude_paths(str(ROOT), patterns) - {"Dockerfile", ".dockerignore"})

    def build(self, stage: Stage) -> None:
        self.stages[stage.name] = stage
        self.mount(stage)
        stage.environment = {"PATH": self.path()}
        for instruction, value in stage.steps:
            print(f"{stage.name}: {instruction} {value}", flush=True)
            started = time.monotonic()
            getattr(self, f"do_{instruction.lower()}")(stage, value)
            if (seconds := time.monotonic() - started) > 1:
                print(f"{stage.name}: {seconds:.0f} s", flush=True)

    def path(self) -> str:
        """The base's PATH: on this machine's own tree, this interpreter is the python3."""
        if self.base != Path("/"):
            return DEFAULT_PATH
        return f"{Path(sys._base_executable).parent}:{DEFAULT_PATH}"

    def mount(self, stage: Stage) -> None:
        folders = {name: self.workspace / stage.name / name for name in ("layer", "work", "tree")}
        for folder in folders.values():
            folder.mkdir(parents=True)
        stage.layer, stage.tree = folders["layer"], folders["tree"]
        options = f"lowerdir={self.base},upperdir={stage.layer},workdir={folders['work']}"
        run(["mount", "-t", "overlay", "overlay", "-o", options, stage.tree])
        for name in ("proc", "dev", "sys"):
            run(["mount", "--rbind", f"/{name}", stage.tree / name])
        if self.base == Path("/"):
            # The interpreter may lie in a home that other users may not enter.
            for folder in Path(sys._base_executable).resolve().parents:
                inside = stage.tree / folder.relative_to("/")
                inside.chmod(inside.stat().st_mode | 0o111)
        else:
            # Names resolve as here, as with an engine; a mirror of this machine's own has its certificates.
            (stage.tree / "run/machine").mkdir(parents=True)
            for source, target in (
                ("/etc/resolv.conf", "etc/resolv.conf"),
                ("/etc/hosts", "etc/hosts"),
                (certificates(), "run/machine/certificates"),
            ):
                (stage.tree / target).touch()
                run(["mount", "--bind", source, stage.tree / target])

    def execute(self, stage: Stage, command: str) -> int:
        """Run a command in the image's shell with its environment, user and folder; returns its exit code."""
        environment = stage.arguments | stage.environment
        environment.setdefault("HOME", "/root")
        if self.base != Path("/"):
            environment |= dict.fromkeys(NAMED_CERTIFICATES, "/run/machine/certificates")
        # In a namespace of processes: what a step has started ends with it, or with this program.
        enter = [
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "chroot",
            f"--userspec={stage.user}",
            "--groups=",
        ]
        enter += [stage.tree, "/bin/sh", "-c"]
        enter += ['cd "$1" && exec /bin/sh -c "$2"', "sh", stage.folder, command]
        return subprocess.run(enter, env=environment, stdin=subprocess.DEVNULL, check=False).returncode

    def do_run(self, stage: Stage, value: str) -> None:
        while match := re.match(r"--mount=type=cache,target=(\S+)\s+", value):
            target = stage.inside(match.group(1))
            target.mkdir(parents=True, exist_ok=True)
            run(["mount", "--bind", Path.home() / ".cache", target])
            value = value[match.end() :]
        status = self.execute(stage, value)
        if status:
            sys.exit(f"dockerfile_steps.py: exit code {status} of: {value}")

    def do_copy(self, stage: Stage, value: str) -> None:
        words = stage.words(value)
        options = dict(word[2:].split("=") for word in words if word.startswith("--"))
        *sources, target = [word for word in words if not word.startswith("--")]
        folder = stage.inside(target)
        if "from" in options:
            (source,) = sources
            folder.parent.mkdir(parents=True, exist_ok=True)
            run(["cp", "-a", self.stages[options["from"]].inside(source), folder])
            return
        for source in sources:
            names = [name for name in self.context if source == "." or fnmatch.fnmatchcase(name, source)]
            files = [name for name in names if not (ROOT / name).is_dir()]
            if not files:
                sys.exit(f"dockerfile_steps.py: nothing matches {source} in COPY {value}")
            for name in files:
                copy = folder / (name if source == "." else Path(name).name)
                missing = [parent for parent in copy.parents if not parent.exists()]
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, copy, follow_symlinks=False)
                for path in [copy, *missing]:
                    os.chown(path, *map(int, options.get("chown", "0:0").split(":")), follow_symlinks=False)

    def do_arg(self, stage: Stage, value: str) -> None:
        name, _, default = value.partition("=")
        stage.arguments[name] = self.given.get(name, "".join(stage.words(default)))

    def do_env(self, stage: Stage, value: str) -> None:
        stage.environment |= dict(word.split("=", 1) for word in stage.words(value))

    def do_workdir(self, stage: Stage, value: str) -> None:
        (stage.folder,) = stage.words(value)
        stage.inside(".").mkdir(parents=True, exist_ok=True)

    def do_user(self, stage: Stage, value: str) -> None:
        (stage.user,) = stage.words(value)

    def do_cmd(self, stage: Stage, value: str) -> None:
        """What --then stands in for."""


def run(command: list[str | Path]) -> None:
    subprocess.run(command, check=True)


def certificates() -> str:
    named = [os.environ.get(name, "") for name in NAMED_CERTIFICATES]
    return next((path for path in named if path), "/etc/ssl/certs/ca-certificates.crt")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target")
    parser.add_argument("--base", type=Path, default=Path("/"), help="folder that stands for the base image")
    parser.add_argument(
        "--debootstrap", metavar="RELEASE", nargs="?", const="bookworm", help="make such a base"
    )
    parser.add_argument(
        "--argument", metavar="NAME=VALUE", action="append", default=[], help="as --build-arg"
    )
    parser.add_argument("--then", metavar="COMMAND", help="run it in the image; its exit code counts")
    parser.add_argument("--workspace", type=Path, help="folder for the layers, on a disk that holds 8 GB")
    options = parser.parse_args()
    if os.environ.get("IN_MOUNT_NAMESPACE") != "1":
        os.environ["IN_MOUNT_NAMESPACE"] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    workspace = Path(tempfile.mkdtemp(prefix="dockerfile-", dir=options.workspace))
    builder = None
    try:
        base = options.base
        if options.debootstrap:
            base = workspace / "base"
            run(["debootstrap", "--variant=minbase", options.debootstrap, base])
        builder = Builder(base, workspace, dict(pair.split("=", 1) for pair in options.argument))
        for stage in needed(read_stages(ROOT / "Dockerfile"), options.target):
            builder.build(stage)
        size = subprocess.run(["du", "-xsm", stage.layer], check=True, capture_output=True, text=True).stdout
        print(f"{options.target}: {size.split()[0]} MB over its base", flush=True)
        sys.exit(builder.execute(stage, options.then) if options.then else 0)
    finally:
        for stage in builder.stages.values() if builder else ():
            run(["umount", "--recursive", "--lazy", stage.tree])
        shutil.rmtree(workspace)


if __name__ == "__main__":
    main()

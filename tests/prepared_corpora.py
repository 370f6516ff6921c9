"""Small corpora for the tests of data preparation: texts that are easy to tell apart, and a dump of them."""

import bz2
import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path
from xml.sax.saxutils import escape

from training_runs import ROOT

from tokenization import SPECIAL_PIECES, Vocabulary

TEXT = """
    the of and in to was is for on as by with he at from his that it an were are which river town king school
    north south water music army church field train house winter summer bridge island garden market doctor
"""
WORDS = TEXT.split()
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def vocabulary(path: Path) -> Path:
    """A vocabulary of all words, letters and digits."""
    Vocabulary((*SPECIAL_PIECES, *LETTERS, *(f"##{c}" for c in LETTERS), ".", *WORDS)).save(path)
    return path


def document(number: int, prefix: str = "doc") -> str:
    """Paragraphs of sentences, one a line; the first word of each sentence names the document."""
    draw = random.Random(f"{prefix}{number}")
    return "\n".join(
        " ".join(
            f"{prefix.capitalize()}{number} {' '.join(draw.choices(WORDS, k=draw.randint(4, 18)))}."
            for _ in range(draw.randint(1, 5))
        )
        for _ in range(draw.randint(1, 4))
    )


def sentences(text: str) -> list[str]:
    """The sentences of a `document`, which end in a full stop and nothing else does."""
    return [f"{part.strip()}." for part in text.replace("\n", " ").split(".") if part.strip()]


def write_texts(folder: Path, files: int, documents: int) -> list[str]:
    """`documents` documents in `files` text files, with blank lines between them; returns the documents."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [document(number) for number in range(documents)]
    for number in range(files):
        content = "\n\n".join(texts[number * documents // files : (number + 1) * documents // files])
        (folder / f"text_{number:03d}.txt").write_text(content + "\n", encoding="utf-8")
    return texts


def dump(pages: int, prefix: str = "page") -> bytes:
    """A MediaWiki dump of articles that read as `document`s."""
    head = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11">\n'
    entries = []
    for number in range(pages):
        text = escape(document(number, prefix).replace("\n", "\n\n"))
        entries.append(
            f"  <page>\n    <title>{prefix} {number}</title>\n    <ns>0</ns>\n    <id>{number + 1}</id>\n"
            f"    <revision>\n      <id>{number + 1}</id>\n"
            f'      <text bytes="{len(text)}" xml:space="preserve">{text}</text>\n'
            "    </revision>\n  </page>\n"
        )
    return (head + "".join(entries) + "</mediawiki>\n").encode("utf-8")


def write_dump(path: Path, pages: int) -> list[str]:
    """The same, compressed as one stream; returns the articles."""
    path.write_bytes(bz2.compress(dump(pages)))
    return [document(number, "page") for number in range(pages)]


class Preparation:
    """Runs of data/dataPrep.py in one working folder; with small parts where `program` says so."""

    def __init__(self, working: Path, program: str = "tests/small_parts.py"):
        self.working, self.program = working, program

    def command(self, action: str, dataset: str, **settings) -> list[str]:
        flags = [f"--{name}={value}" for name, value in settings.items()]
        return [
            sys.executable,
            str(ROOT / self.program),
            f"--action={action}",
            f"--dataset={dataset}",
            *flags,
        ]

    def environment(self) -> dict[str, str]:
        return os.environ | {"DATA_PREP_WORKING_DIR": str(self.working), "PYTHONUNBUFFERED": "1"}

    def run(self, action: str, dataset: str, expect: int = 0, **settings) -> str:
        """Run a step to its end; returns what it printed, the last line being the error if there was one."""
        done = subprocess.run(
            self.command(action, dataset, **settings),
            capture_output=True,
            text=True,
            timeout=300,
            env=self.environment(),
        )
        assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    def start(self, action: str, dataset: str, **settings) -> subprocess.Popen:
        """Start a step in a group of processes of its own."""
        return subprocess.Popen(
            self.command(action, dataset, **settings),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self.environment(),
            process_group=0,
        )

    def formatted(self, dataset: str) -> Path:
        return self.working / "formatted_one_article_per_line" / dataset

    def sharded(self, dataset: str) -> Path:
        (folder,) = self.working.glob("sharded_*")
        return folder / dataset

    def tfrecords(self, dataset: str, length: int) -> Path:
        return self.working / f"tfrecord_lower_case_1_seq_len_{length}_random_seed_12345" / dataset


def tree(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder, but for what is kept of one machine's file times."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".sources.json"
    }

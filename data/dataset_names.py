"""What the names of --dataset stand for: NVIDIA's, their groups, and where each data set comes from.

How they are downloaded is dataset_downloads.py's.
"""

import re
from dataclasses import dataclass

from command_line import UsageError

_WIKIPEDIA = re.compile(r"wikicorpus_([a-z]+(?:_[a-z]+)*)")
_GROUPS = {
    "books_wiki_en_corpus": ("bookscorpus", "wikicorpus_en"),
    # What NVIDIA's holds and a program here reads, in the language of the vocabulary.
    "all": ("wikicorpus_en", "bookscorpus", "squad", "google_pretrained_weights"),
}
_ELSEWHERE = {
    "text": "your own text is not downloaded; --input_files names it",
    "nvidia_pretrained_weights": "NVIDIA gives them out on NGC only, by hand; from here come "
    "google_pretrained_weights",
}


@dataclass(frozen=True)
class Origin:
    """Where a data set comes from, for its data card."""

    title: str
    licence: str
    url: str


_ORIGINS = {
    "bookscorpus": Origin(
        "BookCorpusOpen, some 18,000 books that their authors published on smashwords.com",
        "none stated; each book is its author's, whose terms hold",
        "https://huggingface.co/datasets/lucadiliello/bookcorpusopen",
    ),
    "openwebtext": Origin(
        "OpenWebText, web pages that were recommended on Reddit (Gokaslan and Cohen 2019)",
        "CC0 1.0 for the collection; each page is its author's",
        "https://huggingface.co/datasets/Skylion007/openwebtext",
    ),
    "squad": Origin(
        "SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016 and 2018)",
        "CC BY-SA 4.0",
        "https://rajpurkar.github.io/SQuAD-explorer/",
    ),
    "glue": Origin(
        "GLUE, nine tasks and a diagnostic set (Wang et al. 2019)",
        "each task has its own, which gluebenchmark.com/tasks names",
        "https://huggingface.co/datasets/nyu-mll/glue",
    ),
    "mrpc": Origin(
        "Microsoft Research Paraphrase Corpus (Dolan and Brockett 2005), as in GLUE",
        "its own, which gluebenchmark.com/tasks names",
        "https://huggingface.co/datasets/nyu-mll/glue",
    ),
    "google_pretrained_weights": Origin(
        "ELECTRA small, base and large, discriminators and generators (Clark et al. 2020)",
        "Apache 2.0",
        "https://huggingface.co/google",
    ),
}


def members(name: str) -> tuple[str, ...]:
    """The data sets that a name stands for: itself, or those of a group.

    Raises:
        UsageError: nothing that can be downloaded.
    """
    if name in _ELSEWHERE:
        raise UsageError(f"--dataset {name}: {_ELSEWHERE[name]}")
    if name in _GROUPS:
        return _GROUPS[name]
    if name not in _ORIGINS and wikipedia_of(name) is None:
        known = ", ".join(("wikicorpus_en", "wikicorpus_<language>", *_ORIGINS, *_GROUPS))
        raise UsageError(f"--dataset {name}: is none of {known}")
    return (name,)


def wikipedia_of(name: str) -> str | None:
    """The wiki that a data set is a dump of, as dumps.wikimedia.org names it: enwiki for wikicorpus_en."""
    match = _WIKIPEDIA.fullmatch(name)
    return f"{match[1]}wiki" if match else None


def origin(name: str) -> Origin:
    """Title, licence and address of a data set, one of `members`."""
    if wiki := wikipedia_of(name):
        return Origin(
            f"the articles of Wikipedia, dump of {wiki}",
            "CC BY-SA 4.0 and GFDL; the authors are in each article's history",
            f"https://dumps.wikimedia.org/{wiki}/",
        )
    return _ORIGINS[name]

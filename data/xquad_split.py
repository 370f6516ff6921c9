"""A small SQuAD 1.1, of XQuAD's English part: what the records squad and squad_huggingface are of.

    python data/xquad_split.py --output_dir data/download/squad/xquad
    python data/xquad_split.py --output_dir data/download/squad/xquad --input_file xquad.en.json

XQuAD (Artetxe et al. 2020, CC BY-SA 4.0) has 240 paragraphs of SQuAD 1.1's development file. 32 of its
articles become train-v1.1.json, 823 questions, and 8 others dev-v1.1.json, 174. Both get their names only
with the content that was recorded; what is there with it stays. A download that broke off goes on from there
(data/downloads.py).
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path

# Run by its path, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import files
from command_line import RunFailure, UsageError, option, parse, run_program
from data import downloads
from squad_data import content_sha256, read_squad

SITE = "https://raw.githubusercontent.com/google-deepmind/xquad/master"
SOURCE = "xquad.en.json"


@dataclass(frozen=True)
class Part:
    """A file of the split: the titles of its articles in their order, and squad_data.content_sha256 of it."""

    titles: tuple[str, ...]
    sha256: str


PARTS = {
    "train-v1.1.json": Part(
        (
            *("Super_Bowl_50", "Warsaw", "Southern_California", "Sky_(United_Kingdom)", "Huguenot"),
            *("Steam_engine", "Oxygen", "Apollo_program", "European_Union_law", "Amazon_rainforest"),
            *("Ctenophora", "Fresno,_California", "Packet_switching", "Geology", "Newcastle_upon_Tyne"),
            *("American_Broadcasting_Company", "Pharmacy", "Civil_disobedience", "Construction"),
            *("Private_school", "Harvard_University", "Economic_inequality", "University_of_Chicago"),
            *("Yuan_dynasty", "Intergovernmental_Panel_on_Climate_Change", "Chloroplast", "Prime_number"),
            *("Scottish_Parliament", "Imperialism", "United_Methodist_Church", "French_and_Indian_War"),
            "Force",
        ),
        "2d5799d82b15aec80a660884a77f932a26b3e33e697f755b3dfa788e662b49fe",
    ),
    "dev-v1.1.json": Part(
        (
            *("Normans", "Teacher", "1973_oil_crisis", "Victoria_and_Albert_Museum", "Immune_system"),
            *("Jacksonville,_Florida", "Kenya", "Islamism"),
        ),
        "a305aa68723626b215e6aa67bd73fc3c245369be87c05a1cd5c8c04bc5ef7e0f",
    ),
}


@dataclass
class XquadSplitConfig:
    """Settings of data/xquad_split.py."""

    output_dir: str = option(MISSING, "folder that receives train-v1.1.json and dev-v1.1.json", group="files")
    input_file: str = option("", f"an {SOURCE} that is here already; nothing is downloaded", group="files")
    url: str = option(SITE, f"where {SOURCE} lies; a mirror for one", group="files")

    def __post_init__(self):
        downloads.require_web_address(self.url, "url")


def main() -> int:
    config = parse(XquadSplitConfig, description=__doc__)
    folder = Path(config.output_dir)
    if all(_is_there(folder / name, part) for name, part in PARTS.items()):
        print(f"{folder}: has {' and '.join(PARTS)} already")
        return 0
    if config.input_file:
        split(Path(config.input_file), folder, PARTS)
    else:
        _split_downloaded(downloads.address_below(config.url, SOURCE), folder)
    for name, part in PARTS.items():
        print(f"{folder / name}: {len(part.titles)} articles")
    return 0


def split(source: Path, folder: Path, parts: Mapping[str, Part]) -> None:
    """Write each part, or none where one has not the content that it should have.

    Args:
        source: a file in SQuAD 1.1's format; `input_file` in messages.

    Raises:
        UsageError: it cannot be read, or its articles are not those that the parts are of.
    """
    read_squad(source, "input_file", version_2=False)
    articles = {
        article.get("title"): article
        for article in json.loads(source.read_text(encoding="utf-8-sig"))["data"]
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    try:
        for name, part in parts.items():
            if missing := [title for title in part.titles if title not in articles]:
                raise UsageError(f"--input_file {source}: has no article {missing[0]}")
            path = written[name] = files.temporary_path(folder / name)
            path.write_text(_squad_text([articles[title] for title in part.titles]), encoding="utf-8")
            found = content_sha256(path, "output_dir")
            if found != part.sha256:
                raise UsageError(
                    f"--input_file {source}: its articles for {name} are others than those recorded: "
                    f"SHA-256 {part.sha256} of their questions is expected, {found} found"
                )
        for name, path in written.items():
            files.publish(path, folder / name)
    finally:
        for path in written.values():
            path.unlink(missing_ok=True)


def _split_downloaded(address: str, folder: Path) -> None:
    """Have XQuAD's file in the folder, and split it.

    Raises:
        RunFailure: it cannot be had, or is another one than it should be; then one that came just now goes.
    """
    source = folder / SOURCE
    has_come = downloads.download(address, source)
    try:
        split(source, folder, PARTS)
    except UsageError as error:
        if has_come:
            source.unlink()
        told = str(error).removeprefix(f"--input_file {source}: ")
        shown = downloads.without_credentials(address) if has_come else source
        raise RunFailure(f"{shown}: {told}") from None


def _is_there(path: Path, part: Part) -> bool:
    try:
        return content_sha256(path, "output_dir") == part.sha256
    except UsageError:
        return False


def _squad_text(articles: Sequence[Mapping]) -> str:
    """SQuAD's format, with its own keys alone, so that the same articles are the same bytes."""
    data = [
        {
            "paragraphs": [
                {
                    "context": paragraph["context"],
                    "qas": [
                        {
                            "answers": [
                                {"answer_start": answer["answer_start"], "text": answer["text"]}
                                for answer in entry["answers"]
                            ],
                            "id": entry["id"],
                            "question": entry["question"],
                        }
                        for entry in paragraph["qas"]
                    ],
                }
                for paragraph in article["paragraphs"]
            ],
            "title": article["title"],
        }
        for article in articles
    ]
    return json.dumps({"version": "1.1", "data": data}, ensure_ascii=False)


if __name__ == "__main__":
    run_program(main)

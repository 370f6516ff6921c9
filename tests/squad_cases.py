"""A made-up question set that a tiny model learns in seconds, and tiny models to fine-tune.

Each context is filler words with one name in it; the question asks for the name. In version 2.0 every third
context has no name, and its question no answer.
"""

import json
from pathlib import Path

import numpy as np

import weight_conversion
from architecture import ElectraConfig
from tokenization import SPECIAL_PIECES, Vocabulary

FILLERS = [f"filler{letter}" for letter in "abcdefghijklmnop"]
NAMES = [f"name{letter}" for letter in "abcdefgh"]
QUESTION = ["who", "is", "it"]
VOCABULARY = Vocabulary((*SPECIAL_PIECES, *QUESTION, *FILLERS, *NAMES))
CONFIG = ElectraConfig(VOCABULARY.size, 16, 24, 1, 2, 32, max_position_embeddings=64)


def write_questions(folder: Path, questions: int = 120) -> None:
    """train and dev files of versions 1.1 and 2.0."""
    folder.mkdir(parents=True, exist_ok=True)
    for which, seed in (("train", 0), ("dev", 1)):
        for version in ("1.1", "2.0"):
            random = np.random.RandomState(seed)
            paragraphs = [_paragraph(random, f"{which}{i}", version, i) for i in range(questions)]
            content = {"version": version, "data": [{"title": "made up", "paragraphs": paragraphs}]}
            (folder / f"{which}-v{version}.json").write_text(json.dumps(content))


def _paragraph(random, identifier: str, version: str, number: int) -> dict:
    words = list(random.choice(FILLERS, random.randint(5, 40)))
    has_answer = version == "1.1" or number % 3 > 0
    answers = []
    if has_answer:
        place = random.randint(len(words) + 1)
        words.insert(place, str(random.choice(NAMES)))
        answers = [{"text": words[place], "answer_start": len(" ".join([*words[:place], ""]))}]
    entry = {"id": identifier, "question": " ".join(QUESTION), "answers": answers}
    if version == "2.0":
        entry["is_impossible"] = not has_answer
    return {"context": " ".join(words), "qas": [entry]}


def random_tensors(shapes: dict, seed: int = 3) -> dict[str, np.ndarray]:
    """Weights that are nowhere zero, so that nothing passes by being left at its start."""
    random = np.random.RandomState(seed)
    return {
        name: (random.normal(0, 0.05, shape) + name.endswith("gamma")).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_encoder(folder: Path, config: ElectraConfig = CONFIG, vocabulary: Vocabulary = VOCABULARY) -> None:
    """A folder with an encoder of random weights, as from pre-training."""
    import electra_weights

    tensors = random_tensors(electra_weights.encoder_shapes(config))
    weight_conversion.write_folder(
        folder, "ElectraModel", config, electra_weights.to_huggingface(tensors), vocabulary
    )


def random_windows(config: ElectraConfig, count: int = 3, length: int = 20, seed: int = 5) -> dict:
    """A batch as squad_features.Features.batch gives it, the last windows shorter."""
    random = np.random.RandomState(seed)
    lengths = length - 3 * np.arange(count)
    begins = 4 + np.arange(count)
    places = np.arange(length)[None]
    mask = (places < lengths[:, None]).astype(np.int32)
    context = ((places >= begins[:, None]) & (places < lengths[:, None] - 1)) | (places == 0)
    starts = np.where(np.arange(count) == count - 1, 0, begins + 2)
    return {
        "input_ids": random.randint(5, config.vocab_size, (count, length)).astype(np.int32) * mask,
        "input_mask": mask,
        "segment_ids": ((places >= begins[:, None]) * mask).astype(np.int32),
        "context_mask": context.astype(np.int32),
        "start_positions": starts.astype(np.int32),
        "end_positions": np.where(starts > 0, starts + 3, 0).astype(np.int32),
        "is_impossible": (starts == 0).astype(np.int32),
    }

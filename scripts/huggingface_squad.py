"""Hugging Face's question answering on SQuAD 1.1, as its example does it: model, tokenizer, windows.

For huggingface_squad_speed.py and huggingface_squad_scores.py, which time it and score it.
"""

import os
from collections.abc import Sequence

from command_line import UsageError
from squad_data import Question


def load(folder: str, seed: int):
    """The modules torch and transformers, and a folder's tokenizer and model with the plain span head.

    Args:
        seed: of a head that the folder lacks, and of what PyTorch draws from here on.

    Raises:
        UsageError: PyTorch or transformers is not installed, or the folder holds no such model.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UsageError(f"{error}; bash scripts/install.sh --tests installs it") from None
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(seed)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)
        model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UsageError(f"--electra_model {folder}: {' '.join(str(error).split())}") from None
    return torch, transformers, tokenizer, model


def windows(tokenizer, questions: Sequence[Question], length: int, overlap: int):
    """Windows of at most `length` tokens, each sharing `overlap` with the next: a BatchEncoding, not padded.

    overflow_to_sample_mapping has the question of each window, offset_mapping its tokens' characters.
    """
    return tokenizer(
        [question.text for question in questions],
        [question.context for question in questions],
        max_length=length,
        stride=overlap,
        truncation="only_second",
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )

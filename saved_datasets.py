"""Folders that Hugging Face's `datasets` saved (`save_to_disk`): which of their entries hold the text.

Their .arrow files are read by corpus_records.py, without that library.
"""

import os
from collections.abc import Sequence

import files
from command_line import UsageError

_TRAINING_SPLIT = "train"


def entries_with_text(
    folder: str, subfolders: Sequence[str], names: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The subfolders and files of a folder that hold text: all of them, unless `datasets` saved it.

    Of several splits only the training split is read, which is told on stdout. Of a saved dataset those files
    are read that its state.json lists (one that is missing will be noticed by whoever reads it), for the
    library leaves files of its cache beside them.

    Raises:
        UsageError: no split is for training, or the folder's description is damaged.
    """
    if "dataset_dict.json" in names:
        splits = _listed(folder, "dataset_dict.json", "splits")
        if _TRAINING_SPLIT not in splits:
            raise UsageError(
                f"{folder}: a saved dataset of the splits {', '.join(map(str, splits))}, none of them "
                f"{_TRAINING_SPLIT}; name the folder of one of them"
            )
        for split in splits:
            if split != _TRAINING_SPLIT:
                print(f"skipped {os.path.join(folder, str(split))}: not the split {_TRAINING_SPLIT}")
        return [_TRAINING_SPLIT], []
    if "state.json" in names and "dataset_info.json" in names:
        listed = [entry.get("filename", "") for entry in _listed(folder, "state.json", "_data_files")]
        if any(not name or os.path.basename(name) != name for name in listed):
            raise UsageError(f"{folder}/state.json: names files that are not in its folder")
        return [], listed
    return list(subfolders), list(names)


def _listed(folder: str, name: str, key: str) -> list:
    try:
        return list(files.read_json(os.path.join(folder, name))[key])
    except (OSError, ValueError, TypeError, KeyError):
        raise UsageError(f"{folder}/{name}: has no list of {key!r}, as datasets writes it") from None

"""The settings of convert_weights.py."""

from dataclasses import MISSING, dataclass

from command_line import option


@dataclass
class ConvertConfig:
    """Settings of convert_weights.py."""

    input: str = option(
        MISSING,
        "Hugging Face folder, pair of folders, run, Google TF1 checkpoint or name on the hub",
        group="conversion",
    )
    output: str = option(MISSING, "receives the folder, or a folder for each network", group="conversion")

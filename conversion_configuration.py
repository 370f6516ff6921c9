"""The settings of the programs that write folders of weights, and --license, which goes into model cards."""

import re
from dataclasses import MISSING, dataclass

from command_line import option, require


@dataclass
class ConvertConfig:
    """Settings of convert_weights.py."""

    input: str = option(
        MISSING,
        "Hugging Face folder, pair of folders, run, Google TF1 checkpoint or name on the hub",
        group="conversion",
    )
    output: str = option(MISSING, "receives the folder, or a folder for each network", group="conversion")


def license_option(group: str):
    """The flag --license of every program that writes a model card."""
    return option(
        "unknown",
        "the weights' licence for their model cards, as the hub calls it: apache-2.0, cc-by-sa-4.0, ...",
        group=group,
    )


def check_license(identifier: str) -> None:
    """See that --license is what the hub's front matter can hold.

    Raises:
        UsageError: it is not.
    """
    is_identifier = re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", identifier)
    require(bool(is_identifier), "license", identifier, "is no identifier such as apache-2.0")


@dataclass
class ExportConfig:
    """Settings of postprocess_pretrained_ckpt.py."""

    pretrained_checkpoint: str = option(
        MISSING, "a ckpt-<step> folder, or a run's folder for its newest", group="export"
    )
    output_dir: str = option(MISSING, "receives discriminator/ and generator/", group="export")
    license: str = license_option("export")
    amp: bool = option(
        False,
        "accepted for NVIDIA's scripts; exports are float32 whatever the precision of training",
        group="export",
    )

    def __post_init__(self):
        check_license(self.license)

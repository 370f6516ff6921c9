"""A pre-training checkpoint -> Hugging Face folders of its discriminator and generator.

    python postprocess_pretrained_ckpt.py --pretrained_checkpoint results/models/a --output_dir exports/a

The architectures and the vocabulary are the checkpoint's own. A run without a generator (uniform samples)
gives a discriminator alone; one by masked LM alone gives its encoder as `discriminator`, without a head.
Each folder has a model card, README.md, from the checkpoint, the run's log and its data's manifest.
"""

from pathlib import Path

import checkpointing
import files
import model_card
import pretrained_models
import weight_conversion
from command_line import UsageError, parse, run_program
from conversion_configuration import ExportConfig
from pretrained_models import NETWORKS


def main() -> int:
    config = parse(ExportConfig, description=__doc__)
    flag = "pretrained_checkpoint"
    if config.amp:
        print("note: --amp is not needed: exports are float32 whatever the precision of the training was")
    if not Path(config.pretrained_checkpoint).is_dir():
        raise UsageError(f"--{flag} {config.pretrained_checkpoint}: no such folder")
    checkpoint = checkpointing.newest_path(config.pretrained_checkpoint)
    networks = pretrained_models.load_networks(str(checkpoint), flag)
    if "phase" not in files.read_json(checkpoint / checkpointing.STATE_NAME):
        exported = checkpoint.resolve().parents[1] / "model"
        raise UsageError(f"--{flag} {checkpoint}: a checkpoint of fine-tuning, whose export is {exported}")
    # A run without a generator has one network, the discriminator.
    folders = [Path(config.output_dir) / name for name in NETWORKS]
    for folder in folders[: len(networks)]:
        weight_conversion.check_replaceable(folder, "output_dir")
    for folder in folders[len(networks) :]:
        if folder.exists():
            raise UsageError(
                f"--output_dir {config.output_dir}: holds another run's {folder.name}, which would be taken "
                "for this one's, and this one has none; remove it, or give another folder"
            )
    for folder, network in zip(folders, networks, strict=False):
        card = model_card.render(checkpoint, network, config.license)
        weight_conversion.write_network(folder, network, "output_dir", card)
        print(f"wrote {folder}")
    return 0


if __name__ == "__main__":
    run_program(main)

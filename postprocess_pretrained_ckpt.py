"""A pre-training checkpoint -> Hugging Face folders of its discriminator and generator.

    python postprocess_pretrained_ckpt.py --pretrained_checkpoint results/models/a --output_dir exports/a

The architectures and the vocabulary are the checkpoint's own. A run without a generator (uniform samples)
gives a discriminator alone; one by masked LM alone gives its encoder as `discriminator`, without a head.
"""

from pathlib import Path

import checkpointing
import tokenization
import weight_conversion
from architecture import ElectraConfig
from checkpointing import Checkpoint, CorruptCheckpoint
from command_line import UsageError, parse, run_program
from configuration import ExportConfig


def main() -> int:
    config = parse(ExportConfig, description=__doc__)
    if config.amp:
        print("note: --amp is not needed: exports are float32 whatever the precision of the training was")
    if not Path(config.pretrained_checkpoint).is_dir():
        raise UsageError(f"--pretrained_checkpoint {config.pretrained_checkpoint}: no such folder")
    try:
        checkpoint = checkpointing.load(checkpointing.newest_path(config.pretrained_checkpoint))
    except CorruptCheckpoint as error:
        raise UsageError(f"--pretrained_checkpoint {error}") from None
    for folder in export(checkpoint, Path(config.output_dir)):
        print(f"wrote {folder}")
    return 0


def export(checkpoint: Checkpoint, output: Path) -> list[Path]:
    """Write the checkpoint's networks into `output`; returns their folders."""
    vocabulary = tokenization.load_vocabulary(checkpoint.path / "vocab.txt")
    discriminator = ElectraConfig(**checkpoint.state["discriminator"])
    generator = ElectraConfig(**checkpoint.state["generator"])
    output.mkdir(parents=True, exist_ok=True)

    has_head = any(name.startswith("discriminator_predictions/") for name in checkpoint.model)
    folders = [output / "discriminator"]
    weight_conversion.write_folder(
        folders[0],
        "ElectraForPreTraining" if has_head else "ElectraModel",
        discriminator,
        weight_conversion.discriminator_tensors(checkpoint.model),
        vocabulary,
    )
    if any(name.startswith("generator_predictions/") for name in checkpoint.model):
        own_encoder = any(name.startswith("generator/encoder/") for name in checkpoint.model)
        folders.append(output / "generator")
        weight_conversion.write_folder(
            folders[1],
            "ElectraForMaskedLM",
            generator if own_encoder else discriminator,
            weight_conversion.generator_tensors(checkpoint.model),
            vocabulary,
        )
    return folders


if __name__ == "__main__":
    run_program(main)

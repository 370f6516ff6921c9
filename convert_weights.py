"""Weights of any kind that is read here -> Hugging Face folders.

    python convert_weights.py --input google/electra-small-discriminator --output weights/discriminator
    python convert_weights.py --input downloads/electra_small --output weights/electra_small

The input is a Hugging Face folder (ELECTRA, or a BERT, whose encoder is taken), a folder with discriminator/
and generator/ in it, a run or checkpoint of ours, a TensorFlow 1 checkpoint of Google's (its prefix, or its
folder), or a name on the Hugging Face hub. Two networks go to discriminator/ and generator/ of the output
folder, one goes to the folder itself. Each gets a model card, README.md.
"""

from pathlib import Path

import converted_card
import pretrained_models
import weight_conversion
from command_line import parse, run_program
from conversion_configuration import ConvertConfig
from device import prepare_tensorflow
from pretrained_models import NETWORKS, PretrainedModel


def main() -> int:
    config = parse(ConvertConfig, description=__doc__)
    prepare_tensorflow()
    networks = pretrained_models.load_networks(config.input, "input")
    output = Path(config.output)
    folders = [output] if len(networks) == 1 else [output / name for name in NETWORKS]
    for folder in folders:
        weight_conversion.check_replaceable(folder, "output")
    for network, folder in zip(networks, folders, strict=True):
        print(describe(network))
        left_out = weight_conversion.write_network(folder, network, "output", converted_card.render(network))
        if left_out:
            print(f"  left out: {len(left_out)} that no ELECTRA has, first {left_out[0]}")
        print(f"  wrote {folder}")
    return 0


def describe(network: PretrainedModel) -> str:
    """What was found: kind of network, sizes, vocabulary, and a line for each remark."""
    config, vocabulary = network.config, network.vocabulary
    lines = [
        f"{network.source}: {weight_conversion.architecture_name(network.tensors)}, "
        f"{len(network.tensors)} weights, {config.num_hidden_layers} layers of {config.hidden_size} with "
        f"{config.num_attention_heads} heads, embeddings of {config.embedding_size}"
    ]
    if vocabulary is not None:
        casing = "lower-cased" if vocabulary.do_lower_case else "cased"
        lines.append(f"  vocabulary of {vocabulary.size:,} pieces, {casing}")
    return "\n".join([*lines, *(f"  note: {remark}" for remark in network.remarks)])


if __name__ == "__main__":
    run_program(main)

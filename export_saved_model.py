"""A fine-tuned model -> a TensorFlow SavedModel that answers strings, for TensorFlow Serving or any process.

    python export_saved_model.py --electra_model results/squad/model --output_dir serving/squad/1

The signature takes `question` and `context`, a string each for every question, and gives `answer`,
`probability`, `n_best_text`, `n_best_probability` and, where questions may have no answer, `null_odds`. It
tokenizes inside the graph: whoever loads it needs tensorflow-text (requirements-serving.txt) and no other
package beside TensorFlow, and imports tensorflow_text before loading. README.md is its model card, with that
of the weights.
"""

import importlib.metadata
from pathlib import Path

import files
import saved_model_card
import weight_conversion
from answering_inputs import open_answering
from command_line import UsageError, parse, run_program
from device import prepare_tensorflow, set_up_device
from squad_configuration import SavedModelConfig

# The card, and all that tf.saved_model.save writes for a model without files of its own.
_WRITTEN = (
    "saved_model.pb",
    weight_conversion.MODEL_CARD_NAME,
    "fingerprint.pb",
    "assets",
    "variables",
    "variables/variables.index",
    "variables/variables.data-?????-of-?????",
)


def main() -> int:
    config = parse(SavedModelConfig, description=__doc__)
    folder = Path(config.output_dir)
    weight_conversion.check_replaceable(folder, "output_dir", kind="SavedModel", written=_WRITTEN)
    text_version = _version_of_tensorflow_text()
    inputs = open_answering(config)
    prepare_tensorflow()
    card = saved_model_card.render(inputs, config.batch_size, _check_version(text_version))
    set_up_device("fp32", deterministic=False, seed=0)
    import serving_model

    model = serving_model.ServingModel(inputs, batch_size=config.batch_size)
    temporary = files.temporary_path(folder)
    files.remove_folder(temporary)
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        serving_model.save(model, str(temporary))
        files.write_text(temporary / weight_conversion.MODEL_CARD_NAME, card)
        files.replace_folder(temporary, folder)
    finally:
        files.remove_folder(temporary)
    print(f"wrote {folder}")
    return 0


def _version_of_tensorflow_text() -> str:
    try:
        return importlib.metadata.version("tensorflow-text")
    except importlib.metadata.PackageNotFoundError:
        raise UsageError(
            "tensorflow-text is not installed, which a SavedModel that takes strings needs: "
            "pip install --no-deps -r requirements-serving.lock"
        ) from None


def _check_version(text_version: str) -> dict[str, str]:
    """The versions of both packages, by name, once they are seen to fit."""
    import tensorflow as tf

    if text_version.split(".")[:2] != tf.__version__.split(".")[:2]:
        raise UsageError(
            f"tensorflow-text {text_version} does not fit TensorFlow {tf.__version__}: "
            "pip install --no-deps -r requirements-serving.lock"
        )
    return {"tensorflow": tf.__version__, "tensorflow-text": text_version}


if __name__ == "__main__":
    run_program(main)

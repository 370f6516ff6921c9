"""Tiny networks of Hugging Face's with random weights, and Google's checkpoints made from them."""

import re
from pathlib import Path

import numpy as np
import tensorflow as tf
from electra_cases import VOCABULARY_SIZE, random_examples, tiny_config

import weight_conversion
from modeling import DiscriminatorHead, Encoder, MaskedLmHead
from pretrained_models import PretrainedModel
from pretraining import PretrainingModel
from tokenization import SPECIAL_PIECES, Vocabulary

VOCABULARY = Vocabulary((*SPECIAL_PIECES, *(f"w{i}" for i in range(VOCABULARY_SIZE - len(SPECIAL_PIECES)))))
# One head, as Google's formula has it for hidden sizes below 64.
SIZES = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
GENERATOR_SIZES = {"hidden_size": 16, "intermediate_size": 64}
HIDDEN, KERNEL = SIZES["hidden_size"], "electra/encoder/layer_1/output/dense/kernel"


def huggingface(kind: str, folder: Path | None = None, seed: int = 0, **changes):
    """A model of Hugging Face's with random weights, biases and LayerNorms included; saved if asked."""
    import torch
    import transformers

    torch.manual_seed(seed)
    is_bert = kind.startswith("Bert")
    sizes = SIZES | ({} if is_bert else {"embedding_size": 24}) | changes
    config = (transformers.BertConfig if is_bert else transformers.ElectraConfig)(**sizes)
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if folder is not None:
        model.save_pretrained(folder)
        VOCABULARY.save(folder / "vocab.txt")
    return model


def huggingface_pair(folder: Path | None = None, **changes):
    """A discriminator and a generator that share their embeddings, as released pairs do."""
    discriminator = huggingface("ElectraForPreTraining", seed=1, **changes)
    generator = huggingface("ElectraForMaskedLM", seed=2, **(changes | GENERATOR_SIZES))
    generator.electra.embeddings.load_state_dict(discriminator.electra.embeddings.state_dict())
    if folder is not None:
        for name, model in (("discriminator", discriminator), ("generator", generator)):
            model.save_pretrained(folder / name)
            VOCABULARY.save(folder / name / "vocab.txt")
    return discriminator, generator


def inputs(length: int = 32):
    """A batch for our networks, the same for Hugging Face's, and which of its tokens are real."""
    import torch

    examples = random_examples(3, length)
    ours = [tf.constant(examples[name]) for name in ("input_ids", "input_mask", "segment_ids")]
    names = ("input_ids", "attention_mask", "token_type_ids")
    theirs = {n: torch.tensor(t.numpy().astype(np.int64)) for n, t in zip(names, ours, strict=True)}
    return ours, theirs, examples["input_mask"].reshape(-1) > 0


def outputs(network: PretrainedModel, head: str = "") -> np.ndarray:
    """What our layers give with these weights: hidden states, or the logits of discriminator or masked_lm."""
    encoder = Encoder(network.config, name="electra")
    encoder.build()
    layers = [encoder]
    if head == "discriminator":
        layers.append(DiscriminatorHead(network.config, name="discriminator_predictions"))
    elif head == "masked_lm":
        layers.append(MaskedLmHead(network.config, encoder.embeddings, name="generator_predictions"))
    for layer in layers[1:]:
        layer.build()
    for variable in (variable for layer in layers for variable in layer.trainable_variables):
        variable.assign(network.tensors[variable.path])
    ours, _, _ = inputs()
    hidden = encoder(*ours)
    return (layers[1](hidden) if head else hidden).numpy()


def assert_same_outputs(network: PretrainedModel, model, head: str = "") -> None:
    """Our layers' outputs are those of Hugging Face's model, at every real token."""
    import torch

    _, theirs, real = inputs()
    with torch.no_grad():
        answer = model(**theirs)
    expected = (answer.logits if head else answer.last_hidden_state).numpy()
    ours = outputs(network, head)
    np.testing.assert_allclose(ours[real], expected.reshape(ours.shape)[real], atol=1e-4)


# ------------------------------------------------------------------------------------ Google's checkpoints


def google_tensors(model, encoder: str = "electra") -> dict[str, np.ndarray]:
    """A model's weights under the names of Google's code, its encoder under the scope `encoder`."""
    tensors = {}
    for name, parameter in model.state_dict().items():
        value = parameter.numpy()
        if name in ("generator_lm_head.weight", "electra.embeddings.position_ids"):
            continue
        if name == "generator_lm_head.bias":
            tensors["generator_predictions/output_bias"] = value
            continue
        scope = encoder if name.startswith(("electra.encoder", "electra.embeddings_project")) else "electra"
        name = re.sub(r"^electra\.", f"{scope}/", name)
        name = name.replace("layer.", "layer_").replace(".", "/").replace("dense_prediction", "dense_1")
        name = name.replace("LayerNorm/weight", "LayerNorm/gamma").replace("LayerNorm/bias", "LayerNorm/beta")
        name = re.sub(r"(_embeddings)/weight$", r"\1", name)
        if name.endswith("/weight"):
            name, value = re.sub("weight$", "kernel", name), value.T
        tensors[name] = value
    return tensors


def write_google_checkpoint(prefix: Path, tensors: dict[str, np.ndarray], *, training: bool = True) -> Path:
    """Write tensors as TensorFlow 1 does, and what training leaves beside them: slots, step, temperature."""
    tensors = dict(tensors)
    if training:
        slots = {f"{name}/{slot}": value for name, value in tensors.items() for slot in ("adam_m", "adam_v")}
        tensors |= slots | {"global_step": np.int64(7), "generator/temperature": np.float32(1)}
        tensors["temperature"] = np.float32(1)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with tf.Graph().as_default():
        variables = [tf.compat.v1.get_variable(name, initializer=value) for name, value in tensors.items()]
        saver = tf.compat.v1.train.Saver(variables)
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            saver.save(session, str(prefix), write_meta_graph=False, write_state=False)
    return prefix


def pretraining_model(**changes) -> PretrainingModel:
    """A tiny pre-training model with the random weights of one seed."""
    tf.keras.utils.set_random_seed(8)
    model = PretrainingModel(tiny_config(**changes), VOCABULARY_SIZE)
    model.build()
    return model


def start_from(source, model: PretrainingModel) -> weight_conversion.InitialWeights:
    """Give a pre-training model the weights of a source, as --init_weights does."""
    variables = model.named_variables()
    initial = weight_conversion.read_initial_weights(
        str(source),
        {name: tuple(variable.shape) for name, variable in variables.items()},
        model.discriminator_config,
        model.generator_config,
        VOCABULARY,
    )
    for name, tensor in initial.tensors.items():
        variables[name].assign(tensor)
    return initial

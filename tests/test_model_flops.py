"""The formula for a step's operations counts the matrix products that are really there."""

import math
import os
import re
import subprocess
import sys

import pytest
from electra_cases import VOCABULARY_SIZE, masked_batch, normalizers, tiny_config
from training_runs import ROOT

from architecture import MODEL_SIZES, ElectraConfig
from model_flops import encoder_flops, pretraining_flops

sys.path.append(str(ROOT / "scripts"))

COUNT, LENGTH = 3, 32


def products_in_a_gradient(config) -> int:
    """Operations of all matrix products in the graph of loss and gradient, from the shapes that it has.

    The output bias, which is a column of the word table there, and the padding of the vocabulary are no work.
    """
    import tensorflow as tf

    from pretraining import PretrainingModel
    from vocabulary_softmax import BLOCK

    model = PretrainingModel(config, VOCABULARY_SIZE)
    model.build()
    variables = list(model.named_variables().values())
    batch = masked_batch(COUNT, LENGTH)

    @tf.function(autograph=False)
    def gradient(batch):
        with tf.GradientTape() as tape:
            loss, _ = model(batch, normalizers(masked_batch(COUNT, LENGTH)))
        return [tf.convert_to_tensor(value) for value in tape.gradient(loss, variables)]

    graph = gradient.get_concrete_function({name: tf.constant(value) for name, value in batch.items()}).graph
    padded = -(-VOCABULARY_SIZE // BLOCK) * BLOCK
    width = model.discriminator_config.embedding_size
    as_work = {padded: VOCABULARY_SIZE, width + 1: width}
    total = 0
    for operation in graph.get_operations():
        if "MatMul" in operation.type:
            inner = operation.inputs[0].shape[-1]
            transposed = "transpose_a" if operation.type == "MatMul" else "adj_x"
            if operation.get_attr(transposed):
                inner = operation.inputs[0].shape[-2]
            sizes = [*operation.outputs[0].shape, inner]
            if "generator_predictions" in operation.name and padded in sizes:
                sizes = [as_work.get(size, size) for size in sizes]
            total += 2 * math.prod(sizes)
    return total


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"generator_layers": 0.5, "generator_hidden_size": 1.0},
        {"embedding_size": 32},
        {"uniform_generator": True},
        {"electra_objective": False},
        {"untied_generator": False},
    ],
    ids=str,
)
def test_formula_counts_the_products_of_the_real_gradient(changes, monkeypatch):
    import modeling

    # Each layer's operations in the graph that is counted, not one layer's in a function of it.
    monkeypatch.setattr(modeling, "calls_through_one_graph", lambda *_: modeling.EncoderLayer.__call__)
    config = tiny_config(**changes)
    parts = pretraining_flops(config, VOCABULARY_SIZE, COUNT, LENGTH)
    assert sum(parts.values()) == products_in_a_gradient(config)


def test_hugging_faces_networks_do_the_same_work():
    """By PyTorch's own counter, forward and backward; so a comparison with them is one of like with like."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from huggingface_pretraining_step import Networks
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    config = tiny_config()
    networks = Networks(config, VOCABULARY_SIZE)
    batch = {name: torch.from_numpy(values) for name, values in masked_batch(COUNT, LENGTH).items()}
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        networks(batch).backward()
    ours = sum(pretraining_flops(config, VOCABULARY_SIZE, COUNT, LENGTH).values())
    assert counter.get_total_flops() == ours


def test_small_and_base_cost_what_was_worked_out_by_hand():
    """Small at 128: 12 layers of 24 h^2 + 4 L h a token, projection, heads; three passes."""
    config = tiny_config(
        **MODEL_SIZES["small"], max_position_embeddings=512, max_seq_length=128, generator_hidden_size=0.25
    )
    encoder = 12 * (24 * 256**2 + 4 * 128 * 256) + 2 * 128 * 256
    generator = 12 * (24 * 64**2 + 4 * 128 * 64) + 2 * 128 * 64
    heads = 128 * (2 * 256 * 256 + 2 * 256) + 19 * (2 * 64 * 128 + 2 * 128 * 30522)
    parts = pretraining_flops(config, 30522, 32, 128)
    assert sum(parts.values()) == 3 * 32 * (128 * (encoder + generator) + heads)
    assert set(parts) == {"embeddings", "attention", "feed_forward", "generator", "heads"}


def test_the_bar_on_gpus_is_counted_with_nvidias_generator():
    """What docs/performance.md says of an A100 is what its own command prints, with 1/3 for base."""
    text = (ROOT / "docs" / "performance.md").read_text().partition("\n## On GPUs\n")[2]
    prose, _, after = text.partition("```bash\nPYTHONPATH=scripts python - <<'END'\n")
    done = subprocess.run(
        [sys.executable, "-"],
        input=after.partition("\nEND\n")[0],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "scripts"},
        capture_output=True,
        text=True,
        check=True,
    )
    numbers = re.findall(r"[0-9]+\.[0-9]|[0-9]+ %", done.stdout)
    assert len(numbers) == 10 and not [number for number in numbers if number not in prose]
    config = tiny_config(
        **MODEL_SIZES["base"], max_position_embeddings=512, max_seq_length=128, generator_hidden_size=1 / 3
    )
    flops = sum(pretraining_flops(config, 30522, 1, 128).values())
    assert f"128: {flops / 1e9:.1f} GFLOP" in done.stdout


@pytest.mark.slow
def test_the_exchange_that_is_timed_is_that_of_nvidias_networks():
    """The 477.5 MB of docs/scaling.md."""
    import exchange_speed

    gradients = exchange_speed._gradients(exchange_speed.ExchangeConfig(model_size="base"))
    assert 4 * sum(math.prod(value.shape) for value in gradients.values()) == 477_545_708


def test_attention_passes_the_feed_forward_where_its_products_outgrow_the_widths():
    """8 h^2 + 4 L h against 16 h^2 a token: equal at L = 2 h."""
    base = ElectraConfig(vocab_size=9, **MODEL_SIZES["base"])
    at = encoder_flops(base, 1, 2 * 768)
    assert at["attention"] == at["feed_forward"] and at["embeddings"] == 0
    shorter = encoder_flops(base, 1, 2 * 768 - 1)
    assert shorter["attention"] < shorter["feed_forward"]

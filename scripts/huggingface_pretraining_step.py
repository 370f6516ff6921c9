"""Does the same updates as pretraining_step.py with Hugging Face's ELECTRA and PyTorch, eagerly or compiled.

As in pretraining_step.py: the networks' sizes and dropout, the batch with its picks, the generator's head at
the picked positions alone, samples by inverse CDF, tied embeddings, clipping and AdamW, here PyTorch's fused
one. Metrics are not computed, which ours are. Not run by itself, but by scripts/pretraining_speed.py.
"""

import dataclasses
import os
import sys
from pathlib import Path

# Run by its path, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import transformers
from timed_steps import StepConfig, peak_resident_bytes, synthetic_batch, take_turns

from command_line import parse, run_program

_AUTOCAST = {"amp": torch.float16, "bf16": torch.bfloat16}


def main() -> int:
    settings = parse(StepConfig, description=__doc__)
    config = settings.pretraining()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(config.seed)
    torch.set_float32_matmul_precision("highest" if config.precision == "fp32" else "high")
    networks = Networks(config, settings.vocab_size).to(device).train()
    loss_of = torch.compile(networks) if settings.torch_compile else networks
    optimizer = _optimizer(networks, config)
    scaler = torch.amp.GradScaler(device, enabled=config.precision == "amp")
    batches = [
        {name: torch.from_numpy(values).to(device) for name, values in batch.items()}
        for batch in (
            synthetic_batch(config, settings.vocab_size, seed)
            for seed in range(config.gradient_accumulation_steps)
        )
    ]
    autocast = torch.autocast(
        device,
        _AUTOCAST.get(config.precision, torch.bfloat16),
        enabled=config.precision in _AUTOCAST,
    )

    def step() -> None:
        for batch in batches:
            with autocast:
                loss = loss_of(batch) / len(batches)
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        loss.item()

    def peak_bytes() -> int:
        return torch.cuda.max_memory_allocated() if device == "cuda" else peak_resident_bytes()

    with open(settings.turns, encoding="ascii") as turns:
        take_turns(step, peak_bytes, turns.readline)
    return 0


class Networks(torch.nn.Module):
    """Hugging Face's generator and discriminator with one table of embeddings, and the loss of both."""

    def __init__(self, config, vocabulary_size: int):
        super().__init__()
        self._weights = (config.gen_weight, config.disc_weight)
        sizes = dataclasses.asdict(config.discriminator(vocabulary_size))
        self.discriminator = transformers.ElectraForPreTraining(transformers.ElectraConfig(**sizes))
        sizes = dataclasses.asdict(config.generator(vocabulary_size))
        self.generator = transformers.ElectraForMaskedLM(transformers.ElectraConfig(**sizes))
        self.generator.electra.embeddings = self.discriminator.electra.embeddings
        self.generator.generator_lm_head.weight = self.discriminator.electra.embeddings.word_embeddings.weight

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss of a micro-batch."""
        inputs = {"attention_mask": batch["input_mask"], "token_type_ids": batch["segment_ids"]}
        hidden = self.generator.electra(batch["masked_input_ids"], **inputs).last_hidden_state
        positions = batch["masked_lm_positions"].long()
        picked = hidden.gather(1, positions[:, :, None].expand(-1, -1, hidden.shape[-1]))
        head = self.generator
        logits = head.generator_lm_head(head.generator_predictions(picked)).float().flatten(0, 1)
        originals, weights = batch["masked_lm_ids"].long(), batch["masked_lm_weights"].flatten()
        losses = torch.nn.functional.cross_entropy(logits, originals.flatten(), reduction="none")
        generator_loss = (weights * losses).sum() / weights.sum()

        with torch.no_grad():
            ends = logits.softmax(-1).cumsum(-1)
            targets = batch["sample_uniforms"].flatten()[:, None] * ends[:, -1:]
            samples = torch.searchsorted(ends, targets, right=True).clamp_(max=logits.shape[-1] - 1)
            samples = torch.where(weights > 0, samples[:, 0], originals.flatten()).view_as(originals)
            corrupted = batch["input_ids"].long().scatter(1, positions, samples)
            replaced = (corrupted != batch["input_ids"]).float()
        logits = self.discriminator(corrupted, **inputs).logits.float()
        losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, replaced, reduction="none")
        mask = batch["input_mask"].float()
        discriminator_loss = (mask * losses).sum() / mask.sum()
        return self._weights[0] * generator_loss + self._weights[1] * discriminator_loss


def _optimizer(networks: Networks, config) -> torch.optim.Optimizer:
    decayed = [value for value in networks.parameters() if value.ndim > 1]
    others = [value for value in networks.parameters() if value.ndim <= 1]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay_rate},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=1e-4,
        betas=(config.opt_beta_1, config.opt_beta_2),
        eps=1e-6,
        fused=True,
    )


if __name__ == "__main__":
    run_program(main)

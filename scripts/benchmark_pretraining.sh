#!/usr/bin/env bash
# How fast a step of pre-training is on this machine, and what share of the machine's own limit that is.
#
#   bash scripts/benchmark_pretraining.sh
#   bash scripts/benchmark_pretraining.sh 176 amp xla 8 true 48 24 144 base
#   MODEL_SIZE=small PRECISION="fp32 bf16" bash scripts/benchmark_pretraining.sh --against huggingface --output_json speed.json
#
# A setting is a positional (NVIDIA's order, below), else the environment variable of that name, else the default: small
# and base; 128 and 512 tokens; fp32 and bf16 on a CPU, amp and tf32 with XLA on GPUs; micro-batches as NVIDIA's on GPUs;
# no accumulation. Model sizes, lengths, batch sizes and precisions may be lists. _P1 is for sequences up to 128 tokens,
# _P2 for longer ones. What follows the positionals, or --, are flags of scripts/pretraining_speed.py, and win. Only the
# tokens are made up: the step is the real one. Nothing is written but --output_json.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

names=(TRAIN_BATCH_SIZE_P1 PRECISION XLA NUM_GPUS ACCUMULATE_GRADIENTS GRADIENT_ACCUMULATION_STEPS_P1
  TRAIN_BATCH_SIZE_P2 GRADIENT_ACCUMULATION_STEPS_P2 MODEL_SIZE)
further=(MAX_SEQ_LENGTH AGAINST OUTPUT_JSON REPEATS STEPS PYTHON)
# shellcheck source=common.sh
source scripts/common.sh

positionals=()
while (($#)) && [[ $1 != --* || $1 == --help ]]; do
  positionals+=("$1")
  shift
done
if [[ ${1:-} == -- ]]; then shift; fi
read_settings "${positionals[@]}" -- "$@"

# The device's own precision tells which machine this is.
wanted=${PRECISION:-}
PRECISION='' settle_device NUM_GPUS
if [[ -z $wanted && $precision == amp ]]; then wanted="amp tf32"; fi
for PRECISION in ${wanted//,/ }; do settle_device NUM_GPUS; done

command=("$python" scripts/pretraining_speed.py)
flag precision "$wanted"
flag model_size "${MODEL_SIZE:-}"
flag max_seq_length "${MAX_SEQ_LENGTH:-}"
flag batch_size_p1 "${TRAIN_BATCH_SIZE_P1:-}"
flag batch_size_p2 "${TRAIN_BATCH_SIZE_P2:-}"
if [[ ${ACCUMULATE_GRADIENTS:-true} == true ]]; then
  flag gradient_accumulation_steps_p1 "${GRADIENT_ACCUMULATION_STEPS_P1:-}"
  flag gradient_accumulation_steps_p2 "${GRADIENT_ACCUMULATION_STEPS_P2:-}"
fi
if [[ $xla == xla ]]; then command+=(--xla); fi
flag gpus "$gpus"
flag against "${AGAINST:-}"
flag output_json "${OUTPUT_JSON:-}"
flag repeats "${REPEATS:-}"
flag steps "${STEPS:-}"
run_to_end "${command[@]}" "${passed_on[@]}"

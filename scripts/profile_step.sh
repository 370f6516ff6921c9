#!/usr/bin/env bash
# Where the time of a pre-training step goes on this machine's processors, part by part.
#
#   bash scripts/profile_step.sh
#   MODEL_SIZE=base PRECISION=bf16 MAX_SEQ_LENGTH=512 bash scripts/profile_step.sh 2
#   bash scripts/profile_step.sh 32 fp32 -- --steps 10 --output_dir results/profile
#
# A setting is a positional (the first two of benchmark_pretraining.sh's), else the environment variable of that name,
# else the default of scripts/profile_step.py; what follows the positionals, or --, are its flags, and win. The parts'
# times add up to the step. Only the tokens are made up. Nothing is written but the trace for TensorBoard, in
# --output_dir (results/profile), one more with each call.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

names=(TRAIN_BATCH_SIZE_P1 PRECISION)
further=(MODEL_SIZE MAX_SEQ_LENGTH GRADIENT_ACCUMULATION_STEPS_P1 STEPS OUTPUT_DIR PYTHON)
# shellcheck source=common.sh
source scripts/common.sh

positionals=()
while (($#)) && [[ $1 != --* || $1 == --help ]]; do
  positionals+=("$1")
  shift
done
if [[ ${1:-} == -- ]]; then shift; fi
read_settings "${positionals[@]}" -- "$@"
settle_python

command=("$python" scripts/profile_step.py)
flag batch_size "${TRAIN_BATCH_SIZE_P1:-}"
flag precision "${PRECISION:-}"
flag model_size "${MODEL_SIZE:-}"
flag max_seq_length "${MAX_SEQ_LENGTH:-}"
flag gradient_accumulation_steps "${GRADIENT_ACCUMULATION_STEPS_P1:-}"
flag steps "${STEPS:-}"
flag output_dir "${OUTPUT_DIR:-}"
run_to_end "${command[@]}" "${passed_on[@]}"

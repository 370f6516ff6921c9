#!/usr/bin/env bash
# How fast fine-tuning and answering are: sequences (windows) a second, and latencies of a batch in milliseconds.
#
#   bash scripts/benchmark_squad.sh train 1 16 32 amp
#   ELECTRA_MODEL=quickstart/minilm SQUAD_DIR=squad TRAIN_BATCH_SIZE="8 16" INFER_BATCH_SIZE="1 8 32" \
#       PRECISION="tf32 bf16" bash scripts/benchmark_squad.sh
#
# A setting is a positional (NVIDIA's order, below), else the environment variable of that name, else the default.
# MODE is train, eval or prediction (answering) or train_eval (both, the default). Batch sizes and precisions may be
# lists: every precision is measured with every batch size. What compiles, the first update or the first batch of
# a length, is left out. Answering without INIT_CHECKPOINT uses a head of one update. All runs are in a temporary
# folder and save no checkpoint; OUT_DIR (results/) receives the table, squad_benchmark.tsv, and nothing else.
# AGAINST=huggingface measures Hugging Face's model with PyTorch on the CPU after each of ours, in the same run
# (SQuAD 1.1, tf32 and bf16; `bash scripts/install.sh --tests` installs it). What follows -- goes to run_tf_squad.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

names=(MODE NUM_GPU TRAIN_BATCH_SIZE INFER_BATCH_SIZE PRECISION SQUAD_VERSION SQUAD_DIR OUT_DIR INIT_CHECKPOINT
  CACHE_DIR)
further=(AGAINST ELECTRA_MODEL LEARNING_RATE MAX_STEPS EPOCHS SEED XLA VOCAB_FILE DATA_PREP_WORKING_DIR PYTHON)
# shellcheck source=common.sh
source scripts/common.sh
read_settings "$@"

mode=${MODE:-train_eval}
case $mode in
  train | eval | prediction | train_eval) ;;
  *) fail "MODE '$mode' is none of train, eval, prediction, train_eval" ;;
esac
case ${AGAINST:-} in
  '') ;;
  huggingface) [[ ${SQUAD_VERSION:-1.1} == 1.1 ]] || fail "AGAINST=huggingface measures SQuAD 1.1 only" ;;
  *) fail "AGAINST '$AGAINST' is not huggingface" ;;
esac
train_batches=${TRAIN_BATCH_SIZE:-16}
infer_batches=${INFER_BATCH_SIZE:-$train_batches}
read -ra train_batches <<< "${train_batches//,/ }"
read -ra infer_batches <<< "${infer_batches//,/ }"
PRECISION=${PRECISION:-}
read -ra precisions <<< "${PRECISION//,/ }"
if ((${#precisions[@]} == 0)); then precisions=(""); fi
for position in "${!precisions[@]}"; do
  PRECISION=${precisions[position]}
  settle_device NUM_GPU
  precisions[position]=$precision
done
out_dir=${OUT_DIR:-results/}
if [[ -n ${AGAINST:-} ]]; then
  for precision in "${precisions[@]}"; do
    [[ $precision != amp ]] || fail "AGAINST=$AGAINST computes in tf32, fp32 and bf16, not in PRECISION amp"
  done
  [[ -d ${ELECTRA_MODEL:-} ]] || fail "AGAINST=$AGAINST: ELECTRA_MODEL '${ELECTRA_MODEL:-}' is no folder of weights"
  "$python" -c 'import torch, transformers' 2> /dev/null ||
    fail "AGAINST=$AGAINST needs torch and transformers: bash scripts/install.sh --tests"
fi
workspace=$(mktemp -d)
trap 'rm -rf "$workspace"' EXIT
mkdir -p "$out_dir"
table=${out_dir%/}/squad_benchmark.tsv
latencies=(p50 p90 p95 p99 p99.9 max mean)

# measure WHAT PRECISION BATCH: one run, to its row in the table.
measure() {
  local run=$workspace/$1_$2_$3 status=0 rate=training row=("$1" "$2" "$3") value
  local settings=(NUM_GPU="${NUM_GPU:-}" PRECISION="$2" SQUAD_VERSION="${SQUAD_VERSION:-}" SQUAD_DIR="${SQUAD_DIR:-}"
    OUT_DIR="$run" CACHE_DIR="${CACHE_DIR:-$workspace/cache}" INIT_CHECKPOINT="${INIT_CHECKPOINT:-None}" MODE=train
    TRAIN_BATCH_SIZE="$3" LEARNING_RATE="${LEARNING_RATE:-8e-4}" EPOCHS="${EPOCHS:-1}" MAX_STEPS="${MAX_STEPS:-200}")
  if [[ $1 == answering ]]; then
    rate=inference
    settings+=(INFER_BATCH_SIZE="$3" MODE=prediction)
    [[ ${INIT_CHECKPOINT:-None} != None ]] || settings+=(MODE=train_eval TRAIN_BATCH_SIZE=1 MAX_STEPS=1)
  fi
  run_to_end env "${settings[@]}" bash scripts/run_squad.sh -- "${passed_on[@]}" --skip_checkpoint || status=$?
  ((status == 0)) || exit "$status"
  for key in "${rate}_sequences_per_second" "${latencies[@]/#/latency_}"; do
    value=
    [[ $1 == training && $key == latency_* ]] || value=$(number "${key/./[.]}" "$run/logs/dllogger.log")
    row+=("${value:--}")
  done
  (IFS=$'\t' && echo "${row[*]}") >> "$workspace/table"
  [[ -z ${AGAINST:-} ]] || measure_huggingface "$@"
}

# measure_huggingface WHAT PRECISION BATCH: the same by Hugging Face's model, as the next row.
measure_huggingface() {
  local result=$workspace/huggingface.json status=0 rate=training row
  [[ $1 == training ]] || rate=inference
  run_to_end "$python" scripts/huggingface_squad_speed.py --what "$1" --batch_size "$3" \
    --precision "${2/tf32/fp32}" --max_steps "${MAX_STEPS:-200}" --electra_model "${ELECTRA_MODEL:-}" \
    --data_dir "${SQUAD_DIR:-${DATA_PREP_WORKING_DIR:-data}/download/squad/v1.1}" > "$result" || status=$?
  ((status == 0)) || exit "$status"
  row=("$1 (huggingface)" "$2" "$3" "$(number "${rate}_sequences_per_second" "$result")" - - - - - - -)
  (IFS=$'\t' && echo "${row[*]}") >> "$workspace/table"
}

(IFS=$'\t' && echo "what"$'\t'"precision"$'\t'"batch"$'\t'"sequences/s"$'\t'"${latencies[*]}") > "$workspace/table"
for precision in "${precisions[@]}"; do
  if [[ $mode == train* ]]; then
    for batch in "${train_batches[@]}"; do measure training "$precision" "$batch"; done
  fi
  if [[ $mode != train ]]; then
    for batch in "${infer_batches[@]}"; do measure answering "$precision" "$batch"; done
  fi
done

cp "$workspace/table" "$table"
echo "$table (latencies in ms a batch):"
while IFS=$'\t' read -ra row; do
  printf '%-23s %-9s %6s %12.8s' "${row[@]:0:4}"
  printf ' %8.7s' "${row[@]:4}"
  echo
done < "$table"

#!/usr/bin/env bash
# How many sequences a second one worker and several pre-train, with the same global batch.
#
#   PRETRAIN_TFRECORDS=shards bash scripts/benchmark_scaling.sh
#   WORKERS="1 2 4 8" GLOBAL_BATCH_SIZE=1024 MODEL_SIZE=base PRECISION=amp PRETRAIN_TFRECORDS=shards \
#     bash scripts/benchmark_scaling.sh -- --fp16_compression
#
#   WORKERS             numbers of workers (1 2); on CPUs one worker has all threads, and several share them
#   GLOBAL_BATCH_SIZE   sequences of an update, over all workers (32)
#   ROUNDS              runs of each, taken in turn, of which the median counts (3)
#   TRAIN_STEPS         updates of a run (12); the first, which compiles, is left out
#   MODEL_SIZE, PRECISION, XLA, PYTHON   as for scripts/run_pretraining.sh
# The efficiency is the throughput for each worker, or for each processor where they share the same, against that of
# the first number of workers. No checkpoint is saved. What follows -- goes to run_pretraining.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

names=()
further=(WORKERS GLOBAL_BATCH_SIZE ROUNDS TRAIN_STEPS MODEL_SIZE PRETRAIN_TFRECORDS PRECISION XLA PYTHON)
# shellcheck source=common.sh
source scripts/common.sh
read_settings "$@"

read -r -a counts <<< "${WORKERS:-1 2}"
global=${GLOBAL_BATCH_SIZE:-32}
size=${MODEL_SIZE:-small}
rounds=${ROUNDS:-3} updates=${TRAIN_STEPS:-12}
[[ $rounds =~ ^[1-9][0-9]*$ ]] || fail "ROUNDS '$rounds' is no positive number"
[[ $updates =~ ^[1-9][0-9]*$ && $updates != 1 ]] || fail "TRAIN_STEPS '$updates' is no number over 1"
[[ -n ${PRETRAIN_TFRECORDS:-} ]] || fail "PRETRAIN_TFRECORDS names no shards"
for count in "${counts[@]}"; do
  [[ $count =~ ^[1-9][0-9]*$ ]] || fail "WORKERS '${WORKERS:-}': '$count' is no positive number"
  ((global % count == 0)) || fail "GLOBAL_BATCH_SIZE $global does not divide among $count workers"
done
workspace=$(mktemp -d)
trap 'rm -rf "$workspace"' EXIT

# measure COUNT ROUND: one run, to a line of the file of that number of workers.
measure() {
  local status=0 run=$workspace/$1_$2
  NUM_GPUS=$1 settle_device NUM_GPUS
  command=("${workers[@]}" "$python" run_pretraining.py --model_name scaling --model_size "$size"
    --results_dir "$run" --pretrain_tfrecords "$PRETRAIN_TFRECORDS" --train_batch_size $((global / $1))
    --num_train_steps "$updates" --num_warmup_steps 1 --log_freq "$updates"
    --precision "$precision" --skip_checkpoint)
  [[ $xla == no_xla ]] || command+=(--xla)
  run_to_end "${command[@]}" "${passed_on[@]}" > "$workspace/output" || status=$?
  if ((status != 0)); then tail -n 5 "$workspace/output" >&2 && exit "$status"; fi
  number training_sequences_per_second "$run/models/scaling/logs/dllogger.log" >> "$workspace/$1"
}

for ((round = 1; round <= rounds; round++)); do
  for count in "${counts[@]}"; do measure "$count" "$round"; done
done

gpus_found=$(visible_gpus)
printf '%7s %12s %10s   %s\n' workers sequences/s efficiency "of all rounds"
for count in "${counts[@]}"; do
  rates=$(sort -n "$workspace/$count")
  median=$(sed -n "$((($(wc -l <<< "$rates") + 1) / 2))p" <<< "$rates")
  : "${first:=$median}" "${first_count:=$count}"
  awk -v count="$count" -v median="$median" -v first="$first" -v first_count="$first_count" -v gpus="$gpus_found" \
    -v all="$(tr '\n' ' ' <<< "$rates")" 'BEGIN {
      share = gpus > 0 ? count / first_count : 1
      printf "%7d %12.2f %9.1f%%   %s\n", count, median, 100 * median / first / share, all }'
done

#!/usr/bin/env bash
# Two-phase pre-training: sequences of 128, then of 512 from the first phase's weights.
#
#   bash scripts/run_pretraining.sh $(source scripts/configs/pretrain_config.sh && dgxa100_8gpu_amp)
#   MODEL_SIZE=small TRAIN_BATCH_SIZE_P1=64 bash scripts/run_pretraining.sh
#   EVAL_TFRECORDS_P1='held_out_128/*' EVAL_TFRECORDS_P2='held_out_512/*' bash scripts/run_pretraining.sh
#
# A setting is a positional (NVIDIA's order, below), else the environment variable of that name, else what
# configs/<model size>_phase<1 or 2>.json says. NUM_GPUS over 1 needs Horovod (bash
# scripts/install.sh --horovod). HOSTS=one:8,two:8 starts the workers on these hosts over ssh, as many as they have
# slots or as NUM_GPUS says, with SSH_CONFIG as ssh's configuration file (docs/scaling.md). On Slurm: run.sub.
# RESTARTS=N starts a phase that crashed again, up to N times (scripts/supervise.sh). PHASE=1 or 2 runs it alone.
# Without PRETRAIN_TFRECORDS_P1 and _P2 the data is what data/create_datasets_from_start.sh made below
# DATA_PREP_WORKING_DIR (default: data); DATASET says which, where that are several.
# RESTARTED=true, from run.sub and scripts/supervise.sh when they start it again: a phase that has saved a checkpoint
# goes on from it, and not from INIT_CHECKPOINT again.
# What follows -- goes to run_pretraining.py, in both phases.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

names=(TRAIN_BATCH_SIZE_P1 LEARNING_RATE_P1 PRECISION NUM_GPUS XLA WARMUP_STEPS_P1 TRAIN_STEPS_P1
  SAVE_CHECKPOINT_STEPS RESUME_TRAINING OPTIMIZER ACCUMULATE_GRADIENTS GRADIENT_ACCUMULATION_STEPS_P1 SEED
  JOB_NAME TRAIN_BATCH_SIZE_P2 LEARNING_RATE_P2 WARMUP_STEPS_P2 TRAIN_STEPS_P2
  GRADIENT_ACCUMULATION_STEPS_P2 MODEL_SIZE PRETRAIN_TFRECORDS_P1 PRETRAIN_TFRECORDS_P2 CODE_DIR
  INIT_CHECKPOINT)
further=(PHASE OPT_BETA_1_P1 OPT_BETA_2_P1 LR_DECAY_POWER_P1 END_LR_P1 SKIP_ADAPTIVE_P1 PACK_SEQUENCES_P1
  EVAL_TFRECORDS_P1 OPT_BETA_1_P2 OPT_BETA_2_P2 LR_DECAY_POWER_P2 END_LR_P2 SKIP_ADAPTIVE_P2 PACK_SEQUENCES_P2
  EVAL_TFRECORDS_P2 START CONTAINER CONTAINER_MOUNTS BIND HOSTS SSH_CONFIG RESTARTS MODEL_NAME VOCAB_FILE RESULTS_DIR CONFIG_P1
  CONFIG_P2 RESTORE_CHECKPOINT DATA_PREP_WORKING_DIR DATASET PYTHON)

# shellcheck source=common.sh
source scripts/common.sh
read_settings "$@"
settle_device NUM_GPUS

results=${RESULTS_DIR:-${CODE_DIR:-.}/results}
data=${DATA_PREP_WORKING_DIR:-data}
model_size=${MODEL_SIZE:-base}
model_name=${MODEL_NAME:-$model_size}
job_name=${JOB_NAME:-electra_pretraining}
[[ -f configs/${model_size}_phase1.json || -n ${CONFIG_P1:-} ]] || fail "MODEL_SIZE '$model_size' is none of small, base, large"
phase=${PHASE:-both}
[[ $phase == 1 || $phase == 2 || $phase == both ]] || fail "PHASE '$phase' is none of 1, 2, both"
# NVIDIA's name is in lower case. There false leaves --phase2 out too, and its second part is a run from random weights.
restore=${RESTORE_CHECKPOINT:-${restore_checkpoint:-true}}
[[ $restore == true || $restore == false ]] || fail "RESTORE_CHECKPOINT '$restore' is neither true nor false"
[[ $restore == true || $phase == 1 ]] ||
  fail "RESTORE_CHECKPOINT false: the second phase goes on from the first one's weights; PHASE=1 runs the first alone"
config_p1=${CONFIG_P1:-configs/${model_size}_phase1.json}
config_p2=${CONFIG_P2:-configs/${model_size}_phase2.json}
# Phase 2 would refuse them, after all of phase 1.
words=" ${passed_on[*]//-/_} "
if [[ $phase == both && $words == *' __eval_tfrecords'[=\ ]* && $words != *' __max_seq_length'[=\ ]* &&
  $(number max_seq_length "$config_p1") != "$(number max_seq_length "$config_p2")" ]]; then
  fail "--eval_tfrecords after -- goes to both phases, whose sequences differ in length: set EVAL_TFRECORDS_P1 and _P2"
fi
mkdir -p "$results"

# prepared LENGTH: the shards of that length that data/create_datasets_from_start.sh made, of DATASET where there are
# several; where there are none, the path at which NVIDIA's launcher looks, for the program to name.
prepared() {
  local found
  # shellcheck disable=SC2206 # a dataset that is not given stands for any
  found=("$data"/tfrecord_lower_case_[01]_seq_len_"$1"_random_seed_*/${DATASET:-*}/train)
  if [[ ! -d ${found[0]} ]]; then
    found=("$data/tfrecord_lower_case_1_seq_len_$1_random_seed_12345/${DATASET:-books_wiki_en_corpus}/train")
  fi
  ((${#found[@]} == 1)) || fail "several prepared datasets, set DATASET or PRETRAIN_TFRECORDS_P1 and _P2: ${found[*]}"
  echo "${found[0]}/pretrain_data*"
}

# run_phase PHASE CONFIG DATA RESTORE BATCH RATE WARMUP STEPS ACCUMULATION
run_phase() {
  local log name value own prefix=ckpt- status=0
  command=("${workers[@]}" "$python" run_pretraining.py --config "$2" --model_name "$model_name" --model_size "$model_size"
    --results_dir "$results" --pretrain_tfrecords "$3" --precision "$precision")
  [[ $xla == no_xla ]] || command+=(--xla)
  [[ $1 == 1 ]] || { command+=(--phase2) && prefix=ckpt-p2-; }
  flag restore_checkpoint "$4"
  flag train_batch_size "$5"
  flag learning_rate "$6"
  flag num_warmup_steps "$7"
  flag num_train_steps "$8"
  if [[ ${ACCUMULATE_GRADIENTS:-true} == true ]]; then
    flag gradient_accumulation_steps "$9"
  else
    flag gradient_accumulation_steps 1
  fi
  for name in OPT_BETA_1 OPT_BETA_2 LR_DECAY_POWER END_LR SKIP_ADAPTIVE PACK_SEQUENCES EVAL_TFRECORDS; do
    value=${name}_P$1
    flag "${name,,}" "${!value:-}"
  done
  flag save_checkpoints_steps "${SAVE_CHECKPOINT_STEPS:-}"
  flag optimizer "${OPTIMIZER:-}"
  flag seed "${SEED:-}"
  flag vocab_file "${VOCAB_FILE:-}"
  log="$results/$job_name.electra_pretraining_phase$1_$precision.$(date +%y%m%d%H%M%S).log"
  command+=("${passed_on[@]}")
  # The last flag wins.
  own=("$results/models/$model_name/checkpoints/$prefix"[0-9]*)
  [[ ${RESTARTED:-false} != true || ! -d ${own[0]} ]] || command+=(--restore_checkpoint=latest)
  echo "phase $1: ${command[*]}" | tee "$log"
  supervised "$results/models/$model_name"
  run_logged "$log" "${command[@]}" || status=$?
  if ((status != 0)); then
    echo "run_pretraining.sh: phase $1 ended with status $status, see $log" >&2
    exit "$status"
  fi
}

restore_p1=${INIT_CHECKPOINT:-}
if [[ -z $restore_p1 || $restore_p1 == None ]]; then
  restore_p1=
  [[ ${RESUME_TRAINING:-false} != true ]] || restore_p1=latest
fi

if [[ $phase != 2 ]]; then
  shards=${PRETRAIN_TFRECORDS_P1:-$(prepared 128)}
  run_phase 1 "$config_p1" "$shards" "$restore_p1" \
    "${TRAIN_BATCH_SIZE_P1:-}" "${LEARNING_RATE_P1:-}" "${WARMUP_STEPS_P1:-}" "${TRAIN_STEPS_P1:-}" \
    "${GRADIENT_ACCUMULATION_STEPS_P1:-}"
fi
if [[ $phase != 1 ]]; then
  shards=${PRETRAIN_TFRECORDS_P2:-$(prepared 512)}
  run_phase 2 "$config_p2" "$shards" latest \
    "${TRAIN_BATCH_SIZE_P2:-}" "${LEARNING_RATE_P2:-}" "${WARMUP_STEPS_P2:-}" "${TRAIN_STEPS_P2:-}" \
    "${GRADIENT_ACCUMULATION_STEPS_P2:-}"
fi

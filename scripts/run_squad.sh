#!/usr/bin/env bash
# Fine-tune on SQuAD, answer its questions, score the answers.
#
#   bash scripts/run_squad.sh $(source scripts/configs/squad_config.sh && dgxa100_1gpu_amp) train_eval
#   ELECTRA_MODEL=exports/discriminator SQUAD_DIR=squad OUT_DIR=results/squad bash scripts/run_squad.sh
#   MODE=eval OUT_DIR=results/squad bash scripts/run_squad.sh       # answer with the model fine-tuned there
#   bash scripts/run_squad.sh -- --joint_head False
#
# A setting is a positional (NVIDIA's order, below), else the environment variable of that name, else the default:
# google/electra-base-discriminator, 2 epochs, batches of 16 and 128, 1e-4 (NVIDIA's rate for one GPU), seed 42,
# SQuAD 1.1 where data preparation puts it, results/, mode train_eval. MODE is train, eval, prediction or train_eval.
# INIT_CHECKPOINT, the fine-tuned weights, is for eval and prediction, as in NVIDIA's; in the modes that train only
# where ELECTRA_MODEL is a size. RESUME_TRAINING=true goes on after an interruption; RESTARTS=N does so
# by itself after a crash, up to N times (scripts/supervise.sh). HOSTS=one:8,two:8 starts the workers on these hosts
# over ssh, as many as they have slots or as NUM_GPU says (docs/scaling.md). ENVIRONMENT=cluster, as in NVIDIA's, starts
# no workers: each task of `srun bash scripts/run_squad.sh …` is one, whatever NUM_GPU says. START=srun, in a job of
# Slurm's, starts them itself.
# What follows -- goes to run_tf_squad.py, and wins.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

names=(ELECTRA_MODEL EPOCHS TRAIN_BATCH_SIZE INFER_BATCH_SIZE LEARNING_RATE PRECISION NUM_GPU SEED SQUAD_VERSION
  SQUAD_DIR OUT_DIR INIT_CHECKPOINT MODE ENVIRONMENT CACHE_DIR MAX_STEPS)
further=(START CONTAINER CONTAINER_MOUNTS BIND HOSTS SSH_CONFIG RESTARTS XLA RESUME_TRAINING VOCAB_FILE DATA_PREP_WORKING_DIR PYTHON)
# shellcheck source=common.sh
source scripts/common.sh
read_settings "$@"
# As NVIDIA's launcher, mixed precision brings XLA with it; XLA itself decides where it is set.
[[ ${PRECISION:-amp} == amp ]] || XLA=${XLA:-no_xla}
settle_device NUM_GPU

electra_model=${ELECTRA_MODEL:-google/electra-base-discriminator}
version=${SQUAD_VERSION:-1.1}
out_dir=${OUT_DIR:-results/}
mode=${MODE:-train_eval}
case $version in 1.1 | 2.0) ;; *) fail "SQUAD_VERSION '$version' is neither 1.1 nor 2.0" ;; esac
case $mode in
  train | eval | prediction | train_eval) ;;
  *) fail "MODE '$mode' is none of train, eval, prediction, train_eval" ;;
esac
case ${ENVIRONMENT:-interactive} in
  interactive) ;;
  cluster)
    [[ -z ${START:-}${HOSTS:-} ]] ||
      fail "ENVIRONMENT cluster: the workers are there already; ${START:+START=$START }${HOSTS:+HOSTS=$HOSTS }would start others"
    # A worker that comes back alone, under a launcher of its own, would meet nobody.
    [[ ${RESTARTS:-0} == 0 ]] || fail "RESTARTS $RESTARTS: not with ENVIRONMENT cluster; with START=srun instead of it"
    workers=()
    ;;
  *) fail "ENVIRONMENT '$ENVIRONMENT' is neither interactive nor cluster" ;;
esac

init_checkpoint=${INIT_CHECKPOINT:-None}
if [[ $mode == train* ]]; then
  if [[ $init_checkpoint != None && ! $electra_model =~ ^(small|base|large)$ ]]; then
    echo "run_squad.sh: note: training starts from $electra_model; INIT_CHECKPOINT $init_checkpoint is for eval and prediction"
    init_checkpoint=None
  fi
elif [[ $init_checkpoint == None && -z ${ELECTRA_MODEL:-} && -d $out_dir/model ]]; then
  init_checkpoint=$out_dir/model
fi

command=("${workers[@]}" "$python" run_tf_squad.py --electra_model="$electra_model"
  --data_dir="${SQUAD_DIR:-${DATA_PREP_WORKING_DIR:-data}/download/squad/v$version}" --output_dir="$out_dir"
  --precision="$precision" --seed="${SEED:-42}" --max_seq_length=384 --doc_stride=128 --beam_size=5)
flag init_checkpoint "$init_checkpoint"
flag cache_dir "${CACHE_DIR:-}"
flag vocab_file "${VOCAB_FILE:-}"
[[ $xla == no_xla ]] || command+=(--xla)
if [[ $mode == train* ]]; then
  command+=(--do_train --train_batch_size="${TRAIN_BATCH_SIZE:-16}" --learning_rate="${LEARNING_RATE:-1e-4}"
    --num_train_epochs="${EPOCHS:-2}" --max_steps="${MAX_STEPS:--1}" --warmup_proportion=0.05
    --weight_decay_rate=0.01 --layerwise_lr_decay=0.8)
  [[ ${RESUME_TRAINING:-false} != true ]] || command+=(--restore_checkpoint=latest)
fi
if [[ $mode != train ]]; then command+=(--do_predict --predict_batch_size="${INFER_BATCH_SIZE:-128}"); fi
if [[ $mode == *eval ]]; then command+=(--do_eval); fi
# NVIDIA's threshold is one for the joint head: only the weights say whether the model has it.
[[ $version != 2.0 ]] || command+=(--version_2_with_negative --joint_head_null_threshold=-5.6)

mkdir -p "$out_dir"
log=${out_dir%/}/logfile.txt
echo "$mode: ${command[*]} ${passed_on[*]}" | tee -a "$log"
status=0
command+=("${passed_on[@]}")
[[ $mode != train* ]] || supervised "$out_dir"
run_logged "$log" "${command[@]}" || status=$?
((status == 0)) || echo "run_squad.sh: $mode ended with status $status, see $log" >&2
exit "$status"

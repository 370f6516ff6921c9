#!/usr/bin/env bash
# ELECTRA-small from random weights on real text, for some hours on two cores: training with evaluations, one
# deliberate stop in the middle and the resumption, export, the report and its verdict.
#
#   bash scripts/pretrain_small.sh
#   UPDATES=20000 SHARDS=data/shards bash scripts/pretrain_small.sh
#   UPDATES=40 bash scripts/pretrain_small.sh -- --hidden_size 64 --num_hidden_layers 2
#
# In RESULTS_DIR (default results/pretrain_small): results/models/pretrain_small/ with checkpoints, logs and exports;
# report.html; health.txt, the verdict of `run_report.py --check`; provenance.json. Run again, it goes on where it was.
# UPDATES (6000) of BATCH (32) sequences; LEARNING_RATE (5e-4), WARMUP (a tenth of the updates), EVAL_EVERY (a thirtieth),
# SEED (1), PRECISION (bf16 where the processor multiplies in it, else tf32). The text: scripts/small_corpus.sh.
# What follows -- goes to run_pretraining.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=common.sh
source scripts/common.sh
# shellcheck source=small_corpus.sh
source scripts/small_corpus.sh

settings=(SEED UPDATES BATCH LEARNING_RATE WARMUP EVAL_EVERY PRECISION VOCAB_SIZE MAX_SEQ_LENGTH FLAGS)
names=()
further=(SEED UPDATES BATCH LEARNING_RATE WARMUP EVAL_EVERY PRECISION RESULTS_DIR PYTHON "${corpus_names[@]}")
read_settings "$@"
export SEED=${SEED:-1} TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}

updates=${UPDATES:-6000}
[[ $updates =~ ^[1-9][0-9]*$ ]] || fail "UPDATES $updates: must be a positive number"
at_least_one() { echo $(($1 > 0 ? $1 : 1)); }
every=${EVAL_EVERY:-$(at_least_one $((updates / 30)))}
folder=${RESULTS_DIR:-results/pretrain_small}
run=$folder/results/models/pretrain_small

if [[ -z ${PYTHON:-} ]]; then bash scripts/install.sh; fi
settle_python
export PRECISION=${PRECISION:-$(best_cpu_precision)}
FLAGS="${passed_on[*]}" "$python" scripts/run_provenance.py "$folder" "${settings[@]}" -- bash scripts/pretrain_small.sh "$@"
settle_corpus

# pretrain FLAGS...: to the end, or to where the flags say; from the newest checkpoint, if there is one.
pretrain() {
  run_to_end "$python" run_pretraining.py --config configs/small_phase1.json --model_size small \
    --model_name pretrain_small --results_dir "$folder/results" --pretrain_tfrecords "$shards" \
    --eval_tfrecords "$held_out" --max_seq_length "$length" --num_train_steps "$updates" \
    --train_batch_size "${BATCH:-32}" --learning_rate "${LEARNING_RATE:-5e-4}" \
    --num_warmup_steps "${WARMUP:-$((updates / 10))}" --eval_every_steps "$every" --save_checkpoints_steps "$every" \
    --keep_checkpoint_max 2 --precision "$PRECISION" --seed "$SEED" \
    --restore_checkpoint=latest "${passed_on[@]}" "$@"
}

newest=$(newest_checkpoint "$run/checkpoints")
done_already=0
if [[ -n $newest ]]; then done_already=${newest##*-}; fi
if ((done_already < updates / 2)); then
  echo "== training, to a deliberate stop half-way"
  pretrain --steps_this_run $((updates / 2 - done_already))
fi
echo "== training, resumed to the end"
pretrain
echo "== export and report"
"$python" postprocess_pretrained_ckpt.py --pretrained_checkpoint "$run/checkpoints" --output_dir "$run/exports"
"$python" run_report.py "$run" --output "$folder/report.html"
# A fault is a finding about this text and these settings, no failure of the script.
"$python" run_report.py "$run" --check > "$folder/health.txt" || (($? == 1))
cat "$folder/health.txt"
"$python" scripts/run_provenance.py "$folder" --finished

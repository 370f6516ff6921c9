#!/usr/bin/env bash
# Fine-tune every checkpoint of a pre-training run on SQuAD, and write one table: checkpoint, step, EM, F1.
#
#   checkpoints=results/models/base/checkpoints bash scripts/finetune_ckpts_on_squad.sh
#   SQUAD_DIR=squad EPOCHS=1 bash scripts/finetune_ckpts_on_squad.sh -- --max_questions 2000
#
# `checkpoints` is one folder or several, with spaces between. Results go to squad/ beside each folder, or to
# OUT_DIR: the table is squad_scores.tsv. A checkpoint that stands in the table is not fine-tuned again, one that was
# interrupted goes on. All names of scripts/run_squad.sh count here too; what follows -- goes to run_tf_squad.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

names=()
further=(checkpoints EPOCHS TRAIN_BATCH_SIZE INFER_BATCH_SIZE LEARNING_RATE PRECISION NUM_GPU SEED SQUAD_VERSION
  SQUAD_DIR OUT_DIR CACHE_DIR MAX_STEPS XLA HOSTS VOCAB_FILE DATA_PREP_WORKING_DIR PYTHON)
# shellcheck source=common.sh
source scripts/common.sh
read_settings "$@"

read -ra folders <<< "${checkpoints:-results/models/base/checkpoints}"
[[ -z ${OUT_DIR:-} || ${#folders[@]} == 1 ]] || fail "OUT_DIR $OUT_DIR: several folders of checkpoints share no table"

# What the scores depend on; all that stands in one table was made alike.
settings=$(
  for name in EPOCHS TRAIN_BATCH_SIZE LEARNING_RATE PRECISION NUM_GPU HOSTS SEED SQUAD_VERSION SQUAD_DIR \
    DATA_PREP_WORKING_DIR VOCAB_FILE MAX_STEPS; do
    echo "$name=${!name:-}"
  done
  echo "flags: ${passed_on[*]}"
)

# fine_tune CHECKPOINT OUT: one checkpoint, to its row in the table.
fine_tune() {
  local name=${1##*/} results=$2/${1##*/}/eval_results.json table=$2/squad_scores.tsv status=0 exact
  echo "==== $name"
  ELECTRA_MODEL=$1 OUT_DIR=$2/$name INIT_CHECKPOINT=None MODE=train_eval CACHE_DIR=${CACHE_DIR:-$2/cache} \
    RESUME_TRAINING=true run_to_end bash scripts/run_squad.sh -- --keep_checkpoint_max=1 "${passed_on[@]}" || status=$?
  ((status == 0)) || exit "$status"
  exact=$(number exact_match "$results")
  printf '%s\t%s\t%s\t%s\n' "$name" "${name##*-}" "${exact:-$(number exact "$results")}" "$(number f1 "$results")" >> "$table"
}

shopt -s nullglob
for folder in "${folders[@]}"; do
  folder=${folder%/}
  mapfile -t found < <(
    for checkpoint in "$folder"/ckpt-[0-9]*/ "$folder"/ckpt-p2-[0-9]*/; do echo "${checkpoint%/}"; done | sort -V
  )
  ((${#found[@]})) || fail "checkpoints $folder: no checkpoints there"
  out=${OUT_DIR:-$(dirname "$folder")/squad}
  mkdir -p "$out"
  if [[ -f $out/squad_settings.txt && $(< "$out/squad_settings.txt") != "$settings" ]]; then
    fail "OUT_DIR $out: its table was made with other settings (squad_settings.txt); give another OUT_DIR"
  fi
  echo "$settings" > "$out/squad_settings.txt"
  [[ -f $out/squad_scores.tsv ]] || printf 'checkpoint\tstep\tEM\tF1\n' > "$out/squad_scores.tsv"
  for checkpoint in "${found[@]}"; do
    grep -q "^${checkpoint##*/}"$'\t' "$out/squad_scores.tsv" || fine_tune "$checkpoint" "$out"
  done
  echo "$out/squad_scores.tsv:"
  while IFS=$'\t' read -r name step exact f1; do
    printf '%-20s %10s %8.6s %8.6s\n' "$name" "$step" "$exact" "$f1"
  done < "$out/squad_scores.tsv"
done

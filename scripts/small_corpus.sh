#!/usr/bin/env bash
# The text of scripts/pretrain_small.sh and scripts/ablation.sh. Not run by itself; they read it by
# `source scripts/small_corpus.sh` and have `python` and `folder` set.
# shellcheck disable=SC2034,SC2154 # the scripts and this file use each other's variables
set -euo pipefail

# The names in the environment that this file reads.
corpus_names=(SHARDS CORPUS_DIR TEXT VOCAB_FILE VOCAB_SIZE MAX_SEQ_LENGTH)

# settle_corpus: sets `shards` and `held_out`, globs of training and of held-out shards, and `length`, their tokens.
# SHARDS is a folder of build_pretraining_dataset.py or of data/dataPrep.py. Without it they are made in CORPUS_DIR
# from TEXT, by default a piece of English Wikipedia from the package gensim, with VOCAB_FILE or a vocabulary of their
# own of VOCAB_SIZE pieces; a tenth of the documents is held out.
settle_corpus() {
  length=${MAX_SEQ_LENGTH:-128}
  [[ $length =~ ^[1-9][0-9]*$ ]] || fail "MAX_SEQ_LENGTH $length: must be a positive number"
  if [[ -n ${SHARDS:-} ]]; then
    shards=$SHARDS held_out=$SHARDS/held_out
    if [[ -d $SHARDS/train ]]; then shards=$SHARDS/train held_out=$SHARDS/test; fi
    [[ -d $held_out ]] || fail "SHARDS $SHARDS: has neither held_out/ nor train/ and test/"
    return
  fi
  local corpus=${CORPUS_DIR:-$folder/corpus} dataset=text text=${TEXT:-} vocabulary=${VOCAB_FILE:-}
  export DATA_PREP_WORKING_DIR=$corpus
  if [[ -z $text ]]; then
    "$python" data/package_files.py wikipedia_excerpt --output_dir "$corpus/download"
    dataset=wikicorpus_en text=$(compgen -G "$corpus/download/*.bz2")
  fi
  prepare() { "$python" data/dataPrep.py --action "$1" --dataset "$dataset" "${@:2}"; } # prepare ACTION FLAGS...
  prepare text_formatting --input_files "$text"
  if [[ -z $vocabulary ]]; then
    vocabulary=$corpus/vocabulary_${VOCAB_SIZE:-8192}/vocab.txt
    mkdir -p "${vocabulary%/*}"
    [[ -f $vocabulary ]] || "$python" build_vocabulary.py --corpus_dir "$corpus/formatted_one_article_per_line" \
      --vocab_size "${VOCAB_SIZE:-8192}" --output "$vocabulary"
  fi
  prepare sharding --fraction_test_set 0.1
  prepare create_tfrecord_files --fraction_test_set 0.1 --vocab_file "$vocabulary" --max_seq_length "$length"
  shards=$(compgen -G "$corpus/tfrecord_*_seq_len_${length}_*/$dataset/train")
  held_out=${shards%/train}/test
}

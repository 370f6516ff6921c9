#!/usr/bin/env bash
# Training data from its sources to the TFRecords of 128 and 512 tokens that scripts/run_pretraining.sh reads.
#
#   bash data/create_datasets_from_start.sh                     # wiki_only: English Wikipedia
#   bash data/create_datasets_from_start.sh wiki_books          # and BookCorpus, together
#   bash data/create_datasets_from_start.sh owt                 # OpenWebText
#   bash data/create_datasets_from_start.sh own my_texts/       # files and folders of your own
#   bash data/create_datasets_from_start.sh own my_texts/ -- --clean standard --tolerate 3
#
# What follows -- goes to data/dataPrep.py in every step. Paths are those of the folder where this is called. In the
# environment:
#
#   DATA_PREP_WORKING_DIR   where everything lies (default: data/ of this repository)
#   VOCAB_FILE              WordPiece vocabulary (default: vocab.txt in that folder, else that of Google's ELECTRA)
#   VOCAB_SIZE              train a vocabulary of so many pieces on this text instead, with VOCAB_FLAGS for
#                           build_vocabulary.py (--no-lower-case, say); one that is there and was not made so is refused
#   MAX_SEQ_LENGTHS         default "128 512"
#   N_PROCESSES             default: one a processor
#   DASK_SCHEDULER          tcp://host:port of a Dask scheduler whose workers do the work (data/run_dask_slurm.sub)
#   PYTHON                  the interpreter
#
# Run again, it goes on where it was; what is complete is not repeated.
set -euo pipefail
program=create_datasets_from_start.sh
here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=../scripts/common.sh
source scripts/common.sh

if [[ ${1:-} == -h || ${1:-} == --help ]]; then sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "data/$program" && exit; fi

mode=wiki_only
if (($#)) && [[ $1 != -- ]]; then
  mode=$1
  shift
fi
inputs=()
case $mode in
  wiki_only) dataset=wikicorpus_en ;;
  wiki_books) dataset=books_wiki_en_corpus ;;
  owt) dataset=openwebtext ;;
  own)
    dataset=text
    [[ ${1:---} != -- ]] || fail "own: which files? $program own DIR"
    while (($#)) && [[ $1 != -- ]]; do
      inputs+=("$1")
      shift
    done
    ;;
  *) fail "'$mode' is none of wiki_only, wiki_books, owt, own (see --help)" ;;
esac
if (($#)) && [[ $1 != -- ]]; then fail "'$1' is one too many (what goes to dataPrep.py follows --)"; fi
if (($#)); then shift; fi
passed_on=("$@")

settle_python
# absolute PATH: of the folder where this was called; it need not be there.
absolute() { (cd "$here" && realpath -sm -- "$1"); }

DATA_PREP_WORKING_DIR=$(absolute "${DATA_PREP_WORKING_DIR:-$PWD/data}")
export DATA_PREP_WORKING_DIR
vocabulary=$(absolute "${VOCAB_FILE:-$DATA_PREP_WORKING_DIR/vocab.txt}")
# What only the last step needs, before all the others.
[[ -z ${VOCAB_FILE:-} || -n ${VOCAB_SIZE:-} || -f $vocabulary ]] || fail "VOCAB_FILE $VOCAB_FILE: no such file"
lengths=${MAX_SEQ_LENGTHS:-128 512}
read -rd '' -a max_seq_lengths <<< "$lengths" || true
((${#max_seq_lengths[@]})) || fail "MAX_SEQ_LENGTHS '$lengths': names no length"
for length in "${max_seq_lengths[@]}"; do
  [[ $length =~ ^([89]|[1-9][0-9]{1,6})$ ]] || fail "MAX_SEQ_LENGTHS '$lengths': '$length' is no number from 8"
done
formatted=$DATA_PREP_WORKING_DIR/formatted_one_article_per_line
# What a vocabulary is trained with is noted before it is there, so that it is known again after an interruption.
note=$vocabulary.trained
training="$dataset ${VOCAB_SIZE:-} ${VOCAB_FLAGS:-}"
if [[ -n ${VOCAB_SIZE:-} && -f $vocabulary && $(cat "$note" 2> /dev/null) != "$training" ]]; then
  fail "VOCAB_SIZE $VOCAB_SIZE: $vocabulary is there and was not trained so; move it away, or leave VOCAB_SIZE out to use it"
fi

# prepare ACTION DATASET FLAGS...: one step.
prepare() {
  printf '\n== %s: %s (%d s)\n' "$2" "$1" "$SECONDS"
  command=("$python" data/dataPrep.py --action "$1" --dataset "$2")
  flag n_processes "${N_PROCESSES:-}"
  flag dask_scheduler "${DASK_SCHEDULER:-}"
  run_to_end "${command[@]}" "${@:3}" "${passed_on[@]}"
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if [[ $mode == own ]]; then
  # In a file, as one argument cannot hold thousands.
  (cd "$here" && realpath -smz -- "${inputs[@]}") > "$scratch/inputs"
  prepare text_formatting text --input_files "@$scratch/inputs" --vocab_file "$vocabulary"
else
  prepare download "$dataset"
  prepare text_formatting "$dataset"
fi
if [[ ! -f $vocabulary && -n ${VOCAB_SIZE:-} ]]; then
  printf '\n== vocabulary of %s pieces (%d s)\n' "$VOCAB_SIZE" "$SECONDS"
  corpus=$formatted/$dataset
  if [[ $dataset == books_wiki_en_corpus ]]; then
    # Of these two alone: other datasets may lie beside them.
    corpus=$scratch/corpus
    mkdir "$corpus"
    ln -s "$(realpath -- "$formatted")"/{bookscorpus,wikicorpus_en} "$corpus"
  fi
  mkdir -p -- "$(dirname -- "$vocabulary")"
  echo "$training" > "$note"
  read -ra vocabulary_flags <<< "${VOCAB_FLAGS:-}"
  run_to_end "$python" build_vocabulary.py --corpus_dir "$corpus" --vocab_size "$VOCAB_SIZE" --output "$vocabulary" \
    "${vocabulary_flags[@]}"
elif [[ ! -f $vocabulary ]]; then
  rm -f -- "$note"
  prepare download vocabulary ||
    fail "there is no vocabulary: VOCAB_FILE=FILE names one, VOCAB_SIZE=30522 trains one on this text"
fi
prepare sharding "$dataset"
for length in "${max_seq_lengths[@]}"; do
  prepare create_tfrecord_files "$dataset" --max_seq_length "$length" --vocab_file "$vocabulary"
done
# That launcher takes a path as one of the repository.
next="bash scripts/run_pretraining.sh"
[[ $DATA_PREP_WORKING_DIR == "$PWD/data" ]] || next="DATA_PREP_WORKING_DIR=${DATA_PREP_WORKING_DIR@Q} $next"
printf '\n%s: done in %d s; next: %s\n' "$program" "$SECONDS" "$next"

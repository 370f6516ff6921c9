#!/usr/bin/env bash
# How fast data preparation is on one core, against what it is built on, and as a whole; and the reader of pre-training.
#
#   bash scripts/benchmark_data.sh --text text.txt --vocab_file vocab.txt
#   bash scripts/benchmark_data.sh --text text.txt --vocab_file vocab.txt --reader_batch 128 --megabytes 20
#   bash scripts/benchmark_data.sh --text text.txt --vocab_file vocab.txt --dump enwiki.xml.bz2 --chain_megabytes 10,100,1000
#
# The text is a file of sentences, one a line, with blank lines between documents, such as a text shard. Rates are
# megabytes a second of CPU time (user and system) of one process, so that what else runs on the machine has little part
# in them; measures take turns, and the median of --rounds (3) counts. --dump measures Wikipedia's extraction too,
# --chain_megabytes the whole chain on texts of these sizes, by the clock, with its peak memory, and --reader_batch in
# examples a second how fast one thread makes updates ready for the step. All flags are those of scripts/data_speed.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

names=()
further=(PYTHON)
# shellcheck source=common.sh
source scripts/common.sh
if [[ ${1:-} == -h || ${1:-} == --help ]]; then show_help && exit; fi
settle_python
run_to_end "$python" scripts/data_speed.py "$@"

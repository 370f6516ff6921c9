#!/usr/bin/env bash
# How fast data preparation is on one core, against what it is built on.
#
#   bash scripts/benchmark_data.sh --text data/extracted/wiki/wiki_00000.txt --vocab_file vocab.txt
#
# Rates are megabytes of text a second of CPU time (user and system) of one process, so that what else runs on the
# machine has little part in them; measures take turns, and the median of --rounds (3) counts. --max_seq_length (128)
# is that of the examples, and --megabytes repeats a text up to a size. All flags are those of scripts/data_speed.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

names=()
further=(PYTHON)
# shellcheck source=common.sh
source scripts/common.sh
if [[ ${1:-} == -h || ${1:-} == --help ]]; then show_help && exit; fi
settle_python
run_to_end "$python" scripts/data_speed.py "$@"

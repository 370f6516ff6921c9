#!/usr/bin/env bash
# How fast data preparation is on one core, against what it is built on; all flags are those of scripts/data_speed.py.
#
#   bash scripts/benchmark_data.sh --text data/extracted/wiki/wiki_00000.txt --vocab_file vocab.txt
#
# Rates are megabytes of text a second of CPU time (user and system) of one process, so that what else runs on the
# machine has little part in them; measures take turns, and medians are printed. PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=common.sh
source scripts/common.sh
settle_python
run_to_end "$python" scripts/data_speed.py "$@"

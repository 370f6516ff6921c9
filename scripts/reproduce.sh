#!/usr/bin/env bash
# Run a named result again and compare its figures with the record in docs/results/; or make the record.
#
#   bash scripts/reproduce.sh quickstart                          # three seeds, then the comparison
#   SEEDS=1 bash scripts/reproduce.sh pretrain_small              # hours
#   SQUAD_DIR=FOLDER bash scripts/reproduce.sh squad              # on what data/xquad_split.py wrote there
#   bash scripts/reproduce.sh ablation --record                   # writes docs/results/ablation.json
#   bash scripts/reproduce.sh pretrain_small --record --from results/pretrain_small    # of a run that is finished
#
# --help lists the names. Exit code 0: within the spread, or recorded; 1: outside, or a run failed; 2: a mistake.
# In the environment: SEEDS ("1 2 3"; pretrain_small: 1), REPRODUCE_DIR (default results/reproduce), PYTHON, and the
# settings of the script that the name stands for; a comparison takes the record's, and refuses others at once. What is
# finished there at this commit is not run again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=common.sh
source scripts/common.sh

export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
if [[ -z ${PYTHON:-} && ! -x .venv/bin/python ]]; then bash scripts/install.sh; fi
settle_python
# The scripts that it starts have the packages then, and install nothing.
PYTHON=$(command -v "$python") || fail "PYTHON $python: no such program"
export PYTHON
command=("$python" scripts/reproduce.py)
flag seeds "${SEEDS:-}"
flag work_dir "${REPRODUCE_DIR:-}"
flag default_precision "$(best_cpu_precision)"
run_to_end "${command[@]}" "$@"

#!/usr/bin/env bash
# Install what the tests need into .venv and run them, the quick ones first:
#
#     bash scripts/run_tests.sh                           # all tests; lint is one of them (tests/test_style.py)
#     bash scripts/run_tests.sh -m "not slow"             # the quick ones; arguments go to pytest as they are
#     bash scripts/run_tests.sh tests/test_style.py -k lint
#
# The options of scripts/install.sh are set by running it first: `bash scripts/install.sh --tests --python PATH`.
# Tests of several workers are skipped where Horovod cannot be compiled (no cmake or C++ compiler; Python 3.13), those
# of several hosts where there is no ssh server (apt-get install openssh-server) or no right to network namespaces,
# those of pages where there is no Chromium (apt-get install chromium).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/install.sh --tests --horovod
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}"

if (($#)); then
    exec .venv/bin/python -m pytest "$@"
fi

# Two runs, so that a broken unit shows before the long trainings start; both are always made. Two files at a time, as
# the start of a whole program keeps one core busy. tests/conftest.py has the longest files first.
status=0
for selection in "not slow" "slow"; do
    outcome=0
    .venv/bin/python -m pytest -m "$selection" --numprocesses 2 --dist loadfile --no-loadscope-reorder || outcome=$?
    # 5: nothing is marked so
    ((outcome == 0 || outcome == 5 || status != 0)) || status=$outcome
    ((outcome != 2)) || break # interrupted
done
exit "$status"

#!/usr/bin/env bash
# Run a training, and start it again from its newest checkpoint when it crashes.
#
#   bash scripts/supervise.sh --max_restarts 5 -- python run_pretraining.py --model_name first …
#
#   --max_restarts N    give up after so many restarts in a row without a new checkpoint between them (default 3)
#   --checkpoints DIR   where new checkpoints show progress: anywhere below this folder (default: the command's
#                       --output_dir, or its --results_dir, else results, with the run of its --model_name)
#   --pause SECONDS     before the first restart; doubled for each further one, up to five minutes (default 5)
#
# It gives up at once on exit code 2, a mistake that no restart mends, and when it is told to stop itself. A restart adds
# --restore_checkpoint=latest to the command, which wins over one of its own once there is a new checkpoint;
# scripts/run_pretraining.sh is told the same by RESUME_TRAINING=true and, once there is a new one, RESTARTED=true in its
# environment. The exit code is the command's.
set -euo pipefail

# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

max_restarts=3 checkpoints='' pause=5
while (($#)) && [[ $1 != -- ]]; do
  case $1 in
    -h | --help) sed -n '2,/^set /{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
    --max_restarts | --checkpoints | --pause) [[ -n ${2:-} ]] || fail "$1 needs a value" ;;
    *) fail "unknown option $1 (see --help); the command follows --" ;;
  esac
  printf -v "${1#--}" '%s' "$2"
  shift 2
done
(($# > 1)) || fail "no command: give it after --"
shift
for name in max_restarts pause; do
  [[ ${!name} =~ ^[0-9]+$ ]] || fail "--$name ${!name}: must be a whole number"
done
say() { echo "supervise.sh: $1" >&2; }

# value_of NAME ARGUMENT...: the value of a flag among a command's arguments, in either spelling; the last one counts.
value_of() {
  local name=$1 value='' previous=''
  shift
  for argument in "$@"; do
    if [[ ${previous//-/_} == "__$name" ]]; then value=$argument; fi
    previous=${argument%%=*}
    if [[ $argument == --*=* ]]; then
      if [[ ${previous//-/_} == "__$name" ]]; then value=${argument#*=}; fi
      previous=''
    fi
  done
  echo "$value"
}

# run_folder ARGUMENT...: where the program that a command starts keeps its checkpoints, or where those of any run are.
run_folder() {
  local output name results
  output=$(value_of output_dir "$@") name=$(value_of model_name "$@") results=$(value_of results_dir "$@")
  echo "${output:-${results:-results}${name:+/models/$name}}"
}
if [[ -z $checkpoints ]]; then checkpoints=$(run_folder "$@"); fi

left_at_first=$(newest_checkpoint "$checkpoints")
restarts=0 wait=$pause left_before=$left_at_first
while true; do
  status=0
  run_to_end "$@" || status=$?
  if ((status == 0 || status == 2)) || [[ -n $was_signalled ]]; then exit "$status"; fi
  left=$(newest_checkpoint "$checkpoints")
  if [[ $left != "$left_before" ]]; then restarts=0 wait=$pause; fi
  if ((restarts >= max_restarts)); then
    say "ended with status $status, after $restarts restarts without a new checkpoint (${left:-there is none}): giving up"
    exit "$status"
  fi
  left_before=$left
  restarts=$((restarts + 1))
  say "ended with status $status; starting again in $wait s from ${left:-the beginning}"
  # So that a signal ends the pause.
  run_to_end sleep "$wait" || true
  [[ -z $was_signalled ]] || exit "$status"
  wait=$((wait * 2 < 300 ? wait * 2 : 300))
  export RESUME_TRAINING=true
  [[ $left == "$left_at_first" ]] || export RESTARTED=true
  case "$*" in
    *--restore_checkpoint=latest) ;;
    *--restore[-_]checkpoint*)
      # The checkpoint that it names is older than what has been saved since.
      if [[ $left != "$left_at_first" ]]; then set -- "$@" --restore_checkpoint=latest; fi
      ;;
    *run_pretraining.py* | *run_tf_squad.py* | *run_tf_glue.py*) set -- "$@" --restore_checkpoint=latest ;;
  esac
done

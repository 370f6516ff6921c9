#!/usr/bin/env bash
# What the launchers share: settings by position and by name, the device, a run with its log, its signals and its
# exit code. Not run by itself; a launcher in the root of the repository reads it by `source scripts/common.sh`
# and has its settings' names in two arrays: `names`, in the order of the positionals, and `further`.
# shellcheck disable=SC2034,SC2154 # the launchers and this file use each other's variables
set -euo pipefail

# fail MESSAGE: the one line and the exit code of a user's mistake.
fail() {
  echo "${program:-${0##*/}}: error: $1" >&2
  exit 2
}

# show_help: the comment at the top of the launcher, which is `launcher` if not in scripts/, and the names.
show_help() {
  sed -n '2,/^set /{s/^# \{0,1\}//p}' "${launcher:-scripts/${0##*/}}"
  printf '\npositionals, in order, also names in the environment:\n'
  printf '  %s\n' "${names[@]}"
  printf 'further names in the environment:\n  %s\n' "${further[*]}"
}

# read_settings ARGUMENT...: gives the positionals their names; what follows -- becomes the array `passed_on`.
read_settings() {
  local position=0
  if [[ ${1:-} == -h || ${1:-} == --help ]]; then show_help && exit; fi
  while (($#)) && [[ $1 != -- ]]; do
    ((position < ${#names[@]})) || fail "more than ${#names[@]} positionals, the first too many is '$1'"
    printf -v "${names[position]}" '%s' "$1"
    position=$((position + 1))
    shift
  done
  if (($#)); then shift; fi
  passed_on=("$@")
}

# settle_device GPUS_NAME: sets `precision` and `xla` from PRECISION and XLA or what the machine has, `python`, `gpus` and
# `workers`, what goes before a program that is to run as several. GPUS_NAME is the setting that holds the number of
# GPUs, or on a machine without any of processes; by default as many as there are GPUs. With HOSTS it is how many there
# are on all hosts; by default as many as the hosts have slots. With START=srun the workers are the tasks of this Slurm
# job instead.
settle_device() {
  local gpus_found slots=0 host hosts
  gpus_found=$(visible_gpus)
  precision=${PRECISION:-$([[ $gpus_found -gt 0 ]] && echo amp || echo tf32)}
  xla=${XLA:-$([[ $gpus_found -gt 0 ]] && echo xla || echo no_xla)}
  IFS=, read -ra hosts <<< "${HOSTS:-}"
  for host in "${hosts[@]}"; do
    [[ $host =~ ^[A-Za-z0-9][A-Za-z0-9._-]*:([1-9][0-9]*)$ ]] || fail "HOSTS '$HOSTS': '$host' is not HOST:SLOTS"
    slots=$((slots + BASH_REMATCH[1]))
  done
  gpus=${!1:-$((slots > 0 ? slots : gpus_found > 0 ? gpus_found : 1))}
  case $precision in
    amp | tf32 | fp32 | bf16) ;;
    *) fail "PRECISION '$precision' is none of amp, tf32, fp32, bf16" ;;
  esac
  case $xla in xla | no_xla) ;; *) fail "XLA '$xla' is neither xla nor no_xla" ;; esac
  [[ $gpus =~ ^[1-9][0-9]*$ ]] || fail "$1 '$gpus' is no positive number"
  settle_python
  workers=()
  if [[ ${START:-} == srun ]]; then
    settle_srun
  elif [[ -n ${HOSTS:-} ]]; then
    ((gpus <= slots)) || fail "$1 $gpus: HOSTS '$HOSTS' has $slots slots"
    workers=("$python" start_workers.py --workers "$gpus" --hosts "$HOSTS" ${SSH_CONFIG:+--ssh_config "$SSH_CONFIG"} --)
  elif ((gpus > 1)); then
    workers=("$python" start_workers.py --workers "$gpus" --)
  fi
}

# visible_gpus: how many GPUs a program sees that is started now: those of CUDA_VISIBLE_DEVICES, where that is set, up to
# the first that is none.
visible_gpus() {
  local found=0 named=() seen=0 name
  if command -v nvidia-smi > /dev/null; then found=$(nvidia-smi -L 2> /dev/null | grep -c '^GPU' || true); fi
  if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    IFS=, read -ra named <<< "$CUDA_VISIBLE_DEVICES"
    for name in "${named[@]}"; do
      name=${name// /}
      [[ -n $name && $name != -* && $name != NoDevFiles ]] || break
      [[ ! $name =~ ^[0-9]+$ ]] || ((10#$name < found)) || break
      seen=$((seen + 1))
    done
    found=$((seen < found ? seen : found))
  fi
  echo "$found"
}

# settle_srun: sets `workers`, and `python` to the container's where CONTAINER names an image. BIND is the --cpu of
# scripts/bind.sh.
settle_srun() {
  # A task that fails ends the others itself and says why; srun, which would kill them before, waits for that.
  workers=(srun --kill-on-bad-exit=0 --wait=60)
  [[ -z ${SLURM_CPUS_PER_TASK:-} ]] || workers+=(--cpus-per-task="$SLURM_CPUS_PER_TASK")
  if [[ -n ${CONTAINER:-} ]]; then
    workers+=(--container-image="$CONTAINER" --container-workdir="$PWD"
      --container-mounts="$PWD:$PWD${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}")
    python=${PYTHON:-python3}
  fi
  if [[ -n ${BIND:-} ]]; then workers+=(--cpu-bind=none bash scripts/bind.sh --cpu="$BIND" --); fi
}

# settle_python: sets `python` to PYTHON, else the one that scripts/install.sh made, else the machine's.
settle_python() {
  python=${PYTHON:-$([[ -x .venv/bin/python ]] && echo .venv/bin/python || echo python3)}
}

# flag NAME VALUE: adds --NAME=VALUE to `command`, unless there is no value: the program's own default counts then.
flag() { if [[ -n $2 && $2 != None ]]; then command+=("--$1=$2"); fi; }

# supervised FOLDER: lets scripts/supervise.sh run `command` where RESTARTS asks for it; checkpoints are in FOLDER.
supervised() {
  [[ ${RESTARTS:-0} != 0 ]] || return 0
  command=(bash scripts/supervise.sh --max_restarts "$RESTARTS" --checkpoints "$1" -- "${command[@]}")
}

# run_to_end COMMAND...: returns its exit code. It runs in the background, so that SIGTERM, Ctrl-C and Slurm's SIGUSR1
# at the launcher reach it at once, as SIGTERM; it may take its time to save. `was_signalled` is which came last.
run_to_end() {
  local child='' status name signalled='' passed=TERM
  # srun kills its tasks when it gets SIGTERM; SIGUSR1 it hands to them, and they take it for the same.
  [[ ${START:-} != srun ]] || passed=USR1
  was_signalled=''
  for name in TERM INT USR1; do
    # shellcheck disable=SC2064 # the names are put in now
    trap "signalled=$name was_signalled=$name; [[ -z \$child ]] || kill -$passed \$child 2> /dev/null || true" "$name"
  done
  "$@" &
  child=$!
  [[ -z $signalled ]] || kill "-$passed" "$child" 2> /dev/null || true
  # A signal ends `wait` early; the status that counts is that of the command itself.
  while true; do
    signalled='' status=0
    wait "$child" || status=$?
    [[ -n $signalled ]] || break
  done
  trap - TERM INT USR1
  return "$status"
}

# run_logged LOG COMMAND...: as run_to_end, with all output also at the end of the file LOG.
run_logged() {
  local log=$1 copy copier status=0
  shift
  # A signal to the whole group must not end the copying: a broken pipe would end the command while it saves.
  exec {copy}> >(trap '' TERM INT USR1 && exec tee -a "$log")
  copier=$!
  run_to_end "$@" >&"$copy" 2>&1 || status=$?
  exec {copy}>&-
  # For the log's last lines; something that the command left running may hold the pipe, so not for ever.
  for _ in {1..50}; do
    kill -0 "$copier" 2> /dev/null || break
    sleep 0.1
  done
  return "$status"
}

# settle_questions FOLDER SQUAD_DIR: notes in FOLDER which questions its model is fine-tuned and scored on, and stops
# where it was begun on others.
settle_questions() {
  local found
  found=$("$python" scripts/squad_checksums.py "$2")
  if [[ -f $1/questions.sha256 && $(< "$1/questions.sha256") != "$found" ]]; then
    fail "$1: was fine-tuned on other questions than those of $2; delete it, or give another folder"
  fi
  mkdir -p "$1"
  echo "$found" > "$1/questions.sha256"
}

# best_cpu_precision: bf16 where the processor multiplies in it, else tf32, which is float32 there.
best_cpu_precision() {
  if grep -qsE '^flags.* (avx512_bf16|amx_bf16)' /proc/cpuinfo; then echo bf16; else echo tf32; fi
}

# number KEY FILE: the last number that a JSON file or log of ours has under KEY; nothing where there is none.
number() { grep -oE "\"$1\": [-+.0-9eE]+" "$2" | tail -n 1 | cut -d' ' -f2 || true; }

# newest_checkpoint FOLDER: the last checkpoint below it that was finished, or nothing.
newest_checkpoint() {
  [[ -d $1 ]] || return 0
  find "$1" -type d -name 'ckpt-*' -printf '%T@ %p\n' 2> /dev/null | sort -n | tail -n 1 | cut -d' ' -f2-
}

# need_docker: stops where docker is missing or its daemon does not answer; sets `docker_security`, its options.
need_docker() {
  command -v docker > /dev/null || fail "docker is not on the PATH"
  docker_security=$(docker info --format '{{.SecurityOptions}}' 2>&1) || fail "docker info: ${docker_security##*$'\n'}"
}

# default_user: whoever runs this, as docker run --user wants it; a rootless daemon calls that one 0.
default_user() {
  if [[ $docker_security == *name=rootless* ]]; then echo 0:0; else echo "$(id -u):$(id -g)"; fi
}

#!/usr/bin/env bash
# Start a container of the image that scripts/docker/build.sh made, with this repository on /workspace/electra.
#
#   bash scripts/docker/launch.sh
#   bash scripts/docker/launch.sh "bash scripts/run_pretraining.sh" 0,1 host -- -e MODEL_SIZE=small
#   DATA_DIR=/raid/electra RESULTS_DIR=/raid/results bash scripts/docker/launch.sh
#
# A setting is a positional (NVIDIA's order, below), else the environment variable of that name, else the default.
#   COMMAND   words divided by blanks, run without a shell (/bin/bash)
#   GPUS      all, none, or indexes such as 0,1 (all; none where there is no NVIDIA driver)
#   NETWORK   of docker run --network (host)
#   IMAGE     its name (electra)
#   DATA_DIR  a folder, seen as /workspace/data and named by DATA_PREP_WORKING_DIR
#   RESULTS_DIR      a folder, made where it is missing, in place of the repository's results
#   SHM_SIZE, IPC    of docker run --shm-size (1g) and --ipc (docker's default; the size counts for a private one only)
#   CONTAINER_USER   of docker run --user (whoever starts it, so that new files on the mounts are theirs)
# What follows -- goes to docker run.
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

names=(COMMAND GPUS NETWORK)
further=(IMAGE DATA_DIR RESULTS_DIR SHM_SIZE IPC CONTAINER_USER)
launcher=scripts/docker/launch.sh

# shellcheck source=../common.sh
source scripts/common.sh
read_settings "$@"

gpus=${GPUS:-all}
[[ $gpus =~ ^(all|none|[A-Za-z0-9:-]+(,[A-Za-z0-9:-]+)*)$ ]] || fail "GPUS '$gpus' is neither all, none nor indexes such as 0,1"
read -r -d '' -a words <<< "${COMMAND:-/bin/bash}" || true
need_docker
image=${IMAGE:-electra}
# Never pulled: another's image may have that name on a public registry.
docker image inspect "$image" > /dev/null 2>&1 || fail "no image '$image' here: bash scripts/docker/build.sh"

# add_mount SOURCE TARGET: a folder of the caller's; quoted, since a comma would end the field.
add_mount() {
  local source=$1
  [[ $source == /* ]] || source=$caller/$source
  command+=(--mount "type=bind,\"source=${source//\"/\"\"}\",target=$2")
}

command=(docker run --rm --init --pull never --network "${NETWORK:-host}"
  --ulimit memlock=-1 --ulimit stack=67108864 --user "${CONTAINER_USER:-$(default_user)}")
[[ ! -t 0 || ! -t 1 ]] || command+=(-it)
if [[ ${IPC:-private} == private ]]; then command+=(--shm-size "${SHM_SIZE:-1g}"); fi
if [[ -n ${IPC:-} ]]; then command+=(--ipc "$IPC"); fi
add_mount "$PWD" /workspace/electra
if [[ -n ${DATA_DIR:-} ]]; then
  (cd "$caller" && [[ -d $DATA_DIR ]]) || fail "DATA_DIR '$DATA_DIR' is not a folder"
  add_mount "$DATA_DIR" /workspace/data
  command+=(--env DATA_PREP_WORKING_DIR=/workspace/data)
fi
if [[ -n ${RESULTS_DIR:-} ]]; then
  # Both ends are made here: docker would make them as root.
  { mkdir -p results && cd "$caller" && mkdir -p -- "$RESULTS_DIR" && cd "$OLDPWD"; } 2> /dev/null ||
    fail "RESULTS_DIR '$RESULTS_DIR' cannot be made"
  add_mount "$RESULTS_DIR" /workspace/electra/results
fi
if [[ $gpus != none ]]; then
  if ! nvidia-smi -L > /dev/null 2>&1; then
    echo "launch.sh: no NVIDIA driver here: starting without GPUs" >&2
  elif [[ $gpus == all ]]; then
    command+=(--gpus all)
  else
    command+=(--gpus "\"device=$gpus\"")
  fi
fi
exec "${command[@]}" "${passed_on[@]}" "$image" "${words[@]}"

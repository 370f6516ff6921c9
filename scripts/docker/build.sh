#!/usr/bin/env bash
# Build the image that scripts/docker/launch.sh starts.
#
#   bash scripts/docker/build.sh [--target ngc|cuda|cpu] [--tag NAME] [-- arguments of docker build]
#   bash scripts/docker/build.sh --target cpu -- --build-arg DLLOGGER= --network host
#
#   --target  ngc (default): NVIDIA's TensorFlow image; cuda: TensorFlow's own build on CUDA's; cpu: without GPUs
#   --tag     the image's name (default: electra)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# shellcheck source=../common.sh
source scripts/common.sh

target=ngc tag=electra
while (($#)); do
  case $1 in
    --target | --tag) (($# > 1)) || fail "$1 needs a value" && printf -v "${1#--}" '%s' "$2" && shift ;;
    --target=* | --tag=*) name=${1%%=*} && printf -v "${name#--}" '%s' "${1#*=}" ;;
    --) shift && break ;;
    -h | --help) sed -n '2,/^set /{s/^# \{0,1\}//p}' scripts/docker/build.sh && exit ;;
    *) fail "unknown option '$1' (see --help)" ;;
  esac
  shift
done
case $target in ngc | cuda | cpu) ;; *) fail "--target '$target' is none of ngc, cuda, cpu" ;; esac
need_docker

# Only BuildKit leaves out the stages that the target does not need.
export DOCKER_BUILDKIT=1
exec docker build --target "$target" --tag "$tag" "$@" .

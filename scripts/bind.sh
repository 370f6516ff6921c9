#!/usr/bin/env bash
# Run a command on the processors and the memory near this worker's GPU; started once for each worker.
#
#   python start_workers.py --workers 8 -- bash scripts/bind.sh --cpu=exclusive -- python run_pretraining.py …
#   srun --ntasks-per-node=8 --cpu-bind=none bash scripts/bind.sh --cluster=dgxa100 -- python run_pretraining.py …
#
#   --cpu=node             all processors of the NUMA node of the GPU (default)
#   --cpu=exclusive        this worker's own part of them: whole cores
#   --cpu=exclusive,nosmt  one thread of each of these cores
#   --cpu=off              any processor (also none)
#   --mem=node|off         memory of that node (default), or any
#   --cluster=NAME         whose table says where the GPUs are: dgx1, dgx2, dgxa100; auto asks the kernel (default:
#                          CLUSTER in the environment, else auto)
#   --ib=single|off        accepted for NVIDIA's scripts: NCCL itself takes the adapters near the GPU
#
# The worker's number is its launcher's (Horovod, Open MPI, MVAPICH2, Intel MPI, Slurm); the GPU is the one of that
# number in CUDA_VISIBLE_DEVICES. Without GPUs the NUMA nodes are divided among the workers. What cannot be bound is
# left unbound, and worker 0 says so. affinity.py finds the place; nothing is ever bound beyond what the process may
# use already.
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=common.sh
source "$here/common.sh"

cpu=node mem=node cluster=${CLUSTER:-auto}
while (($#)) && [[ $1 != -- ]]; do
  case $1 in
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
    --cpu=node | --cpu=exclusive | --cpu=exclusive,nosmt | --cpu=off) cpu=${1#*=} ;;
    --cpu=none) cpu=off ;;
    --mem=node | --mem=off) mem=${1#*=} ;;
    --cluster=?*) cluster=${1#*=} ;;
    --cluster) [[ -n ${2:-} ]] || fail "--cluster needs a name" && cluster=$2 && shift ;;
    --ib=single | --ib=off) ;;
    -*) fail "unknown option $1 (see --help)" ;;
    *) fail "no -- before the command $1" ;;
  esac
  shift
done
(($# > 1)) || fail "no command: give it after --"
shift

[[ $cpu != off || $mem != off ]] || exec "$@"
settle_python
place=$("$python" "$here/../affinity.py" "$cpu" "$cluster") || exit 2
read -r rank share processors nodes <<< "$place"
[[ -n $processors ]] || exec "$@"

say() { [[ $rank != 0 ]] || echo "bind.sh: $1" >&2; }

numactl=(numactl)
[[ $cpu == off ]] || numactl+=("--physcpubind=$processors")
[[ $mem == off ]] || numactl+=("--membind=$nodes")
why_not=
if [[ -z $nodes ]]; then
  why_not="one NUMA node"
elif ! command -v numactl > /dev/null; then
  why_not="no numactl here"
elif ! "${numactl[@]}" true 2> /dev/null; then
  why_not="'${numactl[*]}' fails (in Docker it needs --cap-add SYS_NICE)"
fi

# So that the program does not divide its processors among the workers once more.
[[ $cpu == off ]] || export BOUND_WORKERS=$share
[[ -n $why_not ]] || exec "${numactl[@]}" "$@"
[[ $mem == off ]] || say "$why_not: memory is not bound"
[[ $cpu != off ]] || exec "$@"
if ! command -v taskset > /dev/null; then
  unset BOUND_WORKERS
  say "no taskset either: nothing is bound"
  exec "$@"
fi
exec taskset --cpu-list "$processors" "$@"

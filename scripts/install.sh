#!/usr/bin/env bash
# Make .venv in the repository root with the pinned requirements in it; a second run only sees that it is current.
#
#     bash scripts/install.sh [--tests] [--python PATH]
#
#   --tests        also install what the tests need (pytest, ruff, transformers, torch, ...)
#   --python PATH  the interpreter to use: Python 3.11, 3.12 or 3.13 (default: that of .venv, else the first of
#                  python3, python3.12, python3.11, python3.13 that fits)
#   TENSORFLOW_BUILD=cpu|gpu in the environment chooses the build (default: gpu where an NVIDIA driver is found)
set -euo pipefail
trap 'exit 130' INT
trap 'exit 143' TERM

say() { echo "install.sh: $*"; }
stop() { say "$@" >&2 && exit 2; }

# ---- What is asked for
tests="" chosen=""
while (($#)); do
    case $1 in
        --tests) tests=1 ;;
        --python) [[ -n ${2:-} ]] || stop "--python needs a path" && chosen=$2 && shift ;;
        --python=*) chosen=${1#*=} ;;
        -h | --help) sed -n '2,/^set /{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
        *) stop "unknown option $1 (see --help)" ;;
    esac
    shift
done
[[ $chosen != */* || $chosen == /* ]] || chosen=$PWD/$chosen
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ $(uname -s) == Linux ]] || stop "the requirements are locked for Linux; on $(uname -s) use a Linux container"
! command -v flock >/dev/null || { exec 9<. && flock 9; } || true # one at a time, where the disk can lock

apt_install() { # plain Debian and Ubuntu come without some of Python; only root can add it
    [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null || return 1
    say "apt-get install $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# ---- The interpreter: its version, and the executable behind a virtual environment or a version manager's shim
probe() {
    "$1" -c 'import platform, sys
print(platform.python_version(), getattr(sys, "_base_executable", sys.executable))' 2>/dev/null
}
fits() { read -r version python < <(probe "$1") && [[ $version =~ ^3\.1[123]\. ]]; }
needed="Python 3.11, 3.12 or 3.13 is needed"
if [[ -n $chosen ]]; then
    fits "$chosen" || stop "--python $chosen is ${version:+Python }${version:-not a Python interpreter}; $needed"
else
    command -v python3 >/dev/null || apt_install python3 python3-venv || stop "no python3 on the PATH; $needed"
    fits .venv/bin/python || fits python3 || fits python3.12 || fits python3.11 || fits python3.13 ||
        { read -r version _ < <(probe python3) && stop "python3 is Python $version; $needed (--python PATH)"; } ||
        stop "python3 does not run; $needed (--python PATH)"
fi

# ---- The build of TensorFlow; gpu stays where a machine without a GPU shares the folder
build=${TENSORFLOW_BUILD:-}
if [[ -z $build ]]; then
    build=cpu
    if [[ $(uname -m) == x86_64 ]] && { [[ -e /proc/driver/nvidia/version || -e /dev/nvidia0 ]] ||
        command -v nvidia-smi >/dev/null || grep -qs ' gpu build' .venv/.installed; }; then
        build=gpu
    fi
fi
[[ $build == cpu || $build == gpu ]] || stop "TENSORFLOW_BUILD=$build: must be cpu or gpu"

# ---- Current already? The stamp is written last, so an installation that was stopped has none
identity="Python $version, TensorFlow $build build, in $PWD/.venv"
locks=("requirements-$build.lock" ${tests:+requirements-tests.lock})
sums() { sha256sum "$@" | cut -d' ' -f1 | tr '\n' ' '; }
stamps=("$identity: $(sums "${locks[0]}")")
[[ -z $tests ]] || stamps+=("$identity, with tests: $(sums "${locks[@]}" requirements-torch.txt requirements-serving.lock)")
notice=""
[[ $version != 3.13.* ]] || notice=" (no Horovod: it does not compile against a TensorFlow for Python 3.13)"
if [[ ! -e .venv/.incomplete ]] && grep -qsxF -- "${stamps[-1]}" .venv/.installed; then
    say "up to date: $identity$notice" && exit
fi

# ---- The virtual environment: kept where only the lists changed, made anew where it is another's or half made
usable() {
    [[ ! -e .venv/.incomplete && (! -e .venv/.installed || $(<.venv/.installed) == "$identity"*) &&
        $(probe .venv/bin/python) == "$version "* ]] && .venv/bin/python -m pip --version >/dev/null 2>&1
}
if ! usable; then
    can_make() { "$python" -c 'import ensurepip, venv' 2>/dev/null; }
    package=python${version%.*}-venv
    can_make || { apt_install "$package" && can_make; } ||
        stop "$python cannot make virtual environments; run: sudo apt-get install -y $package"
    [[ ! -e .venv ]] || say "making .venv anew"
    rm -rf .venv && mkdir .venv && touch .venv/.incomplete
    "$python" -m venv .venv
fi
touch .venv/.incomplete
rm -f .venv/.installed

# ---- The packages: uv takes a quarter of pip's time; pip, which knows the machine's own mirrors, is the way out
say "installing: $identity (2 GB on disk; 5 GB the gpu build)"
quiet=(--quiet)
[[ ! -t 1 ]] || quiet=()
pip=(.venv/bin/python -m pip --disable-pip-version-check install "${quiet[@]}")
locked=("${pip[@]}" --only-binary :all: --require-hashes)
{ "${locked[@]}" -r requirements-uv.lock &&
    .venv/bin/python -m uv pip install "${quiet[@]}" --python .venv/bin/python --system-certs --compile-bytecode \
        --no-build --require-hashes "${locks[@]/#/--requirement=}"; } ||
    { say "uv did not succeed; trying pip" && "${locked[@]}" "${locks[@]/#/--requirement=}"; }

# Torch's CPU build is on no package index: from a folder or mirror that pip is set to, else from PyTorch's own.
if [[ -n $tests ]]; then
    torch=("${pip[@]}" --no-deps --retries 1 -r requirements-torch.txt)
    "${torch[@]}" 2>/dev/null || "${torch[@]}" --index-url https://download.pytorch.org/whl/cpu ||
        say "WARNING: no torch: the tests that compare with Hugging Face's models will be skipped"
    "${locked[@]}" --no-deps -r requirements-serving.lock 2>/dev/null ||
        say "WARNING: no tensorflow-text: the tests of SavedModels will be skipped"
fi

# What imports print is told only where they fail; the answer is the last line.
code='import keras, tensorflow; print("TensorFlow", tensorflow.__version__, "and Keras", keras.__version__)'
versions=$(TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python -c "$code" 2>&1) || { echo "$versions" >&2 && exit 1; }
rm .venv/.incomplete
printf '%s\n' "${stamps[@]}" >.venv/.installed
say "done in $SECONDS s: Python $version with ${versions##*$'\n'}$notice"

#!/usr/bin/env bash
# Make .venv in the repository root with the pinned requirements in it; a second run only sees that it is current.
#
#     bash scripts/install.sh [--tests] [--horovod] [--python PATH]
#
#   --tests        also install what the tests need (pytest, ruff, transformers, torch, ...)
#   --horovod      also compile Horovod, for training by several workers; needs a C++ compiler and cmake, takes two
#                  minutes on two cores, and keeps the wheel in ~/.cache for the next time. With MPI where its
#                  headers are, with NCCL where nvcc and nccl.h are. With --tests only where it can be compiled
#   --python PATH  the interpreter to use: Python 3.11, 3.12 or 3.13 (default: that of .venv, else the first of
#                  python3, python3.12, python3.11, python3.13 that fits)
#   TENSORFLOW_BUILD=cpu|gpu in the environment chooses the build (default: gpu where an NVIDIA driver is found)
set -euo pipefail
trap 'exit 130' INT
trap 'exit 143' TERM

say() { echo "install.sh: $*"; }
stop() { say "$@" >&2 && exit 2; }

# ---- What is asked for
tests="" horovod="" chosen=""
while (($#)); do
    case $1 in
        --tests) tests=1 ;;
        --horovod) horovod=1 ;;
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

# ---- Horovod: can it be compiled here?
notice=""
[[ $version != 3.13.* ]] || notice=" (no Horovod: it does not compile against a TensorFlow for Python 3.13)"
if [[ -n $horovod ]]; then
    tools() { command -v cmake >/dev/null && command -v "${CXX:-g++}" >/dev/null && command -v make >/dev/null; }
    missing=""
    if [[ $version == 3.13.* ]]; then
        missing="Horovod does not compile against a TensorFlow for Python 3.13: take 3.11 or 3.12 (--python PATH)"
    elif ! tools && ! { apt_install cmake g++ make && tools; }; then
        missing="Horovod is compiled from source; run: sudo apt-get install -y cmake g++ make"
        notice=" (no Horovod: no cmake or C++ compiler here)"
    fi
    [[ -z $missing || -n $tests ]] || stop "$missing"
    [[ -z $missing ]] || horovod=""
fi

# ---- Current already? The stamps are written last, so an installation that was stopped has none
identity="Python $version, TensorFlow $build build, in $PWD/.venv"
locks=("requirements-$build.lock" ${tests:+requirements-tests.lock} ${horovod:+requirements-horovod.lock})
sums() { sha256sum "$@" | cut -d' ' -f1 | tr '\n' ' '; }
stamp() {
    case $1 in
        base) echo "$identity: $(sums "${locks[0]}")" ;;
        tests)
            echo "$identity, with tests: $(sums "${locks[0]}" requirements-tests.lock requirements-torch.txt \
                requirements-serving.lock)" ;;
        horovod)
            echo "$identity, with Horovod: $(sums "${locks[0]}" requirements-horovod.lock requirements-horovod-source.txt)" ;;
    esac
}
parts=(base ${tests:+tests} ${horovod:+horovod})
installed() { [[ ! -e .venv/.incomplete ]] && grep -qsxF -- "$(stamp "$1")" .venv/.installed; }
current=1
for part in "${parts[@]}"; do installed "$part" || current=""; done
if [[ -n $current ]]; then say "up to date: $identity$notice" && exit; fi
# What is there beside the wanted parts stays, and stays on record.
for part in tests horovod; do
    [[ " ${parts[*]} " == *" $part "* ]] || ! installed "$part" || parts+=("$part")
done

# ---- The virtual environment: kept where only the lists changed, made anew where it is another's or half made
usable() {
    [[ ! -e .venv/.incomplete && (! -e .venv/.installed || $(<.venv/.installed) == "$identity"*) &&
        $(probe .venv/bin/python) == "$version "* ]] && .venv/bin/python -m pip --version >/dev/null 2>&1
}
if ! usable; then
    parts=(base ${tests:+tests} ${horovod:+horovod})
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

# ---- Horovod, compiled against the TensorFlow that is there now; the wheel is kept under all that it follows from
if [[ -n $horovod ]]; then
    mpi=WITHOUT_MPI
    ! command -v mpicxx >/dev/null || mpi=WITH_MPI
    gpu=""
    if command -v nvcc >/dev/null && [[ -n ${HOROVOD_NCCL_HOME:-} || -e /usr/include/nccl.h ]]; then gpu=NCCL; fi
    tensorflow=$(.venv/bin/python -m pip freeze 2>/dev/null | grep -E '^tensorflow(-cpu)?==' || true)
    key=$(echo "$version $(uname -m) $tensorflow $mpi $gpu $(sums requirements-horovod-source.txt)" | sha256sum)
    kept=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/electra/horovod-${key:0:16}
    compile() {
        # Its build asks for data for a debugger and for Gloo by three ABIs: a third of the time, most of the wheel.
        cat >.venv/horovod_cmake <<'CMAKE'
#!/bin/sh
[ "$1" = --build ] || exec cmake "$@" '-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O3 -DNDEBUG'
folder=$2
shift 2
exec cmake --build "$folder" --target tensorflow "$@"
CMAKE
        chmod +x .venv/horovod_cmake
        env HOROVOD_CMAKE="$PWD/.venv/horovod_cmake" HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 \
            HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_GLOO=1 \
            "HOROVOD_$mpi=1" ${gpu:+HOROVOD_GPU_OPERATIONS="$gpu"} MAKEFLAGS="-j$(nproc)" \
            .venv/bin/python -m pip --disable-pip-version-check wheel --no-build-isolation --no-deps \
            --no-cache-dir --require-hashes -r requirements-horovod-source.txt -w "$kept" >"$kept/build.log" 2>&1
    }
    if ! compgen -G "$kept/horovod-*.whl" >/dev/null; then
        say "compiling Horovod (${mpi,,}${gpu:+, $gpu}), some two minutes on two cores"
        mkdir -p "$kept"
        if ! compile; then
            if [[ -z $tests ]]; then
                tail -n 20 "$kept/build.log" >&2
                say "Horovod does not compile; all of it is in $kept/build.log" >&2
                exit 1
            fi
            say "WARNING: Horovod does not compile, see $kept/build.log: the tests of several workers are skipped"
            horovod="" parts=("${parts[@]/horovod/}")
        fi
    fi
    [[ -z $horovod ]] || "${pip[@]}" --no-deps --no-index --force-reinstall "$kept"/horovod-*.whl
fi

# What imports print is told only where they fail; the answer is the last line.
code='import keras, tensorflow; print("TensorFlow", tensorflow.__version__, "and Keras", keras.__version__)'
versions=$(TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python -c "$code" 2>&1) || { echo "$versions" >&2 && exit 1; }
rm .venv/.incomplete
for part in "${parts[@]}"; do stamp "$part"; done >.venv/.installed
say "done in $SECONDS s: Python $version with ${versions##*$'\n'}$notice"

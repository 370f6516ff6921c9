#!/usr/bin/env bash
# Make the hash-checked locks from requirements.txt and requirements-tests.txt; needs the package index.
#
#     bash scripts/lock_requirements.sh                          # after a change of a list: other pins stay
#     bash scripts/lock_requirements.sh --upgrade                # the newest versions of everything
#     bash scripts/lock_requirements.sh --upgrade-package NAME   # the newest version of one package
#
# One lock for each TensorFlow build, with markers for the Python versions, and one for the tests. The arguments go
# to `uv pip compile`. PYTHON names the interpreter that uv is installed with (default: python3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

options=("$@")
root=$PWD
workspace=$(mktemp -d)
trap 'rm -rf "$workspace"' EXIT

"${PYTHON:-python3}" -m venv "$workspace/venv"
"$workspace/venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: \
    --require-hashes -r requirements-uv.lock

# In a folder of its own: paths in the locks' comments stay relative, and the locks change together or not at all.
cp requirements*.txt requirements*.lock "$workspace"
cd "$workspace"

compile() { # compile LIST LOCK MACHINES [option of uv ...]
    local list=$1 lock=$2 machine environments=""
    for machine in $3; do
        environments+="\"sys_platform == 'linux' and platform_machine == '$machine' and python_version < '3.14'\", "
    done
    printf '[project]\nname = "locks"\nversion = "0"\n' >pyproject.toml
    printf '[tool.uv]\nenvironments = [%s]\n' "$environments" >>pyproject.toml
    echo "lock_requirements.sh: $lock"
    venv/bin/uv pip compile --quiet --system-certs --universal --python venv/bin/python --python-version 3.11 \
        --no-build --generate-hashes --no-emit-index-url --no-emit-find-links \
        --custom-compile-command "bash scripts/lock_requirements.sh" "$list" --output-file "$lock" \
        ${options[@]+"${options[@]}"} "${@:4}"
}

echo uv >requirements-uv.txt
compile requirements-uv.txt requirements-uv.lock "x86_64 aarch64"

# tensorflow-cpu exists for x86_64 only; on aarch64 the plain wheel has no CUDA either.
sed -E 's/ *#.*//' requirements.txt >list.txt
sed -E 's/^tensorflow([^;]*);(.*)/tensorflow-cpu\1;\2 and platform_machine == "x86_64"\
tensorflow\1;\2 and platform_machine != "x86_64"/' list.txt >requirements.txt
compile requirements.txt requirements-cpu.lock "x86_64 aarch64"

sed -E 's/^tensorflow([^;]*);(.*)/tensorflow[and-cuda]\1;\2/' list.txt >requirements.txt
compile requirements.txt requirements-gpu.lock x86_64 --constraint requirements-cpu.lock

compile requirements-tests.txt requirements-tests.lock "x86_64 aarch64" --constraint requirements-cpu.lock

compile requirements-horovod.txt requirements-horovod.lock "x86_64 aarch64" \
    --constraint requirements-cpu.lock --constraint requirements-tests.lock

# Its dependency is TensorFlow, which one of the two locks above has brought under one of two names.
compile requirements-serving.txt requirements-serving.lock "x86_64" --no-deps

cp requirements*.lock "$root"
echo "lock_requirements.sh: done; now run: bash scripts/run_tests.sh"

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

root=$PWD
workspace=$(mktemp -d)
trap 'rm -rf "$workspace"' EXIT

echo "lock_requirements.sh: installing uv"
"${PYTHON:-python3}" -m venv "$workspace/venv"
"$workspace/venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: \
    --require-hashes -r requirements-uv.lock

# In a folder of its own: paths in the locks' comments stay relative, and the locks change together or not at all.
cp requirements*.txt requirements*.lock "$workspace"
cd "$workspace"
cat >pyproject.toml <<'END'
[project]
name = "locks"
version = "0"
[tool.uv]
environments = [
    "sys_platform == 'linux' and platform_machine == 'x86_64' and python_version < '3.14'",
    "sys_platform == 'linux' and platform_machine == 'aarch64' and python_version < '3.14'",
]
END

compile() { # compile LIST LOCK [option of uv ...]
    echo "lock_requirements.sh: $2"
    venv/bin/uv pip compile --quiet --system-certs --universal --python venv/bin/python --python-version 3.11 \
        --no-build --generate-hashes --no-emit-index-url --no-emit-find-links \
        --custom-compile-command "bash scripts/lock_requirements.sh" "$1" --output-file "$2" "${@:3}"
}

echo uv >requirements-uv.txt
compile requirements-uv.txt requirements-uv.lock "$@"

sed -Ei 's/ *#.*//' requirements.txt
cp requirements.txt list.txt
# tensorflow-cpu exists for x86_64 only; elsewhere the plain wheel has no CUDA either.
sed -E 's/^tensorflow([^;]*);(.*)/tensorflow-cpu\1;\2 and platform_machine == "x86_64"\
tensorflow\1;\2 and platform_machine != "x86_64"/' list.txt >requirements.txt
compile requirements.txt requirements-cpu.lock "$@"

sed -E 's/^tensorflow([^;]*);(.*)/tensorflow[and-cuda]\1;\2/' list.txt >requirements.txt
compile requirements.txt requirements-gpu.lock --constraint requirements-cpu.lock "$@"

compile requirements-tests.txt requirements-tests.lock --constraint requirements-cpu.lock "$@"

cp requirements*.lock "$root"
echo "lock_requirements.sh: done; now run: bash scripts/run_tests.sh"

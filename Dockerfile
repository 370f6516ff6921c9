# Images of the toolkit, one for each --target; scripts/docker/build.sh builds them, scripts/docker/launch.sh starts one
# with the repository on /workspace/electra, over the copy of the code that the image holds.
#
#   ngc   (default) NVIDIA's image with its TensorFlow, CUDA, NCCL, MPI
#   cuda  TensorFlow's own build for GPUs on a small CUDA image
#   cpu   TensorFlow's build for CPUs on Debian
#
# Packages lie in /opt/electra/.venv, which no mount covers, and come from the locks; what only compiles stays in the
# stages named *-packages. A change of the code changes the last layer only.
#
# No container engine ran where this was written. The steps of cpu were executed by tests/dockerfile_steps.py. Not
# verified, only recalled or read elsewhere: 25.02 is the last TensorFlow image of NGC (TensorFlow 2.17, Python 3.12,
# Ubuntu 24.04), whether it still holds Horovod, and what the CUDA images hold.
ARG NGC_TAG=25.02-tf2-py3
# CUDA 12.5 is what TensorFlow 2.18 was built with.
ARG CUDA_TAG=12.5.1
ARG DEBIAN_TAG=bookworm-slim

# ---- cpu: the packages, with Horovod over Gloo
FROM debian:${DEBIAN_TAG} AS cpu-packages
WORKDIR /opt/electra
COPY requirements* ./
COPY scripts/install.sh scripts/
ENV TENSORFLOW_BUILD=cpu
RUN --mount=type=cache,target=/root/.cache bash scripts/install.sh --horovod
# NVIDIA's reader of the log lines that the toolkit writes itself; on no package index. The checksum is the one in
# Spack's recipe. `--build-arg DLLOGGER=` leaves it out.
ARG DLLOGGER=https://github.com/NVIDIA/dllogger/archive/refs/tags/v1.0.0.tar.gz#sha256=abae2b2ac73b9e176fa87144bf6c2048ddd3dae8e7002d6d5a270bc7e4da6b4d
RUN [ -z "$DLLOGGER" ] || .venv/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation "$DLLOGGER"

# ---- cpu: the image
FROM debian:${DEBIAN_TAG} AS cpu
# Debian drops a version when it has a newer one, so that a pinned version could not be built for long.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3 && \
    rm -rf /var/lib/apt/lists/*
# The user may be another one at start (docker run --user), with the same home.
ARG USER_ID=1000
RUN groupadd --non-unique --gid "$USER_ID" electra && \
    useradd --non-unique --no-log-init --uid "$USER_ID" --gid "$USER_ID" --create-home --shell /bin/bash electra && \
    chmod 1777 /home/electra
COPY --from=cpu-packages /opt/electra/.venv /opt/electra/.venv
ENV PATH=/opt/electra/.venv/bin:$PATH PYTHON=/opt/electra/.venv/bin/python HOME=/home/electra USER=electra \
    DATA_PREP_WORKING_DIR=/workspace/electra/data
WORKDIR /workspace/electra
RUN chown "$USER_ID:$USER_ID" .
COPY --chown=$USER_ID:$USER_ID . .
USER $USER_ID:$USER_ID
CMD ["/bin/bash"]

# ---- cuda: the packages, with Horovod over NCCL and Gloo
FROM nvidia/cuda:${CUDA_TAG}-devel-ubuntu24.04 AS cuda-packages
# Horovod's Gloo lacks headers that GCC 13, Ubuntu's default, no longer includes by itself.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++-12 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/electra
COPY requirements* ./
COPY scripts/install.sh scripts/
ENV TENSORFLOW_BUILD=gpu CC=gcc-12 CXX=g++-12
RUN --mount=type=cache,target=/root/.cache bash scripts/install.sh --horovod
ARG DLLOGGER=https://github.com/NVIDIA/dllogger/archive/refs/tags/v1.0.0.tar.gz#sha256=abae2b2ac73b9e176fa87144bf6c2048ddd3dae8e7002d6d5a270bc7e4da6b4d
RUN [ -z "$DLLOGGER" ] || .venv/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation "$DLLOGGER"

# ---- cuda: the image. TensorFlow's packages bring CUDA's libraries, and Horovod holds NCCL, so the smallest will do.
FROM nvidia/cuda:${CUDA_TAG}-base-ubuntu24.04 AS cuda
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3 && \
    rm -rf /var/lib/apt/lists/*
# Ubuntu's image has a user of this number already: hence --non-unique.
ARG USER_ID=1000
RUN groupadd --non-unique --gid "$USER_ID" electra && \
    useradd --non-unique --no-log-init --uid "$USER_ID" --gid "$USER_ID" --create-home --shell /bin/bash electra && \
    chmod 1777 /home/electra
COPY --from=cuda-packages /opt/electra/.venv /opt/electra/.venv
ENV PATH=/opt/electra/.venv/bin:$PATH PYTHON=/opt/electra/.venv/bin/python HOME=/home/electra USER=electra \
    DATA_PREP_WORKING_DIR=/workspace/electra/data
WORKDIR /workspace/electra
RUN chown "$USER_ID:$USER_ID" .
COPY --chown=$USER_ID:$USER_ID . .
USER $USER_ID:$USER_ID
CMD ["/bin/bash"]

# ---- ngc: NVIDIA's TensorFlow and NumPy stay; beside them comes what the image lacks, and our Keras
FROM nvcr.io/nvidia/tensorflow:${NGC_TAG} AS ngc
WORKDIR /opt/electra
COPY requirements* ./
COPY scripts/docker/missing_packages.py scripts/docker/
# The image's own constraints may name another Keras.
ENV PIP_CONSTRAINT=
RUN python3 -m venv --system-site-packages --without-pip .venv && \
    python3 scripts/docker/missing_packages.py --anyway keras requirements-cpu.lock requirements-horovod.lock >missing.lock && \
    python3 -m pip --python .venv/bin/python install --no-cache-dir --no-deps --require-hashes -r missing.lock
# The compilers are in the image anyway. See above for the missing headers.
RUN python3 -m pip show --quiet horovod || \
    env CXXFLAGS="-include cstdint" HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 \
    HOROVOD_WITH_GLOO=1 HOROVOD_WITH_MPI=1 HOROVOD_GPU_OPERATIONS=NCCL MAKEFLAGS="-j$(nproc)" \
    python3 -m pip --python .venv/bin/python install --no-cache-dir --no-deps --no-build-isolation --require-hashes \
    -r requirements-horovod-source.txt
ARG DLLOGGER=https://github.com/NVIDIA/dllogger/archive/refs/tags/v1.0.0.tar.gz#sha256=abae2b2ac73b9e176fa87144bf6c2048ddd3dae8e7002d6d5a270bc7e4da6b4d
RUN [ -z "$DLLOGGER" ] || \
    python3 -m pip --python .venv/bin/python install --no-cache-dir --no-deps --no-build-isolation "$DLLOGGER"
ARG USER_ID=1000
RUN groupadd --non-unique --gid "$USER_ID" electra && \
    useradd --non-unique --no-log-init --uid "$USER_ID" --gid "$USER_ID" --create-home --shell /bin/bash electra && \
    chmod 1777 /home/electra
ENV PATH=/opt/electra/.venv/bin:$PATH PYTHON=/opt/electra/.venv/bin/python HOME=/home/electra USER=electra \
    DATA_PREP_WORKING_DIR=/workspace/electra/data
WORKDIR /workspace/electra
RUN chown "$USER_ID:$USER_ID" .
COPY --chown=$USER_ID:$USER_ID . .
USER $USER_ID:$USER_ID
CMD ["/bin/bash"]

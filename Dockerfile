# The commands in a container, for CPUs and NVIDIA GPUs alike: PyPI's torch for x86-64 Linux brings CUDA's
# libraries with it (which is most of the image), and the driver comes from the host (docker run --gpus all).
FROM python:3.12-slim

WORKDIR /opt/fpn-feature-codecs
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY configs configs
COPY data data
COPY extract extract
COPY train train
COPY analyze analyze
RUN pip install --no-cache-dir .

# Compiled loops, fonts and downloaded weights are cached where any user may write.
ENV NUMBA_CACHE_DIR=/tmp/numba \
    MPLCONFIGDIR=/tmp/matplotlib \
    TORCH_HOME=/tmp/torch
RUN useradd --create-home user
USER user
WORKDIR /work
CMD ["bash"]

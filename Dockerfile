# medvit on a CPU or CUDA base: docker build --build-arg BASE=... ; see docs/docker.md.
ARG BASE=debian:trixie-slim
FROM ${BASE}

ARG EXTRAS=pacs,cjk
# The index of torch builds without CUDA may be given here; empty takes the default build.
ARG TORCH_INDEX=

ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PATH=/opt/medvit/bin:$PATH

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv libgomp1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY medvit medvit
COPY bundles bundles
COPY data_manifests data_manifests

# torch comes first and by itself, so that nothing pulls another build of it.
RUN python3 -m venv /opt/medvit \
    && pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' constraints.txt)" \
    && pip install --constraint constraints.txt ".[${EXTRAS}]" \
    && rm -rf /src/*

# Bases such as ubuntu come with a user 1000.
RUN id -u 1000 >/dev/null 2>&1 || useradd --create-home --uid 1000 medvit \
    && mkdir -p /in /out && chown 1000:1000 /out
USER 1000
WORKDIR /out
ENV HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib

HEALTHCHECK --interval=60s --timeout=60s --start-period=30s CMD ["medvit", "list"]

ENTRYPOINT ["medvit"]
CMD ["--help"]

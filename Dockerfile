# The service in a container: docker build -t early-persistence . && docker run --read-only -p 127.0.0.1:8080:8080 \
#   -v early-persistence:/var/lib/early-persistence -v "$PWD/tokens:/run/secrets/tokens:ro" early-persistence
# It lies at the root, where `docker build .` looks for it; .dockerignore beside it says what the build gets to see.

FROM python:3.11-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY experiments experiments
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="early-persistence" \
      org.opencontainers.image.description="Decides within a few frames whether tracked objects are persistent" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN --mount=type=bind,from=build,source=/wheel,target=/wheel \
    pip install --no-cache-dir "$(echo /wheel/*.whl)[postgres]" && \
    useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin persistence && \
    install -d -o 10001 -g 10001 -m 0750 /var/lib/early-persistence
# everything that is written lies in the volume, so that the root file system may be read-only
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE \
    EPD_HOST=0.0.0.0 EPD_PORT=8080 EPD_TOKENS_FILE=/run/secrets/tokens \
    EPD_DATABASE=sqlite:////var/lib/early-persistence/events.db EPD_SPOOL=/var/lib/early-persistence/spool
USER 10001:10001
WORKDIR /var/lib/early-persistence
VOLUME /var/lib/early-persistence
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ['EPD_PORT']}/healthz\", timeout=4)"]
ENTRYPOINT ["python", "-m", "early_persistence_detection.inference.service.serve"]

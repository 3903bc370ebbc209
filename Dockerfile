# The gate: `docker build --tag rustygate .`. The tests: `--target test`.

FROM python:3.13-slim AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/rustygate
COPY requirements.txt requirements-build.txt ./
RUN pip --python /opt/rustygate/bin/python install --require-hashes --requirement requirements.txt \
    && pip install --require-hashes --requirement requirements-build.txt
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY rustygate rustygate
RUN pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /dist . \
    && pip --python /opt/rustygate/bin/python install --no-deps --no-index /dist/*.whl \
    && install -d -m 700 /state/rustygate

FROM python:3.13-slim AS test
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements-dev.txt ./
RUN pip install --require-hashes --requirement requirements-dev.txt
COPY setup.cfg ./
COPY rustygate rustygate
COPY tests tests
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["python", "-m", "pytest", "-p", "no:cacheprovider"]

FROM python:3.13-slim AS gate
COPY --from=build /opt/rustygate /opt/rustygate
# The mount point of a volume for DATA_DIR: a new volume gets the owner and mode of this directory.
COPY --from=build --chown=65532:65532 /state /var/lib
ENV PATH=/opt/rustygate/bin:$PATH
# The image's standard library has no bytecode, and a read-only root cannot store any. Modules that
# the gate imports are compiled here; otherwise each start and each health check would compile them.
RUN ["python", "-c", "import rustygate.cli.gate_server, rustygate.cli.group_access, rustygate.cli.health, rustygate.cli.serve"]
ENV BIND_ADDRESS=0.0.0.0 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["rustygate", "health"]
ENTRYPOINT ["rustygate"]
CMD ["serve"]

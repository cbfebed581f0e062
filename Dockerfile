# sdgym on a CPU: docker build -t sdgym . && docker run --rm -v "$PWD/runs:/runs" sdgym compare quick --out /runs/quick
# The user inside has number 1000; where yours is another, add --user "$(id -u)" -e HOME=/tmp so that it may write into runs/.
# For a GPU build with --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 and run with --gpus all.
FROM python:3.12-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE sdgym_verifiers.py ./
COPY sdgym sdgym
COPY envs envs
COPY algos algos
COPY verifiers verifiers
COPY benchmarks benchmarks
RUN python -m venv /opt/sdgym \
 && /opt/sdgym/bin/pip install --no-cache-dir --constraint constraints.txt --extra-index-url "$TORCH_INDEX" .

FROM python:3.12-slim
# bubblewrap is the sandbox of Code-v0; in a container without user namespaces Landlock takes its place.
RUN apt-get update && apt-get install -y --no-install-recommends bubblewrap && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 sdgym && mkdir /runs && chown sdgym /runs
COPY --from=build /opt/sdgym /opt/sdgym
ENV PATH=/opt/sdgym/bin:$PATH OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 PYTHONUNBUFFERED=1
USER sdgym
WORKDIR /runs
ENTRYPOINT ["sdgym"]
CMD ["doctor"]

# Every target sets up .venv first; a second run installs nothing.
#   make install     set-up alone
#   make demo        train and compare on the embedded policy (10 minutes), ends with an HTML report
#   make test        fast tests (no root, no system packages), two files at a time
#   make check       lint, format, types, layers
#   make test-full   long lanes, restartable, in an environment with every extra (build/full); writes runs/test-full/result.json
#   make kills fuzz soak   what takes longest, one by one: runs killed at random, hostile inputs, half an hour without a leak;
#                    restartable; each writes runs/endurance/NAME.json, which names the commit (docs/operating.md)
#   make docs        the documentation as a site, in build/site
#   make matrix      does the tested set resolve for Python 3.11 to 3.14?
#   make test-vllm   the tests of the vLLM back end, in an environment of their own (build/vllm, x86-64 Linux)
#   make release     wheel and source, audit of the tested set, SBOM and checksums, in dist/
# Variables: PYTHON (interpreter for .venv), VENV (where), EXTRAS (of the package), LANES (pytest marker expression),
#            WORKERS (test processes), KILLS (runs), FUZZ (inputs per reader), SOAK (minutes).

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev
LANES ?= not slow and not system
WORKERS ?= 2
KILLS ?= 30
FUZZ ?= 1000000
SOAK ?= 30
BIN := $(VENV)/bin
# The stamp's name holds what the installation depends on, the folder included (an editable install points to it).
STAMP := $(VENV)/.installed-$(shell { cat pyproject.toml constraints.txt; pwd; } | cksum | tr ' ' '-')

# Idle OpenMP threads that spin slow everything down on a small machine; must be set before torch is loaded.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0

.DEFAULT_GOAL := help
.PHONY: help install demo test check test-full kills fuzz soak docs matrix test-vllm release clean

help:
	@sed -n 's/^#   //p' Makefile

install: $(STAMP)

$(STAMP):
	@command -v $(PYTHON) >/dev/null || { echo "'$(PYTHON)' is not installed: install Python 3.11 or newer, or name one with 'make install PYTHON=python3.12'." >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "sdgym needs Python 3.11 or newer and '$(PYTHON)' is $$($(PYTHON) -c 'import platform; print(platform.python_version())'): name a newer one with 'make install PYTHON=python3.12'." >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "'$(PYTHON)' cannot make virtual environments: install its venv module (on Debian and Ubuntu 'sudo apt-get install python3-venv')." >&2; exit 2; }
	@test -d sdgym/envs/ || { echo "sdgym/envs is not a link to a folder: run 'git config core.symlinks true && git checkout -- sdgym' (on Windows, inside WSL2)." >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@rm -f $(VENV)/.installed-*
	@touch $@

demo: $(STAMP)
	$(BIN)/sdgym compare quick

test: $(STAMP)
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile -m "$(LANES)"

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# An environment of its own with every extra, so that no long lane is skipped for want of a package.
test-full:
	@$(MAKE) --no-print-directory install VENV=build/full EXTRAS=dev,ray,peft,trackers,worlds
	build/full/bin/python tests/run_full.py

kills: $(STAMP)
	$(BIN)/python -m sdgym.benchmarks.endurance.kills --runs $(KILLS)

fuzz: $(STAMP)
	$(BIN)/python -m sdgym.benchmarks.endurance.fuzz --inputs $(FUZZ)

soak: $(STAMP)
	$(BIN)/python -m sdgym.benchmarks.endurance.soak --minutes $(SOAK)

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --constraint docs/site/constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "open build/site/index.html, or with the search: $(BIN)/python -m http.server --bind 127.0.0.1 --directory build/site"

matrix: $(STAMP)
	$(BIN)/python tests/matrix.py

# vLLM's CPU build runs with the tested torch (a CPU build) and transformers, but its metadata and that of what it needs ask for
# packages for pictures and sound, and for an older numpy: so it comes without dependencies, and tests/vllm.txt lists what it imports.
test-vllm:
	@test -x build/vllm/bin/python || $(PYTHON) -m venv build/vllm
	build/vllm/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@build/vllm/bin/python -c 'import sys, torch; sys.exit(torch.version.cuda is not None)' || { echo "vLLM's CPU build needs a CPU build of torch: run 'build/vllm/bin/pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu' and then this again." >&2; exit 2; }
	build/vllm/bin/python -m pip install --quiet --no-deps --requirement tests/vllm.txt
	build/vllm/bin/sdgym model fetch smollm2-135m
	SDGYM_REQUIRE=all build/vllm/bin/pytest -m slow tests/e2e/test_vllm.py

# The audit asks the vulnerability database about every pin of constraints.txt and fails on a known hole, and on a pin that it was
# told nothing about (--strict); the SBOM lists what is in .venv, without the folder that the checkout lies in. The tools for both
# have an environment of their own, or the SBOM would list them.
release: $(STAMP)
	@test -z "$$(git status --porcelain)" || { echo "a release is built from a clean checkout: commit or put away what git status shows." >&2; exit 2; }
	@test -x build/release/bin/python || $(PYTHON) -m venv build/release
	build/release/bin/python -m pip install --quiet 'pip-audit>=2.7' 'cyclonedx-bom>=5'
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	build/release/bin/cyclonedx-py environment --pyproject pyproject.toml --output-format JSON --output-file build/sbom.json $(BIN)/python
	sed 's|file://$(CURDIR)|.|' build/sbom.json > dist/sbom.cdx.json
	build/release/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict --format json --output dist/audit.json
	cd dist && sha256sum * > SHA256SUMS
	@echo "dist/ holds the release; before it is published: make test-full kills fuzz soak."

clean:
	rm -rf $(VENV) build dist *.egg-info

# What a person types, and what CI runs. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PORT ?= 7860
JOBS ?= 2
PY := .venv/bin/python
SETUP := .venv/.complete
OFFLINE := HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 GRADIO_ANALYTICS_ENABLED=False CUDA_VISIBLE_DEVICES=
TESTS := $(OFFLINE) OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=  # the suite starts dozens of processes: compile once

.PHONY: help setup demo test check format smoke data results spaces api bench lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  TORCH_BACKEND=cpu make setup   spares the CUDA libraries"

setup: $(SETUP)  ## .venv with every version of requirements.lock, its hashes checked (needs Python 3.11 or newer)

# A name on the PATH is no interpreter yet (version managers leave stubs), so each candidate has to run.
$(SETUP): requirements.lock
	@set -eu; python=; \
	for name in $${PYTHON:-} .venv/bin/python python3 python3.12 python3.13 python3.11 python3.14 python; do \
	  if "$$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' >/dev/null 2>&1; \
	  then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "make setup needs Python 3.11 to 3.14 and found none on the PATH." >&2; \
	  echo "Install one (Debian: apt install python3 python3-venv) or name it: make setup PYTHON=/path/to/python3.12" >&2; \
	  exit 1; \
	fi; \
	if uv --version >/dev/null 2>&1; then \
	  uv=uv; \
	  [ "$$python" = .venv/bin/python ] || uv venv --quiet --allow-existing --python "$$(command -v "$$python")" .venv; \
	else \
	  uv=.venv/bin/uv; \
	  if ! $$uv --version >/dev/null 2>&1; then \
	    "$$python" -m venv .venv || { echo "Python's venv module is missing (Debian: apt install python3-venv)" >&2; exit 1; }; \
	    $(PY) -m pip install --quiet --disable-pip-version-check uv; \
	  fi; \
	fi; \
	echo "installing requirements.lock into .venv with $$($$uv --version)"; \
	$$uv pip install --quiet --compile-bytecode --python $(PY) -r requirements.lock \
	  $(if $(TORCH_BACKEND),--no-verify-hashes --torch-backend $(TORCH_BACKEND))
	@touch $@

demo: setup  ## the gallery of all demos on http://127.0.0.1:7860 (PORT=, ARGS=--mcp)
	$(PY) -m apps.gallery --port $(PORT) $(ARGS)

test: setup  ## the whole suite, offline and on the CPU in JOBS=2 processes (ARGS= goes to pytest)
	$(TESTS) $(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: setup  ## format, lint, types (not of the pages), import rules
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m ty check
	$(OFFLINE) $(PY) -m pytest -q tests/test_house.py -k rules

format: setup  ## put the code into the house's format
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

smoke: setup  ## every training script on its tiny preset: 2 steps, killed, resumed, evaluated, exported, loaded
	$(TESTS) $(PY) -m pytest -m smoke -n $(JOBS) $(ARGS)

data: setup  ## the emoji data set and its unseen-style test set, into build/data (needs npm)
	$(PY) -m training.data.emoji --output_dir build/data/emoji
	$(PY) -m training.data.emoji --output_dir build/data/emoji-unseen --styles openmoji

results: setup  ## the tables of README.md and docs/RESULTS.md, from the results.json beside the weights
	$(PY) -m training.results

bench: setup  ## the speed claims, each as a ratio within one run (needs the data; chromium for the page)
	$(OFFLINE) $(PY) -m benchmarks.text_to_image
	$(OFFLINE) $(PY) -m benchmarks.segmentation
	$(OFFLINE) $(PY) -m benchmarks.captioning

spaces: setup  ## build every Space and start each in a clean process; after a change of the lock one in a fresh environment
	$(OFFLINE) $(PY) spaces/boot.py $(ARGS)

api: setup  ## docs/api.md, from the running apps
	$(OFFLINE) $(PY) spaces/api.py

lock: setup  ## compile requirements.lock from pyproject.toml again; its hashes are those of the default index
	@uv=$$(command -v uv || echo .venv/bin/uv); $$uv pip compile --quiet --universal --python-version 3.11 --all-extras \
	  --no-emit-index-url --no-annotate --no-header --generate-hashes pyproject.toml -o requirements.lock

clean:  ## remove what make made: .venv, build, caches (runs/ stays)
	rm -rf .venv build .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

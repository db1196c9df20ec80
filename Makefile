# Every target makes the virtual environment it needs. `make help` lists the targets.
PYTHON ?= python3
VENV   ?= .venv
PYTEST_ARGS ?=
WORKERS ?= -n auto --dist worksteal
BENCH ?=
CUDA_EXTRA ?= cuda13
OUT ?= runs/gpu-check
PROMPT ?= Nora was a curious otter. One day Nora ran to the mill. It rained a little. There Nora saw a silver bell. Nora smiled all day. In short: 

BIN  := $(VENV)/bin
CORE := $(VENV)/.core-installed
DEV  := $(VENV)/.dev-installed
CUDA := $(VENV)/.$(CUDA_EXTRA)-installed

PACKAGES := entrenar_core entrenar_cli
PYTHON_FILES := $(PACKAGES) $(wildcard tests benchmarks docs examples .ci)
KERNEL_TESTS := $(wildcard tests/backend tests/codecs)
PYTEST := $(BIN)/python -m pytest $(WORKERS) $(PYTEST_ARGS)
UNIT := not slow and not oracle and not integration and not property

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help venv tier1 tier2 tier3 pre-commit ci build release test slow lint format format-check check unit integration \
        property coverage coverage-clean mutants mutants-quick deny-check complexity tdg roadmap-status bench gpu-check \
        quickstart clean

help:  ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

# The environment: the core package alone is enough to use entrenar, the dev extra brings the tools.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(CORE): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(DEV): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(CORE) $@

$(CUDA): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[$(CUDA_EXTRA)]'
	@touch $(CORE) $@

venv: $(DEV)  ## make the development environment in .venv

# First use
quickstart: $(CORE)  ## fine-tune the bundled tiny model and show what it writes before and after
	@rm -rf runs/quickstart
	$(BIN)/entrenar train configs/quickstart.yaml
	@echo; echo "Prompt: $(PROMPT)"
	@echo; echo "Before (examples/tiny-base.gguf):"
	@$(BIN)/entrenar generate examples/tiny-base.gguf --prompt "$(PROMPT)" --temperature 0 --max-tokens 40
	@echo; echo "After (runs/quickstart/model.gguf):"
	@$(BIN)/entrenar generate runs/quickstart/model.gguf --prompt "$(PROMPT)" --temperature 0 --max-tokens 40
	@echo; echo "What the run left in runs/quickstart:"; ls -l runs/quickstart

# Tests
test: $(DEV)  ## the test suite: unit, integration, quick properties, and each oracle that is installed
	$(PYTEST)

slow: $(DEV)  ## the tests that `make test` leaves out: each configuration, random kills, measured memory
	$(PYTEST) -m slow

unit: $(DEV)  ## unit tests only
	$(PYTEST) -m "$(UNIT)"

integration: $(DEV)  ## tests that join packages, run the command line or compare with an oracle
	$(PYTEST) -m "(integration or oracle) and not slow and not property"

property: $(DEV)  ## property tests with a thousand examples each
	ENTRENAR_HYPOTHESIS=thorough $(PYTEST) -m "property and not slow"

tier1: format-check lint unit  ## before each commit: format, lint, unit tests

tier2: tier1 integration  ## tier1 and integration tests

tier3: tier2 slow property complexity  ## tier2, slow tests, thorough property tests and complexity

# What the code looks like
format: $(DEV)  ## format the code
	$(BIN)/ruff format $(PYTHON_FILES)
	$(BIN)/ruff check --select I --fix --quiet $(PYTHON_FILES)

format-check: $(DEV)  ## fail where the code is not formatted
	$(BIN)/ruff format --check $(PYTHON_FILES)

lint: $(DEV)  ## ruff
	$(BIN)/ruff check $(PYTHON_FILES)

check: $(DEV)  ## types (mypy) and import order (import-linter)
	$(BIN)/mypy
	$(BIN)/lint-imports

complexity: $(DEV)  ## fail above cognitive complexity 15 or cyclomatic complexity 10
	$(BIN)/complexipy $(PACKAGES) --max-complexity-allowed 15 --failed
	@hard=$$($(BIN)/radon cc --min C --show-complexity $(PACKAGES)); \
	  if [ -n "$$hard" ]; then echo "cyclomatic complexity above 10:"; echo "$$hard"; exit 1; fi
	@echo "cyclomatic complexity: none above 10"

tdg: $(DEV)  ## technical-debt report: maintainability, long files, marks left in the code
	@echo "Maintainability index below A (radon mi):"; $(BIN)/radon mi --min B --show $(PACKAGES)
	@echo "Files above 300 lines:"; \
	  find $(PACKAGES) -name '*.py' -exec wc -l {} + | awk '$$2 != "total" && $$1 > 300 {print "    " $$2 " " $$1}'
	@printf 'TODO, FIXME, XXX: '; grep -rwEh --include='*.py' 'TODO|FIXME|XXX' $(PACKAGES) | wc -l
	@printf 'type: ignore:     '; grep -rh --include='*.py' 'type: ignore' $(PACKAGES) | wc -l
	@printf 'noqa:             '; grep -rh --include='*.py' 'noqa' $(PACKAGES) | wc -l

# Kernels are compiled and invisible to coverage, so their own tests run a second time as plain Python.
coverage: $(DEV)  ## test coverage, at least 90 %
	$(PYTEST) --cov --cov-report= --cov-fail-under=0
	$(if $(KERNEL_TESTS),ENTRENAR_JIT=0 $(PYTEST) $(KERNEL_TESTS) -m "$(UNIT)" --cov --cov-append --cov-report= --cov-fail-under=0)
	$(BIN)/coverage report
	$(BIN)/coverage html --quiet

coverage-clean:  ## remove coverage data
	rm -rf .coverage .coverage.* coverage.xml htmlcov

mutants: $(DEV)  ## mutation tests of autograd, optim, quant, merge and distill
	$(BIN)/python .ci/mutants.py

mutants-quick: $(DEV)  ## mutation tests of the files that changed since the last commit but one
	$(BIN)/python .ci/mutants.py --changed-since HEAD~1

deny-check: $(DEV)  ## licences and known vulnerabilities of the dependencies
	$(BIN)/python .ci/deny_check.py

# Everything together
pre-commit: tier1 check  ## what the git hook runs (see .pre-commit-config.yaml)

ci: format-check lint check complexity coverage deny-check  ## the whole gate, in this environment

build: $(DEV)  ## wheel and source distribution in dist/
	rm -rf dist
	$(BIN)/python -m build

release: ci build  ## the gate, the distributions, and the tag to set
	@version=$$($(BIN)/python -c 'import entrenar_core; print(entrenar_core.__version__)'); \
	  grep -q "^## $$version" CHANGELOG.md || { echo "CHANGELOG.md has no section '## $$version'"; exit 1; }; \
	  test -z "$$(git status --porcelain)" || { echo "the working tree has uncommitted changes"; exit 1; }; \
	  echo "dist/ is ready; tag it with: git tag -a v$$version -m 'entrenar $$version'"

roadmap-status: $(DEV)  ## what roadmap.yaml says
	@$(BIN)/python .ci/roadmap_status.py

bench: $(DEV)  ## benchmarks against peers, side by side (BENCH="NAME ...": these, such as merge_speed)
	$(BIN)/python -m benchmarks $(BENCH)

gpu-check: $(CUDA)  ## is all right on this GPU, and how fast is it? In eight minutes (OUT=folder, CUDA_EXTRA=cuda12)
	$(BIN)/python -m benchmarks.gpu_check --out $(OUT)

clean: coverage-clean  ## remove what builds, tools and runs left (the environment stays)
	rm -rf build dist runs mutants .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .complexipy_cache
	find $(PYTHON_FILES) -name __pycache__ -type d -prune -exec rm -rf {} +

# Every target works in a fresh clone: it makes its own virtual environment from
# constraints.txt. PYTHON picks the interpreter, VENV the place of the environment.

PYTHON ?= python3
VENV ?= .venv
WHEEL_VENV ?= .venv-wheel
# Workers of the test suite, each with one thread.
JOBS ?= 2
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
WHEEL_PYTHON := $(WHEEL_VENV)/bin/python
BASE := $(VENV)/.base-installed
DEV := $(VENV)/.dev-installed
PYTEST := --numprocesses $(JOBS) --dist loadgroup --benchmark-disable $(PYTEST_ARGS)
# From a wheel: what can differ there, the command, its children, plugins found by entry
# points, and the files that travel with the packages. The rest is the same code.
FROM_WHEEL := $(patsubst %,tests/test_%.py,attack_contract child cli cli_check cli_data cli_suites \
dataset_mfeat doctests example_distribution exported_members leaderboard_cli leaderboard_site \
packaging plugin_option records registry report scaffold startup study submission \
third_party_wheel)
# The real ExtraSensory file, where there is one; tests that need it skip otherwise.
DATA := $(abspath $(or $(CIBENCH_DATA),$(wildcard ../shared/data)))

export PIP_DISABLE_PIP_VERSION_CHECK := 1
.DEFAULT_GOAL := help
.PHONY: help demo test check bench wheel wheel-test readme docs docs-serve boards \
boards-check constraints clean
.DELETE_ON_ERROR:

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(BASE) ## set up, then measure one defense under one attack
	$(BIN)/cibench run --defense copur --attack pgd

test: $(DEV) ## set up, then run the test suite
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PYTEST)

check: $(DEV) ## formatting, lint, types, import contracts, documentation
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/test_docs.py

bench: $(DEV) ## run the benchmarks of the harness itself
	OMP_NUM_THREADS=1 $(BIN)/pytest -s --benchmark-only benchmarks

# A stale build/ or egg-info would put files into the wheel that the tree no longer has.
wheel: $(DEV) ## build the source distribution, and the wheel from it, into dist/
	rm -rf build dist cibench.egg-info
	$(BIN)/python -m build --quiet --no-isolation
	ls -l dist
	rm -rf build cibench.egg-info

# Tests run in a copy of the tree without the packages, so that only the installed
# wheel can be imported; the console script keeps the current directory off sys.path.
wheel-test: wheel ## test the wheel in an environment of its own
	rm -rf $(WHEEL_VENV)
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_PYTHON) -m pip install -qq -c constraints.txt "$$(echo dist/*.whl)[test]"
	copy=$$(mktemp -d) && trap 'rm -rf "$$copy"' EXIT \
	&& for entry in *; do case $$entry in cibench|plugins|build|dist|runs|site) ;; \
	*) cp -R "$$entry" "$$copy" || exit 1;; esac; done \
	&& wheel=$(abspath $(WHEEL_VENV)) && cd "$$copy" \
	&& "$$wheel/bin/python" -I -c "import cibench, cibench_plugins as p; \
	[print(m.__file__) for m in (cibench, p)]; \
	assert all('site-packages' in m.__file__ for m in (cibench, p))" \
	&& $(if $(DATA),CIBENCH_DATA="$(DATA)") OMP_NUM_THREADS=1 \
	"$$wheel/bin/pytest" -c pyproject.toml --import-mode=importlib $(PYTEST) $(FROM_WHEEL)

readme: $(DEV) ## run every command of README.md and docs/
	$(BIN)/python tools/run_readme.py

# Strict: a warning, such as a link that leads nowhere, is an error. Nothing is fetched.
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(DEV) ## build the documentation as a site, into site/
	$(BIN)/mkdocs build --quiet
	@echo "site/index.html"

docs-serve: $(DEV) ## build it, serve it, and build it again when a page changes
	$(BIN)/mkdocs serve

# BOARDS: a folder with a leaderboard.toml; an entry of it is never replaced.
BOARDS ?= leaderboard
# Words that enter the choice of cells that are run again.
SALT ?= $(shell git rev-parse HEAD)
# More options of the run, to try all this on a part, such as "--dataset mfeat --seeds 1":
# without every cell of the suite rows have no rank.
RUN_ARGS ?=
STANDARD ?= runs/standard

boards: $(DEV) ## run the standard suite, verify it, and publish its boards (hours)
	mkdir -p $(BOARDS)
	test -f $(BOARDS)/leaderboard.toml || cp leaderboard/leaderboard.toml $(BOARDS)
	$(BIN)/cibench run --suite standard --witnesses -j auto -o $(STANDARD) \
	$(if $(DATA),--data-dir "$(DATA)") $(RUN_ARGS)
	rm -f $(STANDARD).cibench.zip
	$(BIN)/cibench submit $(STANDARD) --author "The cibench maintainers" --name reference \
	--title "Reference defenses under the standard suite" -o $(STANDARD).cibench.zip
	$(BIN)/cibench leaderboard add $(STANDARD).cibench.zip $(BOARDS) -j auto --replay all \
	--rerun 40 --salt "$(SALT)" $(if $(DATA),--data-dir "$(DATA)")

boards-check: $(DEV) ## check that the published pages are those of the entries
	$(BIN)/cibench leaderboard check $(BOARDS) --exact

constraints: ## renew constraints.txt with the newest versions (then run the tests)
	$(PYTHON) -m venv $(VENV)-new
	$(VENV)-new/bin/python -m pip install "torch==$(TORCH)" "setuptools>=77" ".[dev]"
	{ sed -n '/^#/p' constraints.txt; \
	$(VENV)-new/bin/python -m pip list --format=freeze --exclude pip --exclude cibench \
	| sed 's/+cpu$$//' | LC_ALL=C sort -f; } > constraints.new
	mv constraints.new constraints.txt
	rm -rf $(VENV)-new build cibench.egg-info

# torch is renewed by hand: TORCH=... make constraints
TORCH ?= $(shell sed -n 's/^torch==//p' constraints.txt)

clean: ## remove environments, builds and caches (not runs/)
	rm -rf $(VENV) $(WHEEL_VENV) build dist site cibench.egg-info .benchmarks .hypothesis \
	.mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find cibench plugins tests tools benchmarks -name __pycache__ -prune \
	-exec rm -rf {} +

# No build isolation: the pinned setuptools builds, and nothing is fetched twice.
$(BASE): pyproject.toml constraints.txt
	@command -v $(PYTHON) > /dev/null || { echo "$(PYTHON): not found;\
	 cibench needs Python 3.11 or newer: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or sys.exit('$(PYTHON) is\
	 Python %d.%d; cibench needs 3.11 or newer: make PYTHON=/path/to/python3'\
	 % sys.version_info[:2])"
	@echo "installing cibench into $(VENV); this takes a minute or more"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install -qq -c constraints.txt setuptools
	@$(PIP) install -qq -c constraints.txt --no-build-isolation -e .
	@touch $@

$(DEV): $(BASE)
	@echo "installing the tools of test and dev into $(VENV)"
	@$(PIP) install -qq -c constraints.txt --no-build-isolation -e ".[dev]"
	@touch $@

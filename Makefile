# Everything starts here: `make` lists the targets. Works with GNU make 3.81 (macOS) and later.
PYTHON  ?= python3
PY      := .venv/bin/python
STAMP   := .venv/.installed
PROFILE ?= laptop
NBVAL   := --nbval-lax --nbval-current-env --nbval-cell-timeout=900
# pip says a lot, and repeats for every package what it minds in its user's settings: it says so to a file, the end of
# which is shown should it fail. It asks nothing, as nobody would see the question.
INSTALL := -m pip install --no-input --disable-pip-version-check
LOGGED   = > $(1)/setup.log 2>&1 || { tail -n 40 $(1)/setup.log; echo "pip failed; all it said is in $(1)/setup.log"; exit 1; } >&2
# One process uses one thread, so that serial and parallel runs agree bit for bit.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup data figures smoke test lab lint pretrain bench refresh site lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv from requirements.lock (needs Python >= 3.11; PYTHON=... picks one)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "clipmerge needs Python 3.11 or newer, found %d.%d: try make setup PYTHON=/path/to/python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	@echo "pip puts what requirements.lock lists into .venv; what it says goes to .venv/setup.log"
	@{ $(PY) $(INSTALL) --no-compile -r requirements.lock && $(PY) $(INSTALL) --no-deps --no-build-isolation -e .; } $(call LOGGED,.venv)
	$(PY) -m compileall -q -j 0 -x /tests/ .venv/lib > /dev/null || true  # pip would use one core; some files are no valid Python
	@touch $@

data: setup ## fetch and decode the data sets and the pretraining pool into the cache
	$(PY) -c "from clipmerge.clip import datasets, pool; datasets.prepare(); pool.load()"

figures: data ## every figure and table, into figures/laptop (PROFILE=overnight: with all that laptop leaves out)
	$(PY) -m clipmerge.book.run --profile $(PROFILE)

smoke: data ## every notebook at toy scale, in a few minutes
	$(PY) -m clipmerge.book.run --profile smoke

test: data ## all tests: unit, end to end, notebooks (at the smoke profile)
	CLIPMERGE_PROFILE=smoke $(PY) -m pytest $(NBVAL) -n 2 --dist loadfile tests notebooks

lab: data ## open the notebooks in JupyterLab
	$(PY) -m jupyterlab notebooks

lint: setup ## ruff over library, tests and notebooks
	$(PY) -m ruff check lib tests notebooks

pretrain: data ## pretrain the shipped base models again (hours; resumes where it stopped)
	$(PY) -m clipmerge.clip.pretrain

bench: setup ## time and memory of merging against the number of experts
	$(PY) -m clipmerge.bench

refresh: figures ## run at the laptop profile and store the outputs in notebooks/
	$(PY) -m clipmerge.book.notebooks refresh
	$(PY) -m clipmerge.book.claims
	$(PY) -m clipmerge.book.explore

site: setup ## the book as web pages that need no network, into site/ (open site/index.html)
	@$(PY) $(INSTALL) --no-build-isolation -e '.[site]' $(call LOGGED,.venv)
	$(PY) -m clipmerge.book.site site

# A new lock: resolve pyproject.toml afresh, keep the lines that only other platforms or Python versions need.
lock: ## rewrite requirements.lock from pyproject.toml
	$(PYTHON) -m venv .cache/lock
	@.cache/lock/bin/python $(INSTALL) '.[test,lora]' $(call LOGGED,.cache/lock)
	( grep '^#' requirements.lock; \
	  ( .cache/lock/bin/python -m pip freeze --all --exclude pip --exclude clipmerge \
	    | sed -E "s/^((nvidia|cuda|triton).*)/\1 ; sys_platform == 'linux'/; s/^((pexpect|ptyprocess).*)/\1 ; sys_platform != 'win32'/"; \
	    grep -E "== '(win32|darwin|3.12)'" requirements.lock ) | sort -f ) > requirements.new
	mv requirements.new requirements.lock
	rm -rf .cache/lock

clean: ## remove what was made here (cache, smoke figures, tool caches); .venv and committed files stay
	rm -rf .cache site figures/smoke .pytest_cache .ruff_cache .hypothesis
	find lib tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

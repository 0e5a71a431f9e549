# make book   the environment, the model, the notebooks, the pages; prints the path of index.html
#             BOOK_OPTIONS are those of cramming book, such as --weights for pages that a web server will serve
# make test   all that continuous integration runs; with PAGES=all every stored output is compared, not only what may have changed
# make lock   pin what the environment holds now
# make clean  remove pages and caches; the environment and the results stay
# Every target can be interrupted and called again.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# A file of tests, or a notebook, stays with one process; each process keeps to one core. Where a test asks for more
# threads, those that wait for each other sleep, which leaves the core to the other process.
THREADS := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
PARALLEL := --numprocesses auto --dist loadfile --no-loadscope-reorder
PAGES := changed
BOOK_OPTIONS ?=
NBVAL := --nbval --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg

.PHONY: book test environment chromium lock clean

book: environment
	$(BIN)/cramming fetch
	$(BIN)/cramming book $(BOOK_OPTIONS)

test: environment chromium
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/cramming fetch
	$(THREADS) $(BIN)/python -m pytest -m "not browser" $(PARALLEL)
	CRAMMING_PAGES=$(PAGES) TQDM_DISABLE=1 $(THREADS) $(BIN)/python -m pytest $(NBVAL) $(PARALLEL) notebooks
	$(BIN)/cramming book --no-execute
	$(BIN)/python -m pytest -m browser --numprocesses auto tests/browser

environment: $(INSTALLED)

# The mark `.installing` tells that an earlier installation was cut short: it can leave half a package, so it starts anew.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 5))' || { \
		echo "$(PYTHON) is $$($(PYTHON) --version 2>&1 || true), Python 3.11.5 or later is needed: make $(MAKECMDGOALS) PYTHON=python3.12"; \
		exit 1; }
	@if [ -e .venv/.installing ]; then rm -rf .venv; fi
	@mkdir -p .venv && touch .venv/.installing
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@rm .venv/.installing && touch $@

chromium:
	@for name in $$CHROMIUM chromium chromium-browser google-chrome google-chrome-stable; do \
		if command -v "$$name" >/dev/null; then exit 0; fi; \
	done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium; \
	else \
		echo "no Chromium for the browser tests: install it (Debian: sudo apt-get install chromium) or set CHROMIUM to its path"; \
		exit 1; \
	fi

# Brings in what pyproject.toml asks for and the environment lacks, then pins all of it. Local version marks (+cpu) are
# dropped, so that the lock installs anywhere; a package that came from a folder or an address cannot be pinned.
lock:
	$(BIN)/python -m pip install --quiet --upgrade pip --editable '.[book,cluster,dev]'
	$(BIN)/python -m pip freeze --all --exclude-editable > requirements.lock.part
	@if grep -n ' @ ' requirements.lock.part; then echo "not pinnable: install it from the index first"; exit 1; fi
	{ echo "# The book's environment, pinned by make lock; Python 3.11.5 or later."; \
		sed 's/+[a-z0-9.]*$$//' requirements.lock.part | LC_ALL=C sort -f; } > requirements.lock
	@rm requirements.lock.part

clean:
	rm -rf _stage _site _executed .pytest_cache .ruff_cache .mypy_cache .hypothesis requirements.lock.part

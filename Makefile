# Two commands do it all on a machine with Python 3.11 and make: `make demo` and `make test`.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help demo test check soak bench-small docs clean

help:
	@echo "make demo    set up, fetch the models, ingest a handbook, ask three questions"
	@echo "make test    set up and run every test"
	@echo "make soak    set up, then half an hour of crashes, load and broken mechanisms"
	@echo "make check   format, lint, types, import contracts, house rules"
	@echo "make docs    make the generated reference pages anew"
	@echo "make clean   remove the environment and the state of the demo"

# A stamp a lock: pip runs only when the lock has changed.
$(VENV)/run.stamp: requirements/run.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing what ragstone runs on (hashes checked)"
	@$(PIP) install --require-hashes -r requirements/run.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev.stamp: requirements/dev.txt $(VENV)/run.stamp
	@echo "installing what the tests need (hashes checked)"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

demo: $(VENV)/run.stamp
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh

test: $(VENV)/dev.stamp
	@PATH="$(CURDIR)/$(BIN):$$PATH" ragstone models fetch
	@PATH="$(CURDIR)/$(BIN):$$PATH" ragstone models fetch all-minilm-l6-v2-int8
	@$(BIN)/python -m pytest

# Named file by file: plain pytest does not collect them.
soak: $(VENV)/dev.stamp
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -v -s tests/e2e/soak_broken_on_purpose.py tests/e2e/soak_workers.py \
		tests/e2e/soak_crashes.py

check: $(VENV)/dev.stamp
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m pytest tests/test_tidy.py

docs: $(VENV)/dev.stamp
	@$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) .ragstone

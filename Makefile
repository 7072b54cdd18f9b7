# `make run`: the main job.  `make test`: everything CI checks.  `make lab`: the notebooks.  `make bench`: the benchmarks.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test lab bench clean

run: .venv/.base
	$(BIN)/andromeda run tiny

test: .venv/.dev
	BIN=$(BIN) bash tests/check.sh

lab: .venv/.dev
	cd nbs && ../$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1

bench: .venv/.dev bench/.venv/.made
	@for script in bench/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

.venv/.made:
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 10) <= v < (3, 14) else f"Python {v[0]}.{v[1]} is too old or too new: Andromeda needs 3.10 to 3.13. Try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv --clear .venv
	touch $@

.venv/.base: setup.py settings.ini | .venv/.made
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/.dev: setup.py settings.ini | .venv/.made
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch .venv/.base $@

bench/.venv/.made: bench/requirements.txt
	$(PYTHON) -m venv --clear bench/.venv
	bench/.venv/bin/python -m pip install --quiet --requirement $<
	bench/.venv/bin/python -m pip install --quiet --no-deps litgpt==0.5.9     # asks for numpy 1, works with 2
	touch $@

clean:
	rm -rf .venv bench/.venv data/home build *.egg-info

# Two commands on a fresh machine: `make demo` and `make test`. Each makes .venv first.
PYTHON ?= python3
VENV ?= .venv
# What is imported is compiled once, also where the environment (as of many containers) asks to compile it each time.
export PYTHONDONTWRITEBYTECODE :=

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --no-compile -c constraints.txt -e '.[dev]' # compiled as it is imported
	touch $(VENV)/ready

.PHONY: demo test lint docs extras
demo: $(VENV)/ready
	$(VENV)/bin/hiernas search

# By files: what the tests of a file share is made once.
test: $(VENV)/ready
	$(MAKE) -j 2 lint docs
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# The documents as a site, in build/site; a link that leads nowhere is an error.
docs: $(VENV)/ready
	rm -rf build/pages
	mkdir -p build/pages/benchmarks
	cp -r docs CONTRIBUTING.md SECURITY.md CHANGELOG.md build/pages
	cp -r benchmarks/results build/pages/benchmarks
	mkdir -p build/pages/examples
	cp examples/*.ipynb build/pages/examples
	cp README.md build/pages/index.md
	$(VENV)/bin/zensical build --strict --clean

# Each extra by itself, from the wheel in an environment of its own; about half an hour.
extras: $(VENV)/ready
	$(VENV)/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheel .
	tests/extras.sh build/wheel/hiernas-*.whl

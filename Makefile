# Two commands: make demo, make test. Each makes .venv and installs what it needs, once.
PY := .venv/bin/python
DEMO_OUT ?= runs/demo

.PHONY: demo test slow lint clean
demo: .venv/installed
	$(PY) launch/demo.py out=$(DEMO_OUT)

test: .venv/installed
	$(PY) -m pytest -m "not slow"

slow: .venv/installed
	$(PY) -m pytest -m slow

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

.venv/installed: pyproject.toml constraints.txt
	@echo "Setting up .venv (once; downloads about 3 GB, 1 to 5 minutes on a good line) ..."
	python3 -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	$(PY) -m uv pip install --quiet --python $(PY) --constraint constraints.txt --editable ".[demo,test]"
	@touch $@
	@echo "Set-up done."

clean:
	rm -rf .venv runs

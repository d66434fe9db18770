# Two commands: make demo, make test. Each makes .venv and installs what it needs, once.
PY := .venv/bin/python
DEMO_OUT ?= runs/demo

.PHONY: demo test slow slurm qgis lint clean peers soak-pack fuzz-teacher soak-teacher soak-resume
demo: .venv/installed
	$(PY) launch/demo.py out=$(DEMO_OUT)

test: .venv/installed
	$(PY) -m pytest -m "not slow" -rfs -n auto --dist loadgroup

slow: .venv/installed
	$(PY) -m pytest -m slow -rs

# A build killed 20 times with -9 and finished: the same bytes as one left alone.
soak-pack: .venv/installed
	$(PY) tests/soak_pack.py

# 100,000 malformed messages to a teacher service, beside an honest student.
fuzz-teacher: .venv/installed
	PYTHONPATH=. $(PY) tests/fuzz_teacher.py

# Two student ranks and two teachers, each killed 20 times with -9: each tile of the plan is used once.
soak-teacher: .venv/installed
	PYTHONPATH=. $(PY) tests/soak_teacher.py

# Training stopped 30 times by signals and kills, and gone on with: the weights of a run never stopped, bit for bit.
soak-resume: .venv/installed
	PYTHONPATH=. $(PY) tests/soak_resume.py

# Other loaders and networks, for launch/throughput.py data and predict, in an environment of their own: their pins
# exclude ours.
peers: .venv-peers/installed

.venv-peers/installed: constraints-peers.txt .venv/installed
	python3 -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-peers/bin/python -m uv pip install --quiet --python .venv-peers/bin/python --constraint constraints-peers.txt \
		webdataset litdata mosaicml-streaming segmentation-models-pytorch torch torchvision
	@touch $@

# A real Slurm for tests/slurm, where it can be installed; elsewhere those tests are skipped, and say so.
slurm:
	@if [ -x /usr/sbin/slurmctld ] || command -v slurmctld >/dev/null; then echo "Slurm is here."; \
	elif [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
		echo "Slurm is not installed, which needs root and apt (slurm-wlm, munge): tests/slurm will be skipped."; \
	else apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends \
		slurm-wlm munge >/dev/null && echo "Slurm is installed." \
		|| echo "Slurm could not be installed, see above: tests/slurm will be skipped."; fi

# The real QGIS for tests/mkd/geo/test_qgis.py, where it can be installed; elsewhere it is skipped, and says so.
qgis:
	@if /usr/bin/python3 -c "import qgis.core" 2>/dev/null; then echo "QGIS is here."; \
	elif [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
		echo "QGIS is not installed, which needs root and apt (python3-qgis): its test will be skipped."; \
	else apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends \
		python3-qgis qgis-providers >/dev/null && echo "QGIS is installed." \
		|| echo "QGIS could not be installed, see above: its test will be skipped."; fi

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PY) tests/check_layout.py

.venv/installed: pyproject.toml constraints.txt
	@echo "Setting up .venv (once; downloads about 3 GB, 1 to 5 minutes on a good line) ..."
	python3 -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	$(PY) -m uv pip install --quiet --python $(PY) --constraint constraints.txt --editable ".[demo,test]"
	@touch $@
	@echo "Set-up done."

clean:
	rm -rf .venv .venv-peers runs

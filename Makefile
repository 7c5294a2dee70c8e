# make demo | pocket | test | bench | gpu | setup | clean; the first run of each sets up .venv, later ones install nothing.

BASE_PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
# make gpu PYTHON=python3 uses that Python and installs nothing.
PYTHON ?= $(VENV)/bin/python
DATA := data/datasets/sotu_sp1024/manifest.json
POCKET_DATA := data/datasets/sotu_sp4096/manifest.json
SEED ?= 42

.PHONY: setup demo pocket test bench gpu clean

setup: $(READY)

$(READY): requirements.txt
	$(BASE_PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $(READY)

data/datasets/sotu_sp%/manifest.json: | $(READY)
	$(PYTHON) -m data build --corpus sotu --vocab $* --out $(@D)

demo: $(READY) $(DATA)
	$(PYTHON) -m torch.distributed.run --standalone --nproc_per_node=1 train_gpt.py demo

pocket: $(READY) $(POCKET_DATA)
	SEED=$(SEED) $(PYTHON) -m torch.distributed.run --standalone --nproc_per_node=1 train_gpt.py pocket

test: $(READY)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m pytest -n 2

bench: $(READY) $(DATA)
	$(PYTHON) -m benchmarks

gpu: $(if $(filter $(VENV)/%,$(PYTHON)),$(READY))
	$(PYTHON) -m benchmarks.gpu

# Runs, records and data sets stay: they are yours.
clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# `make` alone lists the targets. Every target does its own set-up; a second call finds it done.
#   PYTHON  the Python that makes the environment (3.10 or newer)
#   VENV    where the environment lies
#   TORCH   what pip is asked for first; add an index for other builds of torch
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.14.1 torchvision==0.29.1

PY := $(VENV)/bin/python
STAMPS := $(VENV)/.stamps
PIP := $(PY) -m pip --disable-pip-version-check --quiet
DATA := $(if $(RAU_DATA),$(RAU_DATA),$(wildcard ../shared/data))

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test explore lint types format bench bench-quick mini vlm requirements screenshots gpu-check wheel clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "RAUSlicer needs Python 3.10 or newer, and $(PYTHON) is not. Name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	@echo "Setting up $(VENV), once: some minutes and about 8 GB (torch, sam2, transformers)"
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "Python's venv module does not work here. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@mkdir -p $(STAMPS) && touch $@

# torch first, then sam2 against that torch: its own build environment would fetch a second one.
$(STAMPS)/torch: $(STAMPS)/venv
	$(PIP) install "setuptools>=70" wheel $(TORCH)
	@touch $@

$(STAMPS)/sam2: $(STAMPS)/torch
	SAM2_BUILD_CUDA=0 $(PIP) install --no-build-isolation "sam2>=1.1"
	@touch $@

$(STAMPS)/core: $(STAMPS)/sam2 pyproject.toml
	$(PIP) install --editable .
	@touch $@

$(STAMPS)/dev: $(STAMPS)/sam2 pyproject.toml
	$(PIP) install --editable ".[dev]"
	@touch $(STAMPS)/core $@

setup: $(STAMPS)/core ## the environment to run RAUSlicer's engine
setup-dev: $(STAMPS)/dev ## the environment to test and change it

demo: $(STAMPS)/core ## segment a synthetic patient from another one, with the bundled model
	$(VENV)/bin/rau demo

# Two processes: most tests keep one core busy, and each process takes up to 3 GB of memory.
test: $(STAMPS)/dev ## all tests
	@$(PY) Testing/system_packages.py
	$(PY) -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

explore: $(STAMPS)/dev ## the property tests on examples never seen before
	@$(PY) Testing/system_packages.py
	$(PY) -m pytest --hypothesis-profile=explore -m "not slow" $(PYTEST_ARGS)

lint: $(STAMPS)/dev ## style
	$(PY) -m ruff check .
	$(PY) -m ruff format --check --quiet . || { echo "Some files are not formatted: make format" >&2; exit 1; }

format: $(STAMPS)/dev ## bring the code into the style
	$(PY) -m ruff check --fix --quiet .
	$(PY) -m ruff format --quiet .

types: $(STAMPS)/dev ## types of the engine
	$(PY) -m mypy

bench: $(STAMPS)/dev ## the measured figures (needs the labelled images, see README)
	@test -n "$(DATA)" || { echo "The labelled images are not here. Set RAU_DATA to their folder" >&2; exit 1; }
	$(PY) Benchmarks/hippocampus.py --check
	$(PY) Benchmarks/evaluation_sets.py --check

bench-quick: $(STAMPS)/dev ## the same on a few cases, in about a minute each
	@test -n "$(DATA)" || { echo "The labelled images are not here. Set RAU_DATA to their folder" >&2; exit 1; }
	$(PY) Benchmarks/hippocampus.py --quick
	$(PY) Benchmarks/evaluation_sets.py --quick

# What the bundled model is made of: rau-mini 0.1.0 (from the history), trained on. TEACHER: a DINOv2 ViT-S/14 folder.
FIRST := 9d25507
mini: $(STAMPS)/dev ## train the bundled model again, in runs/ (over an hour; needs the labelled images and TEACHER)
	@test -n "$(DATA)" -a -n "$(TEACHER)" || { echo "Set RAU_DATA to the labelled images, TEACHER to a DINOv2 folder" >&2; exit 1; }
	mkdir -p runs && git archive $(FIRST) RAUSlicer/Resources/Models/rau-mini | tar -x -C runs --strip-components=3
	OMP_NUM_THREADS=1 $(VENV)/bin/rau train segmenter --folder runs/segmenter --data "$(DATA)" --start runs/rau-mini \
	  --sizes 192,256 --bf16 --teacher "$(TEACHER)" --teacher-weight 0.3 --rate 6e-4 --warmup 100 --ramp 1 \
	  --minutes 70 --by-clock --steps 1000000 --cooldown 0.4 --every 300 --anatomies 3000
	$(VENV)/bin/rau train pack --segmenter runs/segmenter --encoder runs/rau-mini --version 0.2.0 --output runs/rau-mini-0.2.0

# The VLM of the bundled model: that of 0.5.0 (from the history), trained on: see Docs/model-card.md.
EARLIER_VLM := 8bcf6df
vlm: $(STAMPS)/dev ## train the bundled model's VLM again, in runs/ (over an hour; needs the labelled images)
	@test -n "$(DATA)" || { echo "Set RAU_DATA to the labelled images" >&2; exit 1; }
	mkdir -p runs/rau-mini-0.5.0
	git archive $(EARLIER_VLM) RAUSlicer/Resources/Models/rau-mini | tar -x -C runs/rau-mini-0.5.0 --strip-components=4
	OMP_NUM_THREADS=2 $(VENV)/bin/rau train sft --folder runs/vlm-sft --data "$(DATA)" --start runs/rau-mini-0.5.0 \
	  --across --reading 0.01 --sight 0 --ramp 0.01 --minutes 60 --cooldown 0.3 --shares 0.25,0.65,0.1 --rate 8e-4 \
	  --every 500 --warmup 50 --seed 11 --anatomies 2000 --bf16
	OMP_NUM_THREADS=2 $(VENV)/bin/rau train grpo --folder runs/vlm-grpo --data "$(DATA)" --start runs/vlm-sft --task label \
	  --minutes 6 --prompts 4 --rate 6e-5 --every 25 --seed 6 --anatomies 2000
	$(VENV)/bin/rau train pack --segmenter RAUSlicer/Resources/Models/rau-mini --encoder RAUSlicer/Resources/Models/rau-mini \
	  --vlm runs/vlm-grpo --threshold 0.68 --version 0.6.0 --output runs/rau-mini-0.6.0

# Every system at once; what is not asked for anew keeps its version. UPGRADE=--upgrade takes the newest.
PINNED := RAUSlicer/Resources/requirements.txt
requirements: $(STAMPS)/dev ## pin again, with checksums, what "Set up" in Slicer installs
	@mkdir -p build && cp $(PINNED) build/requirements.txt
	printf '%s\n' "pip>=25" "setuptools>=70.1" "uv>=0.9" $(TORCH) | SAM2_BUILD_CUDA=0 $(PY) -m uv pip compile pyproject.toml - \
	  --extra dicom --universal --python-version 3.10 --python $(PY) --no-build-isolation --generate-hashes --no-annotate \
	  --no-header --quiet $(UPGRADE) --output-file build/requirements.txt
	@{ head -2 $(PINNED); grep -v '^#' build/requirements.txt; } > build/pinned.txt && mv build/pinned.txt $(PINNED)

screenshots: $(STAMPS)/dev ## the pictures in Docs/screenshots, made by the demo and the tests of the panel
	@$(PY) Testing/system_packages.py
	$(VENV)/bin/rau demo --output build/demo
	cp build/demo/overlay.png Docs/screenshots/demo.png
	RAU_SCREENSHOTS=1 $(PY) -m pytest Testing/ui $(PYTEST_ARGS)

gpu-check: $(STAMPS)/core ## the bundled model on CUDA against the CPU
	$(PY) Benchmarks/gpu_check.py

wheel: $(STAMPS)/dev ## the engine as a wheel, in dist/
	$(PY) -m build --wheel --outdir dist

clean: ## remove what the targets made, the environment too
	rm -rf $(VENV) build dist demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Every target sets up what it needs. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name))))
VENV ?= .venv
RUN := $(VENV)/bin/python
PROCESSES ?= $(shell getconf _NPROCESSORS_ONLN)

# The capture that training runs on by default: about five minutes on two cores.
SHARDS := shards/built/synthetic
CAPTURE := --identities 128 --val_identities 16 --test_identities 16 --views 10 --size 64 --seed 1
# The larger one that the shipped backbone was trained on.
BACKBONE_SHARDS := shards/built/backbone
BACKBONE_CAPTURE := --identities 336 --val_identities 16 --test_identities 32 --views 10 --size 64 --seed 0
# More settings for fit: make train-stage1 ARGS="--trainer.max_steps 1000"
ARGS ?=

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-18s %s\n", $$1, $$2}'

##  Setting up

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "error: no python3 found; install Python 3.11 or newer" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is older than 3.11; make PYTHON=python3.11 …" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: setup.cfg constraints.txt | $(VENV)/bin/python
	@echo "setting up $(VENV) (a few minutes the first time)"
	$(RUN) -m pip install -c constraints.txt -e '.[capture,metrics]'
	@touch $@

$(VENV)/.dev: setup.cfg constraints.txt | $(VENV)/bin/python
	@echo "setting up $(VENV) with what tests need (a few minutes the first time)"
	$(RUN) -m pip install -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.run

.PHONY: setup setup-dev
setup: $(VENV)/.run ## Install what training and capturing need into .venv
setup-dev: $(VENV)/.dev ## Install what developing needs into .venv

##  Data

$(SHARDS)/manifest.json: | $(VENV)/.run
	$(RUN) -m shards.build synthetic $(CAPTURE) --processes $(PROCESSES) --out $(SHARDS)

$(BACKBONE_SHARDS)/manifest.json: | $(VENV)/.run
	$(RUN) -m shards.build synthetic $(BACKBONE_CAPTURE) --processes $(PROCESSES) --out $(BACKBONE_SHARDS)

# make shards SOURCE=nersemble ROOT=/data/nersemble builds shards from a download (more settings in ARGS).
SOURCE ?=
ROOT ?=

.PHONY: shards inspect
ifeq ($(SOURCE),)
shards: $(SHARDS)/manifest.json ## Capture the default portraits; or read a download: SOURCE=nersemble ROOT=…
else
shards: | $(VENV)/.run
	$(RUN) -m shards.build $(SOURCE) --root $(ROOT) --processes $(PROCESSES) --out shards/built/$(SOURCE) $(ARGS)
endif
inspect: $(SHARDS)/manifest.json ## Count and verify the default shards, and draw a contact sheet
	$(RUN) -m shards.inspect $(SHARDS) --sheet runs/shards.png

##  Training

.PHONY: train-stage1 train-backbone
train-stage1: $(SHARDS)/manifest.json ## Train the appearance reference F_ref (stage 1) on the default shards
	$(RUN) -m lightning_modules.fit --config configs/stage1.yaml $(ARGS)

train-backbone: $(BACKBONE_SHARDS)/manifest.json ## Train the small stand-in for Stable Diffusion anew (an hour or two)
	$(RUN) -m lightning_modules.fit --config configs/backbone_vae.yaml $(ARGS)
	$(RUN) -m lightning_modules.fit --config configs/backbone_unet.yaml $(ARGS)

##  Checking

.PHONY: test test-slow lint format types check benchmark
test: $(VENV)/.dev ## Run the fast tests
	$(RUN) -m pytest

test-slow: $(VENV)/.dev ## Run the tests that take longer
	$(RUN) -m pytest -m slow

lint: $(VENV)/.dev ## Check style
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(VENV)/.dev ## Rewrite to style
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

types: $(VENV)/.dev ## Check types where they pay
	$(RUN) -m mypy

check: lint types test ## Check style and types, and run the fast tests

benchmark: $(SHARDS)/manifest.json ## Measure speed and memory, as ratios taken side by side
	$(RUN) -m benchmarks.streaming --configs '[configs/stage1.yaml]'
	$(RUN) -m benchmarks.denoising

##  Pictures of the README

.PHONY: pictures
pictures: | $(VENV)/.run ## Draw the capture's contact sheet for the README anew
	$(RUN) -m shards.renderers.sheet docs/capture.jpg

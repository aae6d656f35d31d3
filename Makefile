# Every target sets up what it needs. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name))))
VENV ?= .venv
RUN := $(VENV)/bin/python
PROCESSES ?= $(shell getconf _NPROCESSORS_ONLN)
# Processes of the fast tests; each takes about a gigabyte of memory.
TESTERS ?= $(shell echo $$(( $(PROCESSES) < 8 ? $(PROCESSES) : 8 )))

# The capture that training runs on by default: under ten minutes on two cores.
STUDIO := --place studio --views 12 --size 128
SHARDS := shards/built/synthetic
CAPTURE := $(STUDIO) --identities 96 --val_identities 16 --test_identities 16 --seed 1
# The people on whom the shipped model was trained; and unseen people, for the demo and the ablations.
TRAINING_SHARDS := shards/built/people_a shards/built/people_b
CAPTURE_A := $(STUDIO) --identities 336 --val_identities 16 --test_identities 0 --seed 11
CAPTURE_B := $(STUDIO) --identities 320 --val_identities 0 --test_identities 0 --seed 12
PEOPLE_SHARDS := shards/built/people
PEOPLE_CAPTURE := $(STUDIO) --identities 32 --val_identities 0 --test_identities 32 --seed 14
# The trained part of an earlier stage: the newest run's export, or the shipped part.
newest = $(firstword $(shell ls -td runs/$(1)/version_*/export 2>/dev/null) checkpoints/mini/$(2))
MODEL ?= checkpoints/mini
TABLE ?= table1
# More options, of any target: make train-stage1 ARGS="--trainer.max_steps 1000"
ARGS ?=

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-18s %s\n", $$1, $$2}'

##  Setting up

# uv installs several times faster than pip. It ignores pip's settings (mirrors, proxies), so pip takes over where it fails.
PIP := $(RUN) -m pip install -q --disable-pip-version-check -c constraints.txt
install = $(PIP) uv; \
	$(RUN) -m uv pip install -q --python $(RUN) -c constraints.txt -e '.[$(EXTRAS)]' \
	|| { echo "uv could not install the packages: installing with pip" >&2; $(PIP) -e '.[$(EXTRAS)]'; }

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "error: no python3 found; install Python 3.11 or newer" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is older than 3.11; make PYTHON=python3.11 …" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: EXTRAS := capture,metrics
$(VENV)/.run: setup.cfg constraints.txt | $(VENV)/bin/python
	@echo "setting up $(VENV) (a few minutes the first time)"
	@$(install)
	@touch $@

$(VENV)/.dev: EXTRAS := dev
$(VENV)/.dev: setup.cfg constraints.txt | $(VENV)/bin/python
	@echo "setting up $(VENV) with what tests need (a few minutes the first time)"
	@$(install)
	@touch $@ $(VENV)/.run $(VENV)/.app

$(VENV)/.app: EXTRAS := app
$(VENV)/.app: setup.cfg constraints.txt | $(VENV)/bin/python
	@echo "setting up $(VENV) with what the page needs (a few minutes the first time)"
	@$(install)
	@touch $@

$(VENV)/.cluster: EXTRAS := cluster
$(VENV)/.cluster: setup.cfg constraints.txt | $(VENV)/.dev
	@echo "setting up $(VENV) with Ray"
	@$(install)
	@touch $@

.PHONY: setup setup-dev
setup: $(VENV)/.run ## Install what training and capturing need into .venv
setup-dev: $(VENV)/.dev ## Install what developing needs into .venv

##  Data

$(SHARDS)/manifest.json: | $(VENV)/.run
	$(RUN) -m diffportrait3d build synthetic $(CAPTURE) --processes $(PROCESSES) --out $(SHARDS)

shards/built/people_a/manifest.json: | $(VENV)/.run
	$(RUN) -m diffportrait3d build synthetic $(CAPTURE_A) --processes $(PROCESSES) --out $(@D)

shards/built/people_b/manifest.json: | $(VENV)/.run
	$(RUN) -m diffportrait3d build synthetic $(CAPTURE_B) --processes $(PROCESSES) --out $(@D)

$(PEOPLE_SHARDS)/manifest.json: | $(VENV)/.run
	$(RUN) -m diffportrait3d build synthetic $(PEOPLE_CAPTURE) --processes $(PROCESSES) --out $(PEOPLE_SHARDS)

# The backbone on which train-mini trains: the shipped one, or train-backbone's, runs/backbone_unet/backbone.
BACKBONE ?= checkpoints/mini
shards/built/%_latents/manifest.json: shards/built/%/manifest.json
	$(RUN) -m diffportrait3d cache-latents shards/built/$* --vae $(BACKBONE) --out $(@D)

# make shards SOURCE=nersemble ROOT=/data/nersemble builds shards from a download (more options in ARGS).
SOURCE ?=
ROOT ?=

.PHONY: shards inspect
ifeq ($(SOURCE),)
shards: $(SHARDS)/manifest.json ## Capture the default portraits; or read a download: SOURCE=nersemble ROOT=…
else
shards: | $(VENV)/.run
	$(RUN) -m diffportrait3d build $(SOURCE) --root $(ROOT) --processes $(PROCESSES) --out shards/built/$(SOURCE) $(ARGS)
endif
inspect: $(SHARDS)/manifest.json ## Count and verify the default shards, and draw a contact sheet
	$(RUN) -m diffportrait3d inspect $(SHARDS) --sheet runs/shards.png

##  Training

.PHONY: train-stage1 train-stage2 train-stage3 train-noise-prior train-mini train-backbone
train-stage1: $(SHARDS)/manifest.json ## Train the appearance reference F_ref (stage 1) on the default shards
	$(RUN) -m lightning_modules.fit --config configs/stage1.yaml $(ARGS)

train-stage2: $(SHARDS)/manifest.json ## Train view control F_cam (stage 2), F_ref from the newest stage 1 or as shipped
	$(RUN) -m lightning_modules.fit --config configs/stage2.yaml \
		--model.appearance $(call newest,stage1,appearance_reference) $(ARGS)

train-stage3: $(SHARDS)/manifest.json ## Train view consistency V (stage 3), F_ref and F_cam from the newest runs or as shipped
	$(RUN) -m lightning_modules.fit --config configs/stage3.yaml \
		--model.appearance $(call newest,stage1,appearance_reference) \
		--model.control $(call newest,stage2,view_control) $(ARGS)

train-noise-prior: $(SHARDS)/manifest.json ## Train the noise prior S, which needs no other stage
	$(RUN) -m lightning_modules.fit --config configs/noise_prior.yaml $(ARGS)

# The shipped model's recipe, in two halves: about seven hours on one core, with the captures' time on top. Its VAE was trained
# before colour_weight, hue and whitening (docs/training.md).
train-backbone: $(TRAINING_SHARDS:=/manifest.json) ## Train the small replacement for Stable Diffusion from scratch (hours)
	$(RUN) -m lightning_modules.fit --config configs/backbone_vae.yaml $(ARGS)
	$(RUN) -m lightning_modules.fit --config configs/backbone_unet.yaml $(ARGS)

# On a GPU, give ARGS="--config configs/scale/mini_gpu.yaml".
LONG := --config configs/data/captures.yaml --model.backbone $(BACKBONE)
train-mini: $(TRAINING_SHARDS:=_latents/manifest.json) ## Train the other shipped parts from scratch, as they were trained (hours)
	$(MAKE) train-stage1 ARGS="$(LONG) --data.batch_size 8 --data.targets 4 --trainer.max_steps 900 $(ARGS)"
	$(MAKE) train-stage2 ARGS="$(LONG) --data.batch_size 8 --data.targets 4 --trainer.max_steps 450 $(ARGS)"
	$(MAKE) train-stage3 ARGS="$(LONG) --trainer.max_steps 300 $(ARGS)"
	$(MAKE) train-noise-prior ARGS="--config configs/data/captures.yaml --data.batch_size 4 --trainer.max_steps 1000 $(ARGS)"

##  Using the model

.PHONY: app demo synthesize ablations evaluate dashboard metric-weights
app: | $(VENV)/.app ## Open the page that makes views of photos, on this machine: http://127.0.0.1:7860
	$(RUN) -m diffportrait3d app --model $(MODEL) $(ARGS)

demo: $(PEOPLE_SHARDS)/manifest.json ## Views of unseen people by the shipped model: pictures, an orbit, a table
	$(RUN) -m diffportrait3d demo --model $(MODEL) --data $(PEOPLE_SHARDS) --overwrite true $(ARGS)

synthesize: | $(VENV)/.run ## New views of a photo: make synthesize ARGS="--portrait me.jpg --out runs/me"
	$(RUN) -m diffportrait3d synthesize --model $(MODEL) $(ARGS)

ablations: $(PEOPLE_SHARDS)/manifest.json ## Measure the contribution of each part of the paper to the shipped model
	$(RUN) -m diffportrait3d ablations --model $(MODEL) --data $(PEOPLE_SHARDS) --out runs/ablations $(ARGS)

# Tables over other shards do not need the default ones.
OTHER_SHARDS = $(filter table1_wild,$(TABLE))$(findstring --subjects.shards,$(ARGS))
evaluate: $(if $(OTHER_SHARDS),,$(SHARDS)/manifest.json) | $(VENV)/.run ## Score a model, a table of the paper at a time: TABLE=table1, settings in ARGS
	$(RUN) -m diffportrait3d evaluate --config configs/evaluate/$(TABLE).yaml $(ARGS)

dashboard: | $(VENV)/.run ## Draw the newest run as one picture, from its own files
	$(RUN) -m diffportrait3d dashboard runs $(ARGS)

metric-weights: | $(VENV)/.run ## Download and verify the weights of metrics and dense landmarks (without internet: ARGS="--mirror DIR")
	$(RUN) -m diffportrait3d metric-weights $(ARGS)

##  Checking

.PHONY: test test-slow test-app test-cluster fuzz soak lint format types check benchmark benchmark-cpu help-texts
test: $(VENV)/.dev ## Run the fast tests
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(TESTERS) --dist loadfile

test-slow: $(VENV)/.dev ## Run the slow tests
	$(RUN) -m pytest -m slow

test-app: $(VENV)/.dev ## Drive the page in a real Chromium (Debian's, or CHROMIUM=…); pictures in runs/test-app
	$(RUN) -m pytest -m browser tests/app

test-cluster: $(VENV)/.cluster ## Run commands on a Ray cluster that is started here: three workers, 6 GB of memory
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m cluster tests/cluster

fuzz: $(VENV)/.dev ## Read 2,000 damaged and hostile files: each has to end in a one-line error or load
	OMP_NUM_THREADS=1 $(RUN) -m tests.fuzz $(ARGS)

soak: $(VENV)/.dev ## Kill training, builds and evaluation 30 times at random: each has to resume to the same result
	OMP_NUM_THREADS=1 $(RUN) -m tests.soak --kills 30 --seed 0 $(ARGS)

lint: $(VENV)/.dev ## Check style
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(VENV)/.dev ## Rewrite to style
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

types: $(VENV)/.dev ## Check types
	$(RUN) -m mypy

check: lint types test ## Check style and types, and run the fast tests

help-texts: $(VENV)/.dev ## Regenerate the stored help texts of the commands
	$(RUN) -m diffportrait3d.help_texts

benchmark: | $(VENV)/.run ## Measure speed and memory: on a GPU at full size, in minutes and without data; else on the CPU
	@if $(RUN) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; \
		then $(RUN) -m benchmarks.card $(ARGS); else $(MAKE) benchmark-cpu; fi

benchmark-cpu: $(SHARDS)/manifest.json ## Measure speed and memory on the CPU, as ratios taken side by side
	$(RUN) -m benchmarks.streaming --configs '[configs/stage1.yaml]'
	$(RUN) -m benchmarks.latents --configs '[configs/stage1.yaml]'
	$(RUN) -m benchmarks.denoising
	$(RUN) -m benchmarks.sampling --model $(MODEL)
	$(RUN) -m benchmarks.evaluation
	$(RUN) -m benchmarks.generators
	$(RUN) -m benchmarks.pose
	$(RUN) -m benchmarks.identity

##  Pictures of the README

.PHONY: pictures
pictures: | $(VENV)/.run ## Redraw the capture's contact sheet for the docs
	$(RUN) -m generators.parametric.sheet docs/capture.jpg

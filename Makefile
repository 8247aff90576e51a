# Espalier: prune large language models or grow small ones, and defend the numbers.
# Variables are given on the command line: make prune-wanda MODEL=llama2-7b PATTERN=2:4

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
ESPALIER := $(VENV)/bin/python -m espalier
METHODS := $(notdir $(patsubst %/,%,$(dir $(wildcard methods/*/spec.py))))
IMAGES := $(notdir $(patsubst %/,%,$(dir $(wildcard images/*/Dockerfile))))
LOCKS := $(notdir $(patsubst %/,%,$(dir $(wildcard images/*/requirements.in))))

# Every variable that was given on the command line, quoted, and no other: an unknown one is refused.
quote = '$(subst ','\'',$(1))'
given = $(foreach v,$(.VARIABLES),$(if $(filter command line,$(origin $v)),$(call quote,$v=$($v))))
ARGUMENTS = $(filter-out 'PYTHON=%,$(given))

##@ Prune
$(addprefix prune-,$(METHODS)): prune-%: $(VENV)/.ready ## Prune MODEL, evaluate before and after
	@$(ESPALIER) $@ $(ARGUMENTS)

pipeline: $(VENV)/.ready ## Fetch MODEL, prune it with METHOD, evaluate with SUITE
	@$(ESPALIER) $@ $(ARGUMENTS)

##@ Models, data and evaluation
fetch fetch-data grow adopt eval: $(VENV)/.ready ## Fetch MODEL or DATA; grow sapling; adopt FROM as NAME; evaluate CKPT
	@$(ESPALIER) $@ $(ARGUMENTS)

##@ The store
list list-models show verify gc: $(VENV)/.ready ## List artifacts or aliases; show or verify CKPT; remove partials
	@$(ESPALIER) $@ $(ARGUMENTS)

##@ Images and locks
images: $(VENV)/.ready ## Build every image for ACCEL
	@$(ESPALIER) image all $(ARGUMENTS)

$(addprefix image-,$(IMAGES)): image-%: $(VENV)/.ready ## Build one image, run its checks, record its packages
	@$(ESPALIER) image $* $(ARGUMENTS)

$(addprefix save-,$(IMAGES)): save-%: $(VENV)/.ready ## Write an image as an archive (TO=)
	@$(ESPALIER) save $* $(ARGUMENTS)

$(addprefix lock-,$(LOCKS)): lock-%: $(VENV)/.ready ## Write a hash-locked package list again
	@$(ESPALIER) lock $*

locks lock-check: $(VENV)/.ready ## Write all locks again; fail when one is stale
	@$(ESPALIER) $(if $(filter locks,$@),lock all,$@)

##@ Development
setup: $(VENV)/.ready ## Install the host tool into .venv (every target does it when needed)

doctor: $(VENV)/.ready ## Say what this machine can run
	@$(ESPALIER) doctor $(ARGUMENTS)

test: $(VENV)/.ready ## Run the tests (TESTS= picks some; container tests with ESPALIER_CONTAINER_TESTS=1)
	@$(VENV)/bin/python -m tests.run $(TESTS)

lint: $(VENV)/.ready ## Ruff, mypy, hadolint and shellcheck
	@$(VENV)/bin/python -m tests.lint

bench: $(VENV)/.ready ## Time and memory of the methods beside a plain implementation
	@$(VENV)/bin/python -m tests.run --bench $(BENCH)

help:
	@awk 'BEGIN {FS = ":.*## "; print "make <target> [NAME=value ...]"} \
	  /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z$$].*:.*## / {names = $$1; gsub(/: [a-z]+-%/, "", names); \
	    gsub(/\$$\(addprefix |\)/, "", names); \
	    gsub(/prune-,\$$\(METHODS/, "$(addprefix prune-,$(METHODS))", names); \
	    gsub(/image-,\$$\(IMAGES/, "image-<name>", names); gsub(/save-,\$$\(IMAGES/, "save-<name>", names); \
	    gsub(/lock-,\$$\(LOCKS/, "lock-<name>", names); \
	    printf "  \033[1m%s\033[0m\n      %s\n", names, $$2}' $(MAKEFILE_LIST)
	@printf '\nSettings: STORE RUNTIME (auto docker podman local) ACCEL (cpu cuda) DRY_RUN FORCE NAME MEMORY CPUS WAIT\n'

$(VENV)/.ready: images/host/requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "espalier: $(PYTHON) is older than 3.11; give PYTHON=<a newer one>." >&2; exit 3; }
	@echo "Setting up the host tool in $(VENV) (once)" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $< \
	  || { echo "espalier: the host tool's packages cannot be installed; is there a package index?" >&2; exit 3; }
	@touch $@

.PHONY: help setup doctor test lint bench images locks lock-check pipeline fetch fetch-data grow adopt eval \
  list list-models show verify gc $(addprefix prune-,$(METHODS)) $(addprefix image-,$(IMAGES)) \
  $(addprefix save-,$(IMAGES)) $(addprefix lock-,$(LOCKS))

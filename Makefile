# The front door. `make help` lists the targets.
#   ONLY=<family>/<slug>   one paper (or a family, or several in quotes); all without it
#   LAB=...                further options of jupyter lab
#   PROFILE=paper          the paper's own data, models and sizes (a GPU, the model hub)
ONLY ?=
PROFILE ?= laptop
SLUG ?=
LAB ?=
PYTHON3 ?= $(or $(shell command -v python3.11),python3)

# An active conda environment made from environment.yml is used as it is; else a virtual environment of the project's own.
ifeq ($(CONDA_DEFAULT_ENV),replications)
ENV :=
PYTHON := python
else
ENV := .venv/.ready
PYTHON := .venv/bin/python
endif

WORKFLOW := $(PYTHON) -m shared.workflow
RERUN := $(WORKFLOW).rerun --only "$(ONLY)" --profile "$(PROFILE)"

.DEFAULT_GOAL := all
.PHONY: all accept compare fresh test lint format new lab site time clean help

all: $(ENV)  ## rerun what is out of date: the environment, the data packages, the notebooks
	@$(RERUN)

accept: $(ENV)  ## promote what ran: notebook and ledger into replications/, the scoreboard, the gallery
	@$(WORKFLOW).accept --only "$(ONLY)"

compare: $(ENV)  ## what the last run changed, accepted and new side by side in build/compare.html
	@$(WORKFLOW).compare --only "$(ONLY)"

fresh: $(ENV)  ## rerun everything: recorded answers of language models too, and kept networks trained anew and compared
	@REPLICATIONS_FRESH=1 $(RERUN) --force
	@$(WORKFLOW).retrain --only "$(ONLY)"

test: $(ENV)  ## unit tests, registry tests and nbval over the committed notebooks
	@$(WORKFLOW).test --only "$(ONLY)"

lint: $(ENV)  ## ruff over code and notebooks
	@$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check .

format: $(ENV)  ## mend what ruff can mend
	@$(PYTHON) -m ruff check --fix . && $(PYTHON) -m ruff format .

new: $(ENV)  ## scaffold a replication: make new SLUG=<family>/<slug>
	@$(WORKFLOW).new "$(SLUG)"

lab: $(ENV)  ## open JupyterLab on the replications; it saves a notebook only when told to
	@$(PYTHON) -m jupyter lab --LabApp.app_settings_dir="$(CURDIR)/.lab" $(LAB) replications

site: $(ENV)  ## build the site from what is committed, into build/site/html
	@$(WORKFLOW).site

time: $(ENV)  ## rerun everything and print the pipeline's own overhead a notebook
	@$(RERUN) --force --time

clean:  ## remove what was built (never the accepted results, nor the environment)
	rm -rf build .snakemake .pytest_cache .ruff_cache

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  ONLY=<family>/<slug> narrows all, accept, fresh, test and time; PROFILE=paper runs at the paper's scale"

.venv/.ready: requirements.txt pyproject.toml
	@command -v $(PYTHON3) > /dev/null || { echo "error: $(PYTHON3) not found; install Python 3.11 (Debian: apt install python3.11 python3-venv) or name it: make PYTHON3=..."; exit 2; }
	@$(PYTHON3) -m venv .venv || { echo "error: no virtual environment could be made; on Debian: apt install python3-venv"; exit 2; }
	@echo "installing the pinned environment into .venv (2 to 4 minutes) ..."
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt \
		|| { echo "error: the pinned packages could not be installed (pip's words are above); check the network and run make again"; exit 2; }
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

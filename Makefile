# What a user or a developer starts. `make` alone lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SUITE ?= digits
TEST_WORKERS ?= 2
CODE := ddlib workflow/plugins tools tests benchmarks
SNAKEFILES := workflow/Snakefile $(wildcard workflow/rules/*.smk)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal

# A name as one word for the shell, whatever is in it.
quoted = '$(subst ','\'',$(1))'

.DEFAULT_GOAL := help
.PHONY: help venv demo test soak bench check audit ui status table report plan clean-suite du verify adopt rename lock

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  SUITE=name after table, report, plan, clean-suite; PYTHON=python3.12 after venv or demo"

venv: $(STAMP) ## .venv with everything pinned in requirements.lock (needs Python 3.11 or later)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "ddlib needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name one: make venv PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: venv ## real digits in, a table out: about six minutes on two CPU cores
	$(BIN)/snakemake --cores all
	@echo; $(BIN)/python -m ddlib.jobs.show digits

test: venv ## the fast tests, under ten minutes on two cores
	$(PYTEST)

soak: venv ## the long tests
	$(PYTEST) -m soak

bench: venv ## speed against the plain formulation: table and benchmarks/results/<device>.csv (BENCH=--quick)
	$(BIN)/python -m benchmarks $(BENCH)
	$(BIN)/python -m benchmarks.planning

check: venv ## ruff, mypy, snakefmt, snakemake --lint, dry runs of every suite
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/snakefmt --check $(SNAKEFILES)
	$(BIN)/snakemake --lint
	@for suite in $$($(BIN)/python -c 'import yaml; print(*yaml.safe_load(open("config.yaml"))["suites"])'); do \
	  echo "dry run of $$suite"; \
	  said=$$($(BIN)/snakemake -n --quiet all --cores 8 --resources gpu=4 results/tables/$$suite.csv results/figures/$$suite.png 2>&1) \
	    || { echo "$$said"; exit 1; }; \
	done

audit: venv ## known vulnerabilities of the pinned packages (asks a database on the internet)
	$(BIN)/pip-audit --strict --disable-pip --no-deps -r requirements.lock

ui: venv ## MLflow with all runs, live while jobs run
	$(BIN)/python -m ddlib.jobs.track --ui

status: venv ## what runs, how far it is, when it will be done
	@$(BIN)/python -m ddlib.jobs.status

table: venv ## the table of a suite as far as it exists, marked partial
	@$(BIN)/python -m ddlib.jobs.show --partial -- $(call quoted,$(SUITE))

report: venv ## report.html: the table, figure, pictures and provenance of a suite on one page (makes what is missing)
	$(BIN)/snakemake --cores all $(call quoted,results/tables/$(SUITE).html) $(call quoted,results/figures/$(SUITE).png)
	$(BIN)/snakemake --cores all --report report.html $(call quoted,results/tables/$(SUITE).html) $(call quoted,results/figures/$(SUITE).png)

plan: venv ## jobs, disk and hours a suite will take on this machine
	@$(BIN)/python -m ddlib.jobs.plan -- $(call quoted,$(SUITE))

clean-suite: venv ## delete the results of a suite that no other suite uses (asks; YES=1 does not)
	@$(BIN)/python -m ddlib.jobs.clean $(if $(YES),--yes) -- $(call quoted,$(SUITE))

du: venv ## disk used, by kind of result
	@$(BIN)/python -m ddlib.jobs.du

verify: venv ## check every result against its hash and name what is damaged (DELETE=1 deletes that)
	@$(BIN)/python -m ddlib.jobs.verify $(if $(DELETE),--delete)

adopt: venv ## take FILE=results/... made with other settings as what is asked for; FILE=results: copied ones as up to date
	@$(BIN)/python -m ddlib.jobs.adopt -- $(foreach file,$(FILE),$(call quoted,$(file)))

rename: venv ## give the results of an experiment that was renamed their new name: OLD=name NEW=name
	@$(BIN)/python -m ddlib.jobs.rename -- $(call quoted,$(OLD)) $(call quoted,$(NEW))

lock: ## write requirements.lock anew from pyproject.toml
	$(PYTHON) tools/lock.py

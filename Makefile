# The commands of the day. They run in the active environment; another one: make test PYTHON=path/to/python
PYTHON ?= python
RUN = $(PYTHON) -m
# All but the page of the chip in the loop, which is of no rule of its own.
RULE_PAGES = $(filter-out docs/rules/chip_in_the_loop.md,$(wildcard docs/rules/*.md))

.PHONY: help test slow lint format docs tables kernels pictures

help:  ## name the targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile

test:  ## the everyday tests: under five minutes on two cores
	$(RUN) pytest -n auto -m "not slow"

slow:  ## the tests that take minutes each
	$(RUN) pytest -m slow

lint:  ## style and types; changes nothing
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

format:  ## bring the style in order
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

docs:  ## build the documentation into docs/_build/html; warnings are errors
	$(RUN) sphinx -W --keep-going -q -b html docs docs/_build/html

tables:  ## write the tables of README and documentation anew from result files and the catalogue
	$(RUN) beyondprop report README.md docs/index.md docs/results.md docs/benchmarks.md docs/parallel.md docs/study.md docs/compare.md $(RULE_PAGES)
	$(PYTHON) benchmarks/noprop_report.py tables
	$(PYTHON) benchmarks/signals_report.py
	$(PYTHON) benchmarks/local_report.py
	$(PYTHON) benchmarks/perturbation_report.py
	$(PYTHON) benchmarks/sparse_report.py tables
	$(PYTHON) benchmarks/spiking_report.py tables

kernels:  ## compile the kernels of sparse layers anew, after a change of them
	$(PYTHON) src/beyondprop/layers/sparse/native/build.py

pictures:  ## draw the pictures of documentation anew from result files
	$(PYTHON) benchmarks/noprop_report.py pictures
	$(PYTHON) benchmarks/sparse_report.py pictures
	$(PYTHON) benchmarks/spiking_report.py pictures

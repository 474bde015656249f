PYTHON ?= python3
BIN := .venv/bin
MODEL ?= bundled
DATA ?= sample
OPTIONS ?=

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-9s %s\n", $$1, $$2}' Makefile

install: .venv/installed  ## make .venv with the pinned packages

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[lab,test]'
	@touch $@

report: install  ## run the notebooks, write reports/MODEL-DATA (MODEL=bundled DATA=sample OPTIONS=)
	$(BIN)/qalib report --model '$(MODEL)' --data '$(DATA)' $(OPTIONS)

test: install  ## lint and test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

lab: install  ## open JupyterLab at the index of the notebooks
	$(BIN)/jupyter lab notebooks/index.ipynb

exercises: install  ## write the teaching notebooks without their solutions to exercises/
	$(BIN)/python -m qalib.exercises exercises

site: install  ## run all notebooks, write them, glossary and report as a site to site/
	$(BIN)/python -m qalib.site site

clean:  ## remove .venv and what tools leave behind
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .hypothesis

.PHONY: help install report test lab exercises site clean

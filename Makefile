# Every target sets up what it needs first (once; see tools/setup_env.py) and runs from a fresh clone.
PYTHON ?= python3
PY     := .venv/bin/python
SETUP  := $(PYTHON) tools/setup_env.py

.DEFAULT_GOAL := help
.PHONY: help lab test course app bench export exercises readme selfcheck setup

help:  ## what can be made
	@grep -E '^[a-z]+: *##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+): *## */make \1\t/' | expand -t 16

lab:  ## open the course in JupyterLab
	@$(SETUP)
	@$(PY) tools/selfcheck.py --once || true  # what fails there is mended in the lab
	@$(PY) tools/lab.py $(LAB)

test:  ## prove that everything works; ends in a count
	@$(SETUP) --tests
	@$(PY) tools/verify.py

course:  ## run every chapter; ends in a table of what was trained and how well
	@$(SETUP)
	@$(PY) tools/course.py

app:  ## open the application of chapter 2: upload a picture, see the breeds
	@$(SETUP)
	@$(PY) tools/lab.py --app

bench:  ## measure this package beside fastai and plain PyTorch
	@$(SETUP)
	@$(PY) benchmarks/run.py

export:  ## write the package from the notebooks, and clean them
	@$(SETUP)
	@$(PY) -c 'from nbdev.doclinks import nbdev_export; nbdev_export()'
	@$(PY) -c 'from nbdev.clean import nbdev_clean; nbdev_clean()'

exercises:  ## write the exercise notebooks
	@$(SETUP)
	@$(PY) tools/exercises.py

readme:  ## render README.md from nbs/index.ipynb
	@$(SETUP)
	@$(PY) tools/readme.py

selfcheck:  ## train the first classifier on the built-in digits
	@$(SETUP)
	@$(PY) tools/selfcheck.py

setup:  ## only set up
	@$(SETUP) --tests

# Each target is a task of tools/tasks.py, where it is described; ARGS are passed on: make lab ARGS='--port=9000'
PYTHON ?= python3
ARGS   ?= $(LAB)
TASKS  := lab update test check test-long test-latest course app bench docs docs-serve export exercises readme selfcheck lock setup

.DEFAULT_GOAL := help
.PHONY: help $(TASKS)

help $(TASKS):
	@$(PYTHON) tools/tasks.py $@ $(ARGS)

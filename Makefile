# Works from a bare machine with Python, make and git: the first target that needs it makes .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
POLICY := chain(skip_nonfinite(), clip_by_global_norm(1.0))

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench bench-methods study-auto docs clean

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | expand -t 15

# pip is told about the constraints every time, so that nothing can move torch to another version.
$(STAMP): pyproject.toml constraints.txt
	@echo "Installing steadygrad and its tools into $(VENV); the first time takes a few minutes."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -qq --progress-bar off -c constraints.txt -e ".[dev]"
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -qq --progress-bar off -c constraints.txt --no-deps timm
	@touch $(STAMP)
	@echo "Installed."

demo: $(STAMP)  ## Record a training run that explodes and the same run protected, and report on both
	@rm -rf runs/demo-bare runs/demo-clipped runs/demo.html
	@mkdir -p runs
	@echo "1/3  The script as it is, only watched."
	@PYTHONUNBUFFERED=1 $(BIN)/steadygrad run --record runs/demo-bare examples/sequential_digits.py
	@echo
	@echo "2/3  The same script, its gradients clipped."
	@PYTHONUNBUFFERED=1 $(BIN)/steadygrad run --policy "$(POLICY)" --record runs/demo-clipped examples/sequential_digits.py
	@echo
	@echo "3/3  One report on both."
	@$(BIN)/steadygrad report runs/demo-bare runs/demo-clipped --html runs/demo.html
	@echo
	@echo "Open $(CURDIR)/runs/demo.html in a browser."

test: $(STAMP)  ## Run all tests, the examples of the docstrings among them
	$(BIN)/python -m pytest -q $(ARGS)

lint: $(STAMP)  ## Check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(STAMP)  ## Fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## Time steadygrad against torch (several minutes)
	$(BIN)/python benchmarks/run.py $(ARGS)

bench-methods: $(STAMP)  ## Time every policy and transform against clipping the global norm (some ten minutes)
	$(BIN)/python benchmarks/methods.py $(ARGS)

study-auto: $(STAMP)  ## Compare auto() with other limits on four tasks (some 40 minutes); goes on where it was stopped
	$(BIN)/python studies/auto/run.py $(ARGS)

docs: $(STAMP)  ## Build the documentation into site/
	$(BIN)/python -m sphinx -q -W --keep-going -b html -d build/doctrees docs site
	@echo "Open $(CURDIR)/site/index.html in a browser."

clean:  ## Remove everything that make can make again
	rm -rf $(VENV) build dist site runs/demo-bare runs/demo-clipped runs/demo.html .pytest_cache .ruff_cache .hypothesis

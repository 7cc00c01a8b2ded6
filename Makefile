# The commands of the project. Each but `setup` depends on the environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
# A CPU index for torch, such as https://download.pytorch.org/whl/cpu; empty: the default index.
TORCH_INDEX_URL ?=
TORCH := torch==2.13.0

.PHONY: setup lint format test conformance crash fuzz accuracy oracle big demo serve bench clean help

help:
	@echo "make setup | demo | test | conformance | crash | fuzz | accuracy | oracle | big | lint | format | serve | bench | clean"

setup: $(STAMP)

# torch goes in first and alone, so that nothing pulls a CUDA build by surprise.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Sintonia needs Python 3.11 or newer; set PYTHON=python3.11 or later."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,bench,demo]'
	touch $(STAMP)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: setup
	$(BIN)/pytest -m "not slow"

# Every generation of the client libraries, each in an environment of its own, and the table.
conformance: setup
	$(BIN)/python tests/conformance/environments.py
	$(BIN)/pytest tests/conformance --report-markdown .conformance/report.md \
		--report-json .conformance/report.json

# SIGKILL at every named point of writing and at 20 seeded random moments.
crash: setup
	$(BIN)/pytest tests/e2e/test_kills.py tests/e2e/test_batch_kills.py tests/e2e/test_upload_kills.py
	$(BIN)/pytest tests/training/test_resume.py
	$(BIN)/pytest -m slow tests/training/test_kinds.py

# 100,000 requests made from the API's own document, some 25,000 from OpenAI's, and 10,000 broken
# files; about an hour.
fuzz: setup
	FUZZ_EXAMPLES=2500 $(BIN)/pytest -rP tests/api/test_fuzz_openapi.py
	FUZZ_EXAMPLES=500 $(BIN)/pytest -rP tests/api/test_fuzz_openai.py
	$(BIN)/pytest tests/api/test_fuzz_files.py

# The demo's figures in both languages; needs about ten minutes.
accuracy: setup
	$(BIN)/pytest tests/e2e/test_examples_learned.py

# TRL on the same rows, on the embedded model too, and how its rendering differs; five minutes.
oracle: setup
	$(BIN)/pytest -rP tests/training/test_trl.py tests/training/test_trl_rendering.py

# A file of 512 MB and one of SINTONIA_TEST_UPLOAD_GB (2 unless given) in parts, and an account of a
# thousand files and jobs that moves in: all in flat memory.
big: setup
	$(BIN)/pytest -m slow -rP tests/e2e/test_big_uploads.py tests/migration/test_migration.py

demo: setup
	$(BIN)/sintonia demo

serve: setup
	$(BIN)/sintonia serve

bench: setup
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/training.py --method dpo --batch-size 4
	$(BIN)/python benchmarks/concurrency.py
	$(BIN)/python benchmarks/data_check.py
	$(BIN)/python benchmarks/many_rows.py --rows 100000

clean:
	rm -rf $(VENV) .conformance .pytest_cache .mypy_cache .ruff_cache

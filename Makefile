# What a user of a checkout types; `make` alone lists it. docs/setup.md says what setup does.
#   TORCH_BACKEND=auto|cpu|cuda   torch's wheel      PYTHON=/path/to/python   the Python to use

PYTHON_FILES = app agents models benchmarks tests deploy
BIN = .venv/bin
SETUP = @deploy/setup.sh

.DEFAULT_GOAL := help
.PHONY: help run setup test test-gpu bench faults backpressure exactly-once soak fuzz audit lint lock clean

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 14

run: ## a Kafka, a worker, the page, and sample documents: ONCE=1 ends then, DOCS=FILE sends yours
	$(SETUP)
	@exec $(BIN)/bertstream up $${ONCE:+--once} $${DOCS:+--docs "$$DOCS"}

setup: ## make .venv, as the other commands do when they need it
	$(SETUP)

test: ## all tests, with a real Kafka and a real browser: ARGS='-k name' chooses
	$(SETUP) --dev
	@exec $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(ARGS)

test-gpu: ## the tests that need a GPU
	$(SETUP) --dev
	@exec $(BIN)/python -m pytest tests/gpu $(ARGS)

bench: ## the engine, the way through Kafka, latency, the plumbing, into docs/performance.md: DATA=FILE.jsonl, FULL=1
	$(SETUP) --dev
	@$(BIN)/python -m uv pip install --quiet --target .venv/peers \
		confluent-kafka quixstreams pyspark==4.2.0 'pandas<3' pyarrow matplotlib || true
	@$(BIN)/python -m benchmarks.engine $${DATA:+--data "$$DATA"} --write docs/performance.md
	@$(BIN)/python -m benchmarks.through_kafka $${DATA:+--data "$$DATA"} --write docs/performance.md
	@$(BIN)/python -m benchmarks.latency $${DATA:+--data "$$DATA"} --write docs/performance.md
	@$(BIN)/python -m benchmarks.plumbing --write docs/performance.md
	@if [ -n "$$FULL" ]; then exec $(BIN)/python -m benchmarks.scaling $${DATA:+--data "$$DATA"} \
		--plot docs/scaling.svg --write docs/performance.md; fi

faults: ## every fault under load, into docs/reliability.md: ONLY='name ...', COMPARE=1, RATE, JSON
	$(SETUP) --dev
	@exec $(BIN)/python -m benchmarks.faults $(if $(RATE),--rate $(RATE)) \
		$(if $(JSON),--json '$(JSON)') $(if $(COMPARE),--compare) \
		$(if $(ONLY),--only $(ONLY),--write docs/reliability.md)

backpressure: ## a worker with more before it than it can take, into docs/reliability.md
	$(SETUP) --dev
	@exec $(BIN)/python -m benchmarks.backpressure --write docs/reliability.md

exactly-once: ## what exactly once costs, into docs/reliability.md
	$(SETUP) --dev
	@exec $(BIN)/python -m benchmarks.exactly_once --write docs/reliability.md

soak: ## one worker for MINUTES=30 at 80 % of what it can do, into docs/reliability.md
	$(SETUP) --dev
	@exec $(BIN)/python -m benchmarks.soak --minutes $${MINUTES:-30} --write docs/reliability.md

fuzz: ## the decoder for FOR=120 seconds, then RECORDS=100000 mutated records through Kafka
	$(SETUP) --dev
	@$(BIN)/python -m uv pip install --quiet --no-build --python $(BIN)/python atheris 2>/dev/null || true
	@$(BIN)/python -m tests.fuzz.decoder $${FOR:-120}
	@exec $(BIN)/python -m tests.fuzz.through_kafka $${RECORDS:-100000}

audit: ## what is known against the locked packages, where the advisories can be reached
	$(SETUP) --dev
	@exec $(BIN)/python deploy/audit.py

lint: ## ruff and mypy
	$(SETUP) --dev
	@$(BIN)/ruff check $(PYTHON_FILES)
	@$(BIN)/ruff format --check $(PYTHON_FILES)
	@$(BIN)/mypy
	@$(BIN)/mypy deploy/environment.py deploy/lock.py deploy/audit.py
	@$(BIN)/mypy benchmarks

lock: ## resolve the requirements*.lock files anew from pyproject.toml
	$(SETUP) --dev
	@$(BIN)/python deploy/lock.py

clean: ## remove .venv and build leftovers; what runs have stored stays
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(PYTHON_FILES) -name __pycache__ -type d -prune -exec rm -rf {} +

# make setup   everything the others need: .venv with the `zerogpu` command, and the browser's downloads
# make run     start the server (ARGS="--port 9000" passes options on)
# make test    everything CI runs: lint, types, all tests, the browser journeys
# make check   under a minute: lint, types, fast tests
# make bench   measurements, as ratios in one run
# make clean   remove what was made here; the server's data in var/ stays

.DEFAULT_GOAL := setup
.PHONY: setup run test check bench clean lint
.NOTPARALLEL:

BIN := .venv/bin
ARGS ?=
COMPILED_TESTS := tests/orchestrator/domain tests/orchestrator/transport tests/orchestrator/test_engine.py tests/orchestrator/test_stopping.py \
	$(addprefix tests/orchestrator/test_api_,garbage.py guards.py http.py idempotency.py limits.py replies.py streams.py) \
	tests/orchestrator/test_storage_keyring.py tests/orchestrator/test_storage_writer.py tests/orchestrator/test_storage_token_counter.py

setup:
	@scripts/setup

run: setup
	@exec $(BIN)/zerogpu serve $(ARGS)

lint: setup
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

check: lint
	@$(BIN)/pytest tests -m "not slow" --quiet $(ARGS)

# Apart: Playwright's synchronous interface, which the journeys use, keeps an event loop running that
# tests with loops of their own cannot share. A journey needs both cores of a small machine to itself.
# What is compiled where there is a compiler has to work without as well: its tests run both ways.
# Where the environment forbids bytecode, each of hundreds of processes would compile all modules anew.
test: export PYTHONDONTWRITEBYTECODE =
test: lint
	@browser=$$(scripts/setup-browser) && export CHROMIUM_PATH="$$browser" && \
		$(BIN)/pytest tests --numprocesses 2 --dist worksteal $(ARGS) && \
		ZEROGPU_COMPILED=0 $(BIN)/pytest $(COMPILED_TESTS) --numprocesses 2 $(ARGS) && \
		$(BIN)/pytest e2e $(ARGS)

bench: setup
	@browser=$$(scripts/setup-browser) && CHROMIUM_PATH="$$browser" $(BIN)/python -m bench $(ARGS)

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis test-results
	find . -name __pycache__ -not -path './var/*' -prune -exec rm -rf {} +

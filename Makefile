# `make test` is the one test command: it installs what the tests need, then runs every check.
# The parts can be run alone; each says in one line what it proves.

CARGO ?= cargo
# Build output lives outside the checkout, so that a fresh clone builds on what the last one left.
# Deleting it is always safe.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/forebay/target
# Servers that tests run against; `make tools` puts them here.
export FOREBAY_TOOLS ?= $(HOME)/.cache/forebay/tools/bin
# The Python environment of the tests, outside the checkout too.
export FOREBAY_VENV ?= $(HOME)/.cache/forebay/venv
FEATURES = --features forebay-cli/crash-points,forebay-checkpoint/crash-points,forebay-prepare/crash-points,forebay-index/crash-points,forebay-archive/crash-points

.PHONY: test tools format architecture deny lint build unit docs plain python python-test bench day checkpoint-kills

test: tools format architecture deny lint unit docs plain python-test ## everything, as CI runs it

tools: ## install what a bare machine lacks
	ci/install-tools

format: ## every file is formatted
	$(CARGO) fmt --all --check

architecture: ## the arrows between crates and the invariants of absence
	python3 ci/check_architecture.py --self-test
	python3 ci/check_architecture.py

deny: ## licences, sources and duplicates of dependencies
	$(CARGO) deny check --hide-inclusion-graph bans licenses sources

lint: ## clippy, warnings denied, tests included
	$(CARGO) clippy --workspace --all-targets $(FEATURES) -- -D warnings

unit: ## unit, property, golden-file, crash and whole-day tests
	$(CARGO) test --workspace $(FEATURES)

docs: ## the API documentation builds without a warning
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet

plain: ## the build that users get: no test-only feature
	$(CARGO) clippy --package forebay-cli --bins -- -D warnings

python: ## the Python package, built and installed into $(FOREBAY_VENV)
	ci/install-tools python
	cd python && VIRTUAL_ENV=$(FOREBAY_VENV) $(FOREBAY_VENV)/bin/maturin develop --uv --quiet --profile dev

python-test: python ## its types, and its promises with real PyTorch, Lightning, Transformers, torchrun, JAX
	cd python && $(FOREBAY_VENV)/bin/mypy
	cd python && $(FOREBAY_VENV)/bin/pytest --quiet

checkpoint-kills: python ## jobs of three ranks killed 50 times at random moments; half an hour
	cd python && FOREBAY_KILL_ROUNDS=50 $(FOREBAY_VENV)/bin/pytest --quiet tests/test_checkpoint_ranks.py

bench: ## ratios to the limits, printed
	$(CARGO) bench --package forebay-bench

day: ## one model's whole day
	$(CARGO) run --release -- day

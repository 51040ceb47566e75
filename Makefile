# make run    everything on this machine: Airflow, MLflow, the demo pipeline       make stop   end it all
# make test   linters and all tests                                                make help   the rest
SHELL := /bin/bash
VENV ?= .venv
RECIPE ?= demo
AIRFLOW_PORT ?= 8080
MLFLOW_PORT ?= 5000
HYPERCLOVA_HOME ?= $(CURDIR)/.hyperclova
TORCH_INDEX_URL ?=
DOCKER ?= docker
COMPOSE ?= docker compose
COMPOSE_FILES ?=
IMAGES ?= orchestrator pipeline
BASE_IMAGE ?=
REGISTRY ?=
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
export VENV TORCH_INDEX_URL HYPERCLOVA_HOME AIRFLOW_PORT MLFLOW_PORT
BIN := $(VENV)/bin

.PHONY: run stop test test-fast test-parallel test-k8s fuzz chart chart-package compose-up compose-down images lint setup up demo-text bench-foundation bench-hostile bench-deduplicate bench-serialize bench-scale bench-tokenizers bench-train bench-parameters help

run: setup ## Start the services, run pretrain_hyperclova with RECIPE, show the result; again: reuse what is unchanged
	@$(BIN)/hyperclova platform demo --recipe $(RECIPE)

up: setup ## Start the services only
	@$(BIN)/hyperclova platform up

stop: ## End all services and free the ports
	@if [ -x $(BIN)/hyperclova ]; then $(BIN)/hyperclova platform down; else echo "Nothing was set up"; fi

demo-text: setup ## Gather the demo's Korean texts
	@$(BIN)/hyperclova platform demo-text

test: setup lint ## Linters and all tests, in two workers
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-fast: setup lint ## Tests that start neither Spark nor ranks
	@$(BIN)/python -m pytest -m "not spark and not ranks and not slow"

test-parallel: setup ## Training under every layout beside one process: prints the parity matrix; resuming, faults, export
	@$(BIN)/python -m pytest tests/training

test-k8s: setup ## Jobs on a double of a cluster; KUBECONFIG=FILE HYPERCLOVA_TEST_IMAGE=IMAGE: the conformance file on a real one too
	@$(BIN)/python -m pytest tests/jobs

fuzz: setup ## Mutated inputs for every reader, detector, signal and the tokenizer (FUZZ_RUNS=10000 FUZZ_SEED=1)
	@$(BIN)/python -m tests.hostile.fuzz $(or $(FUZZ_RUNS),10000) $(FUZZ_SEED)

chart: setup ## The helm chart: linted, rendered for all its values, valid for Kubernetes 1.29 to 1.37
	@$(BIN)/python -m pytest tests/chart

chart-package: setup ## The chart with Airflow's official one in it, in build/ (needs https://airflow.apache.org)
	@mkdir -p build && $(BIN)/python helm/program.py package build

compose-up: ## Everything on one machine in containers: PostgreSQL, SeaweedFS, MLflow, Airflow (docker/compose.yaml)
	@python3 docker/make_secrets.py
	@$(DOCKER) build --network host $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) --build-arg EXTRAS=local,cluster \
	    -f docker/orchestrator.Dockerfile -t hyperclova-local .
	@$(COMPOSE) -p hyperclova -f docker/compose.yaml $(COMPOSE_FILES) up -d
	@echo "Airflow http://127.0.0.1:$(AIRFLOW_PORT) (admin, ADMIN_PASSWORD in docker/.env), MLflow http://127.0.0.1:$(MLFLOW_PORT) (admin, MLFLOW_ADMIN_PASSWORD)"

compose-down: ## End them; the data stays
	@$(COMPOSE) -p hyperclova -f docker/compose.yaml $(COMPOSE_FILES) down

images: ## The images, and a stage run inside one (IMAGES="orchestrator pipeline trainer" REGISTRY=registry.example/team/ BASE_IMAGE=…)
	@for image in $(IMAGES); do $(DOCKER) build --network host $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) \
	    -f docker/$$image.Dockerfile -t $(REGISTRY)hyperclova-$$image:$(VERSION) . || exit 1; done
	@$(DOCKER) run --rm --network none --read-only --cap-drop ALL --security-opt no-new-privileges --tmpfs /tmp:exec \
	    --tmpfs /home/hyperclova:uid=10001 -v $(CURDIR)/conf/demo/portal:/in:ro -e HYPERCLOVA_PSEUDONYM_KEY=a-key-for-trying-alone \
	    $(REGISTRY)hyperclova-pipeline:$(VERSION) ingest /in/kin.jsonl --source kin --output /tmp/kin

bench-foundation: setup ## What commits, manifests and S3 reads cost, beside named peers (BENCH_MB=1000)
	@$(BIN)/python benchmarks/foundation.py

bench-hostile: setup ## What the boundary around content costs, and how long hostile inputs take (BENCH_MB=20)
	@$(BIN)/python -m benchmarks.hostile

bench-deduplicate: setup ## Deduplication beside datatrove, by size, by night (PARTS="signatures stage scaling night" BENCH_MB=1000)
	@$(BIN)/python benchmarks/deduplicate.py $(PARTS)

bench-serialize: setup ## Encoder, whole jobs beside the usual ways, scaling (PARTS="kernel growth job scaling" BENCH_MB=100)
	@$(BIN)/python benchmarks/serialize.py $(PARTS)

bench-scale: setup ## The whole chain at several sizes, look-ups, gathering (PARTS="chain costs lookups gather" BENCH_SIZES="100,400" SCALE_FILES=24)
	@$(BIN)/python benchmarks/scale.py $(PARTS)

bench-tokenizers: setup ## Morpheme, byte and character BPE: the same small model on each (BENCH_MB=12 VOCABULARY=4096)
	@$(BIN)/python benchmarks/tokenizer_kinds.py

bench-train: setup ## Engine beside plain torch, loader beside Megatron's, time to the first step (PARTS="engine dropout loader start")
	@$(BIN)/python benchmarks/train.py $(PARTS)

bench-parameters: setup ## Shingle length and bands on labelled pairs
	@$(BIN)/python benchmarks/duplicate_parameters.py

lint: setup ## ruff, mypy --strict, import rules
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

setup: ## .venv from the lock, Java 17+
	@hyperclova_core/local/setup.sh

help: ## This list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 26
	@echo "  Variables: RECIPE=$(RECIPE) AIRFLOW_PORT=$(AIRFLOW_PORT) MLFLOW_PORT=$(MLFLOW_PORT) HYPERCLOVA_HOME, PYTHON, TORCH_INDEX_URL"

# One verb each; `make demo` and `make test` set up all that they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BUF_VERSION := 1.75.0
export OMP_NUM_THREADS ?= 2
export ORT_DISABLE_TELEMETRY ?= 1

.PHONY: install check test test-all test-faults storm demo docs proto bench locks sbom train-default clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("ConvLens needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; set PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[torch]'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# The clients and the servers of others, which need an older protobuf: environments of their own.
$(VENV)-peers/.installed: tests/peers.txt
$(VENV)-bench/.installed: benchmarks/peers.txt
$(VENV)-peers/.installed $(VENV)-bench/.installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

# Checkov pins libraries that others here need newer.
$(VENV)-checkov/.installed: tests/checkov.txt
	$(PYTHON) -m venv $(VENV)-checkov
	$(VENV)-checkov/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

check: install .buf/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint deploy/containers/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose/compose.yaml deploy/compose/compose.gpu.yaml
	PATH="$(abspath $(BIN)):$$PATH" protos/buf.sh $(BUF_VERSION)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/pytest -q tests/deploy/test_kubernetes.py tests/deploy/test_kit_settings.py tests/deploy/test_wheels.py tests/docs/test_reference.py

# Two processes share the files of tests, since many tests wait for other processes; TEST_PROCESSES=0 is one after the other.
TEST_PROCESSES ?= 2
test: install $(VENV)-peers/.installed
	$(BIN)/pytest -m 'not slow' -n $(TEST_PROCESSES) --dist loadfile

test-all: install $(VENV)-peers/.installed $(VENV)-checkov/.installed
	$(BIN)/pytest

# All that may break, one by one, slow ones too; then at random, as a seed decides.
test-faults: install
	$(BIN)/pytest tests/faults tests/workers/jobs/test_refusals.py tests/workers/jobs/test_every_operation.py

SEED ?= 0
MINUTES ?= 5
storm: install
	$(BIN)/python -m tests.storm --seed $(SEED) --minutes $(MINUTES)

demo: install
	$(BIN)/python -m convlens_client.demo --out demo-out

# The pages of docs/reference that follow from the code; `make check` builds the site into build/site.
docs: install
	$(BIN)/python -m docs.generate

.buf/ready: $(INSTALLED) protos/googleapis.py
	$(BIN)/python protos/googleapis.py .buf/googleapis
	touch $@

PROTOS := $(wildcard protos/convlens/*/*.proto)
proto: .buf/ready
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos -I.buf/googleapis --python_out=protos --mypy_out=quiet:protos $(PROTOS)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos -I.buf/googleapis --grpc_python_out=protos --mypy_grpc_out=quiet:protos $$(grep -l '^service ' $(PROTOS))
	$(BIN)/python protos/comments.py .buf/googleapis

# What the images hold: one lock file a target, for linux/amd64. `make locks UPGRADE=--upgrade` takes newer versions.
# PyTorch for CPUs comes from a page of its own; TORCH_CPU may be a folder of wheels instead.
LOCK = $(BIN)/uv pip compile --quiet --no-config --generate-hashes --python-version 3.11 \
	--python-platform x86_64-unknown-linux-gnu --custom-compile-command 'make locks' $(UPGRADE)
TORCH_CPU ?= https://download.pytorch.org/whl/cpu/torch/
SERVER_EXTRAS := --extra otel --extra search --extra maps
WORKER_EXTRAS := --extra otel --extra worker
locks: install
	$(LOCK) deploy/locks/build.in --output-file deploy/locks/build.txt
	$(LOCK) pyproject.toml --extra server $(SERVER_EXTRAS) --output-file deploy/locks/server.txt
	$(LOCK) pyproject.toml --extra gpu $(SERVER_EXTRAS) --output-file deploy/locks/server-cuda.txt
	$(LOCK) pyproject.toml $(WORKER_EXTRAS) --find-links $(TORCH_CPU) --output-file deploy/locks/worker-cpu.txt
	$(LOCK) pyproject.toml $(WORKER_EXTRAS) --output-file deploy/locks/worker-cuda.txt

# What each image holds, as CycloneDX. An image has its own, with licences, as /app/sbom.cdx.json.
sbom: $(patsubst %,build/sbom/%.cdx.json,server server-cuda worker-cpu worker-cuda)

build/sbom/%.cdx.json: deploy/locks/%.txt $(INSTALLED)
	mkdir -p $(@D)
	$(BIN)/cyclonedx-py requirements --output-reproducible --output-file $@ $<

bench: install $(VENV)-bench/.installed
	$(BIN)/python -m benchmarks $(PARTS)

train-default: install
	$(BIN)/python -m convlens_models.patterns.train

clean:
	rm -rf .buf build dist demo-out

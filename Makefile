# One verb each; `make demo` and `make test` set up all that they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BUF_VERSION := 1.75.0
export OMP_NUM_THREADS ?= 2

.PHONY: install check test test-all demo proto bench locks sbom train-default clean

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

check: install .buf/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	PATH="$(abspath $(BIN)):$$PATH" protos/buf.sh $(BUF_VERSION)

test: install $(VENV)-peers/.installed
	$(BIN)/pytest -m 'not slow'

test-all: install $(VENV)-peers/.installed
	$(BIN)/pytest

demo: install
	$(BIN)/python -m convlens_client.demo --out demo-out

.buf/ready: $(INSTALLED) protos/googleapis.py
	$(BIN)/python protos/googleapis.py .buf/googleapis
	touch $@

SERVICES := admin attack attribution collection inspection job model style unit
INFERENCE := protos/convlens/inference/open_inference.proto
proto: .buf/ready
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos -I.buf/googleapis --python_out=protos --mypy_out=quiet:protos protos/convlens/v1/*.proto $(INFERENCE)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos -I.buf/googleapis --grpc_python_out=protos --mypy_grpc_out=quiet:protos $(SERVICES:%=protos/convlens/v1/%.proto) $(INFERENCE)

bench: install $(VENV)-bench/.installed
	$(BIN)/python -m benchmarks $(PARTS)

train-default: install
	$(BIN)/python -m convlens_models.patterns.train

clean:
	rm -rf .buf build dist demo-out

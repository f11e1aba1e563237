# SPDX-License-Identifier: MIT
PYTHON ?= python3
VENV ?= build/venv
RUN := $(VENV)/bin/python

# make demo SUITE=forky: the Debian that Dom0 and DomUs are made of
export XEN_DMABUF_SUITE := $(or $(SUITE),$(XEN_DMABUF_SUITE))

.PHONY: help demo view lint test test-compositors status fuzz oe-test soak shell host-packages requirements clean clean-cache kernel-check kernel-loops kernel-debug-test kernel-bench flip-bench input-bench oe-check layer-build layer-demo

help:
	@echo "make demo           the main job on the testbed, with its proofs: build/demo/report.html; [SUITE=forky] Dom0 and DomU of that Debian"
	@echo "make view           sit down and use it: Dom0 as a kiosk with a guest's desktop, keyboard and mouse"
	@echo "make lint           ruff and mypy over all Python here, reuse over all files, docs/status.md against its claims"
	@echo "make test           lint, then all tests that run here: unit tests, layer, testbed"
	@echo "make test-compositors  sway and labwc on Dom0's screen, with dma-bufs"
	@echo "make status         write docs/status.md from docs/status.toml and the last run of make test"
	@echo "make oe-test        the image tests by oe-core's own oe-test: OE_CORE=clone [TESTS=\"module...\"]"
	@echo "make soak           DomUs ended in random order: N=cycles (default 20) SEED=number"
	@echo "make fuzz           hostile inputs for the backend: N=inputs (default 1000000) SEED=number TARGET=name"
	@echo "make shell          boot the testbed and wait: SSH into Dom0 by the printed command"
	@echo "make host-packages  install the Debian packages that the testbed needs (root)"
	@echo "make requirements   write requirements.txt, versions and hashes, anew from requirements.in"
	@echo "make kernel-check   apply, check and compile the kernel patches; TREES=\"6.6=folder 6.12:nxp=folder\" adds kernels"
	@echo "make kernel-loops   map and release N times (default 10000) on every exporter, count what is left"
	@echo "make kernel-debug-test  selftests, faults and proofs on debug kernels of Dom0 and of DomUs (KASAN, lockdep ...)"
	@echo "make kernel-bench   time the ways to map grants side by side: build/kernel-bench/bench.md"
	@echo "make flip-bench     count what a page flip costs: build/flip-bench/bench.md; [ROWS=\"map-gl-640x480...\"] [DOCS=1] [AGAIN=1]"
	@echo "make input-bench    time input events on their way to a DomU, and what input costs: build/input-bench/bench.md"
	@echo "make layer-build    real bitbake builds the layer's recipes and images: OE_TREES=folder [RELEASES=wrynose] [KERNEL=none|checked|compiled] [OE_SOURCES=folder]"
	@echo "make layer-demo     the same, then make demo with these packages: OE_TREES=folder [RELEASE=wrynose] [KERNEL=none|compiled] [OE_SOURCES=folder]"
	@echo "make oe-check       heavy checks of the layer with OE_TREES=folder of the trees [RELEASES=wrynose]"
	@echo "make clean          remove build/; make clean-cache removes the testbed's cache"

# The virtual environment is brought up to date when its requirements change.
$(VENV)/.ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: Python 3.11 or newer is needed"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "make: python3-venv is missing: apt-get install python3-venv"; exit 2; }
	@echo "installing from PyPI: $$(grep -v '^[#-]' requirements.in | tr '\n' ' ')"
	@$(VENV)/bin/pip install --quiet --require-hashes -r $< || { echo "make: pip can't install $<; is the network there?"; exit 2; }
	@touch $@

# What pip compiles comes after the Debian packages that it is compiled with.
$(VENV)/.native: requirements-native.txt $(VENV)/.ready | host-packages
	@echo "installing from PyPI: $$(sed -n 's/^\([a-z].*==[^ ]*\).*/\1/p' $<)"
	@$(VENV)/bin/pip install --quiet --require-hashes --no-build-isolation -r $< || { echo "make: pip can't install $<; is the network there?"; exit 2; }
	@touch $@

# Newer versions of everything: run it with the oldest Python that is supported, and look at the difference.
requirements:
	@$(PYTHON) -m venv build/lock
	@build/lock/bin/pip install --quiet pip-tools==7.6.2
	@CUSTOM_COMPILE_COMMAND="make requirements" build/lock/bin/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras \
	 --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --output-file requirements.txt requirements.in

demo: $(VENV)/.ready
	@$(RUN) -m testbed demo

shell view host-packages clean-cache kernel-bench input-bench: $(VENV)/.ready
	@$(RUN) -m testbed $@

flip-bench: $(VENV)/.ready
	@$(RUN) -m testbed $@ $(ROWS) $(if $(DOCS),--docs) $(if $(AGAIN),--again)

lint: $(VENV)/.ready
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy
	@$(VENV)/bin/reuse lint --lines
	@$(RUN) tests/status.py --check

# In place, where the tests import it: what C is compiled with comes with requirements-native.txt.
build/.pump: $(wildcard backend/src/xen_dmabuf/pump/pump.*) backend/pump_build.py $(VENV)/.native
	@$(RUN) backend/pump_build.py in-place
	@touch $@

test: lint build/.pump
	@$(RUN) -m pytest --junitxml=build/test/junit.xml

test-compositors: $(VENV)/.ready
	@$(RUN) -m testbed host-packages
	@$(RUN) -m pytest -v -m compositors tests/testbed/test_other_compositors.py

status: $(VENV)/.ready
	@$(RUN) tests/status.py

oe-test: $(VENV)/.ready
	@test -n "$(OE_CORE)" || { echo "make oe-test: set OE_CORE to a clone of openembedded-core"; exit 2; }
	@$(RUN) -m testbed oe-test "$(OE_CORE)" $(TESTS)

soak: $(VENV)/.ready
	@XEN_DMABUF_SOAK_CYCLES=$(or $(N),20) XEN_DMABUF_SOAK_SEED=$(SEED) \
	 $(RUN) -m pytest -s --junitxml=build/test/soak.xml tests/testbed/test_image.py -k Soak

fuzz: export PYTHONWARNINGS = error
fuzz: build/.pump
	@PYTHONPATH=backend/src:backend/tests $(VENV)/bin/python -m fuzz --inputs $(or $(N),1000000) $(if $(SEED),--seed $(SEED)) $(if $(TARGET),--target $(TARGET))
	@$(if $(filter-out pump,$(TARGET)),true,PYTHONPATH=backend/src:backend/tests $(RUN) -m fuzz.sanitized --inputs 100000 $(if $(SEED),--seed $(SEED)))

kernel-loops: $(VENV)/.ready
	@XEN_DMABUF_MAP_LOOPS=$(or $(N),10000) $(RUN) -m pytest -s tests/testbed/test_image.py -k "selftest or loops or complained"

kernel-check: $(VENV)/.ready
	@$(RUN) tests/kernel_check.py check $(TREES)

kernel-debug-test: $(VENV)/.ready
	@$(RUN) -m testbed host-packages
	@$(RUN) -m pytest -v --capture=no -m debugkernel tests/testbed/test_debug_kernel.py tests/testbed/test_debug_guest.py

oe-check: $(VENV)/.ready
	@test -n "$(OE_TREES)" || { echo "make oe-check: set OE_TREES to the folder with the trees; docs/testing.md says how to get them"; exit 2; }
	@OE_TREES="$(OE_TREES)" OE_RELEASES="$(RELEASES)" $(RUN) tests/layer/oe_trees.py

layer-build: $(VENV)/.ready
	@$(RUN) -m testbed layer-build "$(OE_TREES)" $(if $(RELEASES),--release $(RELEASES)) --sources "$(OE_SOURCES)" --kernel $(or $(KERNEL),checked)

layer-demo: $(VENV)/.ready
	@$(RUN) -m testbed layer-demo "$(OE_TREES)" $(if $(RELEASE),--release $(RELEASE)) --sources "$(OE_SOURCES)" --kernel $(or $(KERNEL),none)

clean:
	rm -rf build

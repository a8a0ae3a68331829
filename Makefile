# make build: the extension, in place, for work on the code.
PYTHON ?= python3
BUILD_DIR ?= build/dev

.PHONY: build
build:
	cmake -S . -B $(BUILD_DIR) -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE=$$(command -v $(PYTHON)) \
	  -Dpybind11_DIR=$$($(PYTHON) -m pybind11 --cmakedir) -DCMAKE_LIBRARY_OUTPUT_DIRECTORY=$(CURDIR)/python/fastconv
	cmake --build $(BUILD_DIR) -j 2

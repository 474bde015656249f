PYTHON ?= python3
BIN := .venv/bin
MODEL ?= bundled
DATA ?= sample
OPTIONS ?=

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-11s %s\n", $$1, $$2}' Makefile

install: .venv/installed  ## make .venv with the pinned packages, and compile the block-sparse kernel

# torch first: the kernel is compiled against it, where there is a compiler, while the other packages are installed.
PIP := $(BIN)/pip install --quiet --constraint constraints.txt
.venv/torch: constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch setuptools
	@touch $@

.venv/kernel: .venv/torch setup.py $(wildcard qalib/runtimes/cpu/kernel/*.cpp qalib/runtimes/cpu/kernel/*.h)
	$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

.venv/packages: .venv/torch pyproject.toml
	QALIB_KERNEL=no $(PIP) --no-build-isolation --editable '.[lab,test]'
	@touch $@

.venv/installed: pyproject.toml setup.py constraints.txt $(wildcard qalib/runtimes/cpu/kernel/*.cpp qalib/runtimes/cpu/kernel/*.h)
	@$(MAKE) --no-print-directory --jobs=2 .venv/kernel .venv/packages
	@touch $@

report: install  ## run the notebooks, write reports/MODEL-DATA (MODEL=bundled DATA=sample OPTIONS=)
	$(BIN)/qalib report --model '$(MODEL)' --data '$(DATA)' $(OPTIONS)

test: install  ## lint and test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(MAKE) --no-print-directory types
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

types: install  ## check the types of the package
	$(BIN)/basedpyright

coverage: install  ## test, and show the lines of the package that no test ran
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --cov

OLDER := QALIB_INSTRUCTIONS=avx2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
older: install  ## run the kernels' tests and the main job as on a processor without AVX-512
	$(OLDER) $(BIN)/python -m pytest tests/runtimes/test_block_sparse.py tests/runtimes/test_runtimes.py tests/benchmark/test_benchmark.py
	$(OLDER) $(BIN)/qalib report --quick --out reports/older

peers: install  ## add the other libraries that the benchmark can be run against
	QALIB_KERNEL=no $(PIP) --no-build-isolation --editable '.[lab,test,peers]'

# The last version, for Python 3.8 to 3.11, wants older packages than the rest. Its licence allows evaluation only.
DEEPSPARSE_PYTHON ?= python3.11
.venv-deepsparse/installed:
	$(DEEPSPARSE_PYTHON) -m venv .venv-deepsparse
	.venv-deepsparse/bin/pip install --quiet 'deepsparse==1.8.0' 'numpy<2'
	@touch $@

deepsparse: peers .venv-deepsparse/installed  ## add DeepSparse to the peers, in an environment of its own (evaluation only)

# Archived; its packages of 2024 go with Python 3.9 to 3.11. --no-deps: it names packages that it does not need here.
NEURAL_ENGINE_PYTHON ?= python3.11
.venv-neural-engine/installed:
	$(NEURAL_ENGINE_PYTHON) -m venv .venv-neural-engine
	.venv-neural-engine/bin/pip install --quiet 'torch==2.13.0' 'transformers==4.38.2' 'onnx==1.16.2' 'onnxruntime<1.20' \
		'numpy<2' 'protobuf<5' 'ml_dtypes<0.6' schema tqdm py-cpuinfo
	.venv-neural-engine/bin/pip install --quiet --no-deps 'intel-extension-for-transformers==1.4.2'
	@touch $@

neural-engine: install .venv-neural-engine/installed  ## add Intel's Neural Engine to the peers, in an environment of its own (2 GB)

gpu: install  ## measure on the GPU at hand, write reports/benchmarks/NAME-OF-THE-GPU (OPTIONS='--masks FILE --parts twin')
	$(BIN)/python -m qalib.benchmark.gpu reports/benchmarks $(OPTIONS)

reliability: install  ## measure what can go wrong, write reports/reliability.md (an hour; TRIALS=)
	PYTHONPATH=tests HF_HUB_OFFLINE=1 $(BIN)/python -m reliability.page reports/reliability.md $(TRIALS)

ADDRESS := -g -fsanitize=address
sanitize: install  ## test block_sparse.cpp under an address sanitizer (gcc or clang on Linux)
	rm -rf build/sanitize && mkdir -p build/sanitize && cp -r qalib setup.py pyproject.toml LICENSE README.md build/sanitize
	rm -f build/sanitize/qalib/runtimes/cpu/*.so
	cd build/sanitize && CFLAGS='$(ADDRESS)' CXXFLAGS='$(ADDRESS)' LDFLAGS='$(ADDRESS)' \
	    $(abspath $(BIN))/python setup.py --quiet build_ext --inplace
	LD_PRELOAD="$$($${CXX:-c++} -print-file-name=libasan.so) $$($${CXX:-c++} -print-file-name=libstdc++.so)" \
	    ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=build/sanitize $(BIN)/pytest -p no:cacheprovider tests/runtimes/test_block_sparse.py

lab: exercises  ## open JupyterLab at the index of the notebooks, the students' copies beside them
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks/index.ipynb

exercises: install  ## write the teaching notebooks without their solutions to exercises/ (OPTIONS=--nbgrader)
	$(BIN)/python -m qalib.teaching.exercises exercises $(OPTIONS)

# The live page: other libraries to export the model, and npm's packages to run it in a browser.
web/node_modules: web/package-lock.json
	npm ci --prefix web --ignore-scripts --no-audit --no-fund
	@touch $@

live: peers web/node_modules  ## write the page that asks the model in the browser, to live/ (python -m http.server -d live)
	$(BIN)/python -m qalib.site.live live

docs: install  ## add what makes the API reference
	QALIB_KERNEL=no $(PIP) --no-build-isolation --editable '.[lab,test,docs]'

site: docs  ## run all notebooks, write them, glossary and report as a site to site/ (after make live the live page too)
	$(BIN)/python -m qalib.site site

clean:  ## remove .venv and what tools leave behind
	rm -rf .venv .venv-deepsparse .venv-neural-engine build *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage*

.PHONY: help install report test types coverage older peers deepsparse neural-engine gpu reliability sanitize lab exercises live docs site clean

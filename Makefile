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
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

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
	rm -rf .venv .venv-deepsparse build *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage*

.PHONY: help install report test coverage older peers deepsparse gpu reliability sanitize lab exercises live docs site clean

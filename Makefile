# Works in either order, from a clone in any folder; `PYTHON` and `VENV` can be set.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
TORCH ?=

.PHONY: demo test tests quick check audit fuzz bench coverage docs slow kills mutants lower gpu-check board-micro tune-micro board-paper board-ddpm tune-ddpm board-t2i tune-t2i board-micro-2 board-micro-ddpm-2 board-micro-t2i-2 tune-micro-2 tune-micro-ddpm-2 tune-micro-ddpm-3 tune-micro-t2i-2 tune-micro-t2i-3 results overview site judges bases wheel clean

# Two stamps: what the demo needs, and what the tests and checks need as well. Either can come first.
$(VENV)/.demo: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "sa_bench needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a few minutes the first time) ..."
	$(if $(TORCH),$(BIN)/python -m pip install -q $(TORCH))
	$(BIN)/python -m pip install -q -e .
	@touch $@

$(VENV)/.installed: $(VENV)/.demo
	@echo "Installing what the tests and checks need ..."
	$(BIN)/python -m pip install -q -e '.[dev]'
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/python -m sa_bench run --task mnist_0 --method original,sa,relabel,retrain --set sa.lam=15 --scale quick --jobs 2 --out runs/demo --overwrite
	@echo
	@echo "Open runs/demo/report.html in a browser. Go on with:"
	@echo "  $(BIN)/python -m sa_bench run --task mnist_0 --method sa --set lam=10 --scale quick"
	@echo "  $(BIN)/python -m sa_bench list"

# The checks beside the tests. While you work: `make quick`, which starts no processes.
test: $(VENV)/.installed
	$(MAKE) -j2 check tests

# Bytecode is kept even where the environment says otherwise: every process would compile all anew.
SIDE_BY_SIDE = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
tests: $(VENV)/.installed
	$(SIDE_BY_SIDE) -m 'not slow and not gpu'

quick: $(VENV)/.installed
	$(SIDE_BY_SIDE) -m 'not slow and not gpu and not process'

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python --output-format min-text --progress-bar no

# Known holes in what is installed, from the index's own list; without a network it says so and fails.
audit: $(VENV)/.installed
	@test -x .venv-audit/bin/pip-audit || { $(PYTHON) -m venv .venv-audit && .venv-audit/bin/pip install -q pip-audit; } \
	    || { rm -rf .venv-audit; echo "audit: pip-audit cannot be had. Go online and run it again."; exit 3; }
	@$(BIN)/python -m pip freeze --exclude-editable > .venv-audit/installed.txt
	@.venv-audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r .venv-audit/installed.txt \
	    || { echo "audit: a known hole above, or the list could not be had (then go online): nothing is promised."; exit 1; }

# Seeded damage to every kind of file that a stranger may send: no traceback, no hang, no more than 1.5 GiB.
FUZZ_SECONDS ?= 600
FUZZ_SEED ?= 0
fuzz: $(VENV)/.installed
	$(BIN)/python tests/fuzz/run.py $(FUZZ_SECONDS) $(FUZZ_SEED)

# The documentation site; also read from the disk, without a server. A test builds it too.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "Open $(CURDIR)/site/index.html in a browser."

bench: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/benchmarks -m slow --benchmark-json=.benchmarks/last.json
	$(BIN)/python tests/benchmarks/report.py .benchmarks/last.json docs/benchmarks.md

coverage: $(VENV)/.installed
	$(BIN)/python -m pytest -m 'not slow and not gpu' --cov --cov-report=term-missing:skip-covered

gpu-check: $(VENV)/.installed
	$(BIN)/python -m pytest -m gpu tests/gpu
	$(BIN)/python tests/gpu/check.py

slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

# About a quarter of an hour: SIGKILL at points chosen by a seed in every command, resumed, compared bit by bit.
KILLS ?= 110
kills: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/kills.py $(KILLS)

# About an hour: lines broken one at a time, and which tests notice; the table is $(MUTANTS)/results.md.
MUTANTS ?= runs/mutants
mutants: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py all $(MUTANTS)

# The oldest libraries that pyproject.toml admits, weekly: their own environment (gigabytes), the quick part of the tests.
lower:
	$(PYTHON) -m venv $(VENV)-lower
	$(VENV)-lower/bin/python -m pip install -q uv
	$(VENV)-lower/bin/uv pip install -q --python $(VENV)-lower/bin/python --resolution lowest-direct -e '.[dev]'
	$(VENV)-lower/bin/python -m sa_bench --help > /dev/null
	OMP_NUM_THREADS=1 $(VENV)-lower/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow and not gpu and not process'

# Each resumes where it was stopped. About 4 CPU-hours, 1 and 2.
board-micro: $(VENV)/.installed
	$(BIN)/python -m sa_bench plan --suite micro-1 --jobs 2
	$(BIN)/python -m sa_bench run --suite micro-1 --jobs 2 --out runs/micro-1
	$(BIN)/python -m sa_bench pack runs/micro-1 docs/data/micro-1.jsonl.xz
	$(MAKE) results

tune-micro: $(VENV)/.installed
	$(BIN)/python -m sa_bench run --suite tune-micro-1 --jobs 2 --out runs/tune-micro-1
	$(BIN)/python -m sa_bench tune runs/tune-micro-1 --out docs/boards/tuning-micro.md

board-paper: $(VENV)/.installed
	$(BIN)/python -m sa_bench run --suite paper-mnist --jobs 2 --out runs/paper-mnist
	$(BIN)/python -m sa_bench report runs/paper-mnist --out docs/boards/results-paper.md

# About 5 CPU-hours, and 1.
board-ddpm: $(VENV)/.installed
	$(BIN)/python -m sa_bench plan --suite micro-ddpm-1 --jobs 2
	$(BIN)/python -m sa_bench run --suite micro-ddpm-1 --jobs 2 --out runs/micro-ddpm-1
	$(BIN)/python -m sa_bench pack runs/micro-ddpm-1 docs/data/micro-ddpm-1.jsonl.xz
	$(MAKE) results

# About 5 CPU-hours; its pictures are of runs/micro-t2i-1, which holds the images.
board-t2i: $(VENV)/.installed
	$(BIN)/python -m sa_bench plan --suite micro-t2i-1 --jobs 2
	$(BIN)/python -m sa_bench run --suite micro-t2i-1 --jobs 2 --out runs/micro-t2i-1
	$(BIN)/python -m sa_bench pack runs/micro-t2i-1 docs/data/micro-t2i-1.jsonl.xz
	$(BIN)/python -m sa_bench figure samples runs/micro-t2i-1 --task mnist_0_t2i \
	    --method sa,esd,salun,uce,concept_ablation,sld,retrain,prompt_filter --out docs/images/micro-t2i-samples.png
	$(MAKE) results

tune-ddpm: $(VENV)/.installed
	$(BIN)/python -m sa_bench run --suite tune-micro-ddpm-1 --jobs 2 --out runs/tune-micro-ddpm-1
	$(BIN)/python -m sa_bench tune runs/tune-micro-ddpm-1 --out docs/boards/tuning-micro-ddpm.md

# About 2 CPU-hours.
tune-t2i: $(VENV)/.installed
	$(BIN)/python -m sa_bench run --suite tune-micro-t2i-1 --jobs 2 --out runs/tune-micro-t2i-1
	$(BIN)/python -m sa_bench tune runs/tune-micro-t2i-1 --out docs/boards/tuning-micro-t2i.md

# The second boards: every method, every attack, several concepts. On one processor of the first boards' machine about 2 CPU-hours (VAE), 5 and 9.
board-micro-2 board-micro-ddpm-2 board-micro-t2i-2: board-%: $(VENV)/.installed
	$(BIN)/python -m sa_bench plan --suite $* --jobs 2
	$(BIN)/python -m sa_bench run --suite $* --jobs 2 --out runs/$*
	$(BIN)/python -m sa_bench pack runs/$* docs/data/$*.jsonl.xz
	$(BIN)/python -m sa_bench report docs/data/$*.jsonl.xz --out docs/boards/results-$*.md

# The searches before them.
tune-micro-2 tune-micro-ddpm-2 tune-micro-ddpm-3 tune-micro-t2i-2 tune-micro-t2i-3: tune-%: $(VENV)/.installed
	$(BIN)/python -m sa_bench run --suite tune-$* --jobs 2 --out runs/tune-$*
	$(BIN)/python -m sa_bench pack runs/tune-$* docs/data/searches/tune-$*.jsonl.xz
	$(BIN)/python -m sa_bench tune runs/tune-$* --out docs/boards/tuning-$*.md

# Any suite, resumed where it was stopped: suite-digits-2, suite-digits-ddpm-2, suite-prompts-2.
suite-%: $(VENV)/.installed
	$(BIN)/python -m sa_bench plan --suite $* --jobs 2
	$(BIN)/python -m sa_bench run --suite $* --jobs 2 --out runs/$*

# The pages and pictures of the boards in docs/data, a minute. docs/images/overview.png needs images, so it is made
# of the demo: see `overview`.
results: $(VENV)/.installed
	$(BIN)/python -m sa_bench report docs/data/micro-1.jsonl.xz --out docs/boards/results-micro.md
	$(BIN)/python -m sa_bench report docs/data/micro-2.jsonl.xz --out docs/boards/results-micro-2.md
	$(BIN)/python -m sa_bench report docs/data/micro-ddpm-1.jsonl.xz --out docs/boards/results-micro-ddpm.md
	$(BIN)/python -m sa_bench report docs/data/micro-ddpm-2.jsonl.xz --out docs/boards/results-micro-ddpm-2.md
	$(BIN)/python -m sa_bench report docs/data/micro-t2i-1.jsonl.xz --out docs/boards/results-micro-t2i.md
	$(BIN)/python -m sa_bench figure pareto docs/data/micro-ddpm-1.jsonl.xz --task mnist_0_ddpm_r1000 --out docs/images/micro-ddpm-r1000.svg

# The picture of docs/concepts.md, of the run that `make demo` makes.
overview: $(VENV)/.installed demo
	$(BIN)/python -m sa_bench figure overview runs/demo --out docs/images/overview.png

# The leaderboard as static pages, to be put on any server or opened from the folder.
site: $(VENV)/.installed
	$(BIN)/python -m sa_bench site docs/data/micro-1.jsonl.xz docs/data/micro-2.jsonl.xz docs/data/micro-ddpm-1.jsonl.xz docs/data/micro-ddpm-2.jsonl.xz docs/data/micro-t2i-1.jsonl.xz --out runs/site

judges bases: $(VENV)/.installed
	$(BIN)/python -m sa_bench.weights $@

wheel: $(VENV)/.installed
	$(BIN)/python -m build --wheel

clean:
	rm -rf $(VENV) $(VENV)-lower build dist *.egg-info

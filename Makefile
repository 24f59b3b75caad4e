# Everything runs in .venv, which `make setup` makes from the hash-pinned lock file.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
export JAX_PLATFORMS ?= cpu
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: setup pretrained demo chat lint test test-long test-faults test-parity test-beam test-tpu benchmark golden lock clean

setup: $(VENV)/.installed

$(VENV)/.installed: requirements/dev.txt setup.cfg
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'gptjax needs Python 3.11 or newer; set PYTHON=python3.12, say.' >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# The whole life of a small GPT, from the documentation inside every CPython to a chat.
DEMO := runs/demo
say = @printf '\n\033[1m%s\033[0m\n' '$(1)'
train = $(PY) -m gptjax.train --config=configs/$(1)/$(2).py --workdir=runs/$(1)/$(2)
evals = $(PY) -m gptjax.evals --workdir=runs/$(1)

# What is there is not made again: each command ends when its work is done.
pretrained: setup
	$(call say,Data: the documentation that every CPython carries)
	$(PY) -m gptjax.data --config=configs/data/python_docs.py --output=$(DEMO)/docs
	$(PY) -m gptjax.data --config=configs/data/python_qa.py --output=$(DEMO)/chat
	$(PY) -m gptjax.data --config=configs/data/python_qa.py:pairs --output=$(DEMO)/pairs
	$(call say,Pretraining)
	$(call train,demo,pretrain)

demo: pretrained
	$(call say,Fine-tuning on questions and answers)
	$(call train,demo,sft)
	$(call say,Learning preferences)
	$(call train,demo,dpo)
	$(call say,Evaluation on what was held out)
	$(call evals,demo/pretrain) --trigram
	$(call evals,demo/pretrain) --data=$(DEMO)/chat
	$(call evals,demo/sft) --answers=100
	$(call evals,demo/sft) --data=$(DEMO)/pairs
	$(call evals,demo/dpo)
	$(call evals,demo/dpo) --data=$(DEMO)/chat --answers=100
	$(PY) -m gptjax.evals report --workdir=$(DEMO)/pretrain --workdir=$(DEMO)/sft \
	  --workdir=$(DEMO)/dpo --output=$(DEMO)/report.html
	@echo; echo 'The report:  $(DEMO)/report.html'
	@echo 'To chat:     $(PY) -m gptjax.serve --workdir=$(DEMO)/dpo --port=8000'

# Post-training of the same model: SFT, DPO and GRPO, before and after side by side.
CHAT := runs/chat
ANSWERS := --answers=100 --rewards=$(CHAT)/grpo
chat: pretrained
	$(call say,SFT: answers to questions; a fifth of the rows is pretraining)
	$(call train,chat,sft)
	$(call say,DPO: the better of two answers)
	$(call train,chat,dpo)
	$(call say,GRPO: answers of its own and what rules make of them)
	$(call train,chat,grpo)
	$(call say,Before and after on what was held out)
	$(call evals,demo/pretrain) --trigram
	$(call evals,demo/pretrain) --data=$(DEMO)/chat $(ANSWERS)
	for run in sft dpo grpo; do \
	  $(call evals,chat/$$run) --data=$(DEMO)/docs && \
	  $(call evals,chat/$$run) --data=$(DEMO)/pairs && \
	  $(call evals,chat/$$run) --data=$(DEMO)/chat $(ANSWERS) || exit; done
	$(PY) -m gptjax.evals report --workdir=$(DEMO)/pretrain --workdir=$(CHAT)/sft \
	  --workdir=$(CHAT)/dpo --workdir=$(CHAT)/grpo --output=$(CHAT)/report.html
	@echo 'To chat:  $(PY) -m gptjax.serve --workdir=$(CHAT)/grpo --port=8000'

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: setup
	$(PY) -m pytest

# Tests of tens of seconds each, which `make test` leaves out.
test-long: setup
	$(PY) -m pytest -m long

# Faults by the hundred: an hour on two cores. PART=corruption runs corruption_test.py.
PART ?= *
test-faults: setup
	$(PY) -m pytest --numprocesses=1 --timeout=1800 tests/faults/$(PART)_test.py

# Figures, into experiments/benchmarks/latest.json; AREA=startup measures one area. Where
# .venv-parity is there, peers are measured beside. Memory lies in huge pages, on both
# sides, as our commands have it. .venv-tpu compiles for TPUs.
benchmark: setup
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 GPTJAX_PEERS=$${GPTJAX_PEERS:-$(wildcard $(VENV)-parity/bin/python)} \
	  GPTJAX_TPU=$${GPTJAX_TPU:-$(wildcard $(VENV)-tpu/bin/python)} $(PY) -m experiments.benchmarks $(AREA)

# Golden files of the tests, made by the oracles; `make test` only reads them.
golden: $(VENV)-parity/.installed
	$(VENV)-parity/bin/python tests/golden/make_families.py
	$(VENV)-parity/bin/python tests/golden/make_chat.py

# The same comparisons live, on other weights, and what only the oracles can do.
test-parity: $(VENV)-parity/.installed
	PYTHONPATH=. $(VENV)-parity/bin/python -m pytest tests/parity

$(VENV)-parity/.installed: requirements/parity.txt
	$(PYTHON) -m venv $(VENV)-parity
	$(VENV)-parity/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/parity.txt
	@touch $@

# The same pipeline on Apache Beam as on the built-in runner.
test-beam: $(VENV)-beam/.installed
	PYTHONPATH=. $(VENV)-beam/bin/python -m pytest --numprocesses=0 tests/beam

$(VENV)-beam/.installed: requirements/beam.txt
	$(PYTHON) -m venv $(VENV)-beam
	$(VENV)-beam/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/beam.txt
	@touch $@

# Programs for TPUs, compiled ahead of time where there is none.
test-tpu: $(VENV)-tpu/.installed
	PYTHONPATH=. $(VENV)-tpu/bin/python -m pytest --numprocesses=0 tests/tpu

$(VENV)-tpu/.installed: requirements/tpu.txt
	$(PYTHON) -m venv $(VENV)-tpu
	$(VENV)-tpu/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/tpu.txt
	@touch $@

# Needs uv. One file serves Python 3.11 to 3.13: where versions differ, it says so in a marker.
LOCK = uv pip compile setup.cfg --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-annotate --custom-compile-command 'make lock'
lock:
	$(LOCK) --extra data --extra serve --extra gguf --extra track --extra dev --output-file requirements/dev.txt
	$(LOCK) --extra parity --output-file requirements/parity.txt
	$(LOCK) --extra data --extra beam --extra dev --output-file requirements/beam.txt
	$(LOCK) --extra tpu --extra dev --output-file requirements/tpu.txt

clean:
	rm -rf $(VENV) runs

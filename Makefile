# What people type: make demo, make test. "make help" lists the rest.
# Written for any make and any POSIX sh. The virtual environment is .venv, inside the clone.

.POSIX:
.PHONY: help demo test test-engines test-faults lint bench bench-stripe clean

help:
	@echo 'make demo   watch workflows run dry, pause and go on, in a PostgreSQL of its own'
	@echo 'make test   install what the tests need, run lint and all tests, print the totals'
	@echo 'make test-engines  the adapters on the real workflow engines, and what make test does on one server'
	@echo 'make test-faults  kill servers and workers with -9 for five minutes a server'
	@echo 'make lint   ruff and mypy alone'
	@echo 'make bench  measure against the peers; see README'
	@echo '            BENCH=--quick in front tries it in minutes, BENCH=--help says more'
	@echo 'make bench-stripe  measure the Stripe sync; BENCH=... as above'
	@echo 'make clean  remove the virtual environment and what tools left behind'
	@echo 'PYTHON=...  in front of any of them names the Python to use (3.11 or later)'

demo:
	@sh scripts/make_venv demo
	@.venv/bin/stepquota demo

test:
	@sh scripts/make_venv test
	@sh scripts/install_debian_packages
	@.venv/bin/python -m pytest -n auto --maxprocesses 4 --dist loadgroup

test-engines:
	@sh scripts/make_venv test
	@sh scripts/install_debian_packages
	@STEPQUOTA_RUNTIMES=1 .venv/bin/python -m pytest -n 2 --dist loadgroup \
	  tests/engines tests/conformance tests/adoption tests/acceptance

test-faults:
	@sh scripts/make_venv test
	@sh scripts/install_debian_packages
	@STEPQUOTA_FAULTS=$${STEPQUOTA_FAULTS:-300} .venv/bin/python -m pytest -n 2 tests/faults

lint:
	@sh scripts/make_venv test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench:
	@sh scripts/make_venv demo
	@.venv/bin/python -m bench $(BENCH)

bench-stripe:
	@sh scripts/make_venv test
	@.venv/bin/python -m bench.stripe $(BENCH)

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf '{}' +

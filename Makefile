# What people type: make demo, make test. "make help" lists the rest.
# Written for any make and any POSIX sh. The virtual environment is .venv, inside the clone.

.POSIX:
.PHONY: help demo test test-engines test-faults test-monitoring test-page lint bench bench-stripe dist clean

help:
	@echo 'make demo   watch workflows run dry, pause and go on, in a PostgreSQL of its own'
	@echo 'make test   install what the tests need, run lint and all tests, print the totals'
	@echo 'make test-engines  adapters on the real workflow engines, and other versions of'
	@echo '            PostgreSQL; ENGINES="16 17"'
	@echo 'make test-faults  faults of all kinds under load, and random histories, for five minutes'
	@echo '            MINUTES=30 does it for longer, and must reach more'
	@echo 'make test-page  try the page in a real Chromium'
	@echo 'make test-monitoring  try monitoring/ with the tools of Prometheus'
	@echo 'make lint   ruff and mypy alone'
	@echo 'make bench  measure against the peers; see README'
	@echo '            BENCH=--quick in front tries it in minutes, BENCH=--help says more'
	@echo 'make bench-stripe  measure the Stripe sync; BENCH=... as above'
	@echo 'make dist   write the wheel, one SQL file for psql, and PostgreSQL extensions to dist/'
	@echo 'make clean  remove the virtual environment and what tools left behind'
	@echo 'PYTHON=...  in front of any of them names the Python to use (3.11 or later)'

demo:
	@sh scripts/make_venv demo
	@.venv/bin/stepquota demo

test:
	@sh scripts/make_venv test
	@sh scripts/install_debian_packages
	@.venv/bin/python -m pytest -n 4 --dist loadgroup

ENGINE_TESTS = tests/sql tests/acceptance tests/catalogue tests/installation/test_hostile_places.py \
  tests/installation/test_migrate.py
# What make test runs on one server only, or leaves out, beside whole folders.
ON_ONE_SERVER = tests/bench tests/catalogue/test_functions.py tests/demo \
  tests/installation/test_containers.py tests/installation/test_make.py \
  tests/installation/test_hostile_places.py tests/installation/test_interrupted.py \
  tests/installation/test_releases_beside.py
# What talks with a server, which may have another language.
SPEAKING = tests/shim tests/command tests/installation/test_migrate.py tests/installation/test_uninstall.py
test-engines:
	@sh scripts/make_venv test
	@sh scripts/install_debian_packages
	@sh scripts/fetch_engines $${ENGINES:-16 17}
	@STEPQUOTA_TEST_ENGINES="$${ENGINES:-16 17}" .venv/bin/python -m pytest -n 2 --dist loadgroup $(ENGINE_TESTS)
	@STEPQUOTA_RUNTIMES=1 .venv/bin/python -m pytest -n 2 --dist loadgroup \
	  tests/engines tests/conformance tests/adoption tests/acceptance \
	  tests/page tests/security tests/docs/test_tutorial.py $(ON_ONE_SERVER)
	@STEPQUOTA_TEST_LANGUAGE=de_DE .venv/bin/python -m pytest -n 2 --dist loadgroup -k postgres15 $(SPEAKING)

test-faults:
	@sh scripts/make_venv test
	@sh scripts/install_debian_packages
	@STEPQUOTA_FAULTS=$$(( $${MINUTES:-5} * 60 )) .venv/bin/python -m pytest -n 4 --dist loadgroup \
	  tests/faults/test_mixed_load.py tests/faults/test_random_histories.py
	@STEPQUOTA_FAULTS=60 .venv/bin/python -m pytest -n 2 --dist loadgroup tests/faults \
	  --deselect tests/faults/test_mixed_load.py --deselect tests/faults/test_random_histories.py \
	  tests/security/test_server_log.py tests/security/test_broken_functions.py \
	  tests/installation/test_interrupted.py tests/installation/test_releases_beside.py

test-page:
	@sh scripts/make_venv test
	@sh scripts/make_venv browser
	@sh scripts/install_debian_packages chromium chromium-driver
	@STEPQUOTA_BROWSER=1 STEPQUOTA_SCREENSHOTS=$${SHOTS:-} .venv/bin/python -m pytest -n 2 tests/page

test-monitoring:
	@sh scripts/make_venv test
	@sh scripts/install_debian_packages prometheus prometheus-postgres-exporter
	@.venv/bin/python -m pytest tests/monitoring

lint:
	@sh scripts/make_venv test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench:
	@sh scripts/make_venv demo
	@sh scripts/make_venv page
	@.venv/bin/python -m bench $(BENCH)

bench-stripe:
	@sh scripts/make_venv test
	@.venv/bin/python -m bench.stripe $(BENCH)

dist:
	@sh scripts/make_venv test
	@rm -rf dist
	@.venv/bin/python -m pip --quiet wheel --no-deps --no-build-isolation --wheel-dir=dist .
	@.venv/bin/stepquota migrate --dump-sql > dist/stepquota.sql
	@.venv/bin/python -m stepquota.extension dist
	@ls dist dist/extension

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf '{}' +

"""Importing the shim into a runtime loads psycopg and the standard library, and nothing else."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import psycopg, psycopg.rows, psycopg.types.json
before = set(sys.modules)
import stepquota, stepquota.aio
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(loaded - set(sys.stdlib_module_names) - {"psycopg", "psycopg_c", "psycopg_binary"}))
print(*sorted(name for name in sys.modules if name.startswith("stepquota.")))
"""


def test_import_loads_nothing_but_psycopg() -> None:
    completed = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    others, own = completed.stdout.splitlines()
    assert others == "stepquota"
    assert own.split() == [
        f"stepquota.{module}"
        for module in (
            "aio",
            "aio_reserver",
            "aio_resumption_loop",
            "arguments",
            "batching",
            "calls",
            "delivery",
            "errors",
            "execution",
            "reserver",
            "results",
            "resumption_loop",
        )
    ]

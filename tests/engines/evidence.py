"""What the database shows of attempts of which an engine cannot tell whether they began."""

from __future__ import annotations

from typing import Any

import psycopg

from stepquota.testing import Attempt


class Evidence:
    """For the adapters' ``attempts``.

    Engines start an attempt when a worker takes it, and do not hear whether the worker has got to
    ask. Such an attempt is one that was started if it was counted, or if it was executed, counted
    or not: what was done without asking must be found out. All other attempts of an engine's
    history are compared with the ledger as they are, and no adapter may ask here for those.
    """

    def __init__(self, connection: psycopg.Connection[Any]):
        self._connection = connection

    def shows(self, tenant: str, attempt: Attempt, script_path: str) -> bool:
        """Whether the attempt was executed, or counted.

        Args:
            tenant: whose it is.
            attempt: as the ledger has it.
            script_path: the path, as the script has it.
        """
        return self._exists(
            "select from conformance.executions"
            " where run_id = %s and node_path = %s and attempt = %s",
            *(attempt.run_id, script_path, attempt.attempt),
        ) or self._exists(
            "select from stepquota.workflow_run_steps"
            " where tenant = %s and run_id = %s and node_path = %s and attempt = %s",
            *(tenant, *attempt),
        )

    def _exists(self, statement: Any, *parameters: Any) -> bool:
        return self._connection.execute(statement, parameters).rowcount > 0

"""The commands for people: a module for each subject.

They call functions and views, and decide nothing about quota. Every command prints for people, or
with ``--json`` a JSON value whose names stay; docs/command-line.md lists them.
"""

from __future__ import annotations

import typer

from . import cron, doctor, events, metrics, run, status, tenant, top, usage


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("status")(status.status)
    app.command("top")(top.top)
    app.add_typer(tenant.app, name="tenant")
    app.add_typer(run.app, name="run")
    app.command("reconcile")(usage.reconcile)
    app.command("repair")(usage.repair)
    app.add_typer(cron.app, name="cron")
    app.command("events")(events.events)
    app.command("doctor")(doctor.doctor)
    app.command("metrics")(metrics.metrics)

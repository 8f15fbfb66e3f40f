"""The command ``python -m bench``."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from stepquota.problems import Problem

from .disk import find_folder
from .document import write_document
from .machine import describe_machine
from .measures import LETTERS, MEASURES, Bench, Options, estimate_minutes
from .outcomes import Inexact, Report, merge
from .report import WIDTH, load, print_report, save
from .servers import bench_server, find_binaries

_ROOT = Path(__file__).parent.parent
_RESULTS = Path(__file__).parent / "results.json"
_DOCUMENTS = _ROOT / "docs"
_VERSIONS = (15, 18)
_QUICK = Options(
    seconds=1,
    repetitions=1,
    snapshot_seconds=3,
    window_seconds=1,
    tenants=5_000,
    reservations=20_000,
    few_reservations=5_000,
    tight_limit=1_000,
    paused_tenants=500,
    paused_runs=20,
    paused_of_one=1_000,
    upgrades=20,
    claims=4_000,
    listed_tenants=2_000,
    listed_runs=5,
)


def main(
    postgres: Annotated[
        list[int] | None, typer.Option(help="PostgreSQL's major version; all that are here.")
    ] = None,
    only: Annotated[str, typer.Option(help=f"Letters of measures, of {LETTERS}.")] = LETTERS,
    quick: Annotated[bool, typer.Option(help="Small and short: does it work?")] = False,
    seconds: Annotated[int | None, typer.Option(min=1, help="How long a turn is.")] = None,
    repetitions: Annotated[int | None, typer.Option(min=1, help="How many turns.")] = None,
    clients: Annotated[int | None, typer.Option(min=1, help="Connections at once.")] = None,
    tenants: Annotated[int | None, typer.Option(min=1000, help="The many tenants of i.")] = None,
    reservations: Annotated[
        int | None, typer.Option(min=200_000, help="How many reservations l makes.")
    ] = None,
    ledger_rows: Annotated[
        int | None, typer.Option(min=10_000, help="How many rows t's larger ledger has.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="A folder on a real disk.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the results there as well.")] = None,
    render: Annotated[
        bool, typer.Option(help="Only write the page again, from the last results.")
    ] = False,
) -> None:
    """Measure stepquota against its peers.

    A complete run with the default sizes writes bench/results.json and docs/performance.md. A goal
    that is missed is told and is no error: the command fails only if something could not be
    measured, or if a counter is not what was committed.
    """
    # What was started is stopped when somebody ends this.
    signal.signal(signal.SIGTERM, _stop)
    console = Console(width=WIDTH, highlight=False, soft_wrap=False)
    try:
        if render:
            write_document(load(_RESULTS), _DOCUMENTS)
            return
        given = {
            "seconds": seconds,
            "repetitions": repetitions,
            "clients": clients,
            "tenants": tenants,
            "reservations": reservations,
            "ledger_rows": ledger_rows,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        options = replace(_QUICK if quick else Options(), **changes)
        wanted = _read_letters(only)
        reports = [
            _measure(version, options, wanted, find_folder(data), console)
            for version in _read_versions(postgres, console)
        ]
        for report in reports:
            print_report(report, console)
        if json:
            save(reports, json)
        # More reservations are welcome: ten million take seven minutes more. And so is t.
        usual = replace(
            options,
            reservations=min(options.reservations, Options().reservations),
            ledger_rows=0,
        )
        if usual == Options() and wanted == frozenset(LETTERS):
            _publish(reports)
            console.print("written: bench/results.json, docs/performance.md and its charts")
    except (Problem, Inexact) as problem:
        print(f"bench: {problem}", file=sys.stderr)
        raise typer.Exit(1) from None


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(1)


def _read_letters(only: str) -> frozenset[str]:
    letters = frozenset(only.replace(",", "").replace(" ", ""))
    if not letters or not letters <= frozenset(LETTERS):
        raise Problem(
            f"--only {only} names a measure that is not there", f"there are {', '.join(LETTERS)}"
        )
    return letters


def _read_versions(wanted: list[int] | None, console: Console) -> list[int]:
    if wanted:
        return wanted
    here = []
    for version in _VERSIONS:
        try:
            find_binaries(version)
        except Problem as reason:
            console.print(f"not measured: {reason}")
        else:
            here.append(version)
    if not here:
        raise Problem("there is no PostgreSQL here", "run: pip install 'stepquota[demo]'")
    return here


def _measure(
    version: int, options: Options, wanted: frozenset[str], parent: Path, console: Console
) -> Report:
    begin = time.monotonic()

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - begin:5.0f} s  {text}", style="dim")

    folder = Path(tempfile.mkdtemp(prefix="stepquota-bench-", dir=parent))
    # The server may run as a user without rights, who must get through.
    folder.chmod(0o711)
    try:
        machine = describe_machine(folder)
        measures = [measure for letters, measure in MEASURES.items() if wanted & set(letters)]
        with bench_server(version, folder) as server:
            console.print(f"PostgreSQL {server.version} from {server.origin}", style="bold")
            say(f"this takes about {estimate_minutes(options, wanted):.0f} minutes")
            say(f"a flush takes {machine.flush_ms:.3f} ms on {machine.file_system}")
            bench = Bench(server, options, folder, wanted, say)
            found = merge([measure(bench) for measure in measures])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Report(
        postgres=server.version,
        origin=server.origin,
        stepquota=installed_version("stepquota"),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        minutes=(time.monotonic() - begin) / 60,
        machine=machine,
        settings=server.settings,
        options=asdict(options),
        findings=found,
    )


def _publish(reports: list[Report]) -> None:
    """Keep the results of versions that were not measured now."""
    now = {_major(report): report for report in reports}
    known = {_major(report): report for report in load(_RESULTS)} | now
    ordered = [known[major] for major in sorted(known)]
    save(ordered, _RESULTS)
    write_document(ordered, _DOCUMENTS)


def _major(report: Report) -> int:
    return int(report.postgres.partition(".")[0])


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()

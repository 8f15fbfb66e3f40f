"""The entry point of the command ``stepquota``.

It is outside the package, since importing anything of the package imports psycopg, and where
psycopg finds no libpq the command should say so in one line.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command."""
    try:
        from stepquota.cli import main as run
    except ImportError as error:
        if "--debug" in sys.argv:
            raise
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        print(f"stepquota: it cannot start: {reason}", file=sys.stderr)
        is_psycopg = "psycopg" in str(error) or "pq" in str(error)
        print(
            "hint: install libpq, or a psycopg that brings one: pip install 'psycopg[binary]'"
            if is_psycopg
            else "hint: install stepquota anew; --debug shows the traceback",
            file=sys.stderr,
        )
        sys.exit(1)
    run()

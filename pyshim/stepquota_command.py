"""Where the command ``stepquota`` begins: before psycopg is imported, which may have no libpq."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command, or say in one line what the installation lacks."""
    try:
        from stepquota.cli import main as run
    except ImportError as error:
        if "--debug" in sys.argv:
            raise
        print(f"stepquota: {str(error).splitlines()[0]}", file=sys.stderr)
        print(
            "hint: the installation is incomplete; psycopg needs libpq: "
            "pip install 'stepquota[binary]', or install libpq",
            file=sys.stderr,
        )
        sys.exit(1)
    run()

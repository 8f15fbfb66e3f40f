"""Where the SQL is: inside the wheel, or beside the package in a clone of the repository."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def sql_directory() -> Path:
    """The folder of the product's functions, with the file ``load_order`` in it."""
    return _find("_sql", "sql")


def migrations_directory() -> Path:
    """The folder of the yoyo migrations."""
    return _find("_migrations", "migrations")


def sql_files() -> tuple[Path, ...]:
    """The files of functions, in the order in which they are loaded."""
    folder = sql_directory()
    lines = (folder / "load_order").read_text(encoding="utf-8").splitlines()
    names = (line.partition("#")[0].strip() for line in lines)
    return tuple(folder / name for name in names if name)


def migration_files() -> tuple[Path, ...]:
    """The migrations, oldest first, without their rollback files."""
    files = sorted(migrations_directory().glob("*.sql"))
    return tuple(file for file in files if not file.name.endswith(".rollback.sql"))


def _find(packaged: str, in_clone: str) -> Path:
    if (_PACKAGE / packaged).is_dir():
        return _PACKAGE / packaged
    # An editable installation: the package is pyshim/stepquota of the clone.
    clone = _PACKAGE.parent.parent / in_clone
    if clone.is_dir():
        return clone
    raise FileNotFoundError(
        f"the installation of stepquota is incomplete: neither {_PACKAGE / packaged} "
        f"nor {clone} exists; install it again"
    )

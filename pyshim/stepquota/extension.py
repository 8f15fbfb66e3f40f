"""stepquota as a PostgreSQL extension: the control file and its scripts, made of the same files.

For servers whose administrator installs extensions. ``python -m stepquota.extension FOLDER`` writes
them into a folder, and two packages of them that have not been tried where they are for: a script
for pg_tle, and a distribution for PGXN. ``make dist`` does that.
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Iterable
from importlib.metadata import distribution, version
from pathlib import Path

from ._resources import migration_files, sql_files
from .database_url import OLDEST_SERVER
from .installing import refuse_adopted_sql

_COMMENT = "workflow-step quotas per tenant and billing period"

_CONTROL = """\
comment = '{comment}'
default_version = '{version}'
relocatable = false
superuser = false
"""

_HEADER = "-- stepquota {version}. CREATE EXTENSION and ALTER EXTENSION ... UPDATE read this file."
_NOT_BY_PSQL = '\\echo Use "create extension stepquota" to load this file. \\quit\n'

_PG_TLE = """\
-- stepquota {version} for pg_tle, not tried. In a database that has the extension pg_tle:
--
--   psql --set ON_ERROR_STOP=1 --file=FILE "$DATABASE_URL"
--   psql --command "create extension stepquota" "$DATABASE_URL"

select pgtle.install_extension('stepquota', '{version}', '{comment}', $_stepquota_$
{script}$_stepquota_$);
"""

# For make and make install, where pg_config of the server is.
_PGXS = """\
EXTENSION = stepquota
DATA = $(wildcard stepquota--*.sql)
PG_CONFIG = pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)
"""

# A dump of an extension has none of the functions that were put in place of its own, so this is
# for those who know.
_REFUSE_ADOPTED = refuse_adopted_sql(
    "Do it in one transaction: set local stepquota.adopt_after_update = on; "
    "alter extension stepquota update; then run what stepquota adopt of the new release prints.",
    unless="stepquota.adopt_after_update",
)

# Every table is dumped with its rows but the types of events, which the script writes. Months of
# the ledger are made as time goes by: they are no part of the extension, so that a dump has all of
# them.
#
# While a dump is restored the script must leave no rows of its own, or those of the dump would meet
# them. It is told by row_security, which dumps switch off.
_FOOTER = """\
do $mark_what_is_dumped$
declare
  v_is_restored constant boolean := pg_catalog.current_setting('row_security') = 'off';
  v_member record;
begin
  for v_member in
    select c.oid::pg_catalog.regclass as name, c.relkind, c.relispartition, c.relname
      from pg_catalog.pg_extension e
      join pg_catalog.pg_depend d
        on d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass and d.refobjid = e.oid
       and d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.deptype = 'e'
      join pg_catalog.pg_class c on c.oid = d.objid and c.relkind in ('r', 'S')
     where e.extname = 'stepquota'
     order by c.relname
  loop
    if v_member.relispartition then
      execute pg_catalog.format('alter extension stepquota drop table %s', v_member.name);
      if v_is_restored then
        execute pg_catalog.format('drop table %s', v_member.name);
      end if;
    elsif v_member.relname <> 'quota_event_types' then
      perform pg_catalog.pg_extension_config_dump(v_member.name, '');
      if v_is_restored and v_member.relkind = 'r' then
        execute pg_catalog.format('delete from %s', v_member.name);
      end if;
    end if;
  end loop;
end;
$mark_what_is_dumped$;
"""


def script(release: str, files: Iterable[Path]) -> str:
    """The script that installs a release, or brings any older one up to it.

    Args:
        release: The version of the extension.
        files: Migrations, then files of functions, in order. All may be run again.
    """
    parts = [f"-- {file.name}\n\n{file.read_text(encoding='utf-8')}" for file in files]
    head = _HEADER.format(version=release)
    return "\n".join([head, _NOT_BY_PSQL, _REFUSE_ADOPTED, *parts, _FOOTER])


def write_extension(folder: Path, release: str, older: Iterable[str] = ()) -> None:
    """Write the control file and the scripts.

    Args:
        folder: Where; it is made if it is not there.
        release: The version of the extension.
        older: Versions from which it can be updated.
    """
    folder.mkdir(parents=True, exist_ok=True)
    control = _CONTROL.format(version=release, comment=_COMMENT)
    (folder / "stepquota.control").write_text(control, encoding="utf-8")
    text = script(release, (*migration_files(), *sql_files()))
    for step in (release, *(f"{before}--{release}" for before in older)):
        (folder / f"stepquota--{step}.sql").write_text(text, encoding="utf-8")


def write_pg_tle(file: Path, release: str) -> None:
    """Write a script that hands the extension to pg_tle, for servers whose files nobody may touch.

    Args:
        file: Where.
        release: The version of the extension.
    """
    # It is no file of a folder there, so psql cannot load it by mistake.
    text = script(release, (*migration_files(), *sql_files())).replace(_NOT_BY_PSQL, "")
    file.write_text(
        _PG_TLE.format(version=release, comment=_COMMENT, script=text), encoding="utf-8"
    )


def write_pgxn(file: Path, release: str) -> None:
    """Write a distribution as PGXN takes them: a zip file with one folder in it.

    Args:
        file: Where.
        release: The version of the extension.
    """
    script_name = f"stepquota--{release}.sql"
    files = {
        "META.json": json.dumps(describe_for_pgxn(release, script_name), indent=2) + "\n",
        "LICENSE": distribution("stepquota").read_text("licenses/LICENSE") or "",
        "Makefile": _PGXS,
        "stepquota.control": _CONTROL.format(version=release, comment=_COMMENT),
        script_name: script(release, (*migration_files(), *sql_files())),
    }
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(f"stepquota-{release}/{name}", text)


def describe_for_pgxn(release: str, script_name: str) -> dict[str, object]:
    """What META.json says, by version 1.0.0 of its specification.

    Args:
        release: The version of the extension.
        script_name: The file that installs it.
    """
    return {
        "name": "stepquota",
        "version": release,
        "abstract": _COMMENT,
        "maintainer": "the stepquota authors",
        "license": "postgresql",
        "release_status": "testing",
        "provides": {
            "stepquota": {"file": script_name, "version": release, "abstract": _COMMENT},
        },
        "prereqs": {
            "runtime": {"requires": {"PostgreSQL": f"{OLDEST_SERVER}.0.0", "plpgsql": 0}},
        },
        "tags": ["quota", "metering", "workflow", "billing", "multi-tenant"],
        "meta-spec": {"version": "1.0.0", "url": "https://pgxn.org/meta/spec.txt"},
    }


def main(folder: Path) -> None:
    """Write all of it.

    Args:
        folder: Where; its folder ``extension`` is what the server takes.
    """
    release = version("stepquota")
    write_extension(folder / "extension", release)
    write_pg_tle(folder / "stepquota_pg_tle.sql", release)
    write_pgxn(folder / f"stepquota-{release}.zip", release)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

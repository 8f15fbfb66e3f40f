"""stepquota as a PostgreSQL extension: the control file and its scripts, made of the same files.

For servers whose administrator installs extensions. ``python -m stepquota.extension FOLDER`` writes
them into a folder; ``make dist`` does that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from ._resources import migration_files, sql_files

_CONTROL = """\
comment = 'workflow-step quotas per tenant and billing period'
default_version = '{version}'
relocatable = false
superuser = false
"""

_HEADER = """\
-- stepquota {version}. CREATE EXTENSION and ALTER EXTENSION ... UPDATE read this file.
\\echo Use "create extension stepquota" to load this file. \\quit

"""

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
    return "\n".join([_HEADER.format(version=release), *parts, _FOOTER])


def write_extension(folder: Path, release: str, older: Iterable[str] = ()) -> None:
    """Write the control file and the scripts.

    Args:
        folder: Where; it is made if it is not there.
        release: The version of the extension.
        older: Versions from which it can be updated.
    """
    folder.mkdir(parents=True, exist_ok=True)
    control = _CONTROL.format(version=release)
    (folder / "stepquota.control").write_text(control, encoding="utf-8")
    text = script(release, (*migration_files(), *sql_files()))
    for step in (release, *(f"{before}--{release}" for before in older)):
        (folder / f"stepquota--{step}.sql").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_extension(Path(sys.argv[1]), version("stepquota"))

"""Sessions that change the schema: as its owner, whatever the settings, patient with locks."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

import psycopg
from psycopg import errors

from . import bookkeeping
from .database_url import Parameters, connect, one_line
from .problems import Problem

SCHEMA = "stepquota"

# How long one statement waits for a lock that the application holds, before all of its transaction
# is rolled back and tried again. Everybody who comes after the waiting statement waits too.
LOCK_TIMEOUT = "300ms"
# For how long it is tried again, and after what pauses in which the others go on.
LOCK_PATIENCE_SECONDS = 60.0
_PAUSES = (0.2, 0.5, 1.0, 2.0)

# Settings of a role or a database may be any; these would change what is installed, or end the
# session. Those that a server does not know are left out.
_SETTINGS = {
    "array_nulls": "on",
    "backslash_quote": "safe_encoding",
    "check_function_bodies": "on",
    "client_encoding": "UTF8",
    "client_min_messages": "warning",
    "DateStyle": "ISO, YMD",
    "default_transaction_deferrable": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "IntervalStyle": "postgres",
    "quote_all_identifiers": "off",
    "row_security": "on",
    "standard_conforming_strings": "on",
    "statement_timeout": "0",
    "TimeZone": "UTC",
    "transaction_timeout": "0",
    "transform_null_equals": "off",
}
_PLPGSQL_SETTINGS = {"plpgsql.extra_errors": "none", "plpgsql.extra_warnings": "none"}

# The search_path of what is not yoyo's finds nothing of ours: a name that is not qualified shows.
SEARCH_PATH = "pg_catalog, pg_temp"

_Result = TypeVar("_Result")


def settings_sql(*, is_local: bool, lock_timeout: str | None = None) -> str:
    """A statement that sets all of it, for the session or for the transaction that is open.

    Args:
        is_local: For the transaction only.
        lock_timeout: Another one than usual.
    """
    values = ",\n    ".join(
        f"('{name}', '{value}')"
        for name, value in {**_SETTINGS, "lock_timeout": lock_timeout or LOCK_TIMEOUT}.items()
    )
    local = "true" if is_local else "false"
    plpgsql = "\n".join(
        f"  perform pg_catalog.set_config('{name}', '{value}', {local});"
        for name, value in _PLPGSQL_SETTINGS.items()
    )
    return f"""\
do $settings$
begin
  perform pg_catalog.set_config(wanted.name, wanted.value, {local})
  from (values
    {values}
  ) as wanted (name, value)
  where exists (select from pg_catalog.pg_settings s where s.name = wanted.name);
{plpgsql}
end;
$settings$;
"""


def open_session(parameters: Parameters, *, as_owner: bool = True) -> psycopg.Connection:
    """A connection in autocommit.

    Args:
        parameters: Where to.
        as_owner: With the role set to the owner of what is installed.

    Raises:
        Problem: No connection, or what is installed belongs to a role that the connected one is no
            member of.
    """
    connection = connect(parameters, autocommit=True)
    try:
        prepare_session(connection, as_owner=as_owner)
        connection.execute(f"set search_path = {SEARCH_PATH}".encode())
    except BaseException:
        connection.close()
        raise
    return connection


def prepare_session(connection: psycopg.Connection, *, as_owner: bool = True) -> None:
    """Settings, and the role that owns what is installed.

    Args:
        connection: A connection in autocommit.
        as_owner: Whether to set that role.

    Raises:
        Problem: It may not.
    """
    connection.execute(settings_sql(is_local=False).encode())
    if not as_owner:
        return
    try:
        connection.execute(become_owner_sql(is_local=False).encode())
    except errors.InsufficientPrivilege as error:
        raise Problem(one_line(error, {}), error.diag.message_hint or "") from error


def become_owner_sql(*, is_local: bool) -> str:
    """A statement by which what follows is done as the owner of what is installed, if that may be.

    Args:
        is_local: For the transaction only.
    """
    # A superuser's functions would run with a superuser's rights, and be in the owner's way later.
    return f"""\
do $become_owner$
declare
  v_owner name;
begin
  select pg_catalog.pg_get_userbyid(n.nspowner) into v_owner
    from pg_catalog.pg_namespace n
   where n.nspname in ('{SCHEMA}', '{bookkeeping.SCHEMA}')
     and pg_catalog.pg_get_userbyid(n.nspowner) <> current_user
   order by n.nspname
   limit 1;
  if v_owner is not null then
    perform pg_catalog.set_config('role', v_owner, {"true" if is_local else "false"});
  end if;
exception when insufficient_privilege then
  raise exception using
    errcode = 'insufficient_privilege',
    message = pg_catalog.format(
      'the schema {SCHEMA} belongs to the role %s, and %s is no member of it',
      v_owner, current_user),
    hint = pg_catalog.format(
      'connect as %s; if the schema is not of stepquota''s making, take another database',
      v_owner);
end;
$become_owner$;
"""


# As an extension, what it has is made by its scripts and in no other way.
REFUSE_EXTENSION = f"""\
do $refuse_extension$
begin
  if exists (select from pg_catalog.pg_extension e where e.extname = '{SCHEMA}') then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = pg_catalog.format('stepquota is an extension in the database %s, and is not '
        'installed over it', pg_catalog.current_database()),
      hint = 'To upgrade, give the server the files of the new release, then run there: '
        'alter extension {SCHEMA} update';
  end if;
end;
$refuse_extension$;
"""


def refuse_adopted_sql(hint: str, unless: str = "") -> str:
    """A statement that refuses to put our host functions over those for an application's tables.

    Runs, steps and counts would seem to be gone, without an error. What the installed functions say
    is read and not called: the script of an extension may run as a superuser where somebody else
    has made a function of that name.

    Args:
        hint: What to do instead.
        unless: A setting with which it may be done all the same, if it is ``on``.
    """
    may = (
        f"pg_catalog.current_setting('{unless}', true) is distinct from 'on' and" if unless else ""
    )
    return f"""\
do $refuse_adopted$
begin
  if {may} exists (
    select from pg_catalog.pg_proc p
     where p.oid = pg_catalog.to_regprocedure('{SCHEMA}._host_origin()')
       and pg_catalog.strpos(p.prosrc, 'adopted') > 0
  ) then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = pg_catalog.format('stepquota uses tables of an application''s in the database %s, '
        'and this SQL is not made for them', pg_catalog.current_database()),
      detail = 'It would put stepquota''s own tables in their place. Nothing was changed.',
      hint = '{hint}';
  end if;
end;
$refuse_adopted$;
"""


def own_name(parameters: Parameters) -> Parameters:
    """The parameters with an application name by which a watch knows these sessions."""
    return {**parameters, "application_name": f"stepquota {uuid.uuid4().hex[:12]}"}


def patiently(parameters: Parameters, attempt: Callable[[], _Result]) -> _Result:
    """Do it; if a lock is not to be had, do it again after a pause, for a minute.

    Args:
        parameters: Those of ``own_name``, which the sessions that are waiting use.
        attempt: All of a transaction. An error may carry the place in a note.

    Raises:
        Problem: The lock was not to be had; the message says which, and who holds it.
    """
    deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
    tries = 0
    while True:
        with _Watch(parameters) as watch:
            try:
                return attempt()
            except errors.LockNotAvailable as error:
                last = error
        pause = _PAUSES[min(tries, len(_PAUSES) - 1)]
        tries += 1
        if time.monotonic() + pause > deadline:
            raise watch.problem(last) from last
        time.sleep(pause)


def place_of(error: BaseException) -> str:
    """The file that an error's note names, for the front of a message."""
    return "".join(f"{note}: " for note in getattr(error, "__notes__", []))


@dataclass(frozen=True)
class _Blocker:
    lock: str
    pid: int
    role: str | None
    program: str | None
    state: str | None
    since: str | None

    def __str__(self) -> str:
        if not self.pid:
            return f"{self.lock} by a prepared transaction"
        known = [f"role {self.role}" if self.role else "", self.program or "", self.state or ""]
        since = f" since {self.since}" if self.since else ""
        return f"{self.lock} by process {self.pid} ({', '.join(filter(None, known))}{since})"


class _Watch:
    """Looks at who holds what our sessions wait for, while they wait, by a session of its own."""

    _QUERY = """
        select distinct coalesce(l.relation::pg_catalog.regclass::text, l.locktype),
               blocking.pid, b.usename::text, b.application_name, b.state,
               pg_catalog.to_char(b.xact_start, 'YYYY-MM-DD HH24:MI:SS TZ')
          from pg_catalog.pg_stat_activity w
          join pg_catalog.pg_locks l on l.pid = w.pid and not l.granted
         cross join lateral pg_catalog.unnest(pg_catalog.pg_blocking_pids(w.pid)) as blocking (pid)
          left join pg_catalog.pg_stat_activity b on b.pid = blocking.pid
         where w.application_name = %s
         order by 1, 2
    """

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        self._seen: tuple[_Blocker, ...] = ()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join(5)

    def _look(self) -> None:
        # It is for the message only: without it less is said.
        if self._ended.wait(0.1):
            return
        with suppress(Problem, psycopg.Error), connect(self._parameters, autocommit=True) as own:
            own.execute(settings_sql(is_local=False).encode())
            own.execute("set application_name = 'stepquota watch'")
            while not self._ended.wait(0.05):
                rows = own.execute(self._QUERY, [self._parameters["application_name"]]).fetchall()
                if rows:
                    self._seen = tuple(_Blocker(*row) for row in rows)

    def problem(self, error: psycopg.Error) -> Problem:
        place = place_of(error)
        if not self._seen:
            return Problem(
                f"a lock was not to be had: {place}{error.diag.message_primary}",
                "nothing is half done; run it again when the database is less busy",
            )
        held = "; ".join(map(str, self._seen))
        pids = sorted({blocker.pid for blocker in self._seen if blocker.pid})
        ends = " ".join(f"select pg_terminate_backend({pid});" for pid in pids)
        return Problem(
            f"a lock was not to be had: {place}held is {held}",
            f"nothing is half done; end that transaction{': ' + ends if ends else ''} "
            "and run it again",
        )

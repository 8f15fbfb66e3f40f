"""Makes the pages of docs/reference of what the catalogue says of functions, tables and views."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg

from stepquota.errors import StepquotaError

_NOTE = "<!-- Made from the catalogue; see docs/reference/README.md. -->\n"

_FUNCTIONS = """
select p.proname, p.prokind = 'p', coalesce(obj_description(p.oid, 'pg_proc'), ''),
       coalesce((select array_agg(substr(r.rolname, 11) order by r.rolname)
                   from aclexplode(p.proacl) a join pg_roles r on r.oid = a.grantee
                  where r.rolname like 'stepquota\\_%'), '{}'),
       array(select json_build_array(p.proargnames[n], format_type(p.proargtypes[n - 1], null),
                                     pg_get_function_arg_default(p.oid, n))
               from generate_series(1, p.pronargs) n order by n),
       array(select json_build_array(p.proargnames[n], format_type(p.proallargtypes[n], null))
               from generate_subscripts(p.proallargtypes, 1) n
              where p.proargmodes[n] in ('o', 't', 'b') order by n),
       array(select json_build_array(c.attname, format_type(c.atttypid, c.atttypmod))
               from pg_type t join pg_attribute c on c.attrelid = t.typrelid
              where t.oid = p.prorettype and t.typtype = 'c' and c.attnum > 0 and not c.attisdropped
              order by c.attnum),
       format_type(p.prorettype, null), p.proretset,
       (select c.relname from pg_type t join pg_class c on c.oid = t.typrelid
         where t.oid = p.prorettype and c.relkind in ('r', 'p', 'v'))
  from pg_proc p
 where p.pronamespace = 'stepquota'::regnamespace and p.proname not like '\\_%'
 order by p.proname, p.oid
"""

_RELATIONS = """
select c.relname, coalesce(obj_description(c.oid, 'pg_class'), ''),
       array(select json_build_array(a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                                     pg_get_expr(d.adbin, d.adrelid), a.attidentity <> '',
                                     coalesce(col_description(c.oid, a.attnum), ''))
               from pg_attribute a
               left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
              where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum),
       (select array_agg(a.attname order by k.place)
          from pg_constraint o, unnest(o.conkey) with ordinality k (attnum, place), pg_attribute a
         where o.conrelid = c.oid and o.contype = 'p' and a.attrelid = c.oid
           and a.attnum = k.attnum)
  from pg_class c
 where c.relnamespace = 'stepquota'::regnamespace and c.relkind = any (%s::"char"[])
   and not c.relispartition
 order by c.relname
"""


@dataclass(frozen=True)
class Routine:
    """A function or procedure that somebody may call."""

    name: str
    is_procedure: bool
    comment: str
    roles: tuple[str, ...]
    parameters: tuple[tuple[str, str, str | None], ...]
    columns: tuple[tuple[str, str], ...]
    type: str
    is_set: bool
    relation: str | None

    @property
    def is_a_part(self) -> bool:
        """Whether only other functions and programs of stepquota call it."""
        return bool(re.match(r"For (?!the owner:)[^:.]*:", self.comment))

    @property
    def errors(self) -> tuple[str, ...]:
        """The SQLSTATEs that its comment names."""
        found = set(re.findall(r"WQ\d{3}", self.comment))
        for first, last in re.findall(r"WQ(\d{3}) to WQ(\d{3})", self.comment):
            found |= {f"WQ{n:03}" for n in range(int(first), int(last) + 1)}
        return tuple(sorted(found & set(StepquotaError.by_sqlstate)))


def render(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """The pages by name."""
    rows = connection.execute(_FUNCTIONS.encode()).fetchall()
    routines = [_read(*row) for row in rows]
    tables = connection.execute(_RELATIONS.encode(), [["r", "p"]]).fetchall()
    views = connection.execute(_RELATIONS.encode(), [["v"]]).fetchall()
    return {
        "functions.md": _page(_functions(routines)),
        "tables.md": _page(_tables(tables)),
        "views.md": _page(_views(views)),
        "sqlstates.md": _page(_sqlstates(routines)),
    }


def _read(
    name: str,
    is_procedure: bool,
    comment: str,
    roles: list[str],
    parameters: list[list[Any]],
    columns: list[list[Any]],
    row: list[list[Any]],
    type_: str,
    is_set: bool,
    relation: str | None,
) -> Routine:
    return Routine(
        name,
        is_procedure,
        comment,
        tuple(roles),
        tuple((n, t, d) for n, t, d in parameters),
        tuple((n, t) for n, t in (columns or row)),
        type_,
        is_set,
        relation,
    )


def _page(paragraphs: Iterator[str]) -> str:
    return _NOTE + "\n\n".join(paragraphs) + "\n"


def _functions(routines: list[Routine]) -> Iterator[str]:
    yield "# Functions"
    yield _fill(
        "What programs and people call, in alphabetical order. Parameters may be given by name:"
        " `p_tenant => 'acme'`. Who may call it is the part of a role's name after `stepquota_`;"
        " see [roles](../operations.md#roles-and-grants). Procedures are called by `call`. The"
        " shim has a function of the same name for each, with the parameters without `p_`."
    )
    for routine in routines:
        if not routine.is_a_part:
            yield f"## {routine.name}"
            yield _fill(_escaped(routine.comment))
            yield "\n".join(_signature(routine))
    yield "## Called by other functions"
    yield _fill("Parts of the above, and of the programs that come along. They may change.")
    yield "\n".join(
        _item(f"`{routine.name}`: {_escaped(routine.comment)} For {_listed(routine.roles)}.")
        for routine in routines
        if routine.is_a_part
    )


def _signature(routine: Routine) -> Iterator[str]:
    for name, type_, default in routine.parameters:
        is_given = f", by default `{_short(default)}`" if default else ""
        yield _item(f"`{name}`: {_type(type_)}{is_given}")
    if not routine.is_procedure:
        rows = "a row each" if routine.is_set else "one row"
        if routine.relation:
            kind = f"{rows} of [{routine.relation}](tables.md#{routine.relation})"
        elif routine.columns:
            kind = f"{rows}: " + ", ".join(f"`{n}` {_type(t)}" for n, t in routine.columns)
        else:
            kind = _type(routine.type) + (", a row each" if routine.is_set else "")
            kind = "nothing" if kind == "void" else kind
        yield _item(f"Answers {kind}.")
    else:
        yield _item("A procedure.")
    yield _item(f"For {_listed(routine.roles)}.")


def _tables(tables: list[Any]) -> Iterator[str]:
    yield "# Tables"
    yield _fill(
        "All are in the schema `stepquota`. Members of `stepquota_operator` and"
        " `stepquota_observer` may read them; only the owner may write them. The policies are the"
        " columns of [policy](#policy), and `set_policy` sets them."
    )
    for name, comment, columns, key in tables:
        yield f"## {name}"
        yield _fill(_escaped(comment))
        if key:
            yield _fill("Key: " + ", ".join(f"`{column}`" for column in key) + ".")
        yield "\n".join(_columns(columns))


def _views(views: list[Any]) -> Iterator[str]:
    yield "# Views"
    yield _fill(
        "For psql and for programs that read tables. They are read with the rights of who asks;"
        " how to use them is in [operations](../operations.md#views)."
    )
    for name, comment, columns, _ in views:
        yield f"## {name}"
        yield _fill(_escaped(comment))
        yield "\n".join(_columns(columns))


def _columns(columns: list[Any]) -> Iterator[str]:
    for name, type_, is_needed, default, is_numbered, comment in columns:
        more = [_type(type_)]
        if is_needed:
            more.append("not null")
        if default:
            more.append(f"by default `{_short(default)}`")
        if is_numbered:
            more.append("numbered")
        yield _item(f"`{name}` ({', '.join(more)}): {_escaped(comment)}")


def _sqlstates(routines: list[Routine]) -> Iterator[str]:
    yield "# SQLSTATEs"
    yield _fill(
        "Which functions raise which error, as far as their comments say. What each means, and"
        " what to do, is in [errors](../errors.md)."
    )
    for code, class_ in sorted(StepquotaError.by_sqlstate.items()):
        names = [routine.name for routine in routines if code in routine.errors]
        yield f"## {code}"
        raised = f"Raised by {_listed(tuple(f'`{name}`' for name in names))}." if names else ""
        yield _fill(
            f"`{class_.__name__}`. {_escaped((class_.__doc__ or '').splitlines()[0])} {raised}"
        )


def _fill(text: str) -> str:
    return textwrap.fill(
        re.sub(r"\s+", " ", text).strip(), 79, break_long_words=False, break_on_hyphens=False
    )


def _item(text: str) -> str:
    return textwrap.fill(
        f"- {text}",
        79,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _escaped(text: str) -> str:
    """Without marks of Markdown's: names with underscores in them stay as they are."""
    return text.replace("<", "&lt;").replace("*", "\\*")


def _type(name: str) -> str:
    return {"timestamp with time zone": "timestamptz"}.get(name, name)


def _short(default: str) -> str:
    return re.sub(r"::[a-z ]+(\[\])?", "", default)


def _listed(names: tuple[str, ...]) -> str:
    if not names:
        return "the owner"
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]

"""Makes ``host.sql`` for an application that has tables of runs, steps, waits and logs already.

The statements are those of ``sql/host.sql``, so there is one place for them. Their tables, columns
and words are replaced by the application's, and parameters are cast to the types of its keys, so
that its indexes serve.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from ._resources import sql_directory, sql_files
from .adopted_retention import keep_rows
from .host_columns import HOST_COLUMNS
from .problems import Problem

# By the names that a description has for them.
HOST_TABLES = {
    "tenants": "tenants",
    "runs": "workflow_runs",
    "steps": "workflow_run_steps",
    "waits": "workflow_run_waits",
    "logs": "workflow_run_logs",
}
KEYS = ("tenant", "run_id")

# What an existing row has in a column that is added; NULL where nothing is said. A constant, so
# that no row is written.
_DEFAULTS = {
    ("workflow_runs", "runtime"): "'default'",
    ("workflow_runs", "ledger_month"): "date '2000-01-01'",
    ("workflow_runs", "registered_at"): "timestamptz '2000-01-01 00:00:00+00'",
    ("workflow_run_steps", "ledger_month"): "date '2000-01-01'",
    ("workflow_run_steps", "step_type"): "'action'",
    ("workflow_run_waits", "attempt"): "0",
    ("workflow_run_waits", "node_paths"): "'{}'",
    ("workflow_run_waits", "queued_at"): "timestamptz '2000-01-01 00:00:00+00'",
    ("workflow_run_waits", "is_held"): "false",
    ("workflow_run_logs", "details"): "'{}'",
}

# What a row has that the application inserts from then on.
_LATER_DEFAULTS = {
    ("workflow_runs", "ledger_month"): "date_trunc('month', now() at time zone 'UTC')::date",
}

_TOKEN = re.compile(
    r"(?P<comment>--[^\n]*)|(?P<string>'(?:[^']|'')*')|(?P<space>\s+)"
    r"|(?P<name>[a-z_][a-z0-9_]*(?:\.[a-z_][a-z0-9_]*)*(?:\.\*)?)"
    r"|(?P<operator><>|<=|>=|:=|::|[=<>])|(?P<other>\d+|.)",
    re.DOTALL | re.IGNORECASE,
)
FUNCTION = re.compile(
    r"(?P<head>create or replace function stepquota\.(?P<name>\w+)\(.*?\bas \$(?P<tag>\w+)\$)"
    r"(?P<body>.*?)(?P<tail>\$(?P=tag)\$;)",
    re.DOTALL,
)
_VIEW = re.compile(
    r"(?P<head>create or replace view stepquota\.(?P<name>\w+)[^;]*?\bas\n)"
    r"(?P<body>[^;]*)(?P<tail>;)"
)
_COMPARISONS = frozenset(("=", "<>", "<", ">", "<=", ">="))
_CLAUSES = frozenset(
    (
        "select",
        "from",
        "where",
        "set",
        "returning",
        "values",
        "on",
        "group",
        "order",
        "limit",
        "for",
    )
)
_NO_ALIAS = _CLAUSES | {"join", "left", "cross", "union", "default", "do", "using", "full", "loop"}


@dataclass(frozen=True)
class Column:
    """A column of the application's that takes the place of one of stepquota's.

    Attributes:
        name: the application's, quoted where it must be.
        type: the application's.
        own_type: stepquota's.
        words: for each of stepquota's words those of the application; the first is written.
        is_added: whether the application's table is still to get it.
    """

    name: str
    type: str
    own_type: str
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)
    is_added: bool = False


@dataclass(frozen=True)
class Table:
    """A table of the application's.

    Attributes:
        own_name: stepquota's name.
        name: the application's with its schema, quoted where it must be.
        columns: the application's by stepquota's names, in stepquota's order.
        key: the unique key by which a repeated insert is noticed, in stepquota's names.
    """

    own_name: str
    name: str
    columns: Mapping[str, Column]
    key: tuple[str, ...]

    @property
    def bare_name(self) -> str:
        """Its name without the schema, as a statement without an alias calls it."""
        return re.split(r"\.(?=[^.]*$)", self.name)[-1]

    def word_function(self, column: str, direction: str) -> str:
        """The function that turns a word into the application's (``to``) or back (``from``)."""
        return f"stepquota._host_{direction}_{self.own_name}_{column}"


Tables = Mapping[str, Table]


@dataclass(frozen=True)
class Plan:
    """How a statement of the generated file reaches a table of the application's.

    Attributes:
        function: the function it stands in.
        table: the table.
        way: the index, or ``all rows``.
    """

    function: str
    table: str
    way: str


def read_description(file: Path) -> dict[str, Any]:
    """Read a description.

    Raises:
        Problem: it is missing, or no TOML, or names no table, or one that stepquota does not know.
    """
    try:
        description = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise Problem(
            f"the description {file} cannot be read: {error}", "see docs/adoption.md"
        ) from (error)
    if unknown := set(description) - set(HOST_TABLES):
        raise Problem(
            f"the description names {', '.join(sorted(unknown))}",
            f"its tables are {', '.join(HOST_TABLES)}",
        )
    if not description:
        raise Problem(f"the description {file} names no table", "see docs/adoption.md")
    return description


def resolve_tables(connection: psycopg.Connection[Any], description: Mapping[str, Any]) -> Tables:
    """Look up what a description names in the database; stepquota need not be installed there.

    The session's search_path decides how types are named: it should find none of
    the application.

    Raises:
        Problem: a table or column is not there, or cannot serve.
    """
    tables = {}
    for short_name, own_name in HOST_TABLES.items():
        said = description.get(short_name)
        own = HOST_COLUMNS[own_name]
        if said is None:
            continue
        name = _find_table(connection, short_name, said)
        there = _columns(connection, name)
        named = dict(said.get("columns", {}))
        words = said.get("words", {})
        if unknown := (set(named) | set(words)) - set(own):
            raise Problem(
                f"[{short_name}] says something of {', '.join(sorted(unknown))}",
                f"the columns of stepquota.{own_name} are {', '.join(own)}",
            )
        columns = {}
        for column, own_type in own.items():
            if column == "log_id" and column not in named:
                continue
            host_column = named.get(column, column)
            if column in named and host_column not in there:
                raise Problem(
                    f"{name} has no column {host_column}", f"[{short_name}.columns] names it"
                )
            columns[column] = Column(
                sql.Identifier(host_column).as_string() if _is_odd(host_column) else host_column,
                there.get(host_column, own_type),
                own_type,
                {word: _listed(host_words) for word, host_words in words.get(column, {}).items()},
                host_column not in there,
            )
        for column in ("step_id", "wait_id"):
            if column in columns and columns[column].type != "uuid":
                raise Problem(
                    f"{name}.{columns[column].name} is {columns[column].type}",
                    f"stepquota makes a uuid for {column}; leave it out, and a column is added",
                )
        key = tuple(said.get("key", _OWN_KEYS[own_name]))
        tables[own_name] = Table(own_name, name, columns, key)
    return tables


def check_installed(connection: psycopg.Connection[Any]) -> None:
    """Check that stepquota is there.

    Raises:
        Problem: it is not.
    """
    if not _columns(connection, "stepquota.workflow_runs"):
        raise Problem("stepquota is not installed in this database", "run stepquota migrate")


_OWN_KEYS = {
    "tenants": ("tenant",),
    "workflow_runs": ("tenant", "run_id"),
    "workflow_run_steps": ("tenant", "run_id", "node_path", "attempt"),
    "workflow_run_waits": ("tenant", "wait_id"),
    "workflow_run_logs": (),
}


def _find_table(connection: psycopg.Connection[Any], short_name: str, said: Any) -> str:
    if not isinstance(said, dict) or not isinstance(said.get("table"), str):
        raise Problem(f"[{short_name}] names no table", 'write table = "schema.name"')
    row = connection.execute(
        "select format('%%I.%%I', n.nspname, c.relname) from pg_class c"
        "  join pg_namespace n on n.oid = c.relnamespace where c.oid = to_regclass(%s)",
        [said["table"]],
    ).fetchone()
    if row is None:
        raise Problem(f"there is no table {said['table']}", f"[{short_name}] names it")
    return str(row[0])


def _columns(connection: psycopg.Connection[Any], table: str) -> dict[str, str]:
    rows = connection.execute(
        "select attname::text, format_type(atttypid, null) from pg_attribute"
        " where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped order by attnum",
        [table],
    )
    return dict(rows.fetchall())


def _is_odd(name: str) -> bool:
    return not re.fullmatch(r"[a-z_][a-z0-9_]*", name) or name in {"user", "order", "group", "end"}


def _listed(words: str | list[str]) -> list[str]:
    return [words] if isinstance(words, str) else list(words)


# -- Rewriting


@dataclass
class _Token:
    kind: str
    text: str


def _literal(text: str) -> str:
    return sql.Literal(text).as_string()


class _Rewriter:
    """One body of ``sql/host.sql``."""

    def __init__(self, tables: Tables, name: str, body: str):
        self.tables = tables
        self.name = name
        self.tokens = [_Token(str(m.lastgroup), m[0]) for m in _TOKEN.finditer(body)]
        self.aliases: dict[str, Table] = {}
        self.bare: Table | None = None
        self.after: dict[int, str] = {}

    # Navigation among tokens that are no space and no comment.

    def step(self, at: int, by: int) -> int:
        at += by
        while 0 <= at < len(self.tokens) and self.tokens[at].kind in ("space", "comment"):
            at += by
        return at

    def text(self, at: int) -> str:
        return self.tokens[at].text if 0 <= at < len(self.tokens) else ""

    def depth(self, at: int) -> int:
        """1 at an opening parenthesis, -1 at a closing one, also if something was put beside it."""
        token = self.tokens[at]
        if token.kind != "other" or not token.text:
            return 0
        return {"(": 1, ")": -1}.get(token.text[0], 0)

    def closing(self, at: int) -> int:
        """The place of the parenthesis that closes the one at a place."""
        depth = 0
        for place in range(at, len(self.tokens)):
            depth += self.depth(place)
            if depth == 0:
                return place
        raise AssertionError(f"{self.name}: a parenthesis is not closed")

    def rewrite(self) -> str:
        self._find_aliases()
        self._rewrite_inserts()
        self._rewrite_updates()
        self._rewrite_references()
        return "".join(
            token.text + self.after.get(place, "") for place, token in enumerate(self.tokens)
        )

    def _find_aliases(self) -> None:
        for at, token in enumerate(self.tokens):
            own_name = token.text.removeprefix("stepquota.")
            if token.kind != "name" or own_name not in self.tables or own_name == token.text:
                continue
            if self.text(self.step(at, -1)) not in ("from", "join", "update", "into"):
                continue
            table = self.tables[own_name]
            follows = self.step(at, 1)
            alias = self.text(follows)
            if self.tokens[follows].kind == "name" and alias not in _NO_ALIAS:
                assert self.aliases.get(alias, table) is table, f"{self.name}: two tables {alias}"
                self.aliases[alias] = table
            else:
                self.bare = table
                self.aliases[own_name] = table
            token.text = table.name

    # insert into t (columns) values (...) | select ... from

    def _rewrite_inserts(self) -> None:
        for at, token in enumerate(self.tokens):
            if token.text != "into" or self.text(self.step(at, -1)) != "insert":
                continue
            name = self.step(at, 1)
            table = next((t for t in self.tables.values() if t.name == self.text(name)), None)
            if table is None:  # It stays stepquota's own.
                continue
            opening = self.step(name, 1)
            closing = self.closing(opening)
            columns = [self.text(p) for p in range(opening + 1, closing) if self._is_name(p)]
            for place in range(opening + 1, closing):
                if self._is_name(place):
                    self.tokens[place].text = table.columns[self.text(place)].name
            start = self.step(closing, 1)
            if self.text(start) == "values":
                start = self.step(start, 1)
                ends = self._items(start + 1, self.closing(start))
            else:
                ends = self._items(start + 1, self._select_list_end(start))
            for column, (first, last) in zip(columns, ends, strict=True):
                self._wrap(table, column, first, last)
            self._rewrite_conflict(table, closing)

    def _rewrite_conflict(self, table: Table, at: int) -> None:
        for place in range(at, len(self.tokens)):
            if self.text(place) == "conflict":
                opening = self.step(place, 1)
                closing = self.closing(opening)
                for gone in range(opening + 1, closing):
                    self.tokens[gone].text = ""
                self.tokens[opening].text = "(" + ", ".join(
                    table.columns[column].name for column in table.key
                )
                return

    def _is_name(self, at: int) -> bool:
        return self.tokens[at].kind == "name"

    def _items(self, start: int, end: int) -> list[tuple[int, int]]:
        items, depth, first = [], 0, start
        for place in range(start, end):
            depth += self.depth(place)
            if self.text(place) == "," and depth == 0:
                items.append((first, place - 1))
                first = place + 1
        items.append((first, end - 1))
        return [(self.step(first - 1, 1), self.step(last + 1, -1)) for first, last in items]

    def _select_list_end(self, start: int) -> int:
        depth = 0
        for place in range(start, len(self.tokens)):
            depth += self.depth(place)
            if self.text(place) == "from" and depth == 0:
                return place
        raise AssertionError(f"{self.name}: a select has no from")

    def _wrap(self, table: Table, column: str, first: int, last: int) -> None:
        """Turn an expression of stepquota's into a value for the application's column."""
        host = table.columns[column]
        if host.words:
            self.tokens[first].text = f"{table.word_function(column, 'to')}({self.text(first)}"
            self.after[last] = self.after.get(last, "") + ")"
        elif host.type != host.own_type:
            self._cast(first, last, host.type)

    # update t [alias] set column = expression, ...

    def _rewrite_updates(self) -> None:
        for at, token in enumerate(self.tokens):
            if token.text != "set":
                continue
            table = self._updated(at)
            if table is None:
                continue
            end = self._set_end(at)
            for first, last in self._items(at + 1, end):
                column = self.text(first)
                equals = self.step(first, 1)
                self.tokens[first].text = table.columns[column].name
                self._wrap(table, column, self.step(equals, 1), last)

    def _updated(self, at: int) -> Table | None:
        for place in range(at, -1, -1):
            if self.text(place) in ("update", "into"):
                name = self.text(self.step(place, 1))
                if name == "set":  # on conflict do update
                    continue
                return next((t for t in self.tables.values() if t.name == name), None)
        return None

    def _set_end(self, at: int) -> int:
        depth = 0
        for place in range(at + 1, len(self.tokens)):
            depth += self.depth(place)
            if depth == 0 and self.text(place) in ("where", "from", "returning", ";"):
                return place
        return len(self.tokens)

    # References to columns

    def _rewrite_references(self) -> None:
        levels = [""]
        is_update = False
        for at, token in enumerate(self.tokens):
            if self.depth(at) > 0:
                levels.append("")
            elif self.depth(at) < 0:
                levels.pop()
            elif token.text == ";":
                levels, is_update = [""], False
            elif token.kind == "name":
                if token.text in _CLAUSES:
                    levels[-1] = token.text
                if token.text == "update" and self.text(self.step(at, -1)) not in ("key", "do"):
                    is_update = True
                self._rewrite_reference(at, levels[-1], is_update)

    def _rewrite_reference(self, at: int, clause: str, is_update: bool) -> None:
        alias, _, column = self.text(at).rpartition(".")
        if alias == "excluded":
            table = self._updated(at)
            if table:
                self.tokens[at].text = f"excluded.{table.columns[column].name}"
            return
        if alias in self.aliases:
            table = self.aliases[alias]
            if alias == table.own_name:
                alias = table.bare_name
        elif not alias and self.bare and is_update and clause in ("where", "set", ""):
            table, column = self.bare, self.text(at)
            if column not in table.columns or self.text(self.step(at, 1)) == "(":
                return
            if clause == "set" and self.text(self.step(at, 1)) == "=":
                return
        else:
            return
        if column == "ctid":
            return
        if column == "*":
            self.tokens[at].text = (",\n" + " " * 9).join(
                f"{self._read(table, alias, name)} as {name}" for name in self._row(table)
            )
            return
        if column not in table.columns:
            raise Problem(
                f"[{_short(table)}] has no column for {column}, which {self.name} needs",
                "name it in the description",
            )
        host = table.columns[column]
        name = f"{alias}.{host.name}" if alias else host.name
        is_key = column in KEYS and host.type != host.own_type
        follows, before = self.step(at, 1), self.step(at, -1)
        if self._is_bare_output(clause, before, follows):
            self.tokens[at].text = f"{self._read(table, alias, column)} as {column}"
        elif host.words and self._compare_words(at, name, host):
            pass
        elif is_key and self.text(follows) in _COMPARISONS:
            self.tokens[at].text = name
            self._cast_operand(self.step(follows, 1), host.type, self.text(follows))
        elif is_key and self.text(before) == "=":
            self.tokens[at].text = name
            other = self.step(before, -1)
            if not self._is_host(other):
                self._cast(other, other, host.type)
        elif is_key and (clause in ("group", "order") or self.text(follows) == "is"):
            self.tokens[at].text = name
        elif is_key or host.words:
            self.tokens[at].text = self._read(table, alias, column)
        else:
            self.tokens[at].text = name

    def _row(self, table: Table) -> Iterable[str]:
        return table.columns

    def _read(self, table: Table, alias: str, column: str) -> str:
        host = table.columns[column]
        name = f"{alias}.{host.name}" if alias else host.name
        if host.words:
            return f"{table.word_function(column, 'from')}({name})"
        return name if host.type == host.own_type else f"{name}::{host.own_type}"

    def _is_bare_output(self, clause: str, before: int, follows: int) -> bool:
        return (
            clause in ("select", "returning")
            and self.text(before) in ("select", "distinct", "returning", ",")
            and self.text(follows) in (",", "from", "into", ")", ";", "union", "")
        )

    def _compare_words(self, at: int, name: str, host: Column) -> bool:
        operator = self.step(at, 1)
        if self.text(operator) in ("=", "<>"):
            operand = self.step(operator, 1)
            if self.tokens[operand].kind != "string":
                return False
            words = self._words(host, [self.text(operand)])
            is_equal = self.text(operator) == "="
            self.tokens[operator].text = "=" if is_equal else "<>"
            if len(words) > 1:
                self.tokens[operator].text = "in" if is_equal else "not in"
                self.tokens[operand].text = f"({', '.join(words)})"
            else:
                self.tokens[operand].text = words[0]
            self.tokens[at].text = name
            return True
        is_in = operator if self.text(operator) == "in" else self.step(operator, 1)
        if self.text(is_in) == "in":
            opening = self.step(is_in, 1)
            closing = self.closing(opening)
            words = self._words(
                host, [self.text(p) for p in range(opening, closing) if self.text(p)[0] == "'"]
            )
            for place in range(opening + 1, closing):
                self.tokens[place].text = ""
            self.tokens[opening].text = f"({', '.join(words)}"
            self.tokens[at].text = name
            return True
        return False

    @staticmethod
    def _words(host: Column, literals: Sequence[str]) -> list[str]:
        return [
            _literal(word)
            for literal in literals
            for word in host.words.get(literal[1:-1], [literal[1:-1]])
        ]

    def _is_host(self, at: int) -> bool:
        return self.text(at).rpartition(".")[0] in self.aliases

    def _cast_operand(self, at: int, type_: str, operator: str) -> None:
        if self.text(at) in ("any", "all"):
            closing = self.closing(self.step(at, 1))
            self.tokens[self.step(at, 1)].text = "(("
            self.after[closing] = ""
            self.tokens[closing].text = f")::{type_}[])"
        elif operator == ">" and self.tokens[at].kind == "name":
            # Nothing is before the first.
            least = _LEAST.get(type_, "''")
            self.tokens[at].text = f"coalesce(nullif({self.text(at)}, ''), {least})::{type_}"
        elif not self._is_host(at):
            self._cast(at, at, type_)

    def _cast(self, first: int, last: int, type_: str) -> None:
        function = f"stepquota._host_key_{type_}" if type_ in _KEY_CONDITIONS else ""
        self.tokens[first].text = f"{function}({self.text(first)}"
        self.after[last] = self.after.get(last, "") + (")" if function else f")::{type_}")


# When a text is a key, in the one form that stepquota's own tables have it. What is none, such as a
# tenant that somebody wrote into Stripe, is found nowhere.
_INTEGER = "p_key ~ '^(0|-?[1-9][0-9]{0,17})$'"
_KEY_CONDITIONS = {
    "uuid": "p_key ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'",
    "bigint": _INTEGER,
    "integer": f"case when {_INTEGER} then abs(p_key::bigint) < 2147483648 end",
    "smallint": f"case when {_INTEGER} then abs(p_key::bigint) < 32768 end",
}
_LEAST = {
    "uuid": "'00000000-0000-0000-0000-000000000000'",
    "bigint": "'-9223372036854775808'",
    "integer": "'-2147483648'",
    "smallint": "'-32768'",
}


def _short(table: Table) -> str:
    return next(short for short, own in HOST_TABLES.items() if own == table.own_name)


def render_all(tables: Tables) -> str:
    """Everything that reaches the tables: the file, and what reads them elsewhere."""
    parts = [render(tables)]
    for file in sql_files():
        if file.name != "host.sql":
            own = file.read_text(encoding="utf-8")
            parts += _parts(tables, own)
    return "\n\n".join(parts)


def render_other(tables: Tables, own: str) -> str:
    """Another file of ``sql/``, in which views and functions may read the tables as well."""
    for match in (*_VIEW.finditer(own), *FUNCTION.finditer(own)):
        if _reaches(tables, match[0]):
            own = own.replace(match[0], _rewritten(tables, match))
    return own


def _parts(tables: Tables, own: str) -> Iterator[str]:
    for match in (*FUNCTION.finditer(own), *_VIEW.finditer(own)):
        if _reaches(tables, match[0]):
            yield _rewritten(tables, match)


def _reaches(tables: Tables, text: str) -> bool:
    return any(
        re.search(rf"\b(from|join|update|into)\s+stepquota\.{name}\b(?!')", text) for name in tables
    )


def _rewritten(tables: Tables, match: re.Match[str]) -> str:
    return match["head"] + _Rewriter(tables, match["name"], match["body"]).rewrite() + match["tail"]


def render_file(tables: Tables, file: Path) -> str:
    """A file of ``sql/`` as it is loaded: as it stands where there are no tables."""
    if tables and file.name == "host.sql":
        return render(tables)
    text = file.read_text(encoding="utf-8")
    return render_other(tables, text) if tables else text


def render(tables: Tables) -> str:
    """The file: ``sql/host.sql`` for the application's tables."""
    own = (sql_directory() / "host.sql").read_text(encoding="utf-8")
    parts, end = [_HEADER, *_key_functions(tables), *_word_functions(tables)], 0
    for match in FUNCTION.finditer(own):
        parts.append(own[end : match.start()])
        end = match.end()
        name, body = match["name"], match["body"]
        if name == "_host_origin":
            body = "\n  select 'adopted'::text;\n"
        body = keep_rows(tables, name, body)
        parts.append(match["head"] + _Rewriter(tables, name, body).rewrite() + match["tail"])
    parts.append(own[end:])
    return "".join(parts)


_HEADER = """\
-- Made by stepquota adopt, of stepquota's sql/host.sql, for tables that an application has: make it
-- anew for each release, from the same description.

"""


def _key_functions(tables: Tables) -> Iterator[str]:
    used = {
        table.columns[key].type for table in tables.values() for key in KEYS if key in table.columns
    }
    for type_ in sorted(used & set(_KEY_CONDITIONS)):
        yield (
            f"-- NULL for what is no key of this type.\n"
            f"create or replace function stepquota._host_key_{type_}(p_key text)\n"
            f"returns {type_}\nlanguage sql\nimmutable\nas $key$\n"
            f"  select case when {_KEY_CONDITIONS[type_]} then p_key::{type_} end;\n$key$;\n\n"
        )


def _word_functions(tables: Tables) -> Iterator[str]:
    for table in tables.values():
        for name, column in table.columns.items():
            if not column.words:
                continue
            to = "\n".join(
                f"    when {_literal(word)} then {_literal(words[0])}::{column.type}"
                for word, words in column.words.items()
            )
            back = "\n".join(
                f"    when {_literal(host_word)} then {_literal(word)}"
                for word, words in column.words.items()
                for host_word in words
            )
            yield (
                f"create or replace function {table.word_function(name, 'to')}(p_word text)\n"
                f"returns {column.type}\nlanguage sql\nimmutable\nas $word$\n"
                f"  select case p_word\n{to}\n    else p_word::{column.type} end;\n$word$;\n\n"
                f"create or replace function {table.word_function(name, 'from')}"
                f"(p_word {column.type})\n"
                f"returns text\nlanguage sql\nimmutable\nas $word$\n"
                f"  select case p_word\n{back}\n    else p_word::text end;\n$word$;\n\n"
            )


# -- What the application's tables need


def check_columns(tables: Tables) -> None:
    """Check that nothing is to be added any more.

    Raises:
        Problem: columns are missing.
    """
    missing = [
        f"{table.name}.{column.name}"
        for table in tables.values()
        for column in table.columns.values()
        if column.is_added
    ]
    if missing:
        raise Problem(
            f"columns are missing: {', '.join(missing)}",
            "run what stepquota adopt --prepare prints, or name the columns in the description",
        )


def month_of_old_runs(tables: Tables) -> str:
    """A statement that gives stepquota's own ledger the month of the runs that were there before.

    It is for the transaction that has loaded the functions; empty where nothing is to be done.
    """
    if "workflow_runs" not in tables or "workflow_run_steps" in tables:
        return ""
    month = _DEFAULTS["workflow_runs", "ledger_month"]
    return f"""\
do $month_of_old_runs$
begin
  perform stepquota._make_ledger_partition({month});
end;
$month_of_old_runs$;
"""


def preparation(connection: psycopg.Connection[Any], tables: Tables) -> str:
    """Statements that add the columns and indexes that are missing; each may be run again."""
    lines = []
    for table in tables.values():
        for name, column in table.columns.items():
            if column.is_added:
                default = _DEFAULTS.get((table.own_name, name))
                lines.append(
                    f"alter table {table.name} add column if not exists {column.name} "
                    f"{column.type}{f' not null default {default}' if default else ''};"
                )
            if column.is_added and (later := _LATER_DEFAULTS.get((table.own_name, name))):
                lines.append(
                    f"alter table {table.name} alter column {column.name} set default {later};"
                )
    lines.extend(_indexes(connection, tables))
    return "\n".join(lines) + "\n"


def _indexes(connection: psycopg.Connection[Any], tables: Tables) -> Iterator[str]:
    for own_name, unique, suffix, columns, condition in _INDEXES:
        # Which months of our ledger can be dropped.
        if suffix == "month" and "workflow_run_steps" in tables:
            continue
        if table := tables.get(own_name):
            if not condition and _has_index(connection, table, columns, unique):
                continue
            places = ", ".join(table.columns[column].name for column in columns)
            where = _Rewriter(
                {own_name: table}, suffix, f"select from stepquota.{own_name} x where {condition}"
            ).rewrite()
            where = where.partition(" where ")[2].replace("x.", "")
            yield (
                f"create {'unique ' if unique else ''}index if not exists "
                f"stepquota_{_short(table)}_{suffix}\n"
                f"  on {table.name} ({places}){f' where {where}' if condition else ''};"
            )


def _has_index(
    connection: psycopg.Connection[Any], table: Table, columns: Sequence[str], unique: bool
) -> bool:
    names = [table.columns[column].name.strip('"') for column in columns]
    row = connection.execute(
        """
        select exists (
          select from pg_index i
           where i.indrelid = to_regclass(%s) and i.indpred is null and i.indexprs is null
             and (i.indisunique or not %s)
             and array(select a.attname::text
                         from unnest(i.indkey[:%s]) with ordinality as k (n, place)
                         join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.n
                        order by k.place) = %s
             and (i.indnkeyatts = %s or not %s))
        """,
        [table.name, unique, len(names) - 1, names, len(names), unique],
    ).fetchone()
    return row == (True,)


_OPEN_QUOTA = "x.wait_type = 'quota' and x.status = 'WAITING'"
_INDEXES = (
    ("workflow_runs", False, "month", ("ledger_month", "ended_at"), ""),
    ("workflow_run_steps", True, "ledger_key", _OWN_KEYS["workflow_run_steps"], ""),
    ("workflow_run_waits", True, "one_open_quota_wait_a_run", ("tenant", "run_id"), _OPEN_QUOTA),
    (
        *("workflow_run_waits", True, "one_wait_a_visit"),
        *(("tenant", "run_id", "node_path", "wait_type", "attempt"), "x.wait_type <> 'quota'"),
    ),
    (
        *("workflow_run_waits", False, "quota_queue", ("tenant", "queued_at", "wait_id")),
        f"{_OPEN_QUOTA} and not x.is_held",
    ),
    ("workflow_run_waits", False, "due", ("due_at",), "x.status = 'WAITING'"),
    ("workflow_run_waits", False, "run", ("tenant", "run_id"), ""),
    ("workflow_run_logs", False, "run", ("tenant", "run_id"), ""),
)


# -- How the statements are planned

_STATEMENT = re.compile(
    r"^(?:(?:begin|declare.*?begin|return query|.*?\bloop|if .*? then|else|return|perform"
    r"|for \w+ in)\s+)*(?P<statement>(?:select|insert|update|delete|with|exists|array)\b.*)$",
    re.DOTALL | re.IGNORECASE,
)
ALL_ROWS = "all rows"
# These read everything: for verify_all(), for months that are dropped, and to confirm all quotas.
_READ_ALL = (
    "_host_count_all_steps",
    "_host_count_month_steps",
    "_host_list_tenants",
    "_host_list_violations",
)


def explain(connection: psycopg.Connection[Any], tables: Tables, text: str) -> list[Plan]:
    """How each statement of the file reaches the application's tables.

    The planner is asked for an index wherever one can serve, as it would choose on large tables. On
    a table that it knows to be tiny any index read from end to end is as good to it, so it is asked
    about an empty one of the same make, of which it expects more rows.

    Args:
        connection: of the owner of stepquota; the file is loaded, and that is undone.
        tables: the application's.
        text: the file.
    """
    found: list[Plan] = []
    with connection.transaction(force_rollback=True):
        connection.execute(text.encode())
        # Nor is a small table to be read from end to end for sorting or hashing it.
        for way in ("seqscan", "hashjoin", "mergejoin"):
            connection.execute(f"set local enable_{way} = off".encode())
        connection.execute("set local plan_cache_mode = force_generic_plan")
        tiny, indexes = _make_stand_ins(connection, tables)
        rows = connection.execute(_HOST_FUNCTIONS).fetchall()
        for function, body, names, types in rows:
            for statement in _statements(body):
                if any(table.name in statement for table in tables.values()):
                    statement = _about_stand_ins(tiny, statement)
                    found.extend(
                        Plan(function, table, indexes.get(way, way))
                        for table, way in _explain(
                            connection, tables, statement, dict(zip(names, types, strict=True))
                        )
                    )
    return found


def _make_stand_ins(
    connection: psycopg.Connection[Any], tables: Tables
) -> tuple[list[Table], dict[str, str]]:
    """Make empty tables like those that are known to be tiny.

    Answers for which, and by the names of their indexes those of the application's. None where
    temporary tables may not be made.
    """
    names_of_tables = [table.bare_name for table in tables.values()]
    tiny = [
        table
        for table in tables.values()
        if names_of_tables.count(table.bare_name) == 1
        and connection.execute(
            "select reltuples between 0 and 1000"
            "   and has_database_privilege(current_database(), 'temporary')"
            "  from pg_class where oid = to_regclass(%s)",
            [table.name],
        ).fetchone()
        == (True,)
    ]
    names = {}
    for table in tiny:
        connection.execute(
            f"create temporary table {table.bare_name}"
            f" (like {table.name} including indexes) on commit drop".encode()
        )
        there = _indexes_by_definition(connection, table.name)
        here = _indexes_by_definition(connection, f"pg_temp.{table.bare_name}")
        names.update({name: there.get(definition, name) for definition, name in here.items()})
    return tiny, names


def _indexes_by_definition(connection: psycopg.Connection[Any], table: str) -> dict[str, str]:
    rows = connection.execute(
        "select regexp_replace(pg_get_indexdef(i.indexrelid), '^.*? USING ', ''), c.relname::text"
        "  from pg_index i join pg_class c on c.oid = i.indexrelid"
        " where i.indrelid = to_regclass(%s)",
        [table],
    )
    return dict(rows.fetchall())


def _about_stand_ins(tiny: Iterable[Table], statement: str) -> str:
    for table in tiny:
        name = rf"(?<![\w.]){re.escape(table.name)}(?!\w)"
        statement = re.sub(name, f"pg_temp.{table.bare_name}", statement)
    return statement


def is_slow(plan: Plan) -> bool:
    """Whether the statement reads a whole table that it should not."""
    return plan.way == ALL_ROWS and plan.function not in _READ_ALL


_HOST_FUNCTIONS: LiteralString = """
select p.proname::text, p.prosrc, coalesce(p.proargnames[:p.pronargs], '{}'),
       array(select format_type(t, null) from unnest(p.proargtypes::oid[]) t)
  from pg_proc p
 where p.pronamespace = 'stepquota'::regnamespace and p.proname like '\\_host\\_%'
 order by p.proname
"""


def _statements(body: str) -> Iterator[str]:
    body = re.sub(r"--[^\n]*", "", body)
    for part in re.split(r";|\bloop\b", body):
        if match := _STATEMENT.match(part.strip()):
            statement = re.sub(r"\binto v_\w+", " ", match["statement"])
            yield f"select {statement}" if re.match(r"exists|array", statement) else statement


def _explain(
    connection: psycopg.Connection[Any], tables: Tables, statement: str, types: dict[str, str]
) -> Iterator[tuple[str, str]]:
    parameters: list[str] = []

    def place(match: re.Match[str]) -> str:
        if match[0] not in parameters:
            parameters.append(match[0])
        return f"${parameters.index(match[0]) + 1}"

    text = re.sub(r"\b[pv]_\w+(?:\.\w+)?\b", place, statement)
    declared = [types.get(p, "text[]" if p.endswith("s") else "text") for p in parameters]
    arguments = f"({', '.join(declared)})" if parameters else ""
    connection.execute(f"prepare stepquota_plan {arguments} as {text}".encode())
    nulls = f"({', '.join(['null'] * len(parameters))})" if parameters else ""
    (row,) = connection.execute(
        f"explain (format json) execute stepquota_plan {nulls}".encode()
    ).fetchall()
    connection.execute("deallocate stepquota_plan")
    yield from _ways(row[0][0]["Plan"], tables, _partial_indexes(connection))


def _partial_indexes(connection: psycopg.Connection[Any]) -> set[str]:
    rows = connection.execute(
        "select c.relname::text from pg_index i join pg_class c on c.oid = i.indexrelid"
        " where i.indpred is not null"
    )
    return {name for (name,) in rows}


def _ways(node: dict[str, Any], tables: Tables, partial: set[str]) -> Iterator[tuple[str, str]]:
    kind, relation = node["Node Type"], node.get("Relation Name")
    name = next((t.name for t in tables.values() if t.bare_name.strip('"') == relation), None)
    if name and kind != "ModifyTable":
        if kind == "Tid Scan":
            yield name, "the row's place"
        elif kind == "Bitmap Heap Scan":
            yield name, ", ".join(child.get("Index Name", "?") for child in node["Plans"])
        else:
            # An index read from end to end finds nothing, unless it has few rows.
            index = node.get("Index Name")
            yield name, index if index and ("Index Cond" in node or index in partial) else ALL_ROWS
    for child in node.get("Plans", ()):
        yield from _ways(child, tables, partial)

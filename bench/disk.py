"""The disk that the servers write to: that it is one, and how long a flush takes there."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from stepquota.problems import Problem

# File systems that keep nothing: a flush costs nothing there, and so nothing would be measured.
_NO_DISK = {"tmpfs", "ramfs"}
_BLOCK = 8192


def find_folder(wanted: Path | None) -> Path:
    """The folder for data: the wanted one, or else a temporary one that is on a disk.

    Raises:
        Problem: It does not exist, or it is in memory.
    """
    if wanted is None:
        # /var/tmp outlives a restart, so it is on a disk where /tmp may be in memory.
        temporary = (Path("/var/tmp"), Path(tempfile.gettempdir()))
        wanted = next((folder for folder in temporary if folder.is_dir()), temporary[-1])
    if not wanted.is_dir():
        raise Problem(f"{wanted} is not a folder", "name one that exists with --data")
    if (kind := file_system(wanted)) in _NO_DISK:
        raise Problem(
            f"{wanted} is on {kind}, in memory, where durable commits cost nothing",
            "name a folder on a real disk with --data",
        )
    return wanted


def file_system(folder: Path) -> str:
    """The type of the file system that a folder is on, for instance ``ext2/ext3``."""
    if not sys.platform.startswith("linux"):
        return sys.platform
    command = ["stat", "--file-system", "--format=%T", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def measure_flush(folder: Path, times: int = 200) -> float:
    """The median time of writing one block to a file and flushing it, in milliseconds."""
    # macOS has no fdatasync.
    flush = getattr(os, "fdatasync", os.fsync)
    took = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        # Written once before, as WAL segments are: a file that grows costs a second flush.
        file.write(bytes(_BLOCK * times))
        os.fsync(file.fileno())
        file.seek(0)
        for _ in range(times):
            begin = time.perf_counter()
            file.write(os.urandom(_BLOCK))
            flush(file.fileno())
            took.append(time.perf_counter() - begin)
    return median(took) * 1000

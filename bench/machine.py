"""What the measuring was done on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from .disk import file_system, measure_flush


@dataclass(frozen=True)
class Machine:
    """The machine, as far as it says anything about the figures.

    Attributes:
        system: The operating system's name and release.
        processor: The processor's name.
        cores: How many this process may use.
        memory_gib: The memory.
        file_system: Of the folder with the data.
        flush_ms: The median time of a write and flush of one block there, in milliseconds.
    """

    system: str
    processor: str
    cores: int
    memory_gib: float
    file_system: str
    flush_ms: float


def describe_machine(folder: Path) -> Machine:
    """Look at the machine, and measure a flush in the folder."""
    pages: int = os.sysconf("SC_PHYS_PAGES")
    page_bytes: int = os.sysconf("SC_PAGE_SIZE")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Machine(
        system=f"{platform.system()} {platform.release().partition('-')[0]}",
        processor=_processor(),
        cores=cores or 1,
        memory_gib=round(pages * page_bytes / 2**30, 1),
        file_system=file_system(folder),
        flush_ms=round(measure_flush(folder), 3),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())

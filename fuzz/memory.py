"""How much memory processes hold, and which grew."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import onebox

_PAGE = os.sysconf("SC_PAGE_SIZE")


def of(processes: Mapping[str, onebox.Process]) -> dict[str, int]:
    """Bytes that each process holds, with those it started."""
    return {name: sum(map(resident, _group(one.popen.pid))) for name, one in processes.items()}


def _group(leader: int) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(path.name)) == leader:
                yield int(path.name)
        except ProcessLookupError:
            continue  # it ended while we looked


def resident(process: int) -> int:
    """Bytes in memory of one process; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE
    except (FileNotFoundError, ProcessLookupError):
        return 0


def growth(before: Mapping[str, int], after: Mapping[str, int], *, megabytes: int) -> list[str]:
    """What grew by more than so many megabytes, in words."""
    grown = {name: (after[name] - before[name]) // 2**20 for name in before if name in after}
    return [f"{name} grew by {size} MB" for name, size in grown.items() if size > megabytes]

"""What a part of a run did and found, and the children that the parts start."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import TimeoutExpired
from typing import TypeVar

import onebox
from onebox.processes import environment, launch

T = TypeVar("T")
AT_ONCE = 2  # children beside each other
_running: list[onebox.Process] = []


@dataclass
class Part:
    """One line of the table: requests sent to gateways, inputs given to functions, and findings in words."""

    name: str
    requests: int = 0
    inputs: int = 0
    seconds: float = 0.0
    findings: list[str] = field(default_factory=list)
    skipped: str = ""

    def add(self, other: "Part") -> None:
        """Counts what another part did to this one."""
        self.requests += other.requests
        self.inputs += other.inputs
        self.findings += other.findings


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code, None where it had to be ended; and what it wrote, with the path of that."""

    code: int | None
    log: Path
    text: str


def beside(function: Callable[[T], Part], wanted: Iterable[T]) -> Iterator[Part]:
    """What the function makes of each, some at a time; no child is left when it is interrupted."""
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        yield from pool.map(function, wanted)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in list(_running):
            child.kill()
        pool.shutdown()


def run(name: str, argv: Sequence[str], *, directory: Path, seconds: float, settings: dict[str, str]) -> Ended:
    """Runs a child of this interpreter's folder until it ends by itself, at most so many seconds."""
    here = str(onebox.REPOSITORY)
    paths = [path or here for path in sys.path if not path or Path(path).resolve().is_relative_to(here)]
    env = environment(PYTHONPATH=":".join(str(Path(path).resolve()) for path in paths), **settings)
    child = launch(
        name, [str(Path(sys.executable).parent / argv[0]), *argv[1:]], env=env, directory=directory, check=bool
    )
    _running.append(child)
    try:
        code = child.popen.wait(seconds)
    except TimeoutExpired:
        code = None
    finally:
        child.kill()
        _running.remove(child)
    return Ended(code, child.log, child.log.read_bytes()[child.log_start :].decode(errors="replace"))

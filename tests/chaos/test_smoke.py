"""A short run over everything with six faults, and one planted bug that must be found; `make chaos` is the long one."""

from pathlib import Path

import pytest

from chaos import bugs, fleet, run
from chaos.run import Plan

pytestmark = pytest.mark.slow


def test_everything_is_kept_under_faults(tmp_path: Path) -> None:
    kinds = ("kill", "broker", "cut", "store", "freeze", "clock")
    plan = Plan(seed=3, clients=4, writes=1000, count=6, seconds=100, gap=4, kinds=kinds, pause=0.05, rows=150)
    outcome = run.run(plan, tmp_path, print)
    assert list(outcome.findings.lines()) == []
    assert (outcome.left, outcome.spoiled) == ("", [])
    assert sum(outcome.made.values()) == 6
    assert outcome.writes >= 1000


def test_a_planted_bug_is_found(tmp_path: Path) -> None:
    bug = bugs.BUGS["key-ignored"]
    for seed in range(3):
        plan = Plan(seed, 6, 0, 5, 40, gap=2.5, kinds=bug.faults, targets=bug.targets, bug="key-ignored",
                    replicas=fleet.FEW, quiet_seconds=12)  # fmt: skip
        if not run.run(plan, tmp_path / str(seed), print).findings.ok:
            return
    pytest.fail("the checker did not find it")

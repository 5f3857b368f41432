"""The gateways, asked through what they say of themselves: schemathesis for each kind of key and each role."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

import stack
from chassis import privacy, store
from fuzz import memory
from fuzz.part import AT_ONCE, Part, beside, run
from gateway import keys, policy
from gateway.store import CLIENTS, SCHEMA
from stack import Stack

HERE = Path(__file__).resolve().parent
ROUND_SECONDS = 600.0  # the tokens of people live for 15 minutes
LEAST_SECONDS = 6  # in less, a document is read and nothing is asked
LATE_SECONDS = 90.0  # by which a child may be late with a request that hangs, and its report
GROWTH_MEGABYTES = 150
PLENTY = {"requests": 10_000_000, "seconds": 10}
DEEP = 4  # times as long for one role of each kind
_DEEP = {("internal", "channel", "administrator"), ("internal", "staff", "clerk"), ("public", "channel", "web"),
         ("partner", "partner", "partner")}  # fmt: skip


@dataclass(frozen=True)
class Caller:
    """Somebody with one role at one gateway."""

    gateway: str
    kind: str
    role: str

    @property
    def name(self) -> str:
        """For logs and findings."""
        return f"{self.gateway}-{self.kind}-{self.role}"

    @property
    def masked(self) -> bool:
        """Whether there is something that this one does not see in clear."""
        seen = policy.load_roles()[self.role].sees & policy.load_policy(self.gateway).sees
        return not privacy.EVERYTHING - {0} <= seen

    @property
    def deep(self) -> bool:
        """Whether this one has the time for everything."""
        return (self.gateway, self.kind, self.role) in _DEEP


@dataclass(frozen=True)
class Asking:
    """One child: who asks, whether only what must be taken (`meant`) or anything, and how much of the time it has."""

    caller: Caller
    how: str
    share: int


def _callers() -> list[Caller]:
    """Every role at every gateway that takes its kind."""
    held = {
        kind: [role for of, roles in stack.CLIENTS.values() if of == kind for role in roles] for kind in policy.KINDS
    }
    keyed = {role for roles in held.values() for role in roles} - {"administrator"}
    held["staff"] = [role for role in policy.load_roles() if role not in keyed]
    found = [(name, kind) for name in stack.POLICIES for kind in policy.load_policy(name).authentication]
    return [Caller(name, kind, role) for name, kind in found for role in held[kind]]


def askings() -> Iterator[Asking]:
    """What is asked: both ways and long by one of each kind, one way and short by the others."""
    for at, caller in enumerate(_callers()):
        if caller.deep:
            yield from (Asking(caller, how, DEEP) for how in ("meant", "any"))
        else:
            yield Asking(caller, ("meant", "any")[at % 2], 1)


def fuzz(platform: Stack, directory: Path, *, seed: int, seconds: float, wanted: Sequence[Asking]) -> Part:
    """Asks for about so many seconds."""
    part = Part("gateways")
    directory.mkdir(parents=True, exist_ok=True)
    rounds = max(1, round(seconds / ROUND_SECONDS))
    unit = AT_ONCE * seconds / rounds / sum(one.share for one in wanted)
    before: dict[str, int] = {}
    for number in range(rounds):
        shown = credentials(platform, {one.caller for one in wanted})
        # The first is asked alone, so that what grows is measured from a platform that is warm.
        for some in (wanted[:1], wanted[1:]) if not before else (wanted,):
            ask = partial(_ask, platform, directory, shown, seed + number, unit)
            for found in beside(ask, some):
                part.add(found)
            before = before or memory.of(platform.processes)
    part.findings += memory.growth(before, memory.of(platform.processes), megabytes=GROWTH_MEGABYTES)
    return part


def credentials(platform: Stack, who: set[Caller]) -> dict[Caller, str]:
    """What each caller shows, as a setting of schemathesis; keys have a quota that is not used up."""
    opened = store.connect(platform.store.uri, "gateway", schema=SCHEMA)
    known = {(one.kind, one.role): "" for one in who}
    for kind, role in known:
        known[kind, role] = _token(platform, role) if kind == "staff" else _key(opened, kind, role)
    opened.close()
    return {one: known[one.kind, one.role] for one in who}


def _key(opened: store.Store, kind: str, role: str) -> str:
    client = f"fuzz-{role}"
    if opened[CLIENTS].find_one({"_id": client}) is not None:
        return f'key.api_key = "{keys.rotate(opened, client)}"'
    return f'key.api_key = "{keys.create(opened, client, kind=kind, roles=[role], quota=PLENTY)}"'


def _token(platform: Stack, role: str) -> str:
    asked = {"subject": f"fuzz.{role}", "roles": [role]}
    answer = httpx.post(f"{platform.urls['issuer']}/token", json=asked, trust_env=False)
    return f'token.bearer = "{answer.json()["access_token"]}"'


def _ask(platform: Stack, directory: Path, shown: dict[Caller, str], seed: int, unit: float, asking: Asking) -> Part:
    caller, name = asking.caller, f"{asking.caller.name}-{asking.how}"
    report, seconds = directory / f"{name}.json", max(LEAST_SECONDS, round(unit * asking.share))
    report.unlink(missing_ok=True)
    settings = directory / f"{name}.toml"
    settings.write_text(f"{(HERE / 'schemathesis.toml').read_text('utf-8')}\n[auth.openapi]\n{shown[caller]}\n")
    ended = run(
        name,
        [
            "schemathesis", "--config-file", str(settings), "run",
            f"{platform.urls[caller.gateway]}/openapi.json", "--seed", str(seed),
            "--max-time", str(seconds), "--report", "json", "--report-json-path", str(report), *_how(asking),
        ],
        directory=directory,
        seconds=seconds + LATE_SECONDS,
        settings={
            "SCHEMATHESIS_HOOKS": str(HERE / "hooks.py"),
            "FUZZ_PASS": asking.how,
            "FUZZ_MASKED": "yes" if caller.masked else "",
        },
    )  # fmt: skip
    found = json.loads(report.read_text()) if report.exists() else None
    return _counted(f"{name}, seed {seed}", found, ended.code, ended.log)


def _how(asking: Asking) -> list[str]:
    phases = "examples,coverage,fuzzing,stateful" if asking.caller.deep else "fuzzing,stateful"
    if asking.how == "meant":
        return ["--phases", phases, "--mode", "positive", "--generation-allow-x00", "false"]
    # Of what only has the right form, much means nothing and is refused.
    return ["--phases", phases, "--mode", "all", "--exclude-checks", "positive_data_acceptance"]


def _counted(name: str, report: Any, code: int | None, log: Path) -> Part:
    if report is None:
        what = "did not end" if code is None else f"ended with {code} and no report"
        return Part(name, findings=[f"{name} {what}: {log}"])
    wrong = [
        f"{name}: {one['code']} {one['title']} at {', '.join(one['operations'][:3])}" for one in report["failures"]
    ]
    wrong += [f"{name}: {' '.join(str(one).split())[:200]}" for one in report["errors"]]
    if not wrong and (code != 0 or not report["test_cases"]["generated"]):
        wrong = [f"{name} asked nothing" if code == 0 else f"{name} ended with {code}"]
    return Part(
        name, requests=report["test_cases"]["generated"], findings=[f"{one}; to replay it: {log}" for one in wrong]
    )

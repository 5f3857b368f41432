"""Every process is replaced under fifty requests a second, by the same release and by the next: nobody notices."""

import os
import random
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from signal import SIGTERM
from uuid import uuid4

import generate
import httpx
import pytest

import onebox
from chaos import fleet, state
from chaos.fleet import Fleet
from chassis.store import connect

RATE, THREADS = 50, 12
READY_SECONDS = 60

pytestmark = pytest.mark.slow


@dataclass
class Traffic:
    """What clients were told; they go only to gateways that say they are ready, as a balancer sends them."""

    running: Fleet
    answers: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    ready: dict[int, bool] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Learns ten times a second which gateways are ready."""
        while not self.stop.wait(0.1):
            for number in range(len(self.running.urls)):
                self.ready[number] = self.running.is_ready(f"gateway-{number}")

    def work(self, seed: int) -> None:
        """Registers, reads, finds and changes, at this thread's share of the rate."""
        chance, due = random.Random(seed), time.monotonic()
        with httpx.Client(
            headers={"X-Api-Key": self.running.keys["store-till"]}, timeout=10, trust_env=False
        ) as client:
            while not self.stop.is_set():
                due += THREADS / RATE
                self.one(client, chance)
                time.sleep(max(0.0, due - time.monotonic()))

    def one(self, client: httpx.Client, chance: random.Random) -> None:
        door = chance.choice([number for number, ready in self.ready.items() if ready] or [0])
        url, headers = self.running.urls[door], {"Idempotency-Key": uuid4().hex}
        known = chance.choice(self.made) if self.made else ""
        try:
            if not known or chance.random() < 0.5:
                body = {"kind": "PERSON", "names": [{"full": "王芳"}], "service_numbers": [uuid4().hex]}
                answer = client.post(f"{url}/v1/customers", json=body, headers=headers)
                self.made += [answer.json()["customer_id"]] if answer.status_code == 201 else []
            else:
                answer = client.get(f"{url}/v1/customers/{known}")
        except httpx.TransportError as error:
            self.failures.append(f"gateway-{door}: {error!r}")
            return
        self.answers[answer.status_code] += 1
        if answer.status_code >= 400:
            self.failures.append(f"gateway-{door}: {answer.status_code} {answer.text[:200]}")


@contextmanager
def traffic(running: Fleet) -> Iterator[Traffic]:
    made = Traffic(running, ready=dict.fromkeys(range(len(running.urls)), True))
    threads = [threading.Thread(target=made.look)]
    threads += [threading.Thread(target=made.work, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        made.stop.set()
        for thread in threads:
            thread.join(30)


def roll(running: Fleet, name: str) -> None:
    """Stops a process as a rollout does, and starts it again."""
    running.held.add(name)
    process = running.processes[name]
    process.signal(SIGTERM)
    assert process.popen.wait(40) == 0
    process.kill()
    running.launch(name)
    running.held.discard(name)
    running.await_ready([name])


def quiet(running: Fleet) -> str:
    opened = {name: connect(running.store.uri, name) for name in ("customer", "analytics", "witness")}
    try:
        return state.quiet(opened.__getitem__, ["analytics", "witness"], seconds=120)[1]
    finally:
        for one in opened.values():
            one.close()


def test_a_restart_of_everything_fails_no_request(tmp_path: Path) -> None:
    with fleet.running(tmp_path) as running:
        with traffic(running) as seen:
            for name in sorted(running.parts):
                roll(running, name)
        assert seen.failures == []
        assert seen.answers.total() > 200
        assert quiet(running) == ""


@pytest.fixture
def next_release(tmp_path: Path) -> str:
    """A PYTHONPATH with contracts that have one field more."""
    contracts, out = tmp_path / "proto", tmp_path / "gen"
    shutil.copytree(generate.HERE / "crm", contracts / "crm")
    out.mkdir()
    path = contracts / "crm/customer/v1/customer.proto"
    classed = "(crm.options.v1.data) = DATA_CLASS_PERSONAL"
    field_ = f"  string nickname = 1000 [{classed}, (buf.validate.field).string.max_len = 60];\n"
    path.write_text(path.read_text().replace("message Customer {\n", f"message Customer {{\n{field_}", 1))
    generate.generate(out, contracts)
    own = [one for one in sys.path if Path(one).is_relative_to(onebox.REPOSITORY) and "site-packages" not in one]
    return os.pathsep.join([str(out), *(one for one in own if Path(one) != generate.HERE / "gen")])


def upgrade(running: Fleet, name: str, path: str) -> None:
    part = running.parts[name]
    running.parts[name] = replace(part, settings={**part.settings, "PYTHONPATH": path})
    roll(running, name)


def test_old_and_new_work_side_by_side_and_what_only_the_new_knows_survives(tmp_path: Path, next_release: str) -> None:
    with fleet.running(tmp_path / "run") as running:
        with traffic(running) as seen:
            for name in ("customer-serve-0", "gateway-0"):
                upgrade(running, name, next_release)
            new, old = (httpx.Client(base_url=url, headers={"X-Api-Key": running.keys["store-till"]}, timeout=10)
                        for url in running.urls)  # fmt: skip
            places: list[str] = []
            for number in range(20):
                key, person = uuid4().hex, {"kind": "PERSON", "names": [{"full": "李娜"}], "nickname": f"n{number}"}
                made = new.post("/v1/customers", json=person, headers={"Idempotency-Key": key})
                place, tag = made.headers["Location"], made.headers["ETag"]
                changed = old.patch(place, json={"interests": ["音乐"]}, headers={"If-Match": tag})
                assert (made.status_code, changed.status_code) == (201, 200)
                places.append(place)
                assert (
                    old.post("/v1/customers", json=person, headers={"Idempotency-Key": uuid4().hex}).status_code == 400
                )
            for name in sorted(set(running.parts) - {"customer-serve-0", "gateway-0"}):
                upgrade(running, name, next_release)
        assert seen.failures == []
        # Written by new code, changed by old code on the way, read by new code.
        found = [old.get(place).json() for place in places]
        assert [(one["nickname"], one["interests"]) for one in found] == [(f"n{n}", ["音乐"]) for n in range(20)]
        assert quiet(running) == ""

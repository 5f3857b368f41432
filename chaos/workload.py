"""Clients that work while everything breaks: they insist, give up, click twice, and write it all down."""

import hashlib
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from chaos.history import FAILED, OK, UNKNOWN, Call, History

Json = dict[str, Any]
TIMEOUT_SECONDS = 6.0
MOST_ATTEMPTS = 40
LOADING_PAUSE, LOADING_SECONDS = 2.0, 90.0
GIVES_UP = 0.03  # the share of calls whose client goes away after the first answer that is none
CLICKS_AGAIN = 0.05
WRITES = {"register": 35, "update": 30, "contact": 30}
READS = 10
DEFINITE = {400, 401, 403, 404, 409, 412, 413, 415, 422, 428}
SURNAMES, NAMES = "王李张刘陈杨黄赵吴周", "伟芳娜敏静丽强磊军洋"


@dataclass
class Known:
    """Records that clients know of, shared between them."""

    customers: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, customer: str) -> None:
        """A customer somebody registered."""
        with self.lock:
            self.customers.append(customer)

    def pick(self, chance: random.Random) -> str:
        """Any customer; a busy few are picked often. Empty where there is none."""
        with self.lock:
            if not self.customers:
                return ""
            busy = chance.random() < 0.3
            return chance.choice(self.customers[:20] if busy else self.customers)


class Client:
    """One client: a key, its own chance, and the gateways it goes to in turn."""

    def __init__(self, name: str, urls: Sequence[str], key: str, seed: int, history: History, known: Known) -> None:
        self.name, self._history, self._known = name, history, known
        self._chance = random.Random(f"{seed}:{name}")
        self._gateways = [
            httpx.Client(base_url=url, headers={"X-Api-Key": key}, timeout=TIMEOUT_SECONDS, trust_env=False)
            for url in urls
        ]
        self._turn = 0

    def run(self, stop: threading.Event, pause: float = 0.0) -> None:
        """Works until told to stop."""
        kinds = [*WRITES, "read"]
        while not stop.is_set():
            kind = self._chance.choices(kinds, [*WRITES.values(), READS])[0]
            getattr(self, f"_{kind}")(stop)
            if pause:
                stop.wait(pause)

    def close(self) -> None:
        """Lets go of the connections."""
        for gateway in self._gateways:
            gateway.close()

    def _register(self, stop: threading.Event) -> None:
        call = self._begin("register")
        body = {"kind": "PERSON", "names": [{"full": self._person()}], "service_numbers": [call.marker]}
        answer = self._insist(stop, call, "POST", "/v1/customers", body)
        if call.outcome == OK:
            call.record, call.version = answer["customer_id"], int(answer["version"])
            self._known.add(call.record)
        self._history.end(call)

    def _update(self, stop: threading.Event) -> None:
        customer = self._known.pick(self._chance)
        read = self._get(f"/v1/customers/{customer}") if customer else None
        if read is None:
            return
        call = self._begin("update", target=customer, read=int(read["version"]))
        body, match = {"interests": [call.marker]}, f'"{call.read}"'
        answer = self._insist(stop, call, "PATCH", f"/v1/customers/{customer}", body, match=match)
        if call.outcome == OK:
            call.record, call.version = answer["customer_id"], int(answer["version"])
        self._history.end(call)

    def _contact(self, stop: threading.Event) -> None:
        customer = self._known.pick(self._chance)
        if not customer:
            return
        call = self._begin("contact", target=customer)
        contact = {"channel": "STORE", "direction": "INBOUND", "summary": call.marker}
        body = {"topic": f"t{self._chance.randrange(5)}", "contact": contact}
        answer = self._insist(stop, call, "POST", f"/v1/customers/{customer}/interactions", body)
        if call.outcome == OK:
            call.record, call.version = answer["interaction_id"], int(answer["version"])
        self._history.end(call)

    def _read(self, _stop: threading.Event) -> None:
        customer = self._known.pick(self._chance)
        if customer:
            self._get(f"/v1/customers/{customer}")

    def load(self, stop: threading.Event, rows: int) -> None:
        """Imports files of so many rows, one after the other, until told to stop."""
        while not stop.is_set():
            calls = [self._begin("row") for _ in range(rows)]
            done = self._imported(stop, calls)
            for call in calls:
                call.outcome = OK if done else UNKNOWN
                self._history.end(call)
            stop.wait(LOADING_PAUSE)

    def _imported(self, stop: threading.Event, rows: list[Call]) -> bool:
        """Whether an import took in every one of these rows; if not, nobody knows of any."""
        file = "name,service_number\n" + "".join(f"{self._person()},{row.marker}\n" for row in rows)
        made = self._until(stop, "POST", "/v1/customer-imports", key=rows[0].key, json={"format": "CSV"})
        job = f"/v1/customer-imports/{made['import_id']}" if made else ""
        if not made or not self._until(stop, "PUT", f"{job}/file", content=file.encode()):
            return False
        ends = time.monotonic() + LOADING_SECONDS
        while time.monotonic() < ends:
            found = self._get(job) or {}
            if found.get("status") in ("COMPLETED", "FAILED", "CANCELLED"):
                return bool(found["status"] == "COMPLETED" and int(found["imported"]) == len(rows))
            time.sleep(0.5)
        return False

    def _until(self, stop: threading.Event, method: str, path: str, *, key: str = "", **what: Any) -> Json | None:
        """Sends a request again and again until it is done; None when it is refused or there is no time left."""
        headers = {"Idempotency-Key": key} if key else {}
        for _ in range(MOST_ATTEMPTS):
            try:
                response = self._next().request(method, path, headers=headers, **what)
            except httpx.TransportError:
                response = None
            if response is not None and response.status_code in (200, 201):
                found: Json = response.json()
                return found
            if stop.wait(0.5):
                break
        return None

    def _person(self) -> str:
        return self._chance.choice(SURNAMES) + self._chance.choice(NAMES)

    def _begin(self, kind: str, **more: Any) -> Call:
        marker = f"{kind[0]}{self._chance.getrandbits(60):015x}"
        key = f"{self._chance.getrandbits(128):032x}"
        return self._history.begin(kind, key, marker, self.name, **more)

    def _get(self, path: str) -> Json | None:
        try:
            response = self._next().get(path)
        except httpx.TransportError:
            return None
        return response.json() if response.status_code == 200 else None

    def _next(self) -> httpx.Client:
        self._turn += 1
        return self._gateways[self._turn % len(self._gateways)]

    def _insist(
        self, stop: threading.Event, call: Call, method: str, path: str, body: Json, *, match: str = ""
    ) -> Json:
        """Tries until there is an answer, or gives up; after a success perhaps once more, as people click twice."""
        headers = {"Idempotency-Key": call.key} | ({"If-Match": match} if match else {})
        call.request = {"method": method, "url": path, "json": body, "headers": headers}
        answer: Json = {}
        while call.outcome == UNKNOWN and call.attempts < MOST_ATTEMPTS:
            answer = self._try(call)
            if call.outcome == UNKNOWN and (stop.is_set() or self._chance.random() < GIVES_UP):
                return {}
        if call.outcome == OK and self._chance.random() < CLICKS_AGAIN:
            self._try(call)
        return answer

    def ask_again(self, call: Call) -> None:
        """The same request with the same key, later: the answer must be the one given before."""
        self._try(call)

    def _try(self, call: Call) -> Json:
        call.attempts += 1
        try:
            response = self._next().request(**call.request)
        except httpx.TransportError:
            time.sleep(0.2)
            return {}
        call.statuses.append(response.status_code)
        return _judged(call, response)


def _judged(call: Call, response: httpx.Response) -> Json:
    """What the answer means; "later" means unknown, since an attempt before may have done it."""
    if response.status_code in (200, 201):
        call.outcome, call.status = OK, response.status_code
        call.digests.append(hashlib.sha256(response.content).hexdigest()[:16])
        answer: Json = response.json()
        return answer
    running = response.status_code == 409 and response.json().get("type", "").endswith("still-running")
    if response.status_code in DEFINITE and not running:
        # An answer like this after an acknowledgement would be a broken promise: the checker compares.
        call.outcome = FAILED if call.outcome == UNKNOWN else "contradicted"
        call.status = response.status_code
    else:
        time.sleep(min(float(response.headers.get("Retry-After", 0.2)), 1.0))
    return {}

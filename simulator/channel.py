"""One channel of the operator: it calls the gateway with its key, as a till or a web shop does, and tries again."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx

TRIES = 60
PAGE = 50  # customers of one search
Json = dict[str, Any]


@dataclass
class Channel:
    """A client of one gateway. `milliseconds` collects how long searches took, as the channel sees it."""

    name: str
    url: str
    key: str
    milliseconds: list[float] = field(default_factory=list)
    retried: int = 0

    def __post_init__(self) -> None:
        self._http = httpx.Client(base_url=self.url, headers={"X-Api-Key": self.key}, timeout=15, trust_env=False)

    def close(self) -> None:
        """Lets go of the connections."""
        self._http.close()

    def post(self, path: str, body: Json, *, key: str = "") -> httpx.Response:
        """A write with an idempotency key: whatever breaks on the way, it is repeated and has one effect."""
        return self._insist("POST", path, json=body, headers={"Idempotency-Key": key or str(uuid4())})

    def patch(self, path: str, body: Json, *, version: str) -> httpx.Response:
        """A change of the version that was read."""
        headers = {"Idempotency-Key": str(uuid4()), "If-Match": version}
        return self._insist("PATCH", path, json=body, headers=headers)

    def get(self, path: str, **parameters: str) -> httpx.Response:
        """A read."""
        return self._insist("GET", path, params=parameters)

    def put_file(self, path: str, pieces: Iterable[bytes]) -> httpx.Response:
        """A streamed upload; not repeated here, since the pieces are gone."""
        return self._http.put(path, content=pieces, headers={"Content-Type": "text/csv"}, timeout=600)

    def stream_lines(self, path: str, **parameters: str) -> Iterator[str]:
        """The lines of a streamed download with their line feeds; other separators belong to the texts."""
        rest = b""
        with self._http.stream("GET", path, params=parameters, timeout=600) as response:
            response.raise_for_status()
            for piece in response.iter_bytes():
                *lines, rest = (rest + piece).split(b"\n")
                yield from (f"{line.decode()}\n" for line in lines)
        if rest:
            yield rest.decode()

    def search(self, query: str) -> list[Json]:
        """Customers that match, best first; the time it took is remembered."""
        started = time.perf_counter()
        response = self.get("/v1/customers:search", query=query, page_size=str(PAGE))
        self.milliseconds.append((time.perf_counter() - started) * 1000)
        response.raise_for_status()
        found: list[Json] = [one["customer"] for one in response.json()["results"]]
        return found

    def _insist(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Tries until there is an answer that is not "later"."""
        for _ in range(TRIES):
            try:
                response = self._http.request(method, path, **request)
            except httpx.TransportError:
                self._wait({})
                continue
            if response.status_code not in (429, 503, 504) and not _still_running(response):
                return response
            self._wait(response.headers)
        raise RuntimeError(f"{self.name}: {method} {path} had no answer in {TRIES} tries")

    def _wait(self, headers: Mapping[str, str]) -> None:
        self.retried += 1
        time.sleep(min(float(headers.get("Retry-After", 0.25)), 2.0))


def _still_running(response: httpx.Response) -> bool:
    return response.status_code == 409 and response.json().get("type", "").endswith("still-running")

"""Which worker serves which partition: leases by the store's clock, shared out evenly, taken over after a death."""

from collections.abc import Iterable
from datetime import timedelta
from threading import Event as StopSignal
from threading import Lock
from time import monotonic

from pymongo.errors import PyMongoError

from chassis import log, metrics
from chassis.events import PARTITIONS
from chassis.store import Document, Schema, Store, clock

COLLECTION = "leases"
SCHEMA: Schema = {COLLECTION: ()}
LEASE = timedelta(seconds=10)
RENEW_SECONDS = 3.0
_MILLIS = int(LEASE.total_seconds() * 1000)


class Leases:
    """The partitions this worker holds. `keep` runs in a loop of its own; `held` may be asked from any thread."""

    def __init__(self, store: Store, worker: str) -> None:
        self._store, self._worker = store, worker
        self._held: frozenset[int] = frozenset()
        self._lock = Lock()

    def held(self) -> frozenset[int]:
        """The partitions whose lease is ours, as of the last renewal."""
        with self._lock:
            return self._held

    def keep(self, stop: StopSignal) -> None:
        """Renews, claims and shares leases until `stop`, then gives them back."""
        renewed = monotonic()
        while not stop.is_set():
            try:
                started = monotonic()
                self.sweep()
                renewed = started
            except PyMongoError as error:
                # What we hold is ours until it runs out; letting go at once would only send messages around.
                log.warning("leases not renewed", error=error)
                if monotonic() - renewed > LEASE.total_seconds() - RENEW_SECONDS:
                    self._set(())
            stop.wait(RENEW_SECONDS)
        self._set(())
        try:
            self._store[COLLECTION].delete_one({"_id": f"worker:{self._worker}"})
            self._store[COLLECTION].update_many({"holder": self._worker}, {"$set": {"holder": ""}})
        except PyMongoError as error:
            log.warning("leases not given back; they run out", error=error)

    def sweep(self) -> frozenset[int]:
        """One round: say that we live, renew ours, give up what exceeds our share, claim what is free."""
        leases = self._store[COLLECTION]
        alive = {"$set": {"holder": "", "until": {"$add": ["$$NOW", _MILLIS]}}}
        leases.update_one({"_id": f"worker:{self._worker}"}, [alive], upsert=True)
        now = clock(self._store)
        found = {one["_id"]: one for one in leases.find({})}
        mine = [one for one in found.values() if one["holder"] == self._worker and one["until"] > now]
        workers = [key for key, one in found.items() if key.startswith("worker:") and one["until"] > now]
        share = -(-PARTITIONS // max(1, len(workers)))
        kept = [one for one in mine[:share] if self._take(one)]
        for one in mine[share:]:
            leases.update_one({"_id": one["_id"], "epoch": one["epoch"]}, {"$set": {"holder": ""}})
        kept += self._claim(found, now, share - len(kept))
        return self._set(int(one["_id"].removeprefix("partition:")) for one in kept)

    def _claim(self, found: dict[str, Document], now: object, wanted: int) -> list[Document]:
        claimed: list[Document] = []
        for number in range(PARTITIONS):
            key = f"partition:{number}"
            one = found.get(key) or self._create(key)
            free = not one["holder"] or one["until"] <= now
            if len(claimed) < wanted and free and self._take(one):
                claimed.append(one)
        return claimed

    def _create(self, key: str) -> Document:
        fresh: Document = {"_id": key, "holder": "", "epoch": 0}
        self._store[COLLECTION].update_one({"_id": key}, {"$setOnInsert": {"holder": "", "epoch": 0}}, upsert=True)
        return fresh

    def _take(self, one: Document) -> bool:
        # The epoch read decides: whoever raised it in between has the lease.
        claim = {"holder": self._worker, "epoch": one["epoch"] + 1, "until": {"$add": ["$$NOW", _MILLIS]}}
        done = self._store[COLLECTION].update_one({"_id": one["_id"], "epoch": one["epoch"]}, [{"$set": claim}])
        return done.matched_count == 1

    def _set(self, partitions: Iterable[int]) -> frozenset[int]:
        with self._lock:
            self._held = frozenset(partitions)
        metrics.PARTITIONS_HELD.set(len(self._held))
        return self._held

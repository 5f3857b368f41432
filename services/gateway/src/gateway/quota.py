"""Quotas a client shares over all gateway replicas: each takes a slice of the window and gives it out from memory."""

from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock
from time import time

from pymongo.errors import DuplicateKeyError

from chassis.errors import Exhausted
from chassis.store import Store
from gateway.policy import Quota
from gateway.store import QUOTAS

SLICES = 20


@dataclass
class _Share:
    window: int
    left: int = 0
    spent: bool = False


@dataclass(frozen=True)
class Standing:
    """Where a client stands: how many requests are certainly left, and the seconds until the window ends."""

    quota: Quota
    left: int
    resets: int

    def headers(self) -> dict[str, str]:
        """RateLimit header fields (draft-ietf-httpapi-ratelimit-headers-10)."""
        return {
            "RateLimit-Policy": f'"default";q={self.quota.requests};w={self.quota.seconds}',
            "RateLimit": f'"default";r={self.left};t={self.resets}',
        }


class Quotas:
    """Spends quotas. What a replica has not given out when the window ends is lost, at most a slice."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._shares: dict[str, _Share] = {}
        self._lock = Lock()

    def spend(self, client: str, quota: Quota) -> Standing:
        """Takes one request from the client's quota; raises `Exhausted` when nothing is left of it."""
        now = time()
        window = int(now // quota.seconds)
        resets = max(1, int((window + 1) * quota.seconds - now))
        with self._lock:
            share = self._shares.get(client)
            if share is None or share.window != window:
                share = self._shares[client] = _Share(window)
            if share.left == 0 and not share.spent:
                self._refill(client, share, quota)
            if share.left == 0:
                raise Exhausted("the quota of this client is used up", reason="QUOTA_EXHAUSTED", retry_after=resets)
            share.left -= 1
            return Standing(quota, share.left, resets)

    def _refill(self, client: str, share: _Share, quota: Quota) -> None:
        for size in (max(1, quota.requests // SLICES), 1):
            if self._take(f"{client}:{share.window}", size, quota, share.window):
                share.left = size
                return
        share.spent = True

    def _take(self, key: str, size: int, quota: Quota, window: int) -> bool:
        ends = datetime.fromtimestamp((window + 1) * quota.seconds, UTC)
        fits = {"_id": key, "used": {"$lte": quota.requests - size}}
        try:
            self._store[QUOTAS].update_one(fits, {"$inc": {"used": size}, "$set": {"ends": ends}}, upsert=True)
        except DuplicateKeyError:
            return False  # the document exists and has no room for the slice
        return True

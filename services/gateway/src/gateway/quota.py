"""Quotas a client shares over all gateway replicas: each takes a slice of the window and gives it out from memory."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock
from time import time

from pymongo.errors import DuplicateKeyError

from chassis.errors import Exhausted
from chassis.store import Store
from gateway.policy import Quota
from gateway.store import QUOTAS, Patience

SLICES = 20
MOST_SHARES = 10_000


@dataclass
class _Share:
    lock: Lock = field(default_factory=Lock)
    window: int = -1
    left: int = 0
    spent: bool = False


@dataclass(frozen=True)
class Standing:
    """Where a client stands: how many requests are certainly left, and the seconds until the window ends.

    `refused`: this request was one too many.
    """

    quota: Quota
    left: int
    resets: int
    refused: bool = False

    def headers(self) -> dict[str, str]:
        """RateLimit header fields (draft-ietf-httpapi-ratelimit-headers-10)."""
        return {
            "RateLimit-Policy": f'"default";q={self.quota.requests};w={self.quota.seconds}',
            "RateLimit": f'"default";r={self.left};t={self.resets}',
        }

    def require(self) -> None:
        """Raises `Exhausted` when the request was one too many."""
        if self.refused:
            raise Exhausted("the quota of this client is used up", reason="QUOTA_EXHAUSTED", retry_after=self.resets)


class Quotas:
    """Spends quotas. What a replica has not given out when the window ends is lost, at most a slice."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._patience = Patience()
        self._shares: dict[str, _Share] = {}
        self._lock = Lock()

    def spend(self, client: str, quota: Quota) -> Standing:
        """Takes one request from the client's quota, if one is left of it."""
        share = self._share(client)
        with share.lock:  # of this client alone: nobody waits while another's slice is fetched
            now = time()
            window = int(now // quota.seconds)
            resets = max(1, int((window + 1) * quota.seconds - now))
            if share.window != window:
                share.window, share.left, share.spent = window, 0, False
            if share.left == 0 and not share.spent:
                with self._patience.waiting():
                    self._refill(client, share, quota)
            if share.left == 0:
                return Standing(quota, 0, resets, refused=True)
            share.left -= 1
            return Standing(quota, share.left, resets)

    def _share(self, client: str) -> _Share:
        with self._lock:
            if len(self._shares) > MOST_SHARES:
                self._shares.clear()
            return self._shares.setdefault(client, _Share())

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

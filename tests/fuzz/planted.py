"""Readers with a known mistake each, which a run must find."""

import time
from collections.abc import Mapping

from fuzz.parsers import Target


def crash(data: bytes) -> None:
    assert b"boom" not in data


def hang(data: bytes) -> None:
    if b"wait" in data:
        time.sleep(60)


TARGETS: Mapping[str, Target] = {"crash": Target(crash, (b"a boom",)), "hang": Target(hang, (b"a wait",))}

"""Settings from the environment into a frozen dataclass; a bad start lists everything that is wrong and exits 2.

A field `mongodb_uri: str` is read from MONGODB_URI, or from the file that MONGODB_URI_FILE names (mounted secrets).
A field without a default is required. Types: str, int, float, bool, bytes (UTF-8 text of the value).
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from pymongo.errors import PyMongoError

_SWITCH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_PARSERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    str: (str, "text"),
    bytes: (str.encode, "text"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    bool: (lambda text: _SWITCH[text.lower()], "true or false"),
}


class BadSettings(Exception):
    """Everything wrong with the settings, one sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(*kinds: type[Any], environment: Mapping[str, str] = os.environ) -> list[Any]:
    """The settings of this process, one object a class; raises `BadSettings` with every problem of all of them."""
    problems: list[str] = []
    found = [{one.name: _value(one, environment, problems) for one in fields(kind)} for kind in kinds]
    made = [] if problems else [_made(kind, values, problems) for kind, values in zip(kinds, found, strict=True)]
    if problems:
        raise BadSettings(problems)
    return made


def _made(kind: type[Any], values: Mapping[str, Any], problems: list[str]) -> Any:
    try:
        return kind(**values)
    except ValueError as error:  # a settings class may check what it is given
        return problems.append(str(error))


def load_or_exit(*kinds: type[Any]) -> list[Any]:
    """The settings, or every problem on standard error and exit code 2."""
    try:
        return load(*kinds)
    except BadSettings as bad:
        raise _refused(bad.problems) from None


def check_or_exit(checks: Mapping[str, Callable[[], object]]) -> None:
    """Tries what settings by these names must allow; lists every one that does not and exits with code 2."""
    problems = []
    for name, check in checks.items():
        try:
            check()
        except (ValueError, LookupError, TypeError, OSError, PyMongoError) as error:
            problems.append(f"{name} cannot be used: {error}")
    if problems:
        raise _refused(problems)


def _refused(problems: list[str]) -> SystemExit:
    print("This process cannot start with these settings:", *problems, sep="\n  ", file=sys.stderr)
    return SystemExit(2)


def names(kind: type[Any]) -> dict[str, bool]:
    """Every variable a settings class reads, and whether it is required."""
    return {one.name.upper(): one.default is MISSING for one in fields(kind)}


def _value(one: "Field[Any]", environment: Mapping[str, str], problems: list[str]) -> Any:
    name = one.name.upper()
    try:
        text = _text(name, environment)
    except OSError as error:
        problems.append(f"{name}_FILE: cannot be read: {error.strerror}")
        return None
    if text is None:
        if one.default is MISSING:
            problems.append(f"{name} (or {name}_FILE) is required")
        return None if one.default is MISSING else one.default
    parse, expected = _PARSERS[one.type]
    try:
        return parse(text)
    except (ValueError, KeyError):
        problems.append(f"{name} must be {expected}")
        return None


def _text(name: str, environment: Mapping[str, str]) -> str | None:
    if path := environment.get(f"{name}_FILE"):
        return Path(path).read_text(encoding="utf-8").strip()
    return environment.get(name)

"""`crm`: what an operator does by hand. Every change needs a reason and leaves an entry in the audit.

Reads MONGODB_URI and, for the broker's dead letters, AMQP_URL (or the files that MONGODB_URI_FILE and AMQP_URL_FILE
name). Exit codes: 0 done, 1 refused or failed, 2 called wrongly.
"""

import argparse
import getpass
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from pika.exceptions import AMQPError
from pymongo.errors import PyMongoError

from chassis import config, log, parked, store
from chassis.errors import Fault, invalid
from operate import desk, letters, sent, waiting
from operate.arguments import changing, instant, selecting, verb
from operate.desk import Desk, Wanted


@dataclass(frozen=True)
class StoreSettings:
    """Where the services keep their databases."""

    mongodb_uri: str


@dataclass(frozen=True)
class BrokerSettings:
    """Where the broker is."""

    amqp_url: str


def main(arguments: list[str] | None = None) -> int:
    """Does one thing; returns the exit code."""
    given = _parser().parse_args(arguments)
    log.configure("crm", "WARNING")
    try:
        given.run(given)
    except Fault as fault:
        print(fault.message, file=sys.stderr)
        return 1
    except PyMongoError as error:
        print(store.unavailable(error).message, file=sys.stderr)
        return 1
    except AMQPError as error:
        print(
            f"the broker did not take this ({type(error).__name__}); what was not said to be done is not",
            file=sys.stderr,
        )
        return 1
    except BrokenPipeError:  # the reader has seen enough
        sys.stderr.close()
    return 0


# --- events a consumer has set aside ---------------------------------------------------------------------------------


def _list(given: argparse.Namespace, at: Desk) -> None:
    states = tuple(given.state) or waiting.STATES
    names = ("_id", "state", "type", "aggregate_id", "seq", "attempts", "next", "error", "failed_at")
    _print(given, ({name: one.get(name, "") for name in names} for one in waiting.found(at, _wanted(given), states)))


def _show(given: argparse.Namespace, at: Desk) -> None:
    print(json.dumps(waiting.shown(at, given.event, clear=given.clear), indent=2, ensure_ascii=False, default=str))


def _replay(given: argparse.Namespace, at: Desk) -> None:
    print(f"{waiting.replay(at, _some(given))} events are tried again")


def _fix(given: argparse.Namespace, at: Desk) -> None:
    try:
        body = json.loads(sys.stdin.read() if given.body == "-" else Path(given.body).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise invalid("body", f"cannot be read: {error}") from None
    waiting.fix(at, given.event, body)
    print(f"event {given.event} is tried again with its new body")


def _drop(given: argparse.Namespace, at: Desk) -> None:
    print(f"{waiting.drop(at, _some(given))} events are left out; those after them go on")


# --- a service's outbox ----------------------------------------------------------------------------------------------


def _outbox(given: argparse.Namespace, at: Desk) -> None:
    wanted = _wanted(given)
    names = ("event_id", "type", "aggregate_id", "seq", "occurred")
    _print(given, ({name: getattr(one, name) for name in names} for one in sent.waiting(at) if wanted.fits(one)))


def _publish_again(given: argparse.Namespace, at: Desk) -> None:
    print(f"{sent.replay(at, _some(given))} rows of the outbox are published again")


# --- the broker's dead letters ---------------------------------------------------------------------------------------


def _letters(given: argparse.Namespace) -> None:
    with letters.opened(_settings(BrokerSettings).amqp_url) as channel:
        _print(given, (_line(one) for one in letters.look(channel, partial(_meant, given))))


def _line(one: letters.Letter) -> dict[str, Any]:
    kind = one.envelope.type if one.envelope else "(no event of ours)"
    return {"letter": one.letter_id, "queue": one.queue, "why": one.why, "times": one.times, "type": kind}


def _meant(given: argparse.Namespace, one: letters.Letter) -> bool:
    wanted = _wanted(given)
    named = not wanted.ids or one.letter_id in wanted.ids
    rest = Wanted(type=wanted.type, record=wanted.record, since=wanted.since, until=wanted.until)
    fits = rest.everything or (one.envelope is not None and rest.fits(one.envelope))
    return named and fits and given.queue in ("", one.queue)


def _settle(given: argparse.Namespace, *, what: str, act: Callable[[Any, letters.Letter], None]) -> None:
    if not given.queue:
        _some(given)
    with letters.opened(_settings(BrokerSettings).amqp_url) as channel:
        found = letters.look(channel, partial(_meant, given))
        for service in sorted({one.service for one in found}):
            with _desk(given, service) as at:
                _settle_of(at, channel, [one for one in found if one.service == service], what=what, act=act)
    print(f"{len(found)} dead letters: {what}")


def _settle_of(at: Desk, channel: Any, some: list[letters.Letter], *, what: str, act: Callable[..., None]) -> None:
    # Written down first: an action without its entry is worse than an entry whose action has to be repeated.
    at.audited(f"crm letters {what}", [one.envelope for one in some if one.envelope], lambda _work: None)
    for one in some:
        act(channel, one)


# --- audit -----------------------------------------------------------------------------------------------------------


def _audit(given: argparse.Namespace, at: Desk) -> None:
    rows = desk.audit(at, since=given.since)
    names = ("at", "subject", "operation", "reason")
    _print(given, ({**{name: one.get(name, "") for name in names}, "events": len(one["changes"])} for one in rows))


# --- how it is called ------------------------------------------------------------------------------------------------


@contextmanager
def _desk(given: argparse.Namespace, service: str) -> Any:
    opened = store.connect(_settings(StoreSettings).mongodb_uri, service.replace("-", "_"))
    try:
        if not opened.database.list_collection_names(filter={"name": parked.COLLECTION}):
            raise invalid("service", f"there is no database of a service {service!r} here")
        yield Desk(service, opened, given.operator, getattr(given, "reason", ""))
    finally:
        opened.close()


def _at_desk(run: Callable[[argparse.Namespace, Desk], None]) -> Callable[[argparse.Namespace], None]:
    def at(given: argparse.Namespace) -> None:
        with _desk(given, given.service) as found:
            run(given, found)

    return at


def _settings(kind: type[Any]) -> Any:
    (found,) = config.load_or_exit(kind)
    return found


def _wanted(given: argparse.Namespace) -> Wanted:
    return Wanted(tuple(given.event), given.type, given.record, given.since, given.until)


def _some(given: argparse.Namespace) -> Wanted:
    """What is meant; all of it only where that was said."""
    wanted = _wanted(given)
    if wanted.everything and not given.all:
        raise invalid("event", "say which: ids, --type, --record, --since, --until, or --all")
    return wanted


def _print(given: argparse.Namespace, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows as JSON Lines, or as a table for people."""
    found = [{name.strip("_"): value for name, value in row.items()} for row in rows]
    if given.json:
        for row in found:
            print(json.dumps(row, ensure_ascii=False, default=str))
    elif not found:
        print("nothing")
    else:
        lines = [list(found[0]), *([_short(value) for value in row.values()] for row in found)]
        widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
        for line in lines:
            print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _short(value: Any) -> str:
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else str(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="crm", description=__doc__)
    parser.add_argument("--operator", default=os.environ.get("OPERATOR") or getpass.getuser(), help="who you are")
    areas = parser.add_subparsers(required=True, metavar="{events,outbox,letters,audit}")
    for make in (_events_commands, _outbox_commands, _letters_commands, _audit_commands):
        make(areas)
    return parser


def _events_commands(areas: Any) -> None:
    verbs = areas.add_parser("events", help="events a consumer has set aside").add_subparsers(required=True)
    selecting(verb(verbs, "list", _at_desk(_list), "what waits, and why")).add_argument(
        "--state", action="append", default=[], choices=waiting.STATES
    )
    show = verb(verbs, "show", _at_desk(_show), "one event whole, personal data masked")
    show.add_argument("event")
    show.add_argument("--clear", action="store_true", help="personal data in clear; this is audited")
    changing(selecting(verb(verbs, "replay", _at_desk(_replay), "try dead and failed events again now")))
    changing(selecting(verb(verbs, "drop", _at_desk(_drop), "leave dead and failed events out for good")))
    fix = changing(verb(verbs, "fix", _at_desk(_fix), "give an event another body and try it again"))
    fix.add_argument("event")
    fix.add_argument("body", help="a file with the event as JSON, or - for standard input")


def _outbox_commands(areas: Any) -> None:
    verbs = areas.add_parser("outbox", help="events on their way to the broker").add_subparsers(required=True)
    selecting(verb(verbs, "list", _at_desk(_outbox), "what is not yet published"))
    changing(selecting(verb(verbs, "replay", _at_desk(_publish_again), "publish events of seven days again")))


def _letters_commands(areas: Any) -> None:
    verbs = areas.add_parser("letters", help="the broker's own dead letters").add_subparsers(required=True)
    acts = {"replay": letters.send_back, "drop": letters.drop}
    listed = verb(verbs, "list", _letters, "what no consumer could settle", service=False)
    settling = [
        changing(verb(verbs, name, partial(_settle, what=name, act=act), f"{name} dead letters", service=False))
        for name, act in acts.items()
    ]
    for one in (listed, *settling):
        selecting(one).add_argument("--queue", default="", help="the queue they died in")


def _audit_commands(areas: Any) -> None:
    verbs = areas.add_parser("audit", help="what operators did").add_subparsers(required=True)
    listed = verb(verbs, "list", _at_desk(_audit), "every action, with its reason")
    listed.add_argument("--since", type=instant)
    listed.add_argument("--json", action="store_true", help="JSON Lines")


if __name__ == "__main__":
    sys.exit(main())

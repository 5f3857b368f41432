"""The parts of the command line that several commands share."""

import argparse
from collections.abc import Callable
from datetime import datetime
from typing import Any

from chassis.errors import Invalid
from operate import desk


def verb(
    verbs: Any, name: str, run: Callable[[argparse.Namespace], None], what: str, *, service: bool = True
) -> argparse.ArgumentParser:
    """A verb and what it runs; most are about one service's database."""
    made: argparse.ArgumentParser = verbs.add_parser(name, help=what, description=what)
    made.set_defaults(run=run)
    if service:
        made.add_argument("service", help="whose database")
    return made


def selecting(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Lets the operator say which events are meant."""
    parser.add_argument("event", nargs="*", help="ids")
    parser.add_argument("--type", default="", help="CustomerUpdated, or with its package")
    parser.add_argument("--record", default="", help="the record's id")
    parser.add_argument("--since", type=instant, metavar="TIME", help="happened at or after (UTC without a zone)")
    parser.add_argument("--until", type=instant, metavar="TIME", help="happened before")
    parser.add_argument("--json", action="store_true", help="JSON Lines")
    return parser


def changing(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Asks for a reason."""
    parser.add_argument("--reason", required=True, help="why, for the audit")
    parser.add_argument("--all", action="store_true", help="all of them, where nothing narrows them down")
    return parser


def instant(text: str) -> datetime:
    """An instant as people write it."""
    try:
        return desk.instant(text)
    except Invalid as error:
        raise argparse.ArgumentTypeError(error.violations[0].reason) from None

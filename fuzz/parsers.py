"""The readers of foreign bytes, each as a function of bytes that lets nothing out but what its reader documents."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import bson
import orjson
from bson.codec_options import CodecOptions
from crm.customer.v1 import customer_pb2
from google.protobuf import message_factory
from google.protobuf.message import DecodeError, Message

from chassis import codec, contract, events, identity, reads
from chassis.codec.scalars import is_map, map_fields
from chassis.codec.special import SPECIAL
from chassis.errors import Invalid, Unauthenticated
from customer.rules import files, identifiers, mapping, names, terms
from customer.rules.files import Record, Unreadable
from gateway import body

REGION = "CN"
SECRET = b"fuzz" * 8
_UTC: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
_ATTRIBUTES = {
    "plan": customer_pb2.Attribute(key="plan", label="Plan", type=customer_pb2.ATTRIBUTE_TYPE_CHOICE, options=["a"]),
    "points": customer_pb2.Attribute(key="points", label="Points", type=customer_pb2.ATTRIBUTE_TYPE_NUMBER),
    "vip": customer_pb2.Attribute(key="vip", label="VIP", type=customer_pb2.ATTRIBUTE_TYPE_BOOLEAN),
}


@dataclass(frozen=True)
class Target:
    """A function that is given any bytes, and inputs that get far into it."""

    take: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


# --- files -----------------------------------------------------------------------------------------------------------


def _pieces(data: bytes) -> Iterator[bytes]:
    """The data but for its first byte, which says how long a piece is."""
    size = (data[0] if data else 0) + 1
    yield from (data[at : at + size] for at in range(1, len(data), size))


def _records(data: bytes, *, quoted: bool) -> list[Record]:
    """The records, which together are the file and end where they say."""
    found = list(files.records(_pieces(data), quoted=quoted))
    at, line = 0, 1
    for one in found:
        assert one.line == line
        assert one.data is None or one.data == data[1 + at : 1 + one.end]
        at, line = one.end, line + one.lines
    assert at == max(0, len(data) - 1)
    return found


def csv(data: bytes) -> None:
    """A CSV file from its header to its customers."""
    first, *rest = _records(data, quoted=True) or [Record(1, 1, 0, b"")]
    with suppress(Unreadable, Invalid):
        columns = files.header(first)
        targets = mapping.guess(columns, _ATTRIBUTES, updating=True)
        mapping.check(targets, _ATTRIBUTES, updating=True)
        plan = mapping.plan(targets, _ATTRIBUTES)
        for record in rest:
            with suppress(Unreadable, Invalid):
                _customer(mapping.said(files.csv_row(record, columns), plan))


def json_lines(data: bytes) -> None:
    """A JSON Lines file to its customers."""
    for record in _records(data, quoted=False):
        with suppress(Unreadable, Invalid):
            row = files.json_row(record)
            targets = mapping.of_keys(row, {}, _ATTRIBUTES, updating=True)
            _customer(mapping.said(row, mapping.plan(targets, _ATTRIBUTES)))


def _customer(said: mapping.Said) -> None:
    """What a row says, as a change of somebody; and as the terms to find somebody by."""
    mapping.change(customer_pb2.Customer(kind=customer_pb2.CUSTOMER_KIND_PERSON), said)
    terms.index_terms(said.customer, searchable=[key for key in said.customer.attributes if key in _ATTRIBUTES])


def cells(data: bytes) -> None:
    """Cells written as a line and read again."""
    texts = [one.decode("utf-8", "replace").replace("\0", "") for one in data.split(b"\x1f")]
    line = files.csv_line(texts).encode()
    (record,) = files.records([line], quoted=True)
    with suppress(Unreadable):
        assert files.cells(Record(2, record.lines, record.end, record.data)) == texts


def targets(data: bytes) -> None:
    """A mapping that a caller sent, checked."""
    with suppress(Invalid, orjson.JSONDecodeError):
        value = orjson.loads(data)
        given = value if isinstance(value, dict) else {"column": str(value)}
        chosen = {key: str(one) for key, one in given.items()}
        mapping.check(chosen, _ATTRIBUTES, updating=True)
        mapping.said(dict.fromkeys(chosen, "1"), mapping.plan(chosen, _ATTRIBUTES))


# --- texts -----------------------------------------------------------------------------------------------------------


def phone(data: bytes) -> None:
    """A phone number in any written form."""
    _once(data, lambda text: identifiers.normalize_phone(text, region=REGION))


def identity_texts(data: bytes) -> None:
    """Every other identifier in any written form."""
    for normalize in (
        identifiers.normalize_email, identifiers.normalize_document, identifiers.normalize_service_number,
        identifiers.normalize_customer_number,
    ):  # fmt: skip
        _once(data, normalize)


def _once(data: bytes, normalize: Callable[[str], str | None]) -> None:
    """Normalised again, an identifier stays as it is."""
    normal = normalize(data.decode("utf-8", "replace"))
    assert normal is None or normalize(normal) == normal


def name(data: bytes) -> None:
    """A name, folded, spelt and read aloud."""
    text = data.decode("utf-8", "replace")
    for word in (*names.words(text), *names.spellings(text), *names.fold(text).split()):
        if names.is_chinese(word):
            assert len(names.readings(word)) <= 6
    customer = customer_pb2.Customer(names=[customer_pb2.Name(full=text[:200], family=text[:9], given=text[9:20])])
    terms.index_terms(customer, searchable=[])


def query(data: bytes) -> None:
    """What somebody looks for, and a text of a timeline."""
    text = data.decode("utf-8", "replace")
    for tier in terms.tiers(text, region=REGION, attributes=_ATTRIBUTES):
        for step in tier:
            terms.matches(terms.summary_terms(text), terms.archived(step))
    terms.query_terms(text)


# --- tokens, bodies, events ------------------------------------------------------------------------------------------


@cache
def _verifier() -> identity.Verifier:
    return identity.load_verifier(identity.generate("k1")[1])


def token(data: bytes) -> None:
    """A page token and a caller's token."""
    text = data.decode("utf-8", "replace")
    with suppress(Invalid):
        reads.read_token(SECRET, text, "bound")
    with suppress(Unauthenticated):
        _verifier().verify(text)


def json_body(data: bytes) -> None:
    """The body of a request, and the message it becomes."""
    with suppress(Invalid):
        codec.from_json(customer_pb2.Customer, body.parsed(data))


def event(data: bytes) -> None:
    """The headers of a message that came over the broker, and its body."""
    value = _json(data)
    headers = {f"cloudEvents:{key}": one for key, one in value.items()} if isinstance(value, dict) else {}
    with suppress(KeyError, ValueError):
        envelope = events.from_headers(headers, data)
        assert envelope.occurred.tzinfo is not None
        assert events.from_document(envelope.document()) == envelope


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def message(data: bytes) -> None:
    """A message of any type, as JSON: what is taken comes back the same from JSON and from a document."""
    kind, rest = _kind(data)
    with suppress(Invalid, orjson.JSONDecodeError):
        taken = codec.from_json(kind, orjson.loads(rest))
        assert codec.from_json(kind, codec.to_json(taken)) == taken
        stored(taken)


def wire(data: bytes) -> None:
    """A message of any type, as it comes by gRPC or as an event, possibly from newer code: a document loses nothing."""
    kind, rest = _kind(data)
    with suppress(DecodeError):
        given = kind.FromString(rest)
        _close(given)
        stored(given)


def _kind(data: bytes) -> tuple[type[Message], bytes]:
    known = kinds()
    return known[(data[0] if data else 0) % len(known)], data[1:]


@cache
def kinds() -> list[type[Message]]:
    """Every message type of ours."""
    return [message_factory.GetMessageClass(one) for one in contract.messages() if one.full_name.startswith("crm.")]


def _close(given: Message) -> None:
    """Takes out what types that are not ours do not declare: an instant will never have another field."""
    if given.DESCRIPTOR.full_name in SPECIAL:
        given.DiscardUnknownFields()
        return
    for field, value in given.ListFields():
        if field.message_type is not None and not is_map(field):
            for one in value if field.is_repeated else (value,):
                _close(one)
        elif is_map(field) and map_fields(field)[1].message_type is not None:
            for one in value.values():
                _close(one)


def stored(given: Message) -> None:
    """What becomes a document comes back the same."""
    document = codec.to_document(given)
    again = codec.from_document(type(given), bson.decode(bson.encode(document), codec_options=_UTC))
    same = again == given or again.SerializeToString() == given.SerializeToString()
    assert same or "nan" in repr(document)  # which is not equal to itself


def _position() -> bytes:
    return reads.write_token(SECRET, "C0000000018", "bound").encode()


_CSV = (
    b'\x07name,phone,plan,vip\r\n"a, b",138 0013 8000,a,yes\r\n',
    "\x40姓名,生日\n张伟,1990-02-28\n".encode(),
)
_LINE = b'\x20{"names": [{"full": "a"}], "phones": "1; 2", "left_out": "phones 2", "vip": true}\n'
_IDENTITIES = (b"Ann@EXAMPLE.com", "王@例子.中国".encode(), b"11010519491231002X", b"C0000000018")
_BODY = b'{"kind": "PERSON", "names": [{"full": "a"}], "attributes": {"plan": [1e5, null]}}'
_HEADERS = b'{"id": "e", "type": "t", "subject": "c", "sequence": 1, "time": "2026-05-01T09:30:00Z", "source": "s"}'
_MESSAGE = b'\x00{"customer": {"birthday": "1990-02-28", "create_time": "2026-05-01T09:30:00Z"}}'

TARGETS: Mapping[str, Target] = {
    "csv": Target(csv, _CSV),
    "json_lines": Target(json_lines, (_LINE,)),
    "cells": Target(cells, (b'=1+1\x1f\'@a\x1f"q"\x1f\r\n',)),
    "targets": Target(targets, (b'{"a": "phones[1].number", "b": "attributes.plan", "c": "birthday"}',)),
    "phone": Target(phone, (b"+86 138-0013-8000", "010 6552 9988 转 12".encode())),
    "identity_texts": Target(identity_texts, _IDENTITIES),
    "name": Target(name, ("欧阳 行 O'Connor Łukasz".encode(), "单于长乐".encode())),
    "query": Target(query, ("zhang wei 张伟".encode(), b"+86 138 0013 8000")),
    "token": Target(token, (_position(), b"eyJhbGciOiJFZERTQSIsImtpZCI6ImsxIn0.eyJleHAiOjF9.AAAA")),
    "json_body": Target(json_body, (_BODY,)),
    "event": Target(event, (_HEADERS,)),
    "message": Target(message, (_MESSAGE,)),
    "wire": Target(wire, (b"\x00\x0a\x02\x08\x01", b"\x05\xff\x01\x01")),
}

"""What happens at an operator in a day, compressed into a minute; every step acts through channels."""

import csv
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import Any

from simulator.channel import PAGE, Channel, Json
from simulator.loading import Source
from simulator.people import Person

REASONS = 3
LONGEST_QUERY = 200  # characters that a search takes


@dataclass
class Ledger:
    """What was acknowledged: the only things that must be true at the end."""

    people: dict[str, Person] = field(default_factory=dict)  # by reference: those of whom all is known
    met: dict[str, Person] = field(default_factory=dict)  # by customer number: those who are seen again
    taken_in: int = 0  # customers of the file and from counters
    interests: dict[str, set[str]] = field(default_factory=dict)  # after changes, by customer number
    contacts: dict[str, int] = field(default_factory=dict)  # by channel
    failures: list[str] = field(default_factory=list)

    def expect(self, holds: bool, otherwise: str) -> None:
        """Notes a failure unless something holds."""
        if not holds and len(self.failures) < 50:
            self.failures.append(otherwise)


# --- taking customers in ---------------------------------------------------------------------------------------------


def define_attributes(office: Channel, source: Source) -> None:
    """Defines what the file's customers carry beyond the standard fields."""
    for attribute in source.attributes:
        response = office.post("/v1/customer-attributes", dict(attribute))
        if response.status_code not in (201, 409):
            raise RuntimeError(f"attribute {attribute['key']}: {response.text}")


def start_import(loader: Channel, source: Source) -> Json:
    """Makes an import job and streams its file."""
    body: Json = {"format": "CSV"} | ({"mapping": dict(source.mapping)} if source.mapping else {})
    created = loader.post("/v1/customer-imports", body)
    created.raise_for_status()
    uploaded = loader.put_file(f"/v1/customer-imports/{created.json()['import_id']}/file", source.pieces())
    uploaded.raise_for_status()
    job: Json = uploaded.json()
    return job


def watch_import(loader: Channel, job: Json) -> Iterator[Json]:
    """The job each time it has moved on, until it has ended."""
    while job["status"] == "RUNNING":
        time.sleep(0.5)
        response = loader.get(f"/v1/customer-imports/{job['import_id']}")
        response.raise_for_status()
        moved = response.json() != job
        job = response.json()
        if moved:
            yield job


def refusals(loader: Channel, job: Json) -> list[tuple[str, int]]:
    """Why rows were refused and how often, the most frequent reasons first."""
    rows = csv.DictReader(loader.stream_lines(f"/v1/customer-imports/{job['import_id']}/rejected"))
    return Counter(f"{row['field']} {row['reason']}".strip() for row in rows).most_common(REASONS)


def settle(ledger: Ledger, source: Source, job: Json, reasons: Sequence[str]) -> None:
    """Takes an import that has ended into account: each row of its file is a customer, or refused for a reason."""
    imported, rejected = int(job["imported"]), int(job["rejected"])
    completed, rows = job["status"] == "COMPLETED", source.rows
    ledger.people |= {person.reference: person for person in source.people}
    ledger.expect(completed, f"the import ended as {job['status']}: {job['error']}")
    right = imported + rejected == rows and (not source.people or rejected == source.broken)
    ledger.expect(right, f"the file has {rows:,} rows: {imported:,} were imported, {rejected:,} refused")
    why = "; ".join(reasons) or job["error"] or f"the file has {rows:,} rows"
    ledger.expect(ledger.taken_in + imported > 0, f"no customer came in: {why}")
    # A row of which nobody says what became of it is lost.
    ledger.taken_in += rows - rejected if completed else imported


def register(channels: Sequence[Channel], people: Sequence[Person], ledger: Ledger, seed: int) -> int:
    """Registers people at several channels at once; every tenth request comes twice. Returns the repetitions."""
    random = Random(seed)
    repeated = {person.reference for person in people if random.random() < 0.1}

    def one(given: tuple[int, Person]) -> None:
        number, person = given
        channel, key = channels[number % len(channels)], f"register-{seed}-{person.reference}"
        first = channel.post("/v1/customers", _body(person), key=key)
        ledger.expect(first.status_code == 201, f"{person.reference} was not registered: {first.text[:200]}")
        if person.reference in repeated:
            second = channel.post("/v1/customers", _body(person), key=key)
            ledger.expect(second.text == first.text, f"the second click of {person.reference} was another customer")

    with ThreadPoolExecutor(len(channels)) as pool:
        list(pool.map(one, enumerate(people)))
    ledger.people |= {person.reference: person for person in people}
    ledger.taken_in += len(people)
    return len(repeated)


def _body(person: Person) -> Json:
    body: Json = {
        "kind": person.kind,
        "names": [{"full": person.as_written("name")}],
        "phones": [{"number": person.as_written("phone")}],
        "emails": [{"address": person.as_written("email")}],
        "service_numbers": [person.reference],
    }
    if person.document:
        body["documents"] = [{"kind": "NATIONAL_ID", "number": person.document, "region_code": "CN"}]
    if person.birthday:
        body["birthday"] = person.birthday
    return body


# --- finding them ----------------------------------------------------------------------------------------------------


def find(channels: Sequence[Channel], people: Sequence[Person], ledger: Ledger) -> dict[str, int]:
    """Looks people up by everything they may say, each time at another channel; returns how often by what."""
    counts: dict[str, int] = {}
    for number, person in enumerate(people):
        for what, query in sayings(person):
            channel = channels[number % len(channels)]
            found = [one["customer_number"] for one in channel.search(query)]
            # More than a page may share a name, or a number that is none: then nobody can say who is meant.
            right = person.number in found or len(found) >= PAGE
            ledger.expect(right, f"{person.number} was not found by {what} at {channel.name}")
            counts[what] = counts.get(what, 0) + 1
    return counts


def sayings(person: Person) -> Iterator[tuple[str, str]]:
    """Everything a customer can be found by, in a form people use: what it is, and what they say."""
    said = {
        "customer number": f"{person.number[:4].lower()} {person.number[4:7]} {person.number[7:]}",
        "service number": person.reference.upper(),
        "name": person.name if any(map(str.isalnum, person.name)) else "",
        "phone": person.phone,
        "phone as written": person.written.get("phone", ""),
        "e-mail": person.email.upper(),
        "document": f"{person.document[:6]} {person.document[6:14]} {person.document[14:]}".strip(),
    }
    return ((what, query) for what, query in said.items() if 0 < len(query) <= LONGEST_QUERY)


# --- two at once -----------------------------------------------------------------------------------------------------


def change_together(one: Channel, other: Channel, people: Sequence[Person], ledger: Ledger) -> int:
    """Two channels change the same customer at the same moment; returns how often one had to read again."""
    with ThreadPoolExecutor(2) as pool:
        return sum(_both_change(pool, one, other, person, ledger) for person in people)


def _both_change(pool: ThreadPoolExecutor, one: Channel, other: Channel, person: Person, ledger: Ledger) -> int:
    customer = _the(one, person)
    chess, sailing = _new_to(customer)
    first = pool.submit(_add_interest, one, customer, chess)
    second = pool.submit(_add_interest, other, customer, sailing)
    wishes = ((one, chess, first.result()), (other, sailing, second.result()))
    codes = sorted(answer.status_code for _, _, answer in wishes)
    ledger.expect(codes == [200, 412], f"{person.number} was changed twice at once: {codes}")
    refused = [(channel, wish) for channel, wish, answer in wishes if answer.status_code == 412]
    for channel, wish in refused:
        again = _add_interest(channel, channel.get(_path(customer)).json(), wish)
        ledger.expect(again.status_code == 200, f"{person.number} could not be changed again")
    ledger.interests[person.number] = {*customer["interests"], chess, sailing}
    return len(refused)


def _new_to(customer: Json) -> tuple[str, str]:
    """Two interests that the customer does not have yet."""
    chess, sailing = ("chess", "sailing")
    while {chess, sailing} & {*customer["interests"]}:
        chess, sailing = f"more {chess}", f"more {sailing}"
    return chess, sailing


def _path(customer: Json) -> str:
    return f"/v1/customers/{customer['customer_id']}"


def _the(channel: Channel, person: Person) -> Json:
    response = channel.get(f"/v1/customers/{person.number}")
    response.raise_for_status()
    customer: Json = response.json()
    return customer


def _add_interest(channel: Channel, customer: Json, interest: str) -> Any:
    wanted = {"interests": [*customer["interests"], interest]}
    return channel.patch(_path(customer), wanted, version=f'"{customer["version"]}"')


# --- conversations ---------------------------------------------------------------------------------------------------


def talk(channels: Mapping[str, Channel], people: Sequence[Person], ledger: Ledger) -> int:
    """Each person asks on one channel and goes on at another; returns how many conversations there were."""
    first, second = channels["WEB"], channels["STORE"]
    for person in people:
        path = f"/v1/customers/{_the(second, person)['customer_id']}/interactions"
        opened = first.post(path, _contact("WEB", "asked about the bill, 账单有误"))
        continued = second.post(path, _contact("STORE", "came by with the paper bill"))
        codes = (opened.status_code, continued.status_code)
        ledger.expect(codes == (201, 201), f"a contact of {person.number} was refused: {codes}")
        if codes == (201, 201):
            same = opened.json()["interaction_id"] == continued.json()["interaction_id"]
            ledger.expect(same, f"{person.number} had to start again at the second channel")
            for channel in ("WEB", "STORE"):
                ledger.contacts[channel] = ledger.contacts.get(channel, 0) + 1
    return len(people)


def _contact(channel: str, summary: str) -> Json:
    return {"topic": "billing", "contact": {"channel": channel, "direction": "INBOUND", "summary": summary}}

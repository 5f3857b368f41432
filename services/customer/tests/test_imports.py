"""Import jobs on a real store: any file, any crash, each row once."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from threading import Event as StopSignal
from typing import Any
from uuid import uuid4

import pytest
from crm.customer.v1 import customer_pb2, transfer_pb2
from google.api.httpbody_pb2 import HttpBody

from chassis import testing
from chassis.errors import Conflict, Invalid
from chassis.events import clock
from chassis.reads import Reader
from chassis.store import Store
from chassis.testing import Client
from customer import jobs
from customer.queries.imports import running
from customer.store import CUSTOMERS, FILES, IMPORTS, REJECTED

Job = transfer_pb2.ImportJob

WORKING = """
import sys
from threading import Event
from customer import jobs
from customer.queries.imports import running
from customer.store import SCHEMA
from chassis.reads import Reader
from chassis.store import connect
jobs.BATCH_ROWS = 20
store = connect(sys.argv[1], sys.argv[2])
for job in running(Reader(store)):
    jobs.work_off(store, job, Event(), region="CN")
"""


def create(client: Client, form: str = "CSV", **fields: Any) -> Job:
    request = transfer_pb2.CreateImportRequest(format=f"FILE_FORMAT_{form}", request_id=str(uuid4()), **fields)
    return client.call(request).job


def upload(client: Client, job: Job, data: bytes, *, piece: int = 100) -> Job:
    def requests() -> Iterator[transfer_pb2.UploadImportRequest]:
        for at in range(0, len(data), piece):
            content = HttpBody(data=data[at : at + piece])
            yield transfer_pb2.UploadImportRequest(import_id=job.import_id, content=content)
        yield transfer_pb2.UploadImportRequest(import_id=job.import_id)  # says that the file is whole

    token = client.signer.mint(testing.somebody(), clock())
    operation = testing.operation_of(transfer_pb2.UploadImportRequest())
    return client.stub.send(operation, requests(), token=token, seconds=30).job


def work_off(store: Store) -> None:
    for job in running(Reader(store)):
        jobs.work_off(store, job, StopSignal(), region="CN")


def imported(client: Client, store: Store, data: bytes | str, form: str = "CSV", **fields: Any) -> Job:
    job = create(client, form, **fields)
    upload(client, job, data.encode() if isinstance(data, str) else data)
    work_off(store)
    return client.call(transfer_pb2.GetImportRequest(import_id=job.import_id)).job


def names(store: Store) -> list[str]:
    return sorted(one["names"][0]["full"] for one in store[CUSTOMERS.name].find({}))


def refused(client: Client, job: Job) -> list[str]:
    token = client.signer.mint(testing.somebody(), clock())
    request = transfer_pb2.DownloadRejectedRowsRequest(import_id=job.import_id)
    pieces = client.stub.receive(testing.operation_of(request), request, token=token, seconds=10)
    return b"".join(one.data for one in pieces).decode().splitlines()


def test_a_file_becomes_customers_with_their_events(client: Client, store: Store) -> None:
    job = imported(client, store, "姓名,手机,备注\n张伟,138 0013 8000,x\n李娜,13900139000,\n")
    assert (job.status, job.rows, job.imported, job.rejected) == (transfer_pb2.IMPORT_STATUS_COMPLETED, 2, 2, 0)
    assert dict(job.mapping) == {"姓名": "names.full", "手机": "phones.number"}
    assert list(job.ignored_columns) == ["备注"]
    assert names(store) == ["张伟", "李娜"]
    kinds = [one.type.rpartition(".")[2] for one in testing.published(store)]
    assert sorted(kinds) == ["CustomerRegistered"] * 2 + ["ImportCreated", "ImportFinished", "ImportStarted"]
    assert store[FILES].count_documents({}) == 0


def test_rows_that_cannot_be_are_refused_with_line_field_and_reason(client: Client, store: Store) -> None:
    data = 'name,phone,birthday\nAnn,12,2000-01-01\n\nBob,13800138000,2023-02-30\n"C\nD",,\n,13900139000,\nE,1,2,3\n'
    job = imported(client, store, data)
    assert (job.rows, job.imported, job.rejected) == (5, 1, 4)
    assert refused(client, job) == [
        "line,field,reason,row",
        '2,phone,is not a phone number in any country\'s form,"Ann,12,2000-01-01"',
        '4,birthday,"must be a date that exists, written YYYY-MM-DD","Bob,13800138000,2023-02-30"',
        '7,names,must contain at least 1 item(s),",13900139000,"',
        '8,,"the row has 4 cells, the header has 3","E,1,2,3"',
    ]
    assert names(store) == ["C D"]


def test_json_lines_with_own_keys_and_in_the_form_of_the_api(client: Client, store: Store) -> None:
    flat = imported(
        client, store, '{"Name": "Ann", "tel": "+44 20 7946 0958"}\nnot json\n[1]\n{"Name": "Bob"}', "JSON_LINES"
    )
    assert (flat.imported, flat.rejected) == (2, 2)
    whole = '{"kind": "ORGANIZATION", "names": [{"full": "Acme"}], "customer_number": "C1", "version": 7}'
    nested = imported(client, store, f'{whole}\n{{"names": [{{"full": "X", "nick": "Y"}}]}}\n', "JSON_LINES")
    assert (nested.imported, nested.rejected) == (1, 1)
    assert names(store) == ["Acme", "Ann", "Bob"]


def test_a_mapping_given_is_followed_and_checked(client: Client, store: Store) -> None:
    job = imported(client, store, "a,b\nAnn,x\n", mapping={"a": "names.full", "b": "service_numbers"})
    assert job.imported == 1
    with pytest.raises(Invalid, match="is no field of a customer"):
        create(client, mapping={"a": "customer_number"})
    gone = imported(client, store, "a\nAnn\n", mapping={"z": "names.full"})
    assert (gone.status, gone.error) == (transfer_pb2.IMPORT_STATUS_FAILED, "the file has no column 'z'")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("a,b\n1,2\n", "no column holds a name"),
        ("name,name\nAnn,Bob\n", "the column 'name' comes twice"),
        (b"\xff\xfe\x00", "the header is not UTF-8"),
    ],
)
def test_a_file_no_customer_can_come_of_fails_with_the_reason(
    client: Client, store: Store, data: bytes | str, error: str
) -> None:
    job = imported(client, store, data)
    assert job.status == transfer_pb2.IMPORT_STATUS_FAILED
    assert error in job.error


def test_a_dry_run_checks_everything_and_writes_no_customer(client: Client, store: Store) -> None:
    job = imported(client, store, "name,phone\nAnn,13800138000\nBob,12\n", dry_run=True)
    assert (job.rows, job.imported, job.rejected) == (2, 1, 1)
    assert len(refused(client, job)) == 2
    assert names(store) == []
    assert not any("Registered" in one.type for one in testing.published(store))


def test_an_upload_that_broke_off_starts_again_and_one_that_did_not_is_not_done_twice(
    client: Client, store: Store
) -> None:
    job = create(client)
    store[FILES].insert_one(
        {"import_id": job.import_id, "upload_id": "broken", "offset": 0, "data": b"name\nX", "at": clock()}
    )
    first = upload(client, job, b"name\nAnn\n")
    assert upload(client, job, b"name\nAnn\n") == first
    with pytest.raises(Conflict, match="has its file already"):
        upload(client, job, b"name\nSomebody else\n")
    work_off(store)
    assert upload(client, job, b"name\nAnn\n").status == transfer_pb2.IMPORT_STATUS_COMPLETED
    assert names(store) == ["Ann"]


def test_an_empty_file_is_refused(client: Client) -> None:
    with pytest.raises(Invalid, match="content"):
        upload(client, create(client), b"")


def test_a_cancelled_job_stays_cancelled(client: Client, store: Store) -> None:
    job = create(client)
    upload(client, job, b"name\nAnn\n")
    cancel = transfer_pb2.CancelImportRequest(import_id=job.import_id, request_id=str(uuid4()))
    assert client.call(cancel).job.status == transfer_pb2.IMPORT_STATUS_CANCELLED
    work_off(store)
    assert names(store) == []
    with pytest.raises(Conflict, match="has ended"):
        client.call(transfer_pb2.CancelImportRequest(import_id=job.import_id, request_id=str(uuid4())))


def test_a_batch_begun_before_a_cancellation_is_undone(client: Client, store: Store) -> None:
    job = create(client)
    upload(client, job, b"name\nAnn\n")
    (seen,) = running(Reader(store))
    client.call(transfer_pb2.CancelImportRequest(import_id=job.import_id, request_id=str(uuid4())))
    with pytest.raises(Conflict):
        jobs.work_off(store, seen, StopSignal(), region="CN")
    assert names(store) == []


def test_jobs_are_listed_newest_first(client: Client) -> None:
    made = [create(client).import_id for _ in range(3)]
    listed = client.call(transfer_pb2.ListImportsRequest(page_size=2))
    assert [one.import_id for one in listed.jobs] == made[:0:-1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_an_import_killed_at_random_points_takes_each_row_once(
    client: Client, store: Store, mongodb_uri: str, seed: int
) -> None:
    rows = [f"Person {number},bad\n" if number % 50 == 7 else f"Person {number},\n" for number in range(600)]
    job = create(client)
    upload(client, job, ("name,birthday\n" + "".join(rows)).encode(), piece=1000)
    chance, deaths = random.Random(seed), 0
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ends = time.monotonic() + 250
    while running(Reader(store)):
        assert time.monotonic() < ends
        command = [sys.executable, "-c", WORKING, mongodb_uri, store.database.name]
        with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as worker:
            if deaths < 4:
                before = Reader(store).get(IMPORTS, job.import_id).rows
                while worker.poll() is None and Reader(store).get(IMPORTS, job.import_id).rows == before:
                    time.sleep(0.02)
                time.sleep(chance.random() * 0.1)
                worker.send_signal(signal.SIGKILL)
                deaths += 1
            worker.wait(120)
    done = client.call(transfer_pb2.GetImportRequest(import_id=job.import_id)).job
    assert (done.status, done.rows, done.imported, done.rejected) == (
        transfer_pb2.IMPORT_STATUS_COMPLETED,
        600,
        588,
        12,
    )
    assert names(store) == sorted(row.split(",")[0] for row in rows if "bad" not in row)
    assert store[REJECTED].count_documents({}) == 12
    registered = [one for one in testing.published(store) if one.type.endswith("CustomerRegistered")]
    assert len({one.aggregate_id for one in registered}) == len(registered) == 588
    assert deaths == 4


def test_a_customer_of_an_import_is_found(client: Client, store: Store) -> None:
    imported(client, store, "姓名,手机\n欧阳娜娜,13800138000\n")
    for query in ("ouyang nana", "138-0013-8000", "欧阳"):
        found = client.call(customer_pb2.SearchCustomersRequest(query=query)).results
        assert [one.customer.names[0].full for one in found] == ["欧阳娜娜"]

"""Import jobs on a real store: any file, each row once, what cannot be is refused with its reason."""

from threading import Event as StopSignal
from typing import Any
from uuid import uuid4

import pytest
from crm.customer.v1 import customer_pb2, transfer_pb2

from chassis import testing
from chassis.errors import Conflict, Invalid
from chassis.events import clock
from chassis.reads import Reader
from chassis.store import Store
from chassis.testing import Client
from customer import jobs
from customer.queries.imports import running
from customer.store import FILES


def test_a_file_becomes_customers_with_their_events(loader: Any, store: Store) -> None:
    job = loader.imported("姓名,手机,备注\n张伟,138 0013 8000,x\n李娜,13900139000,\n")
    assert (job.status, job.rows, job.imported, job.rejected) == (transfer_pb2.IMPORT_STATUS_COMPLETED, 2, 2, 0)
    assert (job.mode, job.created) == (transfer_pb2.IMPORT_MODE_CREATE, 2)
    assert dict(job.mapping) == {"姓名": "names.full", "手机": "phones.number"}
    assert list(job.ignored_columns) == ["备注"]
    assert loader.names() == ["张伟", "李娜"]
    kinds = [one.type.rpartition(".")[2] for one in testing.published(store)]
    assert sorted(kinds) == ["CustomerRegistered"] * 2 + ["ImportCreated", "ImportFinished", "ImportStarted"]
    assert store[FILES].count_documents({}) == 0


def test_rows_that_cannot_be_are_refused_with_line_field_and_reason(loader: Any) -> None:
    data = 'name,phone,birthday\nAnn,12,2000-01-01\n\nBob,13800138000,2023-02-30\n"C\nD",,\n,13900139000,\nE,1,2,3\n'
    job = loader.imported(data)
    assert (job.rows, job.imported, job.rejected) == (5, 1, 4)
    assert loader.refused(job) == [
        '2,phone,is not a phone number in any country\'s form,"Ann,12,2000-01-01"',
        '4,birthday,"must be a date that exists, written YYYY-MM-DD","Bob,13800138000,2023-02-30"',
        '7,names,must contain at least 1 item(s),",13900139000,"',
        '8,,"the row has 4 cells, the header has 3","E,1,2,3"',
    ]
    assert loader.names() == ["C D"]


def test_a_second_phone_without_a_first_is_a_phone(loader: Any, client: Client) -> None:
    job = loader.imported("name,phone,home phone\nAnn,,010-62512345\nBob,,12\n")
    assert loader.refused(job) == ['3,home phone,is not a phone number in any country\'s form,"Bob,,12"']
    (found,) = client.call(customer_pb2.SearchCustomersRequest(query="Ann")).results
    assert [one.number for one in found.customer.phones] == ["+861062512345"]


def test_a_mapping_given_is_followed_and_checked(loader: Any) -> None:
    job = loader.imported("a,b\nAnn,x\n", mapping={"a": "names.full", "b": "service_numbers"})
    assert (job.imported, job.mapping_guessed) == (1, False)
    with pytest.raises(Invalid, match="is no field of a customer"):
        loader.create(mapping={"a": "customer_number"})
    gone = loader.imported("a\nAnn\n", mapping={"z": "names.full"})
    assert (gone.status, gone.error) == (transfer_pb2.IMPORT_STATUS_FAILED, "the file has no column 'z'")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("a,b\n1,2\n", "no column holds a name"),
        ("name,name\nAnn,Bob\n", "the column 'name' comes twice"),
        (b"\xff\xfe\x00", "the header is not UTF-8"),
    ],
)
def test_a_file_no_customer_can_come_of_fails_with_the_reason(loader: Any, data: bytes | str, error: str) -> None:
    job = loader.imported(data)
    assert job.status == transfer_pb2.IMPORT_STATUS_FAILED
    assert error in job.error


def test_a_dry_run_checks_everything_and_writes_no_customer(loader: Any, store: Store) -> None:
    job = loader.imported("name,phone\nAnn,13800138000\nBob,12\n", dry_run=True)
    assert (job.rows, job.imported, job.created, job.rejected) == (2, 1, 1, 1)
    assert len(loader.refused(job)) == 1
    assert loader.names() == []
    assert not any("Registered" in one.type for one in testing.published(store))


def test_an_upload_that_broke_off_starts_again_and_one_that_did_not_is_not_done_twice(
    loader: Any, store: Store
) -> None:
    job = loader.create()
    store[FILES].insert_one(
        {"import_id": job.import_id, "upload_id": "broken", "offset": 0, "data": b"name\nX", "at": clock()}
    )
    first = loader.upload(job, "name\nAnn\n")
    assert loader.upload(job, "name\nAnn\n") == first
    with pytest.raises(Conflict, match="has its file already"):
        loader.upload(job, "name\nSomebody else\n")
    loader.work_off()
    assert loader.upload(job, "name\nAnn\n").status == transfer_pb2.IMPORT_STATUS_COMPLETED
    assert loader.names() == ["Ann"]


def test_an_empty_file_is_refused(loader: Any) -> None:
    with pytest.raises(Invalid, match="content"):
        loader.upload(loader.create(), "")


def test_a_cancelled_job_stays_cancelled(loader: Any, client: Client) -> None:
    job = loader.create()
    loader.upload(job, "name\nAnn\n")
    cancel = transfer_pb2.CancelImportRequest(import_id=job.import_id, request_id=str(uuid4()))
    assert client.call(cancel).job.status == transfer_pb2.IMPORT_STATUS_CANCELLED
    loader.work_off()
    assert loader.names() == []
    with pytest.raises(Conflict, match="has ended"):
        client.call(transfer_pb2.CancelImportRequest(import_id=job.import_id, request_id=str(uuid4())))


def test_a_batch_begun_before_a_cancellation_is_undone(loader: Any, client: Client, store: Store) -> None:
    job = loader.create()
    loader.upload(job, "name\nAnn\n")
    (seen,) = running(Reader(store))
    client.call(transfer_pb2.CancelImportRequest(import_id=job.import_id, request_id=str(uuid4())))
    with pytest.raises(Conflict):
        jobs.work_off(store, seen, StopSignal(), region="CN")
    assert loader.names() == []


def test_jobs_are_listed_newest_first(loader: Any, client: Client) -> None:
    made = [loader.create().import_id for _ in range(3)]
    listed = client.call(transfer_pb2.ListImportsRequest(page_size=2))
    assert [one.import_id for one in listed.jobs] == made[:0:-1]


def test_a_customer_of_an_import_is_found(loader: Any, client: Client) -> None:
    loader.imported("姓名,手机\n欧阳娜娜,13800138000\n")
    for query in ("ouyang nana", "138-0013-8000", "欧阳"):
        found = client.call(customer_pb2.SearchCustomersRequest(query=query)).results
        assert [one.customer.names[0].full for one in found] == ["欧阳娜娜"]

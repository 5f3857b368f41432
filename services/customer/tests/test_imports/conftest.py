"""What a data loader does: makes import jobs, streams their files, looks how they went."""

from collections.abc import Iterator
from dataclasses import dataclass
from threading import Event as StopSignal
from typing import Any
from uuid import uuid4

import pytest
from crm.customer.v1 import transfer_pb2
from google.api.httpbody_pb2 import HttpBody

from chassis import testing
from chassis.events import clock
from chassis.identity import Caller
from chassis.reads import Reader
from chassis.store import Store
from chassis.testing import Client
from customer import jobs
from customer.queries.imports import running
from customer.store import CUSTOMERS

Job = transfer_pb2.ImportJob


@dataclass(frozen=True)
class Loader:
    """A caller of the transfer operations, and the worker that works its jobs off."""

    client: Client
    store: Store

    def create(self, form: str = "CSV", *, caller: Caller | None = None, **fields: Any) -> Job:
        request = transfer_pb2.CreateImportRequest(format=f"FILE_FORMAT_{form}", request_id=str(uuid4()), **fields)
        return self.client.call(request, caller=caller).job

    def upload(self, job: Job, data: bytes | str, *, piece: int = 100) -> Job:
        whole = data.encode() if isinstance(data, str) else data

        def requests() -> Iterator[transfer_pb2.UploadImportRequest]:
            for at in range(0, len(whole), piece):
                content = HttpBody(data=whole[at : at + piece])
                yield transfer_pb2.UploadImportRequest(import_id=job.import_id, content=content)
            yield transfer_pb2.UploadImportRequest(import_id=job.import_id)  # says that the file is whole

        token = self.client.signer.mint(testing.somebody(), clock())
        operation = testing.operation_of(transfer_pb2.UploadImportRequest())
        return self.client.stub.send(operation, requests(), token=token, seconds=30).job

    def work_off(self) -> None:
        for job in running(Reader(self.store)):
            jobs.work_off(self.store, job, StopSignal(), region="CN")

    def seen(self, job: Job) -> Job:
        return self.client.call(transfer_pb2.GetImportRequest(import_id=job.import_id)).job

    def imported(self, data: bytes | str, form: str = "CSV", **fields: Any) -> Job:
        job = self.create(form, **fields)
        self.upload(job, data, piece=10_000)
        self.work_off()
        return self.seen(job)

    def refused(self, job: Job) -> list[str]:
        token = self.client.signer.mint(testing.somebody(), clock())
        request = transfer_pb2.DownloadRejectedRowsRequest(import_id=job.import_id)
        pieces = self.client.stub.receive(testing.operation_of(request), request, token=token, seconds=10)
        return b"".join(one.data for one in pieces).decode().splitlines()[1:]

    def names(self) -> list[str]:
        return sorted(one["names"][0]["full"] for one in self.store[CUSTOMERS.name].find({}))


@pytest.fixture
def loader(client: Client, store: Store) -> Loader:
    return Loader(client, store)

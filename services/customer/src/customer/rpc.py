"""The operations of the customer service, one line each."""

from collections.abc import Mapping
from functools import partial

from chassis.rpc import Endpoint, command, query
from customer.commands import customers, imports, interactions
from customer.queries import customers as directory
from customer.queries import exports
from customer.queries import imports as jobs
from customer.queries import interactions as timeline


def endpoints(*, region: str) -> Mapping[str, Endpoint]:
    """What answers each operation; `region` is the country of phone numbers written without one."""
    return {
        "RegisterCustomer": command(partial(customers.register_customer, region=region)),
        "GetCustomer": query(directory.get_customer),
        "UpdateCustomer": command(partial(customers.update_customer, region=region)),
        "ArchiveCustomer": command(customers.archive_customer),
        "ListCustomers": query(directory.list_customers),
        "SearchCustomers": query(partial(directory.search_customers, region=region)),
        "DefineAttribute": command(customers.define_attribute),
        "UpdateAttribute": command(customers.update_attribute),
        "ListAttributes": query(directory.list_attributes),
        "RecordInteraction": command(interactions.record_interaction),
        "GetInteraction": query(timeline.get_interaction),
        "ListInteractions": query(timeline.list_interactions),
        "CloseInteraction": command(interactions.close_interaction),
        "CreateImport": command(imports.create_import),
        "UploadImport": imports.upload_import,
        "GetImport": query(jobs.get_import),
        "ListImports": query(jobs.list_imports),
        "CancelImport": command(imports.cancel_import),
        "DownloadRejectedRows": query(jobs.download_rejected_rows),
        "ExportCustomers": exports.export_customers,
    }

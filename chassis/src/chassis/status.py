"""Faults as gRPC statuses with details, and back: nothing of a failure is lost between two services."""

from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from chassis import errors
from chassis.errors import Fault, Violation

_DOMAIN = "guanxi"
_CODES: dict[type[Fault], grpc.StatusCode] = {
    errors.Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.Denied: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Conflict: grpc.StatusCode.ABORTED,
    errors.Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_NO_RETRY = ("grpc-retry-pushback-ms", "-1")
_FAULTS = {code: kind for kind, code in _CODES.items()}


def code_of(error: BaseException) -> grpc.StatusCode:
    """The status code of a failure; INTERNAL for what was not foreseen."""
    kinds = (kind for kind in type(error).__mro__ if kind in _CODES)
    found = next(kinds, None)
    return _CODES[found] if found is not None else grpc.StatusCode.INTERNAL


def abort(context: grpc.ServicerContext, error: Exception) -> None:
    """Ends a call with the error's status; what was not foreseen says nothing of its inside."""
    fault = error if isinstance(error, Fault) else Fault("something went wrong here; the log has it under this trace")
    code = code_of(fault)
    found = status_pb2.Status(code=code.value[0], message=fault.message, details=_details(fault))
    wire = rpc_status.to_status(found)
    if fault.retry_after:  # whoever is told when to come back must not try again at once
        wire = wire._replace(trailing_metadata=(*wire.trailing_metadata, _NO_RETRY))
    context.abort_with_status(wire)


def _details(fault: Fault) -> list[Any]:
    found: list[Any] = [error_details_pb2.ErrorInfo(reason=fault.reason, domain=_DOMAIN)]
    if fault.violations:
        violations = error_details_pb2.BadRequest()
        for one in fault.violations:
            violations.field_violations.add(field=one.field, description=one.reason)
        found.append(violations)
    if fault.retry_after:
        delay = duration_pb2.Duration(seconds=int(fault.retry_after), nanos=int(fault.retry_after % 1 * 1e9))
        found.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return [_packed(one) for one in found]


def _packed(detail: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


def fault(error: grpc.RpcError) -> Fault:
    """The fault behind a failed call."""
    kind = _FAULTS.get(error.code())
    found = rpc_status.from_call(error)
    details = {one.type_url.rpartition("/")[2]: one for one in found.details} if found is not None else {}
    reason, retry_after = _info(details), _retry(details)
    if kind is errors.Invalid:
        return errors.Invalid(_violations(details) or [Violation("", error.details() or "is not valid")])
    if error.code() == grpc.StatusCode.UNIMPLEMENTED:  # a replica of the release before, while a new one rolls out
        return errors.Unavailable("this operation is not there yet", reason="NOT_YET", retry_after=5)
    if error.code() == grpc.StatusCode.CANCELLED:  # by a server that is stopping: nobody of ours takes a call back
        return errors.Unavailable("the service does not answer", retry_after=1)
    if kind is None:
        return Fault("the service failed", reason=reason or "INTERNAL")
    # Without details the text is the transport's own, with addresses that are nobody's business.
    message = error.details() if reason else "the service does not answer"
    return kind(message or "", reason=reason, retry_after=retry_after)


def _info(details: dict[str, any_pb2.Any]) -> str:
    info = error_details_pb2.ErrorInfo()
    packed = details.get("google.rpc.ErrorInfo")
    return info.reason if packed is not None and packed.Unpack(info) else ""


def _retry(details: dict[str, any_pb2.Any]) -> float:
    info = error_details_pb2.RetryInfo()
    packed = details.get("google.rpc.RetryInfo")
    return info.retry_delay.seconds + info.retry_delay.nanos / 1e9 if packed and packed.Unpack(info) else 0.0


def _violations(details: dict[str, any_pb2.Any]) -> list[Violation]:
    bad = error_details_pb2.BadRequest()
    packed = details.get("google.rpc.BadRequest")
    if packed is None or not packed.Unpack(bad):
        return []
    return [Violation(one.field, one.description) for one in bad.field_violations]

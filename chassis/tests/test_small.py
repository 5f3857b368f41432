"""Settings, logs, identity, masking, processes and their doors."""

import json
import logging
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from crm.customer.v1 import customer_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import OKPAlgorithm

from chassis import config, contract, events, identity, log, privacy, testing
from chassis.config import BadSettings
from chassis.errors import Denied, Unauthenticated
from chassis.events import clock, from_document, from_headers, partition, seal, uuid7
from chassis.service import Settings

# --- settings --------------------------------------------------------------------------------------------------------


def test_every_problem_of_the_settings_is_listed_at_once() -> None:
    environment = {"RPC_PORT": "many", "TRACE_RATIO": "half", "REFLECTION": "maybe", "AMQP_URL_FILE": "/nowhere"}
    with pytest.raises(BadSettings) as caught:
        config.load(Settings, environment=environment)
    assert caught.value.problems == [
        "MONGODB_URI (or MONGODB_URI_FILE) is required",
        "AMQP_URL_FILE: cannot be read: No such file or directory",
        "IDENTITY_KEYS (or IDENTITY_KEYS_FILE) is required",
        "TOKEN_SECRET (or TOKEN_SECRET_FILE) is required",
        "RPC_PORT must be a whole number",
        "TRACE_RATIO must be a number",
        "REFLECTION must be true or false",
    ]


def test_settings_come_from_the_environment_and_from_mounted_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    environment = {
        "MONGODB_URI": "m",
        "AMQP_URL": "a",
        "IDENTITY_KEYS": "{}",
        "TOKEN_SECRET_FILE": str(tmp_path / "secret"),
    }
    (settings,) = config.load(Settings, environment=environment | {"REFLECTION": "Yes"})
    assert (settings.token_secret, settings.reflection, settings.rpc_port) == (b"s3cret", True, 50051)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": paths, **environment}
    return subprocess.run([sys.executable, "-m", *arguments], env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("module", ["customer", "analytics"])
def test_a_process_with_bad_settings_says_so_and_exits_2(module: str) -> None:
    done = run(module, "serve", RPC_PORT="x")
    assert done.returncode == 2
    assert "MONGODB_URI (or MONGODB_URI_FILE) is required" in done.stderr
    assert "RPC_PORT must be a whole number" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_role_shows_the_choices() -> None:
    done = run("analytics", "dance")
    assert (done.returncode, done.stderr) == (2, "usage: python -m <service> {migrate|serve|work|all|rebuild}\n")


# --- a process and its doors -----------------------------------------------------------------------------------------


def fetch(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.slow
def test_a_service_is_ready_measured_and_ends_when_told(mongodb_uri: str, amqp_url: str, tmp_path: Path) -> None:
    _, public = identity.generate("test")
    http, rpc, health = (testing.free_port() for _ in range(3))
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    env |= {"MONGODB_URI": mongodb_uri, "AMQP_URL": amqp_url, "IDENTITY_KEYS": public}
    env |= {"TOKEN_SECRET": "of this test only"}
    env |= {"HTTP_PORT": str(http), "RPC_PORT": str(rpc), "HEALTH_PORT": str(health)}
    with (tmp_path / "log").open("wb") as lines:
        process = subprocess.Popen([sys.executable, "-m", "analytics", "all"], env=env, stderr=lines)
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        try:
            if fetch(http, "/readyz")[0] == 200:
                break
        except OSError:
            time.sleep(0.1)
    assert fetch(http, "/readyz") == (200, '{"problems":[]}')
    assert fetch(http, "/healthz")[0] == 200
    assert "crm_outbox_oldest_seconds" in fetch(http, "/metrics")[1]
    assert fetch(http, "/other")[0] == 404
    process.terminate()
    assert process.wait(40) == 0
    written = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    said = [one["message"] for one in written]
    assert "stopping" in said
    assert said[-1] == "stopped"


DYING = """
import sys
from chassis.process import Process
def dying(stop): raise RuntimeError("boom")
def living(stop): stop.wait()
process = Process({"dying": dying, "living": living})
code = process.run()
print(process.problems())
sys.exit(code)
"""


def test_a_process_whose_loop_died_is_not_ready_and_exits_1() -> None:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", DYING], env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "['stopping', 'dying died']\n")


# --- logs ------------------------------------------------------------------------------------------------------------


def test_a_log_line_holds_no_message_and_no_words_of_an_error() -> None:
    customer = customer_pb2.Customer(names=[{"full": "张伟"}])
    try:
        raise ValueError("张伟 is wrong")
    except ValueError as error:
        record = logging.LogRecord("crm", logging.INFO, "x", 1, "something", (), None)
        record.fields = {"customer": customer, "error": error, "count": 3}
    line = json.loads(log._JsonLines("test").format(record))
    assert line["customer"] == "crm.customer.v1.Customer"
    assert line["error"]["kind"] == "ValueError"
    assert "张伟" not in json.dumps(line, ensure_ascii=False)


# --- identity --------------------------------------------------------------------------------------------------------

PRIVATE, PUBLIC = identity.generate("k1")
SIGNER, VERIFIER = identity.load_signer(PRIVATE), identity.load_verifier(PUBLIC)


def forged(**changes: Any) -> str:
    claims = {"iss": identity.ISSUER, "aud": identity.AUDIENCE, "exp": clock() + timedelta(minutes=1), "sub": "x"}
    claims |= {"channel": "", "roles": [], "scopes": [], "sees": [], "hides": []} | changes.pop("claims", {})
    given = {"key": SIGNER.key, "algorithm": "EdDSA", "headers": {"kid": "k1"}} | changes
    return jwt.encode(claims, **given)


def test_a_token_says_who_calls_and_what_they_may() -> None:
    caller = testing.somebody(subject="channel:web", hides=frozenset({"a.b"}))
    assert VERIFIER.verify(SIGNER.mint(caller, clock())) == caller


@pytest.mark.parametrize(
    "token",
    [
        forged(key=identity.load_signer(identity.generate("k1")[0]).key),
        forged(headers={"kid": "unknown"}),
        forged(headers={}),
        forged(claims={"aud": "somebody else"}),
        forged(claims={"iss": "somebody else"}),
        forged(claims={"exp": clock() - identity.LEEWAY - timedelta(seconds=1)}),
        forged(claims={"scopes": 7}),
        forged(key=None, algorithm="none"),
        forged(key="x" * 32, algorithm="HS256"),
        "a.b.c",
        "",
    ],
)
def test_a_forged_foreign_or_expired_token_is_nobodys(token: str) -> None:
    with pytest.raises(Unauthenticated):
        VERIFIER.verify(token)


def test_a_token_that_was_good_is_not_good_for_ever() -> None:
    token = SIGNER.mint(testing.somebody(), clock() - identity.LIFETIME - identity.LEEWAY + timedelta(seconds=2))
    VERIFIER.verify(token)
    time.sleep(2.1)
    with pytest.raises(Unauthenticated):
        VERIFIER.verify(token)


def test_keys_that_are_none_are_refused() -> None:
    for text in ("{}", '{"keys": []}', '{"keys": [{"kid": "a", "kty": "RSA"}]}', "no json"):
        with pytest.raises((ValueError, LookupError)):
            identity.load_verifier(text)
    public = json.dumps(OKPAlgorithm.to_jwk(SIGNER.key.public_key(), as_dict=True) | {"kid": "k1"})
    with pytest.raises(ValueError, match="private"):
        identity.load_signer(public)


# --- masking ---------------------------------------------------------------------------------------------------------


def person() -> customer_pb2.Customer:
    return customer_pb2.Customer(
        customer_id="c1",
        names=[{"full": "张伟"}],
        phones=[{"number": "+8613800138000"}],
        emails=[{"address": "zhang@example.com"}],
        documents=[{"number": "E1234567"}],
        birthday={"year": 1990, "month": 2, "day": 28},
        interests=["chess"],
    )


def masked(**changes: Any) -> customer_pb2.Customer:
    customer = person()
    privacy.mask(customer, testing.somebody(**changes))
    return customer


def test_who_sees_everything_sees_it_as_it_is() -> None:
    assert masked() == person()


def test_what_somebody_does_not_see_is_masked_but_recognisable() -> None:
    shown = masked(sees=frozenset({1, 2}))
    assert (shown.names[0].full, shown.phones[0].number) == ("张•", "•••8000")
    assert (shown.emails[0].address, list(shown.interests)) == ("z•••@example.com", ["c•••"])
    assert (shown.customer_id, shown.HasField("birthday")) == ("c1", False)


def test_sensitive_values_and_hidden_fields_are_masked_by_themselves() -> None:
    shown = masked(sees=frozenset({1, 2, 3}), hides=frozenset({"crm.customer.v1.Customer.birthday"}))
    assert (shown.names[0].full, shown.documents[0].number) == ("张伟", "•••4567")
    assert not shown.HasField("birthday")


def test_nobody_changes_what_they_see_masked() -> None:
    from crm.customer.v1.customer_pb2 import UpdateCustomerRequest

    request = UpdateCustomerRequest(update_mask=FieldMask(paths=["documents"]))
    privacy.may_change(request, testing.somebody())
    with pytest.raises(Denied, match="documents"):
        privacy.may_change(request, testing.somebody(sees=frozenset({1, 2, 3})))


@given(st.text(max_size=40))
def test_a_mask_never_shows_a_whole_value(value: str) -> None:
    shown = privacy.masked(value)
    assert shown != value or not value
    assert len(shown.replace("•", "").replace("@", "")) <= max(4, len(value) - 1) or "@" in value


def test_nothing_personal_is_left_when_it_is_taken_out() -> None:
    customer = person()
    privacy.strip(customer)
    assert customer == customer_pb2.Customer(
        customer_id="c1",
        names=[customer_pb2.Name()],
        phones=[customer_pb2.Phone()],
        emails=[customer_pb2.Email()],
        documents=[customer_pb2.IdentityDocument()],
    )


# --- events ----------------------------------------------------------------------------------------------------------


def test_an_envelope_survives_headers_and_store() -> None:
    made = contract.events()["crm.customer.v1.AttributeDefined"](attribute=customer_pb2.Attribute(key="a"))
    sealed = seal(made, seq=3, source="customer", now=clock(), traceparent="00-1-2-01")
    assert from_headers(sealed.headers(), sealed.body) == sealed == from_document(sealed.document())
    for name, wrong in (("sequence", float("inf")), ("sequence", None), ("time", "2026-05-01"), ("time", 0)):
        with pytest.raises(ValueError):  # noqa: PT011  whatever it says, the message is set aside
            from_headers(sealed.headers() | {f"cloudEvents:{name}": wrong}, sealed.body)
    assert sealed.routing_key == f"crm.customer.v1.AttributeDefined.{partition('a')}"
    assert sealed.message() == made


def test_identifiers_sort_by_time_and_records_keep_their_partition() -> None:
    moments = [clock() + timedelta(milliseconds=one) for one in range(50)]
    made = [uuid7(one) for one in moments]
    assert made == sorted(made)
    assert len({uuid7(moments[0]) for _ in range(1000)}) == 1000
    assert [partition(f"r{one}") for one in range(5)] == [7, 1, 11, 13, 14]
    assert {partition(f"r{one}") for one in range(500)} == set(range(events.PARTITIONS))

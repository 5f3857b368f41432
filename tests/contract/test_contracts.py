"""What every contract must say; each rule is shown a contract that breaks it."""

from pathlib import Path

import contract_check
import generate
import pytest

HEAD = """syntax = "proto3";
package crm.trial.v1;
import "buf/validate/validate.proto";
import "crm/options/v1/options.proto";
import "google/api/annotations.proto";
"""
FIELD = "string note = 1 [(crm.options.v1.data) = DATA_CLASS_PERSONAL, (buf.validate.field).string.max_len = 10];"
ROUTE = 'option (google.api.http) = {post: "/v1/notes" body: "*"};'
SCOPE = 'option (crm.options.v1.scope) = "note.write";'
KEYED = "option (crm.options.v1.idempotency) = IDEMPOTENCY_KEYED;"
REQUEST_ID = (
    "string request_id = 2 [(crm.options.v1.data) = DATA_CLASS_INTERNAL, (buf.validate.field).string.max_len = 100];"
)


def contract(*, options: str = f"{ROUTE} {SCOPE} {KEYED}", fields: str = f"{FIELD} {REQUEST_ID}") -> str:
    return f"""{HEAD}
service NoteService {{ rpc WriteNote(WriteNoteRequest) returns (WriteNoteResponse) {{ {options} }} }}
message WriteNoteRequest {{ {fields} }}
message WriteNoteResponse {{}}
"""


def events(text: str) -> str:
    return f"{HEAD}\n{text}"


def compiled(directory: Path, **files: str) -> Path:
    package, out = directory / "proto/crm/trial/v1", directory / "out"
    package.mkdir(parents=True)
    out.mkdir()
    for name, text in files.items():
        (package / f"{name}.proto").write_text(text)
    generate.generate(out, directory / "proto", also=())
    return out / "contracts.binpb"


def test_the_contracts_of_the_platform_have_no_fault() -> None:
    assert contract_check.faults(contract_check.HERE / "gen" / "contracts.binpb") == []


def test_a_whole_contract_has_no_fault(tmp_path: Path) -> None:
    assert contract_check.faults(compiled(tmp_path, note=contract())) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (f"{SCOPE} {KEYED}", "has no route"),
        (f"{ROUTE} {KEYED}", "has no scope"),
        (f"{ROUTE} {SCOPE}", "does not say what a repetition does"),
        (f"{ROUTE} {SCOPE} {KEYED.replace('KEYED', 'SAFE')}", "safe operations, and only these, are read with GET"),
    ],
)
def test_an_operation_needs_route_scope_and_idempotency(tmp_path: Path, options: str, said: str) -> None:
    (fault,) = contract_check.faults(compiled(tmp_path, note=contract(options=options)))
    assert fault.startswith("crm.trial.v1.NoteService.WriteNote: ")
    assert said in fault


def test_a_keyed_operation_needs_a_request_id(tmp_path: Path) -> None:
    (fault,) = contract_check.faults(compiled(tmp_path, note=contract(fields=FIELD)))
    assert "takes no request_id" in fault


@pytest.mark.parametrize(
    "field",
    [
        "string note = 1 [(crm.options.v1.data) = DATA_CLASS_PERSONAL];",
        "repeated string note = 1 [(crm.options.v1.data) = DATA_CLASS_PERSONAL, "
        "(buf.validate.field).repeated.items.string.max_len = 5];",
        "repeated string note = 1 [(crm.options.v1.data) = DATA_CLASS_PERSONAL, "
        "(buf.validate.field).repeated.max_items = 5];",
        "map<string, string> note = 1 [(crm.options.v1.data) = DATA_CLASS_PERSONAL];",
        "int32 note = 1;",
        "bytes note = 1 [(crm.options.v1.data) = DATA_CLASS_PERSONAL];",
        "crm.options.v1.DataClass note = 1;",
    ],
)
def test_what_a_request_can_be_filled_with_has_a_bound(tmp_path: Path, field: str) -> None:
    (fault,) = contract_check.faults(compiled(tmp_path, note=contract(fields=f"{field} {REQUEST_ID}")))
    assert fault == "crm.trial.v1.WriteNoteRequest.note: is taken by WriteNote without a rule (buf.validate)"


def test_a_field_that_can_hold_personal_data_needs_a_class(tmp_path: Path) -> None:
    field = "string note = 1 [(buf.validate.field).string.max_len = 10];"
    (fault,) = contract_check.faults(compiled(tmp_path, note=contract(fields=f"{field} {REQUEST_ID}")))
    assert fault == "crm.trial.v1.WriteNoteRequest.note: can hold personal data and has no class (crm.options.v1.data)"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("", "stands among the events and is none"),
        ('option (crm.options.v1.event) = {aggregate: "note"};', "(no key) is not a text field of it"),
        ('option (crm.options.v1.event) = {aggregate: "note" key: "gone"};', "gone is not a text field of it"),
        ('option (crm.options.v1.event) = {key: "note"};', "does not say whose history it belongs to"),
    ],
)
def test_an_event_needs_an_aggregate_and_a_key(tmp_path: Path, option: str, said: str) -> None:
    text = events(f"message NoteWritten {{ {option} {FIELD} }}")
    (fault,) = contract_check.faults(compiled(tmp_path, events=text))
    assert fault.startswith("crm.trial.v1.NoteWritten: ")
    assert said in fault


def test_nothing_released_has_changed() -> None:
    compiled_now = contract_check.HERE / "gen" / "contracts.binpb"
    assert contract_check.broken(compiled_now, contract_check.released()) == []


@pytest.mark.parametrize(
    "changed",
    [
        FIELD.replace("= 1 ", "= 7 "),
        FIELD.replace("string note", "bytes note").replace(".string", ".bytes"),
        FIELD.replace("note", "remark"),
        "",
    ],
)
def test_a_changed_field_breaks_its_release(tmp_path: Path, changed: str) -> None:
    before = contract_check.surface(compiled(tmp_path / "before", note=contract()))
    after = compiled(tmp_path / "after", note=contract(fields=f"{changed} {REQUEST_ID}"))
    assert contract_check.broken(after, before) == ["field crm.trial.v1.WriteNoteRequest.note = 1 TYPE_STRING"]


def test_a_new_field_breaks_nothing(tmp_path: Path) -> None:
    before = contract_check.surface(compiled(tmp_path / "before", note=contract()))
    after = contract(fields=f"{FIELD} {REQUEST_ID} bool urgent = 3;")
    assert contract_check.broken(compiled(tmp_path / "after", note=after), before) == []

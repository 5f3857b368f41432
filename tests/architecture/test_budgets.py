"""How large things may become before they have to be taken apart."""

import ast
import io
import statistics
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for folder in ("chassis/src", "services", "proto", "deploy", "simulator")
    for path in (ROOT / folder).rglob("*.py")
    if "gen" not in path.parts and "tests" not in path.parts
)
CHASSIS_LINES = 3_300  # docs/decisions.md says why it is more than the 2,500 it was meant to be


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def length(function: ast.FunctionDef) -> int:
    """Lines of the body, its docstring left out."""
    documented = ast.get_docstring(function) is not None and len(function.body) > 1
    first = function.body[1 if documented else 0]
    return (function.end_lineno or first.lineno) - first.lineno + 1


def code_lines(path: Path) -> int:
    """Lines that hold code: no blank lines, comments or docstrings."""
    source = path.read_text(encoding="utf-8")
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


def is_chassis(path: Path) -> bool:
    """Whether a file runs in a service; `testing` does not."""
    return "chassis" in path.parts and path.name != "testing.py"


def percentile(values: list[int], share: float) -> int:
    return sorted(values)[int(share * (len(values) - 1))]


def test_functions_are_short() -> None:
    lengths = [length(function) for path in SOURCES for function in functions(path)]
    assert statistics.median(lengths) <= 6
    assert percentile(lengths, 0.9) <= 15


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_and_no_function_is_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300
    assert [one.name for one in functions(path) if length(one) > 40] == []


def test_nine_files_in_ten_are_short() -> None:
    assert percentile([len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES], 0.9) <= 220


def test_the_chassis_stays_small() -> None:
    assert sum(code_lines(path) for path in SOURCES if is_chassis(path)) < CHASSIS_LINES


def test_the_counting_itself() -> None:
    tree = ast.parse('def one() -> None:\n    """Said."""\n    first()\n    second()\n').body[0]
    assert isinstance(tree, ast.FunctionDef)
    assert length(tree) == 2

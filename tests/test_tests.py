"""What holds of the tests themselves."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

FILES = sorted(Path(__file__).parent.rglob("test_*.py"))


def returns_of(function: ast.FunctionDef) -> Iterator[int]:
    """Lines of the ``return`` statements of a function, without those of functions inside it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Return):
            yield node.lineno
        if not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            waiting += ast.iter_child_nodes(node)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_test_returns_before_its_assertions(file):
    """A parametrised test that returns early for some cases asserts nothing of them, and passes."""
    functions = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]
    tests = [function for function in functions if function.name.startswith("test_")]
    early = {test.name: lines for test in tests if (lines := list(returns_of(test)))}
    assert not early

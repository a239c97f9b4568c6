"""What holds of the source of the whole package: functions fit on a screen, and one name has one meaning."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import fewshot_jax

PACKAGE = Path(fewshot_jax.__file__).parent
SOURCES = {
    file.relative_to(PACKAGE).as_posix(): file.read_text(encoding="utf-8") for file in sorted(PACKAGE.rglob("*.py"))
}
TREES = {file: ast.parse(source) for file, source in SOURCES.items()}
LINES = {file: source.splitlines() for file, source in SOURCES.items()}
MOST_LINES, MOST_PARAMETERS = 60, 8
# What a docstring says where a function has good reason for more.
REASON = {
    "lines": re.compile(r"\bIs longer than 60 lines because \w"),
    "parameters": re.compile(r"\bHas more than 8 parameters because \w"),
}


def code_lines(function, file_lines):
    """The number of lines of a function's body that hold code: no docstring, comment or blank line."""
    first = function.body[0]
    docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    skipped = range(first.lineno, first.end_lineno + 1) if docstring else range(0)
    lines = [(number, file_lines[number - 1].strip()) for number in range(first.lineno, function.end_lineno + 1)]
    return sum(bool(line) and not line.startswith("#") for number, line in lines if number not in skipped)


def parameters(function):
    """The number of parameters of a function, without ``self``."""
    given = function.args
    named = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in named if name not in ("self", "cls")]) + bool(given.vararg) + bool(given.kwarg)


def test_a_function_fits_on_a_screen_or_says_why_not():
    too_large, functions = [], 0
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef):
                continue
            functions += 1
            lines = code_lines(node, LINES[file])
            counts = {"lines": (lines, MOST_LINES), "parameters": (parameters(node), MOST_PARAMETERS)}
            text = " ".join((ast.get_docstring(node) or "").split())
            too_large += [
                f"{file}: {node.name} has {count} {what}"
                for what, (count, most) in counts.items()
                if count > most and not REASON[what].search(text)
            ]
    assert not too_large
    assert functions > 1000


# Names that several modules give on purpose: the parts of a command, and what each application has of its own.
SHARED = {"run", "Arguments", "usage", "check_batch"}


def public_names(tree):
    """The functions, classes and types that a module defines at its top."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            named = [target.id for target in node.targets if isinstance(target, ast.Name)]
            yield from (name for name in named if not name.isupper())


def test_a_public_name_has_one_meaning_in_the_package():
    places = defaultdict(set)
    for file, tree in TREES.items():
        for name in public_names(tree):
            if not name.startswith("_"):
                places[name].add(file)
    assert len(places) > 500
    twice = {name: sorted(files) for name, files in places.items() if len(files) > 1}
    assert not {name: files for name, files in twice.items() if name not in SHARED}

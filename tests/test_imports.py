"""Imports are light and point one way, and the public names are what they claim to be."""

import ast
import graphlib
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import fewshot_jax as fsj

ROOT = Path(__file__).parents[1]
HEAVY = [
    "tensorflow",
    "torch",
    "transformers",
    "tensorflow_datasets",
    "matplotlib",
    "optuna",
    "sklearn",
    "orbax",
    "scipy.stats",
    "tokenizers",
    "tyro",
]


def run_python(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)


def test_importing_the_package_pulls_in_nothing_heavy():
    done = run_python(f"import fewshot_jax, sys; print([name for name in {HEAVY} if name in sys.modules])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_lazy_names_import_neither_tensorflow_nor_torch():
    program = "import fewshot_jax as fsj, sys; [getattr(fsj, name) for name in fsj.__all__]"
    done = run_python(f"{program}; print([name for name in ('tensorflow', 'torch') if name in sys.modules])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_imports_point_one_way():
    command = Path(sysconfig.get_path("scripts")) / "lint-imports"
    done = subprocess.run([command], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def imports_of(tree, modules):
    """The modules that a module imports when it runs, at its top or in a function."""
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped |= {id(one) for statement in node.body for one in ast.walk(statement)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in skipped:
            yield from {node.module, *(f"{node.module}.{name.name}" for name in node.names)} & modules


def test_no_modules_import_each_other_in_a_circle():
    files = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in (ROOT / "fewshot_jax").rglob("*.py")
    }
    files = {name.removesuffix(".__init__"): file for name, file in files.items()}
    graph = {
        name: set(imports_of(ast.parse(file.read_text(encoding="utf-8")), files.keys())) - {name, "fewshot_jax"}
        for name, file in files.items()
    }
    assert sum(map(len, graph.values())) > 500, "the imports are found"
    graphlib.TopologicalSorter(graph).prepare()  # raises a CycleError that names the circle


def test_the_public_names_are_sorted_and_exist():
    assert fsj.__all__ == sorted(fsj.__all__)
    assert len(set(fsj.__all__)) == len(fsj.__all__)
    assert dir(fsj) == sorted(fsj.__all__)


@pytest.mark.parametrize("name", fsj.__all__)
def test_a_public_name_is_documented(name):
    value = getattr(fsj, name)
    assert value.__name__ == name
    assert value.__module__.startswith("fewshot_jax.")
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}("), "a docstring that was not written but generated"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'meml'"):
        fsj.meml  # noqa: B018


def test_the_package_is_typed():
    assert (Path(fsj.__file__).parent / "py.typed").exists()

"""The model inside an installed Python package, found through its metadata; the package is never imported."""

import difflib
import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fewshot_jax.errors import UserError

PACKAGE = "package:"  # before the name of a package
_NAME = re.compile(r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?", re.ASCII)
_PART = re.compile(r"\.part-?\d+$")  # of a file that was cut into parts
_JOINS = re.compile(r"^def assemble\(", re.MULTILINE)


class PackagedModel(NamedTuple):
    """A model inside an installed package: the name that finds it, its files, and the version of the package."""

    name: str
    path: Path
    version: str


def find_in_package(name: str) -> tuple[Path, str]:
    """Find the model of a package: its directory or GGUF file, and the version of the package.

    Args:
        name: of the distribution, as pip has it; ``-`` and ``_`` are alike.

    Raises:
        UserError: it is not installed, or does not hold one whole model.
    """
    where = f"{PACKAGE}{name}"
    try:
        if not _NAME.fullmatch(name):
            raise PackageNotFoundError
        package = distribution(name)
    except PackageNotFoundError:
        raise UserError(f"{where}: {_not_installed(name)}") from None
    if package.files is None:
        raise UserError(f"{where}: its metadata lists no files; install it again with pip")
    found = _models(package)
    if not found:
        raise UserError(f"{where}: {_without_model(package)}")
    paths = [_located(package, path) for path in found]
    if len(paths) > 1:
        listed = ", ".join(map(str, paths[:5]))
        raise UserError(f"{where}: holds {len(paths)} models; give the path of one of them: {listed}")
    if not paths[0].exists():
        raise UserError(f"{where}: {paths[0]} is missing; install it again: 'pip install --force-reinstall {name}'")
    return paths[0], package.version


def _not_installed(name: str) -> str:
    """Say what to do about a package that is not there."""
    if "@" in name:
        return "names a version; give the package alone, in the version that is installed"
    if (close := closest_package(name)) is not None:
        meant = f"no such package is installed (did you mean {_plain(close)}?)"
        return f"{meant}; 'fewshot-jax models' lists what is at hand"
    installs = f"'pip install --no-deps {name}'" if _NAME.fullmatch(name) else "'pip list' for the names"
    return f"no such package is installed; run {installs}, or 'fewshot-jax models' for what is at hand"


def closest_package(name: str) -> str | None:
    """Return the name of the installed model that is written most like another; None where none is close."""
    known = {_plain(one.name.removeprefix(PACKAGE)): one.name for one in packaged_models()}
    close = difflib.get_close_matches(_plain(name.removeprefix(PACKAGE)), known, n=1, cutoff=0.75)
    return known[close[0]] if close else None


def _plain(name: str) -> str:
    """The name of a package as the index compares it."""
    return re.sub("[-_.]+", "-", name).lower()


def packaged_models() -> Iterator[PackagedModel]:
    """Yield the models inside all installed packages; a package with several has none that its name could mean."""
    for package in distributions():
        found = [] if package.files is None else _models(package)
        if len(found) == 1 and (path := _located(package, found[0])).exists():
            yield PackagedModel(f"{PACKAGE}{package.name}", path, package.version)


def _located(package: Distribution, path: PurePosixPath) -> Path:
    return Path(str(package.locate_file(path)))


def _models(package: Distribution) -> list[PurePosixPath]:
    """The outermost directories with a config and safetensors, and the GGUF files, of a package."""
    files = [PurePosixPath(str(file)) for file in package.files or ()]
    inside = [file for file in files if ".." not in file.parts and not file.is_absolute()]
    configs = {file.parent for file in inside if file.name in ("config.json", "modules.json")}
    weights = {file.parent for file in inside if file.suffix == ".safetensors"}
    holding = {top for top in configs if any(top in (one, *one.parents) for one in weights)}
    outer = {top for top in holding if not holding & set(top.parents)}
    gguf = [file for file in inside if file.suffix == ".gguf"]
    first = [file for file in gguf if not re.search(r"-(?!00001-)\d{5}-of-\d{5}\.gguf$", file.name)]
    return sorted([*outer, *first])


def _is_installed(name: str) -> bool:
    try:
        return distribution(name) is not None
    except (PackageNotFoundError, ValueError):
        return False


def _without_model(package: Distribution) -> str:
    """Say what a package holds that has no model, and what to do."""
    files = [PurePosixPath(str(file)) for file in package.files or ()]
    needed = [re.split(r"[^\w.-]", line.strip())[0] for line in package.requires or ()]
    in_parts = any(_PART.search(file.name) for file in files) or any(
        _plain(one).startswith(f"{_plain(package.name)}-part") for one in needed
    )
    if not in_parts:
        return (
            "holds no model, neither a directory with config.json and safetensors nor a .gguf file; 'fewshot-jax "
            "models' lists the packages that do"
        )
    modules = [file for file in files if file.name == "__init__.py" and len(file.parts) == 2]
    for module in modules:
        path = _located(package, module)
        if path.is_file() and _JOINS.search(path.read_text(encoding="utf-8", errors="replace")):
            absent = [one for one in needed if not _is_installed(one)]
            first = f"'pip install --no-deps {' '.join(absent)}', then " if absent else ""
            joined = f'{first}python -c "import {module.parent} as p; print(p.assemble())"'
            return f"holds a model in parts; its own assemble() joins them: run {joined} and give the path it prints"
    return "holds a part of a model; join all parts in order into one file ('cat PART... > model.gguf') and give that"

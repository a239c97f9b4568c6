"""The models that can be used without a network: in the hub's cache, in installed packages, and with this package."""

from pathlib import Path
from typing import NamedTuple

from fewshot_jax.errors import UserError
from fewshot_jax.models.huggingface.pretrained import read_model_config
from fewshot_jax.models.huggingface.sentence_transformers import holds_model, read_vectors
from fewshot_jax.models.sources.describe import bytes_on_disk, licence_of
from fewshot_jax.models.sources.hub import missing_files
from fewshot_jax.models.sources.names import DEFAULT, ModelFiles, find_files
from fewshot_jax.models.sources.package import packaged_models


class Here(NamedTuple):
    """A model at hand.

    Attributes:
        name: that finds it.
        revision: commit, or version of the package; None of the default one.
        family: its ``model_type``; None where it cannot be read.
        problem: why it cannot be used; None where it can.
        licence: as stated; None where it is not.
        bytes_on_disk: of its weights.
        path: of its directory or file.
    """

    name: str
    revision: str | None
    family: str | None
    problem: str | None
    licence: str | None
    bytes_on_disk: int
    path: Path


def models_at_hand() -> list[Here]:
    """List the models at hand, those of unknown families too; no weights are read."""
    packages = [
        ModelFiles(name=name, path=path, kind="package", revision=version) for name, path, version in packaged_models()
    ]
    return [_here(files) for files in (find_files(DEFAULT), *sorted(packages, key=lambda one: one.name), *_cached())]


def _here(files: ModelFiles) -> Here:
    family, problem, licence = None, None, None
    lacking = missing_files(files.path) if files.kind == "hub" else []
    try:
        licence = licence_of(files)
        family = read_model_config(read_vectors(files.path).body).model_type
    except UserError as error:
        problem = str(error)
    if lacking:
        problem = f"not whole: lacks {lacking[0]}; 'fewshot-jax models get {files.name}' fetches it"
    return Here(files.name, files.revision, family, problem, licence, bytes_on_disk(files.path), files.path)


def _cached() -> list[ModelFiles]:
    """The revisions of models in the hub's cache; of what is no model, nothing."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return []
    found = [
        ModelFiles(
            # A name without an organisation is none that is taken here.
            name=f"{repository.repo_id}@{revision.commit_hash}"
            if "/" in repository.repo_id
            else str(revision.snapshot_path),
            path=revision.snapshot_path,
            kind="hub",
            revision=revision.commit_hash,
        )
        for repository in repositories
        if repository.repo_type == "model"
        for revision in repository.revisions
        if holds_model(revision.snapshot_path)
    ]
    return sorted(found, key=lambda files: files.name)

"""Models of the Hugging Face hub, fetched by huggingface_hub into its cache: config, tokenizer and safetensors alone.

Its settings count: HF_HOME and HF_HUB_CACHE (where the cache is), HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE,
HF_HUB_DISABLE_PROGRESS_BARS. Pickles and code are never fetched.
"""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

from fewshot_jax.errors import UserError, first_line
from fewshot_jax.models.huggingface.pretrained import read_model_config
from fewshot_jax.models.huggingface.sentence_transformers import holds_model, read_vectors
from fewshot_jax.models.huggingface.text_tokenizer import COMPANIONS, TOKENIZER_FILES

_COMMIT = re.compile("[0-9a-f]{40}")
_SENTENCE = ("modules.json", "config_sentence_transformers.json", "sentence_*_config.json")
# Patterns of fnmatch, whose * crosses slashes: they begin with what stands at the top of a repository.
_FIRST = ("config.json", *_SENTENCE, "[0-9]_*/config.json")
_SMALL = (
    *_FIRST,
    "README.md",  # whose first lines state the licence
    "generation_config.json",
    *TOKENIZER_FILES,
    *COMPANIONS,
    *(f"0_*/{name}" for name in (*TOKENIZER_FILES, *COMPANIONS)),
    "0_*/sentence_*_config.json",
)
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    "[0-9]_*/model.safetensors",
)
# What of them a repository must have.
_HELD = re.compile(r"(0_[^/]*/)?model\.safetensors|model\.safetensors\.index\.json")
_FOREIGN = {".bin": "pickles", ".pt": "pickles", ".pth": "pickles", ".h5": "HDF5", ".msgpack": "msgpack"}


def fetch(repository: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """Return the directory of a model in the cache, whose name is the commit; what is missing there is fetched.

    A commit that is whole in the cache needs no network. Otherwise the hub is asked what the revision is now; if it
    cannot be reached, what the cache has of it is taken.

    Args:
        repository: ``org/name``.
        revision: branch, tag, ``refs/pr/N`` or commit; None for the main branch.
        weights: without them config and tokenizer alone.

    Raises:
        UserError: there is no such model, or it may not be read, or it has no safetensors, or is of no family that
            is read here, or the hub cannot be reached and the cache is not whole.
    """
    from huggingface_hub import HfApi, snapshot_download

    named = repository if revision is None else f"{repository}@{revision}"
    patterns = [*_SMALL, *(_WEIGHTS if weights else ())]
    if revision is not None and _COMMIT.fullmatch(revision) and _is_whole(repository, revision, weights=weights):
        # Another program may have left out what it did not need: the hub is asked where its list of files is not kept.
        with contextlib.suppress(Exception):
            snapshot_download(repository, revision=revision, allow_patterns=patterns)
        kept, lacking = _kept(repository, revision, weights=weights)
        if kept is not None and not lacking:
            return kept
    try:
        info = HfApi().model_info(repository, revision=revision)
    except Exception as error:
        kept, lacking = (None, []) if _says_no_revision(error) else _kept(repository, revision, weights=weights)
        if kept is None:
            raise _refused(repository, revision, error) from error
        _check_whole(named, kept, lacking)
        return kept
    names = [one.rfilename for one in info.siblings or ()]
    if not any(map(_HELD.fullmatch, names)):
        raise UserError(f"{named}: {_without_safetensors(repository, names)}")
    try:
        # First what may refuse the model, before gigabytes are on their way.
        directory = Path(snapshot_download(repository, revision=revision, allow_patterns=list(_FIRST)))
        body = read_vectors(directory).body
        if (body / "config.json").is_file():
            read_model_config(body)
        snapshot_download(repository, revision=directory.name, allow_patterns=patterns)
    except UserError:
        raise
    except Exception as error:
        raise _refused(repository, revision, error) from error
    _check_whole(named, directory, missing_files(directory, weights=weights))
    return directory


def missing_files(directory: Path, *, weights: bool = True) -> list[str]:
    """Return what a directory lacks to be a whole model, as a download that was interrupted leaves it."""
    if not holds_model(directory):
        return ["config.json"]
    if not weights:
        return []
    homes = [directory, *sorted(directory.glob("0_*"))]
    if any((home / "model.safetensors").is_file() for home in homes):
        return []
    index = directory / "model.safetensors.index.json"
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        return [name for name in shards if not (directory / name).is_file()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ["model.safetensors"]


def _check_whole(named: str, directory: Path, missing: list[str]) -> None:
    if missing:
        listed = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise UserError(
            f"{named}: is not whole in the cache, which lacks {listed} ({directory}); fetch it where there is a "
            f"network: 'fewshot-jax models get {named}'"
        )


def _kept(repository: str, revision: str | None, *, weights: bool) -> tuple[Path | None, list[str]]:
    """Return the directory that the cache has of a revision, and what it is known to lack; the hub is not asked."""
    from huggingface_hub import snapshot_download

    patterns = [one for one in (*_SMALL, *(_WEIGHTS if weights else ())) if one != "README.md"]
    found: str | None
    lacking: list[str] = []
    try:
        found = snapshot_download(repository, revision=revision, allow_patterns=patterns, local_files_only=True)
    except Exception as error:  # of a snapshot that is not whole it says where it lies
        found, lacking = getattr(error, "snapshot_path", None), ["some of its files"]
    if found is None:
        return None, []
    return Path(found), missing_files(Path(found), weights=weights) or lacking


def _is_whole(repository: str, revision: str, *, weights: bool) -> bool:
    kept, lacking = _kept(repository, revision, weights=weights)
    return kept is not None and not lacking


def _says_no_revision(error: Exception) -> bool:
    from huggingface_hub.errors import RevisionNotFoundError

    return isinstance(error, RevisionNotFoundError)


def _without_safetensors(repository: str, names: list[str]) -> str:
    """Say what a repository holds that has no safetensors, and what to do."""
    if "adapter_config.json" in names:
        return "holds an adapter of peft; give the name of its base model, and read the adapter with fsj.load_adapter"
    if gguf := [name for name in names if name.endswith(".gguf")]:
        return (
            f"holds {len(gguf)} .gguf file{'s' if len(gguf) > 1 else ''} and no safetensors; fetch one, 'hf download "
            f"{repository} {gguf[0]}', and give the path that it prints"
        )
    if other := [name for name in names if name.endswith(".safetensors") and "/" not in name]:
        return f"holds {other[0]}, and no model.safetensors, which alone is read; give another model or revision"
    foreign = next((name for name in names if Path(name).suffix in _FOREIGN), None)
    if foreign is None:
        return "holds no weights in safetensors; give another model"
    what = _FOREIGN[Path(foreign).suffix]
    return (
        f"has no safetensors, only {foreign}; {what} are not read, as pickles can run code. Look for a conversion at "
        f"{_url(repository)}/discussions and give its revision ('{repository}@refs/pr/N'), or convert it with "
        "transformers and torch: from_pretrained, then save_pretrained"
    )


def _url(repository: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repository}"


def _refused(repository: str, revision: str | None, error: Exception) -> UserError:
    """Return the message on what huggingface_hub raised."""
    from huggingface_hub import constants, errors

    named = repository if revision is None else f"{repository}@{revision}"
    login = "log in with 'hf auth login' or set HF_TOKEN"
    if isinstance(error, errors.GatedRepoError):
        return UserError(f"{named}: is gated; ask for access at {_url(repository)}, then {login}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            f"{named}: no such directory here, and no such model at {constants.ENDPOINT}; check the name, and if the "
            f"model is private {login}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{named}: the model has no revision '{revision}'; {_revisions(repository)}")
    if isinstance(error, errors.HFValidationError):
        return UserError(f"{named}: is no name of a model ({first_line(error)}); give org/name or org/name@revision")
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno is not None):
        return UserError(
            f"{named}: cannot be fetched into the cache {constants.HF_HUB_CACHE} ({error.strerror or error}); set "
            "HF_HOME to a directory that can be written and has the room"
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = f"it answers {status}" if status else first_line(error)
    remedy = f"fetch it where there is a network, 'fewshot-jax models get {named}'"
    if constants.HF_HUB_OFFLINE or isinstance(error, errors.OfflineModeIsEnabled):
        reason, remedy = "HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE where there is a network"
    return UserError(
        f"{named}: no such directory here, not in the cache ({constants.HF_HUB_CACHE}), and {constants.ENDPOINT} "
        f"cannot be asked ({reason}); {remedy}, or give a directory"
    )


def _revisions(repository: str) -> str:
    """Say which revisions there are, as far as the hub tells."""
    from huggingface_hub import HfApi

    try:
        refs: Any = HfApi().list_repo_refs(repository)
        names = [one.name for one in (*refs.branches, *refs.tags)]
    except Exception:  # the message is about another thing
        names = []
    return f"it has {', '.join(names[:8])}" if names else f"see {_url(repository)}/tree/main for what it has"

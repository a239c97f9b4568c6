"""Which model a name means.

| name | is |
|---|---|
| a directory | a Hugging Face or sentence-transformers directory, or a run of 'fewshot-jax pretrain' |
| ``FILE.gguf`` | a GGUF file |
| ``org/name``, ``org/name@revision`` | a model of the Hugging Face hub |
| ``package:NAME`` | the model inside an installed Python package |
| ``default`` | the encoder that ships with this package |

A directory that exists wins over a model of the hub.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fewshot_jax.errors import UserError
from fewshot_jax.models.gguf.file import is_gguf, read_file
from fewshot_jax.models.huggingface.sentence_transformers import holds_model, read_vectors
from fewshot_jax.models.huggingface.text_tokenizer import COMPANIONS, TOKENIZER_FILES
from fewshot_jax.models.sources.hints import meant
from fewshot_jax.models.sources.package import PACKAGE, find_in_package

DEFAULT = "default"
MODEL_OF_A_RUN = "model"  # where a run keeps the Hugging Face directory of its model
KINDS_OF_NAMES = (
    "a Hugging Face or sentence-transformers directory, a .gguf file, 'org/name' or 'org/name@revision' of the Hugging "
    "Face hub, 'package:NAME', or 'default'"
)
_PACKAGED = Path(__file__).parents[1] / DEFAULT
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[A-Za-z0-9][\w./-]*)?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """The files of a model.

    Attributes:
        name: finds the same files again, from any directory: an absolute path, ``org/name@commit``, ``package:NAME``
            or ``default``.
        path: of the directory, or of the GGUF file.
        kind: of the name.
        revision: the commit of a model of the hub, the version of a package; None of other files.
    """

    name: str
    path: Path
    kind: Literal["directory", "gguf", "hub", "package", "default"]
    revision: str | None = None

    def record(self) -> dict[str, str | None]:
        """Return what tells the model again: its name, the revision where it has one, and the hash of its files.

        Of the hub the commit says it all; gigabytes need not be hashed.
        """
        return {
            "name": self.name,
            "revision": self.revision,
            "sha256": None if self.kind == "hub" else self.hash(),
        }

    def hash(self) -> str:
        """Return the SHA-256 of config, tokenizer and weights, by which two models are told apart."""
        if self.path.is_dir():
            _, body, dense = read_vectors(self.path)
            folders = dict.fromkeys((self.path, body, *dense))
            files = [file for folder in folders for file in sorted(folder.iterdir()) if _tells_a_model(file)]
        else:
            parts = {tensor.file for tensor in read_file(self.path).tensors.values()}
            files = sorted({self.path, *parts})
        hashes = hashlib.sha256()
        for file in files:
            with file.open("rb") as content:
                hashes.update(hashlib.file_digest(content, "sha256").digest())
        return hashes.hexdigest()


def _tells_a_model(file: Path) -> bool:
    """Whether a file of a directory is a part of its config, tokenizer or weights.

    A tokenizer.json says all of a tokenizer; the files that it was made of count where there is none.
    """
    if file.suffix in (".safetensors", ".json"):
        return True
    return file.name in (*TOKENIZER_FILES, *COMPANIONS) and not (file.parent / "tokenizer.json").is_file()


def find_files(name: str | Path, *, weights: bool = True) -> ModelFiles:
    """Find the files of a model; those of the hub are fetched where the cache lacks them.

    Args:
        name: see the module.
        weights: fetch the weights too; without them config and tokenizer alone.

    Raises:
        UserError: there is no such model, or it cannot be fetched.
    """
    given, path = str(name), Path(name).expanduser()
    if given == DEFAULT:
        return ModelFiles(name=DEFAULT, path=_PACKAGED, kind="default")
    if given.startswith(PACKAGE):
        path, version = find_in_package(given.removeprefix(PACKAGE))
        return ModelFiles(name=given, path=path, kind="package", revision=version)
    if given and path.is_dir():
        return ModelFiles(name=str(path.resolve()), path=_directory_of(path), kind="directory")
    if is_gguf(path) and path.is_file():
        # A link stays one: what it points to, in the hub's cache, has another name.
        return ModelFiles(name=str(path.absolute()), path=path, kind="gguf")
    if given and path.exists():
        raise UserError(f"{name}: is a file, and no .gguf file; give the directory of the model")
    if is_gguf(path) or not is_of_hub(given):
        what = "no such file" if is_gguf(path) else "no such directory"
        raise UserError(f"{name}: {what}{meant(given)}; give {KINDS_OF_NAMES}")
    from fewshot_jax.models.sources.hub import fetch

    repository, _, revision = given.partition("@")
    path = fetch(repository, revision or None, weights=weights)
    return ModelFiles(name=f"{repository}@{path.name}", path=path, kind="hub", revision=path.name)


def is_of_hub(name: str) -> bool:
    """Whether a name has the form of a model of the hub, and there is no such directory or file here."""
    return _REPOSITORY.fullmatch(name) is not None and ".." not in name and not Path(name).expanduser().exists()


def lasting_name(name: str) -> str:
    """Return a name that means the same model from any directory, and of the hub the same revision.

    Paths are not checked; of the hub, config and tokenizer are fetched.

    Raises:
        UserError: there is no such model on the hub, or the hub cannot be reached.
    """
    if name == DEFAULT or name.startswith(PACKAGE):
        return name
    if is_of_hub(name):
        return find_files(name, weights=False).name
    path = Path(name).expanduser()
    if not path.exists():  # the message is to say what the user said
        return name
    return str(path.absolute() if is_gguf(path) else path.resolve())


def short_name(name: str) -> str:
    """Return what a reader calls a model: a directory without those above it, a model of the hub without the commit."""
    return Path(name).name if Path(name).is_absolute() else name.partition("@")[0]


def tokenizer_home(name: str) -> Path:
    """Return what should hold a named tokenizer: a directory that may have no more than that, or a model's.

    Raises:
        UserError: as of `find_files`.
    """
    directory = Path(name).expanduser()
    if directory.is_dir() and not (directory / "config.yaml").is_file() and not holds_model(directory):
        return directory
    return read_vectors(find_files(name, weights=False).path).body


def _directory_of(directory: Path) -> Path:
    """Return a directory itself, or the one that a pretraining run has in it.

    Raises:
        UserError: neither holds a model.
    """
    if holds_model(directory):
        return directory
    inside = directory / MODEL_OF_A_RUN
    if (directory / "config.yaml").is_file() and holds_model(inside) and any(inside.glob("*.safetensors")):
        return inside
    names = sorted(one.name for one in directory.iterdir())
    held = f"{', '.join(names[:3])}{' and more' if len(names) > 3 else ''}" if names else "nothing"
    what = f"holds {held}, which is no model; give {KINDS_OF_NAMES}"
    if (directory / "adapter_config.json").exists():
        what = (
            "holds an adapter in peft's format; give the directory of its base model, and read the adapter with "
            "fsj.load_adapter"
        )
    elif (directory / "model.json").exists():
        alone = f"; its encoder alone is {inside}" if any(inside.glob("*.safetensors")) else ""
        what = f"is a model that adapt made, which fsj.load and 'fewshot-jax predict' read{alone}"
    elif (directory / "config.yaml").exists() and (directory / "data.json").exists():
        what = (
            "is a run of 'fewshot-jax train'; 'fewshot-jax export RUN --output DIR' writes its model as a directory "
            "that can be named here"
        )
    elif (directory / "config.yaml").exists():
        what = "has no model yet; let 'fewshot-jax pretrain' finish"
    elif found := sorted(directory.glob("*.gguf")):
        what = f"holds {found[0].name}, and no config.json; give the file: {found[0]}"
    raise UserError(f"{directory}: {what}")

"""The directory of an adapted model, written whole or not at all.

model.safetensors    what the learner adapted: parameters, prototypes, examples to read
model/               of a pretrained encoder: its directory, with its adapted weights
model.json           config, versions, and the label names of a classifier
tokenizer.json, tokenizer_config.json
README.md            the model card, of a classifier that was cross-validated
examples.jsonl       what it was adapted to, so that more can be added
"""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fewshot_jax import strict_json
from fewshot_jax.adaptation.encoder_files import ENCODER, read_encoder
from fewshot_jax.atomic_write import atomic_directory, cannot_write
from fewshot_jax.config import Config
from fewshot_jax.config_file import from_dict, to_dict
from fewshot_jax.errors import UserError
from fewshot_jax.models.huggingface.writer import TensorSource, write_tensors
from fewshot_jax.runs.directory import check_writable, describe_path
from fewshot_jax.types import PyTree
from fewshot_jax.versions import versions

EXAMPLES = "examples.jsonl"


def check_output(directory: Path) -> None:
    """Raise a UserError if a model cannot be saved as a new directory."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory}: exists and is not an empty directory; give another --output")
    check_writable(directory, flag="--output")


def finite_on_host(adapted: PyTree) -> PyTree:
    """What a learner adapted, on the host.

    Raises:
        UserError: it diverged.
    """
    adapted = jax.device_get(adapted)
    if (
        weights_not_finite({jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(adapted)})
        is not None
    ):
        raise UserError(
            "adapting to these examples gives numbers that are not finite. The inner rate is too large for them (train "
            "the run with a lower inner.rate), or the weights of the run are damaged."
        )
    return adapted


def weights_not_finite(arrays: Mapping[str, Any]) -> str | None:
    """The name of the first array that holds a number that is not finite."""
    floats = ((name, leaf) for name, leaf in arrays.items() if jnp.issubdtype(leaf.dtype, jnp.floating))
    return next((name for name, leaf in floats if not np.isfinite(leaf).all()), None)


def save_model(
    directory: str | Path,
    adapted: PyTree,
    config: Config | None,
    record: Mapping[str, Any],
    write_tokenizer: Callable[[Path], None],
    files: Mapping[str, str] = MappingProxyType({}),
    elsewhere: Collection[str] = (),
) -> None:
    """Write a model to a new directory.

    Args:
        directory: absent or empty.
        adapted: nested dicts of arrays.
        config: of the run; None of a model that has none.
        record: what else ``model.json`` says.
        write_tokenizer: into the directory, and the weights ``elsewhere``.
        files: texts of further files, by name.
        elsewhere: paths of weights that model.safetensors does not hold.

    Raises:
        UserError: the directory exists and is not empty, or cannot be written, or a weight is not finite.
    """
    directory = Path(directory)
    check_output(directory)
    arrays = {name: np.asarray(leaf) for name, leaf in flatten_dict(adapted, sep="/").items()}
    if (name := weights_not_finite(arrays)) is not None:
        raise UserError(
            f"{directory}: the weights '{name}' are not all finite numbers. Nothing is saved; adapt again, with a "
            "lower inner.rate in the config of the run."
        )
    content = {**record, **({} if config is None else {"config": to_dict(config)}), "versions": versions()}
    model = strict_json.dumps(content, directory / "model.json", strict_json.DIVERGED, indent=2)
    try:
        with atomic_directory(directory) as partial:
            kept = ((name, array) for name, array in arrays.items() if name not in elsewhere)
            write_tensors(partial / "model.safetensors", map(_tensor, kept))
            write_tokenizer(partial)
            for name, text in {**files, "model.json": f"{model}\n"}.items():
                (partial / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise cannot_write(directory, error, "--output") from None


def _tensor(named: tuple[str, np.ndarray]) -> TensorSource:
    name, array = named
    return TensorSource(name, array.dtype, array.shape, lambda: array)


def read_model(directory: Path) -> tuple[PyTree, Config | None, dict[str, Any]]:
    """What `save_model` wrote: the adapted tree, the config, and ``model.json``.

    Raises:
        UserError: the directory holds no such model.
        Exception: whatever a torn or edited file leads to; the caller says that the model is damaged.
    """
    from safetensors.numpy import load_file

    if not (directory / "model.json").exists():
        found = describe_path(directory, "holds no adapted model (it has no model.json)")
        raise UserError(
            f"{directory}: {found}; expected a model that adapt saved: 'fewshot-jax adapt MODEL --data FILE --output "
            "DIR' makes one"
        )
    record = json.loads((directory / "model.json").read_text(encoding="utf-8"))
    arrays = load_file(directory / "model.safetensors")
    if ENCODER in record:
        arrays |= read_encoder(directory, record[ENCODER])
    if (name := weights_not_finite(arrays)) is not None:
        raise ValueError(f"the weights '{name}' in model.safetensors are not all finite numbers")
    adapted = unflatten_dict(arrays, sep="/")
    if "kind" in record:  # a model without a run
        return adapted, None, record
    return adapted, from_dict(record["config"], source=str(directory / "model.json")), record

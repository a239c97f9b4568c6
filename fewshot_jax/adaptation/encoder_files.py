"""The pretrained encoder of a saved classifier: a model's directory of its own, which holds its adapted weights.

transformers and sentence-transformers load it, and its weights are stored nowhere else.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fewshot_jax.applications.text_model import MODEL_OF_A_RUN, TextModel
from fewshot_jax.models.huggingface.families import reading_head
from fewshot_jax.models.huggingface.load import load_pretrained
from fewshot_jax.models.huggingface.pretrained import Pretrained, leaves_of, read_model_config
from fewshot_jax.models.huggingface.save import write_pretrained
from fewshot_jax.models.huggingface.vector_files import dense_shapes
from fewshot_jax.types import PyTree

ENCODER = "encoder"  # in model.json: what stands before the paths of the features, whose encoder has its directory
_TRANSFORMER, _DENSE = "encoder/transformer/", "vectors/"


class Stored(NamedTuple):
    """How what a learner adapted is stored.

    Attributes:
        write: writes into a directory what reads the texts, and the weights of ``elsewhere``.
        record: what ``model.json`` says of it.
        elsewhere: paths of the weights that ``write`` stores.
    """

    write: Callable[[Path], None]
    record: Mapping[str, Any] = MappingProxyType({})
    elsewhere: frozenset[str] = frozenset()


def store_encoder(model: TextModel, adapted: PyTree) -> Stored:
    """Store the encoder of adapted features as the directory of a pretrained model.

    What the model's directory cannot hold (LoRA, the head, n-grams) is left to the caller; so is all of it where the
    weights of one encoder are not all among them in float32.
    """
    flat = flatten_dict(adapted, sep="/")
    transformer = {path: leaf.shape for path, leaf in leaves_of(model.module).items()}
    dense = {"/".join(path): shape for path, shape in flatten_dict(dense_shapes(model.vectors.shape)).items()}
    places = {path[: path.index(_TRANSFORMER)] for path in flat if _TRANSFORMER in path}
    if model.home is None or len(places) != 1:
        return Stored(model.save)
    (place,) = places
    wanted = {place + _TRANSFORMER + path: shape for path, shape in transformer.items()}
    wanted |= {place + _DENSE + path: shape for path, shape in dense.items()}
    if any(path not in flat or flat[path].shape != shape for path, shape in wanted.items()):
        return Stored(model.save)
    if any(flat[path].dtype != np.float32 for path in wanted):
        return Stored(model.save)
    config = read_model_config(model.home)
    pretrained = Pretrained(
        config=config,
        module=model.module,
        head=reading_head(config),
        params=unflatten_dict({path: flat[place + _TRANSFORMER + path] for path in transformer}, sep="/"),
        path=model.home,
        vectors=model.vectors,
        dense_params=unflatten_dict({path: flat[place + _DENSE + path] for path in dense}, sep="/"),
    )

    def write(directory: Path) -> None:
        model.save(directory)
        write_pretrained(directory / MODEL_OF_A_RUN, pretrained)

    return Stored(write, {ENCODER: place}, frozenset(wanted))


def read_encoder(directory: Path, place: str) -> dict[str, np.ndarray]:
    """Read the weights that `store_encoder` stored, by their paths.

    Args:
        directory: of the saved classifier.
        place: from ``model.json``.

    Raises:
        UserError: they are missing or damaged.
    """
    home = directory / MODEL_OF_A_RUN
    pretrained = load_pretrained(home, head=reading_head(read_model_config(home)))
    parts = {_TRANSFORMER: pretrained.params, _DENSE: pretrained.dense_params}
    return {
        place + part + path: np.asarray(leaf)
        for part, params in parts.items()
        for path, leaf in flatten_dict(params, sep="/").items()
    }

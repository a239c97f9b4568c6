"""Examples that an adapted model reads before each text, kept without their padding."""

import jax
import numpy as np

from fewshot_jax.applications.text_to_text import READ, WRITTEN, examples_before, examples_before_swapped
from fewshot_jax.config import Config
from fewshot_jax.types import Batch, PyTree


def packed(adapted: PyTree, config: Config) -> PyTree:
    """What a learner adapted; examples of a context as one row without padding, whose slots are its positions.

    Under jit only shapes are known, so padding would count against the positions of the model.
    """
    if config.learner.name != "metaicl":
        return adapted
    return {**adapted, "support": _one_row(jax.device_get(adapted["support"]), channel=config.learner.channel)}


def _one_row(support: Batch, *, channel: bool) -> Batch:
    """All examples as the source of one, whose target is empty: in either form of a context it reads the same."""
    none = np.zeros((1, 0), np.int32)
    query = {READ[0]: none, READ[1]: none.astype(bool), WRITTEN[0]: none, WRITTEN[1]: none.astype(bool)}
    joined = (examples_before_swapped if channel else examples_before)(support, query)
    ids, seen = np.asarray(joined["context_ids"]), np.asarray(joined["context_mask"])
    ids = ids[seen][None]
    return {**query, READ[0]: ids, READ[1]: np.ones(ids.shape, bool), "mask": np.ones(1, bool)}

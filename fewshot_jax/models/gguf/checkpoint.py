"""The tensors of a GGUF file under the names and in the layouts of transformers, dequantised one at a time."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from fewshot_jax.errors import UserError
from fewshot_jax.models.gguf.architectures import ARCHITECTURES, Undo, architecture_name, gguf_config, undo_of
from fewshot_jax.models.gguf.file import AGAIN, GGUFFile, read_file
from fewshot_jax.models.gguf.stored_tensor import StoredTensor, dequantised
from fewshot_jax.models.huggingface.families import FAMILIES
from fewshot_jax.models.huggingface.family import FamilyConfig
from fewshot_jax.models.mapped_files import MappedTensors

# Frequencies of rotary positions: part of the config, or a constant that old files hold.
_NOT_WEIGHTS = re.compile(r"rope_freqs\.weight|blk\.\d+\.attn_rot_embd(\..*)?")


class RestoredTensor(NamedTuple):
    """A tensor as transformers has it: its description, and how it comes from the stored one."""

    dtype: np.dtype
    shape: tuple[int, ...]
    stored: StoredTensor
    transposed: bool
    undo: Undo | None


class GGUFCheckpoint(MappedTensors):
    """The tensors of a file, for as long as the ``with`` block lasts.

    Attributes:
        tensors: name in transformers -> RestoredTensor; what the family has no name for keeps that of the file.

    Raises:
        UserError: the file is damaged, or is of an architecture that is not read.
    """

    tensors: Mapping[str, RestoredTensor]

    def __init__(self, path: Path):
        super().__init__()
        file = read_file(path)
        self._config = gguf_config(file)
        architecture = ARCHITECTURES[architecture_name(file)]
        tensors: dict[str, RestoredTensor] = {}
        for name, own in transformers_names(file, self._config).items():
            stored = file.tensors[own]
            transposed, undo = undo_of(architecture, name)
            shape = stored.shape[::-1] if transposed else stored.shape
            tensors[name] = RestoredTensor(stored.dtype, shape, stored, transposed, undo)
        self.tensors = MappingProxyType(tensors)

    def view(self, name: str) -> np.ndarray:
        """The tensor: float32 if it is quantised, otherwise as it lies in the file, on which it is a view.

        Raises:
            KeyError: there is no such tensor.
            UserError: the file has gone or shrunk since its header was read.
        """
        tensor = self.tensors[name]
        array = dequantised(self._files, tensor.stored)
        if tensor.transposed:
            array = array.T
        if tensor.undo is None:
            return array
        try:
            return tensor.undo(array, self._config)
        except ValueError:  # a shape that does not go with the config
            raise UserError(
                f"{tensor.stored.file}: {name} has shape {list(array.shape)}, unlike its metadata. {AGAIN}"
            ) from None

    def release(self, name: str) -> None:
        """Drop a tensor's pages from resident memory."""
        stored = self.tensors[name].stored
        self._files.release(stored.file, stored.start, stored.stop)


def transformers_names(file: GGUFFile, config: FamilyConfig) -> dict[str, str]:
    """Names in transformers to names in the file, of all its weights.

    The gguf package knows both: it is asked for each name of the family, in a model with the head and without.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    name, family = architecture_name(file), FAMILIES[config.model_type]
    kind = next(kind for kind, own in MODEL_ARCH_NAMES.items() if own == name)
    known = get_tensor_name_map(kind, config.num_hidden_layers)
    prefix = family.prefix if "causal_lm" in family.heads else ""
    rules = [*(rule.under(prefix) for rule in family.body), *family.heads.get("causal_lm", ())]
    found: dict[str, str] = {}
    for rule in rules:
        for layer in range(config.num_hidden_layers if rule.leading else 1):
            modern = rule.source.format(layer)
            own = known.get_name(modern, (".weight", ".bias"))
            if own is not None and own in file.tensors:
                found[modern] = own
    taken = set(found.values())
    return found | {own: own for own in file.tensors if own not in taken and not _NOT_WEIGHTS.fullmatch(own)}

"""Writes golden.json: what transformers with torch computes for the tiny models.

python -m tests.models.huggingface.write_golden
"""

import json
import tempfile
from pathlib import Path

import numpy as np

import fewshot_jax as fsj
from fewshot_jax.models.huggingface.families import FAMILIES
from fewshot_jax.models.huggingface.pretrained import Pretrained
from tests.models.huggingface.tiny import CONFIGS, tiny

FILE = Path(__file__).with_name("golden.json")
FIELDS = ("last_hidden_state", "logits", "start_logits", "end_logits", "pooler_output")
CASES = [(name, kind) for name, (model, _) in CONFIGS.items() for kind in FAMILIES[model].architectures]
# Longer than every window and than T5's exact distances; one row has padding.
LENGTH, REAL = 24, np.array([24, 15])
MASK = (np.arange(LENGTH) < REAL[:, None]).astype(np.int64)
IDS = np.where(MASK, 3 + np.arange(2 * LENGTH).reshape(2, LENGTH) * 7 % 37, 0)
IDS[np.arange(2), REAL - 1] = 2
DECODER_IDS = np.array([[0, 8, 6], [0, 5, 11]])


def inputs(pretrained: Pretrained) -> dict[str, np.ndarray]:
    both = pretrained.module.shape.encoder is not None and pretrained.module.shape.decoder is not None
    given = {"input_ids": IDS, "attention_mask": MASK}
    # A classifier of the whole text shifts its own input.
    return {**given, "decoder_input_ids": DECODER_IDS} if both and pretrained.head != "classification" else given


def excerpt(array: np.ndarray) -> list[float]:
    """Eight numbers of each sequence, spread over its real tokens."""
    numbers: list[float] = []
    for row, real in zip(np.asarray(array, np.float64), REAL, strict=True):
        flat = (row[:real] if len(row) == LENGTH else row).reshape(-1)
        numbers += flat[np.linspace(0, flat.size - 1, 8).astype(int)].tolist()
    return [round(number, 7) for number in numbers]


def main() -> None:
    import torch
    import transformers

    golden = {}
    for name, kind in CASES:
        pretrained = tiny(name, kind)
        with tempfile.TemporaryDirectory() as directory:
            fsj.save_pretrained(directory, pretrained)
            architecture = getattr(transformers, FAMILIES[CONFIGS[name][0]].architectures[kind])
            model = architecture.from_pretrained(directory, attn_implementation="eager").eval()
        with torch.no_grad():
            out = model(**{key: torch.tensor(value) for key, value in inputs(pretrained).items()})
        golden[f"{name}/{kind}"] = {
            field: excerpt(out[field].numpy()) for field in FIELDS if out.get(field) is not None
        }
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    FILE.write_text(json.dumps({"versions": versions, "golden": golden}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

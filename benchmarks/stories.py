"""A real pretrained model: its greedy text, token by token, and its way through a save and a load.

    python benchmarks/stories.py DATA/stories260k/hf

DATA/stories260k/hf is a directory that transformers wrote, with expected_greedy.json: ids that torch generated.
Exits with 1 if a single id differs.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import fewshot_jax as fsj
from fewshot_jax.models.generation import generate


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory
    expected = json.loads((directory / "expected_greedy.json").read_text(encoding="utf-8"))
    ids = next(value for value in expected.values() if isinstance(value, list) and len(value) > 100)
    with tempfile.TemporaryDirectory() as copy:
        fsj.save_pretrained(copy, fsj.load_pretrained(directory))
        for name, where in (("loaded", directory), ("saved and loaded again", Path(copy))):
            pretrained = fsj.load_pretrained(where)
            prompt = jnp.array([ids[:1]])
            out = generate(pretrained.module, pretrained.params, prompt, max_new_tokens=len(ids) - 1)
            same = np.array_equal(out.ids[0], ids[1:])
            count = sum(leaf.size for leaf in jax.tree.leaves(pretrained.params))
            print(f"{name}: {count:,} parameters, {len(ids) - 1} greedy tokens {'equal' if same else 'DIFFER'}")
            if not same:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

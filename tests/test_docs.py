"""What the README shows works."""

import re
from pathlib import Path

import pytest

from fewshot_jax.cli.arguments import parse
from fewshot_jax.cli.main import COMMANDS
from fewshot_jax.config import Config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
# A block that loads a saved model needs the one that the text before it made.
RUNNABLE = [block for block in BLOCKS if "fsj.load(" not in block]


def write_gpt2(directory):
    """The pretrained model that a block loads, a tiny one with random numbers."""
    import jax
    import jax.numpy as jnp
    from transformers import GPT2Config

    import fewshot_jax as fsj
    from fewshot_jax.models.huggingface.pretrained import Pretrained, build, initial_params

    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    module = build(config, "causal_lm", jnp.float32)
    params = initial_params(module, jax.random.key(0))
    fsj.save_pretrained(directory, Pretrained(config=config, module=module, params=params, head="causal_lm"))


def test_the_python_blocks_run_in_the_order_in_which_they_are_read(tmp_path, monkeypatch):
    assert RUNNABLE
    monkeypatch.chdir(tmp_path)
    write_gpt2(tmp_path / "my-gpt2")
    names = {"__name__": "readme"}
    for number, block in enumerate(RUNNABLE):
        exec(compile(block, f"README.md, block {number}", "exec"), names)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_python_block_uses_public_names(number):
    import fewshot_jax as fsj

    used = set(re.findall(r"\bfsj\.(\w+)", BLOCKS[number]))
    assert used <= set(fsj.__all__)


def test_the_commands_exist():
    named = set(re.findall(r"fewshot-jax ([a-z]+)\b", README))
    assert named
    assert named <= COMMANDS.keys()


def test_the_flags_of_config_fields_are_read_as_they_stand_there():
    spans = re.findall(r"`(--[a-z_]+\.[^`]+)`", README)
    assert spans
    for span in spans:
        parse(Config, "train", span.split(), default=Config())


def test_the_configs_exist():
    named = set(re.findall(r"\bconfigs/[\w.-]+\.yaml", README))
    assert "configs/quickstart.yaml" in named
    assert all((ROOT / name).is_file() for name in named)

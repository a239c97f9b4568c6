"""The language model of a config, new or pretrained, and how its tokenizer is used."""

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from fewshot_jax.config import Config
from fewshot_jax.data.sequences import Codec
from fewshot_jax.data.tokenization import load_tokenizer, save_tokenizer, train_tokenizer
from fewshot_jax.errors import UserError
from fewshot_jax.models.huggingface.fresh import new_model, new_params
from fewshot_jax.models.huggingface.pretrained import Pretrained, build, initial_params, read_config
from fewshot_jax.models.lora import lora
from fewshot_jax.models.transformer import Transformer
from fewshot_jax.types import Key, Params

if TYPE_CHECKING:
    pass

TOKENIZER, CODEC = "tokenizer", "codec.json"  # in a run directory: the folder, and the tokens around texts in it
MODEL_OF_A_RUN = "model"  # where a pretraining run keeps its Hugging Face directory
# ``[(role, text), ...] -> source``, of a tokenizer with a chat template.
Render = Callable[[Sequence[tuple[str, str]]], str]


@dataclass(frozen=True)
class LanguageModel:
    """A model and its tokenizer.

    Attributes:
        module: a decoder, or an encoder and a decoder.
        init_params: ``rng -> params``: those of the checkpoint, where there is one.
        scratch_params: the same, initialised; None where `init_params` is that.
        codec: of its texts.
        render: its chat template; None where it has none.
    """

    module: Transformer
    init_params: Callable[[Key], Params]
    scratch_params: Callable[[Key], Params] | None
    codec: Codec
    render: Render | None = None


def directory_of(path: str) -> Path:
    """The Hugging Face directory that ``model.pretrained`` names: itself, or that of a pretraining run.

    Raises:
        UserError: there is none.
    """
    directory = Path(path).expanduser()
    for candidate in (directory, directory / MODEL_OF_A_RUN):
        if (candidate / "config.json").is_file():
            return candidate
    what = (
        "has no model yet; let 'fewshot-jax pretrain' finish"
        if (directory / "config.yaml").exists()
        else ("holds no config.json; give a Hugging Face directory or a run of 'fewshot-jax pretrain'")
    )
    raise UserError(f"{directory}: {what} (model.pretrained)")


def language_model(
    config: Config, *, keep_end: bool, texts: Callable[[], list[str]], saved: Path | None = None, weights: bool = True
) -> LanguageModel:
    """Build the model of a config.

    Args:
        config: of the run.
        keep_end: a source that is too long loses its beginning.
        texts: to train a tokenizer on, called only if that is needed.
        saved: the run's directory, where it has one.
        weights: read the checkpoint's; without them `init_params` gives initial values, for shapes.

    Raises:
        UserError: the checkpoint or the tokenizer cannot be used.
    """
    pretrained = config.model.pretrained
    dtype = jnp.dtype(config.model.compute_dtype)
    if saved is not None:
        tokenizer, around = load_tokenizer(saved / TOKENIZER), _read_codec(saved / TOKENIZER / CODEC)
        render = None if pretrained is None else _render(_tokenizer(directory_of(pretrained))) if weights else None
    elif pretrained is not None:
        of_model = _tokenizer(directory_of(pretrained))
        tokenizer, around, render = of_model.backend_tokenizer, _around(of_model, config), _render(of_model)
    else:
        sizes = config.tokenizer
        tokenizer = train_tokenizer(texts(), kind=sizes.kind, vocab_size=sizes.vocab_size)
        around, render = {}, None
    codec = Codec(
        tokenizer=tokenizer,
        **around,
        max_length=config.tokenizer.max_length,
        target_max_length=config.tokenizer.target_max_length,
        buckets=config.tokenizer.buckets,
        target_buckets=config.tokenizer.target_buckets,
        keep_end=keep_end,
        refuse=config.tokenizer.too_long == "refuse",
    )
    codec.check_size()
    loaded: Params | None = None
    if pretrained is None:
        model = new_model(
            config.model.architecture,
            vocab_size=tokenizer.get_vocab_size(),
            width=config.model.width,
            layers=config.model.layers,
            heads=config.model.heads,
            mlp_width=config.model.mlp_width,
            dropout=config.model.dropout,
            compute_dtype=dtype,
        )
        module = model.module
    elif weights:
        model = _load(directory_of(pretrained), dtype)
        module, loaded = model.module, model.params
    else:
        module = build(read_config(saved / MODEL_OF_A_RUN if saved else directory_of(pretrained)), "causal_lm", dtype)
    rank = config.model.lora_rank
    adapted: Any = lora(rank=rank).active if rank else nullcontext

    def scratch(rng: Key) -> Params:
        with adapted():
            return new_params(module, rng) if pretrained is None else initial_params(module, rng)

    def start(rng: Key) -> Params:
        assert loaded is not None
        own = flatten_dict(scratch(rng)) if rank else {}
        return unflatten_dict({**own, **flatten_dict(loaded)})

    if loaded is None:
        return LanguageModel(module, scratch, None, codec, render)
    return LanguageModel(module, start, scratch, codec, render)


def save_language_model(model: LanguageModel, config: Config, run: Path) -> None:
    """Write the tokenizer, the tokens around texts, and of a pretrained model its config, into a run directory."""
    import shutil

    directory = run / TOKENIZER
    save_tokenizer(model.codec.tokenizer, directory)
    codec = model.codec
    around = {"begin": codec.begin, "middle": codec.middle, "end": codec.end, "pad": codec.pad}
    (directory / CODEC).write_text(json.dumps(around) + "\n", encoding="utf-8")
    if config.model.pretrained is not None:
        (run / MODEL_OF_A_RUN).mkdir(exist_ok=True)
        shutil.copyfile(directory_of(config.model.pretrained) / "config.json", run / MODEL_OF_A_RUN / "config.json")


def _read_codec(path: Path) -> dict[str, Any]:
    around = json.loads(path.read_text(encoding="utf-8"))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in around.items()}


def _load(directory: Path, dtype: jnp.dtype) -> Pretrained:
    from fewshot_jax.models.huggingface.load import load_pretrained

    return load_pretrained(directory, head="causal_lm", dtype=jnp.float32, compute_dtype=dtype)


def _tokenizer(directory: Path) -> Any:
    """The fast tokenizer of a Hugging Face directory."""
    from fewshot_jax.models.huggingface.pretrained import TOKENIZER_FILES

    if not any((directory / name).exists() for name in TOKENIZER_FILES):
        raise UserError(f"{directory}: has no tokenizer; save one beside the model (model.pretrained)")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a stranger's file raises in there
        raise UserError(f"{directory}: the tokenizer cannot be read ({error})") from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise UserError(f"{directory}: has a tokenizer without tokenizer.json; save it again as a fast one")
    return tokenizer


def _around(tokenizer: Any, config: Config) -> dict[str, Any]:
    """The special tokens of a pretrained model, put where ours stand."""
    begin = [i for i in (tokenizer.bos_token_id, tokenizer.cls_token_id) if i is not None][:1]
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    if end is None:
        raise UserError(f"{config.model.pretrained}: its tokenizer names no token that ends a text (eos_token)")
    if tokenizer.sep_token_id is not None:
        middle = [tokenizer.sep_token_id]
    elif config.model.architecture == "encoder_decoder":
        begin, middle = [], [end]  # as T5 reads its texts
    else:
        middle = tokenizer.encode("\n", add_special_tokens=False) or [end]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
    return {"begin": tuple(begin), "middle": tuple(middle), "end": end, "pad": pad}


def _render(tokenizer: Any) -> Render | None:
    if not getattr(tokenizer, "chat_template", None):
        return None

    def render(turns: Sequence[tuple[str, str]]) -> str:
        messages = [{"role": role, "content": text} for role, text in turns]
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    return render

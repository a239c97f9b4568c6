"""The language model of a config, new or pretrained, and how its tokenizer is used."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from fewshot_jax.config import Config
from fewshot_jax.data.pretraining.objectives import vocabulary_of
from fewshot_jax.data.sequences import Codec
from fewshot_jax.data.tokenization import load_tokenizer, save_tokenizer, train_tokenizer
from fewshot_jax.errors import UserError
from fewshot_jax.models.huggingface.fresh import new_model, new_params
from fewshot_jax.models.huggingface.pretrained import Pretrained, build, read_config
from fewshot_jax.models.huggingface.text_tokenizer import load_text_tokenizer
from fewshot_jax.models.lora import lora
from fewshot_jax.models.transformer import HeadKind, Transformer
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
        module: a decoder, an encoder and a decoder, or an encoder that points to spans.
        init_params: ``rng -> params``: those of the checkpoint, where there is one.
        scratch_params: the same, initialised; None where `init_params` is that.
        codec: of its texts.
        render: its chat template; None where it has none, or none is asked for.
        home: the directory of a pretrained model's config and tokenizer; None of a new model.
    """

    module: Transformer
    init_params: Callable[[Key], Params]
    scratch_params: Callable[[Key], Params] | None
    codec: Codec
    render: Render | None = None
    home: Path | None = None


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


def fingerprint_of_model(path: str) -> str:
    """A hash of the weights and the tokenizer that ``model.pretrained`` names."""
    files = sorted(file for file in directory_of(path).iterdir() if file.suffix in (".safetensors", ".json"))
    hashes = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            hashes.update(hashlib.file_digest(content, "sha256").digest())
    return hashes.hexdigest()


def language_model(
    config: Config,
    *,
    texts: Callable[[], list[str]],
    keep_end: bool = False,
    chat: bool = False,
    saved: Path | None = None,
    weights: bool = True,
) -> LanguageModel:
    """Build the model of a config.

    Args:
        config: of the run.
        texts: to train a tokenizer on, called only if that is needed.
        keep_end: a source that is too long loses its beginning.
        chat: sources are written by the chat template of a pretrained model that has one, special tokens included.
        saved: the run's directory, where it has one.
        weights: read the checkpoint's; without them `init_params` gives initial values, for shapes.

    Raises:
        UserError: the checkpoint or the tokenizer cannot be used.
    """
    pretrained = config.model.pretrained
    dtype = jnp.dtype(config.model.compute_dtype)
    home = None
    if pretrained is not None:
        home = directory_of(pretrained) if saved is None else saved / MODEL_OF_A_RUN
    render: Render | None = None
    around: dict[str, Any] = {}
    if home is not None and (saved is None or chat):
        of_model = load_text_tokenizer(home, "model.pretrained")
        render = _render(of_model) if chat else None
        around = _around(of_model, config, str(home), rendered=render is not None)
    if saved is not None:
        tokenizer, around = load_tokenizer(saved / TOKENIZER), _read_codec(saved / TOKENIZER / CODEC)
    elif home is not None:
        tokenizer = of_model.backend_tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()
    else:
        sizes = config.tokenizer
        tokenizer = train_tokenizer(texts(), kind=sizes.kind, vocab_size=sizes.vocab_size)
    codec = Codec(
        tokenizer=tokenizer,
        **around,
        max_length=config.tokenizer.max_length,
        target_max_length=config.tokenizer.target_max_length,
        buckets=config.tokenizer.buckets,
        target_buckets=config.tokenizer.target_buckets,
        keep_end=keep_end,
        refuse=config.tokenizer.too_long == "refuse",
        windows=config.tokenizer.windows,
        stride=config.tokenizer.stride,
    )
    codec.check_size()
    head: HeadKind = "span" if config.model.architecture == "encoder" else "causal_lm"
    loaded: Params | None = None
    if pretrained is None:
        model = new_model(
            config.model.architecture,
            vocab_size=tokenizer.get_vocab_size(),
            width=config.model.width,
            layers=config.model.layers,
            heads=config.model.heads,
            mlp_width=config.model.mlp_width,
            head=head,
            dropout=config.model.dropout,
            compute_dtype=dtype,
        )
        module = model.module
    elif weights:
        model = _load(directory_of(pretrained), head, dtype)
        module, loaded = model.module, model.params
    else:
        assert home is not None
        module = build(read_config(home), head, dtype)
    _check_architecture(config, module)
    if tokenizer.get_vocab_size() > module.shape.vocab_size:
        raise UserError(
            f"{pretrained}: the tokenizer has {tokenizer.get_vocab_size()} tokens, the model embeddings for "
            f"{module.shape.vocab_size}; give a model with its own tokenizer (model.pretrained)"
        )
    rank = config.model.lora_rank
    adapted: Any = lora(rank=rank).active if rank else nullcontext

    def scratch(rng: Key) -> Params:
        with adapted():
            return new_params(module, rng)

    def start(rng: Key) -> Params:
        assert loaded is not None
        given = jax.tree.map(jnp.array, loaded)  # a copy: the first step of training gives its buffers away
        return unflatten_dict({**flatten_dict(scratch(rng)), **flatten_dict(given)}) if rank else given

    if loaded is None:
        return LanguageModel(module, scratch, None, codec, render, home)
    return LanguageModel(module, start, scratch, codec, render, home)


def save_language_model(model: LanguageModel, run: Path) -> None:
    """Write a run's tokenizer, the tokens around its texts, and the config and templates of a pretrained model."""
    directory, codec = run / TOKENIZER, model.codec
    if model.home is None:
        save_tokenizer(codec.tokenizer, directory)
    else:
        directory.mkdir(parents=True, exist_ok=True)
        codec.tokenizer.save(str(directory / "tokenizer.json"))
        load_text_tokenizer(model.home, "model.pretrained").save_pretrained(str(run / MODEL_OF_A_RUN))
        shutil.copyfile(model.home / "config.json", run / MODEL_OF_A_RUN / "config.json")
    around = {"begin": codec.begin, "middle": codec.middle, "end": codec.end, "pad": codec.pad}
    (directory / CODEC).write_text(json.dumps(around) + "\n", encoding="utf-8")


def _read_codec(path: Path) -> dict[str, Any]:
    around = json.loads(path.read_text(encoding="utf-8"))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in around.items()}


def _load(directory: Path, head: HeadKind, dtype: jnp.dtype) -> Pretrained:
    from fewshot_jax.models.huggingface.load import load_pretrained

    return load_pretrained(directory, head=head, dtype=jnp.float32, compute_dtype=dtype)


def _check_architecture(config: Config, module: Transformer) -> None:
    """Raise a UserError where a pretrained model is not what ``model.architecture`` says."""
    stacks = [name for name in ("encoder", "decoder") if getattr(module.shape, name) is not None]
    if (found := "_".join(stacks)) != config.model.architecture:
        raise UserError(
            f"{config.model.pretrained}: this model is of architecture '{found}', not '{config.model.architecture}'; "
            "set model.architecture to it"
        )


def _around(tokenizer: Any, config: Config, where: str, *, rendered: bool) -> dict[str, Any]:
    """The special tokens of a pretrained model, put where ours stand; a chat template puts its own."""
    own = vocabulary_of(tokenizer, where)
    begin = [] if own.start is None else [own.start]
    if rendered:
        begin, middle = [], []
    elif tokenizer.sep_token_id is not None:
        middle = [tokenizer.sep_token_id]
    elif config.model.architecture == "encoder_decoder":
        begin, middle = [], [own.end]  # as T5 reads its texts
    else:
        middle = tokenizer.encode("\n", add_special_tokens=False) or [own.end]
    return {"begin": tuple(begin), "middle": tuple(middle), "end": own.end, "pad": own.pad}


def _render(tokenizer: Any) -> Render | None:
    if not getattr(tokenizer, "chat_template", None):
        return None

    def render(turns: Sequence[tuple[str, str]]) -> str:
        begins = next((i for i, (role, _) in enumerate(turns) if role == "user"), 0)  # templates want the user first
        messages = [{"role": role, "content": text} for role, text in turns[begins:]]
        try:
            return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # whatever a stranger's template raises
            said = turns[-1][1]
            raise UserError(
                f"the model's chat template refuses the dialogue that ends '{said[:60]}' ({error})"
            ) from error

    return render

"""The language model of a config, new or pretrained, and how its tokenizer is used."""

import dataclasses
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

from fewshot_jax import strict_json
from fewshot_jax.atomic_write import atomic_files, write_text
from fewshot_jax.config import Config
from fewshot_jax.config.applications import HEADS
from fewshot_jax.data.pretraining.objectives import vocabulary_of
from fewshot_jax.data.sequences import Codec
from fewshot_jax.data.tokenization import load_tokenizer, save_tokenizer, train_tokenizer
from fewshot_jax.errors import UserError
from fewshot_jax.models.huggingface.fresh import new_module, new_params
from fewshot_jax.models.huggingface.pretrained import Pretrained, build, read_config
from fewshot_jax.models.huggingface.text_tokenizer import check_rows, load_text_tokenizer, padding_alone
from fewshot_jax.models.lora import lora
from fewshot_jax.models.transformer import HeadKind, ModelShape, Transformer
from fewshot_jax.types import Key, Params

if TYPE_CHECKING:
    from tokenizers import Tokenizer

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
    missing = "holds no config.json" if directory.exists() else "no such directory"
    what = f"{missing}; give a Hugging Face directory or a run of 'fewshot-jax pretrain'"
    if (directory / "config.yaml").exists() and (directory / "data.json").exists():
        what = "is a run of 'fewshot-jax train', whose model starts no other; give what it started from"
    elif (directory / "config.yaml").exists():
        what = "has no model yet; let 'fewshot-jax pretrain' finish"
    raise UserError(f"{directory}: {what} (model.pretrained)")


def fingerprint_of_model(config: Config) -> dict[str, str]:
    """A hash of the weights and the tokenizer that ``model.pretrained`` names, under that name; {} for none."""
    given = config.model.pretrained
    if given is None:
        return {}
    files = sorted(file for file in directory_of(given).iterdir() if file.suffix in (".safetensors", ".json"))
    hashes = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            hashes.update(hashlib.file_digest(content, "sha256").digest())
    return {"model.pretrained": hashes.hexdigest()}


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
    home = None
    if config.model.pretrained is not None:
        home = directory_of(config.model.pretrained) if saved is None else saved / MODEL_OF_A_RUN
        read_config(home)  # what is wrong with it tells more than what is wrong with the tokenizer beside it
    tokenizer, around, render = _tokenizer(config, texts, chat, saved, home)
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
    module, loaded = _module(config, tokenizer.get_vocab_size(), home, weights)
    if home is not None:
        codec = _with_rows(codec, module.shape.vocab_size, home, str(config.model.pretrained))
        codec = _with_positions(codec, config, module.shape)
    codec.check_size()
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


def _tokenizer(
    config: Config, texts: Callable[[], list[str]], chat: bool, saved: Path | None, home: Path | None
) -> tuple["Tokenizer", dict[str, Any], Render | None]:
    """The tokenizer, the tokens around texts, and the chat template where one is asked for and there."""
    of_model = None if home is None or (saved is not None and not chat) else load_text_tokenizer(home)
    render = _render(of_model) if chat and of_model is not None else None
    if saved is not None:
        return load_tokenizer(saved / TOKENIZER), _read_codec(saved / TOKENIZER / CODEC), render
    if of_model is None:
        sizes = config.tokenizer
        return train_tokenizer(texts(), kind=sizes.kind, vocab_size=sizes.vocab_size), {}, None
    tokenizer = of_model.backend_tokenizer
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer, _around(of_model, config, str(home), rendered=render is not None), render


def _module(config: Config, tokens: int, home: Path | None, weights: bool) -> tuple[Transformer, Params | None]:
    """The module of a config, and the checkpoint's parameters where they are read."""
    model, dtype = config.model, jnp.dtype(config.model.compute_dtype)
    classifies = config.kind in HEADS  # by a head of its own, on the hidden states
    head: HeadKind | None = None if classifies else "span" if model.architecture == "encoder" else "causal_lm"
    if model.pretrained is None:
        sizes = {name: getattr(model, name) for name in ("width", "layers", "heads", "mlp_width", "dropout")}
        made = new_module(model.architecture, vocab_size=tokens, head=head, compute_dtype=dtype, **sizes)
        return made[1], None
    assert home is not None
    if weights:
        pretrained = _load(directory_of(model.pretrained), head, dtype)
        module, loaded = pretrained.module, pretrained.params
    else:
        module, loaded = build(read_config(home), head, dtype), None
    found = module.shape.architecture
    if classifies and found == "encoder_decoder":
        raise UserError(f"{model.pretrained}: a classifier reads with one stack; give an encoder or a decoder")
    if not classifies and found != model.architecture:
        raise UserError(
            f"{model.pretrained}: this model is of architecture '{found}', not '{model.architecture}'; "
            "set model.architecture to it"
        )
    return module, loaded


def _with_rows(codec: Codec, rows: int, home: Path, where: str) -> Codec:
    """The codec of a model with so many embeddings; a padding token that has none gives way to the end.

    Raises:
        UserError: another token has none.
    """
    tokens = codec.tokenizer.get_vocab()
    if max(tokens.values()) < rows:
        return codec
    check_rows(tokens, rows, where, padding=padding_alone(load_text_tokenizer(home)))
    pad = codec.pad if codec.pad < rows else codec.end
    return dataclasses.replace(codec, pad=pad, rows=rows)


def _with_positions(codec: Codec, config: Config, shape: ModelShape) -> Codec:
    """The codec of a model that may have fewer positions than a config's texts have tokens."""
    last = shape.last
    if config.kind in HEADS or shape.decoder is None:
        return codec.shorter(source=last.max_length)
    if shape.encoder is not None:
        return codec.shorter(source=shape.encoder.max_length, target=last.max_length)
    if last.max_length is None:
        return codec
    # One table for the source and for the target after it, which has at most half of it.
    target = min(codec.target_max_length, last.max_length // 2)
    return codec.shorter(source=last.max_length - target, target=target)


def notes_on_cut(codec: Codec) -> list[str]:
    """How many texts of a classification were too long and cut, in words; nothing where none was."""
    if not (count := codec.cut[0]):
        return []
    many = f"{count} text has" if count == 1 else f"{count} texts have"
    return [
        f"{many} more than {codec.max_length} tokens; the rest is not read ({codec.remedy('tokenizer.max_length')})"
    ]


def save_language_model(model: LanguageModel, run: Path) -> None:
    """Write a run's tokenizer, the tokens around its texts, and the config and templates of a pretrained model."""
    directory, codec = run / TOKENIZER, model.codec
    if model.home is None:
        save_tokenizer(codec.tokenizer, directory)
    else:
        with atomic_files(directory) as partial:
            codec.tokenizer.save(str(partial / "tokenizer.json"))
        with atomic_files(run / MODEL_OF_A_RUN, last="config.json") as partial:
            load_text_tokenizer(model.home).save_pretrained(str(partial))
            shutil.copyfile(model.home / "config.json", partial / "config.json")
    around = {"begin": codec.begin, "middle": codec.middle, "end": codec.end, "pad": codec.pad}
    write_text(directory / CODEC, strict_json.dumps(around) + "\n")


def _read_codec(path: Path) -> dict[str, Any]:
    try:
        around = json.loads(path.read_text(encoding="utf-8"))
        return {name: tuple(value) if isinstance(value, list) else value for name, value in around.items()}
    except (OSError, ValueError, AttributeError):
        raise UserError(f"{path}: is missing or damaged; restore it, or train or adapt again") from None


def _load(directory: Path, head: HeadKind | None, dtype: jnp.dtype) -> Pretrained:
    from fewshot_jax.models.huggingface.load import load_pretrained

    return load_pretrained(directory, head=head, dtype=jnp.float32, compute_dtype=dtype)


def _around(tokenizer: Any, config: Config, where: str, *, rendered: bool) -> dict[str, Any]:
    """The special tokens of a pretrained model, put where ours stand; a chat template puts its own."""
    own = vocabulary_of(tokenizer, where)
    points = config.kind not in HEADS and config.model.architecture == "encoder"  # at a span of the second text
    two_stacks = config.model.architecture == "encoder_decoder" and config.kind not in HEADS
    begin, middle = _template(tokenizer.backend_tokenizer, own.start, pair=points)
    if rendered:
        begin, middle = [], []
    elif middle and (points or two_stacks or tokenizer.sep_token_id is not None):
        pass  # as the tokenizer's own template has it; what ends a text that a decoder goes on with is left out
    elif tokenizer.sep_token_id is not None:
        middle = [tokenizer.sep_token_id]
    elif two_stacks:
        begin, middle = [], [own.end]  # as T5 reads its texts
    else:
        middle = tokenizer.encode("\n", add_special_tokens=False) or [own.end]
    return {"begin": tuple(begin), "middle": tuple(middle), "end": own.end, "pad": own.pad}


def _template(tokenizer: "Tokenizer", start: int | None, *, pair: bool) -> tuple[list[int], list[int]]:
    """The ids that a tokenizer puts before a text and after it, or between it and a second one.

    Args:
        tokenizer: with its template.
        start: of what stands before a text where the tokenizer makes nothing of the letter that is tried.
        pair: of two texts.
    """
    read = tokenizer.encode(*(("a", "a") if pair else ("a",)))
    of = read.sequence_ids  # None at what the template adds
    if 0 not in of or (pair and 1 not in of):
        return [] if start is None else [start], []
    stop = len(of) - of[::-1].index(0)
    return read.ids[: of.index(0)], read.ids[stop : of.index(1) if pair else len(of)]


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

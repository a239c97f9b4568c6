"""The tokenizer of a config, new or pretrained, and the tokens that it puts around texts."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_jax.applications.languages import with_languages
from fewshot_jax.config import Config
from fewshot_jax.data.pretraining.objectives import vocabulary_of
from fewshot_jax.data.sequences import Codec
from fewshot_jax.data.tokenization import load_tokenizer, train_tokenizer
from fewshot_jax.errors import UserError
from fewshot_jax.models.huggingface.embedding import lower_case
from fewshot_jax.models.huggingface.sentence_transformers import TextVectors
from fewshot_jax.models.huggingface.text_tokenizer import (
    check_rows,
    load_text_tokenizer,
    padding_alone,
    read_target_tokenizer,
)
from fewshot_jax.models.transformer import ModelShape

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER, CODEC = "tokenizer", "codec.json"  # in a run directory: the folder, and the tokens around texts in it
TARGET_TOKENIZER = "target"  # in that folder: the tokenizer of what is written, where it is another one
_NEW_CLASSIFIER: dict[str, Any] = {"middle": ()}  # a text after [CLS], with nothing behind it; it keeps no codec
# ``[(role, text), ...] -> source``, of a tokenizer with a chat template.
Render = Callable[[Sequence[tuple[str, str]]], str]


def open_codec(
    config: Config,
    saved: Path | None,
    home: Path | None,
    texts: Callable[[], Sequence[str]],
    vectors: TextVectors,
) -> tuple[Codec, Render | None]:
    """Open the tokenizer of a config, or train one, and read its chat template where the config asks for it.

    Args:
        config: of the run.
        saved: directory of the run or of the saved model; None where there is none yet.
        home: directory of a pretrained model's config and tokenizer; None of a new model.
        texts: to train a tokenizer on, called only if that is needed.
        vectors: how a pretrained model's directory says that its texts are read.

    Raises:
        UserError: the tokenizer cannot be used.
    """
    tokenizer, around, render = _tokenizer(config, texts, saved, home, vectors)
    sizes = config.tokenizer
    codec = Codec(
        tokenizer=tokenizer,
        **around,
        max_length=sizes.max_length,
        target_max_length=sizes.target_max_length,
        buckets=sizes.buckets,
        target_buckets=sizes.target_buckets,
        keep_end=config.record.chat,
        refuse=sizes.too_long == "refuse",
        windows=sizes.windows,
        stride=sizes.stride,
    )
    return codec, render


def codec_of_model(codec: Codec, config: Config, shape: ModelShape, home: Path) -> Codec:
    """Return the codec of a pretrained model, which may have fewer tokens or positions than the tokenizer or config.

    Raises:
        UserError: a token has no embedding.
    """
    codec = _with_rows(codec, shape.vocab_size, home, str(config.model.pretrained))
    return _with_positions(codec, config, shape)


def _tokenizer(
    config: Config,
    texts: Callable[[], Sequence[str]],
    saved: Path | None,
    home: Path | None,
    vectors: TextVectors,
) -> tuple["Tokenizer", dict[str, Any], Render | None]:
    """Return the tokenizer, the tokens around texts, and the chat template where one is asked for and exists."""
    chat = config.record.chat
    of_model = None if home is None or (saved is not None and not chat) else load_text_tokenizer(home)
    render = _render(of_model) if chat and of_model is not None else None
    if saved is not None:
        folder = saved if (saved / "tokenizer.json").is_file() else saved / TOKENIZER
        around = dict(_NEW_CLASSIFIER) if home is None and config.record.head else _read_codec(folder / CODEC)
        if (folder / TARGET_TOKENIZER).is_dir():
            around["target_tokenizer"] = load_tokenizer(folder / TARGET_TOKENIZER)
        return load_tokenizer(folder), around, render
    if of_model is None:
        sizes = config.tokenizer
        around = dict(_NEW_CLASSIFIER) if config.record.head else {}
        return train_tokenizer(texts(), kind=sizes.kind, vocab_size=sizes.vocab_size), around, None
    tokenizer = of_model.backend_tokenizer
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if vectors.lower_case:
        lower_case(tokenizer)
    around = _around(of_model, config, str(home), rendered=render is not None, exact=vectors.stated)
    if home is not None and config.record.pairs and config.model.architecture == "encoder_decoder":
        around = with_languages(around, of_model, config, home)
        around["target_tokenizer"] = read_target_tokenizer(home)
    return tokenizer, {**around, "prompt": vectors.prompt(None)}, render


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
    if config.record.head or shape.decoder is None:
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


def _read_codec(path: Path) -> dict[str, Any]:
    try:
        around = json.loads(path.read_text(encoding="utf-8"))
        return {name: tuple(value) if isinstance(value, list) else value for name, value in around.items()}
    except (OSError, ValueError, AttributeError):
        raise UserError(f"{path}: is missing or damaged; restore it, or train or adapt again") from None


def _around(tokenizer: Any, config: Config, where: str, *, rendered: bool, exact: bool) -> dict[str, Any]:
    """The special tokens of a pretrained model, put where ours stand; a chat template puts its own.

    Args:
        tokenizer: with its template.
        config: of the run.
        where: of what a message speaks.
        rendered: whether a chat template is used.
        exact: whether a text has what the template adds and nothing else.
    """
    own = vocabulary_of(tokenizer, where)
    points = not config.record.head and config.model.architecture == "encoder"  # at a span of the second text
    two_stacks = config.model.architecture == "encoder_decoder" and not config.record.head
    begin, middle = _template(tokenizer.backend_tokenizer, own.start, pair=points)
    if rendered:
        begin, middle = [], []
    elif exact:
        pass
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

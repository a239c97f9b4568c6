"""The tokenizer of a directory that transformers wrote or of a GGUF file, and whether a model has a row for each of
its tokens.
"""

import base64
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_jax.errors import UserError, first_line, require
from fewshot_jax.models.gguf.file import is_gguf
from fewshot_jax.models.gguf.tokenizer import holds_tokenizer, tokenizer_of
from fewshot_jax.models.huggingface.sentencepiece_pair import PAIR_FILES, pair_of, source_tokenizer, target_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

_SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model")
# One of them is a tokenizer.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", *_SENTENCEPIECE, "vocab.txt", "vocab.json")
# What may stand beside it.
COMPANIONS = (
    *("merges.txt", "added_tokens.json", "special_tokens_map.json", "chat_template.jinja"),
    *(name for name in PAIR_FILES if name not in TOKENIZER_FILES),
)


def has_tokenizer(path: Path) -> bool:
    """Whether a directory holds a tokenizer, or a GGUF file describes one."""
    if is_gguf(path):
        return holds_tokenizer(path)
    return any((path / name).is_file() for name in TOKENIZER_FILES)


def read_tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    """Read the tokenizer of a directory, as transformers does, or of a GGUF file.

    Of Marian's two tokenizers it is that of the source.

    Raises:
        UserError: its files are damaged or incomplete, or need a package that is not installed.
    """
    if is_gguf(path):
        return tokenizer_of(path)
    if (pair := pair_of(path)) is not None:
        return source_tokenizer(pair)
    _check_complete(path)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        if tokenizer.is_fast:
            _restore_normalization(path, tokenizer.backend_tokenizer)
        return tokenizer
    except Exception as error:  # whatever a stranger's file raises in there
        raise UserError(
            f"{path}: the tokenizer cannot be read ({first_line(error)}); copy its files again from where the model "
            "came from, or write them with transformers' save_pretrained"
        ) from error


def read_target_tokenizer(path: Path) -> "Tokenizer | None":
    """Read the tokenizer of what a model writes, where it is another one than that of what it reads (Marian).

    Raises:
        UserError: its files are damaged, or need a package that is not installed.
    """
    pair = None if is_gguf(path) else pair_of(path)
    return None if pair is None else target_tokenizer(pair)


def copied_files(path: Path | None) -> tuple[str, ...]:
    """The files of a directory's tokenizer that must be copied to keep it, as they hold more than the fast form."""
    pair = None if path is None or is_gguf(path) else pair_of(path)
    return () if pair is None else pair.names


def load_text_tokenizer(path: Path, field: str | None = None) -> "PreTrainedTokenizerBase":
    """Read the tokenizer of a directory or of a GGUF file, which must be of the fast kind.

    Args:
        path: the directory, or the file.
        field: of the config that names it, for messages; None where a model's own directory is meant.

    Raises:
        UserError: there is none, or it cannot be read, or is of the slow kind.
    """
    named = "" if field is None else f" ({field})"
    if not has_tokenizer(path):
        what = "no such directory"
        if path.exists():
            what = "holds no tokenizer" if is_gguf(path) else "holds no tokenizer (no tokenizer.json)"
        raise UserError(
            f"{path}: {what}; expected a directory that transformers' save_pretrained wrote, with its tokenizer{named}"
        )
    try:
        tokenizer = read_tokenizer(path)
    except UserError as error:
        raise UserError(f"{error}{named}") from error
    require(tokenizer.is_fast, f"{path}: this tokenizer has no tokenizer.json; save a fast one there{named}")
    return tokenizer


def padding_alone(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The id of a padding token that is no other special token as well; None where there is none."""
    special = {"bos_token", "eos_token", "cls_token", "sep_token", "unk_token", "mask_token"}
    used = {tokenizer.special_tokens_map.get(name) for name in special}
    return None if tokenizer.pad_token in used else tokenizer.pad_token_id


def check_rows(tokens: Mapping[str, int], rows: int, where: str, *, padding: int | None) -> None:
    """Refuse a tokenizer with ids that a model's embedding does not have, whether or not a text uses them.

    Args:
        tokens: each token's id, added tokens included.
        rows: of the embedding.
        where: of what the message speaks.
        padding: id of the padding token, which alone may lack a row: it is masked; None for no such token.

    Raises:
        UserError: an id is too large; it names the token, both numbers and the remedy.
    """
    beyond = sorted((index, token) for token, index in tokens.items() if index >= rows and index != padding)
    if not beyond:
        return
    index, token = beyond[0]
    more = f" ({len(beyond)} tokens are beyond it)" if len(beyond) > 1 else ""
    largest = max(tokens.values())
    # A name that stands twice in vocab.txt takes two ids, and counts once in the tokenizer's length.
    twice = f"; its {len(tokens)} tokens have ids up to {largest}: a token may stand twice in its vocabulary"
    raise UserError(
        f"{where}: the tokenizer's token '{token}' has the id {index}, and the model's embedding has {rows} rows, for "
        f"ids up to {rows - 1}{more}{twice if largest >= len(tokens) else ''}. Give the embedding a row for each id "
        f"(transformers: model.resize_token_embeddings({largest + 1}), then save_pretrained), or put the tokenizer "
        "beside it that it was trained with"
    )


def _restore_normalization(path: Path, tokenizer: Any) -> None:
    """Give a tokenizer the SentencePiece normalization of its files where transformers' class has none.

    transformers 5 builds DeBERTa's pipeline itself and leaves out the table of characters (ligatures, full-width
    letters, special spaces) that the file holds and the model was trained with.
    """
    from tokenizers import models, normalizers

    if not isinstance(tokenizer.model, models.Unigram):
        return
    read = None if tokenizer.normalizer is None else json.loads(tokenizer.normalizer.__getstate__())
    if any(_tables(read)) or (table := _stored_table(path)) is None:
        return
    own = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Precompiled(table), *own])


def _stored_table(path: Path) -> bytes | None:
    """The table of characters of a tokenizer.json or, where there is none, of a SentencePiece model."""
    if (path / "tokenizer.json").is_file():
        content = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
        return next((base64.b64decode(table) for table in _tables(content.get("normalizer"))), None)
    from sentencepiece import sentencepiece_model_pb2

    schema: Any = sentencepiece_model_pb2  # its classes are made when it is imported
    model = schema.ModelProto()
    model.ParseFromString(next(path / name for name in _SENTENCEPIECE if (path / name).is_file()).read_bytes())
    return model.normalizer_spec.precompiled_charsmap or None


def _tables(normalizer: Any) -> Iterator[str]:
    """The tables of characters of a normalizer as tokenizer.json describes it."""
    if isinstance(normalizer, dict):
        if normalizer.get("type") == "Precompiled" and normalizer.get("precompiled_charsmap"):
            yield normalizer["precompiled_charsmap"]
        for one in normalizer.get("normalizers") or ():
            yield from _tables(one)


def _check_complete(path: Path) -> None:
    """Refuse files whose reader would name another package, or nothing, as what it lacks."""
    if (path / "tokenizer.json").is_file():
        return
    for file in (path / name for name in _SENTENCEPIECE if (path / name).is_file()):
        with file.open("rb") as content:
            plain = file.name == "tokenizer.model" and content.read(1) != b"\n"  # no protocol buffers
        package, install = ("tiktoken", "tiktoken") if plain else ("sentencepiece", "'fewshot-jax[sentencepiece]'")
        require(
            importlib.util.find_spec(package) is not None,
            f"{file}: reading it takes the package {package}, which is not installed; run pip install {install}, or "
            "put a tokenizer.json beside it, which takes none",
        )
        if not plain:
            _check_sentencepiece(file)
    if (path / "vocab.json").is_file() and not (path / "merges.txt").is_file():
        raise UserError(
            f"{path}: the tokenizer's vocab.json has no merges.txt beside it; copy that too, or a tokenizer.json, from "
            "where the model came from"
        )


def _check_sentencepiece(file: Path) -> None:
    """Refuse a damaged model, of which transformers would say that it is another format's."""
    from sentencepiece import SentencePieceProcessor

    try:
        SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"{file}: is no SentencePiece model ({first_line(error)}); copy it again from where the model came from"
        ) from None

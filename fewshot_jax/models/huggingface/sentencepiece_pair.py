"""Tokenizers of translation models whose SentencePiece models know the pieces and whose vocab.json knows their ids.

transformers has no fast form of them. A Marian model (``source.spm``, ``target.spm``) reads with one set of pieces and
writes with another, over the ids of one vocab.json; M2M-100 (``sentencepiece.bpe.model``) has one set for both.

References:
    Kudo, Richardson. SentencePiece. EMNLP 2018, and its sentencepiece_model.proto for the meaning of the fields.
"""

import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fewshot_jax.errors import UserError, first_line, require

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

VOCABULARY, SPACE = "vocab.json", "▁"
_FILES = (("source.spm", "target.spm"), ("sentencepiece.bpe.model", "sentencepiece.bpe.model"))
PAIR_FILES = tuple(dict.fromkeys(name for pair in _FILES for name in pair))
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_HIDDEN = "\x00"  # before a piece that has an id and is not of this side: no text holds it
_UNIGRAM, _BPE, _NORMAL, _USER_DEFINED = 1, 2, 1, 4  # of sentencepiece_model.proto
_UNKNOWN_COSTS = 10.0  # nats more than the rarest piece, as of SentencePiece's unigram model
_SPECIAL = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_LANGUAGE = re.compile(r">>.+<<|__[a-z]{2,3}__")


class SentencePiecePair(NamedTuple):
    """The files of one tokenizer: how it reads, and how it writes; they may be one file."""

    source: Path
    target: Path

    @property
    def names(self) -> tuple[str, ...]:
        """All files that make the tokenizer, as far as they are there."""
        directory = self.source.parent
        beside = (name for name in _BESIDE if (directory / name).is_file())
        return tuple(dict.fromkeys((self.source.name, self.target.name, VOCABULARY, *beside)))


def pair_of(path: Path) -> SentencePiecePair | None:
    """Find the files of such a tokenizer in a directory; None where there are none, or a tokenizer.json."""
    if not (path / VOCABULARY).is_file() or (path / "tokenizer.json").is_file():
        return None
    pairs = (SentencePiecePair(path / source, path / target) for source, target in _FILES)
    return next((pair for pair in pairs if pair.source.is_file() and pair.target.is_file()), None)


def source_tokenizer(pair: SentencePiecePair) -> "PreTrainedTokenizerBase":
    """Build the tokenizer of what is read, which puts the end after a text.

    Raises:
        UserError: a file is damaged, or a package is missing.
    """
    from transformers import PreTrainedTokenizerFast

    _, special, longest = _config(pair.source.parent)
    return PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(pair.source),
        model_max_length=longest,
        clean_up_tokenization_spaces=False,
        **special,
    )


def target_tokenizer(pair: SentencePiecePair) -> "Tokenizer | None":
    """Build the tokenizer of what is written; None where it is that of what is read.

    Raises:
        UserError: as of `source_tokenizer`.
    """
    return None if pair.source == pair.target else _tokenizer(pair.target)


def _tokenizer(file: Path) -> "Tokenizer":
    """Build a tokenizer from a SentencePiece model and the vocab.json beside it."""
    from tokenizers import AddedToken, processors

    ids, special, _ = _config(file.parent)
    model = _read_model(file)
    end = special["eos_token"]
    try:
        tokenizer = _bare(file, model, ids, special)
        languages = [token for token in ids if _LANGUAGE.fullmatch(token)]
        names = dict.fromkeys([*special.values(), *languages])
        tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
        tokenizer.post_processor = processors.TemplateProcessing(f"$A {end}", f"$A $B {end}", [(end, ids[end])])
    except UserError:
        raise
    except Exception as error:  # whatever the tokenizers package raises on a damaged model
        raise UserError(f"{file}: the tokenizer cannot be built ({first_line(error)}); copy it again") from error
    return tokenizer


def _bare(file: Path, model: Any, ids: Mapping[str, int], special: Mapping[str, str]) -> "Tokenizer":
    """The pieces of a model with their ids, and how a text becomes pieces and pieces a text."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    kinds = (_NORMAL, _USER_DEFINED)
    pieces = {piece.piece: piece.score for piece in model.pieces if piece.type in kinds}
    kind, spec = model.trainer_spec.model_type, model.normalizer_spec
    require(
        kind in (_UNIGRAM, _BPE),
        f"{file}: is a SentencePiece model of type {kind}; only unigram (1) and BPE (2) are supported",
    )
    unknown = special["unk_token"]
    if kind == _UNIGRAM:
        # A piece without an id is left out: a text then has smaller ones in its place, and not the unknown token.
        # A letter that only the other side knows has an id all the same; it costs what an unknown letter costs.
        # (transformers looks up a run of such letters as one string, and finds none.)
        rare = min(pieces.values()) - _UNKNOWN_COSTS
        pieces |= {token: rare for token in ids if len(token) == 1 and token not in pieces}
        kept = {*pieces, *special.values(), *filter(_LANGUAGE.fullmatch, ids)}
        names = {index: token if token in kept else _HIDDEN + token for token, index in ids.items()}
        listed = [(names.get(index, f"{_HIDDEN}{index}"), 0.0) for index in range(max(ids.values()) + 1)]
        scored = [(name, pieces.get(name, score)) for name, score in listed]
        tokenizer = Tokenizer(models.Unigram(scored, unk_id=ids[unknown]))
    else:
        if missing := [piece for piece in pieces if piece not in ids]:
            raise UserError(
                f"{file}: {len(missing)} of its pieces have no id in {VOCABULARY} ('{missing[0]}' is the first); put a "
                "tokenizer.json beside it, or the vocab.json that it came with"
            )
        tokenizer = Tokenizer(models.BPE(dict(ids), _merges(pieces), unk_token=unknown, fuse_unk=True))
    before: list[Any] = []
    if spec.precompiled_charsmap:
        before.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        before += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(before)
    scheme = "always" if spec.add_dummy_prefix else "never"
    within = not any(SPACE in piece[1:] for piece in pieces)  # no piece goes on after a space
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=within)
    read_back = decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_HIDDEN, ""), read_back])
    return tokenizer


def _merges(pieces: Mapping[str, float]) -> list[tuple[str, str]]:
    """The pairs of pieces that make a piece, those first whose piece has the largest score."""
    order = sorted(pieces, key=lambda piece: -pieces[piece])
    splits = ((piece[:i], piece[i:]) for piece in order for i in range(1, len(piece)))
    return [(left, right) for left, right in splits if left in pieces and right in pieces]


def _read_model(file: Path) -> Any:
    """The SentencePiece model of a file, by the schema of its package."""
    for package in ("sentencepiece", "google.protobuf"):
        require(
            _is_installed(package),
            f"{file}: reading it takes the package {package.removeprefix('google.')}, which is not installed; run "
            "pip install 'fewshot-jax[sentencepiece]'",
        )
    from sentencepiece import sentencepiece_model_pb2

    schema: Any = sentencepiece_model_pb2  # its classes are made when it is imported
    model = schema.ModelProto()
    try:
        model.ParseFromString(file.read_bytes())
    except Exception as error:  # of protobuf, or of the file system
        raise UserError(f"{file}: is no SentencePiece model ({first_line(error)}); copy it again") from error
    require(bool(model.pieces), f"{file}: is no SentencePiece model (it has no pieces); copy it again")
    return model


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def _config(directory: Path) -> tuple[dict[str, int], dict[str, str], int]:
    """The ids of a directory's tokens, its special tokens by their names, and most tokens of a text."""
    ids, stated = (_read_object(directory / name) for name in (VOCABULARY, "tokenizer_config.json"))
    file = directory / VOCABULARY
    require(
        bool(ids) and all(type(index) is int and index >= 0 for index in ids.values()),
        f"{file}: expected a JSON object of tokens and their ids; copy it again from where the model came from",
    )
    require(
        stated.get("separate_vocabs") in (None, False),
        f"{directory}: its target has a vocabulary of its own (separate_vocabs), which is not supported; take a model "
        "whose two sides share one",
    )
    special = {name: value if isinstance(value := stated.get(name), str) else usual for name, usual in _SPECIAL.items()}
    if missing := [token for token in special.values() if token not in ids]:
        raise UserError(f"{file}: lacks {', '.join(missing)}; copy it again from where the model came from")
    longest = stated.get("model_max_length")
    return {**ids, **_languages(stated, len(ids))}, special, longest if type(longest) is int else int(1e30)


def _languages(stated: Mapping[str, Any], first: int) -> dict[str, int]:
    """The tokens of the languages of an M2M-100, whose ids follow those of vocab.json, in the order of its lists."""
    if "M2M100" not in str(stated.get("tokenizer_class")):
        return {}
    from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

    codes = FAIRSEQ_LANGUAGE_CODES.get(stated.get("language_codes") or "m2m100", [])
    return {f"__{code}__": first + i for i, code in enumerate(codes)}


def _read_object(file: Path) -> dict[str, Any]:
    """The JSON object of a file; {} where there is no file."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({first_line(error)}); copy it again") from None
    require(isinstance(found, dict), f"{file}: is not a JSON object; copy it again")
    return found

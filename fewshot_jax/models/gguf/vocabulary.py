"""The vocabulary of a GGUF file, and the tokenizer of the tokenizers package that has it, by ``tokenizer.ggml.model``.

References:
    Kudo and Richardson. SentencePiece. arXiv:1808.06226.
    Sennrich et al. Neural Machine Translation of Rare Words with Subword Units. arXiv:1508.07909.
    How llama.cpp reads them: https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fewshot_jax.errors import UserError, require
from fewshot_jax.models.gguf.file import AGAIN, GGUFFile, quote
from fewshot_jax.models.gguf.metadata import flag, numbers, texts, token_id
from fewshot_jax.models.gguf.pre_tokenizers import splitting_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPACE = "\u2581"  # of SentencePiece
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of tokens
_NAMES = {  # of the special tokens in transformers, to their metadata keys
    "bos_token": ("bos_token_id",),
    "eos_token": ("eos_token_id",),
    "unk_token": ("unknown_token_id",),
    "sep_token": ("seperator_token_id", "separator_token_id"),  # as llama.cpp spells it
    "pad_token": ("padding_token_id",),
    "cls_token": ("cls_token_id",),
    "mask_token": ("mask_token_id",),
}


class StoredTokens(NamedTuple):
    """The tokens of a file.

    Attributes:
        tokens: by id.
        types: of each token, ``[V]``.
        special: name in transformers, as ``"bos_token"``, to the id.
    """

    tokens: list[str]
    types: np.ndarray
    special: dict[str, int]

    def ids(self) -> dict[str, int]:
        """Each token's id; of a token that stands there twice the first one."""
        return {token: i for i, token in reversed(list(enumerate(self.tokens)))}


class BareTokenizer(NamedTuple):
    """A tokenizer without its special tokens.

    Attributes:
        tokenizer: of the tokenizers package.
        vocabulary: whose tokens it has, written as it writes them.
        before, after: names of the special tokens around a text, unless the file says otherwise.
        matched_as_read: tokens that are no pieces are found in the text after it was normalised.
    """

    tokenizer: "Tokenizer"
    vocabulary: StoredTokens
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    matched_as_read: bool = False


def stored_tokens(file: GGUFFile) -> StoredTokens:
    """Read the tokens.

    Raises:
        UserError: there are none, or a special token's id is not among them.
    """
    tokens = texts(file, "tokenizer.ggml.tokens")
    require(len(tokens) > 0, f"{file.path}: the metadata have no tokens. {AGAIN}")
    types = numbers(file, "tokenizer.ggml.token_type", len(tokens))
    special: dict[str, int] = {}
    for name, keys in _NAMES.items():
        for key in keys:
            index = token_id(file, f"tokenizer.ggml.{key}")
            if index is not None:
                where = f"{file.path}: tokenizer.ggml.{key}={index}"
                require(index < len(tokens), f"{where}: there is no such token. {AGAIN}")
                special[name] = index
    return StoredTokens(tokens, np.full(len(tokens), NORMAL) if types is None else types, special)


def byte_level(file: GGUFFile, found: StoredTokens) -> BareTokenizer:
    """GPT-2's kind: the bytes of words are merged in the order of a list."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    splitting = splitting_of(file)
    merges = [tuple(merge.split(" ")) for merge in texts(file, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(found.ids(), merges, ignore_merges=splitting.whole_words))
    if splitting.composed:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = splitting.pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    return BareTokenizer(tokenizer, found, before=("bos_token",) if splitting.begins else ())


def sentencepiece(file: GGUFFile, found: StoredTokens) -> BareTokenizer:
    """SentencePiece's kind with scores: of all neighbours whose union is a piece, the best piece is made first.

    Where texts get a space before them, what follows a special token gets one too, as in llama.cpp and in Llama 2's
    tokenizer.json.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = numbers(file, "tokenizer.ggml.scores", len(found.tokens))
    if scores is None:
        raise UserError(f"{file.path}: the metadata lack tokenizer.ggml.scores. {AGAIN}")
    # The ids that SentencePiece gives its own where the file is silent, as llama.cpp has them too.
    special = {"unk_token": 0, "bos_token": 1, "eos_token": 2} | found.special
    special = {name: index for name, index in special.items() if index < len(found.tokens)}
    found = found._replace(special=special)
    prefix = flag(file, "tokenizer.ggml.add_space_prefix", True)
    tokenizer = Tokenizer(
        models.BPE(
            found.ids(),
            merges_by_score(found, scores),
            unk_token=found.tokens[special["unk_token"]],
            fuse_unk=True,
            byte_fallback=bool((found.types == BYTE).any()),
        )
    )
    spaces = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if prefix else spaces
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    # A space before a text would be put before each token that is looked for in what was normalised.
    return BareTokenizer(tokenizer, found, before=("bos_token",), matched_as_read=not prefix)


def merges_by_score(found: StoredTokens, scores: np.ndarray) -> list[tuple[str, str]]:
    """The pairs of pieces whose union is a piece, in the order in which SentencePiece merges neighbours.

    It always makes the piece of the highest score. Two pairs that give one piece compete only where they overlap
    (``aa`` ``a`` ``aa``); there it takes the left one, and here the pair whose left part has the lower id comes first.
    Of pieces with one score the lower id comes first: converters that found no scores wrote one number for all, and
    pieces have their ids in the order in which they were learned.
    """
    mergeable = np.flatnonzero(np.isin(found.types, (NORMAL, UNUSED))).tolist()
    rank = {found.tokens[i]: i for i in mergeable}
    merges: list[tuple[float, int, int, int, str, str]] = []
    for piece, index in rank.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in rank and right in rank:
                merges.append((-float(scores[index]), index, rank[left], rank[right], left, right))
    merges.sort()
    return [(left, right) for *_, left, right in merges]


def word_piece(file: GGUFFile, found: StoredTokens) -> BareTokenizer:
    """BERT's kind. Its pieces begin with U+2581 where a word does, and the others with ``##`` in transformers."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokens = found.tokens
    if any(token.startswith(SPACE) for token in tokens):
        tokens = [_piece(token) for token in tokens]
    ids = {token: i for i, token in enumerate(tokens)}
    usual = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
    named = {f"{name}_token": ids[token] for name, token in usual.items() if token in ids}
    found = StoredTokens(tokens, found.types, named | found.special)
    for name in ("unk_token", "cls_token", "sep_token"):
        require(name in found.special, f"{file.path}: the metadata do not say which token is the {name}. {AGAIN}")
    plain = (token for token in tokens if not (token.startswith("[") and token.endswith("]")))
    cased = any(token != token.lower() for token in plain)
    tokenizer = Tokenizer(models.WordPiece(found.ids(), unk_token=tokens[found.special["unk_token"]]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=not cased)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return BareTokenizer(tokenizer, found, before=("cls_token",), after=("sep_token",))


def _piece(token: str) -> str:
    """A piece as BERT's vocabulary has it."""
    if token.startswith("[") and token.endswith("]"):
        return token
    return token[1:] if token.startswith(SPACE) else f"##{token}"


KINDS: dict[str, Callable[[GGUFFile, StoredTokens], BareTokenizer]] = {
    "bert": word_piece,
    "gpt2": byte_level,
    "llama": sentencepiece,
}


def builder_of(file: GGUFFile, name: str) -> Callable[[GGUFFile, StoredTokens], BareTokenizer]:
    """What builds the tokenizers of a kind.

    Raises:
        UserError: the kind is not in the table.
    """
    if name not in KINDS:
        raise UserError(
            f"{file.path}: tokenizer.ggml.model={quote(name)} is not one of {', '.join(KINDS)}; its tokenizer cannot "
            "be read. Take that of the original model, as a Hugging Face directory"
        )
    return KINDS[name]

"""Tokenizers of our own: trained on texts, saved so that transformers loads them.

They put [CLS] before a text, nothing after it: the representation of a text is read there, and a text can
be cut anywhere. Words and their pieces are split as BERT splits them, bytes as GPT-2 does.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from fewshot_jax import strict_json
from fewshot_jax.atomic_write import atomic_files
from fewshot_jax.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Their ids are their positions; models rely on padding being 0.
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PAD, _UNK, _CLS, _SEP, _MASK = SPECIAL_TOKENS
TokenizerKind = Literal["wordpiece", "word", "bpe"]
_MAX_ALPHABET = 1000  # as in BERT: rarer characters become [UNK]


def train_tokenizer(
    texts: Iterable[str],
    *,
    kind: TokenizerKind = "wordpiece",
    vocab_size: int = 4096,
    lowercase: bool | None = None,
    min_frequency: int = 2,
    extra_special: Sequence[str] = (),
) -> "Tokenizer":
    """Train a tokenizer; the same texts give the same one in every process.

    Args:
        texts: the texts.
        kind: "wordpiece" splits rare words into pieces, "word" makes them [UNK]; "bpe" merges bytes,
            knows every text and gives it back when it decodes, but for special tokens spelled out in it, as
            a model that writes needs.
        vocab_size: the largest number of tokens, `SPECIAL_TOKENS` included, of "bpe" the 256 bytes too.
        lowercase: whether to lowercase and strip accents; None for yes, but for "bpe".
        min_frequency: how often a word, or a pair of pieces, must occur to be a token.
        extra_special: further special tokens; their ids follow `SPECIAL_TOKENS`.

    Returns:
        A tokenizer with the template "[CLS] $A" (pairs: "[CLS] $A [SEP] $B").

    Raises:
        UserError: an argument is out of range, or there is no text.

    References:
        Schuster, Nakajima. Japanese and Korean Voice Search. ICASSP 2012 (WordPiece).
        Sennrich, Haddow, Birch. Neural Machine Translation of Rare Words with Subword Units. ACL 2016
        (section 3.2); over bytes: Radford et al. Language Models are Unsupervised Multitask Learners. 2019.
    """
    if isinstance(texts, str):
        raise UserError("texts is one string: give a list of texts.")
    texts = list(texts)
    if kind not in get_args(TokenizerKind):
        raise UserError(f"tokenizer kind '{kind}': choose {' or '.join(map(repr, get_args(TokenizerKind)))}.")
    special = [*SPECIAL_TOKENS, *extra_special]
    least = len(special) + (256 if kind == "bpe" else 2)
    if vocab_size < least:
        raise UserError(f"vocab_size is {vocab_size}: choose at least {least}.")
    if min_frequency < 1:
        raise UserError(f"min_frequency is {min_frequency}: choose at least 1.")
    if not any(text.strip() for text in texts):
        raise UserError("there is no text to train a tokenizer on: give at least one.")
    from tokenizers import processors

    if kind == "bpe":
        tokenizer = _bytes(texts, vocab_size, bool(lowercase), min_frequency, special)
    else:
        tokenizer = _words(texts, kind, vocab_size, lowercase is not False, min_frequency, special)
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_CLS} $A",
        pair=f"{_CLS} $A {_SEP} $B:1",
        special_tokens=[(token, SPECIAL_TOKENS.index(token)) for token in (_CLS, _SEP)],
    )
    return tokenizer


def _bytes(
    texts: Sequence[str], vocab_size: int, lowercase: bool, min_frequency: int, special: list[str]
) -> "Tokenizer":
    """Byte-pair encoding, whose alphabet is fixed: nothing here depends on the order of a hash map."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Lowercase(), normalizers.NFD(), normalizers.StripAccents()]
        )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _words(
    texts: Sequence[str], kind: TokenizerKind, vocab_size: int, lowercase: bool, min_frequency: int, special: list[str]
) -> "Tokenizer":
    """Words, or their pieces, split as BERT splits them."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    blank = Tokenizer(models.WordLevel({}, unk_token=_UNK))
    blank.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    blank.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if kind == "word":
        vocabulary = _word_vocabulary(blank, texts, vocab_size, min_frequency, special)
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_UNK))
    else:
        vocabulary = _wordpiece_vocabulary(blank, texts, vocab_size, min_frequency, special)
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=_UNK))
        tokenizer.decoder = decoders.WordPiece()
    tokenizer.normalizer = blank.normalizer
    tokenizer.pre_tokenizer = blank.pre_tokenizer
    return tokenizer


def _word_vocabulary(
    blank: "Tokenizer", texts: Sequence[str], vocab_size: int, min_frequency: int, special: list[str]
) -> dict[str, int]:
    from tokenizers import trainers

    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=special,
        show_progress=False,
    )
    blank.train_from_iterator(texts, trainer)  # sorts by frequency, then by word
    return blank.get_vocab()


def _wordpiece_vocabulary(
    blank: "Tokenizer", texts: Sequence[str], vocab_size: int, min_frequency: int, special: list[str]
) -> dict[str, int]:
    """Train WordPiece with every tie broken by character, not by hash order.

    Left to itself the trainer numbers the continuations ("##a") in the order of a randomly
    seeded hash map and breaks ties between merges by those numbers, so that two runs give
    two vocabularies. Here they are numbered beforehand, as special tokens of a tokenizer
    that is thrown away, and rare characters are removed from the texts, because the
    trainer's own limit also breaks ties by hash order.
    """
    from tokenizers import Tokenizer, models, trainers

    normalize, split = blank.normalizer.normalize_str, blank.pre_tokenizer.pre_tokenize_str
    normalized = [normalize(text) for text in texts]
    counts: Counter[str] = Counter()
    for text in normalized:
        counts.update(text)
    characters = sorted((c for c in counts if split(c)), key=lambda c: (-counts[c], c))
    # A character may need two tokens, at the start of a word and inside it.
    limit = min(_MAX_ALPHABET, (vocab_size - len(special)) // 2)
    kept, rare = sorted(characters[:limit]), characters[limit:]
    continuations = [f"##{c}" for c in kept if len(split(f"a{c}a")) == 1]

    scratch = Tokenizer(models.WordPiece(unk_token=_UNK))
    scratch.pre_tokenizer = blank.pre_tokenizer
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[*special, *continuations],
        continuing_subword_prefix="##",
        show_progress=False,
    )
    table = str.maketrans(dict.fromkeys(rare, " "))
    scratch.train_from_iterator((text.translate(table) for text in normalized), trainer)
    return scratch.get_vocab()


def save_tokenizer(tokenizer: "Tokenizer", directory: str | PathLike[str]) -> None:
    """Write `tokenizer.json` and the `tokenizer_config.json` that transformers needs.

    `transformers.AutoTokenizer.from_pretrained(directory)` gives the same ids; its ``eos_token`` is [SEP],
    which nothing puts behind a text.

    Raises:
        OSError: the directory cannot be written.
    """
    directory = Path(directory)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": _PAD,
        "unk_token": _UNK,
        "cls_token": _CLS,
        "sep_token": _SEP,
        "mask_token": _MASK,
        "bos_token": _CLS,
        "eos_token": _SEP,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    with atomic_files(directory) as partial:
        tokenizer.save(str(partial / "tokenizer.json"))
        (partial / "tokenizer_config.json").write_text(strict_json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_tokenizer(directory: str | PathLike[str]) -> "Tokenizer":
    """Read `tokenizer.json` from a directory, without its padding and truncation.

    Raises:
        UserError: the file is absent or not a tokenizer.
    """
    from tokenizers import Tokenizer

    path = Path(directory) / "tokenizer.json"
    if not path.is_file():
        raise UserError(
            f"{path}: no such file. Put it back, or name a directory with a saved tokenizer; one "
            "that only has vocab.txt gets the file from transformers' AutoTokenizer and save_pretrained."
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises no narrower type
        raise UserError(f"{path}: not a tokenizer ({error}). Save it again.") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def encode(tokenizer: "Tokenizer", texts: Sequence[str], *, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Encode texts, special tokens included, padded with 0 to the longest.

    A longer text than `max_length` loses its last words, not its special tokens.

    Args:
        tokenizer: a tokenizer; it is not changed.
        texts: `n` texts.
        max_length: the largest length in tokens.

    Returns:
        (ids, lengths): `[n, L]` int32 token ids with `L <= max_length`, and `[n]` int32
        numbers of tokens; no texts give `[0, 0]` and `[0]`.

    Raises:
        UserError: `max_length` leaves no room for text beside the special tokens.
    """
    room = max_length - tokenizer.num_special_tokens_to_add(False)
    if room < 1:
        raise UserError(f"max_length is {max_length}: choose at least {max_length - room + 1}.")
    rows = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]
    for position, row in enumerate(rows):
        if len(row) > max_length:
            encoding = tokenizer.encode(texts[position], add_special_tokens=False)
            encoding.truncate(room)
            rows[position] = tokenizer.post_process(encoding).ids
    lengths = np.array([len(row) for row in rows], np.int32)
    ids = np.zeros((len(rows), lengths.max(initial=0)), np.int32)
    for position, row in enumerate(rows):
        ids[position, : len(row)] = row
    return ids, lengths

"""The corpus of a pretraining run: read, tokenised and packed once, then mapped into memory."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fewshot_jax.atomic_write import atomic_files
from fewshot_jax.config.pretraining import PretrainConfig
from fewshot_jax.data.pretraining.documents import divide_documents, read_documents
from fewshot_jax.data.pretraining.objectives import SENTINELS, Questions, without_special_tokens
from fewshot_jax.data.pretraining.packing import Windows, pack, read_windows
from fewshot_jax.data.tokenization import save_tokenizer, train_tokenizer
from fewshot_jax.errors import UserError, require
from fewshot_jax.models.huggingface.text_tokenizer import load_text_tokenizer
from fewshot_jax.models.sources.names import tokenizer_home
from fewshot_jax.pretraining.directory import PretrainingDirectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOGETHER = 256  # documents tokenised at once
_CHARACTERS = 100_000_000  # of texts that a tokenizer is trained on; more hardly change it


class Documents(NamedTuple):
    """The texts of a corpus."""

    train: list[str]
    validation: list[str]


class Corpus(NamedTuple):
    """The windows of a corpus."""

    train: Windows
    validation: Windows


def documents_of(config: PretrainConfig) -> Documents:
    """Read the documents and hold some out.

    Raises:
        UserError: as `read_documents` and `divide_documents`.
    """
    texts = read_documents(config.corpus)
    return Documents(*([texts[i] for i in positions] for positions in divide_documents(len(texts), config.corpus)))


def make_tokenizer(config: PretrainConfig, documents: Documents, run: PretrainingDirectory) -> None:
    """Put the tokenizer of a run into its directory: the given one, the pretrained model's, or a new one.

    Raises:
        UserError: the given one cannot be read, or the vocabulary is too small.
    """
    given = config.tokenizer.path or config.model.pretrained
    if given is not None:
        try:
            home = tokenizer_home(given)
        except UserError as error:
            raise UserError(f"{error} (tokenizer.path)") from None
        with atomic_files(run.tokenizer) as partial:
            load_text_tokenizer(home, "tokenizer.path").save_pretrained(str(partial))
        return
    special = SENTINELS if config.objective == "span_corruption" else ()
    room = _CHARACTERS
    sample: list[str] = []
    for text in documents.train:
        sample.append(text[:room])
        room -= len(text)
        if room <= 0:
            break
    try:
        tokenizer = train_tokenizer(
            sample, kind=config.tokenizer.kind, vocab_size=config.tokenizer.vocab_size, extra_special=special
        )
    except UserError as error:
        raise UserError(f"tokenizer.vocab_size={config.tokenizer.vocab_size}: {error}") from None
    save_tokenizer(tokenizer, run.tokenizer)


def pack_corpus(
    config: PretrainConfig,
    documents: Documents,
    tokenizer: "PreTrainedTokenizerBase",
    questions: Questions,
    run: PretrainingDirectory,
    *,
    quiet: bool = False,
) -> Corpus:
    """Tokenise and pack the documents into the run's directory.

    Raises:
        UserError: there are fewer windows than a batch takes, or the directory cannot be written.
    """

    def encoded(texts: list[str]) -> Iterator[np.ndarray]:
        for start in range(0, len(texts), _TOGETHER):
            yield from without_special_tokens(tokenizer, texts[start : start + _TOGETHER])

    corpus = Corpus(
        *(
            pack(encoded(texts), questions.packing, full=split == "train", directory=run.windows(split))
            for split, texts in documents._asdict().items()
        )
    )
    found, wanted = len(corpus.train.tokens), config.batch.sequences
    require(
        found >= wanted,
        f"the corpus has {found} windows of {questions.packing.length} tokens to train on, fewer than "
        f"batch.sequences={wanted}; give more text, or lower batch.sequences or batch.length",
    )
    data = {
        split: {
            "documents": len(texts),
            "characters": sum(map(len, texts)),
            "tokens": windows.real,
            "windows": len(windows.tokens),
            "packing_efficiency": windows.efficiency,
        }
        for (split, texts), windows in zip(documents._asdict().items(), corpus, strict=True)
    }
    run.write("data.json", data)
    if not quiet:
        for split, numbers in data.items():
            print(
                f"{split}: {numbers['documents']:,} documents, {numbers['tokens']:,} tokens in "
                f"{numbers['windows']:,} windows of {questions.packing.length}, "
                f"{numbers['packing_efficiency']:.1%} of the slots filled",
                file=sys.stderr,
            )
    return corpus


def read_corpus(questions: Questions, run: PretrainingDirectory) -> Corpus:
    """The packed corpus of a run that goes on.

    Raises:
        UserError: it is not there, or torn.
    """
    data = run.data() or {}
    try:
        tokens = {split: int(data[split]["tokens"]) for split in Corpus._fields}
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{run.path / 'data.json'}: expected the number of tokens of each split; restore the file, or start a new "
            "run in another --run-dir"
        ) from None
    return Corpus(*(read_windows(run.windows(split), questions.packing, tokens[split]) for split in Corpus._fields))

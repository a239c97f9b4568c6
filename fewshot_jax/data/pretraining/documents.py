"""The documents of a corpus, from files, TensorFlow Datasets or generated tasks, and which of them are held out."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fewshot_jax.config.data import DataConfig
from fewshot_jax.config.pretraining import CorpusConfig
from fewshot_jax.data.fields import string
from fewshot_jax.data.files import read_rows, read_text, suffix_of
from fewshot_jax.data.generated import generated_intents
from fewshot_jax.data.tfds_source import check_features, decoder, open_builder, open_source
from fewshot_jax.data.worlds import WORLDS
from fewshot_jax.errors import UserError, first_line, require

SUFFIXES = (".txt", ".jsonl", ".csv", ".tsv")
INTENTS = "text_classification"
_FIELD = "corpus.text_field"
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")


def read_documents(corpus: CorpusConfig) -> list[str]:
    """The documents in the order of the source; at least one, none empty, stripped.

    Raises:
        UserError: a file, a line of it or the data set cannot be read, or has no text; the
            message names the place and the remedy.
    """
    if corpus.source == "tfds":
        return _tfds_documents(corpus)
    if corpus.source == "generated":
        return _generated_documents(corpus)
    return [text for path in corpus_files(corpus) for text in _documents_of(path, corpus)]


def _generated_documents(corpus: CorpusConfig) -> list[str]:
    """Texts of generated tasks, those to be read and those to be written as documents of their own, shuffled.

    Small worlds repeat themselves: what is held out is drawn anew, but need not be a new text.
    """
    rng = np.random.default_rng(corpus.split_seed)
    if corpus.name == INTENTS:
        groups = DataConfig().groups  # those of meta-training, whose classes a pretrained model must not have seen
        records = generated_intents(groups=2 * groups, seed=corpus.split_seed)
        texts = [record.text for record in records[len(records) // 2 :]]
        return [texts[i] for i in rng.permutation(len(texts))[: corpus.documents]]
    require(
        corpus.name in WORLDS,
        f"corpus.name={corpus.name}: expected an application with generated texts ({', '.join((INTENTS, *WORLDS))})",
    )
    assert corpus.name is not None
    world, texts = WORLDS[corpus.name], []
    while len(texts) < corpus.documents:
        support, query = world(rng, 8, 8, False)
        texts += [text for example in (*support, *query) for text in (example.source, example.target)]
    return [texts[i] for i in rng.permutation(len(texts))[: corpus.documents]]


def corpus_files(corpus: CorpusConfig) -> list[Path]:
    """The files of a corpus, in order.

    Raises:
        UserError: there is no path, or a folder without a file that can be read.
    """
    require(bool(corpus.path), "corpus.path: name the file or folder of the texts (or set corpus.source to tfds)")
    assert corpus.path is not None
    path = Path(corpus.path).expanduser()
    if corpus.files:
        return [path / name for name in corpus.files]
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.is_file() and suffix_of(file) in SUFFIXES)
    if not found:
        raise UserError(
            f"{path}: no file of texts in this folder ({', '.join(SUFFIXES)}, or a .gz of one); see corpus.path"
        )
    return found


def _documents_of(path: Path, corpus: CorpusConfig) -> Iterator[str]:
    if suffix_of(path) != ".txt":
        for line, row in read_rows(path, {_FIELD: corpus.text_field}):
            yield string(f"{path}, line {line}", corpus.text_field, row[corpus.text_field])
        return
    content = re.sub(r"\r\n?", "\n", read_text(path))
    if corpus.txt_documents == "file":
        yield content.strip()
    else:
        yield from (text for part in _BLANK_LINES.split(content) if (text := part.strip()))


def _tfds_documents(corpus: CorpusConfig) -> list[str]:
    """Texts of a prepared data set; empty ones, which its reader cannot correct, are left out."""
    require(bool(corpus.name), "corpus.name: name the tfds data set")
    assert corpus.name is not None
    name, split, field = corpus.name, corpus.tfds_split, corpus.text_field
    builder = open_builder(name, corpus.path)
    features = builder.info.features
    check_features(name, list(features or ()), {_FIELD: field})
    source, decode = open_source(builder, name, split, corpus.path), decoder(features[field])
    texts = []
    for position in range(len(source)):
        try:
            text = decode(source[position][field])
        except (ValueError, TypeError) as error:
            raise UserError(
                f"tfds '{name}', split '{split}', record {position}: '{field}' is no text ({first_line(error)}). "
                f"Set {_FIELD} to a feature of one string."
            ) from None
        if text:
            texts.append(text)
    if not texts:
        raise UserError(f"tfds '{name}', split '{split}': holds no text; choose another corpus.tfds_split")
    return texts


def divide_documents(count: int, corpus: CorpusConfig) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the documents to train on, and of those that are held out, each in order.

    Raises:
        UserError: there is only one document.
    """
    require(
        count > 1,
        "the corpus (corpus.path) has one document, so none is left for validation: put blank lines between documents "
        "(corpus.txt_documents: blank_lines), give one row each, or give more files",
    )
    held_out = min(max(round(corpus.validation_share * count), 1), count - 1)
    order = np.random.default_rng(corpus.split_seed).permutation(count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])

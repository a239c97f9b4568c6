"""Few-shot text classification: labelled texts, a tokenizer trained on them, a transformer encoder."""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np

from fewshot_jax import strict_json
from fewshot_jax.applications.application import READING, Functions, Stream
from fewshot_jax.applications.classification import (
    ClassApplication,
    Features,
    class_members,
    classification,
    data_files,
)
from fewshot_jax.applications.language_model import (
    LanguageModel,
    fingerprint_of_model,
    language_model,
    notes_on_cut,
    save_language_model,
)
from fewshot_jax.config import WITHOUT_A_LOOP, Config, DataConfig, ModelConfig
from fewshot_jax.data.episodes import EpisodeSampler
from fewshot_jax.data.labels import tidy_records
from fewshot_jax.data.loader import EncodedTexts, augment, by_frequency, encode_texts, text_episodes
from fewshot_jax.data.ngrams import hashed_ngrams
from fewshot_jax.data.records import Record
from fewshot_jax.data.sets import label_text, read_sets
from fewshot_jax.data.splits import TextSplit, split_records
from fewshot_jax.data.tokenization import SPECIAL_TOKENS, load_tokenizer, save_tokenizer, train_tokenizer
from fewshot_jax.errors import UserError
from fewshot_jax.models.encoder import Encoder
from fewshot_jax.models.heads import PretrainedEncoder, TextFeatures
from fewshot_jax.models.lora import lora
from fewshot_jax.types import Batch, Episode, Key, Params

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer"  # its folder in a run directory


def check_batch(batch: Batch) -> None:
    """Check the shapes of a batch: ``input_ids, attention_mask [B, L]``, and ``label, mask [B]`` where it has them."""
    chex.assert_rank([batch["input_ids"], batch["attention_mask"]], 2)
    chex.assert_equal_shape([batch["input_ids"], batch["attention_mask"]])
    labels = [batch[name] for name in ("label", "mask") if name in batch]
    chex.assert_rank(labels, 1)
    chex.assert_equal_shape_prefix([batch["input_ids"], *labels], 1)


def features_of_texts(
    model: TextFeatures,
    *,
    deterministic: bool = True,
    lora_rank: int = 0,
    pretrained: Callable[[Key], Params] | None = None,
) -> Features:
    """A text model as the features of a classification.

    Args:
        model: texts to feature vectors ``[B, D]``.
        deterministic: no dropout.
        lora_rank: of the low-rank path beside the attention's queries and values; 0 for none.
        pretrained: ``rng -> parameters`` of a `PretrainedEncoder`'s transformer; None for initial ones.
    """
    adapted: Callable[[], Any] = lora(rank=lora_rank).active if lora_rank else nullcontext

    def init(rng: Key) -> Params:
        ids = jnp.zeros((1, 2), jnp.int32)
        ngrams = jnp.zeros((1, model.ngram_width)) if model.ngram_width else None
        with adapted():
            params = model.init(rng, ids, jnp.ones_like(ids), ngrams)["params"]
        return params if pretrained is None else {**params, "encoder": {"transformer": pretrained(rng)}}

    def apply(params: Params, batch: Batch, rng: Key) -> jax.Array:
        check_batch(batch)
        with adapted():
            vectors = model.apply(
                {"params": params["features"]},
                batch["input_ids"],
                batch["attention_mask"],
                batch.get("ngrams"),
                context=params.get("context"),
                deterministic=deterministic,
                rngs={} if deterministic else {"dropout": rng},
            )
        return cast(jax.Array, vectors)

    return Features(init, apply, model.width, jnp.zeros(model.encoder.context_width))


def text_features(
    config: ModelConfig, *, vocab_size: int, max_length: int, pretrained: LanguageModel | None = None
) -> TextFeatures:
    """The model of a config."""
    encoder = _encoder(config, vocab_size, max_length) if pretrained is None else PretrainedEncoder(pretrained.module)
    return TextFeatures(encoder, initial_scale=config.feature_scale, ngram_width=config.ngram_width)


def _encoder(config: ModelConfig, vocab_size: int, max_length: int) -> Encoder:
    return Encoder(
        vocab_size=vocab_size,
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        mlp_width=config.mlp_width,
        max_length=max_length,
        norm=config.norm,
        dropout=config.dropout,
        context_width=config.context_width,
        dtype=jnp.dtype(config.compute_dtype),
    )


def text_functions(
    config: Config,
    *,
    vocab_size: int,
    ways: int,
    training: bool,
    joint_classes: int,
    pretrained: LanguageModel | None = None,
) -> Functions:
    """The functions of a config, which need no data.

    Args:
        config: of the run.
        vocab_size: of its tokenizer.
        ways: classes of the head.
        training: with dropout, for learners without an inner loop only: a loop wants one function.
        joint_classes: number of training classes; read for `multi_task` alone.
        pretrained: the model to start from; None for a new one.
    """
    model = text_features(
        config.model, vocab_size=vocab_size, max_length=config.tokenizer.max_length, pretrained=pretrained
    )
    name = config.learner.name
    deterministic = not training or config.model.dropout == 0 or name not in WITHOUT_A_LOOP

    def functions(start: Callable[[Key], Params] | None) -> Functions:
        rank = config.model.lora_rank
        features = features_of_texts(model, deterministic=deterministic, lora_rank=rank, pretrained=start)
        return classification(features, ways=ways, joint_classes=joint_classes if name == "multi_task" else 0)

    if pretrained is None:
        return functions(None)
    scratch = None if pretrained.scratch_params is None else functions(pretrained.scratch_params).init_params
    return functions(pretrained.init_params)._replace(scratch_params=scratch)


def read_data(config: DataConfig, seed: int, notes: list[str] | None = None) -> list[Record]:
    """Read the labelled texts that a config names.

    Args:
        config: of the data.
        seed: of generated data.
        notes: gets what to tell of the names of labels; None to leave it out.

    Raises:
        UserError: the data cannot be read, or two of its labels are the same number.
    """
    records, told = tidy_records(_read(config, seed, notes), config.path or config.name or config.source)
    if notes is not None:
        notes += told
    return records


def _read(config: DataConfig, seed: int, notes: list[str] | None) -> list[Record]:
    if config.source == "generated":
        from fewshot_jax.data.generated import generated_intents

        return generated_intents(seed=seed, groups=config.groups, texts_per_class=config.texts_per_class)
    if config.source == "tfds":
        from fewshot_jax.data.tfds import read_tfds

        if config.name is None:
            raise UserError("data.name: the source 'tfds' needs the name of a data set")
        return read_tfds(
            config.name,
            split=config.tfds_split,
            text=config.text_field,
            label=config.label_field,
            group=config.group_field,
            data_dir=config.path,
        )
    from fewshot_jax.data.files import read_records

    if config.source == "smlmt":
        from fewshot_jax.data.smlmt import smlmt_records

        texts = [text for path in data_files(config) for text in raw_texts(path, config.text_field)]
        words, length = config.smlmt_words, config.smlmt_length
        return smlmt_records(texts, max_words=words, max_length=length, shared=False, seed=seed)
    if config.sets:
        if config.path is None:
            raise UserError("data.path: data.sets are files or folders under a path; give --data.path PATH")
        return read_sets(
            config.path,
            config.sets,
            files=config.files,
            text=config.text_field,
            label=config.label_field,
            group=config.group_field,
            notes=notes,
        )
    return [
        record
        for path in data_files(config)
        for record in read_records(path, text=config.text_field, label=config.label_field, group=config.group_field)
    ]


def raw_texts(path: Path, field: str) -> list[str]:
    """The documents of a file, or of all files of a folder."""
    from fewshot_jax.config.pretraining import CorpusConfig
    from fewshot_jax.data.pretraining.documents import read_documents

    return read_documents(CorpusConfig(path=str(path), text_field=field))


def split_data(records: list[Record], config: DataConfig, notes: list[str] | None = None) -> dict[str, TextSplit]:
    """Divide records into class-disjoint train, validation and test splits, without duplicates; see `split_records`."""
    by = config.split_by
    names = sorted({getattr(record, by) for record in records})
    if names == [""]:  # files without a group_field
        raise UserError("data.split_by: the texts have no groups to split by; set data.group_field, or split by label")
    splits = split_records(records, class_members(names, config), by=by, notes=notes)
    if not splits["train"].texts:
        found = f"{len(names)} {by}{'' if len(names) == 1 else 's'}"
        raise UserError(
            f"train split: has no texts: the data has {found} to divide among three splits; add some, or see "
            "data.fractions and data.class_split"
        )
    return splits


@dataclass(frozen=True)
class TextClassification(ClassApplication):
    """The application of one run; see `application.Application`. Its splits are of texts, `TextSplit`.

    Attributes:
        tokenizer: trained on the training texts, or the pretrained model's.
        encoded: the token ids of each split's `texts`.
        pretrained: the model to start from; None for a new one.
    """

    tokenizer: "Tokenizer"
    encoded: dict[str, EncodedTexts]
    pretrained: LanguageModel | None = None

    @classmethod
    def build(cls, config: Config, saved: Path | None = None) -> Self:
        """Read, split and encode the data of a config.

        Args:
            config: of the run.
            saved: its run directory, where it has one; None to train the tokenizer.

        Raises:
            UserError: the data cannot be read, or cannot fill the episodes.
        """
        notes: list[str] = []
        splits = split_data(read_data(config.data, config.seed, notes), config.data, notes)
        texts = {name: with_label_names(config, split) for name, split in splits.items()}
        pretrained = pretrained_encoder(config, saved)
        if pretrained is not None:
            tokenizer = pretrained.codec.tokenizer
        elif saved is None:
            tokenizer = train_tokenizer(
                texts["train"], kind=config.tokenizer.kind, vocab_size=config.tokenizer.vocab_size
            )
        else:
            tokenizer = load_tokenizer(saved / TOKENIZER)
        encoded = {name: encode_for(config, tokenizer, these, pretrained) for name, these in texts.items()}
        if pretrained is not None and saved is None:
            notes += notes_on_cut(pretrained.codec)
        application = cls(config, splits, tokenizer, encoded, pretrained, notes=tuple(notes))
        application.check_episodes()
        return application

    def functions(self, *, training: bool) -> Functions:
        return text_functions(
            self.config,
            vocab_size=self.tokenizer.get_vocab_size(),
            ways=self.config.episodes.ways if training else self.config.evaluation.ways,
            training=training,
            joint_classes=self.joint_classes,
            pretrained=self.pretrained,
        )

    def texts(self, split: str) -> list[str]:
        """The texts that the positions of `sampler` refer to; names of classes come last, where they are read."""
        return with_label_names(self.config, self.splits[split])

    def record(self) -> dict[str, Any]:
        return {TOKENIZER: self.tokenizer.to_str()}

    def save(self, directory: Path) -> None:
        if self.pretrained is None:
            save_tokenizer(self.tokenizer, directory / TOKENIZER)
        else:
            save_language_model(self.pretrained, directory)

    def fingerprint(self) -> dict[str, str]:
        return {**fingerprint_of_texts(self.splits), **fingerprint_of_model(self.config)}

    def batches(self, split: str, sampler: EpisodeSampler) -> Stream:
        episodes = self.config.episodes
        changed = episodes.token_dropout or episodes.token_remap or episodes.ngram_dropout
        draw = functools.partial(
            text_episodes,
            self.encoded[split],
            sampler,
            buckets=lengths_of(self.config, self.pretrained)[1],
            class_id=self.class_id(split),
            change=self._augment if changed and split == "train" else None,
        )
        return lambda step, tasks: draw(step=step, tasks=tasks)

    @functools.cached_property
    def _vocabulary(self) -> np.ndarray:
        return by_frequency(self.encoded["train"], special=len(SPECIAL_TOKENS))

    def _augment(self, episode: Episode, rng: np.random.Generator) -> None:
        augment(
            episode,
            rng=rng,
            vocabulary=self._vocabulary,
            token_dropout=self.config.episodes.token_dropout,
            token_remap=self.config.episodes.token_remap,
            mask_id=SPECIAL_TOKENS.index("[MASK]"),
            ngram_dropout=self.config.episodes.ngram_dropout,
        )


def fingerprint_of_texts(splits: Mapping[str, TextSplit]) -> dict[str, str]:
    """A hash of the texts, labels and classes of each split, and how they are read."""
    return READING | {
        name: hashlib.sha256(strict_json.dumps([split.texts, split.label.tolist(), split.classes]).encode()).hexdigest()
        for name, split in splits.items()
    }


def with_label_names(config: Config, split: TextSplit) -> list[str]:
    """The ``n`` texts of a split and, where a config asks for label names, those of its classes as texts."""
    names = split.classes if config.episodes.label_names else []
    return [*split.texts, *(label_text(str(name), config.data.sets) for name in names)]


def pretrained_encoder(config: Config, saved: Path | None = None, *, weights: bool = True) -> LanguageModel | None:
    """The model that a config starts from, without a head; None for a new one.

    Args:
        config: of the run.
        saved: the directory of a run or an adapted model, where there is one.
        weights: read the checkpoint's.

    Raises:
        UserError: it cannot be used.
    """
    if config.model.pretrained is None:
        return None
    return language_model(config, texts=list, saved=saved, weights=weights)


def lengths_of(config: Config, pretrained: LanguageModel | None) -> tuple[int, tuple[int, ...]]:
    """Most tokens of a text and the lengths of batches: a config's, or what a pretrained model has positions for."""
    sizes = config.tokenizer if pretrained is None else pretrained.codec
    return sizes.max_length, sizes.buckets


def encode_for(
    config: Config, tokenizer: "Tokenizer", texts: Sequence[str], pretrained: LanguageModel | None = None
) -> EncodedTexts:
    """Encode texts as the model of a config reads them."""
    if pretrained is not None:
        rows = pretrained.codec.sources(texts)
        lengths = np.array([len(row) for row in rows], np.int32)
        ids = np.full((len(rows), lengths.max(initial=0)), pretrained.codec.pad, np.int32)
        for position, row in enumerate(rows):
            ids[position, : len(row)] = row
        width = config.model.ngram_width
        return EncodedTexts(ids, lengths, hashed_ngrams(texts, width) if width else None)
    return encode_texts(tokenizer, texts, max_length=config.tokenizer.max_length, ngram_width=config.model.ngram_width)

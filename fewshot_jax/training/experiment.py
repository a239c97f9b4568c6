"""From a config to the objects of a run: data, tokenizer, model, learner.

A pure function of the config (and, on resume, of the tokenizer that the run
trained), so that training, evaluation and adaptation build the same things.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import optax

from fewshot_jax.algorithms.maml import maml
from fewshot_jax.algorithms.metric import protonet
from fewshot_jax.applications.classification import TextClassification
from fewshot_jax.config import Config, DataConfig, InnerConfig, ModelConfig
from fewshot_jax.data.episodes import EpisodeSampler
from fewshot_jax.data.loader import EncodedTexts, augment, by_frequency, encode_texts, text_episodes
from fewshot_jax.data.records import Record
from fewshot_jax.data.splits import TextSplit, divide, read_class_split, split_records
from fewshot_jax.data.tokenization import SPECIAL_TOKENS, train_tokenizer
from fewshot_jax.errors import UserError
from fewshot_jax.models.encoder import Encoder
from fewshot_jax.models.heads import TextFeatures
from fewshot_jax.types import Episode, MetaLearner

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Streams of episodes that must not coincide: each split draws with its own seed.
_STREAM = {"train": 0, "validation": 1, "test": 2}


def read_data(config: DataConfig, seed: int) -> list[Record]:
    """Read the labelled texts that a config names."""
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

    if config.path is None:
        raise UserError("data.path: the source 'files' needs a file or a folder; give --data.path PATH")
    path = Path(config.path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; see data.path")
    paths = [path / name for name in config.files] or [path]
    return [
        record
        for one in paths
        for record in read_records(one, text=config.text_field, label=config.label_field, group=config.group_field)
    ]


def split_data(records: list[Record], config: DataConfig) -> dict[str, TextSplit]:
    """Divide records into class-disjoint train, validation and test splits."""
    if config.class_split is not None:
        members = read_class_split(Path(config.path or ".") / config.class_split, config.class_split_name)
        return split_records(records, members, by="label")
    names = sorted({getattr(record, config.split_by) for record in records})
    return split_records(records, divide(names, config.fractions, config.split_seed), by=config.split_by)


def inner_optimizer(config: InnerConfig) -> optax.GradientTransformation:
    """The inner optimizer of a config, its rate kept in its state.

    Adam's ``eps_root`` is positive: with zero the meta-gradient is not finite.
    """
    factories: dict[str, Callable[..., optax.GradientTransformation]] = {
        "sgd": optax.sgd,
        "momentum": functools.partial(optax.sgd, momentum=0.9),
        "adam": functools.partial(optax.adam, eps_root=1e-8),
    }
    return optax.inject_hyperparams(factories[config.optimizer])(learning_rate=config.rate)


def _maml(application: TextClassification, config: Config, steps: int) -> MetaLearner:
    return maml(
        application.loss_fn,
        inner_optimizer=inner_optimizer(config.inner),
        inner_steps=steps,
        gradient=config.learner.gradient,
        keep=config.learner.keep,
        keep_blocks=config.learner.keep_blocks,
        share_first_step=config.learner.share_first_step,
        inner_params=config.inner.params,
        task_init_fn=application.task_init_fn,
        output_fn=application.output_fn,
        inner_batch_size=config.inner.batch_size,
        task_chunk=config.learner.task_chunk,
    )


def _protonet(application: TextClassification, config: Config, steps: int) -> MetaLearner:
    del steps
    return protonet(
        application.embed_fn,
        ways=application.ways,
        distance=config.learner.distance,
        temperature=config.learner.temperature,
        task_chunk=config.learner.task_chunk,
    )


LEARNERS: dict[str, Callable[[TextClassification, Config, int], MetaLearner]] = {"maml": _maml, "protonet": _protonet}


def text_features(config: ModelConfig, *, vocab_size: int, max_length: int) -> TextFeatures:
    """The model of a config."""
    encoder = Encoder(
        vocab_size=vocab_size,
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        mlp_width=config.mlp_width,
        max_length=max_length,
        norm=config.norm,
        dropout=config.dropout,
    )
    return TextFeatures(encoder, initial_scale=config.feature_scale, ngram_width=config.ngram_width)


def build_learner(
    config: Config, *, vocab_size: int, ways: int, training: bool, name: str | None = None
) -> tuple[TextClassification, MetaLearner]:
    """The application and the learner of a config.

    Args:
        config: of the run.
        vocab_size: of its tokenizer.
        ways: classes of the head.
        training: with dropout (metric learners only: an inner loop wants one
            function) and ``inner.steps``; otherwise without, and ``inner.test_steps``.
        name: another learner than the config's, over the same model.
    """
    name = config.learner.name if name is None else name
    model = text_features(config.model, vocab_size=vocab_size, max_length=config.tokenizer.max_length)
    deterministic = not training or config.model.dropout == 0 or name == "maml"
    application = TextClassification(model, ways=ways, deterministic=deterministic)
    steps = config.inner.steps if training or config.inner.test_steps is None else config.inner.test_steps
    return application, LEARNERS[name](application, config, steps)


@dataclass(frozen=True)
class Experiment:
    """The data side of a run.

    Attributes:
        config: resolved.
        splits: train, validation and test texts, class-disjoint.
        tokenizer: trained on the training texts.
        encoded: the token ids of each split.
    """

    config: Config
    splits: dict[str, TextSplit]
    tokenizer: "Tokenizer"
    encoded: dict[str, EncodedTexts]

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.tokenizer.get_vocab_size()

    def sampler(self, split: str, *, ways: int, shots: int, queries: int) -> EpisodeSampler:
        """Episodes of fixed size from a split, the same for every learner."""
        return self._sampler(split, "evaluation", ways=ways, shots=shots, queries=queries)

    def training_sampler(self) -> EpisodeSampler:
        """The episodes of meta-training."""
        episodes = self.config.episodes
        sizes = {name: getattr(episodes, name) for name in ("ways", "shots", "queries", "min_ways", "min_shots")}
        return self._sampler("train", "episodes", **sizes)

    def _sampler(self, split: str, section: str, **sizes: int) -> EpisodeSampler:
        data = self.splits[split]
        return EpisodeSampler(
            data.label,
            **sizes,
            seed=3 * self.config.seed + _STREAM[split],
            group=data.group if self.config.episodes.within_group else None,
            class_names=data.classes,
            split=split,
            section=section,
        )

    def batch(self, split: str, sampler: EpisodeSampler, step: int, tasks: int) -> Episode:
        """The meta-batch of a step as arrays; augmented in training only."""
        episodes = self.config.episodes
        change = None
        if split == "train" and (episodes.token_dropout or episodes.token_remap or episodes.ngram_dropout):
            change = self._augment
        return text_episodes(
            self.encoded[split], sampler, step=step, tasks=tasks, buckets=self.config.tokenizer.buckets, change=change
        )

    def fingerprint(self) -> dict[str, str]:
        """A hash of the texts and labels of each split."""
        return {
            name: hashlib.sha256(json.dumps([split.texts, split.label.tolist(), split.classes]).encode()).hexdigest()
            for name, split in self.splits.items()
        }

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


def encode_for(config: Config, tokenizer: "Tokenizer", texts: Sequence[str]) -> EncodedTexts:
    """Encode texts as the model of a config reads them."""
    return encode_texts(tokenizer, texts, max_length=config.tokenizer.max_length, ngram_width=config.model.ngram_width)


def build_experiment(config: Config, tokenizer: "Tokenizer | None" = None) -> Experiment:
    """Read, split and encode the data of a config.

    Args:
        config: of the run.
        tokenizer: the run's own, where it has one; None to train it.

    Raises:
        UserError: the data cannot be read, or cannot fill the episodes.
    """
    splits = split_data(read_data(config.data, config.seed), config.data)
    if tokenizer is None:
        tokenizer = train_tokenizer(
            splits["train"].texts, kind=config.tokenizer.kind, vocab_size=config.tokenizer.vocab_size
        )
    encoded = {name: encode_for(config, tokenizer, split.texts) for name, split in splits.items()}
    experiment = Experiment(config, splits, tokenizer, encoded)
    experiment.training_sampler()
    evaluation = config.evaluation
    for split in ("validation", "test"):
        experiment.sampler(split, ways=evaluation.ways, shots=max(evaluation.shots), queries=evaluation.queries)
    return experiment

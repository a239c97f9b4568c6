"""The application of a run that reads texts and writes others; answers, translations and replies differ in their data.

An application adds its generated world, how its files are read, and which end of a long source counts.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from fewshot_jax import strict_json
from fewshot_jax.applications.application import READING, Functions, Score, Stream, episode_seed
from fewshot_jax.applications.optional import PARTS, By, HeldOut, OptionalParts, Shown, SplitTexts
from fewshot_jax.applications.text_codec import TOKENIZER
from fewshot_jax.applications.text_model import TextModel, fingerprint_of_model
from fewshot_jax.applications.text_to_text import EXACT, NATS
from fewshot_jax.config import Config, DataConfig
from fewshot_jax.data.examples import Example
from fewshot_jax.data.parallel import without_sources
from fewshot_jax.data.sequences import Codec, bucket_lengths, sequence_batch
from fewshot_jax.data.sources import data_files, examples_of_source
from fewshot_jax.data.splits import SPLITS, class_members
from fewshot_jax.data.tasks import Drawn, NewTasks, PooledTasks, TaskSampler, World
from fewshot_jax.errors import UserError, require
from fewshot_jax.types import Episode

_TASKS_READ = 400  # generated tasks that a tokenizer is trained on: far more than name every word


@dataclass(frozen=True)
class Writing(OptionalParts):
    """The application of one run; see `application.Application`.

    Attributes:
        config: resolved.
        pools: the examples of each split; None where tasks are generated.
        model: the language model and its tokenizer.
        notes: what to tell of the data, see `Application`.
    """

    config: Config
    pools: dict[str, list[Example]] | None
    model: TextModel
    notes: tuple[str, ...] = ()
    score: ClassVar[Score] = NATS
    scores: ClassVar[tuple[Score, ...]] = (NATS, EXACT)
    world: ClassVar[World]
    apart: ClassVar[bool] = False  # no query shares its key with the support set
    too_long: ClassVar[tuple[tuple[str, str], ...]] = (  # what was cut, and what helps: of `Codec.cut`
        ("sources are too long and were cut", "tokenizer.max_length"),
        ("targets are too long and were cut", "tokenizer.target_max_length"),
    )

    @classmethod
    def read(cls, config: Config, path: Path, model: TextModel | None) -> list[Example]:
        """The examples of a file."""
        raise NotImplementedError

    @classmethod
    def sources(cls, config: Config, path: Path, model: TextModel) -> tuple[list[dict[str, Any]], list[str]]:
        """The rows of a file to write to, and what is read of each."""
        raise NotImplementedError

    @classmethod
    def episodes_of(cls, tasks: Sequence[Drawn], codec: Codec, shots: int, queries: int) -> Episode:
        """Tasks as arrays, ``[T, shots, ...]`` and ``[T, queries, ...]``."""
        return batch_of(tasks, codec, shots, queries)

    @classmethod
    def batch_to_write(cls, sources: Sequence[str], codec: Codec, items: int) -> dict[str, np.ndarray]:
        """Sources alone, whose targets are unknown, as a batch of one task with so many slots."""
        encoded = codec.sources(sources)
        # Repeat the last source: writing stops when every row has ended, and an empty row never ends.
        encoded += [encoded[-1]] * (items - len(encoded))
        rows = [[(ids, [codec.end]) for ids in encoded]]
        length, _ = bucket_lengths(codec, rows)
        batch = sequence_batch(rows, items, length, codec.target_max_length, codec.pad)
        return {name: leaf[0] for name, leaf in batch.items()}

    @classmethod
    def texts_of(cls, ids: np.ndarray, sources: Sequence[str], codec: Codec) -> list[str]:
        """What is written, from the ``ids [n, ...]`` of `Functions.write_fn`, to each source."""
        del sources
        return codec.decode(ids)

    @classmethod
    def build(cls, config: Config, saved: Path | None = None) -> Self:
        """Read and split the data of a config, and its model.

        Args:
            config: of the run.
            saved: its run directory, where it has one; None to train the tokenizer.

        Raises:
            UserError: the data or the model cannot be used, or a task cannot fill an episode.
        """
        pools, notes = None, list[str]()
        if not cls.is_endless(config):
            pools, left_out = cls.split(config, cls.read_all(config))
            if left_out:
                notes.append(f"skipped {left_out} examples whose text is held out")

        def texts() -> list[str]:
            examples = cls._generated(config, _TASKS_READ) if pools is None else pools["train"]
            return [text for example in examples for text in (example.source, example.target)]

        model = TextModel.open(config, saved, texts=texts)
        if model.render is not None and config.data.source == "files":  # the chat template writes other sources
            pools, _ = cls.split(config, cls.read_all(config, model))
        if pools is not None:
            model = dataclasses.replace(model, codec=dataclasses.replace(model.codec, known={}))
            if saved is None:
                notes += cls.encode_all(pools, model.codec)
        notes += _repetitions(pools or {})
        application = cls(config, pools, model, tuple(notes))
        application.training_sampler()
        for split in ("validation", "test"):
            application.sampler(split, config.evaluation.most_shots(split))
        return application

    @classmethod
    def read_all(cls, config: Config, model: TextModel | None = None) -> list[list[Example]]:
        """The examples of each file, or those of another source.

        Args:
            config: of the run.
            model: whose chat template writes what is read, where it has one.

        Raises:
            UserError: the source cannot be read, or has no pairs of texts.
        """
        data = config.data
        if data.source == "tfds":
            raise UserError(f"data.source=tfds: {config.application} reads files; write the data set to one")
        if data.source == "files":
            return [cls.read(config, path, model) for path in data_files(data)]
        return [examples_of_source(data, config.seed)]

    @classmethod
    def is_endless(cls, config: Config) -> bool:
        return config.data.source == "generated"

    @classmethod
    def division(cls, config: Config, by: By | None, flag: str) -> DataConfig:
        require(
            by in (None, "domain"),
            f"{flag}: {config.application} has tasks (what data.task_field says, or else the name of a file); hold "
            "them out with --by domain",
        )
        return config.data

    @classmethod
    def held_out(cls, config: Config) -> HeldOut:
        evaluation = config.evaluation
        pools = cls.split(config, cls.read_all(config))[0]
        for split in ("validation", "test"):
            sizes = {"shots": evaluation.most_shots(split), "queries": evaluation.queries}
            PooledTasks(pools[split], **sizes, seed=0, split=split, section="evaluation", apart=cls.apart)
        tasks = tuple(sorted({example.task for example in pools["test"]}))
        return HeldOut(tasks, tasks)

    def split_texts(self) -> SplitTexts | None:
        if self.pools is None:
            return None
        return SplitTexts(
            {name: [example.source for example in pool] for name, pool in self.pools.items()}, self.labels()
        )

    def first_episode(self) -> list[Shown]:
        drawn = self.training_sampler().task(0, 0)
        return [Shown(part, one.source, one.target) for part, some in zip(PARTS, drawn, strict=True) for one in some]

    @classmethod
    def encode_all(cls, pools: Mapping[str, Sequence[Example]], codec: Codec) -> list[str]:
        """Encode all examples, and return how many are cut, in words.

        Raises:
            UserError: one is too long, and that is refused.
        """
        notes = []
        for split, pool in pools.items():
            before, different = tuple(codec.cut), list(dict.fromkeys(pool))
            cls.encode(different, codec)
            for (what, remedy), now, then in zip(cls.too_long, codec.cut, before, strict=True):
                if now > then:
                    notes.append(
                        f"{split} split, {len(different)} examples: {now - then} {what} ({codec.remedy(remedy)})"
                    )
        return notes

    @classmethod
    def encode(cls, examples: Sequence[Example], codec: Codec) -> None:
        """Encode examples, to be remembered by the codec."""
        codec.encode(examples)

    @classmethod
    def split(cls, config: Config, files: Sequence[list[Example]]) -> tuple[dict[str, list[Example]], int]:
        """Give the examples of files to the splits, and count those left out.

        Held out means held out: what shares its key (an English caption, an article) with an example of the
        test split is no training example, and so with validation.
        """
        if config.data.split_files:
            parts = dict(zip(SPLITS, files, strict=True))
        else:
            examples = [example for part in files for example in part]
            members = class_members(sorted({example.task for example in examples}), config.data)
            known = {example.task for example in examples}
            for split, names in members.items():
                if missing := sorted(set(names) - known):
                    raise UserError(
                        f"{split} split: no example has the task '{missing[0]}' ({len(missing)} such names)"
                    )
            split_of = {name: split for split, names in members.items() for name in names}
            parts = {split: [e for e in examples if split_of.get(e.task) == split] for split in SPLITS}
        held_out, left_out = list[Example](), 0
        for split in reversed(SPLITS):
            parts[split], dropped = without_sources(parts[split], held_out)
            held_out, left_out = held_out + parts[split], left_out + dropped
        return parts, left_out

    @classmethod
    def _generated(cls, config: Config, tasks: int) -> list[Example]:
        """The examples of some training tasks."""
        sampler = NewTasks(cls.world, shots=8, queries=8, seed=episode_seed(config, "train"))
        return [example for i in range(tasks) for part in sampler.task(0, i) for example in part]

    @property
    def codec(self) -> Codec:
        return self.model.codec

    def with_config(self, config: Config) -> Self:
        return dataclasses.replace(self, config=config)

    def functions(self, *, training: bool) -> Functions:
        return self.model.with_config(self.config).functions(training=training)

    def training_stream(self) -> Stream:
        return self._stream(self.training_sampler(), self.config.episodes.shots, self.config.episodes.queries)

    def stream(self, split: str, shots: int) -> Stream:
        return self._stream(self.sampler(split, shots), shots, self.config.evaluation.queries)

    def training_sampler(self) -> TaskSampler:
        """The tasks of `training_stream`, as texts."""
        episodes = self.config.episodes
        sizes = {"shots": episodes.shots, "queries": episodes.queries, "min_shots": episodes.min_shots}
        return self._sampler("train", "episodes", **sizes)

    def sampler(self, split: str, shots: int) -> TaskSampler:
        """The tasks of `stream`, as texts."""
        return self._sampler(split, "evaluation", shots=shots, queries=self.config.evaluation.queries)

    def _sampler(self, split: str, section: str, **sizes: Any) -> TaskSampler:
        seed = episode_seed(self.config, split)
        if self.pools is None:
            return NewTasks(type(self).world, seed=seed, unseen=split != "train", **sizes)
        return PooledTasks(self.pools[split], seed=seed, split=split, section=section, apart=self.apart, **sizes)

    def _stream(self, sampler: TaskSampler, shots: int, queries: int) -> Stream:
        def episodes(step: int, tasks: int) -> Episode:
            return self.episodes_of([sampler.task(step, index) for index in range(tasks)], self.codec, shots, queries)

        return episodes

    def labels(self) -> dict[str, list[str]]:
        """The names of the tasks of each split."""
        return {split: sorted({example.task for example in pool}) for split, pool in (self.pools or {}).items()}

    def record(self) -> dict[str, Any]:
        return {TOKENIZER: self.codec.tokenizer.to_str()}

    def save(self, directory: Path) -> None:
        self.model.save(directory)

    def fingerprint(self) -> dict[str, str]:
        pools = self.pools or {"train": self._generated(self.config, 4)}
        hashes = {split: hashlib.sha256(strict_json.dumps(pool).encode()).hexdigest() for split, pool in pools.items()}
        return {**READING, **hashes, **fingerprint_of_model(self.config)}


def _repetitions(pools: Mapping[str, Sequence[Example]]) -> tuple[str, ...]:
    """How many examples `PooledTasks` skips, in words; nothing where there are none."""
    count = sum(len(pool) - len({(one.task, one.source, one.target) for one in pool}) for pool in pools.values())
    return (f"skipped {count:,} duplicate example{'' if count == 1 else 's'}",) if count else ()


def batch_of(drawn: Sequence[Drawn], codec: Codec, shots: int, queries: int) -> Episode:
    """Tasks as arrays, ``[T, shots, ...]`` and ``[T, queries, ...]``, padded to the buckets of their longest texts."""
    encoded = [[codec.encode(part) for part in task] for task in drawn]
    length, target_length = bucket_lengths(codec, [row for task in encoded for row in task])
    support, query = (
        sequence_batch([task[side] for task in encoded], items, length, target_length, codec.pad)
        for side, items in ((0, shots), (1, queries))
    )
    return Episode(support, query)

"""What adaptation starts from: a run, a pretrained model, or the encoder that ships with the package."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from fewshot_jax.adaptation.named import NamedModel
from fewshot_jax.adaptation.readers import HeadReader
from fewshot_jax.adaptation.saving import read_model, weights_not_finite
from fewshot_jax.applications.application import evaluation_steps
from fewshot_jax.applications.text_model import TextModel
from fewshot_jax.config import Config
from fewshot_jax.config_file import from_dict
from fewshot_jax.errors import UserError
from fewshot_jax.evaluation.tuning import with_rates
from fewshot_jax.models.huggingface.sentence_transformers import read_vectors
from fewshot_jax.models.sources.names import DEFAULT, find_files
from fewshot_jax.training.experiment import Experiment, model_of_run
from fewshot_jax.training.run_directory import RunDirectory
from fewshot_jax.types import MetaParams

PACKAGED = Path(__file__).parent / DEFAULT
MANY = 512  # support texts; of more, each inner step reads a part
LONGEST, UNSTATED = 256, 128  # tokens of a text: the most of a model that states its limit, and those of others
BUCKETS = (16, 32, 64, 128)
FACTORS = (0.3, 1.0, 3.0)  # of the inner rate, from which one is chosen
HEAD, HEAD_RATE, HEAD_STEPS = "^head", 1e-2, (0, 30, 100)  # of a head on features that stay, by Adam


@dataclass(frozen=True, kw_only=True)
class Start:
    """A text classifier that is yet to be adapted.

    Attributes:
        name: "default", or the path of what it is made of.
        config: of its model and learner.
        model: of its texts.
        meta_params: of the learner.
        factors: of the inner rate, to choose from.
        steps: numbers of inner steps to choose from.
    """

    name: str
    config: Config
    model: TextModel
    meta_params: MetaParams
    factors: tuple[float, ...] = (1.0,)
    steps: tuple[int, ...] = (0,)

    def reader(self, ways: int) -> HeadReader:
        """What reads texts for so many classes."""
        return HeadReader(self.model.with_config(self.config), ways)

    @property
    def on_features(self) -> bool:
        """Whether the head alone adapts, from the prototypes: the features of a text are then computed once."""
        return self.config.learner.name == "proto_maml" and self.config.inner.params == HEAD

    @property
    def usual(self) -> tuple[float, int]:
        """The factor and the number of steps that are taken where nothing can be chosen."""
        return 1.0, evaluation_steps(self.config)

    def with_loop(self, factor: float, steps: int) -> "Start":
        """The same with one choice made, of rates that are learned too."""
        meta_params, _ = with_rates(self.meta_params, factor, self.config.inner.rate)
        inner = dataclasses.replace(self.config.inner, rate=factor * self.config.inner.rate, test_steps=steps)
        config = dataclasses.replace(self.config, inner=inner)
        return dataclasses.replace(self, config=config, meta_params=meta_params, factors=(1.0,), steps=(steps,))


def start_of_run(path: str | Path) -> Start:
    """Return the best checkpoint of a run of text classification by a head, with the learner as it was trained.

    Raises:
        UserError: there is no such run, or it has no checkpoint.
    """
    run = RunDirectory(path)
    model = model_of_run(run)
    meta_params, _ = Experiment(model).restore_best(run)
    return Start(name=str(run.path.resolve()), config=model.config, model=model, meta_params=meta_params)


def start_of_default() -> Start:
    """Return the encoder that ships with the package (configs/default_model.yaml)."""
    meta_params, config, _ = read_model(PACKAGED)
    assert config is not None
    precise = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), meta_params)
    return Start(name=DEFAULT, config=config, model=TextModel.open(config, PACKAGED), meta_params=precise)


def start_of_pretrained(name: str | Path) -> Start:
    """Return a pretrained model, named as `find_files` takes it, on which a head alone adapts.

    Raises:
        UserError: it cannot be used.
    """
    stated = read_vectors(find_files(name).path).vectors.max_length
    longest = UNSTATED if stated is None else min(stated, LONGEST)
    values: dict[str, Any] = {
        "model": {"pretrained": str(name)},
        "learner": {"name": "protonet"},
        "tokenizer": {"max_length": longest, "buckets": [*(size for size in BUCKETS if size < longest), longest]},
    }
    config = from_dict(values)
    model = TextModel.open(config)
    params = {"params": model.functions(training=True).init_params(jax.random.key(config.seed))}
    if (leaf := weights_not_finite(flatten_dict(params, sep="/"))) is not None:
        raise UserError(
            f"{name}: the weights '{leaf}' of the model are not all finite numbers. The file is damaged: save or "
            "download the model again."
        )
    return Start(name=str(name), config=config, model=model, meta_params=params)


def start_of(named: NamedModel) -> Start:
    """The start that a user names, see the module.

    Raises:
        UserError: it cannot be used.
    """
    if named.origin == DEFAULT:
        return start_of_default()
    return start_of_run(named.origin) if named.files is None else start_of_pretrained(named.files.name)


def with_choices(start: Start, examples: int) -> Start:
    """A start whose inner loop has rates and numbers of steps to choose from.

    A learner that compares embeddings goes on as Proto-MAML: from its prototypes some steps of Adam, or none, on the
    head alone, for which the features of a text are computed once.

    Args:
        start: as it was trained.
        examples: that it will adapt to.
    """
    converted = not start.config.learner.record.has_loop
    if converted:
        learner = dataclasses.replace(start.config.learner, name="proto_maml", options={})
        inner = dataclasses.replace(start.config.inner, optimizer="adam", rate=HEAD_RATE, steps=1, params=HEAD)
        start = dataclasses.replace(start, config=dataclasses.replace(start.config, learner=learner, inner=inner))
    usual: int
    steps: tuple[int, ...]
    inner, own = start.config.inner, max(evaluation_steps(start.config), 1)
    usual, steps = (HEAD_STEPS[1], HEAD_STEPS) if converted else (own, (own, 2 * own, 4 * own))
    if examples > MANY and inner.batch_size is None and not start.on_features:
        inner = dataclasses.replace(inner, batch_size=MANY // 2)
        usual, steps = 4 * usual, tuple(4 * number for number in steps)
    config = dataclasses.replace(start.config, inner=dataclasses.replace(inner, test_steps=usual))
    return dataclasses.replace(start, config=config, factors=FACTORS, steps=steps)

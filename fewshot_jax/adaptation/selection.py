"""Which model a few labelled texts deserve, by cross-validation, with rates chosen inside each fold."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fewshot_jax.adaptation.folds import Fold, over_folds, stratified
from fewshot_jax.adaptation.report import ADAPTED, MAJORITY, ROUNDING, SIMPLE
from fewshot_jax.adaptation.scaling import nats, temperature_of
from fewshot_jax.adaptation.simple import SimpleClassifier
from fewshot_jax.adaptation.start import MANY, Start
from fewshot_jax.applications.application import Functions
from fewshot_jax.applications.classification import Features, classification
from fewshot_jax.applications.text_classification import with_label_names
from fewshot_jax.data.splits import TextSplit
from fewshot_jax.evaluation.statistics import Estimate
from fewshot_jax.evaluation.tuning import with_rates
from fewshot_jax.runs.state import run_keys
from fewshot_jax.training.experiment import judging_pair
from fewshot_jax.types import Batch, MetaParams

INNER_FOLDS = 2  # inside the training texts of a fold
LoopChoice = tuple[float, int]  # factor of the inner rate, number of inner steps
OnProgress = Callable[[str], None]  # takes a line on each fold


class Selection(NamedTuple):
    """What cross-validation found.

    Attributes:
        labels: of the ``N`` classes.
        label: ``[n]``, of the texts.
        folds: which texts each fold trains on and holds out.
        logits: for each model and fold ``[held out, N]``, of the texts held out.
        predicted: their labels; of the most frequent label too.
        choice: of the inner loop, on all texts.
        adaptations: the texts as the start reads them.
        diverged: the adapted model had logits that are not finite in some fold.
    """

    labels: list[str]
    label: np.ndarray
    folds: list[Fold]
    logits: dict[str, list[np.ndarray]]
    predicted: dict[str, list[np.ndarray]]
    choice: LoopChoice
    adaptations: "Adaptations"
    diverged: bool = False

    def scores(self, score: Callable[[np.ndarray, np.ndarray], float]) -> dict[str, Estimate]:
        """The score of each model over the folds: of ``(true [m], predicted [m])``."""
        return {
            name: over_folds(
                [score(self.label[test], given) for (_, test), given in zip(self.folds, per_fold, strict=True)],
                self.folds,
            )
            for name, per_fold in self.predicted.items()
        }

    def gain(self, score: Callable[[np.ndarray, np.ndarray], float]) -> Estimate:
        """The score of the adapted model minus that of the simple one, paired by fold."""
        pairs = zip(self.folds, self.predicted[ADAPTED], self.predicted[SIMPLE], strict=True)
        differences = [score(self.label[test], a) - score(self.label[test], b) for (_, test), a, b in pairs]
        return over_folds(differences, self.folds)

    @property
    def best(self) -> str:
        """The model of the larger accuracy; of equals the simple one, and where the other diverged."""
        return ADAPTED if not self.diverged and self.gain(accuracy).mean > ROUNDING else SIMPLE

    def temperature(self, model: str) -> float:
        """Of a model, on texts that were held out; 1 of one that diverged."""
        if model == ADAPTED and self.diverged:
            return 1.0
        logits, held_out = self.pooled(model)
        return temperature_of(logits, self.label[held_out], texts=len(np.unique(held_out)))

    def pooled(self, model: str) -> tuple[np.ndarray, np.ndarray]:
        """Logits of all texts while they were held out, and the numbers of the texts: in each repeat once."""
        return np.concatenate(self.logits[model]), np.concatenate([test for _, test in self.folds])


def accuracy(true: np.ndarray, predicted: np.ndarray) -> float:
    """Share of the labels that are right."""
    return float((true == predicted).mean())


def encoded(start: Start, texts: Sequence[str], ways: int) -> tuple[Functions, Batch, MetaParams]:
    """Texts as the learner of a start reads them: the functions, a batch of them without labels, the meta-parameters.

    Where the head alone adapts, the batch holds the features of the texts, ``[n, D]``, computed once.
    """
    reader = start.reader(ways)
    if not start.on_features:
        batch = reader.batch(texts, len(texts))
        return reader.functions, {name: leaf for name, leaf in batch.items() if name != "mask"}, start.meta_params
    embed_fn, size = reader.functions.embed_fn, reader.batch_size // 4
    assert embed_fn is not None
    embed = jax.jit(lambda params, batch: embed_fn(params, batch, jax.random.key(0)))
    rows = []
    for begin in range(0, len(texts), size):
        part = texts[begin : begin + size]
        rows.append(np.asarray(embed(start.meta_params["params"], reader.batch(part, size)))[: len(part)])
    features = np.concatenate(rows)
    given = Features(lambda rng: {}, lambda params, batch, rng: batch["features"], features.shape[1])
    functions = classification(given, ways=ways)
    # The head takes its dtype from the parameters of the features; this unused array gives it.
    return functions, {"features": features}, {"params": {"features": {"unread": np.zeros(1, features.dtype)}}}


class Adaptations:
    """A start and all texts, encoded once; any part of them is adapted to by one compiled program.

    Args:
        start: with choices of its inner loop.
        data: the texts.
        support, query: most texts that are adapted to, and that are labelled.
        fewer: another size of what is adapted to, with a program of its own; None for one size.
    """

    def __init__(self, start: Start, data: TextSplit, *, support: int, query: int, fewer: int | None = None):
        self.start = start
        texts = with_label_names(start.config, data)
        functions, batch, self._meta_params = encoded(start, texts, len(data.classes))
        self._all = {name: np.asarray(leaf) for name, leaf in batch.items()}
        self._names = np.arange(len(data.label), len(texts))
        self._label = np.concatenate([data.label, np.arange(len(self._names))]).astype(np.int32)
        most = start.reader(len(data.classes)).batch_size  # that go through the model at once, however many there are
        parts = -(-query // most)
        self._query = parts, -(-query // parts)
        self._support = [size + len(self._names) for size in (fewer, support) if size is not None]
        _, learner = judging_pair(functions, start.config)
        rate, key = start.config.inner.rate, run_keys(start.config.seed).evaluation

        @jax.jit
        def logits(meta_params: Any, support: Any, queries: Any, factor: jax.Array) -> list[jax.Array]:
            given, overrides = with_rates(meta_params, factor, rate)
            adapted = [learner.adapt(given, support, key, inner_steps=count, **overrides) for count in start.steps]
            return [
                jax.lax.map(lambda query, task=task: learner.predict(task, query, key), queries) for task in adapted
            ]

        self._logits, self._learner = logits, learner

    def after(self, train: np.ndarray, test: np.ndarray, factor: float) -> np.ndarray:
        """Logits ``[choices of steps, test, N]`` of some texts, after adapting to others."""
        given = np.concatenate([train, self._names])
        support = self._taken(given, next(size for size in self._support if size >= len(given)))
        query = self._taken(test, math.prod(self._query))
        queries = {name: leaf.reshape(*self._query, *leaf.shape[1:]) for name, leaf in query.items()}
        outputs = self._logits(self._meta_params, support, queries, np.float32(factor))
        ways = outputs[0].shape[-1]
        return np.stack([np.asarray(leaf, np.float64).reshape(-1, ways)[: len(test)] for leaf in outputs])

    def head(self, factor: float, steps: int) -> Any:
        """The head that is adapted to all texts, of a start whose head alone adapts."""
        given, overrides = with_rates(self._meta_params, factor, self.start.config.inner.rate)
        index = np.arange(len(self._label))
        key, adapt = run_keys(self.start.config.seed).evaluation, self._learner.adapt
        adapted = jax.jit(lambda given, support: adapt(given, support, key, inner_steps=steps, **overrides))
        return adapted(given, self._taken(index, len(index)))["head"]

    def _taken(self, index: np.ndarray, size: int) -> dict[str, np.ndarray]:
        padded = np.concatenate([index, np.full(size - len(index), index[-1])])
        rows = {name: leaf[padded] for name, leaf in self._all.items()}
        return {**rows, "label": self._label[padded], "mask": np.arange(size) < len(index)}


def choose(adaptations: Adaptations, label: np.ndarray, train: np.ndarray, folds: int) -> LoopChoice:
    """The rate and the number of steps that do best on texts held out of some training texts.

    By accuracy, and by mean nats where that is the same. Where nothing can be held out, the rate and the number of
    steps are the usual ones.
    """
    start = adaptations.start
    inner = stratified(label[train], most=folds, seed=1)
    if not inner:
        return start.usual
    scores: dict[LoopChoice, tuple[float, float]] = {}
    for factor in start.factors:
        logits = [adaptations.after(train[a], train[b], factor) for a, b in inner]
        true = np.concatenate([label[train[b]] for _, b in inner])
        for i, steps in enumerate(start.steps):
            given = np.concatenate([one[i] for one in logits])
            if not np.isfinite(given).all():  # a large rate may diverge
                continue
            right, lost = accuracy(true, given.argmax(-1)), nats(given, true).mean()
            scores[factor, steps] = right, -float(lost)
    if not scores:  # all diverged
        return min(start.factors), min(start.steps)
    return max(scores, key=lambda choice: scores[choice])


def select(start: Start, data: TextSplit, *, folds: int = 5, repeats: int = 1, on_progress: OnProgress) -> Selection:
    """Cross-validate an adapted model and a simple one on the same folds.

    Args:
        start: of the adapted one, with choices.
        data: the texts, of which `stratified` can make folds.
        folds, repeats: of the cross-validation.
        on_progress: takes a line on each fold.
    """
    label = np.asarray(data.label)
    divisions = stratified(label, most=folds, repeats=repeats, seed=start.config.seed)
    # One size for all parts, so that one program serves them. With many texts the inner folds have a second, smaller
    # size, which wastes less on padding.
    trained = [*(train for train, _ in divisions), np.arange(len(label))]
    inner = [fold for train in trained for fold in stratified(label[train], most=INNER_FOLDS, seed=1)]
    held_out = max(len(test) for _, test in [*divisions, *inner])
    fewer = max(len(train) for train, _ in inner) if inner and len(label) > MANY else None
    adaptations = Adaptations(start, data, support=len(label), query=held_out, fewer=fewer)
    found: dict[str, list[np.ndarray]] = {name: [] for name in (ADAPTED, SIMPLE)}
    predicted: dict[str, list[np.ndarray]] = {name: [] for name in (ADAPTED, SIMPLE, MAJORITY)}
    began = time.monotonic()
    for number, (train, test) in enumerate(divisions, 1):
        left = (time.monotonic() - began) / (number - 1) * (len(divisions) - number + 1) if number > 1 else None
        on_progress(f"fold {number} of {len(divisions)}{f', about {left:.0f} s left' if left and left >= 1 else ''}")
        factor, steps = choose(adaptations, label, train, INNER_FOLDS)
        simple = SimpleClassifier.fit([data.texts[i] for i in train], label[train], data.classes)
        logits = {
            ADAPTED: adaptations.after(train, test, factor)[start.steps.index(steps)],
            SIMPLE: simple.logits([data.texts[i] for i in test]),
        }
        for name, given in logits.items():
            found[name].append(given)
            predicted[name].append(given.argmax(-1))
        predicted[MAJORITY].append(np.full(len(test), np.bincount(label[train]).argmax()))
    on_progress("choosing the rate on all texts")
    whole = choose(adaptations, label, np.arange(len(label)), INNER_FOLDS)
    diverged = not all(np.isfinite(given).all() for given in found[ADAPTED])
    return Selection(list(data.classes), label, divisions, found, predicted, whole, adaptations, diverged)


def confusions(
    selection: Selection, model: str, texts: Sequence[str], most: int = 3
) -> list[tuple[str, str, int, str]]:
    """The pairs of classes most often confused: true and predicted label, how often, and the surest example text."""
    logits, held_out = selection.pooled(model)
    label, given = selection.label[held_out], logits.argmax(-1)
    counts: dict[tuple[int, int], list[int]] = {}
    for i in np.flatnonzero(given != label):
        counts.setdefault((int(label[i]), int(given[i])), []).append(int(i))
    worst = sorted(counts.items(), key=lambda pair: (-len(pair[1]), pair[0]))[:most]
    return [
        (
            selection.labels[true],
            selection.labels[wrong],
            len(items),
            texts[held_out[max(items, key=lambda i: logits[i, wrong] - logits[i, true])]],
        )
        for (true, wrong), items in worst
    ]

"""Folds, temperature, the simple model, and the choice between it and an adapted one."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from scipy.stats import ttest_1samp

import fewshot_jax as fsj
from fewshot_jax.adaptation import selection as selecting
from fewshot_jax.adaptation import simple
from fewshot_jax.adaptation.card import card
from fewshot_jax.adaptation.fitting import adapt_start
from fewshot_jax.adaptation.folds import over_folds, rare_classes, stratified
from fewshot_jax.adaptation.named import find_model
from fewshot_jax.adaptation.readers import HeadReader
from fewshot_jax.adaptation.report import ADAPTED, SIMPLE, verdict
from fewshot_jax.adaptation.scaling import NONE, most_probable, nats, softmax, temperature_of
from fewshot_jax.adaptation.selection import Adaptations, choose, confusions, select
from fewshot_jax.adaptation.simple import SimpleClassifier
from fewshot_jax.adaptation.start import HEAD, start_of, with_choices
from fewshot_jax.adaptation.summary import record_of
from fewshot_jax.data.duplicates import distinct
from fewshot_jax.data.records import Record
from fewshot_jax.data.splits import text_split
from fewshot_jax.errors import UserError
from fewshot_jax.models.sources.names import DEFAULT
from fewshot_jax.training.learners import build_learner

TEXTS = {
    "refund": ["i want my money back", "please refund the order", "give me a refund", "money back please"],
    "delivery": ["where is my parcel", "the parcel is late", "track my delivery", "when does the delivery come"],
    "praise": ["what a lovely shop", "you are the best", "lovely service thank you", "best shop ever"],
}
RECORDS = [Record(text, label, "") for label, texts in TEXTS.items() for text in texts]
DATA = text_split(RECORDS)
LABELS = ("refund", "delivery", "praise", "question", "other", "more")


def test_folds_hold_out_each_text_once_in_each_repeat_and_of_each_class_alike():
    label = np.repeat(np.arange(3), 10)
    folds = stratified(label, most=5, repeats=2)
    assert len(folds) == 10
    for repeat in (folds[:5], folds[5:]):
        assert sorted(np.concatenate([test for _, test in repeat])) == list(range(30))
    for train, test in folds:
        assert not set(train) & set(test)
        assert np.bincount(label[test]).tolist() == [2, 2, 2]


def test_there_are_no_more_folds_than_texts_of_the_smallest_class():
    assert len(stratified(np.array([0, 0, 0, 0, 1, 1]), most=5)) == 2
    assert stratified(np.array([0, 0, 0, 1]), most=5) == []


def test_a_rare_class_is_trained_on_in_every_fold_and_changes_nothing_else():
    label = np.array([0] * 20 + [1] * 20 + [2] * 2)
    folds = stratified(label, most=5)
    assert len(folds) == 5 and rare_classes(label) == [2]
    for train, test in folds:
        assert {40, 41} <= set(train) and not {40, 41} & set(test)
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(40))


def test_folds_that_agree_give_no_interval():
    assert over_folds([0.5, 0.5, 0.5], [(np.arange(4), np.arange(2))] * 3).half_width == np.inf


def test_the_interval_over_folds_is_that_of_nadeau_and_bengio():
    folds = [(np.arange(8), np.arange(2))] * 5
    values = [0.5, 0.7, 0.6, 0.9, 0.8]
    plain = ttest_1samp(values, 0).confidence_interval(0.95)
    given = over_folds(values, folds)
    assert given.mean == pytest.approx(0.7)
    # 1/J + n_test/n_train in the place of 1/J
    assert given.half_width == pytest.approx((plain.high - plain.low) / 2 * np.sqrt((1 / 5 + 1 / 4) / (1 / 5)))


def test_the_temperature_of_logits_that_are_too_sure_is_found():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 4))
    label = (logits + rng.gumbel(size=logits.shape)).argmax(1)  # drawn from softmax(logits)
    assert temperature_of(3 * logits, label) == pytest.approx(3, rel=0.05)
    assert temperature_of(logits, label) == pytest.approx(1, rel=0.05)
    np.testing.assert_allclose(nats(logits, label), -np.log(softmax(logits)[np.arange(len(label)), label]))


def test_below_the_threshold_a_text_is_of_none_of_the_classes():
    given = most_probable(["a", "b"], np.array([[0.7, 0.3], [0.45, 0.55]]), 0.6)
    assert [one.label for one in given] == ["a", NONE]
    assert given[1].probability == 0.55


def test_the_simple_model_is_what_scikit_learn_computes():
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    union = make_union(TfidfVectorizer(ngram_range=(1, 2)), TfidfVectorizer(analyzer="char", ngram_range=(3, 5)))
    for labels in (DATA.classes, DATA.classes[:2]):
        rows = DATA.label < len(labels)
        texts, label = [text for text, row in zip(DATA.texts, rows, strict=True) if row], DATA.label[rows]
        expected = make_pipeline(union, LogisticRegression(C=10, max_iter=1000)).fit(texts, label)
        given = SimpleClassifier.fit(texts, label, labels).predict_proba(["my parcel", "a lovely refund", "zzz"])
        np.testing.assert_allclose(given, expected.predict_proba(["my parcel", "a lovely refund", "zzz"]), atol=1e-5)


def test_the_simple_model_comes_back_from_its_directory(tmp_path):
    made = SimpleClassifier.fit(DATA.texts, DATA.label, DATA.classes)
    made.temperature = 0.7
    made.save(tmp_path / "model")
    loaded = fsj.load(tmp_path / "model")
    np.testing.assert_allclose(
        loaded.predict_proba(["my parcel", ""]), made.predict_proba(["my parcel", ""]), rtol=1e-6
    )
    assert loaded.predict(["where is my parcel"])[0].label == "delivery"
    terms = tmp_path / "model/terms.json"
    terms.write_text(json.dumps({**json.loads(terms.read_text()), "words": ["one"]}))
    with pytest.raises(UserError, match="damaged"):
        fsj.load(tmp_path / "model")


def test_a_class_without_a_training_text_is_not_predicted():
    made = SimpleClassifier.fit(DATA.texts[:8], DATA.label[:8], DATA.classes)
    absent = set(range(3)) - set(DATA.label[:8].tolist())
    assert not absent & set(made.predict_proba(DATA.texts).argmax(1).tolist())


@pytest.fixture(scope="module")
def start():
    return start_of(find_model(DEFAULT))


@pytest.fixture(scope="module")
def selection(start):
    return select(with_choices(start, len(DATA.label)), DATA, folds=2, on_progress=lambda text: None)


@pytest.mark.parametrize("at_once", [256, 4])
def test_a_part_adapted_to_by_the_shared_program_is_what_adapting_to_it_alone_gives(start, at_once, monkeypatch):
    monkeypatch.setattr(HeadReader, "batch_size", at_once)
    chosen = with_choices(start, len(DATA.label))
    adaptations = Adaptations(chosen, DATA, support=10, query=8)
    train, test = np.arange(0, 12, 2), np.array([1, 3, 5, 7, 9])
    factor, steps = chosen.factors[-1], chosen.steps[-1]
    given = adaptations.after(train, test, factor)[chosen.steps.index(steps)]
    part = text_split([RECORDS[i] for i in train])
    alone = adapt_start(chosen.with_loop(factor, steps), part)
    np.testing.assert_allclose(softmax(given), alone.predict_proba([DATA.texts[i] for i in test]), atol=1e-4)


@pytest.mark.parametrize(
    "name", ["maml", pytest.param("meta_sgd"), pytest.param("maml_plus_plus", marks=pytest.mark.slow)]
)
def test_the_loop_that_is_chosen_is_the_one_that_was_judged(name, start):
    """Of rates in the config, and of learned ones."""
    learner = dataclasses.replace(start.config.learner, name=name)
    inner = dataclasses.replace(start.config.inner, rate=0.05, steps=2)
    config = dataclasses.replace(start.config, learner=learner, inner=inner)
    functions = start.reader(3).functions
    meta_params = build_learner(functions, config, training=True).init(start.meta_params["params"], jax.random.key(0))
    chosen = with_choices(dataclasses.replace(start, config=config, meta_params=meta_params), len(DATA.label))
    train, test = np.arange(0, 12, 2), np.array([1, 5, 9])
    given = {
        factor: Adaptations(chosen, DATA, support=6, query=3).after(train, test, factor)[0] for factor in (0.3, 3.0)
    }
    part = text_split([RECORDS[i] for i in train])
    for factor, logits in given.items():
        alone = adapt_start(chosen.with_loop(factor, chosen.steps[0]), part)
        np.testing.assert_allclose(softmax(logits), alone.predict_proba([DATA.texts[i] for i in test]), atol=1e-4)
    assert np.abs(softmax(given[0.3]) - softmax(given[3.0])).max() > 1e-3


def test_a_model_that_diverged_is_not_chosen(selection):
    assert selection._replace(diverged=True).best == SIMPLE


def test_duplicate_examples_are_skipped_and_a_text_with_several_labels_is_reported():
    again = [*RECORDS, Record("  I want my money BACK ", "refund", ""), Record("money back please", "praise", "")]
    kept, repeated, unclear = distinct(again)
    assert kept == [*RECORDS, again[-1]] and repeated == 1 and unclear == ["money back please"]


def test_the_model_that_is_saved_is_adapted_on_the_features_of_the_cross_validation(selection, start, monkeypatch):
    chosen = with_choices(start, len(DATA.label))
    alone = adapt_start(chosen.with_loop(*selection.choice), DATA).predict_proba(DATA.texts)
    monkeypatch.setattr(HeadReader, "batch", lambda *_: pytest.fail("the texts are encoded again"))
    shared = adapt_start(chosen, DATA, selection)
    monkeypatch.undo()
    np.testing.assert_allclose(shared.predict_proba(DATA.texts), alone, atol=1e-5)


def test_a_head_that_a_run_has_trained_keeps_its_loop(start):
    """Multiples of its own steps, by its own optimizer: the many steps of Adam are for heads that nothing trained."""
    learner = dataclasses.replace(start.config.learner, name="proto_maml")
    inner = dataclasses.replace(start.config.inner, optimizer="sgd", rate=0.5, steps=5, params=HEAD)
    run = dataclasses.replace(start, config=dataclasses.replace(start.config, learner=learner, inner=inner))
    assert run.on_features and with_choices(run, 12).steps == (5, 10, 20) and with_choices(run, 12).usual == (1.0, 5)
    assert with_choices(start, 12).steps == (0, 30, 100)


def test_a_head_on_features_computed_once_is_that_of_the_whole_model(start):
    learner = dataclasses.replace(start.config.learner, name="proto_maml")
    inner = dataclasses.replace(start.config.inner, optimizer="adam", rate=1e-2, steps=6, params=HEAD)
    chosen = dataclasses.replace(start, config=dataclasses.replace(start.config, learner=learner, inner=inner))
    assert chosen.on_features
    once = adapt_start(chosen, DATA)
    spelt = dataclasses.replace(inner, params="^(head)")  # the same leaves, by the whole model
    whole = adapt_start(dataclasses.replace(chosen, config=dataclasses.replace(chosen.config, inner=spelt)), DATA)
    np.testing.assert_allclose(once.predict_proba(DATA.texts), whole.predict_proba(DATA.texts), atol=1e-4)


def test_rates_are_chosen_without_a_look_at_the_texts_held_out(start):
    chosen = with_choices(start, len(DATA.label))
    train = np.arange(0, 12, 2)
    hidden = DATA._replace(texts=[text if i in train else "entirely other words" for i, text in enumerate(DATA.texts)])
    choices = [
        choose(Adaptations(chosen, data, support=12, query=6), np.asarray(data.label), train, 2)
        for data in (DATA, hidden)
    ]
    assert choices[0] == choices[1]


def test_with_nothing_to_hold_out_the_usual_is_chosen(start):
    chosen = with_choices(start, 3)
    adaptations = Adaptations(chosen, DATA, support=3, query=3)
    assert choose(adaptations, np.asarray(DATA.label), np.array([0, 4, 8]), 2) == (1.0, 30) == chosen.usual


def test_every_text_is_judged_while_held_out_and_the_better_model_is_named(selection):
    assert {len(one) for one in selection.predicted.values()} == {2}
    scores = selection.scores(lambda true, given: float((true == given).mean()))
    for name in (ADAPTED, SIMPLE):
        logits, held_out = selection.pooled(name)
        assert sorted(held_out) == list(range(12))
        right = (logits.argmax(1) == DATA.label[held_out]).mean()
        assert scores[name].mean == pytest.approx(right)
    better = ADAPTED if scores[ADAPTED].mean > scores[SIMPLE].mean else SIMPLE
    assert selection.best == better
    assert scores[ADAPTED].mean > 0.5, "the words of a class recur"


@pytest.mark.parametrize("counts", [(3, 3, 2, 2), (4, 3, 2, 2), (10, 3, 2, 2), (3, 2)])
def test_classes_of_two_and_three_texts_are_cross_validated(counts, start):
    """An inner fold may hold out more than a fold: of so few texts other classes are the rare ones."""
    records = [Record(f"{LABELS[i]} word{i} {'x' * j}", LABELS[i], "") for i, n in enumerate(counts) for j in range(n)]
    data = text_split(records)
    found = select(with_choices(start, len(records)), data, on_progress=lambda text: None)
    assert sum(map(len, found.predicted[ADAPTED])) == sum(len(test) for _, test in found.folds)


def test_of_many_texts_those_of_inner_folds_take_a_smaller_program(start, monkeypatch):
    monkeypatch.setattr(selecting, "MANY", 8)
    chosen = with_choices(start, len(DATA.label))
    two = select(chosen, DATA, folds=2, on_progress=lambda text: None)
    assert two.adaptations._support == [6, 12]
    monkeypatch.undo()
    one = select(chosen, DATA, folds=2, on_progress=lambda text: None)
    assert one.adaptations._support == [12]
    assert two.choice == one.choice
    for a, b in zip(two.logits[ADAPTED], one.logits[ADAPTED], strict=True):
        np.testing.assert_allclose(softmax(a), softmax(b), atol=1e-4)


def test_repeats_make_no_model_surer_of_itself(selection):
    held_out = selection.pooled(SIMPLE)[1]
    sure = 20 * np.eye(3)[selection.label[held_out]]
    once = selection._replace(logits={SIMPLE: [sure]}, folds=[(held_out, held_out)])
    often = selection._replace(logits={SIMPLE: [sure] * 20}, folds=[(held_out, held_out)] * 20)
    assert once.temperature(SIMPLE) == pytest.approx(often.temperature(SIMPLE), rel=1e-3)


def test_of_equals_the_simple_model_is_the_better_one(selection, start):
    def predicted(*right):  # of ten texts in each fold
        return [np.where(np.arange(10) < count, 0, 1) for count in right]

    folds = [(np.arange(10, 20), np.arange(10))] * 3
    both = {ADAPTED: predicted(9, 8, 7), SIMPLE: predicted(7, 8, 9), "most frequent label": predicted(1, 1, 1)}
    logits = {name: [np.eye(3)[one] for one in given] for name, given in both.items()}
    equal = selection._replace(predicted=both, logits=logits, folds=folds, label=np.zeros(20, int))
    assert sum([0.9, 0.8, 0.7]) != sum([0.7, 0.8, 0.9])
    assert equal.best == SIMPLE
    record = record_of(equal, start.with_loop(*equal.choice), ["a"] * 20, SIMPLE)
    assert "label equally many texts right. Saved: the simple one" in verdict(record)


def test_a_model_that_diverged_is_told_and_not_calibrated(selection, start):
    broken = [np.full_like(one, np.nan) for one in selection.logits[ADAPTED]]
    diverged = selection._replace(diverged=True, logits={**selection.logits, ADAPTED: broken})
    record = record_of(diverged, start.with_loop(*diverged.choice), DATA.texts, ADAPTED)
    assert record["temperature"] == 1.0 and "diverged" in verdict(record)
    assert "diverged" in card(record, "mine")


def test_the_card_says_what_was_done(selection, start):
    for steps, words in (
        (0, "compared with prototypes"),
        (1, "adapted by 1 gradient step\n"),
        (30, "30 gradient steps"),
    ):
        record = record_of(selection, start.with_loop(1.0, steps), DATA.texts, ADAPTED)
        assert words in card(record, "mine")
    assert "Started from: nothing\n" in card({**record, "saved": SIMPLE}, "mine")


def test_of_many_classes_the_simple_model_has_fewer_terms(monkeypatch):
    monkeypatch.setattr(simple, "MOST_WEIGHTS", 90)
    monkeypatch.setattr(simple, "LEAST_TERMS", 20)
    label = np.asarray(DATA.label)
    assert SimpleClassifier.fit(DATA.texts, label, DATA.classes).arrays["kernel"].shape == (60, 3)


def test_the_summary_says_what_was_found(selection, start):
    record = record_of(selection, start.with_loop(*selection.choice), DATA.texts, selection.best)
    assert sum(record["classes"].values()) == 12 and record["saved"] == selection.best
    text = card({**record, "confusions": [{"true": "a`b", "predicted": "c", "count": 1, "example": "x\n# y"}]}, "mine")
    assert "`a'b`" in text and "`x # y`" in text and verdict(record) in text
    json.dumps(record)


def test_a_model_that_the_most_frequent_label_beats_is_not_recommended(selection, start):
    record = record_of(selection, start.with_loop(*selection.choice), DATA.texts, SIMPLE)
    assert "do not use it" not in verdict(record)
    for scores in record["scores"].values():
        scores["accuracy"]["mean"] = 0.3
    assert "Neither is better than always saying the most frequent label (30.0%): do not use it." in verdict(record)


def test_confusions_are_counted_and_have_an_example(selection):
    logits = np.eye(3)[[0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 1, 1]].astype(float)
    folds = [(np.arange(0), np.arange(12))]
    made = selection._replace(logits={"adapted": [logits]}, label=np.repeat(np.arange(3), 4), folds=folds)
    found = confusions(made, "adapted", [str(i) for i in range(12)])
    assert found[0][:3] == (*selection.labels[2:0:-1], 4)
    assert found[0][3] in {"8", "9", "10", "11"}


def test_the_default_knows_english_words(start):
    from fewshot_jax.adaptation.remarks import known_share

    assert known_share(start.model.codec.tokenizer, ["where is my parcel", "a refund please"]) == 1
    assert jax.tree.leaves(start.meta_params)[0].dtype == np.float32

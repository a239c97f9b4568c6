"""From a run to a classifier: saved and loaded without loss, and few compilations."""

import json

import numpy as np
import pytest

import fewshot_jax as fsj
from fewshot_jax.adaptation.scaling import Prediction
from fewshot_jax.applications import text_features
from fewshot_jax.config_file import from_dict, write_config
from fewshot_jax.data.files import read_records
from fewshot_jax.data.records import Record
from tests.small_run import merged, saved_run

VALUES = {
    "data": {"groups": 8, "texts_per_class": 8, "split_by": "group", "fractions": [0.5, 0.25, 0.25]},
    "episodes": {"ways": 3, "shots": 1, "queries": 2, "within_group": True},
    "tokenizer": {"kind": "word", "max_length": 12, "buckets": [6, 12]},
    "model": {"width": 16, "layers": 1, "heads": 2, "mlp_width": 16},
    "inner": {"steps": 1, "rate": 0.4, "test_steps": 3},
    "outer": {"steps": 1, "tasks": 1},
    "evaluation": {
        "every": 1,
        "validation_episodes": 2,
        "ways": 3,
        "shots": [1],
        "queries": 2,
        "tasks": 2,
        "at_end": False,
    },
}
CSV = """text,label
please book tickets,booking
now book songs today,booking
kindly cancel lunch,cancelling
then cancel keys now,cancelling
soon print photos,printing
print maps gladly now,printing
quickly send gifts,sending
"""
SHORT, LONG = "book tickets", "please book tickets then cancel lunch also print photos now"


@pytest.fixture(scope="module", params=["maml", "protonet"])
def run(request, tmp_path_factory):
    return saved_run(tmp_path_factory.mktemp(request.param), merged(VALUES, learner={"name": request.param}))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    path = tmp_path_factory.mktemp("examples") / "examples.csv"
    path.write_text(CSV)
    return read_records(path)


@pytest.fixture(scope="module")
def classifier(run, records):
    return fsj.adapt(run, records, folds=0)


@pytest.fixture
def saved(classifier, tmp_path):
    classifier.save(tmp_path / "model")
    return tmp_path / "model"


def test_any_number_of_classes_in_sorted_order(classifier):
    assert classifier.labels == ["booking", "cancelling", "printing", "sending"]


def test_probabilities_sum_to_one_and_the_prediction_is_the_largest(classifier):
    texts = [SHORT, LONG, "cancel lunch", "nothing that is known", ""]
    probabilities = classifier.predict_proba(texts)
    assert probabilities.shape == (5, 4)
    assert (probabilities > 0).all()
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    assert (probabilities.std(-1) > 1e-4).any()
    for prediction, row in zip(classifier.predict(texts), probabilities, strict=True):
        assert prediction == Prediction(classifier.labels[row.argmax()], row.max())


def test_the_support_texts_are_learned_better_than_chance(classifier, records):
    probabilities = classifier.predict_proba([record.text for record in records])
    of_own = [row[classifier.labels.index(record.label)] for row, record in zip(probabilities, records, strict=True)]
    assert np.mean(of_own) > 1 / 4 + 0.02


def test_a_loaded_model_gives_identical_probabilities(classifier, saved):
    loaded = fsj.load(saved)
    texts = [SHORT, LONG, "cancel lunch"]
    assert loaded.labels == classifier.labels
    assert loaded.config == classifier.config
    np.testing.assert_array_equal(loaded.predict_proba(texts), classifier.predict_proba(texts))


def test_numbers_of_numpy_as_labels_are_saved_and_stay_integers(run, records, tmp_path):
    numbers = np.unique([record.label for record in records], return_inverse=True)[1]
    labelled = [record._replace(label=label) for record, label in zip(records, numbers, strict=True)]
    fsj.adapt(run, labelled, folds=0).save(tmp_path / "model")
    loaded = fsj.load(tmp_path / "model")
    assert loaded.labels == [0, 1, 2, 3] and type(loaded.predict([SHORT])[0].label) is int


def test_labels_that_look_alike_are_joined_with_a_warning(run, records):
    spelled = [records[0]._replace(label=f"{records[0].label}\u200b"), *records[1:]]
    with pytest.warns(UserWarning, match=r"joined labels that look alike .*'booking' \(2 spellings\)"):
        assert fsj.adapt(run, spelled, folds=0).labels == ["booking", "cancelling", "printing", "sending"]


def test_an_example_that_is_repeated_counts_once_with_a_warning(run, records, classifier):
    repeated = [*records, *(record._replace(text=f"{record.text.upper()} ") for record in records[:3])]
    with pytest.warns(UserWarning, match="skipped 3 duplicate examples"):
        again = fsj.adapt(run, repeated, folds=0)
    np.testing.assert_array_equal(again.predict_proba([SHORT, LONG]), classifier.predict_proba([SHORT, LONG]))


def test_a_text_with_several_labels_is_told(run, records):
    with pytest.warns(UserWarning, match=f"'{records[0].text}' has several labels; keep one"):
        fsj.adapt(run, [*records, records[0]._replace(label="printing")], folds=0)


def test_a_record_without_a_label_is_named(run, records):
    with pytest.raises(fsj.UserError, match=r"record 7 \('pay'\): label nan of type float"):
        fsj.adapt(run, [*records, Record("pay", float("nan"))])


def test_saving_leaves_the_model_and_nothing_else(saved):
    assert {path.name for path in saved.parent.iterdir()} == {"model"}
    names = {"model.safetensors", "model.json", "tokenizer.json", "tokenizer_config.json", "examples.jsonl"}
    assert {path.name for path in saved.iterdir()} == names
    assert {"start", "labels", "temperature", "config", "versions"} == json.loads(
        (saved / "model.json").read_text()
    ).keys()


def test_a_text_is_predicted_alike_alone_and_among_others(classifier):
    texts = [SHORT, LONG, "cancel lunch", "print photos"] * 80  # more than one batch
    alone = np.concatenate([classifier.predict_proba([text]) for text in texts[:4]])
    np.testing.assert_allclose(classifier.predict_proba(texts), np.tile(alone, (80, 1)), atol=1e-5)


def test_a_thousand_texts_compile_once_for_each_length(run, records, monkeypatch):
    classifier = fsj.adapt(run, records, folds=0)
    traces = []
    check_texts = text_features.check_texts

    def counted(batch):
        traces.append(batch["input_ids"].shape)
        check_texts(batch)

    monkeypatch.setattr(text_features, "check_texts", counted)
    classifier = type(classifier)(classifier.adapted, classifier.labels, classifier.config, classifier.reader)
    assert len(classifier.predict([SHORT] * 500 + [LONG] * 500)) == 1000
    assert sorted(traces) == [(256, 6), (256, 12)]
    for count in (1, 7, 16, 17, 300):  # a few texts take a small program
        classifier.predict([SHORT] * count)
        classifier.predict([LONG] * count)
    assert sorted(traces) == [(16, 6), (16, 12), (256, 6), (256, 12)]


@pytest.mark.parametrize("name", ["maml", "protonet"])
def test_with_label_names_the_names_of_the_users_labels_are_examples_too(tmp_path, name):
    """The classifier is that of a run without them which is given the names as texts."""
    records = [Record("kindly cancel lunch", "stop_it"), Record("soon print photos", "to>paper")]
    values = merged(VALUES, learner={"name": name})
    saved_run(tmp_path, merged(values, episodes={"label_names": True}))
    ours = fsj.adapt(tmp_path / "run", records, folds=0).predict_proba([SHORT, LONG])
    (tmp_path / "run" / "config.yaml").unlink()
    write_config(from_dict(values), tmp_path / "run" / "config.yaml")
    spelled = [*records, Record("stop it", "stop_it"), Record("to paper", "to>paper")]
    np.testing.assert_allclose(
        fsj.adapt(tmp_path / "run", spelled, folds=0).predict_proba([SHORT, LONG]), ours, rtol=1e-5
    )
    assert (np.abs(fsj.adapt(tmp_path / "run", records, folds=0).predict_proba([SHORT, LONG]) - ours) > 1e-4).any()


def test_no_texts_give_no_predictions(classifier):
    assert classifier.predict([]) == []
    assert classifier.predict_proba([]).shape == (0, 4)


def test_one_string_is_not_a_list_of_texts(classifier):
    with pytest.raises(TypeError, match="a list of texts, not one string"):
        classifier.predict("book tickets")
    with pytest.raises(TypeError, match="a list of texts"):
        classifier.predict_proba("book tickets")
    with pytest.raises(TypeError, match="a list of texts, not None"):
        classifier.predict(None)


@pytest.mark.parametrize("threshold", [float("nan"), -0.1, 2])
def test_a_threshold_is_a_probability(classifier, threshold):
    with pytest.raises(ValueError, match=r"threshold=.*: expected a probability, 0 to 1"):
        classifier.predict(["book tickets"], threshold=threshold)


def test_a_single_label_is_refused(run):
    with pytest.raises(fsj.UserError, match=r"one label only \('a'\).*at least two"):
        fsj.adapt(run, [Record("one", "a"), Record("two", "a")])


def test_no_examples_are_refused(run):
    with pytest.raises(fsj.UserError):
        fsj.adapt(run, [])


def test_adapting_what_is_no_run_is_refused(tmp_path, records):
    with pytest.raises(fsj.UserError, match="no such directory"):
        fsj.adapt(tmp_path / "absent", records)
    with pytest.raises(fsj.UserError, match="holds nothing, which is no model"):
        fsj.adapt(tmp_path, records)


def test_saving_over_something_is_refused(classifier, saved):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(fsj.UserError, match="exists and is not an empty directory; give another --output"):
        classifier.save(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    with pytest.raises(fsj.UserError, match="exists and is not an empty directory"):
        classifier.save(saved / "model.json")
    with pytest.raises(fsj.UserError, match="cannot write here"):
        classifier.save(saved / "model.json" / "below")


def test_saving_into_an_empty_directory(classifier, tmp_path):
    (tmp_path / "empty").mkdir()
    classifier.save(tmp_path / "empty")
    assert fsj.load(tmp_path / "empty").labels == classifier.labels


def test_loading_what_is_no_model_is_refused(tmp_path, run):
    with pytest.raises(fsj.UserError, match="holds no adapted model"):
        fsj.load(tmp_path)
    with pytest.raises(fsj.UserError, match=r"does not exist; expected a model that adapt saved"):
        fsj.load(tmp_path / "absent")
    with pytest.raises(fsj.UserError, match="is a run of 'fewshot-jax train'; expected a model that adapt saved"):
        fsj.load(run)


def damage_json(path, change):
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: (d / "model.safetensors").write_bytes((d / "model.safetensors").read_bytes()[:-40]),
        lambda d: (d / "model.safetensors").write_bytes(b""),
        lambda d: (d / "model.safetensors").unlink(),
        lambda d: (d / "model.json").write_text('{"labels": ['),
        lambda d: (d / "model.json").write_text("[]"),
        lambda d: (d / "model.json").write_bytes(b"\xff\xfe"),
        lambda d: damage_json(d / "model.json", lambda record: record.pop("labels")),
        lambda d: damage_json(d / "model.json", lambda record: record["labels"].pop()),
        lambda d: damage_json(d / "model.json", lambda record: record["config"]["model"].update(width=-1)),
        lambda d: (d / "tokenizer.json").unlink(),
        lambda d: (d / "tokenizer.json").write_text("{}"),
    ],
    ids=[
        "short weights",
        "empty weights",
        "no weights",
        "broken json",
        "a list",
        "not utf-8",
        "no labels",
        "a label less",
        "bad config",
        "no tokenizer",
        "empty tokenizer",
    ],
)
def test_a_damaged_model_is_refused(saved, damage):
    damage(saved)
    with pytest.raises(fsj.UserError) as error:
        fsj.load(saved)
    assert str(saved) in str(error.value)

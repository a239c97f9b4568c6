"""`fsj.adapt` decides what ``fewshot-jax adapt`` decides, for every kind of model."""

import json
import shutil
import warnings
from typing import NamedTuple

import numpy as np
import pytest

import fewshot_jax as fsj
from fewshot_jax.adaptation.base import Classifier
from fewshot_jax.adaptation.classifier import AdaptedClassifier
from fewshot_jax.adaptation.report import ADAPTED, MAJORITY, SIMPLE
from fewshot_jax.adaptation.simple import SimpleClassifier
from fewshot_jax.adaptation.writer import Writer
from fewshot_jax.cli.main import main
from fewshot_jax.notes import Caution, Note
from tests.small_run import RUN, merged, saved_run

TEXTS = ["i want my money back", "please refund the order", "give me a refund"]
TEXTS += ["where is my parcel", "the parcel is late", "track my delivery"]
LABELS = ["refund"] * 3 + ["delivery"] * 3
REPEATED = (" Give me a REFUND", "refund")
RECORDS = [fsj.Record(*one) for one in (*zip(TEXTS, LABELS, strict=True), REPEATED)]
NAMED = [one._replace(label={"refund": "open", "delivery": "print"}[one.label]) for one in RECORDS]  # known words
PAIRS = [fsj.Example("the king sees the dog", "duri mako pelu"), fsj.Example("the dog " * 20, "mako")]
SHORT_TARGETS = {"target_max_length": 4, "target_buckets": [4]}
VALUES = {
    "run": merged(RUN, learner={"name": "maml"}, inner={"steps": 1, "rate": 0.4}),
    "label scorer": merged(
        RUN,
        learner={"name": "metaicl", "channel": True},
        model={"classifier": "label_names"},
        tokenizer=SHORT_TARGETS,
    ),
    "writer": {
        "application": "translation",
        "episodes": {"shots": 2, "queries": 2},
        "tokenizer": {"kind": "word", "max_length": 24, "buckets": [24], **SHORT_TARGETS},
        "model": RUN["model"],
        "learner": {"gradient": "reverse"},
        "inner": {"steps": 1},
        "evaluation": {"shots": [2], "queries": 2},
    },
}


class Case(NamedTuple):
    """How a kind of model is adapted: keywords of `fsj.adapt`, and what comes of it."""

    model: str
    options: dict
    kind: type


CASES = {
    "default": Case("default", {"folds": 2}, Classifier),
    "default, adapted": Case("default", {"folds": 2, "save": "adapted"}, AdaptedClassifier),
    "default, simple": Case("default", {"folds": 2, "repeats": 2, "save": "simple"}, SimpleClassifier),
    "without folds": Case("default", {"folds": 0}, AdaptedClassifier),
    "run": Case("run", {"folds": 0}, AdaptedClassifier),
    "Hugging Face": Case("hugging", {"folds": 0}, AdaptedClassifier),
    "pretraining run": Case("pretraining", {"folds": 0}, AdaptedClassifier),
    "saved": Case("saved", {"folds": 0, "save": "simple"}, SimpleClassifier),
    "label scorer": Case("label scorer", {}, AdaptedClassifier),
    "writer": Case("writer", {}, Writer),
}


def write_encoder(directory):
    """A tiny one with random numbers, and its tokenizer."""
    from transformers import PreTrainedTokenizerFast

    from fewshot_jax.data.tokenization import train_tokenizer
    from fewshot_jax.models.huggingface.fresh import new_model

    own = train_tokenizer(TEXTS * 3, kind="word")
    size = own.get_vocab_size()
    fsj.save_pretrained(directory, new_model("encoder", vocab_size=size, width=16, layers=1, heads=2, mlp_width=16))
    PreTrainedTokenizerFast(
        tokenizer_object=own, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(str(directory))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model of each kind, by name."""
    folder = tmp_path_factory.mktemp("models")
    paths = {"default": "default", "hugging": folder / "hugging", "pretraining": folder / "pretraining"}
    write_encoder(paths["hugging"])
    shutil.copytree(paths["hugging"], paths["pretraining"] / "model")
    (paths["pretraining"] / "config.yaml").write_text("{}")
    for name, values in VALUES.items():
        paths[name] = saved_run(tmp_path_factory.mktemp(name.replace(" ", "_")), values)
    paths["saved"] = folder / "saved"
    saved = fsj.adapt("default", ["lovely shop", *TEXTS], ["praise", *LABELS], folds=0, save="simple")
    saved.save(paths["saved"])
    return paths


def contents(directory):
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", CASES)
def test_the_call_and_the_command_report_and_save_the_same(name, models, tmp_path, capsys):
    case = CASES[name]
    examples = {"writer": PAIRS, "label scorer": NAMED}.get(name, RECORDS)
    fields = ("source", "target") if case.kind is Writer else ("text", "label")
    rows = [json.dumps({field: getattr(one, field) for field in fields}) + "\n" for one in examples]
    (tmp_path / "data.jsonl").write_text("".join(rows))
    flags = [text for option, value in case.options.items() for text in (f"--{option}", str(value))]
    arguments = ["adapt", str(models[case.model]), "--data", str(tmp_path / "data.jsonl"), *flags, "--json"]
    (tmp_path / "command").mkdir()
    assert main([*arguments, "--output", str(tmp_path / "command/model")]) == 0
    out, err = capsys.readouterr()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adapted = fsj.adapt(models[case.model], examples, **case.options)
    (tmp_path / "call").mkdir()
    adapted.save(tmp_path / "call/model")
    assert isinstance(adapted, case.kind)
    report = adapted.report
    assert json.loads(out) == json.loads(json.dumps(report.to_json()))
    assert contents(tmp_path / "call") == contents(tmp_path / "command")
    printed = [line for line in err.splitlines() if line.startswith(("note: ", "warning: "))]
    assert printed == [
        f"{'warning' if one.category is Caution else 'note'}: {one.message}"
        for one in caught
        if issubclass(one.category, Note)
    ]
    assert {*(f"note: {one}" for one in report.notes), *(f"warning: {one}" for one in report.warnings)} == {*printed}
    assert printed, "each has something to say"


def test_the_model_that_is_kept_is_the_one_that_is_asked_for_or_the_better_one(models):
    better = fsj.adapt("default", TEXTS, LABELS, folds=2)
    scores = better.report.cross_validation["scores"]
    assert scores.keys() == {ADAPTED, SIMPLE, MAJORITY}
    best = max((SIMPLE, ADAPTED), key=lambda name: scores[name]["accuracy"]["mean"])  # of equals the simple one
    assert better.report.saved == best
    assert type(better) is (SimpleClassifier if best == SIMPLE else AdaptedClassifier)
    assert better.temperature == better.report.cross_validation["temperature"] != 1
    assert f"Saved: the {'simple one' if best == SIMPLE else 'adapted model'}" in better.report.verdict


def test_texts_with_labels_are_the_same_as_records():
    records = [fsj.Record(text, label) for text, label in zip(TEXTS, LABELS, strict=True)]
    given = fsj.adapt("default", (text for text in TEXTS), iter(LABELS), folds=0, save="simple")
    of_records = fsj.adapt("default", records, folds=0, save="simple")
    np.testing.assert_array_equal(given.predict_proba(TEXTS), of_records.predict_proba(TEXTS))
    assert given.report == of_records.report


def test_the_report_counts_and_reads_as_a_table():
    with pytest.warns(Note, match="skipped 1 duplicate example") as caught:
        report = fsj.adapt("default", RECORDS, folds=2).report
    assert caught[0].filename == __file__, "a note points at the line of the caller"
    assert (report.examples, report.skipped, report.classes) == (6, 1, {"delivery": 3, "refund": 3})
    assert report.notes == ("skipped 1 duplicate example",) and report.warnings == ()
    text = str(report)
    assert text.startswith("cross-validated, 2 folds\n")
    assert SIMPLE in text and " ".join(text.split()).endswith(report.verdict)
    with pytest.raises(AttributeError):
        report.saved = SIMPLE


def test_a_report_without_folds_says_that_nothing_is_known():
    report = fsj.adapt("default", TEXTS, LABELS, folds=0, save="simple").report
    assert report.cross_validation is None and report.start == "default"
    assert str(report) == "adapted to 6 examples of 2 classes, and labels 6 of them right, which it has seen"
    assert report.verdict == f"Nothing was cross-validated. Saved: the simple one, {SIMPLE}."
    assert "without folds nothing is known" in report.notes[-1]


def test_labels_that_are_numbers_are_cross_validated_saved_and_added_to(tmp_path):
    numbers = [int(label == "refund") for label in LABELS]
    classifier = fsj.adapt("default", TEXTS, numbers, folds=2, save="adapted")
    assert classifier.report.classes == {0: 3, 1: 3} and " 0 " in str(classifier.report)
    classifier.save(tmp_path / "model")
    assert "- Classes: `0` (3), `1` (3)" in (tmp_path / "model/README.md").read_text()
    loaded = fsj.load(tmp_path / "model")
    assert loaded.labels == [0, 1] and loaded.report is None
    more = fsj.adapt(tmp_path / "model", ["lovely shop"], labels=[2], folds=0, save="simple")
    assert more.labels == [0, 1, 2] and more.report.examples == 7
    with pytest.raises(fsj.UserError, match=r"the examples, added to the examples of .*, record 6: label 'praise'"):
        fsj.adapt(tmp_path / "model", ["lovely shop"], labels=["praise"])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((TEXTS, LABELS[:4]), {}, "6 texts, but 4 labels: expected one label for each text"),
        ((TEXTS[0], LABELS), {}, "the texts are one string: expected a list"),
        ((TEXTS, "refund"), {}, "the labels are one string: expected a list"),
        ((None,), {}, "the records are of type NoneType: expected a list"),
        ((TEXTS,), {}, r"adapts to records of type Record, and records\[0\] is of type str.*Record\(text, label\), or"),
        (([*TEXTS, " "], [*LABELS, "refund"]), {}, "record 6: the text is empty"),
        (([*TEXTS, None], [*LABELS, "refund"]), {}, "record 6: text None. Expected a string"),
        ((TEXTS, [*LABELS[:5], None]), {}, r"record 5 \('track my delivery'\): label None"),
        ((TEXTS, ["refund"] * 6), {}, r"one label only \('refund'\): a classifier needs at least two"),
        (([], []), {}, "there are no examples: give labelled texts of at least two classes"),
        ((TEXTS, LABELS), {"save": "other"}, "save='other': expected one of 'better', 'adapted', 'simple'"),
        ((TEXTS, LABELS), {"folds": 1}, r"folds=1, repeats=1: expected at least 2 folds \(or 0\) and 1 repeat"),
        ((TEXTS, LABELS), {"folds": 2.5}, "folds=2.5, repeats=1: expected at least 2 folds"),
        ((TEXTS, LABELS), {"repeats": 0}, "folds=5, repeats=0: expected .* 1 repeat"),
    ],
)
def test_wrong_input_is_one_message_before_any_work(arguments, options, message):
    with pytest.raises(fsj.UserError, match=message) as error:
        fsj.adapt("default", *arguments, **options)
    assert "\n" not in str(error.value) and "--" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "arguments", "options", "message"),
    [
        (
            "writer",
            (RECORDS,),
            {},
            r"is a run of translation, which adapts to records of type Example.*Give fsj",
        ),
        ("writer", (TEXTS, LABELS), {}, "records of type Example, which hold what to write.*no labels"),
        ("writer", ([fsj.Example("a", " ")],), {}, r"records\[0\]: its target is ' '. Expected a text"),
        (
            "writer",
            (PAIRS,),
            {"save": "simple"},
            "save='simple': a run of translation is not cross-validated",
        ),
        (
            "label scorer",
            (RECORDS,),
            {"folds": 3},
            "folds=3: a run that scores the names of classes is not",
        ),
        (
            "run",
            (PAIRS,),
            {},
            "run of text_classification, which adapts to records of type Record, and records.0.",
        ),
    ],
)
def test_what_does_not_fit_a_model_is_refused(name, arguments, options, message, models):
    with pytest.raises(fsj.UserError, match=message):
        fsj.adapt(models[name], *arguments, **options)


def test_a_model_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(fsj.UserError, match=r"no such directory; give a run of .*'default'"):
        fsj.adapt(tmp_path / "absent", TEXTS, LABELS)

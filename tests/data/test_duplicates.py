"""A text counts once for each class, so that no query stands in its own support set."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewshot_jax.applications.application import READING
from fewshot_jax.applications.table import build_application
from fewshot_jax.config_file import from_dict
from fewshot_jax.data.duplicates import distinct, notes_of
from fewshot_jax.data.examples import Example, folded
from fewshot_jax.data.leakage import find_leakage
from fewshot_jax.data.parallel import without_sources
from fewshot_jax.data.records import Record
from fewshot_jax.data.splits import split_records
from fewshot_jax.errors import UserError
from fewshot_jax.training import loop
from fewshot_jax.training.run_directory import RunDirectory
from tests.small_run import RUN

CLASSES = [f"class{c}" for c in range(9)]
MODELS = {
    "head": {"width": 8, "layers": 1, "heads": 2, "mlp_width": 8},
    "label_names": {"classifier": "label_names", "width": 8, "layers": 1, "heads": 2, "mlp_width": 8},
}


@pytest.fixture(scope="module")
def doubled(tmp_path_factory):
    """A file in which each of five texts of a class stands twice, in other case and spacing."""
    path = tmp_path_factory.mktemp("doubled") / "data.csv"
    texts = [(f"{name} text {i}", name) for name in CLASSES for i in range(5)]
    rows = [*texts, *((text.upper().replace(" ", "  "), name) for text, name in texts)]
    path.write_text("text,label\n" + "".join(f"{text},{name}\n" for text, name in rows), encoding="utf-8")
    return path


def config_of(path, model, shots=1):
    data = {"source": "files", "path": str(path), "fractions": [0.34, 0.33, 0.33]}
    episodes = {"ways": 3, "shots": shots, "queries": 2}
    evaluation = {**RUN["evaluation"], "ways": 3, "shots": [shots], "queries": 2}
    written = {"target_max_length": 8, "target_buckets": [8]} if model == "label_names" else {}
    tokenizer = {**RUN["tokenizer"], **written}
    values = {"data": data, "episodes": episodes, "tokenizer": tokenizer, "evaluation": evaluation}
    learner = {"name": "fomaml" if model == "label_names" else "protonet"}
    return from_dict({**RUN, **values, "model": MODELS[model], "learner": learner, "outer": {"steps": 1, "tasks": 1}})


@pytest.mark.parametrize("model", MODELS)
def test_no_query_stands_in_its_own_support_set(doubled, model):
    application = build_application(config_of(doubled, model))
    for split, sampler in (("train", application.training_sampler()), ("test", application.sampler("test", 1))):
        texts = np.array([folded(text) for text in application.texts(split)])
        for index in range(200):
            support, query = (set(texts[items.position[items.mask]]) for items in sampler.task(0, index))
            assert not support & query
    assert [len(application.splits[split].texts) for split in ("train", "validation", "test")] == [15, 15, 15]


@pytest.mark.parametrize("model", MODELS)
def test_what_is_skipped_is_counted_where_the_data_is_read(doubled, model):
    (note,) = build_application(config_of(doubled, model)).notes
    assert note.startswith("skipped 45 duplicate texts (15 in train, 15 in validation, 15 in test)")


def test_a_class_needs_different_texts(doubled):
    with pytest.raises(UserError, match=r"class 'class\d' has 5 examples .*4 shots \+ 2 queries = 6.*count once"):
        build_application(config_of(doubled, "head", shots=4))


def test_a_run_tells_once_when_it_starts_and_a_quiet_one_does_not(doubled, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loop, "_train", lambda *_: None)
    monkeypatch.setattr(loop.Experiment, "check", lambda self: None)
    loop.train(config_of(doubled, "head"), tmp_path / "run")
    assert capsys.readouterr().err.count("note: skipped 45 duplicate texts") == 1
    loop.train(config_of(doubled, "head"), tmp_path / "quiet", quiet=True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("model", MODELS)
def test_a_run_that_kept_duplicates_is_told_so_and_one_without_any_goes_on(doubled, tmp_path, model):
    config, run = config_of(doubled, model), RunDirectory(tmp_path)
    once = build_application(config)
    old = {name: value for name, value in once.fingerprint().items() if name not in READING}  # as runs had it before
    run.write("data.json", old)
    run.check_data(once.fingerprint())
    run.write("data.json", {**old, "train": "that of texts with duplicates"})
    with pytest.raises(UserError, match=r"in another way than .* \(duplicates of texts, names of labels\).*\(train\)"):
        run.check_data(once.fingerprint())
    run.write("data.json", {**once.fingerprint(), "train": "another"})
    with pytest.raises(UserError, match=r"the data has changed since this run started \(splits: train\)"):
        run.check_data(once.fingerprint())


def test_a_text_with_several_labels_is_kept_under_each_and_reported():
    records = [Record("go", "a"), Record("Go ", "b"), Record("stay", "a"), Record("GO", "a")]
    found = distinct(records)
    assert found.records == records[:3]
    assert (found.skipped, found.unclear) == (1, ["go"])
    assert notes_of({"train": found, "test": distinct([])}) == [
        "skipped 1 duplicate text (1 in train): a text counts once for each class, whatever its case, "
        "spaces and invisible characters",
        "train: 1 text has several labels, such as 'go'; it is kept under each",
    ]


@given(st.lists(st.tuples(st.sampled_from(["a", "A ", "b", "b b", "B  b"]), st.sampled_from("xyz"))))
def test_each_pair_of_text_and_label_is_kept_exactly_once(pairs):
    found = distinct([Record(*pair) for pair in pairs])
    keys = [(folded(record.text), record.label) for record in found.records]
    assert len(keys) == len(set(keys)) == len({(folded(text), label) for text, label in pairs})
    assert found.skipped + len(keys) == len(pairs)


def test_a_text_may_stand_in_two_splits_which_the_check_of_leakage_reports():
    records = [Record("same", "a"), Record("same", "b"), Record("other", "b")]
    notes: list[str] = []
    splits = split_records(records, {"train": ["a"], "validation": [], "test": ["b"]}, notes=notes)
    assert (splits["train"].texts, splits["test"].texts, notes) == (["same"], ["same", "other"], [])


ALIKE = ["caf\u00e9 now", "cafe\u0301 now", "caf\u00e9\u200b now", "CAF\u00c9\u00a0NOW"]


def test_texts_that_look_alike_are_one_text_in_a_split_and_in_two():
    assert distinct([Record(text, "a") for text in ALIKE]).records == [Record(ALIKE[0], "a")]
    leakage = find_leakage(ALIKE[:1], ALIKE)
    assert [pair.test for pair in leakage.exact] == ALIKE
    pairs = [Example(text, "x", key=text) for text in [*ALIKE, "other"]]
    assert without_sources(pairs, pairs[:1]) == (pairs[-1:], 4)

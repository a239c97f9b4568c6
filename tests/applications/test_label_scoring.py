"""Classification by the likelihood of class names, in context or not."""

import json

import jax
import numpy as np
import pytest
import scipy.special

from fewshot_jax.adaptation.adapt import adapt
from fewshot_jax.adaptation.classifier import load
from fewshot_jax.adaptation.readers import saved_reader
from fewshot_jax.algorithms.metaicl import metaicl
from fewshot_jax.applications.application import Functions
from fewshot_jax.applications.label_scoring import candidates, one_task
from fewshot_jax.applications.scored_labels import each_choice, scored_labels
from fewshot_jax.applications.table import build_application
from fewshot_jax.applications.text_to_text import text_to_text
from fewshot_jax.cli.main import main
from fewshot_jax.config_file import from_dict
from fewshot_jax.data.examples import Example
from fewshot_jax.data.records import Record
from fewshot_jax.errors import UserError
from fewshot_jax.models.huggingface.fresh import new_model, new_params
from fewshot_jax.training.evaluate import evaluate
from fewshot_jax.training.loop import train
from fewshot_jax.training.run_directory import RunDirectory

TOKENIZER = {"kind": "word", "max_length": 16, "buckets": [16], "target_max_length": 8, "target_buckets": [8]}
V, KEY = 23, jax.random.key(0)
TEXTS = [[2, 7, 8, 3], [2, 11, 3], [2, 5, 6, 7, 3]]
NAMES = [[13, 3], [14, 15, 3]]  # of different lengths
SUPPORT = [([2, 16, 3], 1), ([2, 19, 20, 3], 0)]


def model(**options):
    made = new_model("decoder", vocab_size=V, width=16, layers=2, heads=2, mlp_width=32)
    functions = text_to_text(
        made.module, lambda key: new_params(made.module, key), end_id=3, max_new_tokens=5, **options
    )
    params = jax.tree.map(lambda leaf: leaf * 3, jax.jit(functions.init_params)(jax.random.key(1)))
    return made.module, functions, params


def batch(rows, length=5, target_length=3):
    """Texts with the number of their class."""

    def padded(sequences, size):
        ids, mask = np.zeros((len(sequences), size), np.int32), np.zeros((len(sequences), size), bool)
        for i, sequence in enumerate(sequences):
            ids[i, : len(sequence)], mask[i, : len(sequence)] = sequence, True
        return ids, mask

    made = {}
    made["input_ids"], made["attention_mask"] = padded([text for text, _ in rows], length)
    made["decoder_label"], made["decoder_mask"] = padded([NAMES[label] for _, label in rows], target_length)
    made["choice_label"], made["choice_mask"] = (
        np.repeat(names[None], len(rows), axis=0) for names in padded(NAMES, target_length)
    )
    made["label"] = np.array([label for _, label in rows], np.int32)
    return {**made, "mask": np.ones(len(rows), bool)}


QUERY = [(text, i % 2) for i, text in enumerate(TEXTS)]


def log_likelihood(module, params, before, written):
    ids = np.array([[*before, *written]])
    logits = jax.jit(module.apply)({"params": params}, ids, np.ones_like(ids)).logits[0]
    log_p = scipy.special.log_softmax(logits, -1)
    return float(sum(log_p[len(before) + i - 1, token] for i, token in enumerate(written)))


def test_a_class_scores_its_names_likelihood_per_token():
    module, functions, params = model()
    logits = jax.jit(scored_labels(functions, ways=2).output_fn)(params, batch(QUERY), KEY)
    expected = [[log_likelihood(module, params, text, name) / len(name) for name in NAMES] for text in TEXTS]
    np.testing.assert_allclose(logits, expected, rtol=1e-5)


def in_context(functions: Functions, params, **options):
    scored = scored_labels(functions, ways=2, **options)
    learner = metaicl(scored.loss_fn, join=scored.join_fn, output_fn=scored.output_fn)
    return jax.jit(
        lambda params: learner.predict(learner.adapt({"params": params}, batch(SUPPORT), KEY), batch(QUERY), KEY)
    )(params)


def test_in_context_the_support_set_stands_before():
    module, functions, params = model()
    context = [token for text, label in SUPPORT for token in (*text, *NAMES[label])]
    expected = [
        [log_likelihood(module, params, [*context, *text], name) / len(name) for name in NAMES] for text in TEXTS
    ]
    np.testing.assert_allclose(in_context(functions, params), expected, rtol=1e-5)


def test_the_channel_form_scores_the_text_after_the_name():
    module, functions, params = model(channel=True)
    context = [token for text, label in SUPPORT for token in (*NAMES[label], *text)]
    expected = [[log_likelihood(module, params, [*context, *name], text) for name in NAMES] for text in TEXTS]
    np.testing.assert_allclose(in_context(functions, params, per_token=False), expected, rtol=1e-5)


def test_a_class_that_an_episode_lacks_is_never_chosen():
    _, functions, params = model()
    lacking = batch(QUERY)
    lacking["choice_mask"][:, 1] = False
    assert (scored_labels(functions, ways=2).output_fn(params, lacking, KEY)[:, 1] < -1e8).all()


def test_choices_go_item_by_item():
    expanded = each_choice(batch(QUERY))
    assert expanded["input_ids"].shape[0] == 6
    np.testing.assert_array_equal(expanded["decoder_label"][:2], batch(QUERY)["choice_label"][0])
    np.testing.assert_array_equal(expanded["input_ids"][0], expanded["input_ids"][1])


@pytest.mark.parametrize(
    "learner",
    [
        {"name": "metaicl", "channel": True},
        pytest.param({"name": "metaicl"}, marks=pytest.mark.slow),
        pytest.param({"name": "fomaml"}, marks=pytest.mark.slow),
    ],
)
def test_it_is_trained_and_evaluated_like_any_classifier(learner, tmp_path):
    config = from_dict(
        {
            "data": {"groups": 6, "texts_per_class": 6, "fractions": [0.34, 0.33, 0.33], "split_by": "group"},
            "episodes": {"ways": 3, "shots": 1, "queries": 1, "within_group": True},
            "tokenizer": TOKENIZER,
            "model": {"classifier": "label_names", "width": 8, "layers": 1, "heads": 2, "mlp_width": 8},
            "learner": {**learner, "task_chunk": 1},
            "inner": {"steps": 1},
            "outer": {"steps": 1, "tasks": 1},
            "evaluation": {
                "every": 1,
                "validation_episodes": 1,
                "episodes": 2,
                "ways": 2,
                "shots": [1],
                "queries": 1,
                "at_end": False,
            },
            "baselines": {"fine_tuning": False, "multi_task": False},
        }
    )
    train(config, tmp_path / "run", quiet=True)
    result = evaluate(tmp_path / "run", quiet=True)
    assert result.score.name == "accuracy" and list(result.scores) == [learner["name"], "TF-IDF centroid", "chance"]


def test_an_episode_shows_the_names_of_its_own_classes():
    config = from_dict(
        {
            "data": {"groups": 6, "texts_per_class": 12, "fractions": [0.34, 0.33, 0.33], "split_by": "group"},
            "tokenizer": TOKENIZER,
            "episodes": {"ways": 3, "shots": 2, "queries": 2},
            "model": {"classifier": "label_names"},
            "evaluation": {"ways": 3, "shots": [1]},
        }
    )
    application = build_application(config)
    support, query = application.training_stream()(3, 2)
    for side in (support, query):
        for task in range(2):
            chosen = side["choice_label"][task, np.arange(side["label"].shape[1]), side["label"][task]]
            np.testing.assert_array_equal(chosen, side["decoder_label"][task])
    np.testing.assert_array_equal(support["choice_label"][:, 0], query["choice_label"][:, 0])


SMALL = {
    "data": {"groups": 8, "texts_per_class": 6},
    "tokenizer": TOKENIZER,
    "episodes": {"ways": 3, "shots": 2, "queries": 2},
    "model": {"classifier": "label_names", "width": 16, "layers": 1, "heads": 2, "mlp_width": 16},
    "inner": {"steps": 1},
    "outer": {"steps": 2, "tasks": 2},
    "evaluation": {
        "every": 2,
        "validation_episodes": 2,
        "episodes": 2,
        "ways": 3,
        "shots": [2],
        "queries": 2,
        "tasks": 2,
        "at_end": False,
    },
    "baselines": {"fine_tuning": False, "multi_task": False},
}


def test_one_task_is_batched_as_an_episode_is():
    application = build_application(from_dict(SMALL))
    episode = application.stream("test", 2)(4, 1)
    drawn = application.sampler("test", 2).batch(4, 1)
    classes = application.splits["test"].label[drawn.support.position[0]]
    order = [int(classes[drawn.support.label[0] == label][0]) for label in range(3)]
    names = [application.names["test"][i] for i in order]
    for side, items in zip(episode, drawn, strict=True):
        sources = [application.sources["test"][i] for i in items.position[0]]
        batch = one_task(application.model.codec, sources, names, items.label[0])
        assert batch.keys() == side.keys()
        for name, leaf in batch.items():
            np.testing.assert_array_equal(leaf, side[name][0], err_msg=name)


@pytest.fixture(scope="module")
def channel_run(tmp_path_factory):
    """A run of metaicl in the channel form."""
    path = tmp_path_factory.mktemp("in_context") / "run"
    train(from_dict({**SMALL, "learner": {"name": "metaicl", "channel": True}}), path, quiet=True)
    return path


@pytest.mark.slow
def test_a_run_with_an_inner_loop_adapts_too(tmp_path, capsys):
    train(from_dict({**SMALL, "learner": {"name": "maml", "gradient": "reverse"}}), tmp_path / "run", quiet=True)
    test_a_run_adapts_to_a_file_of_other_classes(tmp_path / "run", tmp_path, capsys)


def test_a_run_adapts_to_a_file_of_other_classes(channel_run, tmp_path, capsys):
    rows = "".join(f"{text},{label}\n" for label in ("refund", "call_me") for text in ("please pay", "just open it"))
    (tmp_path / "data.csv").write_text("text,label\n" + rows, encoding="utf-8")
    (tmp_path / "new.txt").write_text("please open it\npay\n", encoding="utf-8")
    made, output = tmp_path / "model", tmp_path / "out.jsonl"
    assert main(["adapt", str(channel_run), "--data", str(tmp_path / "data.csv"), "--output", str(made)]) == 0
    assert "4 examples of 2 classes" in capsys.readouterr().out
    assert main(["predict", str(made), "--input", str(tmp_path / "new.txt"), "--output", str(output)]) == 0
    predicted = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["predicted_label"] in ("refund", "call_me") for row in predicted] == [True, True]
    assert json.loads((made / "model.json").read_text())["candidates"] == ["call me", "refund"]
    classifier = load(made)
    np.testing.assert_allclose(classifier.predict_proba(["please open it"] * 40).sum(1), 1, rtol=1e-6)
    one, many = (classifier.predict_proba(["please open it", *["just pay"] * more]) for more in (0, 40))
    np.testing.assert_allclose(one[0], many[0], rtol=1e-5)


def of_sets(folder):
    """The config of a run on two data sets with one label in common."""
    for name in ("bank", "shop"):
        rows = [f"{name} {label} {i},{label}" for label in ("refund_issue", *"abcdefgh") for i in range(4)]
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    data = {"source": "files", "path": str(folder), "sets": ["bank.csv", "shop.csv"], "fractions": [0.4, 0.3, 0.3]}
    return from_dict({**SMALL, "data": data, "evaluation": {**SMALL["evaluation"], "ways": 2}})


def test_the_name_of_a_data_set_is_in_no_candidate(tmp_path):
    application = build_application(of_sets(tmp_path))
    codec = application.model.codec
    of_sets_names = {codec.tokenizer.token_to_id(name) for name in ("bank", "shop")} - {None}
    assert of_sets_names, "the texts hold the words, so the tokenizer knows them"
    for split, names in application.names.items():
        labels = [label.partition("/")[2].replace("_", " ") for label in application.splits[split].classes]
        expected = [ids for _, ids in codec.encode([Example(" ", label) for label in labels])]
        assert [ids.tolist() for ids in names] == [ids.tolist() for ids in expected]
        assert not of_sets_names & {token for ids in names for token in ids.tolist()}


def test_a_run_that_scored_the_names_of_data_sets_is_not_evaluated_without_them(tmp_path):
    found = build_application(of_sets(tmp_path)).fingerprint()
    run = RunDirectory(tmp_path)
    run.write("data.json", {split: found[split] for split in ("train", "validation", "test")})
    with pytest.raises(UserError, match=r"reads the data in another way .*\(candidates\).*start a new run"):
        run.check_data(found)
    run.write("data.json", found)
    run.check_data(found)
    without_sets = build_application(from_dict(SMALL)).fingerprint()
    assert without_sets.keys() == found.keys() - {"candidates"}, "the labels alone say what is scored"


def test_an_adapted_model_scores_the_candidates_it_was_adapted_to(tmp_path, channel_run):
    config = from_dict({**SMALL, "data": {"source": "files", "path": "absent", "sets": ["please", "just"]}})
    labels = ["please/open_it", "just/print"]
    assert candidates(labels, config) == ["open it", "print"]
    new = saved_reader(config, channel_run, {"labels": labels, "candidates": candidates(labels, config)})
    assert new.store({}).record == {"candidates": ["open it", "print"]}
    old = saved_reader(config, channel_run, {"labels": labels})
    assert old.store({}).record == {"candidates": ["please open it", "just print"]}, (
        "as it was adapted, with the sets' names"
    )
    with pytest.raises(ValueError, match="1 candidates, but 2 labels"):
        saved_reader(config, channel_run, {"labels": labels, "candidates": ["open it"]})


def test_an_example_that_is_repeated_is_read_once(channel_run, tmp_path, capsys):
    rows = "open it,open\nOPEN  it,open\nprint it,print\n"
    (tmp_path / "data.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    given = ["--data", str(tmp_path / "data.csv"), "--output", str(tmp_path / "made")]
    assert main(["adapt", str(channel_run), *given]) == 0
    out, err = capsys.readouterr()
    assert "adapted to 2 examples" in out and err.count("skipped 1 duplicate example\n") == 1


def test_two_classes_that_read_alike_cannot_be_told_apart(channel_run):
    with pytest.raises(UserError, match="the labels 'call-me' and 'call_me' are the same tokens"):
        adapt(channel_run, [Record("a", "call_me"), Record("b", "call-me")])

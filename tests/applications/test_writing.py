"""Answers, translations and replies from a config: training, evaluation, adaptation, prediction."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from fewshot_jax.adaptation.classifier import load
from fewshot_jax.applications.table import build_application
from fewshot_jax.applications.text_to_text import EXACT
from fewshot_jax.applications.translation import Translation
from fewshot_jax.cli.main import main
from fewshot_jax.config_file import from_dict
from fewshot_jax.data.sequences import Codec
from fewshot_jax.errors import UserError
from fewshot_jax.training import experiment, loop
from fewshot_jax.training.evaluate import evaluate
from fewshot_jax.training.rows import EvaluationSetup

SMALL = {
    "episodes": {"shots": 3, "queries": 2},
    "tokenizer": {"kind": "word", "max_length": 24, "buckets": [24], "target_max_length": 8, "target_buckets": [8]},
    "model": {"width": 16, "layers": 1, "heads": 2, "mlp_width": 16},
    "learner": {"gradient": "reverse", "task_chunk": 1},
    "inner": {"steps": 1},
    "outer": {"steps": 2, "tasks": 2},
    "evaluation": {"every": 2, "validation_episodes": 2, "episodes": 3, "shots": [2], "queries": 2, "tasks": 3},
    "baselines": {"rates": [0.01], "steps": 1, "episodes": 2, "multi_task": False},
}


def config(application, **sections):
    merged = {name: {**SMALL.get(name, {}), **sections.get(name, {})} for name in {**SMALL, **sections}}
    return {"application": application, **merged}


def written(tmp_path, name, rows):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def train(tmp_path, values, run="run"):
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    assert main(["train", str(path), "--run-dir", str(tmp_path / run), "--quiet"]) == 0
    return tmp_path / run


FILES = {
    "question_answering": (
        [{"question": "zorp anna ?", "context": "anna eats rice . anna fears fog .", "answer": "fog"}] * 2,
        [{"question": "zorp ben ?", "context": "ben eats soup . ben fears rain ."}],
    ),
    "translation": (
        [{"source": "the king sees the dog", "target": "duri mako pelu"}] * 2,
        [{"source": "the dog sees the king"}],
    ),
    "dialogue": (
        [
            {
                "turns": [
                    {"speaker": "user", "text": "tell me your food"},
                    {"speaker": "system", "text": "my food is rice"},
                ]
            }
        ],
        [{"turns": [{"speaker": "user", "text": "and your food"}]}],
    ),
}


@pytest.mark.parametrize(
    "application",
    ["dialogue", *(pytest.param(name, marks=pytest.mark.slow) for name in FILES if name != "dialogue")],
)
def test_a_run_is_trained_adapted_to_a_file_and_writes(application, tmp_path, capsys):
    run = train(tmp_path, config(application, evaluation={"at_end": False}))
    examples, inputs = FILES[application]
    data, asked = written(tmp_path, "data.jsonl", examples), written(tmp_path, "input.jsonl", inputs)
    model, output = tmp_path / "model", tmp_path / "output.jsonl"
    assert main(["adapt", str(run), "--data", str(data), "--output", str(model)]) == 0
    assert main(["predict", str(model), "--input", str(asked), "--output", str(output)]) == 0
    (row,) = [json.loads(line) for line in output.read_text().splitlines()]
    assert {name: row[name] for name in inputs[0]} == inputs[0]
    assert isinstance(row["written"], str)
    assert "saved in" in capsys.readouterr().out


def test_the_table_has_likelihoods_texts_floors_and_intervals(tmp_path):
    run = train(tmp_path, config("translation", evaluation={"at_end": False}))
    result = evaluate(run, quiet=True)
    assert result.score.name == "nats per token"
    assert list(result.scores) == ["maml", "untrained, fine-tuned"]
    more = {one.score.name: one for one in result.more}
    assert list(more) == ["exact match", "BLEU", "chrF"]
    assert list(more["chrF"].scores) == [
        "maml",
        "copy of the source",
        "most frequent target",
        "target of the nearest source",
        "untrained, fine-tuned",
    ]
    assert all(np.isfinite(row[2].mean) for one in result.more for row in one.scores.values())
    assert set(more["chrF"].gains) == {
        "copy of the source",
        "most frequent target",
        "target of the nearest source",
        "untrained, fine-tuned",
    }
    stored = json.loads((run / "evaluation.json").read_text())
    assert stored["more"]["chrF"]["scores"]["maml"]["2"]["mean"] == pytest.approx(more["chrF"].scores["maml"][2].mean)


def refuses_to_write_from_damaged_weights(model):
    model.adapted = jax.tree.map(
        lambda leaf: np.full_like(leaf, np.nan) if np.issubdtype(leaf.dtype, np.floating) else leaf, model.adapted
    )
    with pytest.raises(UserError, match="not finite numbers for 2 of 2 texts"):
        model.predict(["[USER] and your food", "x"])


def test_metaicl_is_a_learner_of_any_of_them(tmp_path):
    run = train(tmp_path, config("dialogue", learner={"name": "metaicl", "gradient": "auto"}))
    result = json.loads((run / "evaluation.json").read_text())
    nats, perplexity = (
        rows["metaicl"]["2"] for rows in (result["nats_per_token"], result["more"]["perplexity"]["scores"])
    )
    assert perplexity["mean"] == pytest.approx(np.exp(nats["mean"]))
    assert perplexity["half_width"] == pytest.approx(np.exp(nats["mean"]) * nats["half_width"])
    assert list(result["signatures"]) == ["BLEU"] and "tok:13a" in result["signatures"]["BLEU"]
    assert result["learner"] == "metaicl" and np.isfinite(result["nats_per_token"]["metaicl"]["2"]["mean"])
    data = written(tmp_path, "data.jsonl", FILES["dialogue"][0])
    assert main(["adapt", str(run), "--data", str(data), "--output", str(tmp_path / "model")]) == 0
    model = load(tmp_path / "model")
    assert set(model.adapted) == {"params", "support"} and len(model.predict(["[USER] and your food"])) == 1
    refuses_to_write_from_damaged_weights(model)


@pytest.mark.slow
def test_an_encoder_and_decoder_serve_as_well(tmp_path):
    run = train(tmp_path, config("translation", model={"architecture": "encoder_decoder"}))
    assert (run / "result.json").exists()


@pytest.mark.slow
def test_evaluation_scores_what_the_model_writes(tmp_path):
    """Exact match by likelihood and by the written texts are the same thing."""
    run = train(tmp_path, config("question_answering", outer={"steps": 4}, evaluation={"at_end": False, "every": 4}))
    more = {one.score.name: one.scores["maml"][2].mean for one in evaluate(run, quiet=True).more}
    assert more["SQuAD exact match"] >= more["exact match"]  # which counts the letter's case and articles too


# Files.
PAIRS = [{"source": f"word {i} of {task}", "target": f"{i}", "task": task} for task in "abcde" for i in range(6)]


def files(tmp_path, rows=PAIRS, **data):
    path = written(tmp_path, "pairs.jsonl", rows)
    return from_dict(config("translation", data={"source": "files", "path": str(path), **data}))


def test_tasks_of_a_file_are_divided_and_never_shared(tmp_path):
    application = build_application(files(tmp_path))
    tasks = application.labels()
    assert sorted(name for names in tasks.values() for name in names) == list("abcde")
    for split, names in tasks.items():
        drawn = application.sampler(split, 2) if split != "train" else application.training_sampler()
        for index in range(20):
            support, query = drawn.task(0, index)
            assert {example.task for example in (*support, *query)} <= set(names)
            assert not {e.source for e in support} & {e.source for e in query}


def test_what_is_held_out_is_not_trained_on(tmp_path):
    for name in ("train", "validation", "test"):
        rows = [{"source": f"{name} {i}", "target": "x"} for i in range(6)]
        if name == "train":
            rows += [{"source": "Test  3", "target": "x"}, {"source": "validation 1", "target": "x"}]
        if name == "validation":
            rows += [{"source": "TEST 1", "target": "x"}]
        written(tmp_path, f"{name}.jsonl", rows)
    names = [f"{name}.jsonl" for name in ("train", "validation", "test")]
    made = from_dict(
        config("translation", data={"source": "files", "path": str(tmp_path), "files": names, "split_files": True})
    )
    application = build_application(made)
    pools = application.pools
    assert {split: len(pool) for split, pool in pools.items()} == {"train": 6, "validation": 6, "test": 6}
    assert application.notes == ("skipped 3 examples whose text is held out",)
    assert pools["train"][0].task == "train"  # a file is a task where its rows name none


def test_too_few_examples_of_a_task_are_named(tmp_path):
    with pytest.raises(UserError, match=r"split: task 'c' has 3 different examples.*add examples.*shots"):
        build_application(files(tmp_path, [row for row in PAIRS if row["task"] != "c" or int(row["target"]) < 3]))


def test_too_long_texts_are_cut_and_counted_or_refused(tmp_path):
    rows = [{**row, "source": row["source"] + " and more" * 20} for row in PAIRS]
    application = build_application(files(tmp_path, rows))
    count = len(application.pools["train"])
    told = "\n".join(application.notes)
    assert f"train split, {count} examples: {count} sources are too long and were cut (raise tokenizer.max_len" in told
    batch = application.training_stream()(0, 2)
    assert batch.support["attention_mask"].sum(-1).max() == 24 and application.codec.cut[0] > 0
    refusing = files(tmp_path, rows)
    refusing = dataclasses.replace(refusing, tokenizer=dataclasses.replace(refusing.tokenizer, too_long="refuse"))
    with pytest.raises(UserError, match=r"a source of 44 tokens, room for 22.*a larger tokenizer.max_length"):
        build_application(refusing)


def test_a_run_reads_its_data_once_for_training_the_baseline_and_the_evaluation(tmp_path, monkeypatch):
    read, encoded = [], []
    reading, encoding = Translation.read.__func__, Translation.encode_all.__func__
    monkeypatch.setattr(Translation, "read", classmethod(lambda *args: read.append(1) or reading(*args)))
    monkeypatch.setattr(Translation, "encode_all", classmethod(lambda *args: encoded.append(1) or encoding(*args)))
    made = files(tmp_path, PAIRS)
    made = dataclasses.replace(
        made,
        baselines=dataclasses.replace(made.baselines, multi_task=True, rates=made.baselines.rates[:1]),
        evaluation=dataclasses.replace(made.evaluation, write=False),
    )
    evaluation = loop.train(made, tmp_path / "run", quiet=True)
    assert "multi-task, fine-tuned" in evaluation.scores
    assert (len(read), len(encoded)) == (1, 1)


def dialogues(count):
    """Dialogues of three replies, of two tasks."""
    return [
        {
            "id": f"{task}{number}",
            "task": task,
            "turns": [
                {"speaker": speaker, "text": f"{task} {number} {turn} {speaker}"}
                for turn in range(3)
                for speaker in ("user", "system")
            ],
        }
        for task in ("a", "b", "c", "d", "e")
        for number in range(count)
    ]


def test_what_is_asked_of_a_dialogue_is_not_told_by_the_support_set(tmp_path):
    path = written(tmp_path, "dialogues.jsonl", dialogues(4))
    application = build_application(from_dict(config("dialogue", data={"source": "files", "path": str(path)})))
    for index in range(30):
        support, query = application.sampler("test", 2).task(0, index)
        assert (len(support), len(query)) == (2, 2)
        assert not {example.key for example in support} & {example.key for example in query}
    few = written(tmp_path, "few.jsonl", dialogues(2))
    application = build_application(from_dict(config("dialogue", data={"source": "files", "path": str(few)})))
    sampler = application.sampler("test", 3)
    with pytest.raises(UserError, match=r"test split: task '.' has too few dialogues .* for 2 queries beside"):
        [sampler.task(0, index) for index in range(30)]


def test_no_example_of_a_file_is_tokenised_twice(tmp_path, monkeypatch):
    application = build_application(files(tmp_path))
    first = application.training_stream()(0, 2)

    def fail(self, texts):
        raise AssertionError(f"tokenised again: {texts}")

    monkeypatch.setattr(Codec, "_ids", fail)
    again = application.training_stream()(0, 2)
    np.testing.assert_array_equal(first.query["input_ids"], again.query["input_ids"])
    application.stream("test", 2)(3, 4)


def test_a_dialogue_keeps_its_end_and_a_question_its_beginning(tmp_path):
    long = " ".join(f"w{i}" for i in range(40))
    turns = [{"speaker": "user", "text": f"{long} last"}, {"speaker": "system", "text": "yes"}]
    rows = [
        {"turns": [{**turns[0], "text": f"{i} {turns[0]['text']}"}, turns[1]], "task": t}
        for t in "abcde"
        for i in range(6)
    ]
    path = written(tmp_path, "dialogues.jsonl", rows)
    application = build_application(from_dict(config("dialogue", data={"source": "files", "path": str(path)})))
    ids = application.codec.encode(application.pools["train"][:1])[0][0]
    assert len(ids) == 24 and application.codec.tokenizer.decode(ids).split()[-1] == "last"


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"learner": {"name": "protonet"}}, "compares embeddings of classes, of which translation has none"),
        ({"learner": {"name": "cavia"}, "model": {"context_width": 2}}, "translation has no use for it"),
        ({"episodes": {"ways": 3}}, r"episodes.ways=3: translation has no use for it"),
        ({"learner": {"name": "metaicl", "channel": True}}, "translation has no use for it"),
        ({"learner": {"name": "metaicl"}, "model": {"architecture": "encoder_decoder"}}, "architecture=decoder"),
        ({"tokenizer": {"target_buckets": [4]}}, r"tokenizer.target_buckets=\(4,\).*target_max_length=8"),
        ({"data": {"split_files": True}}, r"data.files=\(\): expected three"),
        (
            {"data": {"source": "files", "files": list("abc"), "split_files": True, "fractions": [0.5, 0.3, 0.2]}},
            r"data.fractions=.*the files are the splits",
        ),
        (
            {"data": {"source": "files", "files": list("abc"), "split_files": True, "class_split": "split.json"}},
            r"data.class_split=split.json: the files are the splits",
        ),
        ({"data": {"source": "smlmt"}}, r"data.source=smlmt: makes labelled texts, which translation does not read"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(sections, message):
    with pytest.raises(UserError, match=message):
        from_dict(config("translation", **sections))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"source": "", "target": "x"}, r"line 1: 'source' is empty"),
        ({"source": "x", "target": " "}, r"line 1: 'target' is empty"),
        ({"source": "x", "text": "y"}, r"line 1: no field 'target'"),
    ],
)
def test_a_wrong_file_is_named_with_line_and_field(row, message, tmp_path):
    with pytest.raises(UserError, match=message):
        build_application(files(tmp_path, [row]))


@pytest.mark.parametrize("application", list(FILES))
def test_a_task_field_that_is_named_must_be_there(application, tmp_path):
    path = written(tmp_path, "rows.jsonl", FILES[application][0])
    given = config(application, data={"source": "files", "path": str(path), "task_field": "tsak"})
    with pytest.raises(UserError, match=r"rows.jsonl, line 1: no field 'tsak'.*data.task_field"):
        build_application(from_dict(given))


def test_checkpoints_are_chosen_at_the_shots_asked_for(tmp_path, monkeypatch):
    asked = []

    def noted(scores, meta_params, stream, *more, **sizes):
        asked.append(stream(0, 1).support["mask"].shape[1])
        return np.zeros(2)

    monkeypatch.setattr(experiment, "evaluate_episodes", noted)
    for given, wanted in (({}, [2, 3]), ({"validation_shots": [4]}, [4])):
        asked.clear()
        values = config("translation", evaluation={"shots": [2, 3], **given})
        experiment.Experiment(build_application(from_dict(values))).validate({})
        assert asked == wanted


def test_a_loop_at_more_shots_than_validation_fills_is_chosen_at_fewer(tmp_path, capsys):
    parts = {"train": 6, "validation": 6, "test": 9}
    for part, count in parts.items():
        rows = [{"task": part, "source": f"{part} word {i}", "target": f"{part} wort {i}"} for i in range(count)]
        written(tmp_path, f"{part}.jsonl", rows)
    files = [f"{part}.jsonl" for part in parts]
    data = {"source": "files", "path": str(tmp_path), "files": files, "split_files": True}
    shots = {"shots": [2, 6], "queries": 2}
    with pytest.raises(UserError, match="validation split: task 'validation' has 6"):
        build_application(from_dict(config("translation", data=data, evaluation=shots)))
    values = config("translation", data=data, evaluation={**shots, "validation_shots": [1, 2]})
    setup = EvaluationSetup(experiment.Experiment(build_application(from_dict(values))), 2)
    validation, test = setup.streams(6)
    assert [stream(0, 1).support["mask"].shape[1] for stream in (validation, test)] == [2, 6]
    assert "validation cannot fill 6 shots; their loops are chosen at 2" in capsys.readouterr().err


def test_exact_match_is_a_share():
    assert EXACT.percent and EXACT.larger_is_better


@pytest.mark.parametrize(
    "application",
    ["translation", *(pytest.param(name, marks=pytest.mark.slow) for name in FILES if name != "translation")],
)
def test_a_run_starts_from_a_pretrained_model_and_its_tokenizer(application, tmp_path):
    """pretrain -> train -> adapt -> predict, each from the directory of the one before."""
    stage = {
        "objective": "causal_lm",
        "corpus": {"source": "generated", "name": application, "documents": 400},
        "tokenizer": {"kind": "word", "vocab_size": 64},
        "model": {"width": 16, "layers": 1, "heads": 2, "mlp_width": 16},
        "optimizer": {"steps": 2},
        "batch": {"sequences": 8, "length": 16},
        "evaluation": {"every": 2, "batches": 1},
    }
    path = tmp_path / "pretrain.yaml"
    path.write_text(json.dumps(stage), encoding="utf-8")
    pretrained = tmp_path / "pretrained"
    assert main(["pretrain", str(path), "--run-dir", str(pretrained), "--quiet"]) == 0
    run = train(tmp_path, config(application, model={"pretrained": str(pretrained)}))
    result = json.loads((run / "evaluation.json").read_text())
    rows = ["maml", "pretrained, in context", "pretrained, fine-tuned", "untrained, fine-tuned"]
    assert list(result["nats_per_token"]) == rows
    examples, inputs = FILES[application]
    data, asked = written(tmp_path, "data.jsonl", examples), written(tmp_path, "input.jsonl", inputs)
    assert main(["adapt", str(run), "--data", str(data), "--output", str(tmp_path / "model")]) == 0
    before = load(tmp_path / "model").predict(["the king sees the dog"])
    for path in pretrained.rglob("*.safetensors"):  # what was adapted stands alone
        path.unlink()
    assert load(tmp_path / "model").predict(["the king sees the dog"]) == before
    output = tmp_path / "output.csv"
    assert main(["predict", str(tmp_path / "model"), "--input", str(asked), "--output", str(output)]) == 0


def test_a_missing_pretrained_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"holds nothing, which is no model; give a Hugging Face.*model.pretrained"):
        build_application(from_dict(config("translation", model={"pretrained": str(tmp_path)})))


TEMPLATE = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<{{ message['role'] }}> {{ message['content'] }} "
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_a_chat_template_is_read_alike_in_training_adaptation_and_prediction(tmp_path):
    from transformers import PreTrainedTokenizerFast

    from fewshot_jax.applications.dialogue import Dialogue
    from fewshot_jax.applications.text_model import TextModel
    from fewshot_jax.data.tokenization import train_tokenizer
    from fewshot_jax.models.huggingface.fresh import new_model
    from fewshot_jax.models.huggingface.save import save_pretrained

    own = train_tokenizer(["tell me your food rice", "my food is rice < > user assistant"] * 3, kind="word")
    of_model = PreTrainedTokenizerFast(
        tokenizer_object=own, bos_token="[CLS]", eos_token="[SEP]", pad_token="[PAD]", chat_template=TEMPLATE
    )
    directory = tmp_path / "pretrained"
    sizes = {"width": 16, "layers": 1, "heads": 2, "mlp_width": 16}
    save_pretrained(directory, new_model("decoder", vocab_size=own.get_vocab_size(), **sizes))
    of_model.save_pretrained(str(directory))
    turns = [
        {"speaker": "assistant", "text": "food"},  # templates want the user first
        {"speaker": "user", "text": "tell me your food"},
        {"speaker": "assistant", "text": "rice"},
    ]
    rows = [{"turns": [*turns[:2], {**turns[2], "text": f"rice {i}"}], "task": t} for t in "abcde" for i in range(6)]
    path = written(tmp_path, "dialogues.jsonl", rows)
    given = config(
        "dialogue",
        data={"source": "files", "path": str(path)},
        model={"pretrained": str(directory)},
        evaluation={"at_end": False},
    )
    run = train(tmp_path, given)
    read = "<user> tell me your food <assistant>"
    application = build_application(from_dict(given))
    assert {example.source for example in application.pools["train"]} == {read}
    again = TextModel.open(from_dict(given), run, weights=False)
    assert {example.source for example in Dialogue.read(from_dict(given), path, again)} == {read}
    for codec in (again.codec, application.codec):
        assert [ids.tolist() for ids in codec.sources([read])] == [own.encode(read).ids[1:]]
    asked = written(tmp_path, "asked.jsonl", [{"turns": turns[:2]}])
    assert Dialogue.sources(from_dict(given), asked, again)[1] == [read]


def test_a_dialogue_that_ends_with_the_assistant_has_no_reply_to_write(tmp_path):
    from fewshot_jax.applications.dialogue import Dialogue

    path = written(tmp_path, "asked.jsonl", FILES["dialogue"][0])
    with pytest.raises(UserError, match="dialogue 1 ends with the assistant"):
        Dialogue.sources(from_dict(config("dialogue")), path, None)


@pytest.mark.slow
def test_examples_of_several_tasks_are_refused_by_adapt(tmp_path, capsys):
    run = train(tmp_path, config("translation", evaluation={"at_end": False}))
    data = written(tmp_path, "data.jsonl", PAIRS)
    assert main(["adapt", str(run), "--data", str(data), "--output", str(tmp_path / "model")]) == 2
    assert "the examples are of 5 tasks (a, b, c, d, e): give those of one" in capsys.readouterr().err

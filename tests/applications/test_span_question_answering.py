"""Answers as spans of a text: loss, search, windows, offsets, and runs from training to prediction."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshot_jax.adaptation.classifier import load
from fewshot_jax.applications.application import Functions
from fewshot_jax.applications.question_answering import NO_ANSWER
from fewshot_jax.applications.span_question_answering import (
    SpanQuestionAnswering,
    question_of,
    reading_spans,
    source_of,
)
from fewshot_jax.applications.spans import best_span, judge_spans, mean_question_nats, spans
from fewshot_jax.applications.table import build_application, score_of
from fewshot_jax.applications.text_model import TextModel
from fewshot_jax.cli.main import main
from fewshot_jax.config_file import from_dict
from fewshot_jax.data.examples import Example
from fewshot_jax.data.sequences import Codec
from fewshot_jax.data.spans import NOWHERE, UNJUDGED, encode_windows, span_text, window_batch
from fewshot_jax.data.squad import Answer, Question
from fewshot_jax.data.tokenization import save_tokenizer, train_tokenizer
from fewshot_jax.errors import UserError
from fewshot_jax.models.huggingface.fresh import new_model, new_params
from fewshot_jax.models.huggingface.load import load_pretrained
from fewshot_jax.models.huggingface.pretrained import build, initial_params
from fewshot_jax.models.huggingface.save import save_pretrained

KEY = jax.random.key(0)
WORDS = [f"w{i}" for i in range(40)]
TEXTS = (" ".join(WORDS), "who ?")


def codec(*, kind="word", texts=TEXTS, **options):
    options = {"max_length": 10, "target_max_length": 4, **options}
    return Codec(
        tokenizer=train_tokenizer(list(texts) * 2, kind=kind, vocab_size=400),
        buckets=(options["max_length"],),
        target_buckets=(options["target_max_length"],),
        **options,
    )


def asked(context, answer=None, question="who ?"):
    return Question(context, question, () if answer is None else (Answer(answer, context.index(answer)),), "", "")


def batch_of(codec, *questions, length=None):
    rows = [encode_windows(codec, questions)]
    return {k: v[0] for k, v in window_batch(codec, rows, len(questions), length or codec.max_length).items()}


def random_logits(mask, seed=0):
    """Logits as `span_logits` gives them."""
    start, end = np.random.default_rng(seed).normal(size=(2, *mask.shape)).astype(np.float32)
    possible = mask | (np.arange(mask.shape[-1]) == 0)
    return np.where(possible, start, -np.inf), np.where(possible, end, -np.inf)


@pytest.fixture(scope="module")
def functions():
    made = new_model("encoder", vocab_size=64, width=8, layers=1, heads=2, mlp_width=8, head="span")
    return compiled(spans(made.module, lambda key: new_params(made.module, key), longest=4))


def compiled(functions):
    """The functions of a model, each compiled as a whole: an eager operation is a program of its own."""
    return functions._replace(
        init_params=jax.jit(functions.init_params),
        loss_fn=jax.jit(functions.loss_fn),
        output_fn=jax.jit(functions.output_fn),
        write_fn=jax.jit(functions.write_fn),
    )


def judge(start, end, batch):
    return jax.jit(functools.partial(judge_spans, longest=4))(start, end, batch)


def params_of(functions: Functions):
    params = functions.init_params(KEY)  # the ends of a new head say little: let them speak
    return jax.tree.map(lambda leaf: leaf * 3, params)


# The loss.
def test_the_loss_is_the_cross_entropy_of_both_ends_in_the_mean_over_windows_then_questions():
    made = codec(windows=3, stride=2)  # "[CLS] who ? [SEP]" and "[SEP]" leave room for 5 tokens
    questions = asked(" ".join(WORDS[:9]), "w3 w4"), asked(" ".join(WORDS[:5]))
    batch = batch_of(made, *questions)
    assert batch["start"].tolist() == [[7, 5, UNJUDGED], [0, UNJUDGED, UNJUDGED]]  # w4..w8: w3 is cut off
    assert batch["end"].tolist() == [[8, 6, UNJUDGED], [0, UNJUDGED, UNJUDGED]]
    start, end = random_logits(batch["context_mask"])

    def nats(logits, window, target):
        allowed = [0, *np.flatnonzero(batch["context_mask"][window])]
        values = np.asarray(logits[window], np.float64)[allowed]
        return np.log(np.exp(values).sum()) - float(logits[window][target])

    first = np.mean([nats(start, (0, w), s) + nats(end, (0, w), e) for w, (s, e) in enumerate([(7, 8), (5, 6)])])
    second = nats(start, (1, 0), 0) + nats(end, (1, 0), 0)
    judged = judge(start, end, batch)
    np.testing.assert_allclose(judged.nats, [first, second], rtol=1e-5)
    np.testing.assert_allclose(mean_question_nats(judged.nats, batch), (first + second) / 2, rtol=1e-5)
    batch["mask"] = np.array([True, False])
    np.testing.assert_allclose(mean_question_nats(judged.nats, batch), first, rtol=1e-5)


# The search.
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("longest", [1, 3, 20])
def test_the_best_span_is_that_of_a_search_over_all(seed, longest):
    rng = np.random.default_rng(seed)
    mask = np.zeros((6, 3, 12), bool)
    for b, w in np.ndindex(6, 3):
        if rng.random() < 0.8:
            mask[b, w, rng.integers(2, 5) : rng.integers(6, 12)] = True
    start, end = random_logits(mask, seed)
    wanted = []
    for b in range(6):
        best, span = -np.inf, (0, 0, 0)
        for w, s, e in np.ndindex(3, 12, 12):
            if mask[b, w, s] and mask[b, w, e] and s <= e < s + longest and start[b, w, s] + end[b, w, e] > best:
                best, span = start[b, w, s] + end[b, w, e], (w, s, e)
        null = min((start[b, w, 0] + end[b, w, 0] for w in range(3) if mask[b, w].any()), default=np.inf)
        wanted.append(span if best > null + 0.5 else (0, 0, 0))
    search = jax.jit(best_span, static_argnames=("longest", "threshold"))
    found = search(start, end, mask, longest=longest, threshold=0.5)
    np.testing.assert_array_equal(np.stack(found, -1), wanted)


def test_a_span_is_exact_where_both_ends_and_the_window_are_right_and_no_answer_where_there_is_none():
    made = codec(windows=2, stride=5)
    long = " ".join(WORDS[:10])
    batch = batch_of(made, asked(long, "w7"), asked(long, "w7"), asked(long), asked(long, "w4 w5"), asked(long, "w1"))
    start = np.full(batch["input_ids"].shape, -9.0, np.float32)
    start[..., 0] = 0
    end = start.copy()
    start[0, 1, 6] = end[0, 1, 6] = 5  # right
    start[1, 1, 6] = end[1, 1, 7] = 5  # a word too many
    judged = judge(start, end, batch)
    # No answer: right of the third, wrong of the others, the fourth of which is cut by the border of the windows.
    assert judged.exact.tolist() == [True, False, True, False, False]
    assert [int(x) for x in (judged.window[0], judged.start[0], judged.end[0])] == [1, 6, 6]


def test_the_threshold_of_a_config_reaches_what_is_written():
    def starts(threshold):
        given = from_dict(
            {
                "application": "question_answering",
                "model": {"architecture": "encoder", "width": 16, "layers": 1, "heads": 2, "mlp_width": 16},
                "tokenizer": {"kind": "word", "max_length": 32, "buckets": [32]},
                "evaluation": {"null_threshold": threshold},
            }
        )
        application = build_application(given)
        functions = compiled(application.functions(training=False))
        batch = {name: leaf[0] for name, leaf in application.stream("test", 1)(0, 1).query.items()}
        return np.asarray(functions.output_fn(functions.init_params(jax.random.key(0)), batch, jax.random.key(0)).start)

    assert starts(-100.0).all() and not starts(100.0).any()


# The windows.
def test_windows_lie_a_stride_apart_and_hold_the_whole_context():
    context = " ".join(WORDS[:12])
    for stride, parts in ((0, [(0, 5), (2, 7), (4, 9), (6, 11), (8, 12)]), (4, [(0, 5), (4, 9), (8, 12)])):
        (windows,) = encode_windows(codec(windows=9, stride=stride), [asked(context)])
        assert windows.parts == parts
    (far,) = encode_windows(codec(windows=9, stride=30), [asked(context)])
    assert far.parts == [(0, 5), (5, 10), (10, 12)]  # nothing lies between windows
    (exactly,) = encode_windows(codec(windows=9), [asked(" ".join(WORDS[:5]))])
    assert exactly.parts == [(0, 5)]


def test_an_answer_in_the_second_window_is_found_there_and_one_cut_by_a_border_is_masked():
    made = codec(windows=2, stride=5)
    context = " ".join(WORDS[:10])
    second, border = encode_windows(made, [asked(context, "w6 w7"), asked(context, "w4 w5")])
    assert second.labels == [(NOWHERE, NOWHERE), (5, 6)]
    assert span_text(context, second, 1, 5, 6) == "w6 w7"
    assert border.labels == [(UNJUDGED, UNJUDGED)] * 2
    batch = batch_of(made, asked(context, "w4 w5"))
    start, end = random_logits(batch["context_mask"])
    assert mean_question_nats(judge(start, end, batch).nats, batch) == 0


def test_too_long_texts_are_cut_and_counted_or_refused():
    made, context = codec(windows=2, stride=4), " ".join(WORDS[:20])
    (windows,) = encode_windows(made, [asked(context, "w15")])
    assert windows.parts == [(0, 5), (4, 9)] and windows.answerable and made.cut == [1, 0]
    assert windows.labels == [(NOWHERE, NOWHERE)] * 2
    encode_windows(made, [asked("w1", question="who " * 9)])
    assert made.cut == [2, 0]
    encode_windows(made, [asked(" ".join(WORDS[:5]), " ".join(WORDS[:5]))])
    assert made.cut == [2, 1]
    refusing = codec(windows=2, stride=4, refuse=True)
    with pytest.raises(UserError, match=r"context of 20 tokens, room for 9.*raise tokenizer.windows or"):
        encode_windows(refusing, [asked(context)])
    with pytest.raises(UserError, match=r"question of 9 tokens, room for 3.*raise tokenizer.max_length"):
        encode_windows(refusing, [asked("w1", question="who " * 9)])
    with pytest.raises(UserError, match=r"answer of 5 tokens, room for 4.*raise tokenizer.target_max_length"):
        encode_windows(refusing, [asked(" ".join(WORDS[:5]), " ".join(WORDS[:5]))])
    with pytest.raises(UserError, match=r"tokenizer.max_length=4: leaves no room"):
        encode_windows(codec(max_length=4), [asked("w1")])


# Characters.
TEXT = "  Où est le café?\nÀ Zürich — «東京» and 🙂 hai, nai\u0308f cafe\u0301 ."


@pytest.mark.parametrize("kind", ["word", "wordpiece", "bpe"])
@pytest.mark.parametrize(
    "answer", ["Où", "café", "À Zürich", "«東京»", "🙂 hai", "nai\u0308f", "cafe\u0301", "cafe\u0301 ."]
)
def test_a_span_is_the_exact_substring(kind, answer):
    made = codec(kind=kind, texts=[TEXT], max_length=120, target_max_length=60)
    (windows,) = encode_windows(made, [asked(TEXT, answer)])
    ((start, end),) = windows.labels
    assert span_text(TEXT, windows, 0, start, end) == answer


def test_of_equal_words_the_one_that_answers_is_pointed_to():
    question = Question("w1 w2 w1", "who ?", (Answer("w1", 6),), "a", "q")
    example = SpanQuestionAnswering.asked(question)
    assert question_of(example) == question._replace(id="")
    (windows,) = encode_windows(codec(), [question_of(example)])
    assert windows.labels == [(6, 6)]
    (first,) = encode_windows(codec(), [question_of(Example(source_of("who ?", "w1 w2 w1"), "w1"))])
    assert first.labels == [(4, 4)]


def test_a_source_is_taken_apart_as_it_was_put_together():
    question = Question("\n one\ntwo ", "what\nis it?", (), "article", "q")
    example = SpanQuestionAnswering.asked(question)
    assert (example.target, example.answers) == (NO_ANSWER, (NO_ANSWER,))
    assert question_of(example)[:3] == ("\n one\ntwo ", "what is it?", ())
    with pytest.raises(UserError, match=r"'who \? w1' has no context; write the question, a line break and"):
        question_of(Example("who ? w1", ""))
    with pytest.raises(UserError, match=r"the answer 'w9' to 'who \?' does not occur.*'no answer'"):
        question_of(Example("who ?\nw1", "w9"))


def test_generated_answers_stand_in_their_texts_once():
    support, query = reading_spans(np.random.default_rng(0), 8, 8)
    for example in (*support, *query):
        question = question_of(example)
        assert question.context.split().count(example.target) == 1 and question.question.endswith("?")


# The model.
def test_padding_of_tokens_windows_and_items_changes_nothing(functions):
    params, context = params_of(functions), " ".join(WORDS[:7])
    questions = [asked(context, "w4"), asked(context)]
    small = batch_of(codec(max_length=14, target_max_length=4), *questions)
    wide = codec(max_length=14, windows=3)
    rows = [encode_windows(wide, questions)]
    large = {name: leaf[0] for name, leaf in window_batch(wide, rows, 4, 20).items()}
    assert large["input_ids"].shape == (4, 3, 20) and small["input_ids"].shape == (2, 1, 14)
    grad = jax.jit(jax.grad(lambda params, batch: functions.loss_fn(params, batch, KEY)[0]))
    for one, other in zip(*(jax.tree.leaves(grad(params, batch)) for batch in (small, large)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=3e-4)  # gradients of about 30
    few, many = (functions.write_fn(params, batch, KEY) for batch in (small, large))
    np.testing.assert_allclose(few.nats, many.nats[:2], rtol=1e-4)
    np.testing.assert_array_equal(few.ids, many.ids[:2])


def test_a_model_that_knows_two_texts_is_told_which_is_which():
    from transformers import BertConfig

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    module = build(BertConfig(vocab_size=64, max_position_embeddings=32, **sizes), "span", jnp.float32)
    functions = compiled(spans(module, lambda key: initial_params(module, key), longest=4))
    params = params_of(functions)
    batch = batch_of(codec(), asked("w1 w2", "w2"))
    grad = jax.jit(jax.grad(lambda params: functions.loss_fn(params, batch, KEY)[0]))(params)
    assert all(np.abs(row).max() > 0 for row in grad["encoder"]["type_embedding"]["embedding"])


def test_a_few_steps_learn_to_point(functions):
    batch = batch_of(codec(), asked("w1 w2 w3", "w2"), asked("w1 w2"), asked("w5 w6 w7", "w6 w7"))
    params = functions.init_params(KEY)
    losses = []

    @jax.jit
    def step(params):
        values, grads = jax.value_and_grad(functions.loss_fn, has_aux=True)(params, batch, KEY)
        return values, jax.tree.map(lambda leaf, grad: leaf - 0.3 * grad, params, grads)

    for _ in range(150):
        (loss, aux), params = step(params)
        losses.append(float(loss))
    assert losses[-1] < 0.1 * losses[0] and aux["exact_match"] == 1


# Runs.
SMALL = {
    "application": "question_answering",
    "episodes": {"shots": 3, "queries": 2},
    "tokenizer": {"kind": "word", "max_length": 24, "buckets": [24], "target_max_length": 4, "target_buckets": [4]},
    "model": {"architecture": "encoder", "width": 16, "layers": 1, "heads": 2, "mlp_width": 16},
    "learner": {"gradient": "reverse", "task_chunk": 1},
    "inner": {"steps": 1},
    "outer": {"steps": 2, "tasks": 2},
    "evaluation": {"every": 2, "validation_episodes": 2, "episodes": 3, "shots": [2], "queries": 2, "tasks": 3},
    "baselines": {"rates": [0.01], "steps": 1, "episodes": 2},
}


def config(**sections):
    both = {**SMALL, **sections}
    return {
        name: {**SMALL.get(name, {}), **value} if isinstance(value, dict) else value for name, value in both.items()
    }


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def train(tmp_path, values):
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")
    assert main(["train", str(path), "--run-dir", str(tmp_path / "run"), "--quiet"]) == 0
    return tmp_path / "run"


def test_a_run_is_trained_evaluated_adapted_to_a_file_and_points(tmp_path):
    run = train(tmp_path, config())
    result = json.loads((run / "evaluation.json").read_text())
    assert result["score"] == "nats per question" == score_of(from_dict(config())).name
    rows = ["maml", "untrained, fine-tuned", "multi-task, fine-tuned"]
    assert list(result["nats_per_question"]) == rows
    more = {name: one["scores"] for name, one in result["more"].items()}
    assert list(more) == ["exact_match", "SQuAD_exact_match", "SQuAD_F1"]
    assert {*rows, "copy of the source", "most frequent target"} <= set(more["SQuAD_F1"])
    assert all(np.isfinite(row["2"]["mean"]) for one in more.values() for row in one.values())
    assert all(more["SQuAD_exact_match"][row]["2"]["mean"] >= more["exact_match"][row]["2"]["mean"] for row in rows)

    context = "anna eats rice . anna fears fog ."
    data = written(
        tmp_path / "data.jsonl",
        [
            {"question": "zorp anna ?", "context": context, "answer": "fog"},
            {"question": "quam anna ?", "context": context, "answers": []},
        ],
    )
    inputs = [{"question": "zorp ben ?", "context": f"ben eats {thing} . ben fears rain ."} for thing in "abc"]
    asked, model, output = written(tmp_path / "input.jsonl", inputs), tmp_path / "model", tmp_path / "output.jsonl"
    assert main(["adapt", str(run), "--data", str(data), "--output", str(model)]) == 0
    assert main(["predict", str(model), "--input", str(asked), "--output", str(output)]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [{name: row[name] for name in inputs[0]} for row in rows] == inputs
    assert all(row["written"] == NO_ANSWER or row["written"] in row["context"] for row in rows)
    writer, sources = load(model), [source_of(**row) for row in inputs]
    assert writer.predict(sources) == [row["written"] for row in rows]
    writer.adapted = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), writer.adapted)
    with pytest.raises(UserError, match="not finite numbers for 3 of 3 texts"):
        writer.predict(sources)


def test_a_run_learns_from_squad_with_windows_and_questions_without_an_answer(tmp_path):
    context = "Im Café sitzt Zoë. " + "Sie trinkt Tee. " * 6 + "Dann kommt Jürgen."
    questions = [
        {"id": "a", "question": "Wer sitzt?", "answers": [{"text": "Zoë", "answer_start": context.index("Zoë")}]},
        {"id": "b", "question": "Wer kommt?", "answers": [{"text": "Jürgen", "answer_start": context.index("Jürgen")}]},
        {"id": "c", "question": "Wer geht?", "answers": [], "is_impossible": True},
        {"id": "d", "question": "Was trinkt Zoë?", "answers": [{"text": "Tee", "answer_start": context.index("Tee")}]},
    ]
    articles = [
        {
            "title": title,
            "paragraphs": [
                {
                    "context": f"{context} {title}",
                    "qas": [{**one, "id": f"{title}{one['id']}"} for one in questions],
                }
            ],
        }
        for title in ("eins", "zwei", "drei", "vier", "fünf")
    ]
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": articles}), encoding="utf-8")
    values = config(
        data={"source": "files", "path": str(path)},
        episodes={"shots": 2},
        tokenizer={"kind": "wordpiece", "windows": 3, "stride": 12},
    )
    application = build_application(from_dict(values))
    episode = application.training_stream()(0, 2)
    assert episode.support["input_ids"].shape == (2, 2, 3, 24)
    drawn = application.training_sampler().task(0, 0).support
    ids = np.stack([episode.support[name][0] for name in ("start", "end")], -1)
    found = [max(range(3), key=lambda w: ids[i, w, 0]) for i in range(2)]
    texts = application.texts_of(
        np.array([[w, *np.maximum(ids[i, w], 0)] for i, w in enumerate(found)]),
        [example.source for example in drawn],
        application.codec,
    )
    assert texts == [example.target for example in drawn]  # what is read back is what was marked
    functions = compiled(application.functions(training=True))
    params, one = functions.init_params(KEY), jax.tree.map(lambda leaf: leaf[0], episode.query)
    loss, aux = functions.loss_fn(params, one, KEY)
    assert np.isfinite(loss) and np.isfinite(aux["exact_match"])


def test_a_run_starts_from_a_pretrained_encoder(tmp_path):
    pretrain = {
        "objective": "masked_lm",
        "corpus": {"path": str(written(tmp_path / "corpus.jsonl", [{"text": " ".join(WORDS[:12])}] * 40))},
        "tokenizer": {"kind": "word", "vocab_size": 64},
        "model": {"width": 16, "layers": 1, "heads": 2, "mlp_width": 16},
        "optimizer": {"steps": 2},
        "batch": {"sequences": 8, "length": 16},
        "evaluation": {"every": 2, "batches": 1},
    }
    path = tmp_path / "pretrain.yaml"
    path.write_text(json.dumps(pretrain), encoding="utf-8")
    assert main(["pretrain", str(path), "--run-dir", str(tmp_path / "lm"), "--quiet"]) == 0
    values = from_dict(config(model={"pretrained": str(tmp_path / "lm")}))
    application = build_application(values)
    params = jax.jit(application.functions(training=True).init_params)(KEY)
    before = load_pretrained(tmp_path / "lm" / "model").params
    jax.tree.map(np.testing.assert_array_equal, params["encoder"], before["encoder"])
    assert params["head"]["output"]["kernel"].shape == (16, 2)  # new: the two ends
    application.save(tmp_path)
    saved = TextModel.open(values, tmp_path, weights=False)
    assert jax.tree.map(jnp.shape, jax.eval_shape(saved.init_params, KEY)) == jax.tree.map(jnp.shape, params)


def test_a_pretrained_decoder_points_to_nothing(tmp_path):
    made = new_model("decoder", vocab_size=64, width=8, layers=1, heads=2, mlp_width=8)
    save_pretrained(tmp_path, made)
    save_tokenizer(codec().tokenizer, tmp_path)
    with pytest.raises(UserError, match=r"is of architecture 'decoder', not 'encoder'; set model.architecture"):
        build_application(from_dict(config(model={"pretrained": str(tmp_path)})))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"application": "translation"},
            r"model.architecture=encoder: points to answers.*translation takes decoder or",
        ),
        ({"application": "text_classification", "tokenizer": {}}, "no use for it"),
        ({"learner": {"name": "metaicl"}}, "with model.architecture=decoder"),
        ({"evaluation": {"beams": 2}}, r"evaluation.beams=2: an encoder points"),
        ({"model": {"architecture": "decoder"}, "tokenizer": {"windows": 2}}, r"tokenizer.windows=2: only an encoder"),
        ({"model": {"architecture": "decoder"}, "tokenizer": {"stride": 2}}, r"tokenizer.stride=2: only an encoder"),
        ({"tokenizer": {"windows": 0}}, r"tokenizer.windows=0: expected at least 1"),
        ({"tokenizer": {"stride": -1}}, r"tokenizer.stride=-1: expected zero or more"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(sections, message):
    with pytest.raises(UserError, match=message):
        from_dict(config(**sections))

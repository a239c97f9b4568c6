"""Text classification: no class is special, padding has no effect, meta-training lowers the loss."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fewshot_jax as fsj
from fewshot_jax.applications.classification import classification
from fewshot_jax.applications.text_classification import TextClassification
from fewshot_jax.applications.text_features import features_of_texts
from fewshot_jax.config import ModelConfig
from fewshot_jax.config_file import from_dict
from fewshot_jax.data.episodes import EpisodeSampler, EpisodeSize, gather
from fewshot_jax.evaluation.baselines import baselines_of
from fewshot_jax.models.heads import TextFeatures
from fewshot_jax.models.text_encoder import TextEncoder, text_encoder

VOCABULARY, WAYS, LENGTH = 30, 3, 5
SIZES = {"width": 8, "layers": 1, "heads": 2, "mlp_width": 16}
MODEL = TextFeatures(text_encoder(ModelConfig(**SIZES), vocab_size=VOCABULARY, max_length=8))


def make(ways=WAYS, steps=3, rate=0.5, deterministic=True, model=MODEL):
    application = classification(features_of_texts(model, deterministic=deterministic), ways=ways)
    learner = fsj.maml(
        application.loss_fn,
        inner_optimizer=optax.sgd(rate),
        inner_steps=steps,
        task_init_fn=application.task_init_fn,
        output_fn=application.output_fn,
    )
    jitted = {name: jax.jit(getattr(learner, name)) for name in ("adapt", "predict", "loss", "grad")}
    return application, learner._replace(**jitted)


def batch(label, seed=0, mask=None, length=LENGTH):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, length + 1, len(label))
    return {
        "input_ids": jnp.asarray(rng.integers(1, VOCABULARY, (len(label), length))),
        "attention_mask": jnp.asarray(np.arange(length) < lengths[:, None]),
        "label": jnp.asarray(label, jnp.int32),
        "mask": jnp.ones(len(label), bool) if mask is None else jnp.asarray(mask, bool),
    }


@pytest.fixture(scope="module")
def meta_params():
    application, learner = make()
    return learner.init(jax.jit(application.init_params)(jax.random.key(0)), jax.random.key(1))


def test_the_meta_parameters_have_no_head(meta_params):
    assert set(meta_params["params"]) == {"features"}


def test_relabelling_the_classes_relabels_the_predictions_and_nothing_else(meta_params):
    _, learner = make()
    key = jax.random.key(2)
    support, query = batch([0, 0, 1, 1, 2, 2]), batch([0, 1, 2], seed=1)
    permutation = jnp.array([2, 0, 1])  # the new label of each class
    relabelled = {**support, "label": permutation[support["label"]]}
    logits = learner.predict(learner.adapt(meta_params, support, key), query, key)
    other = learner.predict(learner.adapt(meta_params, relabelled, key), query, key)
    assert jnp.abs(logits).max() > 1e-2
    assert (logits.std(-1) > 1e-3).all()
    np.testing.assert_allclose(other[:, permutation], logits, atol=1e-5)


def test_before_adaptation_every_class_is_equally_likely(meta_params):
    application, learner = make(steps=0)
    key = jax.random.key(0)
    logits = learner.predict(learner.adapt(meta_params, batch(list(range(WAYS))), key), batch([0]), key)
    np.testing.assert_array_equal(logits, np.zeros((1, WAYS)))
    params = application.task_init_fn(meta_params["params"], batch([0, 1, 2]), None)
    loss, _ = jax.jit(application.loss_fn)(params, batch([0, 1, 2]), key)
    assert float(loss) == pytest.approx(np.log(3), rel=1e-6)


def with_head(meta_params, ways=WAYS):
    head = {"kernel": jax.random.normal(jax.random.key(3), (8, ways)), "offset": jnp.zeros(ways)}
    return {**meta_params["params"], "head": head}


def test_the_loss_is_the_mean_cross_entropy_of_the_logits(meta_params):
    application, _ = make()
    items, params = batch([0, 1, 2, 2]), with_head(meta_params)
    loss, aux = jax.jit(application.loss_fn)(params, items, jax.random.key(0))
    logits = np.asarray(jax.jit(application.output_fn)(params, items, jax.random.key(0)), np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    label = np.asarray(items["label"])
    assert float(loss) == pytest.approx(-np.log(probabilities[np.arange(4), label]).mean(), rel=1e-5)
    assert float(aux["accuracy"]) == pytest.approx((logits.argmax(1) == label).mean())


def test_masked_items_change_nothing(meta_params):
    application, learner = make()
    real, params, key = batch([0, 1, 2, 0]), with_head(meta_params), jax.random.key(0)
    junk = batch([1, 1, 1], seed=9, mask=[False] * 3)
    padded = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), real, junk)
    for one, other in zip(
        jax.tree.leaves(jax.jit(application.loss_fn)(params, real, key)),
        jax.tree.leaves(jax.jit(application.loss_fn)(params, padded, key)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    adapted, from_padded = (learner.adapt(meta_params, support, key) for support in (real, padded))
    for one, other in zip(jax.tree.leaves(adapted), jax.tree.leaves(from_padded), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def learners():
    """MAML and prototypes on the same features."""
    application, maml = make()
    prototypes = fsj.protonet(application.embed_fn, ways=WAYS)
    return {"maml": maml, "protonet": prototypes._replace(loss=jax.jit(prototypes.loss))}


@pytest.mark.parametrize("name", ["maml", "protonet"])
def test_the_padding_of_uneven_classes_changes_nothing(meta_params, name):
    """Neither its content nor its presence: the loss is that of the real items alone."""
    learner, key = learners()[name], jax.random.key(0)
    label = np.repeat(np.arange(8), 6)
    size = EpisodeSize(ways=WAYS, shots=3, queries=2, min_shots=1, uneven=True)
    sampler = EpisodeSampler(label, size, names_from=len(label))
    texts = batch(np.append(label, np.arange(8)), seed=3)
    fields = {field: np.asarray(texts[field]) for field in ("input_ids", "attention_mask")}
    padded = 0
    for step in range(4):
        support, query = (gather(fields, items) for items in sampler.task(step, 0))
        real, junk = support["mask"], batch(np.ones(len(support["mask"]), int), seed=step)
        others = {**{k: np.where(real.reshape(-1, *[1] * (v.ndim - 1)), v, junk[k]) for k, v in support.items()}}
        others["mask"] = real
        compact = {k: v[real] for k, v in support.items()}
        losses = [float(learner.loss(meta_params, fsj.Episode(s, query), key)[0]) for s in (support, others, compact)]
        np.testing.assert_allclose(losses[1:], losses[0], rtol=1e-5)
        padded += int((~real).sum())
    assert padded > 4


def test_absent_classes_take_no_part(meta_params):
    small, _ = make(ways=2)
    large, _ = make(ways=5)
    key, items = jax.random.key(0), batch([0, 1, 1])
    kernel = with_head(meta_params, 5)["head"]["kernel"]

    def started(application, support, kernel):
        start = application.task_init_fn(meta_params["params"], support, key)
        return {**start, "head": {**start["head"], "kernel": kernel}}

    params, first_two = started(large, items, kernel), started(small, items, kernel[:, :2])
    expected, expected_grad = jax.jit(jax.value_and_grad(lambda p: small.loss_fn(p, items, key)[0]))(first_two)
    loss, grad = jax.jit(jax.value_and_grad(lambda p: large.loss_fn(p, items, key)[0]))(params)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert not grad["head"]["kernel"][:, 2:].any()
    np.testing.assert_allclose(grad["head"]["kernel"][:, :2], expected_grad["head"]["kernel"], rtol=1e-4, atol=1e-6)
    # The label of a padded item does not make its class present.
    padded = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), items, batch([4], mask=[False]))
    params = started(large, padded, kernel)
    assert float(jax.jit(large.loss_fn)(params, padded, key)[0]) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("ways", [2, 7])
def test_a_learner_adapts_to_another_number_of_ways(meta_params, ways):
    _, learner = make(ways=ways, steps=20, rate=0.2)
    support, key = batch(list(range(ways))), jax.random.key(0)
    adapted = learner.adapt(meta_params, support, key)
    logits = learner.predict(adapted, support, key)
    assert logits.shape == (ways, ways)
    assert (logits.argmax(-1) == support["label"]).all()


def test_prototypes_use_the_same_features(meta_params):
    application, _ = make()
    learner = fsj.protonet(application.embed_fn, ways=WAYS)
    support, query, key = batch([0, 1, 1, 2]), batch([0, 1], seed=1), jax.random.key(0)
    logits = jax.jit(lambda params: learner.predict(learner.adapt(params, support, key), query, key))(meta_params)
    of_support, of_query = (
        np.asarray(jax.jit(application.embed_fn)(meta_params["params"], items, key)) for items in (support, query)
    )
    label = np.asarray(support["label"])
    centres = np.stack([of_support[label == c].mean(0) for c in range(WAYS)])
    expected = -((of_query[:, None] - centres) ** 2).sum(-1)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_dropout_only_where_it_is_asked_for(meta_params):
    model = TextFeatures(text_encoder(ModelConfig(**SIZES, dropout=0.5), vocab_size=VOCABULARY, max_length=8))
    items, (one, two) = batch([0, 1]), jax.random.split(jax.random.key(0))
    calm, noisy = (jax.jit(make(model=model, deterministic=still)[0].embed_fn) for still in (True, False))
    params = meta_params["params"]
    np.testing.assert_array_equal(calm(params, items, one), calm(params, items, two))
    np.testing.assert_array_equal(noisy(params, items, one), noisy(params, items, one))
    assert (noisy(params, items, one) != noisy(params, items, two)).any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"attention_mask": jnp.ones((4, LENGTH + 1), bool)},
        {"input_ids": jnp.ones(4, jnp.int32)},
        {"label": jnp.zeros((4, 1), jnp.int32)},
        {"label": jnp.zeros(3, jnp.int32)},
        {"mask": jnp.ones(5, bool)},
    ],
)
def test_wrong_shapes_are_refused(meta_params, wrong):
    application, _ = make()
    with pytest.raises(AssertionError):
        application.loss_fn(with_head(meta_params), {**batch([0, 1, 2, 0]), **wrong}, jax.random.key(0))


def token_task(step, tasks=4, shots=2, queries=3):
    """Each class is a word, hidden at a random place among fillers; new words in every episode."""
    rng = np.random.default_rng(step)

    def items(words, count):
        ids = rng.integers(1, 6, (WAYS, count, LENGTH))
        place = rng.integers(0, LENGTH, (WAYS, count, 1))
        np.put_along_axis(ids, place, np.broadcast_to(words[:, None, None], place.shape), -1)
        ids = ids.reshape(-1, LENGTH)
        label = np.repeat(np.arange(WAYS), count)
        return {
            "input_ids": ids,
            "attention_mask": np.ones(ids.shape, bool),
            "label": label,
            "mask": np.ones(len(label), bool),
        }

    words = [rng.choice(np.arange(6, VOCABULARY), WAYS, replace=False) for _ in range(tasks)]
    parts = [[items(w, count) for w in words] for count in (shots, queries)]
    return fsj.Episode(*(jax.tree.map(lambda *leaves: np.stack(leaves), *part) for part in parts))


def test_meta_training_lowers_the_loss_of_new_tasks(meta_params):
    _, learner = make(steps=2, rate=0.4)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state, episodes, key):
        grads, metrics = learner.grad(params, episodes, key)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, metrics

    def of_new_tasks(params):
        """Loss and accuracy on 16 tasks that training does not see."""
        rows = [step(params, state, token_task(10_000 + i), jax.random.key(i))[2] for i in range(4)]
        return [float(np.mean([row[name] for row in rows])) for name in ("loss", "accuracy")]

    params, state = meta_params, optimizer.init(meta_params)
    loss_before, accuracy_before = of_new_tasks(params)
    for i in range(80):
        params, state, _ = step(params, state, token_task(i), jax.random.key(i))
    loss_after, accuracy_after = of_new_tasks(params)
    assert loss_after < loss_before - 0.1
    assert accuracy_after > accuracy_before


def test_bf16_is_what_the_encoder_computes_in_and_nothing_else_has():
    """Parameters, features, loss and gradients are float32, and near those of float32."""
    results = {}
    for name in ("float32", "bfloat16"):
        application, learner = make(
            model=TextFeatures(TextEncoder(MODEL.encoder.transformer.clone(dtype=jnp.dtype(name))))
        )
        meta_params = learner.init(jax.jit(application.init_params)(jax.random.key(0)), jax.random.key(1))
        episodes = jax.tree.map(lambda leaf: leaf[None], fsj.Episode(batch([0, 1, 2]), batch([0, 1, 2], seed=1)))
        grads, metrics = jax.jit(learner.grad)(meta_params, episodes, jax.random.key(2))
        features = jax.jit(application.embed_fn)(meta_params["params"], batch([0, 1]), jax.random.key(3))
        results[name] = features, metrics["loss"], grads
        assert {leaf.dtype for leaf in jax.tree.leaves((meta_params, results[name]))} == {jnp.dtype("float32")}
        program = str(jax.make_jaxpr(application.embed_fn)(meta_params["params"], batch([0, 1]), jax.random.key(3)))
        assert ("bf16" in program) == (name == "bfloat16")
    (ours, loss, grads), (exact, exact_loss, exact_grads) = results["bfloat16"], results["float32"]
    np.testing.assert_allclose(ours, exact, atol=0.05 * float(jnp.abs(exact).max()))
    assert float(loss) == pytest.approx(float(exact_loss), rel=0.05)
    flat, exact_flat = (
        jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)]) for tree in (grads, exact_grads)
    )
    assert float(flat @ exact_flat / jnp.linalg.norm(flat) / jnp.linalg.norm(exact_flat)) > 0.98


SMALL = {
    "data": {"groups": 6, "texts_per_class": 6, "split_by": "group", "fractions": [0.5, 0.25, 0.25]},
    "episodes": {"ways": 3, "shots": 2, "queries": 2, "min_shots": 1, "uneven": True, "within_group": True},
    "tokenizer": {"kind": "word", "max_length": 12, "buckets": [12]},
    "model": {"width": 16, "layers": 1, "heads": 2, "mlp_width": 16, "ngram_width": 32},
    "evaluation": {"ways": 3, "shots": [1, 2], "queries": 2},
}


def built(values):
    return TextClassification.build(from_dict(values))


def test_the_names_of_the_classes_are_support_texts_in_training_and_evaluation():
    application = built({**SMALL, "episodes": {**SMALL["episodes"], "label_names": True}})
    for split, stream, shots in (
        ("train", application.training_stream(), 2),
        ("validation", application.stream("validation", 1), 1),
        ("test", application.stream("test", 2), 2),
    ):
        data, texts = application.splits[split], application.texts(split)
        assert texts[: len(data.texts)] == data.texts
        assert texts[len(data.texts) :] == [name.replace(">", " ") for name in data.classes]
        support, query = stream(0, 4)
        assert support["label"].shape == (4, 3 * (shots + 1))
        assert query["label"].shape == (4, 3 * 2)
        # the ids of a name are those of its words, in their order
        vocabulary = application.model.codec.tokenizer.get_vocab()
        ids = {tuple(vocabulary.get(word, 1) for word in name.split(">")) for name in data.classes}
        rows = support["input_ids"].reshape(4, 3, shots + 1, -1)[:, :, -1]
        found = {tuple(int(i) for i in row if i > 4 or i == 1) for row in rows.reshape(12, -1)}
        assert found <= ids
        assert len(found) >= 3
        ngrams = support["ngrams"].reshape(4, 3, shots + 1, -1)[:, :, -1]
        assert ngrams.any(-1).all()


def test_label_names_change_the_support_set_alone():
    plain, named = (built({**SMALL, "episodes": {**SMALL["episodes"], "label_names": on}}) for on in (False, True))
    one, two = (application.stream("test", 2)(3, 4) for application in (plain, named))
    np.testing.assert_array_equal(one.query["label"], two.query["label"])
    tokens = [
        application.model.codec.tokenizer.decode_batch(e.query["input_ids"][0].tolist())
        for application, e in ((plain, one), (named, two))
    ]
    assert tokens[0] == tokens[1]


def test_joint_training_knows_the_class_of_a_name():
    application = built(
        {**SMALL, "learner": {"name": "multi_task"}, "episodes": {**SMALL["episodes"], "label_names": True}}
    )
    support, _ = application.training_stream()(0, 2)
    rows = {name: support[name].reshape(2, 3, 3) for name in ("class_id", "mask")}
    assert rows["mask"][..., 0].all()
    np.testing.assert_array_equal(rows["class_id"][..., -1], rows["class_id"][..., 0])


def test_the_floor_sees_the_names(tmp_path):
    """Where a text has one word of its class among many others, the name tells which."""
    rng, words = np.random.default_rng(0), [f"{a}{b}{c}" for a in "bdfg" for b in "aeiou" for c in "klmn"]
    rows = [f"{name} {' '.join(rng.choice(words, 12))},{name}" for name in words[:18] for _ in range(8)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    data = {"source": "files", "path": str(tmp_path / "texts.csv"), "fractions": [0.34, 0.33, 0.33]}
    means = {}
    for names in (False, True):
        application = built({**SMALL, "data": data, "episodes": {"ways": 3, "shots": 2, "label_names": names}})
        means[names] = baselines_of(application, "test")(1, 60, 20)["TF-IDF centroid"]["accuracy"].mean()
    assert means[False] < 0.6
    assert means[True] > means[False] + 0.15


def test_evaluation_may_be_uneven_too():
    application = built({**SMALL, "evaluation": {**SMALL["evaluation"], "uneven": True}})
    shots = {tuple(row) for row in application.stream("test", 2)(0, 20).support["mask"].reshape(20 * 3, 2).tolist()}
    assert shots == {(True, False), (True, True)}


def write_sets(folder):
    """Three data sets with two labels in common, one of them a folder of two files."""
    for name, labels in {
        "bank.csv": "abcd",
        "travel/one.csv": "abef",
        "travel/two.csv": "gh",
        "news.csv": "klmn",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        rows = [f"{name[:4]} {label} {i},{label}" for label in labels for i in range(4)]
        (folder / name).write_text("\n".join(["text,label", *rows]) + "\n")


SETS = {
    **SMALL,
    "data": {"source": "files", "sets": ["bank.csv", "travel", "news.csv"], "fractions": [0.34, 0.33, 0.33]},
    "episodes": {"ways": 3, "shots": 1, "queries": 2, "domain_power": 1.0},
    "evaluation": {"ways": 3, "shots": [1], "queries": 2},
}


def test_whole_data_sets_are_held_out_and_equal_labels_stay_apart(tmp_path):
    write_sets(tmp_path)
    application = built({**SETS, "data": {**SETS["data"], "path": str(tmp_path), "split_by": "group"}})
    of_split = {split: {name.split("/")[0] for name in labels} for split, labels in application.labels().items()}
    assert sorted(name for names in of_split.values() for name in names) == ["bank", "news", "travel"]
    assert all(len(names) == 1 for names in of_split.values())


def test_a_file_says_which_data_sets_are_held_out(tmp_path):
    write_sets(tmp_path)
    (tmp_path / "split.json").write_text('{"train": ["travel"], "valid": ["bank"], "test": ["news"]}')
    data = {**SETS["data"], "path": str(tmp_path), "split_by": "group", "class_split": "split.json"}
    labels = built({**SETS, "data": data}).labels()
    assert labels["train"] == [f"travel/{label}" for label in "abefgh"]
    assert labels["validation"] == [f"bank/{label}" for label in "abcd"]


def test_an_episode_stays_in_one_data_set_and_names_lose_its_name(tmp_path):
    write_sets(tmp_path)
    members = {"train": ["travel/a", "travel/b", "travel/e", "bank/a", "bank/b", "bank/c"]}
    members |= {"valid": ["travel/f", "travel/g", "travel/h"], "test": ["news/k", "news/l", "news/m"]}
    (tmp_path / "split.json").write_text(json.dumps(members))
    data = {**SETS["data"], "path": str(tmp_path), "class_split": "split.json"}
    application = built({**SETS, "data": data, "episodes": {**SETS["episodes"], "label_names": True}})
    train, support = application.splits["train"], application.training_stream()(0, 30).support
    assert application.texts("train")[len(train.texts) :] == ["a", "b", "c", "a", "b", "e"]
    tokens = application.model.codec.tokenizer.get_vocab()
    domains = [{name for name in ("bank", "trav") if tokens[name] in ids} for ids in support["input_ids"]]
    assert {len(names) for names in domains} == {1}
    assert len(set.union(*domains)) == 2


def test_data_sets_without_a_path_are_refused():
    with pytest.raises(fsj.UserError, match=r"data\.path: data\.sets are files or folders under a path"):
        built(SETS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": {"sets": ["a.csv"]}}, r"data\.sets=.*set data\.source"),
        ({"episodes": {"uneven": True}}, r"episodes\.uneven=True.*set episodes\.min_shots"),
        ({"episodes": {"domain_power": 1.5}}, r"episodes\.domain_power=1\.5: expected 0 to 1"),
    ],
)
def test_fields_of_episodes_that_do_not_fit_are_refused(values, message):
    with pytest.raises(fsj.UserError, match=message):
        from_dict(values)

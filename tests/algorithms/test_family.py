"""What every learner has in common, shown for each: symmetries, masks, sums over tasks, the record's contract."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

import fewshot_jax as fsj
from fewshot_jax.algorithms.metric import masked_cross_entropy
from fewshot_jax.algorithms.options import LearnerOptions
from fewshot_jax.algorithms.proto_maml import prototype_head

TASKS, WAYS, SHOTS, QUERIES, INPUTS, FEATURES = 3, 3, 2, 4, 5, 4


def embed_fn(params, batch, rng, frozen=None):
    x = batch["x"] if frozen is None else batch["x"] @ frozen
    return jnp.tanh(x @ params["body"]["kernel"] + params.get("context", jnp.zeros(FEATURES))[None])


def output_fn(params, batch, rng, **frozen):
    return embed_fn(params, batch, rng, **frozen) @ params["head"]["kernel"] + params["head"]["bias"][None]


def loss_fn(params, batch, rng, **frozen):
    return masked_cross_entropy(output_fn(params, batch, rng, **frozen), batch["label"], batch["mask"])


def zero_head(params, support, rng, **frozen):
    return {**params, "head": {"kernel": jnp.zeros((FEATURES, WAYS)), "bias": jnp.zeros(WAYS)}}


def start_at_prototypes(params, support, rng, **frozen):
    return {**params, "head": prototype_head(embed_fn(params, support, rng, **frozen), support, WAYS)}


LOOP = {"inner_steps": 2, "task_init_fn": zero_head, "output_fn": output_fn}
SGD = {"inner_optimizer": optax.sgd(0.5)}
# Each with the keyword of a chunk of tasks.
LEARNERS = {
    "maml": lambda **k: fsj.maml(loss_fn, **LOOP, **SGD, **k),
    "fomaml": lambda **k: fsj.fomaml(loss_fn, **LOOP, **SGD, **k),
    "anil": lambda **k: fsj.anil(loss_fn, **LOOP, **SGD, **k),
    "boil": lambda **k: fsj.boil(loss_fn, **{**LOOP, "task_init_fn": start_at_prototypes}, **SGD, **k),
    "reptile": lambda **k: fsj.reptile(loss_fn, **LOOP, **SGD, **k),
    "meta_sgd": lambda **k: fsj.meta_sgd(loss_fn, inner_rate=0.5, **LOOP, **k),
    "maml_plus_plus": lambda **k: fsj.maml_plus_plus(loss_fn, inner_rate=0.5, **LOOP, **k),
    "imaml": lambda **k: fsj.imaml(loss_fn, **LOOP, **SGD, **k),
    "cavia": lambda **k: fsj.cavia(
        loss_fn, context=jnp.zeros(FEATURES), inner_params="context|head", **LOOP, **SGD, **k
    ),
    "proto_maml": lambda **k: fsj.proto_maml(
        loss_fn, embed_fn=embed_fn, ways=WAYS, inner_steps=2, output_fn=output_fn, **SGD, **k
    ),
    "protonet": lambda **k: fsj.protonet(embed_fn, ways=WAYS, **k),
    "matching_network": lambda **k: fsj.matching_network(embed_fn, ways=WAYS, temperature=0.2, **k),
    "r2d2": lambda **k: fsj.r2d2(embed_fn, ways=WAYS, **k),
}
every_learner = pytest.mark.parametrize("name", LEARNERS)


@functools.cache
def compiled(name):
    """The learner with compiled functions, so that a program of a function and a shape serves all tests."""
    learner = LEARNERS[name]()
    jitted = {field: jax.jit(getattr(learner, field)) for field in ("adapt", "predict", "loss", "grad")}
    return learner._replace(**jitted)


WITH_A_LOOP = [name for name in LEARNERS if name not in ("protonet", "matching_network", "r2d2")]


def make_params():
    return {"body": {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(INPUTS, FEATURES)))}}


def make_episodes(tasks=TASKS, seed=1):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(tasks, WAYS, INPUTS))

    def side(items):
        label = np.tile(np.repeat(np.arange(WAYS), items), (tasks, 1))
        x = np.take_along_axis(centres, label[..., None], 1) + 0.5 * rng.normal(size=(*label.shape, INPUTS))
        return {"x": x, "label": label, "mask": np.ones(label.shape, bool)}

    return fsj.Episode(side(SHOTS), side(QUERIES))


def one(episodes, task=0):
    return jax.tree.map(lambda leaf: leaf[task], episodes)


def close(given, expected, tolerance=1e-9):
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@every_learner
def test_it_is_public_and_returns_the_record(float64, name):
    assert name in fsj.__all__
    learner = LEARNERS[name]()
    assert isinstance(learner, fsj.MetaLearner)
    meta_params = learner.init(make_params(), jax.random.key(0))
    grads, metrics = compiled(name).grad(meta_params, make_episodes(), jax.random.key(1))
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, meta_params)
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))
    assert metrics["task_loss"].shape == (TASKS,)
    assert {"loss", "accuracy"} <= metrics.keys()


REQUIRED = {  # what has no default
    "cavia": {"context": jnp.zeros(FEATURES)},
    "proto_maml": {"embed_fn": embed_fn, "ways": WAYS},
    "metaicl": {"join": lambda support, query: query},
}
OF_EMBEDDINGS = ("protonet", "matching_network", "r2d2")


def keywords_of(factory):
    """The names of all keywords of a learner's factory that have a default."""
    parameters = inspect.signature(factory).parameters.values()
    named = {one.name for one in parameters if one.kind is one.KEYWORD_ONLY and one.default is not one.empty}
    return named - REQUIRED.get(factory.__name__, {}).keys()


@pytest.mark.parametrize("name", [*LEARNERS, "metaicl", "multi_task"])
def test_an_unknown_keyword_is_named_and_so_is_its_nearest(name):
    factory = getattr(fsj, name)
    known = sorted(keywords_of(factory))
    of = embed_fn if name in OF_EMBEDDINGS else loss_fn
    for right in known:
        message = rf"^{name}\(\) got an unexpected keyword argument '{right}x'. Did you mean '{right}'"
        with pytest.raises(TypeError, match=message):
            factory(of, **REQUIRED.get(name, {}), **{f"{right}x": 1})
    assert len(known) > 1


@pytest.mark.parametrize("name", WITH_A_LOOP)
def test_every_option_of_an_inner_loop_is_in_the_signature_that_help_shows(name):
    shown = inspect.signature(getattr(fsj, name)).parameters
    assert LearnerOptions.__annotations__.keys() <= shown.keys()
    assert not [one for one in shown.values() if one.kind is one.VAR_KEYWORD]


@pytest.mark.parametrize("option", LearnerOptions.__annotations__)
def test_maml_says_what_every_option_means(option):
    assert re.search(rf"^    {option}: ", inspect.getdoc(fsj.maml), re.MULTILINE)


@pytest.mark.parametrize("name", [*LEARNERS, "metaicl", "multi_task"])
def test_a_keyword_given_as_none_is_one_that_is_not_given(float64, name):
    factory = getattr(fsj, name)
    of = embed_fn if name in OF_EMBEDDINGS else loss_fn
    build = functools.partial(factory, of, **REQUIRED.get(name, {}))
    params = make_params() if name in (*OF_EMBEDDINGS, "proto_maml") else zero_head(make_params(), None, None)

    def program(learner):
        meta_params, episodes, rng = learner.init(params, jax.random.key(0)), make_episodes(), jax.random.key(1)
        both = lambda p: (learner.grad(p, episodes, rng), learner.adapt(p, one(episodes).support, rng))  # noqa: E731
        return jax.jit(both).lower(meta_params).as_text()

    nothing = dict.fromkeys(keywords_of(factory))
    assert nothing
    assert program(build(**nothing)) == program(build())


@every_learner
def test_loss_is_the_loss_of_predictions_after_adapting(float64, name):
    learner = compiled(name)
    meta_params, episode = learner.init(make_params(), jax.random.key(0)), one(make_episodes())
    adapted = learner.adapt(meta_params, episode.support, jax.random.key(2))
    logits = learner.predict(adapted, episode.query, jax.random.key(3))
    nats = -np.take_along_axis(scipy.special.log_softmax(logits, -1), episode.query["label"][:, None], -1).mean()
    close(learner.loss(meta_params, episode, jax.random.key(2))[0], nats)


@every_learner
def test_a_descent_step_along_grad_lowers_the_loss(float64, name):
    learner = compiled(name)
    meta_params, episodes = learner.init(make_params(), jax.random.key(0)), make_episodes(20)

    def loss(meta_params):
        rng = jax.random.split(jax.random.key(1), 20)
        return jax.vmap(lambda e, k: learner.loss(meta_params, e, k)[0])(episodes, rng).mean()

    @jax.jit
    def before_and_after(meta_params):
        grads, _ = learner.grad(meta_params, episodes, jax.random.key(1))
        norm = optax.tree.norm(grads)
        return loss(meta_params), loss(jax.tree.map(lambda p, g: p - 0.05 * g / norm, meta_params, grads))

    before, after = before_and_after(meta_params)
    assert after < before


@every_learner
def test_permuting_the_classes_permutes_the_predictions(float64, name):
    learner = compiled(name)
    meta_params, episode = learner.init(make_params(), jax.random.key(0)), one(make_episodes())
    order = np.array([2, 0, 1])

    def logits(support):
        return learner.predict(learner.adapt(meta_params, support, jax.random.key(2)), episode.query, jax.random.key(3))

    relabelled = {**episode.support, "label": order[episode.support["label"]]}
    permuted, given = (scipy.special.softmax(logits(support), -1) for support in (relabelled, episode.support))
    close(permuted[:, order], given)


@every_learner
@pytest.mark.parametrize("side", [0, 1], ids=["support", "query"])
def test_a_masked_item_changes_nothing(float64, name, side):
    learner = compiled(name)
    meta_params, episodes = learner.init(make_params(), jax.random.key(0)), make_episodes()

    def padded(batch):
        more = {"x": 1e3 * np.ones((TASKS, 1, INPUTS)), "label": np.ones((TASKS, 1), int)}
        return jax.tree.map(lambda a, b: np.concatenate([a, b], 1), batch, {**more, "mask": np.zeros((TASKS, 1), bool)})

    changed = fsj.Episode(*(padded(batch) if i == side else batch for i, batch in enumerate(episodes)))
    grads, metrics = learner.grad(meta_params, episodes, jax.random.key(1))
    again, metrics_again = learner.grad(meta_params, changed, jax.random.key(1))
    close(again, grads)
    close(metrics_again, metrics)


@every_learner
def test_the_gradient_of_a_meta_batch_is_the_mean_over_its_tasks_in_any_chunks(float64, name):
    learner, chunked = compiled(name), LEARNERS[name](task_chunk=2)
    meta_params, episodes = learner.init(make_params(), jax.random.key(0)), make_episodes()
    alone = [
        learner.grad(meta_params, jax.tree.map(lambda leaf, t=t: leaf[t : t + 1], episodes), jax.random.key(1))[0]
        for t in range(TASKS)
    ]
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, 0), *alone)
    for grad in (learner.grad, jax.jit(chunked.grad)):
        close(grad(meta_params, episodes, jax.random.key(1))[0], mean)


def float_loss_fn(params, batch, rng):
    """A loss of a batch that holds floats alone, with terms that no data enters: on two leaves, and on one alone."""
    error = output_fn(params, batch, rng) - batch["target"]
    coupled = jnp.sum((params["body"]["kernel"].sum(0) - params["shift"]) ** 2)
    return jnp.mean(error**2) + 0.1 * coupled + 0.1 * jnp.sum((params["alone"] - 1) ** 2), {}


def float_learner(name, **options):
    """A learner with an inner loop, rebuilt on `float_loss_fn`."""
    chosen = {**LOOP, "task_init_fn": lambda params, support, rng: params, "output_fn": None, **options}
    extra = {"cavia": {"context": jnp.zeros(FEATURES), "inner_params": "context|head"}}.get(name, {})
    if name == "proto_maml":  # which adds the head itself, from labels
        return LEARNERS[name]()
    if name not in ("meta_sgd", "maml_plus_plus"):
        chosen["inner_optimizer"] = optax.sgd(0.05)
    return getattr(fsj, name)(float_loss_fn, **chosen, **extra)


def float_problem():
    episodes = make_episodes()
    rng = np.random.default_rng(3)
    side = lambda batch: {"x": batch["x"], "target": rng.normal(size=(*batch["label"].shape, WAYS))}  # noqa: E731
    head = {"kernel": jnp.asarray(rng.normal(size=(FEATURES, WAYS))), "bias": jnp.asarray(rng.normal(size=WAYS))}
    params = {**make_params(), "head": head, "shift": jnp.asarray(rng.normal(size=FEATURES)), "alone": jnp.zeros(2)}
    return params, fsj.Episode(*map(side, episodes))


def learners_of_float_batches():
    """Every learner; those with labels keep their batches, the others get floats alone. MAML twice."""
    for name, build in LEARNERS.items():
        if name in WITH_A_LOOP and name != "proto_maml":
            yield pytest.param(lambda name=name: (float_learner(name), *float_problem()), id=name)
        else:
            yield pytest.param(lambda build=build: (build(), make_params(), make_episodes()), id=name)
    shared = lambda: (float_learner("maml", share_first_step=True), *float_problem())  # noqa: E731
    yield pytest.param(shared, id="maml, first step shared")


@pytest.mark.parametrize("problem", list(learners_of_float_batches()))
def test_vmap_of_loss_has_the_gradient_of_a_loop_over_tasks(float64, problem):
    """A user's own `vmap`, with one key for all tasks and with one for each: values and meta-gradients."""
    learner, params, episodes = problem()
    meta_params = learner.init(params, jax.random.key(0))
    one_task = jax.jit(jax.value_and_grad(lambda p, episode, key: learner.loss(p, episode, key)[0]))

    @functools.partial(jax.jit, static_argnums=1)
    def of_vmap(keys, axis):
        mean = lambda p: jax.vmap(lambda e, k: learner.loss(p, e, k)[0], in_axes=(0, axis))(episodes, keys).mean()  # noqa: E731
        return jax.value_and_grad(mean)(meta_params)

    for keys, axis in ((jax.random.key(1), None), (jax.random.split(jax.random.key(1), TASKS), 0)):
        key_of = lambda task, keys=keys, axis=axis: keys if axis is None else keys[task]  # noqa: E731
        loop = [one_task(meta_params, one(episodes, task), key_of(task)) for task in range(TASKS)]
        close(of_vmap(keys, axis), jax.tree.map(lambda *leaves: np.mean(leaves, 0), *loop))


@every_learner
def test_frozen_features_are_features_computed_beforehand(float64, name):
    learner = LEARNERS[name]()
    mixing = np.random.default_rng(2).normal(size=(INPUTS, INPUTS))
    meta_params, episodes, rng = learner.init(make_params(), jax.random.key(0)), make_episodes(), jax.random.key(1)
    mixed = fsj.Episode(*({**side, "x": side["x"] @ mixing} for side in episodes))

    def everything(episodes, **frozen):
        support, query = one(episodes)
        adapted = learner.adapt(meta_params, support, rng, **frozen)
        return learner.grad(meta_params, episodes, rng, **frozen), learner.predict(adapted, query, rng, **frozen)

    close(jax.jit(everything)(episodes, frozen=mixing), jax.jit(everything)(mixed))


@every_learner
def test_an_outer_step_changes_no_type_so_that_the_next_is_not_compiled_again(name):
    """Weak types included; half-precision parameters, whose losses are float32 all the same."""
    learner = LEARNERS[name]()
    halved = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), make_params())
    meta_params = learner.init(halved, jax.random.key(0))

    def step(meta_params, episodes, progress):
        grads, metrics = learner.grad(meta_params, episodes, jax.random.key(1), progress=progress)
        return jax.tree.map(lambda p, g: p - jnp.asarray(0.1, p.dtype) * g, meta_params, grads), metrics["task_loss"]

    stepped, losses = jax.eval_shape(step, meta_params, make_episodes(), 0.5)
    kinds = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)  # noqa: E731
    assert kinds(stepped) == kinds(meta_params)
    assert losses.dtype == jnp.float32


@pytest.mark.parametrize("name", WITH_A_LOOP)
def test_more_steps_at_test_time_than_in_training_fit_the_support_set_better(float64, name):
    learner = LEARNERS[name]()
    meta_params, support = learner.init(make_params(), jax.random.key(0)), one(make_episodes()).support

    @jax.jit
    def support_losses(meta_params):
        after = [learner.adapt(meta_params, support, jax.random.key(2), inner_steps=steps) for steps in (0, 2, 10)]
        after.append(learner.adapt(meta_params, support, jax.random.key(2)))
        return [loss_fn(adapted, support, None)[0] for adapted in after]

    losses = support_losses(meta_params)
    assert losses[0] > losses[1] > losses[2]
    assert losses[1] == losses[3]
    loss_of_seven = functools.partial(learner.loss, inner_steps=7)
    _, aux = jax.eval_shape(loss_of_seven, meta_params, one(make_episodes()), jax.random.key(2))
    assert aux["support_loss"].shape == (7,)


@pytest.mark.parametrize("name", [name for name in LEARNERS if name not in WITH_A_LOOP])
def test_learners_without_a_loop_refuse_what_only_a_loop_has(name):
    learner = LEARNERS[name]()
    with pytest.raises(ValueError, match=f"{name} has no inner loop: inner_steps"):
        learner.adapt(learner.init(make_params(), None), one(make_episodes()).support, None, inner_steps=3)

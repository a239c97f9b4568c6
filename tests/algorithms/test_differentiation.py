"""Every way to differentiate the inner loop gives the same meta-gradient, and keeps what it says it keeps.

The oracle is plain reverse over reverse, which is itself held against closed forms,
finite differences and torch in test_maml_exact.
"""

import functools
from dataclasses import replace
from typing import get_args

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import fewshot_jax as fsj
from fewshot_jax import block_policy
from fewshot_jax.algorithms import differentiation
from fewshot_jax.algorithms.custom_rules import custom_rules
from fewshot_jax.algorithms.differentiation import Keep, inner_gradient, scan_steps
from fewshot_jax.block_policy import blocks_keep
from fewshot_jax.models.language_head import HeadShape
from fewshot_jax.models.layers import BlockShape
from fewshot_jax.models.mlp import MLP
from fewshot_jax.models.stack import StackShape
from fewshot_jax.models.transformer import ModelShape, Transformer

EXACT_TO = {"float64": 1e-10, "float32": 2e-5}  # relative, in norm
TASKS, ITEMS, LENGTH, VOCABULARY = 3, 4, 5, 11
STACK = StackShape(
    block=BlockShape(width=8, heads=2, mlp_width=12),
    layers=2,
    max_length=LENGTH,
    embedding_deviation=1.0,
    final_norm=True,
)
ENCODER = Transformer(ModelShape(vocab_size=VOCABULARY, encoder=STACK))
HEAD = HeadShape(kind="causal_lm", tied=False, bias=False)
DECODER = Transformer(ModelShape(vocab_size=VOCABULARY, decoder=replace(STACK, causal=True), head=HEAD))
OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.05, momentum=0.9),
    "adam": optax.adam(0.01, eps_root=1e-8),
}


def cross_entropy(logits, label):
    return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()


def mlp_loss(params, batch, rng):
    return cross_entropy(MLP((6, 3), jnp.tanh).apply({"params": params}, batch["x"]), batch["label"]), {}


def dtype_of(params):
    return jax.tree.leaves(params)[0].dtype  # the modules compute in float32 unless told otherwise


def applied(module, params, batch):
    return module.clone(dtype=dtype_of(params)).apply({"params": params}, batch["ids"], batch["ids"] > 0)


def encoder_loss(params, batch, rng):
    hidden = applied(ENCODER, params, batch).last_hidden_state
    return cross_entropy(hidden.mean(1)[:, :3], batch["label"]), {}


def decoder_loss(params, batch, rng):
    logits = applied(DECODER, params, batch).logits
    return cross_entropy(logits[:, :-1], batch["ids"][:, 1:]), {}


LOSSES = {"mlp": mlp_loss, "encoder": encoder_loss, "decoder": decoder_loss}


@functools.cache
def problem(name, dtype, tasks=TASKS, seed=0):
    """Parameters of a model and a meta-batch for it."""
    rng = np.random.default_rng(seed)
    module = {"mlp": MLP((6, 3)), "encoder": ENCODER, "decoder": DECODER}[name]
    ids = jnp.ones((1, 2), jnp.int32)
    arguments = (jnp.ones((1, 4)),) if name == "mlp" else (ids, ids > 0)
    params = jax.tree.map(lambda x: x.astype(dtype), jax.jit(module.init)(jax.random.key(0), *arguments)["params"])

    def side():
        return {
            "x": rng.normal(size=(tasks, ITEMS, 4)).astype(dtype),
            "ids": rng.integers(1, VOCABULARY, (tasks, ITEMS, LENGTH)),
            "label": rng.integers(0, 3, (tasks, ITEMS)),
        }

    return {"params": params}, fsj.Episode(side(), side())


def meta_gradient(loss_fn, meta_params, episodes, **keywords):
    learner = fsj.maml(loss_fn, **keywords)
    grads, metrics = jax.jit(learner.grad)(meta_params, episodes, jax.random.key(1))
    return raveled(grads), metrics


def raveled(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def distance(given, expected):
    return float(np.linalg.norm(given - expected) / np.linalg.norm(expected))


STRATEGIES = [
    {"gradient": "mixed", "keep": "all", "keep_blocks": "all"},
    {"gradient": "mixed", "keep": "gradients", "task_chunk": 2},
    {"gradient": "mixed", "keep": "carry", "keep_blocks": "boundary"},
    {"gradient": "mixed", "keep": "sqrt", "share_first_step": True},
    {"gradient": "mixed", "keep": "gradients", "keep_blocks": "matmul", "task_chunk": 1, "share_first_step": True},
    {"gradient": "reverse", "keep": "gradients", "keep_blocks": "matmul"},
    {"gradient": "reverse", "keep": "sqrt", "task_chunk": 2},
]
CASES = [  # model, inner optimizer, steps: each value of each, and the stateful optimizer with the deepest model
    ("mlp", "sgd", 1),
    ("mlp", "momentum", 10),
    ("mlp", "adam", 5),
    ("encoder", "adam", 4),
    ("decoder", "momentum", 5),
]
OF_MODELS = {  # their programs are large, and they share their blocks: each strategy with one of them
    "mlp": STRATEGIES,
    "encoder": [STRATEGIES[0], STRATEGIES[2], STRATEGIES[4], STRATEGIES[5]],
    "decoder": [STRATEGIES[1], STRATEGIES[3], STRATEGIES[4], STRATEGIES[6]],
}


@functools.cache
def reference(model, optimizer, steps, precision):
    meta_params, episodes = problem(model, jnp.dtype(precision))
    keywords = {"inner_optimizer": OPTIMIZERS[optimizer], "inner_steps": steps}
    return meta_gradient(LOSSES[model], meta_params, episodes, gradient="reverse", keep="all", **keywords)


def check_strategy(model, optimizer, steps, strategy, precision):
    meta_params, episodes = problem(model, jnp.dtype(precision))
    given, metrics = meta_gradient(
        LOSSES[model],
        meta_params,
        episodes,
        inner_optimizer=OPTIMIZERS[optimizer],
        inner_steps=steps,
        **strategy,
    )
    expected, expected_metrics = reference(model, optimizer, steps, precision)
    assert distance(given, expected) <= EXACT_TO[precision]
    np.testing.assert_allclose(metrics["support_loss"], expected_metrics["support_loss"], rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "optimizer", "steps", "strategy"),
    [
        pytest.param(*case, strategy, id="-".join(map(str, [*case, *strategy.values()])))
        for case in CASES
        for strategy in OF_MODELS[case[0]]
    ],
)
def test_strategies_agree_in_double_precision(float64, model, optimizer, steps, strategy):
    check_strategy(model, optimizer, steps, strategy, "float64")


@pytest.mark.parametrize(
    ("model", "optimizer", "steps", "strategy"),
    [(*CASES[2], STRATEGIES[1]), (*CASES[2], STRATEGIES[5]), (*CASES[4], STRATEGIES[1])],
    ids=["mlp-mixed", "mlp-reverse", "decoder-mixed"],
)
def test_strategies_agree_in_single_precision(model, optimizer, steps, strategy):
    check_strategy(model, optimizer, steps, strategy, "float32")


@hypothesis.settings(max_examples=12, deadline=None, derandomize=True)
@hypothesis.given(
    tasks=st.integers(1, 5),
    items=st.integers(1, 4),
    width=st.integers(1, 5),
    steps=st.integers(0, 7),
    chunk=st.one_of(st.none(), st.integers(1, 5)),
    keep=st.sampled_from(get_args(Keep)),
    share=st.booleans(),
)
def test_strategies_agree_for_any_shape(enable_x64, tasks, items, width, steps, chunk, keep, share):
    def loss_fn(params, batch, rng):
        error = jnp.tanh(batch["x"] @ params["w"]) @ params["v"] - batch["y"]
        return jnp.mean(error**2), {}

    with enable_x64(True):
        rng = np.random.default_rng(0)
        make = lambda *shape: rng.normal(size=shape)  # noqa: E731
        side = lambda: {"x": make(tasks, items, width), "y": make(tasks, items)}  # noqa: E731
        meta_params, episodes = {"params": {"w": make(width, 3), "v": make(3)}}, fsj.Episode(side(), side())
        common = {"inner_optimizer": OPTIMIZERS["adam"], "inner_steps": steps}
        expected, _ = meta_gradient(loss_fn, meta_params, episodes, gradient="reverse", keep="all", **common)
        given, metrics = meta_gradient(
            loss_fn,
            meta_params,
            episodes,
            gradient="mixed",
            keep=keep,
            share_first_step=share,
            task_chunk=chunk,
            **common,
        )
        assert metrics["support_loss"].shape == (tasks, steps)
        assert distance(given, expected) <= 1e-10


# The mixed rule itself.


def rule(gradient, objective):
    """A scalar that reads loss, aux and gradient of an objective, to be differentiated in its arguments."""
    value_and_grad = inner_gradient(objective, gradient)

    def read(params, operands, weights):
        (loss, aux), grads = value_and_grad(params, operands)
        by_loss, by_aux, by_grads = weights
        aux = aux["hidden"] if "hidden" in aux else jnp.zeros(())
        return by_loss * loss + by_aux * jnp.sum(jnp.sin(aux)) + by_grads * jnp.sum(jnp.cos(ravel_pytree(grads)[0]))

    return read


def objective_of_everything(params, operands):
    """Reads parameters, a learned hyperparameter, soft labels, integers, a flag and a random key."""
    hidden = jnp.tanh(operands["x"] @ params["w"])
    hidden *= jax.random.bernoulli(operands["key"], 0.8, hidden.shape)
    logits = hidden @ params["v"] * jnp.exp(operands["log_temperature"])
    penalty = operands["decay"] * jnp.sum(params["w"] ** 2)
    scale = jnp.where(operands["flag"], 1.0, 2.0) * operands["label"][0]
    return scale * optax.softmax_cross_entropy(logits, operands["soft"]).mean() + penalty, {"hidden": hidden}


def everything():
    rng = np.random.default_rng(0)
    make = lambda *shape: jnp.asarray(rng.normal(size=shape))  # noqa: E731
    params = {"w": make(4, 3), "v": make(3, 2)}
    active = {"x": make(5, 4), "soft": jax.nn.softmax(make(5, 2)), "log_temperature": make(), "decay": jnp.float64(0.3)}
    constant = {"key": jax.random.key(3), "flag": jnp.array(True), "label": jnp.array([2, 1])}
    return params, active, constant


@pytest.mark.parametrize("weights", [(0.0, 0.0, 1.0), (0.7, 0.0, 0.0), (0.0, 0.9, 0.0), (0.7, 0.9, 1.1)])
def test_mixed_rule_has_the_derivative_of_loss_aux_and_gradient_in_every_argument(float64, weights):
    params, active, constant = everything()

    def outer(gradient):
        read = rule(gradient, objective_of_everything)
        return jax.jit(jax.grad(lambda p, a: read(p, {**a, **constant}, weights), argnums=(0, 1)))(params, active)

    given, expected = (raveled(outer(gradient)) for gradient in ("mixed", "reverse"))
    assert np.abs(expected).min() > 0 or weights[2] == 0
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-12 * float(np.abs(expected).max()))


def test_a_learned_hyperparameter_inside_the_inner_objective_gets_its_exact_meta_gradient(float64):
    """Meta-learned weight decay and label smoothing, which adapt nothing themselves."""
    (meta_params, episodes) = problem("mlp", jnp.float64)
    meta_params = {"params": {"model": meta_params["params"], "log_decay": jnp.float64(-1.0)}}

    def loss_fn(params, batch, rng):
        loss, _ = mlp_loss(params["model"], batch, rng)
        return loss + jnp.exp(params["log_decay"]) * optax.tree_utils.tree_norm(params["model"], squared=True), {}

    common = {"inner_optimizer": OPTIMIZERS["momentum"], "inner_steps": 3, "inner_params": "model"}
    given, expected = (
        meta_gradient(loss_fn, meta_params, episodes, gradient=gradient, **common)[0]
        for gradient in ("mixed", "reverse")
    )
    assert distance(given, expected) <= 1e-12


def test_the_gradient_in_the_support_set_is_exact(float64):
    meta_params, episodes = problem("mlp", jnp.float64)
    one = jax.tree.map(lambda leaf: leaf[0], episodes)

    def outer(gradient):
        learner = fsj.maml(mlp_loss, inner_optimizer=OPTIMIZERS["sgd"], inner_steps=3, gradient=gradient)

        def loss(x):
            return learner.loss(meta_params, one._replace(support={**one.support, "x": x}), jax.random.key(0))[0]

        return jax.jit(jax.grad(loss))(one.support["x"])

    expected = outer("reverse")
    assert np.abs(expected).min() > 0
    np.testing.assert_allclose(outer("mixed"), expected, rtol=1e-9, atol=1e-14)


def test_inner_dropout_draws_the_same_mask_in_every_pass(float64):
    meta_params, episodes = problem("mlp", jnp.float64)

    def loss_fn(params, batch, rng):
        x = batch["x"] * jax.random.bernoulli(rng, 0.5, batch["x"].shape)
        return mlp_loss(params, {**batch, "x": x}, rng)

    common = {"inner_optimizer": OPTIMIZERS["adam"], "inner_steps": 4}
    given, expected = (
        meta_gradient(loss_fn, meta_params, episodes, gradient=gradient, **common)[0]
        for gradient in ("mixed", "reverse")
    )
    assert distance(given, expected) <= 1e-10


def test_an_objective_of_the_support_losses_has_its_exact_gradient(float64):
    """As in losses on every inner step: here the cotangent of the inner loss itself is not zero."""
    meta_params, episodes = problem("mlp", jnp.float64)
    one = jax.tree.map(lambda leaf: leaf[0], episodes)

    def outer(gradient):
        learner = fsj.maml(mlp_loss, inner_optimizer=OPTIMIZERS["sgd"], inner_steps=3, gradient=gradient)

        def objective(meta_params):
            loss, aux = learner.loss(meta_params, one, jax.random.key(0))
            return loss + aux["support_loss"] @ jnp.array([0.2, -0.7, 1.3])

        return raveled(jax.jit(jax.grad(objective))(meta_params))

    assert distance(outer("mixed"), outer("reverse")) <= 1e-12


@jax.custom_vjp
def reversal(x):
    """The identity, whose backward pass turns the gradient round."""
    return x


reversal.defvjp(lambda x: (x, None), lambda _, bar: (-bar,))


@jax.custom_jvp
def straight_through(x):
    """Rounding, whose derivative is called one."""
    return jnp.round(x)


straight_through.defjvp(lambda primals, tangents: (jnp.round(primals[0]), tangents[0]))


surrogate = jax.custom_jvp(jax.nn.relu)  # jax's own function with a user's rule
surrogate.defjvps(lambda tangent, out, x: tangent * jax.nn.sigmoid(x))


class Clipped:
    """The rule of a straight-through estimator, in methods."""

    def forward(self, x):
        return jnp.sign(x), x

    def backward(self, x, bar):
        return (jnp.where(jnp.abs(x) < 1, bar, 0),)


sign = jax.custom_vjp(jnp.sign)
sign.defvjp(Clipped().forward, Clipped().backward)


def loss_with(function):
    """A loss that calls a function on its logits."""

    def loss_fn(params, batch, rng):
        logits = jnp.tanh(batch["x"] @ params["w"]) @ params["v"] + function(4 * batch["x"] @ params["w"])
        return cross_entropy(logits, batch["label"]), {}

    return loss_fn


def problem_of_two_layers():
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(4, 3))), "v": jnp.asarray(rng.normal(size=(3, 3)))}
    return {"params": params}, problem("mlp", jnp.float64)[1]


ONE_STEP = {"inner_optimizer": OPTIMIZERS["sgd"], "inner_steps": 1}


@pytest.mark.parametrize(
    "function",
    [
        reversal,
        straight_through,
        jax.jit(reversal),
        jax.checkpoint(reversal),
        lambda x: optax.scale_gradient(x, -1.0),
        surrogate,
        sign,
    ],
    ids=["custom_vjp", "custom_jvp", "jit", "checkpoint", "optax.scale_gradient", "rule of relu", "rule of sign"],
)
def test_auto_is_exact_for_a_rule_that_is_no_derivative(float64, function):
    """The oracle is one step written out, with plain jax.grad through it."""
    loss_fn = loss_with(function)
    meta_params, episodes = problem_of_two_layers()
    step = lambda params, support: jax.tree.map(  # noqa: E731
        lambda p, g: p - 0.1 * g, params, jax.grad(lambda p: loss_fn(p, support, None)[0])(params)
    )

    def by_hand(params):
        losses = [
            loss_fn(step(params, jax.tree.map(lambda x, t=t: x[t], episodes.support)), query, None)[0]
            for t, query in enumerate(jax.tree.map(lambda x, t=t: x[t], episodes.query) for t in range(TASKS))
        ]
        return sum(losses) / TASKS

    expected = raveled(jax.jit(jax.grad(by_hand))(meta_params["params"]))
    for gradient in ("auto", "reverse"):
        found = meta_gradient(loss_fn, meta_params, episodes, gradient=gradient, **ONE_STEP)[0]
        assert distance(found, expected) < 1e-12


def test_an_explicit_mixed_refuses_a_rule_that_may_be_no_derivative(float64):
    meta_params, episodes = problem_of_two_layers()
    with pytest.raises(ValueError, match=r"calls reversal at .*py:\d+, which.*'reverse', or 'auto'"):
        meta_gradient(loss_with(reversal), meta_params, episodes, gradient="mixed", **ONE_STEP)


def test_mixed_is_far_off_for_the_rule_that_it_refuses(float64, monkeypatch):
    """Why it refuses: the mixed rule relies on a symmetric Jacobian."""
    monkeypatch.setattr(differentiation, "refuse_custom_rules", lambda *args: None)
    meta_params, episodes = problem_of_two_layers()
    mixed, reverse = (
        meta_gradient(loss_with(reversal), meta_params, episodes, gradient=gradient, **ONE_STEP)[0]
        for gradient in ("mixed", "reverse")
    )
    assert distance(mixed, reverse) > 0.01


def test_imaml_refuses_a_rule_that_may_be_no_derivative(float64):
    meta_params, episodes = problem_of_two_layers()
    learner = fsj.imaml(loss_with(straight_through), **ONE_STEP)
    with pytest.raises(ValueError, match=r"straight_through at .*the true loss. Use maml with gradient='reverse'"):
        learner.grad(meta_params, episodes, jax.random.key(0))


def stable_functions(x):
    """Functions of jax and optax whose own rules are true derivatives."""
    total = jax.nn.relu(x) + jax.nn.relu6(x) + jnp.logaddexp(x, 1.0) + jax.scipy.special.xlogy(jnp.abs(x), 2.0)
    return total + jnp.sinc(x) + jax.nn.logsumexp(x) + optax.projections.projection_simplex(x) + jax.nn.gelu(x)


def user_gradient(x):
    return jax.custom_gradient(lambda x: (jnp.round(x), lambda bar: (bar,)))(x)


def in_a_loop(x):
    return jax.lax.scan(lambda carry, _: (reversal(carry), None), x, None, length=2)[0]


def in_a_branch(x):
    return jax.lax.cond(x[0] > 0, reversal, straight_through, x)


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (stable_functions, []),
        (reversal, ["reversal"]),
        (in_a_loop, ["reversal"]),
        (in_a_branch, ["reversal", "straight_through"]),
        (jax.vmap(reversal), ["reversal"]),
        (surrogate, ["relu"]),
        (sign, ["sign"]),
        (lambda x: x + jax.lax.stop_gradient(jnp.round(x) - x), []),
    ],
)
def test_custom_rules_finds_those_of_users_and_not_those_of_jax(function, names):
    assert [found.split(" at ")[0] for found in custom_rules(function, jnp.ones(3))] == names


def test_custom_rules_finds_a_custom_gradient_though_its_rule_stands_in_a_file_of_jax():
    assert len(custom_rules(user_gradient, jnp.ones(3))) == 1


def test_parameters_in_bfloat16_under_a_loss_in_float32():
    meta_params, episodes = problem("mlp", jnp.bfloat16)

    def loss_fn(params, batch, rng):
        logits = MLP((6, 3), jnp.tanh).apply({"params": params}, batch["x"])
        return cross_entropy(logits.astype(jnp.float32), batch["label"]), {}

    def outer(gradient):
        learner = fsj.maml(loss_fn, inner_optimizer=OPTIMIZERS["sgd"], inner_steps=2, gradient=gradient)

        def objective(meta_params):  # with the support losses, so that both parts of the rule are added
            loss, aux = learner.loss(meta_params, jax.tree.map(lambda x: x[0], episodes), jax.random.key(0))
            return loss + aux["support_loss"].sum()

        grads = jax.jit(jax.grad(objective))(meta_params)
        assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype(jnp.bfloat16)}
        return raveled(grads).astype(np.float32)

    assert distance(outer("mixed"), outer("reverse")) < 0.02  # eight bits of mantissa


def test_auto_is_mixed_and_forward_mode_is_reverses_alone():
    meta_params, episodes = problem("mlp", jnp.float32)

    def learner(gradient):
        return fsj.maml(mlp_loss, inner_optimizer=OPTIMIZERS["sgd"], inner_steps=2, gradient=gradient)

    programs = {
        gradient: jax.jit(learner(gradient).grad).lower(meta_params, episodes, jax.random.key(0)).as_text()
        for gradient in ("auto", "mixed", "reverse")
    }
    assert programs["auto"] == programs["mixed"] != programs["reverse"]

    one = jax.tree.map(lambda leaf: leaf[0], episodes)

    def tangent(gradient):
        loss = lambda meta_params: learner(gradient).loss(meta_params, one, jax.random.key(0))[0]  # noqa: E731
        return jax.jit(lambda meta_params: jax.jvp(loss, (meta_params,), (meta_params,))[1])(meta_params)

    grads = jax.jit(jax.grad(lambda m: learner("reverse").loss(m, one, jax.random.key(0))[0]))(meta_params)
    np.testing.assert_allclose(tangent("reverse"), raveled(grads) @ raveled(meta_params), rtol=1e-4)
    with pytest.raises(TypeError, match="forward-mode"):
        tangent("mixed")


# What is kept.


def temporary_bytes(loss_fn, meta_params, episodes, **keywords):
    learner = fsj.maml(loss_fn, **keywords)
    compiled = jax.jit(learner.grad).lower(meta_params, episodes, jax.random.key(1)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def wide_problem():
    """One task whose activations outweigh its parameters: 32 x 32 weights, 1,000 items."""
    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.normal(size=(32, 32)) / 6, jnp.float32) for _ in range(3)]
    make = lambda: {"x": jnp.asarray(rng.normal(size=(1, 1000, 32)), jnp.float32)}  # noqa: E731

    def loss_fn(params, batch, rng):
        x = batch["x"]
        for kernel in params:
            x = jnp.tanh(x @ kernel)
        return jnp.mean(x**2), {}

    return loss_fn, {"params": params}, fsj.Episode(make(), make()), 3 * 32 * 32 * 4


@pytest.mark.parametrize(("optimizer", "carried"), [("sgd", 1), ("adam", 4)])
def test_memory_grows_with_the_steps_by_what_is_carried_and_no_more(optimizer, carried):
    """Parameters alone for SGD; for Adam its two moments and the saved gradient as well."""
    loss_fn, meta_params, episodes, size = wide_problem()
    measure = lambda **keywords: temporary_bytes(  # noqa: E731
        loss_fn, meta_params, episodes, inner_optimizer=OPTIMIZERS[optimizer], **keywords
    )
    mixed = measure(gradient="mixed", inner_steps=12) - measure(gradient="mixed", inner_steps=4)
    assert mixed <= 8 * carried * size * 1.05
    plain = measure(gradient="reverse", inner_steps=12) - measure(gradient="reverse", inner_steps=4)
    assert plain > 20 * mixed / carried


def test_the_square_root_schedule_keeps_less_than_every_step():
    # Parameters that outweigh activations, where the carried steps are what costs.
    loss_fn, meta_params, episodes, size = wide_problem()
    few = jax.tree.map(lambda leaf: leaf[:, :8], episodes)
    common = {"inner_optimizer": OPTIMIZERS["sgd"], "inner_steps": 64}
    every, root = (temporary_bytes(loss_fn, meta_params, few, keep=keep, **common) for keep in ("carry", "sqrt"))
    assert every > 64 * size
    assert root < 30 * size


@pytest.mark.parametrize("keep", get_args(Keep))
@pytest.mark.parametrize("length", [0, 1, 3, 4, 11, 16])
@pytest.mark.parametrize("share_first", [False, True])
def test_steps_are_taken_in_order_whatever_is_kept(keep, length, share_first):
    step = lambda carry, i: (3 * carry + i, carry - i)  # noqa: E731
    given = jax.jit(lambda start: scan_steps(step, start, length, keep=keep, share_first=share_first))(jnp.int32(1))
    carry, outputs = 1, []
    for i in range(length):
        carry, output = step(carry, i)
        outputs.append(output)
    jax.tree.map(np.testing.assert_array_equal, given, (carry, np.array(outputs, int)))


def test_the_block_policy_is_part_of_a_cached_trace():
    """A loss function that is jitted itself must not answer with the trace of another policy."""
    meta_params, episodes = problem("encoder", jnp.float32)
    batch = jax.tree.map(lambda leaf: leaf[0], episodes.support)
    cached = jax.jit(encoder_loss)

    def blocks(policy):
        fn = blocks_keep(lambda *args: cached(*args)[0], policy)
        program = str(jax.make_jaxpr(jax.grad(fn))(meta_params["params"], batch, jax.random.key(0)))
        return program.count("remat"), program.count("dot_general")

    (remats, products), boundary, matmul = blocks("all"), blocks("boundary"), blocks("matmul")
    assert boundary[0] > remats
    assert matmul[0] > remats
    assert boundary[1] > max(products, matmul[1])  # matrix products are computed again, or kept
    assert blocks("all") == (remats, products)
    assert block_policy.current_policy() is None


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"keep": "some"}, "keep='some' is not one of 'all', 'gradients', 'carry', 'sqrt'"),
        ({"keep_blocks": "none"}, "keep_blocks='none' is not one of"),
        ({"gradient": "forward"}, "gradient='forward' is not one of"),
    ],
)
def test_an_unknown_choice_is_refused_when_the_learner_is_built(keywords, message):
    with pytest.raises(ValueError, match=message):
        fsj.maml(mlp_loss, **keywords)


@pytest.mark.parametrize("share_first_step", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_gradient_that_no_tasks_data_enters_counts_once_for_each_task(float64, steps, share_first_step):
    """The gradient of the penalty ``w . v`` in v is w, one array for all tasks at the first step."""

    def loss_fn(params, batch, rng):
        return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2) + params["w"] @ params["v"], {}

    generator = np.random.default_rng(0)

    def side():
        return {"x": generator.normal(size=(3, 5, 4)), "y": generator.normal(size=(3, 5))}

    episodes = fsj.Episode(side(), side())
    params = {name: jnp.asarray(generator.normal(size=4)) for name in ("w", "v")}
    keywords = {"inner_optimizer": optax.sgd(0.1), "inner_steps": steps, "share_first_step": share_first_step}

    def alone(task):
        """The oracle: one task at a time, nothing vmapped."""
        return grad_of_one(params, jax.tree.map(lambda leaf: leaf[task], episodes))

    learner = fsj.maml(loss_fn, gradient="reverse", **keywords)
    grad_of_one = jax.jit(jax.grad(lambda p, episode: learner.loss({"params": p}, episode, jax.random.key(0))[0]))
    expected = jax.tree.map(lambda *leaves: sum(leaves) / 3, *map(alone, range(3)))
    grads, _ = jax.jit(fsj.maml(loss_fn, **keywords).grad)({"params": params}, episodes, jax.random.key(0))
    for name in ("w", "v"):
        np.testing.assert_allclose(grads["params"][name], expected[name], rtol=1e-10)

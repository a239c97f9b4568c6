"""Losses and meta-gradients of MAML's relatives and the metric learners against torch autograd.

The numbers are those of `make_torch_fixture`, where each learner is written out by hand from its paper. MAML's own
are in `test_maml_exact`.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fewshot_jax as fsj

FIXTURE = json.loads(Path(__file__).with_name("torch_fixture.json").read_text())
HEAD = r"^(w2|b2)$"
EXTRAS = ("log_penalty", "log_scale")


def embed_fn(params, batch, rng):
    shift = params["b1"] + params["context"] @ params["mix"] if "context" in params else params["b1"]
    return jnp.tanh(batch["x"] @ params["w1"] + shift[None])


def loss_fn(params, batch, rng):
    head = params.get("head", {"kernel": params.get("w2"), "bias": params.get("b2")})
    logits = embed_fn(params, batch, rng) @ head["kernel"] + head["bias"][None]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), {}


def loop(options):
    """The keywords of an inner loop whose rate is fixed."""
    return {"inner_optimizer": optax.sgd(options["rate"]), "inner_steps": options["steps"]}


def maml_plus_plus(options):
    # The losses after all steps have weight 1/4, 1/4, 1/2 where a quarter of the annealing is done.
    return fsj.maml_plus_plus(
        loss_fn,
        inner_steps=options["steps"],
        multi_step_share=0.4,
        first_order_share=0.0 if options["second_order"] else 0.2,
    )


LEARNERS = {
    "meta_sgd": lambda o: fsj.meta_sgd(loss_fn, inner_steps=o["steps"]),
    "anil": lambda o: fsj.anil(loss_fn, head=HEAD, **loop(o)),
    "boil": lambda o: fsj.boil(loss_fn, head=HEAD, **loop(o)),
    "maml_plus_plus": maml_plus_plus,
    "maml_plus_plus_first_order": maml_plus_plus,
    "cavia": lambda o: fsj.cavia(loss_fn, context=jnp.zeros(o["context"]), **loop(o)),
    "proto_maml": lambda o: fsj.proto_maml(loss_fn, embed_fn=embed_fn, ways=3, **loop(o)),
    "protonet": lambda o: fsj.protonet(embed_fn, ways=3),
    "matching_network": lambda o: fsj.matching_network(embed_fn, ways=3, temperature=o["temperature"]),
    "r2d2": lambda o: fsj.r2d2(embed_fn, ways=3),
    "imaml": lambda o: fsj.imaml(loss_fn, proximal=o["proximal"], cg_steps=60, **loop(o)),
    "reptile": lambda o: fsj.reptile(loss_fn, **loop(o)),
}


def nested(flat):
    """Meta-parameters, from torch's names: ``w1``, ``rate/w1``, ``log_scale``."""
    rates = {name.removeprefix("rate/"): leaf for name, leaf in flat.items() if name.startswith("rate/")}
    extras = {name: leaf for name, leaf in flat.items() if name in EXTRAS}
    params = {name: leaf for name, leaf in flat.items() if name not in EXTRAS and not name.startswith("rate/")}
    return {"params": params, **({"inner_rates": rates} if rates else {}), **extras}


def test_every_learner_with_a_gradient_of_its_own_is_there():
    assert LEARNERS.keys() == FIXTURE["learners"].keys()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
@pytest.mark.parametrize("name", LEARNERS)
def test_losses_and_meta_gradient_equal_torch_autograd(request, name, dtype, tolerance):
    if dtype == "float64":
        request.getfixturevalue("float64")
    expected = FIXTURE["learners"][name]
    values = {**FIXTURE["params"], **expected["more"]}
    meta_params = nested({leaf: jnp.asarray(np.array(values[leaf]), dtype) for leaf in expected["grads"]})
    support, query = (
        {"x": jnp.asarray(np.array(side["x"]), dtype), "label": jnp.asarray(np.array(side["label"]), jnp.int32)}
        for side in (FIXTURE["support"], FIXTURE["query"])
    )
    learner = LEARNERS[name](expected["options"])
    built = learner.init(meta_params["params"], jax.random.key(0))
    assert jax.tree.map(jnp.shape, built) == jax.tree.map(jnp.shape, meta_params)
    episodes = fsj.Episode(support, query)
    grads, metrics = jax.jit(learner.grad)(meta_params, episodes, jax.random.key(1), progress=0.1)

    assert {leaf.dtype.name for leaf in jax.tree.leaves(grads)} == {dtype}
    given, torch = jax.tree.map(np.asarray, grads), nested({k: np.array(v) for k, v in expected["grads"].items()})
    for part, leaves in torch.items():  # parameters and rates differ in size: each to its own scale
        largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(leaves))
        jax.tree.map(
            lambda a, b, part=part, atol=tolerance * largest: np.testing.assert_allclose(a, b, 0, atol, err_msg=part),
            given[part],
            leaves,
        )
    for key in ("loss", "task_loss", "support_loss"):
        if key in expected:
            np.testing.assert_allclose(metrics[key], expected[key], rtol=tolerance, atol=0, err_msg=key)

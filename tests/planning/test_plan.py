"""The plan: what fits, what is fastest, what is said about it."""

import functools
import os
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fewshot_jax as fsj
from fewshot_jax.planning.matmul_cost import matmul_flops
from fewshot_jax.planning.plan import STRATEGIES, NothingFits, Strategy, free_memory

SIZE, ITEMS, TASKS, STEPS = 16, 500, 4, 6


def loss_fn(params, batch, rng):
    x = batch["x"]
    for kernel in params:
        x = jnp.tanh(x @ kernel)
    return jnp.mean(x**2), {}


def problem():
    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.normal(size=(SIZE, SIZE)) / 4, jnp.float32) for _ in range(2)]
    make = lambda: {"x": jnp.asarray(rng.normal(size=(TASKS, ITEMS, SIZE)), jnp.float32)}  # noqa: E731
    return {"params": params}, fsj.Episode(make(), make())


BUILD = functools.partial(fsj.maml, loss_fn, inner_optimizer=optax.sgd(0.1), inner_steps=STEPS)


def test_a_plan_fits_its_budget_and_gives_the_same_meta_gradient():
    meta_params, episodes = problem()
    plenty = fsj.plan(BUILD, meta_params, episodes, order="operations")
    largest = max(one.memory for one in plenty.candidates)
    tight = fsj.plan(BUILD, meta_params, episodes, order="operations", memory_budget=largest // 4)
    assert plenty.strategy.gradient == "reverse"  # the fewest operations
    assert tight.strategy != plenty.strategy
    chosen = [one for one in tight.candidates if one.verdict == "chosen"]
    assert [one.strategy for one in chosen] == [tight.strategy]
    assert chosen[0].memory <= largest // 4
    assert any(one.verdict == "too large" and one.memory > largest // 4 for one in tight.candidates)
    first, second = (
        BUILD(**plan.strategy._asdict()).grad(meta_params, episodes, jax.random.key(0))[0] for plan in (plenty, tight)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7), first, second)


def test_a_plan_for_a_loss_with_a_custom_rule_has_no_mixed_mode_and_still_fits_less_memory():
    @jax.custom_vjp
    def rounded(x):
        return jnp.round(x)

    rounded.defvjp(lambda x: (jnp.round(x), None), lambda _, bar: (bar,))
    meta_params, episodes = problem()
    build = functools.partial(BUILD.func, lambda *args: loss_fn(args[0], {"x": rounded(args[1]["x"])}, args[2]))
    build = functools.partial(build, **BUILD.keywords)
    plenty = fsj.plan(build, meta_params, episodes, order="operations")
    assert {one.strategy.gradient for one in plenty.candidates} == {"reverse"}
    assert len({one.strategy for one in plenty.candidates}) == len(plenty.candidates)
    largest = max(one.memory for one in plenty.candidates)
    assert min(one.memory for one in plenty.candidates) < largest / 2


def test_a_timed_plan_takes_the_fastest_of_those_that_ran():
    meta_params, episodes = problem()
    said = []
    plan = fsj.plan(BUILD, meta_params, episodes, strategies=STRATEGIES[:2], report=said.append)
    seconds = {one.strategy: one.seconds for one in plan.candidates}
    assert plan.strategy == min(seconds, key=seconds.get)
    assert said == [str(plan)]
    assert "chosen" in said[0]
    assert said[0].splitlines()[0].split()[:4] == ["gradient", "keep", "keep_blocks", "task_chunk"]


def test_a_candidate_that_runs_out_of_memory_gives_way_to_the_next():
    """XLA asks for more than the machine has; the budget does not hold it back."""
    meta_params, episodes = problem()

    def greedy(params, batch, rng):
        huge = jnp.broadcast_to(params[0][0, 0], (2**22, 2**22))
        return jnp.sort(huge)[0, 0] + loss_fn(params, batch, rng)[0], {}

    def build(**strategy):
        return BUILD(**strategy) if strategy["gradient"] == "mixed" else fsj.maml(greedy, inner_steps=1, **strategy)

    said = []
    strategies = (Strategy("reverse", "all", "all", 4), Strategy("mixed", "gradients", "all", 4))
    plan = fsj.plan(build, meta_params, episodes, memory_budget=2**62, strategies=strategies, report=said.append)
    assert plan.strategy == strategies[1]
    assert plan.candidates[0].verdict == "out of memory"
    assert "ran out of memory" in said[0]


def test_where_nothing_fits_the_message_has_the_table_and_the_remedy():
    meta_params, episodes = problem()
    with pytest.raises(NothingFits, match=r"no strategy fits into 0 MiB:(?s:.*)too large(?s:.*)Raise the budget"):
        fsj.plan(BUILD, meta_params, episodes, memory_budget=1000, strategies=STRATEGIES[:1])


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"order": "speed"}, "order='speed' is not one of"),
        ({"strategies": ()}, "strategies is empty"),
        ({"memory_budget": -5}, "not a positive number of bytes"),
    ],
)
def test_arguments_out_of_range_are_refused_before_anything_is_compiled(keywords, message):
    with pytest.raises(ValueError, match=message):
        fsj.plan(None, *problem(), **keywords)


def test_inside_jit_it_says_so():
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(lambda *args: fsj.plan(BUILD, *args))(*problem())


def test_the_free_memory_is_some_of_the_machines():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free_memory() <= 0.8 * total


def test_products_inside_loops_count_as_often_as_they_run():
    def loop(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=7)[0] @ w

    x, w = jnp.ones((5, 16)), jnp.ones((16, 16))
    assert matmul_flops(jax.jit(loop).lower(x, w).compile().as_text()) == 2 * 5 * 16 * 16 * 8
    batched = jax.jit(lambda x, w: jnp.einsum("bij,bjk->bik", x, w)).lower(jnp.ones((3, 4, 8)), jnp.ones((3, 8, 2)))
    assert matmul_flops(batched.compile().as_text()) == 2 * 3 * 4 * 8 * 2


def test_what_cannot_be_counted_is_refused():
    convolve = jax.jit(lambda x, w: jax.lax.conv(x, w, (1, 1), "SAME"))
    with pytest.raises(ValueError, match="convolutions"):
        matmul_flops(convolve.lower(jnp.ones((1, 3, 8, 8)), jnp.ones((4, 3, 3, 3))).compile().as_text())
    loop = lambda x: jax.lax.while_loop(lambda x: x.sum() < 100, lambda x: x @ x, x)  # noqa: E731
    with pytest.raises(ValueError, match="unknown length"):
        matmul_flops(jax.jit(loop).lower(jnp.ones((4, 4))).compile().as_text())


def test_the_library_calls_of_a_gpu_count_as_products():
    hlo = textwrap.dedent("""\
        HloModule jit_f
        ENTRY %main.4 (x.1: f32[32,64], w.1: f32[64,16]) -> f32[32,16] {
          %x.1 = f32[32,64]{1,0} parameter(0)
          %w.1 = f32[64,16]{1,0} parameter(1)
          %custom-call.1.0 = (f32[32,16]{1,0}, s8[4194304]{0}) custom-call(%x.1, %w.1), \
custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":\
{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
          ROOT %get-tuple-element = f32[32,16]{1,0} get-tuple-element(%custom-call.1.0), index=0
        }
        """)
    assert matmul_flops(hlo) == 2 * 32 * 64 * 16

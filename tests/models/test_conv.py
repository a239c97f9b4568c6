"""The conv-4 backbone: its layers are the papers', padded images are invisible, second derivatives are exact."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fewshot_jax as fsj
from fewshot_jax.models.conv import ConvFeatures, convolve

WAYS = 3
DOWNSAMPLES = pytest.mark.parametrize("downsample", ["stride", "max_pool"])
NORMS = pytest.mark.parametrize("norm", ["batch", "layer", "group", None])


def make(downsample="stride", norm="batch", **keywords):
    return ConvFeatures(**{"width": 8, "layers": 2, "groups": 4, **keywords}, downsample=downsample, norm=norm)


def pictures(*shape, seed=0):
    return np.random.default_rng(seed).normal(0.3, 1, shape)


def init(module, images, dtype=np.float32):
    """Parameters in which no scale or bias keeps its initial one or zero."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.1, 0.4, leaf.shape), dtype), shapes)


def run(module, params, images, mask=None):
    return jax.jit(module.apply)({"params": params}, images, mask)


def task_loss(module):
    """A linear classifier on the features; a loss in the form that learners take."""

    def loss_fn(params, batch, rng):
        features = module.apply({"params": params["body"]}, batch["image"])
        losses = optax.softmax_cross_entropy_with_integer_labels(features @ params["head"], batch["label"])
        return losses.mean(), {}

    return loss_fn


def meta_problem(module, tasks=2, items=4, size=8, dtype=np.float64):
    """Parameters of the network with a head, and episodes of a few random images."""
    make_batch = lambda seed: {  # noqa: E731
        "image": jnp.asarray(pictures(tasks, items, size, size, seed=seed), dtype),
        "label": jnp.asarray(np.random.default_rng(seed).integers(0, WAYS, (tasks, items))),
    }
    body = init(module, jnp.zeros((items, size, size), dtype), dtype)
    head = jnp.asarray(pictures(module.features(size, size), WAYS), dtype)
    return {"body": body, "head": head}, fsj.Episode(make_batch(2), make_batch(3))


def torch_features(torch, params, images, downsample, norm, groups, layers):
    """The same network in torch, channels first; ``params`` are tensors named as here."""
    functional = torch.nn.functional
    x = images.movedim(-1, 1)
    for layer in range(layers):
        block = params[f"block_{layer}"]
        stride = 2 if downsample == "stride" else 1
        # TensorFlow's "SAME": with stride 2 an even size is padded at its end only, an odd one at both.
        before = [1 if stride == 1 or length % 2 else 0 for length in (x.shape[3], x.shape[2])]
        x = functional.pad(x, (before[0], 1, before[1], 1))
        x = functional.conv2d(x, block["kernel"].permute(3, 2, 0, 1), block.get("bias"), stride)
        if norm == "batch":
            x = functional.batch_norm(x, None, None, block["norm"]["scale"], block["norm"]["bias"], training=True)
        elif norm is not None:
            parts = 1 if norm == "layer" else groups
            x = functional.group_norm(x, parts, block["norm"]["scale"], block["norm"]["bias"])
        x = functional.relu(x)
        if downsample == "max_pool":
            x = functional.max_pool2d(x, 2)
    return x.mean((2, 3)) if downsample == "stride" else x.movedim(1, -1).flatten(1)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("downsample", "norm", "size"),
    [
        ("stride", "batch", (11, 14)),
        ("stride", "group", (12, 12)),
        ("max_pool", "batch", (12, 12)),
        ("max_pool", "layer", (11, 14)),
        ("max_pool", None, (9, 9)),
    ],
)
def test_features_are_torchs(downsample, norm, size):
    torch = pytest.importorskip("torch")
    module = make(downsample, norm)
    images = jnp.asarray(pictures(5, *size, 2), np.float32)
    params = init(module, images)
    tensors = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf)), params)
    expected = torch_features(torch, tensors, torch.tensor(np.asarray(images)), downsample, norm, 4, 2)
    features = run(module, params, images)
    assert features.shape == (5, module.features(*size))
    np.testing.assert_allclose(features, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parity
@DOWNSAMPLES
@pytest.mark.usefixtures("float64")
def test_the_second_order_meta_gradient_is_torch_autograds(downsample):
    torch = pytest.importorskip("torch")
    module = make(downsample, dtype=jnp.float64)
    params, episodes = meta_problem(module)
    learner = fsj.maml(task_loss(module), inner_optimizer=optax.sgd(0.3), inner_steps=2)
    grads, _ = jax.jit(learner.grad)({"params": params}, episodes, jax.random.key(0))

    leaves, structure = jax.tree.flatten(params)
    start = [torch.tensor(np.asarray(leaf), requires_grad=True) for leaf in leaves]

    def loss(tensors, batch, task):
        tree = jax.tree.unflatten(structure, tensors)
        images = torch.tensor(np.asarray(batch["image"][task]))[..., None]
        features = torch_features(torch, tree["body"], images, downsample, "batch", 4, 2)
        label = torch.tensor(np.asarray(batch["label"][task]))
        return torch.nn.functional.cross_entropy(features @ tree["head"], label)

    total = 0
    for task in range(2):
        adapted = start
        for _ in range(2):
            step = torch.autograd.grad(loss(adapted, episodes.support, task), adapted, create_graph=True)
            adapted = [old - 0.3 * gradient for old, gradient in zip(adapted, step, strict=True)]
        total = total + loss(adapted, episodes.query, task) / 2
    expected = torch.autograd.grad(total, start)
    for ours, theirs in zip(jax.tree.leaves(grads["params"]), expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("downsample", "norm"), [("stride", "batch"), ("max_pool", "layer")])
def test_mixed_and_reverse_meta_gradients_are_the_finite_difference(downsample, norm):
    module = make(downsample, norm, dtype=jnp.float64)
    params, episodes = meta_problem(module)
    direction = jax.tree.map(lambda leaf: jnp.asarray(pictures(*leaf.shape, seed=5)), params)
    key = jax.random.key(0)

    def slope(**options):
        learner = fsj.maml(task_loss(module), inner_optimizer=optax.sgd(0.1), **options)
        grads = jax.jit(learner.grad)({"params": params}, episodes, key)[0]["params"]
        return sum(map(jnp.vdot, jax.tree.leaves(grads), jax.tree.leaves(direction)))

    @jax.jit
    def mean_loss(distance):
        moved = jax.tree.map(lambda leaf, along: leaf + distance * along, params, direction)
        learner = fsj.maml(task_loss(module), inner_optimizer=optax.sgd(0.1))
        losses = jax.vmap(lambda episode: learner.loss({"params": moved}, episode, key)[0])(episodes)
        return losses.mean()

    mixed, reverse = slope(gradient="mixed"), slope(gradient="reverse", task_chunk=1, keep_blocks="matmul")
    np.testing.assert_allclose(mixed, reverse, rtol=1e-11)
    step = 1e-7  # so small because a ReLU or a maximum that turns on the way makes a kink
    np.testing.assert_allclose(mixed, (mean_loss(step) - mean_loss(-step)) / (2 * step), rtol=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(6, 7), (5, 8)])
def test_a_convolution_as_a_matrix_product_is_the_convolution(stride, size):
    images, kernel = jnp.asarray(pictures(2, *size, 3)), jnp.asarray(pictures(3, 3, 3, 4))
    expected = jax.lax.conv_general_dilated(
        images, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(convolve(images, kernel, stride), expected, atol=1e-12)


@NORMS
def test_padded_images_change_nothing_even_if_they_are_not_numbers(norm):
    module = make(norm=norm, layers=1)
    images = pictures(3, 9, 9).astype(np.float32)
    params = init(module, images)
    padded = np.concatenate([images[:2], np.full((2, 9, 9), np.nan, np.float32), images[2:]])
    mask = jnp.array([True, True, False, False, True])
    features = run(module, params, padded, mask)
    np.testing.assert_allclose(features[mask], run(module, params, images), rtol=1e-5, atol=1e-6)

    def loss(params, padded, mask):
        return jnp.where(mask[:, None], module.apply({"params": params}, padded, mask), 0).sum()

    gradient = jax.jit(jax.grad(loss))
    ours, theirs = gradient(params, padded, mask), gradient(params, images, jnp.ones(3, bool))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)


def test_a_batch_of_nothing_but_padding_is_finite():
    module = make(layers=1)
    images = pictures(2, 8, 8).astype(np.float32)
    assert jnp.isfinite(run(module, init(module, images), images, jnp.zeros(2, bool))).all()


@NORMS
def test_only_batch_norm_lets_images_see_one_another(norm):
    module = make(norm=norm)
    images = pictures(3, 8, 8).astype(np.float32)
    params = init(module, images)
    other = np.concatenate([images[:1], 2 * images[1:] - 1])
    difference = jnp.abs(run(module, params, other)[0] - run(module, params, images)[0]).max()
    assert difference > 1e-3 if norm == "batch" else difference < 1e-6


def test_bytes_are_fractions_of_255_and_a_missing_channel_axis_is_one_channel():
    module = make()
    levels = np.random.default_rng(0).integers(0, 256, (3, 8, 8)).astype(np.uint8)
    params = init(module, levels)
    expected = run(module, params, levels.astype(np.float32)[..., None] / 255)
    np.testing.assert_allclose(run(module, params, levels), expected, rtol=1e-5, atol=1e-6)


def test_the_network_of_omniglot_has_the_published_sizes():
    images = np.zeros((2, 28, 28), np.uint8)
    for downsample in ("stride", "max_pool"):
        module = ConvFeatures(downsample=downsample)
        shape, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), images)
        assert shape.shape == (2, 64) and module.features(28, 28) == 64
        # Kernels of 1 and three times 64 channels, scale and bias of each filter (no bias before a norm).
        assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 9 * 64 * (1 + 3 * 64) + 4 * 2 * 64
    assert ConvFeatures(downsample="max_pool").features(84, 84) == 1600


def test_half_precision_computes_in_half_and_keeps_float32_parameters():
    images = pictures(4, 8, 8).astype(np.float32)
    half = make(layers=1, dtype=jnp.bfloat16)
    params = half.init(jax.random.key(0), images)["params"]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    features = run(half, params, images)
    assert features.dtype == jnp.bfloat16
    np.testing.assert_allclose(features.astype(np.float32), run(make(layers=1), params, images), atol=0.1)


@pytest.mark.parametrize(
    ("options", "images", "mask", "message"),
    [
        ({}, np.zeros((2, 8), np.float32), None, r"shape \(2, 8\): expected \[B, H, W\]"),
        ({}, np.zeros((2, 8, 8), np.int32), None, "dtype int32: expected uint8"),
        ({}, np.zeros((2, 8, 8), np.float32), np.ones(3, bool), r"mask has shape \(3,\), expected \(2,\)"),
        ({"downsample": "max_pool", "layers": 4}, np.zeros((2, 8, 28), np.float32), None, "8 x 28 .*at least 16 x 16"),
        ({"norm": "group", "groups": 3}, np.zeros((2, 8, 8), np.float32), None, "8 channels .*groups=3"),
        ({"norm": "instance"}, np.zeros((2, 8, 8), np.float32), None, "norm='instance'"),
        ({"downsample": "mean"}, np.zeros((2, 8, 8), np.float32), None, "downsample='mean'"),
    ],
)
def test_a_mistake_is_named(options, images, mask, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(make(**options).init, jax.random.key(0), images, mask)

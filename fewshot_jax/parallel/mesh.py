"""The mesh: one axis for tasks, one for dividing weights, one for sharing matrix products.

A meta-batch is divided over the axes ``task`` and ``fsdp``; weights over ``fsdp`` and ``tensor`` as `rules` says.
``jit`` with these shardings computes the same mean over tasks as one device does. Over the task axis the only traffic
is one all-reduce of the meta-gradient.
"""

import contextlib
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fewshot_jax.errors import require
from fewshot_jax.types import PyTree

TASK, FSDP, TENSOR = "task", "fsdp", "tensor"


def make_mesh(devices: Sequence[jax.Device] | None = None, *, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh of the axes ``task``, ``fsdp`` and ``tensor``.

    Args:
        devices: by default all.
        fsdp, tensor: sizes of two axes; the third takes the rest.

    Raises:
        UserError: the number of devices is no multiple of the two.
    """
    devices = jax.devices() if devices is None else list(devices)
    require(
        len(devices) % (fsdp * tensor) == 0,
        f"parallel.fsdp={fsdp} times parallel.tensor={tensor} does not divide the {len(devices)} devices",
    )
    shape = (len(devices) // (fsdp * tensor), fsdp, tensor)
    return jax.make_mesh(shape, (TASK, FSDP, TENSOR), axis_types=(AxisType.Auto,) * 3, devices=devices)


def task_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh that has tasks to divide and nothing else."""
    return make_mesh(devices)


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts a meta-batch is divided."""
    return mesh.shape[TASK] * mesh.shape[FSDP]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """How the leading axis of a meta-batch is divided."""
    return NamedSharding(mesh, PartitionSpec((TASK, FSDP)))


def shard_tasks(tree: PyTree, mesh: Mesh) -> PyTree:
    """Put a pytree with a leading task axis on the mesh, split over tasks.

    With several processes each gives the whole tree, the same everywhere, and keeps the part of its own devices.
    """
    return _put(tree, batch_sharding(mesh))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Put a pytree on the mesh, whole on every device."""
    return _put(tree, NamedSharding(mesh, PartitionSpec()))


def shapes_on(tree: PyTree, shardings: PyTree) -> PyTree:
    """Return the shapes and dtypes of a pytree as arrays that are sharded in this way would have them.

    Args:
        tree: of arrays or their shapes.
        shardings: a sharding for each leaf, or one for all.
    """
    if isinstance(shardings, jax.sharding.Sharding):
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings), tree)
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), tree, shardings
    )


def place(tree: PyTree, shardings: PyTree) -> PyTree:
    """Put each leaf of a pytree as a tree of shardings says; each process gives the whole leaf."""
    return jax.tree.map(_put_leaf, tree, shardings)


def _put(tree: PyTree, sharding: NamedSharding) -> PyTree:
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda leaf: _put_leaf(leaf, sharding), tree)


def _put_leaf(leaf: jax.Array | np.ndarray, sharding: NamedSharding) -> jax.Array:
    if jax.process_count() == 1:
        return jax.device_put(leaf, sharding)
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _put_leaf(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def host_values(tree: PyTree) -> PyTree:
    """The numbers of a pytree on the host; of a leaf that is divided over processes, this process's part.

    No process waits for another, and nothing is gathered.
    """
    return jax.tree.map(_local, tree)


def _local(leaf: jax.Array) -> np.ndarray:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return np.asarray(leaf)
    if leaf.is_fully_replicated:
        return np.asarray(leaf.addressable_data(0))
    parts = {str(shard.index): shard for shard in leaf.addressable_shards}  # one of equals
    ordered = sorted(parts.values(), key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in ordered])


def dividing_mesh(tree: PyTree) -> Mesh | None:
    """The mesh whose axes fsdp or tensor divide the weights of a tree; None where each device has all of them."""
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(leaf, "sharding", None) if not isinstance(leaf, jax.core.Tracer) else None
        mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
        if isinstance(mesh, Mesh) and mesh.shape.get(FSDP, 1) * mesh.shape.get(TENSOR, 1) > 1:
            return mesh
    return None


@contextlib.contextmanager
def on_host() -> Iterator[None]:
    """Make arrays in the host's memory, where the system has it as a device of jax: a device may be too small."""
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        yield
        return
    with jax.default_device(host):
        yield


def local_copy(tree: PyTree) -> PyTree:
    """A pytree, divided over a mesh or not, whole on this process's first device."""
    here = jax.local_devices()[0]
    meshes = {leaf.sharding.mesh for leaf in jax.tree.leaves(tree) if isinstance(leaf.sharding, NamedSharding)}
    if jax.process_count() > 1 and meshes:
        whole = NamedSharding(meshes.pop(), PartitionSpec())
        tree = jax.jit(lambda leaves: leaves, out_shardings=whole)(tree)
        return jax.tree.map(lambda leaf: jax.device_put(leaf.addressable_data(0), here), tree)
    return jax.device_put(tree, here)

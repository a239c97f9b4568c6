"""One mesh axis for tasks: a meta-batch is split over devices, parameters are replicated.

``jit`` with these shardings computes the same mean over tasks as one device
does; the only traffic is one all-reduce of the meta-gradient.
"""

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fewshot_jax.types import PyTree


def task_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the one axis ``"task"`` over some devices, by default all."""
    devices = jax.devices() if devices is None else list(devices)
    return jax.make_mesh((len(devices),), ("task",), axis_types=(AxisType.Auto,), devices=devices)


def shard_tasks(tree: PyTree, mesh: Mesh) -> PyTree:
    """Put a pytree with a leading task axis on the mesh, split over tasks."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec("task")))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Put a pytree on the mesh, whole on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))

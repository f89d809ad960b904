"""Mesh and shardings: one axis over all devices, batches split along it, the state replicated.

With `config.parallel.shard_state` the state is split as well: each device keeps a part of it.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flashvtg_jax.errors import ConfigError

AXIS = "data"
_SMALLEST_SPLIT = 2**12  # elements; splitting fewer saves nothing and costs a message each


def make_mesh(rows: int | None = None) -> Mesh:
    """All devices of all processes along one axis, `data`.

    Batches of fewer `rows` than there are devices, such as TVSum's of four videos, use as many
    devices of each process as can share them evenly.

    Raises:
      ConfigError: there are more processes than rows, or the rows cannot be shared evenly.
    """
    # In the order of processes: process i gets the i-th contiguous share of a batch.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if rows is not None and rows < len(devices):
        of_each = rows // jax.process_count()
        if not of_each:
            raise ConfigError(
                f"{jax.process_count()} processes cannot share batches of {rows} rows; use a "
                "larger config.train.batch_size, or fewer processes"
            )
        by_process: dict[int, list[jax.Device]] = {}
        for device in devices:
            by_process.setdefault(device.process_index, []).append(device)
        devices = [device for own in by_process.values() for device in own[:of_each]]
    if rows is not None and rows % len(devices):
        raise ConfigError(
            f"config.train.batch_size is {rows}, which {len(devices)} devices cannot share "
            f"evenly; use a multiple of {len(devices)}"
        )
    return mesh_of(devices)


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
    """These devices along one axis, `data`."""
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_rows(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """An array split along its first axis, or another one, over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def state_shardings(state: Any, mesh: Mesh, *, shard_state: bool) -> Any:
    """The sharding of each array of a state: replicated, or split along the first axis that fits.

    Args:
      state: arrays or their shapes, of a whole state or of parameters alone: parameters and the
        optimizer's moments of one shape are split alike.
      mesh: the devices.
      shard_state: split what can be split evenly and is large enough to be worth it.
    """

    def sharding(array: Any) -> NamedSharding:
        fitting = [axis for axis, size in enumerate(array.shape) if size % mesh.size == 0]
        if not shard_state or not fitting or math.prod(array.shape) < _SMALLEST_SPLIT:
            return replicated(mesh)
        return split_rows(mesh, fitting[0])

    return jax.tree.map(sharding, state)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Arrays that every process has -> on every device of the mesh."""
    return put(tree, replicated(mesh))


def put_batch(batch: Any, mesh: Mesh, axis: int = 0) -> Any:
    """This process's rows of a batch -> global arrays on the mesh (the copy is asynchronous).

    `axis` is that of the rows: 1 where several batches are stacked.
    """
    return put(batch, split_rows(mesh, axis))


def put(tree: Any, sharding: NamedSharding) -> Any:
    """This process's part of arrays -> global arrays of a sharding."""
    return jax.tree.map(lambda a: jax.make_array_from_process_local_data(sharding, a), tree)

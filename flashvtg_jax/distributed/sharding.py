"""Where arrays live: one mesh over all devices, batches split along it, the state on each of them.

With `config.parallel.shard_state` the state is split as well: every device keeps a part of it.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flashvtg_jax.errors import ConfigError

AXIS = "data"
_SMALLEST_SPLIT = 2**12  # numbers; splitting fewer saves nothing and costs a message each


def make_mesh(rows: int | None = None) -> Mesh:
    """All devices of all processes along one axis, `data`.

    Batches of fewer `rows` than there are devices, as TVSum's of four videos, use as many devices
    of each process as can share them evenly. Raises ConfigError if there are more processes than
    rows.
    """
    # In the order of processes, whose shares of a batch follow one another.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if rows is not None and rows < len(devices):
        of_each = rows // jax.process_count()
        if not of_each:
            raise ConfigError(
                f"{jax.process_count()} processes cannot share batches of {rows} rows; use a "
                "larger config.train.batch_size, or fewer processes"
            )
        taken = {index: 0 for index in range(jax.process_count())}
        chosen = []
        for device in devices:
            if taken[device.process_index] < of_each:
                taken[device.process_index] += 1
                chosen.append(device)
        devices = chosen
    return mesh_of(devices)


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
    """These devices along one axis, `data`."""
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_rows(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """The rows of a batch, its first axis or another, spread over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def state_shardings(state: Any, mesh: Mesh, *, shard_state: bool) -> Any:
    """Where each array of a state lives: on every device, or split along the first axis that fits.

    Args:
      state: arrays or their shapes, of a whole state or of parameters alone: parameters and the
        optimiser's moments of one shape are split alike.
      mesh: the devices.
      shard_state: split what can be split evenly and is large enough to be worth it.
    """

    def place(array: Any) -> NamedSharding:
        fitting = [axis for axis, size in enumerate(array.shape) if size % mesh.size == 0]
        if not shard_state or not fitting or math.prod(array.shape) < _SMALLEST_SPLIT:
            return replicated(mesh)
        return split_rows(mesh, fitting[0])

    return jax.tree.map(place, state)


def check_batch_size(name: str, batch_size: int, mesh: Mesh) -> None:
    """Raises ConfigError if a batch cannot be spread evenly over the devices."""
    if batch_size % mesh.size:
        raise ConfigError(
            f"config.{name}.batch_size is {batch_size}, which {mesh.size} devices cannot share "
            f"evenly; use a multiple of {mesh.size}"
        )


def put_everywhere(tree: Any, mesh: Mesh) -> Any:
    """Arrays that every process has -> on every device of the mesh."""
    place = replicated(mesh)
    return jax.tree.map(lambda a: jax.make_array_from_process_local_data(place, a), tree)


def put_batch(batch: Any, mesh: Mesh, axis: int = 0) -> Any:
    """This process's rows of a batch -> global arrays on the mesh (the copy is asynchronous).

    `axis` is that of the rows: 1 where the batches of several runs are stacked.
    """
    sharding = split_rows(mesh, axis)
    return jax.tree.map(lambda a: jax.make_array_from_process_local_data(sharding, a), batch)

"""Where arrays live: one mesh over all devices, batches split along it, state on each of them."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flashvtg_jax.errors import ConfigError


def make_mesh(rows: int | None = None) -> Mesh:
    """All devices of all processes along one axis, `data`.

    Batches of fewer `rows` than there are devices, as TVSum's of four videos, use as many of the
    devices as can share them evenly.
    """
    devices = jax.devices()
    if rows is not None and rows < len(devices):
        devices = devices[:rows]
    return jax.make_mesh((len(devices),), ("data",), (AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_rows(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """The rows of a batch, its first axis or another, spread over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def check_batch_size(name: str, batch_size: int, mesh: Mesh) -> None:
    """Raises ConfigError if a batch cannot be spread evenly over the devices."""
    if batch_size % mesh.size:
        raise ConfigError(
            f"config.{name}.batch_size is {batch_size}, which {mesh.size} devices cannot share "
            f"evenly; use a multiple of {mesh.size}"
        )


def put_batch(batch: Any, mesh: Mesh, axis: int = 0) -> Any:
    """This process's rows of a batch -> global arrays on the mesh (the copy is asynchronous).

    `axis` is that of the rows: 1 where the batches of several runs are stacked.
    """
    sharding = split_rows(mesh, axis)
    return jax.tree.map(lambda a: jax.make_array_from_process_local_data(sharding, a), batch)

"""Where arrays live: one mesh over all devices, batches split along it, state on each of them."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flashvtg_jax.errors import ConfigError


def make_mesh() -> Mesh:
    """All devices of all processes along one axis, `data`."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_rows(mesh: Mesh) -> NamedSharding:
    """The first axis, rows of a batch, spread over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(name: str, batch_size: int, mesh: Mesh) -> None:
    """Raises ConfigError if a batch cannot be spread evenly over the devices."""
    if batch_size % mesh.size:
        raise ConfigError(
            f"config.{name}.batch_size is {batch_size}, which {mesh.size} devices cannot share "
            f"evenly; use a multiple of {mesh.size}"
        )


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """This process's rows of a batch -> global arrays on the mesh (the copy is asynchronous)."""
    sharding = split_rows(mesh)
    return jax.tree.map(lambda a: jax.make_array_from_process_local_data(sharding, a), batch)

"""Data parallelism of the classical kind, under `jax.pmap`: each device for itself, means between.

What a step takes and gives has an axis of this process's devices in front.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from flashvtg_jax.distributed.sharding import AXIS, mesh_of, put_batch, replicated, split_rows
from flashvtg_jax.training.step import TrainStep


class PerDevice:
    """A step that was made for the axis `AXIS`, run by every device on rows of its own."""

    def __init__(self, step: TrainStep, mesh: Mesh):
        self._mesh = mesh
        local = [d for d in mesh.devices.flat if d.process_index == jax.process_index()]
        self._local = mesh_of(local)
        # Metrics are means, the same on all devices: the axis is left out of them.
        devices = list(mesh.devices.flat)
        self.step = jax.pmap(
            step, axis_name=AXIS, devices=devices, donate_argnums=0, out_axes=(0, None)
        )

        def spread(state: Any) -> Any:
            return jax.tree.map(lambda a: jnp.broadcast_to(a, (len(local), *a.shape)), state)

        def view(state: Any) -> Any:
            return jax.tree.map(lambda a: a[0], state)

        self._spread = jax.jit(spread, out_shardings=split_rows(self._local))
        self._view = jax.jit(view, out_shardings=replicated(self._local))

    def spread(self, state: Any) -> Any:
        """A state that is the same everywhere -> one for each of this process's devices."""
        return self._spread(_same_buffers(state, self._local))

    def view(self, state: Any) -> Any:
        """The states of the devices, which are equal -> the one, on all devices there are."""
        return _same_buffers(self._view(state), self._mesh)

    def put(self, batch: Any) -> Any:
        """This process's rows [B, ...] -> its devices' rows [devices, B / devices, ...]."""
        count = self._local.size
        batch = jax.tree.map(lambda a: a.reshape(count, -1, *a.shape[1:]), batch)
        return put_batch(batch, self._local)


def _same_buffers(tree: Any, mesh: Mesh) -> Any:
    """Arrays that are on every local device, as arrays of a mesh of more devices, or fewer."""

    def rename(array: jax.Array) -> jax.Array:
        buffers = [shard.data for shard in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(array.shape, replicated(mesh), buffers)

    return jax.tree.map(rename, tree)

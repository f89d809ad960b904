"""Data parallelism under `jax.pmap`: each device computes its own rows, gradients are averaged.

The state and the batches of such a step have a leading axis of this process's devices.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from flashvtg_jax.distributed.sharding import AXIS, mesh_of, put_batch, replicated, split_rows


class PmapStep:
    """A training step that was made for the axis `AXIS`, run by each device on its own rows."""

    def __init__(self, step: Callable[..., Any], mesh: Mesh):
        self._mesh = mesh
        local = [d for d in mesh.devices.flat if d.process_index == jax.process_index()]
        self._local = mesh_of(local)
        # Metrics are means, equal on all devices: they have no axis of devices.
        devices = list(mesh.devices.flat)
        self.step = jax.pmap(
            step, axis_name=AXIS, devices=devices, donate_argnums=0, out_axes=(0, None)
        )

        def stack(state: Any) -> Any:
            return jax.tree.map(lambda a: jnp.broadcast_to(a, (len(local), *a.shape)), state)

        def first(state: Any) -> Any:
            return jax.tree.map(lambda a: a[0], state)

        self._stack = jax.jit(stack, out_shardings=split_rows(self._local))
        self._first = jax.jit(first, out_shardings=replicated(self._local))

    def stack(self, state: Any) -> Any:
        """A replicated state -> a copy for each of this process's devices."""
        return self._stack(_with_mesh(state, self._local))

    def unstack(self, state: Any) -> Any:
        """The copies of the devices, which are equal -> a replicated state."""
        return _with_mesh(self._first(state), self._mesh)

    def put(self, batch: Any) -> Any:
        """This process's rows [B, ...] -> its devices' rows [devices, B / devices, ...]."""
        count = self._local.size
        batch = jax.tree.map(lambda a: a.reshape(count, -1, *a.shape[1:]), batch)
        return put_batch(batch, self._local)


def _with_mesh(tree: Any, mesh: Mesh) -> Any:
    """Replicated arrays as replicated arrays of another mesh; no data is copied."""

    def rename(array: jax.Array) -> jax.Array:
        buffers = [shard.data for shard in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(array.shape, replicated(mesh), buffers)

    return jax.tree.map(rename, tree)

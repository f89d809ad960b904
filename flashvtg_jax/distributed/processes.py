"""Several processes of one program: they start together, agree, and fail together.

Each process runs the same code on its own devices. The lead host, process 0, reads and writes the
work directory and broadcasts the outcome. What every process checks for itself is agreed on before
any of them continues, so that none waits for one that has stopped. With one process all of this
does nothing.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from flashvtg_jax.errors import ConfigError, FlashVTGError

_SILENCE_SECONDS = 100  # without a heartbeat, until a process counts as lost


class PeerError(FlashVTGError):
    """Another process of the program stopped; its own message says why."""


def connect(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Make this process one of several; to be called before anything uses the devices.

    Without arguments JAX detects the others: on TPU slices, under Slurm, Open MPI and Kubernetes,
    or from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Args:
      coordinator: "HOST:PORT" of the first process, the same for all.
      num_processes: how many there are.
      process_id: which of them this is, from 0.

    Raises:
      ConfigError: the number of processes is unknown, or they cannot connect.
    """
    given = (coordinator, num_processes, process_id)
    if any(value is not None for value in given) and None in given:
        raise ConfigError(
            "to name the processes by hand, give all of --coordinator=HOST:PORT, "
            "--num_processes=N and --process_id=I"
        )
    if process_id is not None and not 0 <= process_id < num_processes:
        raise ConfigError(f"--process_id is {process_id}; it counts from 0 to {num_processes - 1}")
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, heartbeat_timeout_seconds=_SILENCE_SECONDS
        )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"the processes could not be connected ({error}). On a TPU slice, under Slurm's srun "
            "or Open MPI's mpirun, --distributed is enough; elsewhere start each process with "
            "--coordinator=HOST:PORT --num_processes=N --process_id=I, HOST being that of process 0"
        ) from error


def is_lead_host() -> bool:
    """Whether this process is the one that reads and writes for all of them."""
    return jax.process_index() == 0


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
    """Makes the block raise in all processes if it raises in one of them.

    Raises the error of this process, or PeerError if another one failed.
    """
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    if jax.process_count() > 1:
        failed = multihost_utils.process_allgather(np.array(error is not None))
        if error is None and failed.any():
            error = PeerError(f"process {int(failed.argmax())} stopped; its message says why")
    if error is not None:
        raise error


def from_lead_host(compute: Callable[[], Any]) -> Any:
    """What the lead host computes, broadcast as JSON: tuples become lists.

    Raises in all processes if it raises there.
    """
    if jax.process_count() == 1:
        return json.loads(json.dumps(compute()))
    content = b""
    with all_or_none():
        if is_lead_host():
            content = json.dumps(compute()).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.array(len(content), np.int32)))
    data = np.zeros(size, np.uint8)
    if is_lead_host():
        data = np.frombuffer(content, np.uint8)
    data = np.asarray(multihost_utils.broadcast_one_to_all(data))
    return json.loads(data.tobytes())


def on_lead_host(action: Callable[[], Any]) -> None:
    """Runs something on the lead host; all wait for it, and it raises in all if it raises there."""
    with all_or_none():
        if is_lead_host():
            action()


def check_same(what: str, value: Any) -> None:
    """Raises ConfigError in all processes if `value`, JSON-like, is not the same in each."""
    if jax.process_count() == 1:
        return
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
    digests = multihost_utils.process_allgather(np.frombuffer(digest[:16], np.uint8))
    different = np.flatnonzero((digests != digests[0]).any(axis=1))
    if len(different):
        raise ConfigError(
            f"process {int(different[0])} has another {what} than process 0; start all of them "
            "with the same command, and keep work directory and data where all of them see them"
        )

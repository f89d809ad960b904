"""Several processes that are one program: they start together, agree, and fail together.

Each process runs the same code on devices of its own. What reads or writes the work directory is
done by the first one, and the others hear the outcome; what every process checks for itself is
agreed on before anybody goes on, so that none waits for one that has stopped. With one process all
of this is nothing.
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

_SILENCE_SECONDS = 100  # after which a process is taken for dead


class PeerError(FlashVTGError):
    """Another process of the program stopped, and said why."""


def connect(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Make this process one of several; before anything else that asks for devices.

    Without arguments, what started the processes tells: TPU slices, Slurm, Open MPI and Kubernetes
    are recognised, and the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID.

    Args:
      coordinator: "HOST:PORT" of the first process, the same for all.
      num_processes: how many there are.
      process_id: which of them this is, from 0.

    Raises:
      ConfigError: nothing tells how many processes there are, or they do not find each other.
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
            "--coordinator=HOST:PORT --num_processes=N --process_id=I, HOST being the first one's"
        ) from error


def is_first() -> bool:
    """Whether this process is the one that reads and writes for all."""
    return jax.process_index() == 0


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
    """What follows is done by all processes, or raises in all of them.

    Raises what went wrong here, or PeerError if it did so elsewhere.
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


def from_first(compute: Callable[[], Any]) -> Any:
    """What the first process computes, told to all as JSON: tuples become lists.

    Raises in all processes if it raises there.
    """
    if jax.process_count() == 1:
        return json.loads(json.dumps(compute()))
    content = b""
    with all_or_none():
        if is_first():
            content = json.dumps(compute()).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.array(len(content), np.int32)))
    told = np.zeros(size, np.uint8)
    if is_first():
        told = np.frombuffer(content, np.uint8)
    told = np.asarray(multihost_utils.broadcast_one_to_all(told))
    return json.loads(told.tobytes())


def by_first(action: Callable[[], Any]) -> None:
    """Lets the first process do something that all wait for. Raises in all if it raises there."""
    with all_or_none():
        if is_first():
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

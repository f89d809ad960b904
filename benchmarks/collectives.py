"""What the devices of a pod exchange in one training step: the scaling model, on paper.

python benchmarks/collectives.py --config=qvhighlights_slowfast_clip --rows_per_device=64

Compiles the training step of a configuration for 1 to 64 simulated devices, each with equally many
rows (weak scaling), in every mode of `config.parallel`, and reads what they exchange from the
compiled program. Nothing is run, so one processor is enough for any number of devices.

What is sent is what each device sends in a step (of permutes: the busiest one) when devices form a
ring: an all-reduce of S bytes over n devices sends 2 (n - 1) / n S, an all-gather or reduce-scatter
to or from S bytes (n - 1) / n S, a permute what it moves. "parameters" is the all-reduce of
gradients and the all-gather of split parameters, "negatives" are the queries that rows lend their
neighbours, "batch" is the rest: a few numbers a row, for losses that look across the batch.
Relative to the bytes of the parameters, what is sent nears 2 and stays there, however many devices.

What these values leave out:
  - XLA for CPU has no pass that turns an all-reduce of which a device keeps only its part into a
    reduce-scatter; those for TPU and GPU have. The column "reduce-scatter" is what is left then.
  - How much of it overlaps with computation, latency of each message, and links that are not
    rings.
  - A branch that is compiled and never taken, as the pipelines put padding rows last: it would
    gather the rows of all devices (`flashvtg_jax/models/negatives.py`). It is listed apart.
"""

import time
from collections.abc import Iterable
from typing import Any

import jax
import ml_collections
import numpy as np
from hlo import Collective, collectives
from measuring import errors_in_a_line, int_list, make_parser, random_batch, write_result

from flashvtg_jax.config import apply_overrides, load_config
from flashvtg_jax.data.batch import Batch
from flashvtg_jax.distributed.sharding import split_rows, state_shardings
from flashvtg_jax.training.state import TrainState, param_count
from flashvtg_jax.training.trainer import Trainer

MODES = {
    "jit": {"parallel.mode": "jit", "parallel.shard_state": False},
    "shard_state": {"parallel.mode": "jit", "parallel.shard_state": True},
    "pmap": {"parallel.mode": "pmap", "parallel.shard_state": False},
}
NEVER_TAKEN = 0  # branch of the conditional: padding rows that are not last
# What a device computes does not matter here, and which devices exchange what is decided before.
QUICK = {"xla_backend_optimization_level": 0}


def main() -> None:
    parser = make_parser(__doc__, device=False)
    parser.add_argument("--config", default="qvhighlights_slowfast_clip")
    parser.add_argument("--rows_per_device", type=int, default=64)
    parser.add_argument(
        "--devices", type=int_list, default=[1, 2, 4, 8, 16, 32, 64], help="how many, each a row"
    )
    parser.add_argument("--modes", default=",".join(MODES), help=f"of {', '.join(MODES)}")
    options = parser.parse_args()

    counts = [1, 2] if options.smoke else options.devices
    modes = ["jit"] if options.smoke else options.modes.split(",")
    if unknown := set(modes) - set(MODES):
        parser.error(f"--modes: {', '.join(sorted(unknown))} is none of {', '.join(MODES)}")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(counts))
    with errors_in_a_line():
        config = load_config("demo" if options.smoke else options.config)
        rows = 2 if options.smoke else options.rows_per_device
        params = param_shapes(config)
        result = {
            "config": config.name,
            "rows_per_device": rows,
            "parameters": param_count(params),
            "parameter_mib": 4 * param_count(params) / 2**20,
            "rows": [],
        }
        print_header(result)
        for mode in modes:
            for count in counts:
                line = measure(config, mode, count, rows)
                result["rows"].append(line)
                print_line(line)
    write_result("collectives", result, options.output, show=False)


def param_shapes(config: ml_collections.ConfigDict) -> Any:
    """Returns the parameters of a configuration's model, shapes only."""
    return _trainer(config, "jit", 1)[1].params


def _trainer(
    config: ml_collections.ConfigDict, mode: str, count: int
) -> tuple[Trainer, TrainState]:
    """Returns the functions of training on the first devices, and the shapes of their state."""
    # A trainer for batches of n rows takes n devices; what is compiled for it has more rows.
    config = apply_overrides(config, {**MODES[mode], "train.batch_size": count})
    trainer = Trainer(config, steps_per_epoch=100)
    return trainer, jax.eval_shape(trainer.init, np.zeros((), np.uint32))


def measure(config: ml_collections.ConfigDict, mode: str, count: int, rows: int) -> dict[str, Any]:
    """Returns what one step on `count` devices exchanges, in bytes of each device."""
    start = time.perf_counter()
    trainer, state = _trainer(config, mode, count)
    params = state.params
    places = state_shardings(state, trainer.mesh, shard_state=mode == "shard_state")
    split = [
        array.size
        for array, place in zip(
            jax.tree.leaves(params), jax.tree.leaves(places.params), strict=True
        )
        if not place.is_fully_replicated
    ]
    found = []
    if count > 1:
        arguments = shapes(trainer, mode, state, places, random_batch(config, 1), rows)
        found = collectives(
            trainer.step.lower(*arguments).compile(compiler_options=QUICK).as_text()
        )
    taken = [c for c in found if c.branch != NEVER_TAKEN]
    groups: dict[str, list[Collective]] = {"parameters": [], "negatives": [], "batch": []}
    for collective in taken:
        groups[what_it_moves(collective, rows * count)].append(collective)
    sent = sum_sent(taken, count)
    parameter_bytes = 4 * param_count(params)
    reduce_scatter = sent - (count - 1) / count * 4 * sum(split)
    return {
        "mode": mode,
        "devices": count,
        "collectives": counted(taken),
        "sent_bytes": {"all": sent, **{k: sum_sent(v, count) for k, v in groups.items()}},
        "sent_per_parameter_byte": sent / parameter_bytes,
        "sent_with_reduce_scatter_bytes": reduce_scatter,
        "sent_with_reduce_scatter_per_parameter_byte": reduce_scatter / parameter_bytes,
        "state_bytes_per_device": sum(
            4 * int(np.prod(place.shard_shape(array.shape)))
            for array, place in zip(jax.tree.leaves(state), jax.tree.leaves(places), strict=True)
        ),
        "never_taken": counted(c for c in found if c.branch == NEVER_TAKEN),
        "seconds": time.perf_counter() - start,
    }


def shapes(
    trainer: Trainer, mode: str, state: TrainState, places: TrainState, batch: Batch, rows: int
) -> tuple[TrainState, Batch]:
    """Returns the arguments of a step, shapes only, where they live; of `batch` the rows' shape."""
    count = trainer.mesh.size
    struct = jax.ShapeDtypeStruct
    if mode == "pmap":  # an axis of devices in front
        state = jax.tree.map(lambda a: struct((count, *a.shape), a.dtype), state)
        return state, jax.tree.map(lambda a: struct((count, rows, *a.shape[1:]), a.dtype), batch)
    state = jax.tree.map(lambda a, p: struct(a.shape, a.dtype, sharding=p), state, places)
    place = split_rows(trainer.mesh)
    return state, jax.tree.map(
        lambda a: struct((rows * count, *a.shape[1:]), a.dtype, sharding=place), batch
    )


def what_it_moves(collective: Collective, B: int) -> str:
    """Returns "parameters" (or their gradients), "negatives" or "batch", of B rows."""
    if collective.branch is not None:
        return "negatives"
    of_batch = (a.size == 1 or (a.size <= B and B in a.shape) for a in collective.arrays)
    return "batch" if all(of_batch) else "parameters"


def sum_sent(found: Iterable[Collective], count: int) -> float:
    """Returns the bytes that a device sends, that which sends most."""
    by_all, by_each = 0.0, np.zeros(count)
    for collective in found:
        if collective.senders:
            by_each[list(collective.senders)] += collective.sent(count)
        else:
            by_all += collective.sent(count)
    return by_all + float(by_each.max())


def counted(found: Iterable[Collective]) -> dict[str, dict[str, int]]:
    """Returns how many collectives there are of each kind, and the bytes of their results."""
    table: dict[str, dict[str, int]] = {}
    for collective in found:
        line = table.setdefault(collective.kind, {"count": 0, "result_bytes": 0})
        line["count"] += 1
        line["result_bytes"] += collective.nbytes
    return table


def print_header(result: dict[str, Any]) -> None:
    """Prints what the table is about."""
    print(
        f"{result['config']}: {result['parameters']:,} parameters, "
        f"{result['parameter_mib']:.1f} MiB; {result['rows_per_device']} rows a device\n\n"
        "                       MiB that a device sends in a step               / parameters\n"
        "mode        devices       all  parameters  negatives     batch     as is  reduce-scatter"
        "   state MiB\n" + "-" * 99
    )


def print_line(line: dict[str, Any]) -> None:
    """Prints a row of the table."""
    sent = {name: value / 2**20 for name, value in line["sent_bytes"].items()}
    print(
        f"{line['mode']:12}{line['devices']:>7}{sent['all']:>10.2f}{sent['parameters']:>12.2f}"
        f"{sent['negatives']:>11.3f}{sent['batch']:>10.4f}{line['sent_per_parameter_byte']:>10.3f}"
        f"{line['sent_with_reduce_scatter_per_parameter_byte']:>16.3f}"
        f"{line['state_bytes_per_device'] / 2**20:>12.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()

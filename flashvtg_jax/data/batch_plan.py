"""Which examples share a batch, at which padded length: a pure function of (seed, epoch).

Nothing here reads features or knows of processes: the plan is global, and a process takes its
contiguous share of every batch's rows, so that a run gives the same sequence of batches whatever
the number of processes, and can be continued from any step without replaying the ones before.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flashvtg_jax.errors import ConfigError, DataError

PADDING_ROW = -1  # stands for "no example" in the rows of a batch


class PlannedBatch(NamedTuple):
    """One global batch before anything is read.

    length: clips that every row is padded to, one of the buckets.
    examples: [B] int64, row of the split for each row of the batch, `PADDING_ROW` at the end of a
      batch that is not full.
    """

    length: int
    examples: np.ndarray

    def share(self, process_index: int, process_count: int) -> np.ndarray:
        """Returns the examples of one process: a contiguous part [B / process_count]."""
        rows = len(self.examples) // process_count
        return self.examples[process_index * rows : (process_index + 1) * rows]


class BatchPlan:
    """The batches of every epoch of a split.

    Examples are shuffled by (seed, epoch) and fill their length bucket's batch in that order; a
    batch takes its place in the epoch when it is full. What is left in the buckets at the end of
    the epoch is packed together from long to short, each batch at the bucket of its longest row.
    An epoch therefore has ceil(N / B) batches (N // B with `drop_last`) whatever the buckets, and
    at most one of them, the last and shortest, has padding rows.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        buckets: Sequence[int],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
    ):
        """Prepares the plan.

        Args:
          lengths: clips of each example [N], at most the last bucket.
          buckets: padded lengths, ascending.
          batch_size: rows of a global batch, B.
          seed: together with the epoch it determines the order.
          shuffle: without it, every epoch goes through the buckets from long to short, keeping
            the order of the split within a bucket.
          drop_last: leave out N mod B examples, other ones each epoch, instead of padding the last
            batch.

        Raises:
          ConfigError: for buckets that do not ascend or do not cover the lengths, a batch size or
            seed that cannot be used, or `drop_last` with fewer examples than a batch holds.
          DataError: for a split without examples, or an example without clips.
        """
        self.lengths = np.asarray(lengths, np.int64)
        self.buckets = checked_buckets(buckets)
        self.batch_size = int(batch_size)
        self.seed = int(seed)
        self.shuffle = shuffle
        if self.batch_size < 1 or self.seed < 0:
            raise ConfigError(
                f"batch_size={batch_size} must be at least 1 and seed={seed} at least 0"
            )
        if not self.lengths.size:
            raise DataError("the split has no examples; build it from a non-empty annotation file")
        if self.lengths.min() < 1:
            raise DataError(
                f"row {int(self.lengths.argmin())} of the split has no clips; build the data set "
                "again with features for its video"
            )
        if self.lengths.max() > self.buckets[-1]:
            raise ConfigError(
                f"the longest video has {int(self.lengths.max())} clips, the last bucket holds "
                f"{self.buckets[-1]}"
            )
        remainder = self.lengths.size % self.batch_size
        self._num_examples = self.lengths.size - (remainder if drop_last else 0)
        if not self._num_examples:
            raise ConfigError(
                f"drop_last leaves nothing of {self.lengths.size} examples at batch size "
                f"{self.batch_size}; make the batch smaller or set config.train.drop_last=False"
            )
        self._bucket_of = np.searchsorted(self.buckets, self.lengths, side="left")
        # Worker threads ask for neighbouring steps: at an epoch's border two plans are in use.
        self._cached_epoch = functools.lru_cache(maxsize=2)(self._plan_epoch)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, the same for every epoch."""
        return -(-self._num_examples // self.batch_size)

    def batch(self, step: int) -> tuple[int, PlannedBatch]:
        """Returns the epoch that a global step belongs to, and its batch."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return epoch, self.epoch(epoch)[position]

    def epoch(self, epoch: int) -> tuple[PlannedBatch, ...]:
        """Returns the batches of an epoch, in order."""
        return self._cached_epoch(epoch)

    def _plan_epoch(self, epoch: int) -> tuple[PlannedBatch, ...]:
        if not self.shuffle:
            return self._packed(np.arange(self._num_examples))
        # Four words ending in 1: numpy pads seeds with zeros, so that [seed, epoch] alone would be
        # the generator of the labels of example 0, [seed, epoch, 0].
        rng = np.random.default_rng([self.seed, epoch, 0, 1])
        order = rng.permutation(self.lengths.size)[: self._num_examples]
        bucket_of = self._bucket_of[order]

        filled: list[tuple[int, PlannedBatch]] = []  # with the place of the row that filled it
        left = []
        for bucket, length in enumerate(self.buckets):
            places = np.flatnonzero(bucket_of == bucket)
            num_full = len(places) // self.batch_size * self.batch_size
            for rows in places[:num_full].reshape(-1, self.batch_size):
                filled.append((int(rows[-1]), PlannedBatch(length, order[rows])))
            left.append(order[places[num_full:]])
        filled.sort(key=lambda item: item[0])
        return (*(batch for _, batch in filled), *self._packed(np.concatenate(left)))

    def _packed(self, examples: np.ndarray) -> tuple[PlannedBatch, ...]:
        """Packs examples from long buckets to short ones, the last batch padded."""
        # Long first computes the fewest clips: the batch that is not full is the shortest.
        examples = examples[np.argsort(-self._bucket_of[examples], kind="stable")]
        batches = []
        for start in range(0, len(examples), self.batch_size):
            rows = examples[start : start + self.batch_size]
            length = self.buckets[self._bucket_of[rows[0]]]
            padding = np.full(self.batch_size - len(rows), PADDING_ROW, rows.dtype)
            batches.append(PlannedBatch(length, np.concatenate([rows, padding])))
        return tuple(batches)


def checked_buckets(buckets: Sequence[int]) -> tuple[int, ...]:
    """Returns the buckets as a tuple of ints.

    Raises:
      ConfigError: when they are not positive, or do not ascend.
    """
    edges = tuple(int(edge) for edge in buckets)
    ascending = all(low < high for low, high in itertools.pairwise(edges))
    if not edges or edges[0] < 1 or not ascending:
        raise ConfigError(
            f"config.data.buckets={edges} must be clip lengths in ascending order, such as (75,)"
        )
    return edges


def default_buckets(lengths: Sequence[int] | np.ndarray, max_buckets: int = 6) -> tuple[int, ...]:
    """Returns at most `max_buckets` bucket lengths with the least padding for these examples.

    Exact, by dynamic programming over the distinct lengths (the last bucket is the longest); with
    as few buckets as reach that padding.

    Args:
      lengths: clips of each example [N].
      max_buckets: shapes that may be compiled.

    Raises:
      DataError: for no lengths at all.
      ConfigError: for `max_buckets` below 1.
    """
    if max_buckets < 1:
        raise ConfigError(f"max_buckets={max_buckets} must be at least 1")
    values, counts = np.unique(np.asarray(lengths, np.int64), return_counts=True)
    if not values.size:
        raise DataError("no lengths to choose buckets for: the split has no examples")
    below = np.concatenate([[0], np.cumsum(counts)])  # examples shorter than values[j]

    # clips[j]: the fewest padded clips for all examples up to values[j], with the buckets so far.
    clips = below[1:] * values
    previous: list[np.ndarray] = []
    for _ in range(min(max_buckets, values.size) - 1):
        extended, choice = clips.copy(), np.full(values.size, -1)
        for j in range(1, values.size):
            # The last bucket, values[j], takes what is longer than values[i], for every i < j.
            candidates = clips[:j] + (below[j + 1] - below[1 : j + 1]) * values[j]
            best = int(candidates.argmin())
            if candidates[best] < extended[j]:
                extended[j], choice[j] = candidates[best], best
        if extended[-1] == clips[-1]:
            break
        clips = extended
        previous.append(choice)

    edges = [values.size - 1]
    for choice in reversed(previous):
        # -1: this prefix was already as good with one bucket fewer.
        if choice[edges[-1]] >= 0:
            edges.append(int(choice[edges[-1]]))
    return tuple(int(values[edge]) for edge in reversed(edges))


def padding_fraction(lengths: Sequence[int] | np.ndarray, buckets: Sequence[int]) -> float:
    """Returns the fraction of computed clips that are padding, each example at its own bucket.

    Raises:
      ConfigError: when the last bucket does not cover the longest example.
    """
    edges, lengths = np.asarray(checked_buckets(buckets)), np.asarray(lengths, np.int64)
    bucket_of = np.searchsorted(edges, lengths, side="left")
    if bucket_of.max(initial=0) == edges.size:
        raise ConfigError(f"buckets {tuple(edges.tolist())} do not hold {lengths.max()} clips")
    return 1.0 - float(lengths.sum()) / float(edges[bucket_of].sum())

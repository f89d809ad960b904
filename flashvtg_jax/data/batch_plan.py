"""Which examples share a batch, and its padded length: a pure function of (seed, epoch).

The plan is about global batches; a process takes a contiguous share of the rows of each. A run
therefore has the same batches whatever the number of processes, and can resume at any step without
repeating the steps before it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flashvtg_jax.errors import ConfigError, DataError

PADDING_ROW = -1  # a row of a batch without an example


class PlannedBatch(NamedTuple):
    """One global batch.

    length: clips that every row is padded to, one of the buckets.
    examples: [B] int64, the row of the split for each row of the batch; `PADDING_ROW` at the end
      of a batch that is not full.
    """

    length: int
    examples: np.ndarray

    def share(self, process_index: int, process_count: int) -> np.ndarray:
        """Returns the examples of one process: a contiguous part [B / process_count]."""
        return np.split(self.examples, process_count)[process_index]


class BatchPlan:
    """The batches of every epoch of a split.

    Examples go into batches from long to short, so a batch mixes two buckets only where one ends
    and the next begins. No other division into as many batches computes fewer clips. An epoch has
    ceil(N / B) batches (N // B with `drop_last`) whatever the buckets, and at most one of them has
    padding rows: the last of the shortest ones.

    The epoch alone determines the order of the batches' lengths; seed and epoch determine which
    examples fill them. Runs that differ only in their seed compute the same shapes at the same
    steps.
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
          seed: determines, with the epoch, the order of the examples.
          shuffle: if False, every epoch goes through the buckets from long to short, in the order
            of the split within a bucket.
          drop_last: leave out N mod B examples, different ones each epoch, instead of padding the
            last batch.

        Raises:
          ConfigError: buckets that do not ascend or are shorter than the longest example, a batch
            size below 1, a seed below 0, or `drop_last` with fewer than B examples.
          DataError: a split without examples, or an example without clips.
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
        self._num_dropped = self.lengths.size % self.batch_size if drop_last else 0
        if self._num_dropped == self.lengths.size:
            raise ConfigError(
                f"drop_last leaves nothing of {self.lengths.size} examples at batch size "
                f"{self.batch_size}; make the batch smaller or set config.train.drop_last=False"
            )
        self._bucket_of = np.searchsorted(self.buckets, self.lengths, side="left")
        self._sizes = np.bincount(self._bucket_of, minlength=len(self.buckets))
        # Worker threads work on neighbouring steps, which may belong to two epochs.
        self._cached_epoch = functools.lru_cache(maxsize=2)(self._plan_epoch)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, the same for every epoch."""
        return -(-(self.lengths.size - self._num_dropped) // self.batch_size)

    def batch(self, step: int) -> tuple[int, PlannedBatch]:
        """Returns the epoch that a global step belongs to, and its batch."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return epoch, self.epoch(epoch)[position]

    def epoch(self, epoch: int) -> tuple[PlannedBatch, ...]:
        """Returns the batches of an epoch, in order."""
        return self._cached_epoch(epoch)

    def _plan_epoch(self, epoch: int) -> tuple[PlannedBatch, ...]:
        num_kept = self.lengths.size - self._num_dropped
        if not self.shuffle:
            return self._packed(np.arange(num_kept))
        # Four numbers that do not end in 0: numpy pads seeds with zeros, so [seed, epoch] would be
        # the generator that draws the labels of example 0, [seed, epoch, 0].
        of_epoch = np.random.default_rng([0, epoch, 0, 2])
        of_seed = np.random.default_rng([self.seed, epoch, 0, 1])
        examples = of_seed.permutation(self.lengths.size)
        if self._num_dropped:
            # How many of each bucket are dropped does not depend on the seed.
            slots = of_epoch.permutation(np.repeat(np.arange(len(self.buckets)), self._sizes))
            dropped = np.unique(slots[num_kept:], return_counts=True)
            bucket_of, keep = self._bucket_of[examples], np.ones(len(examples), bool)
            for bucket, number in zip(*dropped, strict=True):
                keep[np.flatnonzero(bucket_of == bucket)[-number:]] = False
            examples = examples[keep]
        packed = self._packed(examples)
        # Batches of one length keep their order: a batch that is not full stays the last of them.
        lengths = of_epoch.permutation([batch.length for batch in packed])
        position = np.argsort(-lengths, kind="stable")  # of each packed batch
        return tuple(packed[k] for k in np.argsort(position))

    def _packed(self, examples: np.ndarray) -> tuple[PlannedBatch, ...]:
        """Packs examples from long buckets to short ones, the last batch padded."""
        # Long ones first: then the batch that is not full is the shortest.
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
      ConfigError: they are not positive, or do not ascend.
    """
    edges = tuple(int(edge) for edge in buckets)
    ascending = all(low < high for low, high in itertools.pairwise(edges))
    if not edges or edges[0] < 1 or not ascending:
        raise ConfigError(
            f"config.data.buckets={edges} must be clip lengths in ascending order, such as (75,)"
        )
    return edges


def default_buckets(
    lengths: Sequence[int] | np.ndarray,
    max_buckets: int = 6,
    *,
    batch_size: int = 1,
    groups: Sequence[str] | np.ndarray | None = None,
) -> tuple[int, ...]:
    """Returns at most `max_buckets` bucket lengths for which `BatchPlan` computes the fewest clips.

    The choice is exact, by dynamic programming over the distinct lengths, and has no more buckets
    than needed. The last bucket is the longest length.

    Args:
      lengths: clips of each example [N].
      max_buckets: shapes that may be compiled.
      batch_size: rows of a batch, B. With 1 every example is padded to its own bucket.
      groups: a name for each example [N]; examples of each name have a plan of their own. None:
        there is one plan.

    Raises:
      DataError: there are no lengths.
      ConfigError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size} must be at least 1")
    lengths = np.asarray(lengths, np.int64)
    if not lengths.size:
        raise DataError("no lengths to choose buckets for: the split has no examples")
    values, length_of = np.unique(lengths, return_inverse=True)
    names, group_of = np.unique(
        np.zeros(lengths.size) if groups is None else np.asarray(groups), return_inverse=True
    )
    histogram = np.zeros((names.size, values.size), np.int64)
    np.add.at(histogram, (group_of, length_of), 1)
    # If n examples have at least some length, ceil(n / B) batches of a plan have at least it, too.
    # rows[j]: rows of the batches of length values[j] or longer.
    longer = histogram[:, ::-1].cumsum(axis=1)[:, ::-1]
    rows = (-(-longer // batch_size) * batch_size).sum(axis=0)

    # clips[j]: the fewest clips computed with the buckets so far, one of which is values[j], if at
    # most values[j] clips of a row count.
    clips = rows[0] * values
    previous: list[np.ndarray] = []
    for _ in range(min(max_buckets, values.size) - 1):
        extended, choice = clips.copy(), np.full(values.size, -1)
        for j in range(1, values.size):
            # The bucket before is values[i], i < j: longer rows have values[j] - values[i] more.
            candidates = clips[:j] + rows[1 : j + 1] * (values[j] - values[:j])
            best = int(candidates.argmin())
            if candidates[best] < extended[j]:
                extended[j], choice[j] = candidates[best], best
        if extended[-1] == clips[-1]:
            break
        clips = extended
        previous.append(choice)

    edges = [values.size - 1]
    for choice in reversed(previous):
        # -1: one bucket fewer was as good.
        if choice[edges[-1]] >= 0:
            edges.append(int(choice[edges[-1]]))
    return tuple(int(values[edge]) for edge in reversed(edges))


def padding_fraction(lengths: Sequence[int] | np.ndarray, buckets: Sequence[int]) -> float:
    """Returns the fraction of padding clips, each example padded to its own bucket.

    Raises:
      ConfigError: the last bucket is shorter than the longest example.
    """
    edges, lengths = np.asarray(checked_buckets(buckets)), np.asarray(lengths, np.int64)
    bucket_of = np.searchsorted(edges, lengths, side="left")
    if bucket_of.max(initial=0) == edges.size:
        raise ConfigError(f"buckets {tuple(edges.tolist())} do not hold {lengths.max()} clips")
    return 1.0 - float(lengths.sum()) / float(edges[bucket_of].sum())


def plan_clips(plan: BatchPlan, epochs: int = 1) -> tuple[int, int]:
    """Returns how many clips epochs of a plan compute, and how many of these are valid.

    Padding rows are computed, too, at the length of their batch.
    """
    computed = valid = 0
    for epoch in range(epochs):
        for batch in plan.epoch(epoch):
            computed += batch.length * len(batch.examples)
            valid += int(plan.lengths[batch.examples[batch.examples != PADDING_ROW]].sum())
    return computed, valid


def plan_padding(plan: BatchPlan, epochs: int = 1) -> float:
    """Returns the fraction of padding among the clips that epochs of a plan compute."""
    computed, valid = plan_clips(plan, epochs)
    return 1.0 - valid / computed

"""The collectives of a compiled program, read from the text of its optimised HLO."""

import dataclasses
import math
import re

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")

_INSTRUCTION = re.compile(rf"^\s.*? = (.*?) ({'|'.join(KINDS)})(-start)?\(")
_COMPUTATION = re.compile(r"^(ENTRY )?%(\S+) .*\{$")
_ARRAY = re.compile(r"([a-z]+\d*)\w*\[([\d,]*)\]")
_CALL = re.compile(r"(?:to_apply|calls|called_computations|condition)=\{?%([\w.\-]+)")
_LOOP = re.compile(r"body=%([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{(.*?)\}")
_TRUE_FALSE = re.compile(r"(true|false)_computation=%([\w.\-]+)")
_PAIR = re.compile(r"\{(\d+),(\d+)\}")


@dataclasses.dataclass(frozen=True)
class Array:
    """Type and shape of an array that devices exchange, as one of them has it afterwards."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes on one device."""
        bits = int(re.sub(r"\D", "", self.dtype) or 8)  # pred takes a byte
        return self.size * bits // 8


@dataclasses.dataclass(frozen=True)
class Collective:
    """An instruction that exchanges arrays between devices; one may exchange several.

    branch: of the conditional that it is in (`jax.lax.cond`: 0 where the condition is false).
    senders: devices that send, of a collective-permute.
    """

    kind: str
    arrays: tuple[Array, ...]
    op_name: str
    branch: int | None
    senders: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the result on one device."""
        return sum(array.nbytes for array in self.arrays)

    def sent(self, num_devices: int) -> float:
        """Bytes that a device sends when the devices form a ring, or that each sender does."""
        share = (num_devices - 1) / num_devices
        if self.kind == "all-reduce":  # a reduce-scatter and an all-gather
            return 2 * share * self.nbytes
        if self.kind == "reduce-scatter":  # the result is a part
            return share * num_devices * self.nbytes
        if self.kind == "collective-permute":
            return self.nbytes
        return share * self.nbytes


def collectives(text: str) -> list[Collective]:
    """What devices exchange in one run of a program, in the order of the text.

    Args:
      text: `compiled.as_text()` of a program compiled for CPU devices.

    Raises:
      ValueError: a collective in a loop, which runs nobody knows how often, or an asynchronous one.
    """
    computations: dict[str, list[str]] = {}
    entry = ""
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            lines = computations[header[2]] = []
            entry = header[2] if header[1] else entry
        elif computations:
            lines.append(line)
    found: list[Collective] = []
    _read(computations, entry, None, False, found)
    return found


def _read(
    computations: dict[str, list[str]],
    name: str,
    branch: int | None,
    in_loop: bool,
    found: list[Collective],
) -> None:
    """Adds the collectives of a computation, and of those it calls."""
    for line in computations[name]:
        if match := _INSTRUCTION.match(line):
            if match[3] or in_loop:
                raise ValueError(f"an asynchronous collective, or one in a loop: {line.strip()}")
            op_name = re.search(r'op_name="([^"]*)"', line)
            pairs = re.search(r"source_target_pairs=\{(.*?\})\}", line)
            found.append(
                Collective(
                    kind=match[2],
                    arrays=tuple(
                        Array(dtype, tuple(map(int, filter(None, shape.split(",")))))
                        for dtype, shape in _ARRAY.findall(match[1])
                    ),
                    op_name=op_name[1] if op_name else "",
                    branch=branch,
                    senders=tuple(int(source) for source, _ in _PAIR.findall(pairs[1]))
                    if pairs
                    else (),
                )
            )
            continue
        calls = [(called, branch, in_loop) for called in _CALL.findall(line)]
        calls += [(called, branch, True) for called in _LOOP.findall(line)]
        if listed := _BRANCHES.search(line):
            names = [called.strip().lstrip("%") for called in listed[1].split(",")]
            calls += [(called, index, in_loop) for index, called in enumerate(names)]
        for which, called in _TRUE_FALSE.findall(line):
            calls.append((called, int(which == "true"), in_loop))
        for call in calls:
            _read(computations, *call, found)

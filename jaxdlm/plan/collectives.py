"""Counts the collectives of one forward in the text of a compiled decode."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2}
BYTES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b(\w+)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One kind of collective in a forward: `count` of them among `group` chips each, `bytes` moved in all per chip.

    Bytes are those of the result: the whole gathered or reduced array as one chip holds it.
    """

    kind: str
    group: int
    count: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class _Instruction:
    shape: str
    op: str
    rest: str


class Program:
    """The computations of an optimised HLO module."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, dict[str, _Instruction]] = {}
        self.entry = ""
        current: dict[str, _Instruction] = {}
        for line in text.splitlines():
            if header := _HEADER.match(line):
                current = self.computations.setdefault(header.group(2), {})
                self.entry = header.group(2) if header.group(1) else self.entry
            elif match := _INSTRUCTION.match(line):
                current[match.group(1)] = _Instruction(*match.groups()[1:])

    def decode_loop(self) -> _Instruction | None:
        """The first `while` on the way down from the entry whose number of trips the program does not state."""
        for loop in self._loops(self.entry):
            if self.trips(loop) is None:
                return loop
        return None

    def trips(self, loop: _Instruction) -> int | None:
        """n of `while i < n` where i starts at 0 and n is a constant: as XLA noted it, else as the condition says."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(known[1])
        condition = self.computations.get(_named(loop.rest, "condition") or "", {})
        constants = [re.match(r"(\d+)\)", x.rest) for x in condition.values() if x.op == "constant"]
        plain = {x.op for x in condition.values()} <= {"parameter", "constant", "get-tuple-element", "compare"}
        if not plain or len(constants) != 1 or constants[0] is None:
            return None
        return int(constants[0].group(1))

    def _loops(self, computation: str) -> Iterator[_Instruction]:
        for instruction in self.computations.get(computation, {}).values():
            if instruction.op == "while":
                yield instruction
            for called in _called(instruction):
                yield from self._loops(called)

    def collectives(self, computation: str, branch: int) -> dict[tuple[str, int], tuple[int, float]]:
        """(kind, group) -> (count, bytes) of one run of a computation. `branch`: which arm of its conditionals runs;
        conditionals further inside take their first arm (that of a false condition)."""
        total: dict[tuple[str, int], tuple[int, float]] = {}

        def add(collectives: dict[tuple[str, int], tuple[int, float]], times: int = 1) -> None:
            for key, (count, size) in collectives.items():
                have = total.get(key, (0, 0.0))
                total[key] = (have[0] + times * count, have[1] + times * size)

        for instruction in self.computations.get(computation, {}).values():
            kind = instruction.op.removesuffix("-start")
            if kind in KINDS:
                add({(kind, group_size(instruction.rest)): (1, _result_bytes(instruction))})
            elif instruction.op == "while":
                times = self.trips(instruction) or 1
                for part in ("condition", "body"):
                    add(self._inside(_named(instruction.rest, part) or "", branch), times)
            elif instruction.op == "conditional":
                arms = _arms(instruction)
                add(self._inside(arms[min(branch, len(arms) - 1)], 0))
            else:
                for called in _called(instruction):
                    add(self._inside(called, branch))
        return total

    def _inside(self, computation: str, branch: int) -> dict[tuple[str, int], tuple[int, float]]:
        return self._remembered(computation, branch)

    @functools.cached_property
    def _remembered(self):
        return functools.lru_cache(None)(self.collectives)


def count(text: str, branch: int) -> list[Collective]:
    """Collectives of one trip of the decode loop, largest first.

    branch: 1 for a forward that reads all columns (the true arm of the cache's condition), 0 for one that reads the
    block. Loops over layers count as often as they run. Empty for a program without a decode loop, or for one chip.
    """
    program = Program(text)
    loop = program.decode_loop()
    if loop is None:
        return []
    total: dict[tuple[str, int], tuple[int, float]] = {}
    for part in ("condition", "body"):
        for key, (number, size) in program.collectives(_named(loop.rest, part) or "", branch).items():
            have = total.get(key, (0, 0.0))
            total[key] = (have[0] + number, have[1] + size)
    collectives = [Collective(kind, group, number, round(size)) for (kind, group), (number, size) in total.items()]
    return sorted(collectives, key=lambda one: -one.bytes)


def group_size(rest: str) -> int:
    """Chips that take part in one collective, in any of the forms in which HLO writes its groups."""
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match.group(1)))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", match.group(2)) if axis in sizes)
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", rest):
        return int(match.group(2))
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(match.group(1).split(","))
    return 2 if "source_target_pairs" in rest else 1


def _result_bytes(instruction: _Instruction) -> float:
    sizes = [
        BYTES.get(dtype, 4) * math.prod(int(side) for side in shape.split(",") if side)
        for dtype, shape in _ARRAY.findall(instruction.shape)
    ]
    # an asynchronous pair returns its operand, its result and flags
    return max(sizes, default=0) if instruction.op.endswith("-start") else sum(sizes)


def _named(rest: str, key: str) -> str | None:
    match = re.search(rf"\b{key}=%?([\w.\-]+)", rest)
    return match.group(1) if match else None


def _called(instruction: _Instruction) -> list[str]:
    """Computations that run inside an instruction other than a loop or a conditional (not reducers: those move nothing)."""
    name = _named(instruction.rest, "calls") if instruction.op in ("fusion", "async-start", "call") else None
    name = name or (_named(instruction.rest, "to_apply") if instruction.op == "call" else None)
    return [name] if name else []


def _arms(instruction: _Instruction) -> list[str]:
    if match := re.search(r"branch_computations=\{([^}]*)\}", instruction.rest):
        return [name.strip().lstrip("%") for name in match.group(1).split(",")]
    return [_named(instruction.rest, f"{arm}_computation") or "" for arm in ("false", "true")]

"""Bytes that a program compiled for a TPU moves to and from its large memory, from the compiler's own text.

Every instruction reads its operands and writes its result, but for arrays that the compiler has put on the chip (`S(1)` in their
layout); slices, gathers and updates in place count what they touch; a loop counts as often as its condition says. XLA's
`cost_analysis` counts the body of a loop once, and arrays on the chip as if they were not.
"""

import re
from typing import NamedTuple

SIZES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s8": 1, "u8": 1, "pred": 1}
ARRAY = re.compile(rf"\b({'|'.join(SIZES)})\[([\d,]*)\](?:\{{([^}}]*)\}})?")
HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all", "copy-done", "slice-done", "custom-call",
        "iota", "broadcast"}  # fmt: skip
CUTS = {"dynamic-slice", "slice", "gather"}


class Line(NamedTuple):
    name: str
    kind: str  # of the result
    op: str
    rest: str
    root: bool

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest.split("), ")[0])

    def called(self, attribute: str) -> str:
        return re.search(rf"{attribute}=%?([\w.\-]+)", self.rest)[1]


def bytes_of(kind: str, on_chip: bool = False) -> int:
    """Of arrays in the large memory, or of all."""
    total = 0
    for name, sides, layout in ARRAY.findall(kind):
        size = SIZES[name] * (on_chip or "S(1)" not in layout)
        for side in filter(None, sides.split(",")):
            size *= int(side)
        total += size
    return total


def moved(text: str) -> int:
    """Bytes of the whole program."""
    parts: dict[str, list[Line]] = {}
    for line in text.splitlines():
        if head := HEAD.match(line):
            own = parts.setdefault(head[1], [])
        elif found := LINE.match(line):
            own.append(Line(found[2], found[3], found[4], found[5], bool(found[1])))
    return _moved(re.search(r"^ENTRY %?([\w.\-]+)", text, re.M)[1], parts)


def _moved(name: str, parts: dict[str, list[Line]]) -> int:
    kinds = {line.name: line.kind for line in parts[name]}
    return sum(_of(line, kinds, parts) for line in parts[name])


def _of(line: Line, kinds: dict[str, str], parts: dict[str, list[Line]]) -> int:
    own, read = line.operands, [bytes_of(kinds.get(each, "")) for each in line.operands]
    if line.op == "while":
        limits = [int(n) for each in parts[line.called("condition")] for n in re.findall(r"^(\d+)\)", each.rest)
                  if each.op == "constant"]  # fmt: skip
        return max(limits, default=1) * _moved(line.called("body"), parts)
    if line.op == "conditional":
        return max(
            _moved(each, parts) for each in re.findall(r"%([\w.\-]+)", line.rest.split("branch_computations=")[1])
        )
    if line.op in FREE:
        return 0
    if line.op == "fusion":
        inside = parts[line.called("calls")]
        return _written(line, inside) + sum(min(a, b) for a, b in zip(read, _read(inside), strict=True))
    if line.op == "dynamic-update-slice":
        return bytes_of(kinds.get(own[1], ""), on_chip=True) * bool(bytes_of(line.kind)) + read[1]
    if line.op in CUTS:
        return bytes_of(line.kind) + bytes_of(line.kind, on_chip=True) * bool(read[0])
    if line.op in ("copy-start", "slice-start"):  # (target, source, ...): one of them may lie on the chip
        return sum(
            bytes_of("{}[{}]{{{}}}".format(*each)) for each in ARRAY.findall(line.kind)[: 1 + (line.op == "copy-start")]
        )
    return bytes_of(line.kind) + sum(read)


def _written(line: Line, inside: list[Line]) -> int:
    root = next(each for each in inside if each.root)
    if root.op == "dynamic-update-slice" and bytes_of(line.kind):
        return bytes_of({each.name: each.kind for each in inside}[root.operands[1]], on_chip=True)
    return bytes_of(line.kind)


def _read(inside: list[Line]) -> list[float]:
    """Of each parameter of a fusion at most so many bytes, where it is only cut."""
    found: dict[int, float] = {}
    for line in inside:
        if line.op == "parameter":
            found[int(re.match(r"(\d+)", line.rest)[1])] = _cut(line.name, inside)
    return [found[number] for number in sorted(found)]


def _cut(name: str, inside: list[Line]) -> float:
    total: float = 0
    for line in inside:
        if name not in line.operands:
            continue
        if line.op == "bitcast":
            total += _cut(line.name, inside)
        elif line.op in CUTS and line.operands[0] == name:
            total += bytes_of(line.kind, on_chip=True)
        elif line.op != "dynamic-update-slice" or line.operands[0] != name:
            return float("inf")
    return total

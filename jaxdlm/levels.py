"""Codes of one matrix: scales of its groups of rows, levels spaced by a power, and the search for the exponent.

The formulas are those of `jaxdlm.quant`; everything here is NumPy, some columns at a time.
"""

import math
from collections.abc import Callable

import numpy as np

SEARCH_LOW, SEARCH_HIGH, SEARCH_STEPS, SEARCH_SAMPLE = 0.2, 1.2, 30, 2**18
SEARCH_RUNS = 16  # runs of columns that the sample comes from


def encode_columns(matrix: np.ndarray, group: int, a: float, top: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(codes int8, scales, restored weights) of some columns of a matrix [rows, columns]; columns do not interact."""
    unit, scale = normalise(matrix, group)
    codes = encode(unit, a, top)
    restored = look_up(codes, table_of(a, top)) * scale[..., None, :]
    return codes.reshape(matrix.shape), scale, restored.reshape(matrix.shape)


def exponent_of(shape: tuple[int, ...], read: Callable[[int, slice], np.ndarray], group: int, top: int) -> float:
    """The exponent of one layer's matrices, shape [matrices, rows, columns], from a sample of their columns.

    read: (matrix, columns) -> float32[rows, those columns].
    """
    parts = [normalise(read(at, columns), group) for at, columns in sample_columns(*shape)]
    unit, scale = (np.concatenate(each, axis=-1) for each in zip(*parts))
    return search_exponent(unit, scale, top)


def sample_columns(matrices: int, rows: int, columns: int) -> list[tuple[int, slice]]:
    """(matrix, run of columns): all where they have at most 2^18 weights, else so many in 16 runs, evenly spread."""
    wanted = max(1, SEARCH_SAMPLE // rows)
    if matrices * columns <= wanted:
        return [(at, slice(0, columns)) for at in range(matrices)]
    runs = min(SEARCH_RUNS, wanted)
    width = min(wanted // runs, columns)
    samples = []
    for run in range(runs):
        at, middle = divmod((2 * run + 1) * matrices * columns // (2 * runs), columns)
        start = min(max(middle - width // 2, 0), columns - width)
        samples.append((at, slice(start, start + width)))
    return samples


def search_exponent(unit: np.ndarray, scale: np.ndarray, top: int) -> float:
    """argmin over a in [0.2, 1.2] of ||s · (u - û(a))||₂: golden section, 30 evaluations.

    unit, scale: [*, group, columns] and [*, columns]. Never worse than a = 1: where the search does not beat it, 1 is
    returned.
    """
    flat, weight = unit.reshape(-1), np.broadcast_to(scale[..., None, :], unit.shape).reshape(-1)
    magnitude = np.abs(flat)
    logs = np.log(np.maximum(magnitude, np.finfo(np.float32).tiny))

    def cost(a: float) -> float:
        code = np.exp(np.float32(a) * logs)
        code *= np.float32(top)
        np.minimum(np.rint(code, out=code), top, out=code)
        off = ((np.arange(top + 1) / top) ** (1 / a)).astype(np.float32)[code.astype(np.uint8)]
        off -= magnitude
        off *= weight
        return float(np.vdot(off, off))

    ratio = (math.sqrt(5) - 1) / 2
    low, high = SEARCH_LOW, SEARCH_HIGH
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = cost(left), cost(right)
    for _ in range(SEARCH_STEPS - 2):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = cost(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = cost(right)
    best, value = (left, at_left) if at_left <= at_right else (right, at_right)
    return float(np.float32(best)) if value < cost(1.0) else 1.0


def top_of(bits: int) -> int:
    """q_max, the largest code."""
    return 2 ** (bits - 1) - 1


def encode(unit: np.ndarray, a: float, top: int) -> np.ndarray:
    """clip(round(q_max · sign(u) · |u|^a), ±q_max) as int8."""
    power = np.abs(unit)
    if a != 1.0:
        with np.errstate(divide="ignore"):
            np.log(power, out=power)  # exp(a log u) takes half the time of a power
        power *= np.float32(a)
        np.exp(power, out=power)
    power *= np.float32(top)
    np.minimum(np.rint(power, out=power), top, out=power)
    return np.copysign(power, unit, out=power).astype(np.int8)


def table_of(a: float, top: int) -> np.ndarray:
    """float32[2·q_max + 1]: level of code k at index k + q_max, sign(k) · (|k| / q_max)^(1/a)."""
    code = np.arange(-top, top + 1)
    return (np.sign(code) * (np.abs(code) / top) ** (1 / a)).astype(np.float32)


def look_up(codes: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The level of each int8 code."""
    top = len(table) // 2
    by_byte = np.zeros(256, np.float32)
    by_byte[np.arange(-top, top + 1) & 255] = table
    return by_byte[codes.view(np.uint8)]


def normalise(flat: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
    """(u [*lead, groups, group, cols], s [*lead, groups, cols])."""
    grouped = flat.reshape(*flat.shape[:-2], flat.shape[-2] // group, group, flat.shape[-1])
    scale = np.max(np.abs(grouped), axis=-2)
    scale = np.where(scale == 0, np.float32(1), scale)
    return grouped / scale[..., None, :], scale

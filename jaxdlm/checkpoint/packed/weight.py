"""`PackedTensors`: weights that several stored tensors make up, under the names and shapes of an unquantised release."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxdlm.checkpoint.errors import DtypeUnsupported, ShapeMismatch, TensorsMismatch, ValuesInvalid
from jaxdlm.checkpoint.safetensors import TensorInfo
from jaxdlm.checkpoint.tensors import Tensors

KEY = "quantization_config"
AGAIN = "download the release again, or use an unquantised one"
FLOATING = ("F32", "BF16", "F16")


class Read(Protocol):
    """The stored tensor of a role, or the rows [a, b) of its leading axis."""

    def __call__(self, role: str, rows: tuple[int, int] | None = None) -> np.ndarray: ...


@dataclass(frozen=True)
class Packed:
    """One weight. shape: its own; parts: role -> stored tensor; unpack: float32 of its rows [a, b), out of these parts."""

    shape: tuple[int, ...]
    parts: Mapping[str, str]
    unpack: Callable[[Read, int, int], np.ndarray]


@dataclass(frozen=True)
class PackedTensors:
    """The tensors of a folder with packed weights unpacked, as float32; `used` are stored ones that say nothing else."""

    inner: Tensors
    weights: Mapping[str, Packed]
    used: frozenset[str] = frozenset()

    @functools.cached_property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Those that are stored as they are, and each packed weight with the header that it would have."""
        parts = {part for weight in self.weights.values() for part in weight.parts.values()} | self.used
        plain = {name: info for name, info in self.inner.infos.items() if name not in parts}
        return plain | {
            name: TensorInfo(name, "F32", weight.shape, 0, 4 * prod(weight.shape))
            for name, weight in self.weights.items()
        }

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.inner.warnings

    @property
    def dropped(self) -> Mapping[str, str]:
        return self.inner.dropped

    def file(self, name: str) -> Path:
        """The file that holds a tensor, or the first of its parts."""
        weight = self.weights.get(name)
        return self.inner.file(name if weight is None else next(iter(weight.parts.values())))

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """One tensor, or the rows [a, b) of its leading axis."""
        weight = self.weights.get(name)
        if weight is None:
            return self.inner.read(name, rows)

        def part(role: str, of: tuple[int, int] | None = None) -> np.ndarray:
            stored = weight.parts[role]
            return self._whole(stored) if of is None else self.inner.read(stored, of)

        return weight.unpack(part, *(rows or (0, weight.shape[0])))

    @functools.cached_property
    def _whole(self) -> Callable[[str], np.ndarray]:
        """Whole parts, of which the last few are kept: rows of a weight are asked for one after another."""
        return functools.lru_cache(maxsize=8)(self.inner.read)


class Plan:
    """Finds the parts of weights and holds them against one another, before anything is read.

    Raises TensorsMismatch, ShapeMismatch or DtypeUnsupported, each of which names the tensor.
    """

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors

    def stems(self, ending: str) -> list[str]:
        """What stands before the ending, of each tensor that ends so."""
        return [name.removesuffix(ending) for name in sorted(self.tensors.infos) if name.endswith(ending)]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors.infos[name].shape

    def beside(self, name: str, *others: str) -> str:
        """The first of the others that is there. Raises TensorsMismatch where none is."""
        other = next((other for other in others if other in self.tensors.infos), None)
        if other is None:
            raise TensorsMismatch(
                f"is quantised, and {' or '.join(others)} is not there", file=self.tensors.file(name), tensor=name, hint=AGAIN
            )  # fmt: skip
        return other

    def expect(self, name: str, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str], why: str) -> str:
        """The name, of a tensor that has one of the shapes and dtypes."""
        info = self.tensors.infos[name]
        if info.dtype not in dtypes:
            raise DtypeUnsupported(
                f"holds {info.dtype}", file=self.tensors.file(name), tensor=name, expected=" or ".join(dtypes), got=info.dtype,
                hint=AGAIN,
            )  # fmt: skip
        if info.shape not in shapes:
            raise ShapeMismatch(
                f"has a shape that does not go with {why}", file=self.tensors.file(name), tensor=name,
                expected=" or ".join(map(str, shapes)), got=info.shape, hint=f"check {KEY} in config.json",
            )  # fmt: skip
        return name


def finite(values: np.ndarray, name: str) -> np.ndarray:
    """Scales in float32. Raises ValuesInvalid for one that is not finite."""
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValuesInvalid("holds a scale that is not finite", tensor=name, hint=AGAIN)
    return values


def between(values: np.ndarray, low: int, high: int, what: str, name: str) -> np.ndarray:
    """The values, of which each lies in [low, high]. Raises ValuesInvalid that names the first one that does not."""
    wrong = values[(values < low) | (values > high)]
    if wrong.size:
        raise ValuesInvalid(f"holds the {what} {wrong[0]}, outside {low}..{high}", tensor=name, hint=AGAIN)
    return values


def fields(words: np.ndarray, bits: int, order: Sequence[int] = ()) -> np.ndarray:
    """Whole numbers of `bits` bits out of 32-bit words: field i of a word of the last axis is number order[i] (i) of it."""
    count = 32 // bits
    shifts = bits * np.arange(count, dtype=np.uint32)
    shifts = shifts[np.argsort(order)] if order else shifts
    values = words.view(np.uint32)[..., None] >> shifts & np.uint32((1 << bits) - 1)
    return values.reshape(*words.shape[:-1], -1).astype(np.int32)


def pad_up(number: int, unit: int) -> int:
    """How many units hold so many."""
    return -(-number // unit)


Settings = Mapping[str, Any]

"""The types of GGUF tensors, by the package gguf: how large their blocks are, and what the blocks stand for."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxdlm import distribution
from jaxdlm.checkpoint.errors import DtypeUnsupported
from jaxdlm.errors import InputError

# types that hold floating-point numbers as they are: what NumPy calls them
PLAIN = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}
CHUNK = 2**18  # values that are dequantised at once: what is in between stays in the cache


@dataclass(frozen=True)
class Kind:
    """A type: `block` values lie in `nbytes` bytes."""

    name: str
    code: int
    block: int
    nbytes: int

    @property
    def quantised(self) -> bool:
        return self.name not in PLAIN

    @property
    def dtype(self) -> np.dtype:
        """The dtype of `values`: as stored, else float32."""
        return PLAIN.get(self.name, np.dtype(np.float32))

    def values(self, data: np.ndarray) -> np.ndarray:
        """The numbers that uint8[n * nbytes] stands for, [n * block]: exact in float32."""
        if not self.quantised:
            return data.view(self.dtype)
        blocks = data.reshape(-1, self.nbytes)
        numbers, step = np.empty((len(blocks), self.block), np.float32), max(1, CHUNK // self.block)
        for start in range(0, len(blocks), step):
            part = blocks[start : start + step]
            numbers[start : start + step] = _dequantised(part.reshape(1, -1), self.code).reshape(-1, self.block)
        return numbers.reshape(-1)


def kind_of(code: int, tensor: str, path: Path) -> Kind:
    """The type of that number. Raises DtypeUnsupported for one that is not known, or of which no float can be made."""
    kind, readable = _kind(code)
    if kind is None or not readable:
        what = f"has the unknown type {code}" if kind is None else f"holds {kind.name}, which cannot be dequantised"
        raise DtypeUnsupported(
            what, file=path, tensor=tensor,
            hint=f"use a file of another type such as Q8_0 or F16, or update the package gguf (this is {_version()})",
        )  # fmt: skip
    return kind


@functools.cache
def _kind(code: int) -> tuple[Kind | None, bool]:
    """(the type, whether it can be dequantised); None for a number that the package does not know."""
    gguf = package()
    try:
        known = gguf.GGMLQuantizationType(code)
        block, nbytes = gguf.GGML_QUANT_SIZES[known]
    except (ValueError, KeyError):
        return None, False
    kind = Kind(known.name, code, block, nbytes)
    try:
        _dequantised(np.zeros((1, nbytes), np.uint8), code)
    except NotImplementedError:
        return kind, False
    return kind, True


def _dequantised(data: np.ndarray, code: int) -> np.ndarray:
    gguf = package()
    with np.errstate(all="ignore"):  # what is not finite is found and named later, as in any checkpoint
        return gguf.dequantize(data, gguf.GGMLQuantizationType(code))


def _version() -> str:
    from importlib.metadata import version

    return version("gguf")


@functools.cache
def package() -> Any:
    """The package gguf. Raises InputError that names the extra where it is not installed."""
    try:
        import gguf
    except ImportError as error:
        raise InputError(
            f"GGUF files are read with the package gguf ({error}): {distribution.install('gguf')}"
        ) from None
    return gguf

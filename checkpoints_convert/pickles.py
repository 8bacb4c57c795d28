"""Pickled checkpoints, with the caller's consent only: torch.load(weights_only=True), which runs no code of the file."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxdlm.checkpoint.errors import DtypeUnsupported, DuplicateTensor, HeaderInvalid, PickleRefused, UnsafePath
from jaxdlm.checkpoint.files import open_file, size_of
from jaxdlm.checkpoint.safetensors import NAMES, TensorInfo, check_name
from jaxdlm.checkpoint.tensors import PICKLES
from jaxdlm.errors import InputError


@dataclass(frozen=True)
class PickledTensors:
    """Tensors of .bin files, memory-mapped by PyTorch; the same interface as safetensors shards."""

    infos: Mapping[str, TensorInfo]
    files: Mapping[str, Path]
    warnings: tuple[str, ...] = ()

    @property
    def dropped(self) -> Mapping[str, str]:
        """None: a pickle holds every name of a tensor."""
        return {}

    def file(self, name: str) -> Path:
        """The .bin file that holds a tensor."""
        return self.files[name]

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """One tensor, or rows of it, copied out of the mapping."""
        array = _numpy(load_pickle(self.files[name])[name])
        return np.array(array if rows is None else array[rows[0] : rows[1]])


def open_pickles(folder: Path) -> PickledTensors | None:
    """The pickled weights of a folder; None where it has safetensors, which are preferred."""
    if any(folder.glob("*.safetensors")):
        return None
    paths = sorted(path for path in folder.iterdir() if path.suffix in PICKLES and "training_args" not in path.name)
    infos: dict[str, TensorInfo] = {}
    files: dict[str, Path] = {}
    for path in paths:
        size_of(path, folder)
        for name, tensor in load_pickle(path).items():
            check_name(name, path)
            if "/" in name:
                raise UnsafePath("is not a safe tensor name", file=path, tensor=name, hint="rename the tensor")
            if name in files:
                raise DuplicateTensor(f"is also in {files[name].name}", file=path, tensor=name, hint="remove one copy")
            infos[name], files[name] = _info(name, tensor, path), path
    if not infos:
        raise HeaderInvalid("holds neither safetensors nor pickled weights", file=folder, hint="give another folder")
    return PickledTensors(infos, files)


@functools.lru_cache(maxsize=64)
def load_pickle(path: Path) -> dict[str, Any]:
    """The flat dict of tensors in a file; PickleRefused for anything that weights_only refuses."""
    try:
        import torch
    except ImportError:
        raise InputError("--allow-pickle needs PyTorch; pip install torch, or convert to safetensors first") from None
    try:
        with warnings.catch_warnings(action="ignore"):  # on kinds of tensors that are refused below
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as error:  # torch raises a dozen kinds; each means that the file is not plain weights
        # its text is left out: it goes on to explain how to switch the protection off
        raise PickleRefused(
            f"is refused by torch.load(weights_only=True) ({type(error).__name__}): damaged, or more than tensors",
            file=path, hint="do not trust it; use safetensors",
        ) from None  # fmt: skip
    plain = isinstance(tensors, dict) and all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in tensors.items()
    )
    if not plain:
        raise PickleRefused("is not a flat dict of tensors", file=path, hint="save model.state_dict() instead")
    return tensors


def _is_zip(path: Path) -> bool:
    with open_file(path) as file:
        return file.read(4) == b"PK\x03\x04"


def _kind(tensor: Any) -> str:
    """What a tensor is that is no plain array in memory; "" for one that is."""
    kinds = {
        "nested": tensor.is_nested, "quantised": tensor.is_quantized,
        str(tensor.layout).removeprefix("torch."): str(tensor.layout) != "torch.strided",
        str(tensor.device): tensor.device.type != "cpu",
    }  # fmt: skip
    return next((kind for kind, is_so in kinds.items() if is_so), "")


def _info(name: str, tensor: Any, path: Path) -> TensorInfo:
    kind = _kind(tensor)
    if kind:
        raise DtypeUnsupported(f"is a {kind} tensor", file=path, tensor=name, hint="save it as a plain one on the CPU")
    try:
        dtype = np.dtype(str(tensor.dtype).removeprefix("torch.").replace("bfloat16", "V2"))
    except TypeError:
        dtype = np.dtype(object)
    name_of = "BF16" if str(tensor.dtype) == "torch.bfloat16" else NAMES.get(dtype)
    if name_of is None:
        raise DtypeUnsupported(f"holds {tensor.dtype}", file=path, tensor=name, hint="use float32 or bfloat16 weights")
    return TensorInfo(name, name_of, tuple(tensor.shape), 0, tensor.numel() * tensor.element_size())


def _numpy(tensor: Any) -> np.ndarray:
    import torch

    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.detach().contiguous().numpy()

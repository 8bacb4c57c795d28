"""Tables counted over a corpus of texts, kept in files with the words of their tokenizer."""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxdlm import argument
from jaxdlm.errors import InputError

MAKER = "scripts/trigrams.py"


class Stored(NamedTuple):
    """The arrays of a file, the vocabulary that they speak of, and what the file is called in messages."""

    arrays: dict[str, np.ndarray]
    vocab_size: int
    vocabulary: int
    name: str


def ids_of(lm: Any, text: Any, number: int) -> np.ndarray:
    """The token ids of a text, int64. Raises InputError for what is none, by its number."""
    if isinstance(text, str):
        if lm.tokenizer is None:
            raise InputError(f"model {lm.name!r} has no tokenizer: pass texts as lists of token ids")
        text = lm.tokenizer.encode_inside(text)
    most = lm.config.vocab_size - 1
    try:
        ids = np.asarray(text)
    except ValueError:  # lists of different lengths
        ids = np.zeros((1, 1))
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu") or ((ids < 0) | (ids > most)).any():
        argument.refuse(text, f"texts[{number}]", f"a string or a list of ids from 0 to {most}")
    return ids.astype(np.int64)


def write(path: str | os.PathLike[str], kind: str, arrays: Mapping[str, Any], vocab_size: int, vocabulary: int) -> None:
    """A file of safetensors that `read` reads."""
    from jaxdlm.checkpoint.safetensors import write_safetensors

    notes = {"kind": kind, "vocab_size": str(vocab_size), "vocabulary": str(vocabulary)}
    write_safetensors(argument.path(path, "path"), {name: np.asarray(x) for name, x in arrays.items()}, notes)


def read(
    path: str | os.PathLike[str],
    kind: str,
    dtypes: Mapping[str, Any],
    fault: Callable[[Mapping[str, np.ndarray], int], str],
) -> Stored:
    """The file of this kind, whose arrays are these. fault: what is wrong with them for so many words, or nothing. Raises
    InputError where it is missing, damaged, or something else."""
    from jaxdlm.checkpoint.safetensors import read_safetensors

    file = argument.path(path, "table")
    if not file.is_file():
        raise InputError(f"table={argument.shown(str(path))}: must be a file that {MAKER} wrote")
    stored, notes = read_safetensors(file)
    wrong = _fault(stored, notes, kind, dtypes) or fault(stored, int(notes["vocab_size"]))
    if wrong:
        raise InputError(f"{file.name} is no n-gram table ({wrong}): make one with {MAKER}")
    return Stored(stored, int(notes["vocab_size"]), int(notes["vocabulary"]), f"the n-gram table {file.name}")


def _fault(stored: Mapping[str, np.ndarray], notes: Mapping[str, str], kind: str, dtypes: Mapping[str, Any]) -> str:
    if notes.get("kind") != kind or set(stored) != set(dtypes):
        return f"it holds {', '.join(sorted(stored)) or 'nothing'}"
    if not all(notes.get(name, "").isdigit() for name in ("vocab_size", "vocabulary")):
        return "it does not say of which tokenizer"
    if any(stored[name].ndim != 1 or stored[name].dtype != dtype for name, dtype in dtypes.items()):
        return "its parts have other types"
    return ""

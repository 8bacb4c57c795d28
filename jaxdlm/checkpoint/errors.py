"""What can be wrong with a checkpoint: one class per kind, each message one line that names file, tensor and fix."""

from __future__ import annotations

from jaxdlm.errors import InputError


class CheckpointError(InputError):
    """A checkpoint that cannot be read as it is.

    Args: problem: what is wrong; file, tensor: where; expected, got: the two sides of a comparison; hint: what to do.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: object = None,
        tensor: str | None = None,
        expected: object = None,
        got: object = None,
        hint: str | None = None,
    ):
        self.problem, self.hint = problem, hint
        self.file = None if file is None else str(file)
        self.tensor, self.expected, self.got = tensor, expected, got
        super().__init__(self._line())

    def _line(self) -> str:
        line = self.problem
        if self.tensor is not None:
            line = f"tensor {self.tensor!r}: {line}"
        if self.file is not None:
            line = f"{self.file}: {line}"
        if self.expected is not None or self.got is not None:
            line += f" (expected {self.expected}, got {self.got})"
        if self.hint:
            line += f"; {self.hint}"
        return line.replace("\n", " ").replace("\x00", "\\0")


class TruncatedFile(CheckpointError):
    """The file is shorter or longer than its header says."""


class HeaderInvalid(CheckpointError):
    """A safetensors header, an index or a JSON file that breaks its own format."""


class UnsafePath(CheckpointError):
    """A name that could reach outside the checkpoint's folder."""


class DuplicateTensor(CheckpointError):
    """One tensor in two places, or two tensors for one place."""


class ShapeMismatch(CheckpointError):
    """A tensor whose shape disagrees with config.json."""


class DtypeUnsupported(CheckpointError):
    """Integer, FP8 or packed weights where floating point is needed."""


class TensorsMismatch(CheckpointError):
    """Missing or unexpected tensors, found by comparing name sets."""


class PickleRefused(CheckpointError):
    """A pickled checkpoint without the caller's explicit consent."""


class ValuesInvalid(CheckpointError):
    """NaN or infinite values under strict, or values that the requested type cannot hold."""


class ChecksumMismatch(CheckpointError):
    """Bytes that are not those that were written."""


class OutputRefused(CheckpointError):
    """The output exists already, is not ours, or does not fit on the disk."""

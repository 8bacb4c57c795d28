"""What a recipe leaves beside its weights: the record of the run, and its curve."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Writes it as JSON that is read by people, too."""
    path.write_text(json.dumps(record, indent=1) + "\n")


def write_curve(path: Path, curve: Iterable[Mapping[str, Any]]) -> None:
    """Writes an object per line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in curve))

"""The settings that a validation run chose: what `jaxdlm eval --chosen` decodes."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxdlm.errors import InputError
from jaxdlm.eval.run import Unit, baseline, cache_of
from jaxdlm.eval.summary import POOLED
from jaxdlm.eval.sweeps import Choice, Settings

Claims = Mapping[tuple[str, str], Mapping[str, Any]]  # (policy, cache) -> its fastest setting without loss


class Chosen(NamedTuple):
    """claims: see `Claims`; skipped: method -> why it has none; model_hash: of the model that was asked."""

    claims: Claims
    skipped: Mapping[str, str]
    model_hash: str


NOTHING = Chosen({}, {}, "")


def read(folder: str, methods: Sequence[Choice], caches: Sequence[Choice]) -> Chosen:
    """What the validation run in `folder` chose among those methods and caches, pooled over the learned tasks.

    Raises InputError for a folder without a validation run, for settings beside it, and where nothing was chosen.
    """
    if any(choice.settings is not None for choice in (*methods, *caches)):
        raise InputError(
            f"--chosen {folder} says the settings: give --policies and --cache bare names, or leave them out"
        )
    path = pathlib.Path(folder) / "summary.json"
    try:
        summary = json.loads(path.read_text())
        split, model = summary["meta"]["split"], summary["meta"]["model_hash"]
        points = {(p["label"], p["cache"]): p["settings"] for p in summary["points"] if p["task"] == POOLED}
        curves = {(c["policy"], c["cache"]): c["no_loss"] for c in summary["curves"] if c["task"] == POOLED}
        settings = {key: as_given(points[best["label"], best["cache"]]) for key, best in curves.items() if best}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"--chosen {folder}: {path} cannot be read; give the --output of a validation run") from error
    if split != "validation":
        raise InputError(f"--chosen {folder} ran on the {split} split: choose settings on validation")
    names, kinds = ({choice.name for choice in each} for each in (methods, caches))
    claims = {
        key: {**curves[key], "settings": settings[key]} for key in settings if key[0] in names and key[1] in kinds
    }
    if not claims:
        raise InputError(f"--chosen {folder} holds no setting without loss for these --policies and --cache")
    none = {policy for policy, _ in curves if policy in names} - {policy for policy, _ in claims}
    return Chosen(claims, dict.fromkeys(sorted(none), f"no setting without loss in {folder}"), model)


def as_given(settings: Settings) -> Settings:
    """Settings as they were before they went through JSON, which has no tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}


def units(claims: Claims, tasks: Sequence[str]) -> list[Unit]:
    """The claims on every task, after the baseline that they are compared with."""
    units_ = [baseline(task) for task in tasks]
    for (policy, _), claim in claims.items():
        units_ += [Unit(policy, claim["settings"], *cache_of(claim["cache"]), task) for task in tasks]
    return list({unit.key: unit for unit in units_}.values())

"""Which settings of a method are compared: one knob each, from its slowest and safest end to its fastest.

`SWEEPS` names the knob where a recipe has several; any other recipe is swept over the first argument that `KNOBS`
knows, so that a new recipe is evaluated without an entry here. Numbers are leaves of a rule, so the settings of a
sweep share one compiled program.
"""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxdlm import policies
from jaxdlm.errors import InputError, did_you_mean
from jaxdlm.policy_words import literal, parse_policy, split

Settings = dict[str, Any]
Sweep = Callable[[str, int], list[Settings]]  # name of a policy, columns -> its settings
PROBABILITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def per_step(canvas: int) -> list[int]:
    """`steps` for k = 1, 2, 3, 4, 8 and all columns per forward."""
    return [max(1, -(-canvas // k)) for k in (1, 2, 3, 4, 8, canvas)]


KNOBS: dict[str, Callable[[int], Sequence[Any]]] = {
    "tau": lambda canvas: PROBABILITIES,
    "factor": lambda canvas: (0.4, 0.7, 1.0, 1.3, 1.6, 1.9),
    "threshold": lambda canvas: (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.8),  # nats
    "gamma": lambda canvas: (0.02, 0.05, 0.1, 0.2, 0.4, 0.8),  # nats
    "entropy_bound": lambda canvas: (0.02, 0.05, 0.1, 0.2, 0.4, 0.8),  # nats
    "draft_steps": lambda canvas: (2, 3, 4, 6, 8, 12),
    "steps": per_step,
    "refresh_every": lambda canvas: (1, 2, 3, 4, 8, 16),
    "every": lambda canvas: (1, 2, 3, 4, 8, 16),
}


LONG = 64  # from so many columns on, an answer of the tasks (16 at most) fills less than the first third


def _prophet(canvas: int) -> list[Settings]:
    """The answer and its thresholds, early, middle, late; no task announces where its answer begins.

    On a short canvas it is the whole of it, at the published thresholds times a factor (small models are surer than
    those of the paper). On a long one an answer stands in front of much padding: the first eight columns are watched,
    and only the early threshold differs from the paper's, since in blocks the answer is written when the stage ends.
    """
    if canvas >= LONG:
        bars = [(early, 5.0, 2.5) for early in (12.0, 11.5, 11.0, 10.5, 10.0, 9.5, 7.5)]
        return [{"answer_start": 0, "answer_length": 8, "thresholds": bar} for bar in bars]
    factors = (8.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0)
    bars = [(7.5 * f, 5.0 * f, 2.5 * f) for f in factors]
    return [{"answer_start": 0, "answer_length": canvas, "thresholds": bar} for bar in bars]


def _credit(canvas: int) -> list[Settings]:
    return [{"tau": tau} for tau in PROBABILITIES]


def _local_leap(canvas: int) -> list[Settings]:
    """(kappa, tau): the paper's anchor 0.9 with several relaxed thresholds, and stricter anchors."""
    pairs = ((0.99, 0.95), (0.95, 0.9), (0.9, 0.85), (0.9, 0.75), (0.9, 0.65), (0.8, 0.6), (0.7, 0.5))
    return [{"kappa": kappa, "tau": tau} for kappa, tau in pairs]


def _ccd_ds(canvas: int) -> list[Settings]:
    """The paper's algorithm with its four columns at most per forward, with more, with a bound on the entropy, and the
    release's."""
    half = max(1, canvas // 2)
    paper = ({"top_v": 4}, {"top_v": 4, "steps": half}, {"top_v": 8}, {"top_v": 8, "steps": half})
    wide = ({"top_v": 16, "eps": eps} for eps in (0.01, 0.05, 0.2, 0.4))  # nats
    return [*paper, *wide, *({"mode": "release", "expand_ratio": r} for r in (2.0, 4.0, 8.0))]


def _best(canvas: int) -> list[Settings]:
    """Pairs of LocalLeap, stricter ones too, under the credit and FreeDave of the defaults."""
    pairs = ((0.995, 0.99), (0.99, 0.97), (0.97, 0.95), (0.95, 0.9), (0.9, 0.85), (0.9, 0.75))
    return [{"kappa": kappa, "tau": tau} for kappa, tau in pairs]


def _klass(canvas: int) -> list[Settings]:
    """(tau, eps): the paper's pairs, and looser ones."""
    pairs = ((0.9, 0.001), (0.9, 0.01), (0.7, 0.01), (0.6, 0.015), (0.6, 0.1), (0.5, 0.5))
    return [{"tau": tau, "eps": eps} for tau, eps in pairs]


def _hierarchical(canvas: int) -> list[Settings]:
    pairs = ((0.99, 0.95), (0.95, 0.9), (0.92, 0.8), (0.92, 0.62), (0.9, 0.4), (0.8, 0.2))
    return [{"tau": tau, "low": low} for tau, low in pairs]


SWEEPS: dict[str, Callable[[int], list[Settings]]] = {
    "klass": _klass,
    "hierarchical": _hierarchical,
    "dus": lambda canvas: [{"base": base, "theta": theta} for theta in (0.0, 0.9) for base in (2, 4, canvas)],
    "saber": lambda canvas: [{"least": least} for least in (1, 2, 3, 4, 6, 8)],
    "dawn": lambda canvas: [{"tau": tau, "tau_sink": 4 / canvas} for tau in PROBABILITIES],
    "wino": lambda canvas: [{"tau": tau} for tau in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)],
    "remdm": lambda canvas: [{"steps": steps, "temperature": 0.0} for steps in per_step(canvas)],  # greedy, as the rest
    "prophet": _prophet,
    "credit": _credit,
    "local_leap": _local_leap,
    "ccd_ds": _ccd_ds,
    "best": _best,
    "sdar": lambda canvas: [{"tau": tau} for tau in PROBABILITIES],
    "llada2": lambda canvas: [{"tau": tau} for tau in PROBABILITIES],
}


def sweep(name: str, canvas: int) -> list[Settings]:
    """Settings of a recipe on a canvas of that many columns, no two alike; [{}] for one without a knob."""
    if name in SWEEPS:
        return SWEEPS[name](canvas)
    return _by_knob(policies.RECIPES[name], canvas)


def cache_sweep(name: str, canvas: int) -> list[Settings]:
    """Settings of a cache: its refresh interval where it has one, as it stands where it has none."""
    return _by_knob(policies.CACHES[name], canvas)


def _by_knob(factory: Callable[..., Any], canvas: int) -> list[Settings]:
    arguments = inspect.signature(factory).parameters
    knob = next((knob for knob in KNOBS if knob in arguments), None)
    if knob is None:
        return [{}]
    return [{knob: value} for value in dict.fromkeys(KNOBS[knob](canvas))]


class Choice(NamedTuple):
    """A recipe or a cache with the settings to run; settings None: its standard sweep."""

    name: str
    settings: tuple[Settings, ...] | None


def choices(words: str, known: Mapping[str, Any], thing: str) -> list[Choice]:
    """`"threshold,local_leap,kappa=[0.8,0.9],radius=4"` -> threshold's sweep, and two settings of local_leap.

    A part with `=` belongs to the name before it, as in --policy; a list is several settings, several lists are all
    their combinations. `all` is every known name. Raises InputError for an unknown name or argument.
    """
    chosen: list[Choice] = []
    for group in _groups(split(words)):
        name, arguments = parse_policy(",".join(group))
        if name == "all" and not arguments:
            chosen += [Choice(each, None) for each in known]
            continue
        if name not in known:
            raise InputError(f"unknown {thing} {name!r}{did_you_mean(name, known)}: one of {', '.join(known)}")
        _check_arguments(name, arguments, known[name], thing)
        chosen.append(Choice(name, _combinations(arguments) if arguments else None))
    return list(dict.fromkeys(chosen)) if all(c.settings is None for c in chosen) else chosen


def _groups(parts: Sequence[str]) -> list[list[str]]:
    groups: list[list[str]] = []
    for part in parts:
        if "=" in part and groups:
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def _check_arguments(name: str, arguments: Settings, factory: Callable[..., Any], thing: str) -> None:
    takes = inspect.signature(factory).parameters
    for argument in arguments:
        if argument not in takes and not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
            raise InputError(f"{thing} {name!r} takes no {argument!r}: it takes {', '.join(takes) or 'no arguments'}")


def _combinations(arguments: Settings) -> tuple[Settings, ...]:
    values = [_listed(value) for value in arguments.values()]
    return tuple(dict(zip(arguments, each)) for each in itertools.product(*values))


def _listed(value: Any) -> list[Any]:
    """A list, also one of bare words and numbers (`[paper,0.5]`), or one value."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        return [literal(word.strip()) for word in value[1:-1].split(",")]
    return value if isinstance(value, list) else [value]


def label(name: str, settings: Settings) -> str:
    """`local_leap,kappa=0.9,radius=4`: what --policy would be given."""
    return ",".join([name, *(f"{key}={_word(value)}" for key, value in settings.items())])


def _word(value: Any) -> str:
    # a tuple that has been through JSON is a list
    return f"({','.join(f'{x:g}' for x in value)})" if isinstance(value, tuple | list) else f"{value}"


def canonical(settings: Settings) -> str:
    """One string per settings, whatever the order of the keys and whether they come from JSON."""
    return json.dumps(settings, sort_keys=True, default=list)

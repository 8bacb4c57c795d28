"""What a row of a batch may ask of its sampling, as in OpenAI's and vLLM's bodies: what is read, refused, and made of it.

A job's programs have a place for each field that any of its rows asks for (`asked_by`), and rows without it bring its
neutral value. So rows with and without a field share a program, and no value compiles anything again.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from jaxdlm import argument
from jaxdlm.batch import answers
from jaxdlm.core import compose
from jaxdlm.core.filters import FILTERS, NEUTRAL
from jaxdlm.core.guide import Guide, Several
from jaxdlm.errors import InputError
from jaxdlm.guides.frequency import frequency
from jaxdlm.guides.logit_bias import LogitBias, bias_table
from jaxdlm.guides.presence import presence
from jaxdlm.guides.repetition import repetition
from jaxdlm.own import Own
from jaxdlm.rules.per_row import kind_of, number_of
from jaxdlm.rules.sample import Sample
from jaxdlm.speculative.policy import Speculation

TEMPERATURE, BIAS = "temperature", "logit_bias"
# fields that are guides of left-to-right decoding, in the order in which they apply (vLLM's): (check, guide, neutral)
BEHIND_TEXT: dict[str, tuple[argument.Kind, Callable[[Any], Guide], float]] = {
    "repetition_penalty": (argument.real(0.01, 100), repetition, 1.0),
    "frequency_penalty": (argument.real(-2, 2), frequency, 0.0),
    "presence_penalty": (argument.real(-2, 2), presence, 0.0),
}
FIELDS = (*FILTERS, BIAS, *BEHIND_TEXT)
NUMBERS = frozenset({TEMPERATURE, *FILTERS})  # of the distribution that tokens are drawn from
PLAIN: dict[str, Any] = NEUTRAL | {BIAS: {}} | {name: neutral for name, (*_, neutral) in BEHIND_TEXT.items()}


def asked_by(value: Mapping[str, Any]) -> frozenset[str]:
    """The fields of a row, or of the body of a request, that change how it is sampled; nothing is checked."""
    body = value.get("body")
    fields = body if isinstance(body, Mapping) else value
    asked = {name for name in FIELDS if fields.get(name) is not None and fields[name] != PLAIN[name]}
    return answers.asked_by(fields).union(asked, {TEMPERATURE} if fields.get(TEMPERATURE) else ())


def refusals(policies: Any, name: str) -> dict[str, str]:
    """What no row of a job can have -> why. policies: its `engine.Policies`; name: of its model."""
    refused: dict[str, str] = {}
    if not isinstance(policies.plain, Speculation):
        why = f"is for rows of autoregressive models, and {name} is a diffusion model: leave it out"
        refused |= dict.fromkeys(BEHIND_TEXT, why)
        why = f"are those of a text written from left to right, and {name} is a diffusion model: leave it out"
        refused[answers.LOGPROBS] = why
    sampled = policies.heated is not None
    sampled = sampled and (isinstance(policies.plain, Speculation) or bool(_samplers(policies.heated)))
    if not sampled:
        named = FILTERS if isinstance(policies.plain, Speculation) else (*FILTERS, BIAS)
        refused |= dict.fromkeys(named, "means nothing to this policy, which draws nothing: leave it out")
    return refused


def heat_of(policy: Any) -> float | None:
    """The temperature of an autoregressive policy; None for others, which may draw in other ways."""
    return float(policy.warp.temperature) if isinstance(policy, Speculation) else None


def places(asked: Iterable[str], policies: Any, *, left_to_right: bool) -> tuple[str, ...]:
    """The fields that a program has a place for, so that each row brings its own; (): none is asked for."""
    fields = {TEMPERATURE, *FIELDS}.intersection(asked) - set(refusals(policies, ""))
    if policies.heated is None:
        fields.discard(TEMPERATURE)
    if not left_to_right and fields <= {TEMPERATURE}:
        return ()
    if fields and (not left_to_right or not fields.isdisjoint(FILTERS)):
        fields.add(TEMPERATURE)
    return tuple(sorted(fields))


def read(value: Mapping[str, Any], where: str, vocab: int, refused: Mapping[str, str]) -> dict[str, Any]:
    """The fields that a row asks for, checked; those with a neutral value are none. Raises InputError by line."""
    asked: dict[str, Any] = {}
    for name in FIELDS:
        if value.get(name) is not None:
            number = _checked(name, value[name], where, vocab)
            if name in refused and not _is_neutral(name, number):
                raise InputError(f"{where}: {name} {refused[name]}")
            if not _is_neutral(name, number):
                asked[name] = number
    return asked


def _checked(name: str, value: Any, where: str, vocab: int) -> Any:
    if name == BIAS:
        return bias_table(value, vocab, f"{where}: {BIAS}")
    if name == "top_k" and value == -1 and not isinstance(value, bool):  # as vLLM says all
        return 0
    number = (BEHIND_TEXT[name][0] if name in BEHIND_TEXT else FILTERS[name])(value, f"{where}: {name}")
    return number if name == "top_k" else float(np.float32(number))


def _is_neutral(name: str, value: Any) -> bool:
    return not value.any() if name == BIAS else bool(value == PLAIN[name])


# ---------------------------------------------------------------------------------------------- left to right


def own_of(asked: Mapping[str, Any], temperature: float | None, fields: Iterable[str], policy: Any, vocab: int) -> Own:
    """What a row of an autoregressive model brings to a program with a place for these fields.

    policy: the job's, whose numbers it has where it asks for none.
    """
    fields = set(fields)
    return Own(_numbers(asked, temperature, fields, policy), _guide(asked, fields, vocab))


def _numbers(asked: Mapping[str, Any], temperature: float | None, fields: set[str], policy: Any) -> dict[str, Any]:
    if fields.isdisjoint(NUMBERS):
        return {}
    numbers = {TEMPERATURE: float(policy.warp.temperature if temperature is None else temperature)}
    for name in FILTERS:
        mine = number_of(policy.warp, name)
        if name in fields:
            numbers[name] = asked.get(name, PLAIN[name] if mine is None else mine)
    return numbers


def _guide(asked: Mapping[str, Any], fields: set[str], vocab: int) -> Guide | None:
    guides: list[Guide] = []
    if BIAS in fields:
        guides.append(LogitBias(asked.get(BIAS, np.zeros(vocab, np.float32))))
    guides += [make(asked.get(name, neutral)) for name, (_, make, neutral) in BEHIND_TEXT.items() if name in fields]
    return Several(tuple(guides)) if guides else None


# -------------------------------------------------------------------------------------------------- diffusion


def with_places(rule: Any, fields: Iterable[str]) -> Any:
    """The rule with these fields in each of its samplers, for `per_row` to fill."""
    blank: dict[str, Any] = {name: kind_of(name, 1)[1](0) for name in fields if name != TEMPERATURE}

    def one(part: Any) -> Any:
        return dataclasses.replace(part, **blank) if isinstance(part, Sample) else part

    return jax.tree.map(one, rule, is_leaf=lambda part: isinstance(part, Sample))


def numbers_of(
    asked: Mapping[str, Any], temperature: float | None, fields: Iterable[str], policies: Any, vocab: int
) -> dict[str, Any]:
    """What a row of a diffusion model brings for these fields, all of the policy's own where it asks for none."""
    heat = number_of(policies.plain, TEMPERATURE) if temperature is None else temperature
    policy = policies.cold if argument.greedy(float(heat)) else policies.heated
    numbers: dict[str, Any] = {TEMPERATURE: heat}
    for name in fields:
        if name == BIAS:
            numbers[name] = asked.get(name, np.zeros(vocab, np.float32))
        elif name != TEMPERATURE:
            mine = number_of(policy, name)
            numbers[name] = asked.get(name, PLAIN[name] if mine is None else mine)
    return numbers


def _samplers(rule: Any) -> list[Any]:
    return [part for part in compose.walk_rules(rule) if isinstance(part, Sample)]

"""Names as policies and caches, and which of them, and of models, mean something together."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxdlm import argument, policies
from jaxdlm._load import load
from jaxdlm.core import compose
from jaxdlm.core.cache import Cache
from jaxdlm.core.model import Layered, Model, with_config
from jaxdlm.core.rule import MOST, Rule, Stepper
from jaxdlm.errors import InputError
from jaxdlm.models.backbone import Backbone
from jaxdlm.models.config import ModelConfig
from jaxdlm.rules.guided import Agree
from jaxdlm.rules.per_row import number_of
from jaxdlm.rules.sample import Sample
from jaxdlm.speculative.policy import Speculation, Unloaded


def resolve_policy(policy: Any) -> Rule:
    """A recipe for diffusion models by name, or the rule itself."""
    policy = resolve_method(policy)
    if isinstance(policy, Speculation):
        raise InputError("this needs a diffusion policy: draft-and-target policies run through jaxdlm.decode")
    return policy


def resolve_method(policy: Any, load: Callable[[str], Any] = load) -> Rule | Speculation:
    """A recipe by name, with arguments as in a shell, or the rule itself; a draft given by name is loaded, by `load`."""
    if isinstance(policy, str):
        policy = policies.read(policy)
    while isinstance(policy, Unloaded):
        policy = policy.build(load(policy.name))
    if not isinstance(policy, Rule | Speculation):
        raise InputError(
            f"policy {argument.shown(policy)} is neither a name nor a rule: pass 'threshold' or chain(sample(), ...)"
        )
    return policy


def resolve_cache(cache: Any) -> Cache:
    """A cache by name, with arguments as in a shell, or the cache itself."""
    if isinstance(cache, str):
        cache = policies.read_cache(cache)
    if isinstance(cache, type) or not isinstance(cache, Cache):
        raise InputError(f"cache {argument.shown(cache)} is neither a name nor a cache: pass 'none'")
    return cache


def check(lm: Any, policy: Rule, cache: Cache) -> None:
    """Refuses combinations that mean nothing."""
    config = lm.config
    parts = list(compose.walk_rules(policy))
    if config.noise == "uniform":
        if not any(part.traits.noise == "uniform" for part in parts):
            raise InputError(f"{lm.name} has uniform noise and no mask token: use policy='entropy_bound'")
        if isinstance(policy, Stepper):
            raise InputError(f"{lm.name} rewrites its whole canvas, which no draft foresees: decode without freedave")
    elif any(part.traits.noise == "uniform" for part in parts):
        raise InputError(
            f"entropy_bound rewrites uniform noise, {lm.name} has masks: use sdar(strategy='entropy_bounded')"
        )
    elif config.noise != "mask" or config.tokens.mask is None:
        raise InputError(
            f"{lm.name} has no mask token: mask-diffusion policies need a masked diffusion model; an autoregressive one "
            f"takes policy='autoregressive' or 'speculative'"
        )
    if config.attention == "prefix_canvas" and not cache.recomputes_all and cache.attention != config.attention:
        raise InputError(f"{lm.name} has a causal prefix and a canvas: use cache='encoder' or 'none'")
    if config.expert_capacity and not cache.recomputes_all:
        raise InputError(
            f"{lm.name} routes the tokens of a block together, so that each forward reads all: use cache='none'"
        )
    if config.masked_canvas:
        check_canvas(lm, policy, parts)
    compose.complete(policy)
    if compose.rewrites(policy) and any(isinstance(part, Sample) and part.steady for part in parts):
        raise InputError(
            "uniforms: this policy writes columns twice, and the second draw would be by the first one's number: use "
            "measure=log_prob in sample(...), or leave uniforms out"
        )
    for part in parts:
        if isinstance(part, Agree):
            part.guide.check(lm, MOST)
    for part in parts:
        model = part.traits.made_for
        if model is not None and model != lm.name:
            raise InputError(
                f"{compose.name(part)} was trained for {model}, not for {lm.name}: train one and pass weights=..."
            )
    if cache.attention not in (None, config.attention):
        raise InputError(
            f"this cache needs {cache.attention} attention, {lm.name} has {config.attention}: use cache='none'"
        )
    if policy.traits.view == "canvas" and cache.window == "block":
        raise InputError("this policy looks at the whole canvas, this cache recomputes one block: use cache='none'")
    if compose.moves(policy):
        check_moving(policy, cache)
    if policy.traits.blind:
        check_blind(config, policy, cache)
    if policy.traits.attention:
        check_attention(lm, policy, cache)
    if isinstance(policy, Stepper) and not cache.versions:
        raise InputError(
            f"{type(cache).__name__} changes in every forward, so drafts of a row cannot share it: use cache='none'"
        )


def check_uniforms(policy: Any, n: int, max_new: int) -> None:
    """Refuses more samples, or more columns, than the policy has uniforms for."""
    uniforms = number_of(policy, "uniforms")
    if uniforms is None:
        return
    samples, columns = uniforms.shape
    if n > samples or max_new > columns:
        raise InputError(
            f"uniforms are for {samples} samples of {columns} columns, this is n={n} of max_new={max_new}: make more, "
            f"jd.low_discrepancy({1 << (max(n, samples) - 1).bit_length()}, {max(max_new, columns)})"
        )


def check_moving(policy: Rule, cache: Cache) -> None:
    """Refuses what keeps columns where they are."""
    if not cache.recomputes_all:
        raise InputError(f"{type(cache).__name__} keeps columns that daedal moves: use cache='none'")
    if isinstance(policy, Stepper) or "stop" not in (policy.traits.writes or ()):
        raise InputError("daedal changes the length of the canvas: leave the policy around it out")


def check_canvas(lm: Any, policy: Rule, parts: list[Any]) -> None:
    """Refuses what asks a model that reads one canvas behind a prefix for more than that."""
    if (
        isinstance(policy, Stepper)
        or policy.traits.view == "canvas"
        or policy.traits.blind
        or policy.traits.attention
        or compose.moves(policy)
    ):
        raise InputError(
            f"{lm.name} reads one block at a time behind a causal prefix: use a policy that looks at one block, such as "
            f"threshold"
        )
    if policy.traits.uncond:
        raise InputError(f"{lm.name} reads one block behind the prompt, and none without it: leave guidance out")


def check_blind(config: ModelConfig, policy: Rule, cache: Cache) -> None:
    """Refuses what cannot read columns that do not see themselves."""
    if config.prediction == "next":
        raise InputError("wino needs a model that predicts a column in its own row, not the next one: use saber")
    if not cache.blind:
        raise InputError(f"{type(cache).__name__} does not read the shadow columns of wino: use cache='none'")
    if isinstance(policy, Stepper) or policy.traits.view == "canvas" or policy.traits.uncond:
        raise InputError("wino reads shadow columns of one block of one version of a row: leave the other policy out")


def check_attention(lm: Any, policy: Rule, cache: Cache) -> None:
    """Refuses what cannot tell which columns attend to which."""
    grouped = isinstance(lm.model, Backbone) and lm.model.group > 1
    if not isinstance(lm.model, Layered) or lm.config.layer_scalar or grouped:
        raise InputError(f"dawn reads attention layer by layer, which {lm.name} does not show: use local_leap")
    if not cache.attends:
        raise InputError(
            f"{type(cache).__name__} does not read all columns in every forward, and dawn asks what each of them attends to "
            f"and how sure its token is: use cache='none'"
        )
    if isinstance(policy, Stepper) or policy.traits.uncond or policy.traits.blind:
        raise InputError("dawn reads the attention of one version of a row: leave the other policy out")


def has_blocks(policy: Any) -> bool:
    """Whether block lengths, and caches to choose from, mean something to a policy; not to autoregressive ones."""
    return not isinstance(policy, Speculation | Unloaded)


def check_continuation(cache: Cache, block: int | None) -> None:
    """Refuses what means nothing to an autoregressive model."""
    if not cache.recomputes_all:
        raise InputError(
            f"{type(cache).__name__}: an autoregressive model always keeps its keys and values: leave cache out"
        )
    if block is not None:
        raise InputError(f"block={argument.shown(block)}: an autoregressive model writes no blocks: leave block out")


def blocked(model: Model, block: int) -> Model:
    """The model with attention blocks of this length, where attention is block-causal; else the model as it is."""
    if model.config.attention != "block_causal" or model.config.block_size == block:
        return model
    return with_config(model, dataclasses.replace(model.config, block_size=block))

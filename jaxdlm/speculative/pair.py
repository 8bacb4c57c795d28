"""What a draft and a target need of each other, and what the methods that pair them share."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxdlm import argument
from jaxdlm.errors import InputError
from jaxdlm.speculative import taps, verify
from jaxdlm.speculative.policy import Bounded, DraftInfo, Speculation, Unloaded
from jaxdlm.speculative.state import Checks, Extends, Tunes
from jaxdlm.speculative.warp import Warp
from jaxdlm.vocabulary import differ, vocabulary_hash

MOST = 64  # nodes of a proposal: beyond it the target forward is no longer bound by reading weights
count = argument.whole(1, MOST)


def acceptance(sampling: Warp, sampled: verify.Acceptance = verify.rejection) -> verify.Acceptance:
    """`sampled`, or matching where the temperature is known to be 0 (an array may be anything) or noise is shared."""
    return verify.greedy if sampling.matches else sampled


def with_draft(draft: Any, build: Any, name: str = "draft") -> Any:
    """The policy of an autoregressive draft; where it is a name, an `Unloaded` one. name: of the argument."""
    return _with(draft, _continues, build, name)


def with_denoiser(draft: Any, build: Any) -> Any:
    """The same of a masked diffusion model."""
    return _with(draft, _fills, build, "draft")


def _continues(draft: Any, name: str) -> None:
    if not _autoregressive(draft.config):
        raise InputError(f"{name} {draft.name} is a diffusion model: use an autoregressive one such as 'tiny-draft'")


def _fills(draft: Any, name: str) -> None:
    config = draft.config
    if config.noise != "mask" or config.attention not in ("full", "block_causal"):
        raise InputError(f"{name} {draft.name} does not fill masks on both sides of a text: use a model such as 'tiny'")


def _with(draft: Any, check: Callable[[Any, str], None], build: Any, name: str) -> Any:
    if isinstance(draft, str):
        return Unloaded(draft, lambda lm: _with(lm, check, build, name))
    if not all(hasattr(draft, part) for part in ("model", "params", "config", "name")):
        raise InputError(
            f"{name}={argument.shown(draft)} must be a model: pass jaxdlm.load(...) or a name such as 'tiny-draft'"
        )
    check(draft, name)
    return build(draft)


def _autoregressive(config: Any) -> bool:
    return config.attention == "causal" and config.prediction == "next" and config.noise == "none"


def _as_run(lm: Any, policy: Speculation) -> Any:
    """The configuration of the target as the loop runs it: a drafter may turn a model to another of its modes."""
    drafter = policy.drafter
    model, _ = drafter.target(lm.model, lm.params) if isinstance(drafter, Extends) else (lm.model, None)
    return model.config


def draft_info(lm: Any) -> DraftInfo:
    """The facts of a draft that `check` compares with the target's."""
    config = lm.config
    return DraftInfo(lm.name, config.vocab_size, config.max_position, vocabulary_hash(lm))


def tuned(lm: Any, policy: Speculation) -> tuple[Any, Speculation]:
    """(the target with the weights that the policy brings for it, the policy on it)."""
    drafter = policy.drafter
    if not isinstance(drafter, Tunes):
        return lm, policy
    lm, drafter = drafter.tuned(lm)
    return lm, dataclasses.replace(policy, drafter=drafter)


def check(lm: Any, policy: Speculation, max_new: int, longest: int) -> None:
    """Refuses targets and pairs that mean nothing, before the first forward. `longest`: prompt tokens of a row."""
    config, draft = lm.config, policy.draft
    if not _autoregressive(_as_run(lm, policy)):
        raise InputError(
            f"{lm.name} is a diffusion model: this policy needs an autoregressive target such as 'tiny-ar'; "
            f"for {lm.name} use policy='threshold'"
        )
    if policy.guide is not None:
        policy.guide.check(lm, max_new)
    taps.check(policy.drafter, lm)
    if policy.cfg is not None:
        policy.cfg.check(lm)
    for part in (policy.drafter, policy.search):
        if isinstance(part, Checks):
            part.check(lm)
    if isinstance(policy.search, Bounded):
        policy.search.check_length(max_new)
    if draft is None:
        return
    if differ(draft.vocabulary, draft.vocab_size, vocabulary_hash(lm), config.vocab_size):
        raise InputError(
            f"draft {draft.name} ({draft.vocab_size} words) and target {lm.name} ({config.vocab_size} words) have "
            f"different vocabularies: {draft.instead}"
        )
    if longest + max_new > draft.max_position:
        raise InputError(
            f"a prompt of {longest} tokens with max_new={max_new} is more than the {draft.max_position} positions of draft "
            f"{draft.name}: shorten the prompt, lower max_new, or use another draft"
        )

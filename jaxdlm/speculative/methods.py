"""The published methods by name: each a drafter, a law of acceptance and the target's sampling."""

import zlib
from typing import Any

from jaxdlm.errors import InputError
from jaxdlm.speculative import verify
from jaxdlm.speculative.drafters.model import DraftModel
from jaxdlm.speculative.drafters.nothing import Nothing
from jaxdlm.speculative.policy import Source, Speculation, Unloaded
from jaxdlm.speculative.warp import Warp, warp

MOST = 64  # nodes of a proposal: beyond it the target forward is no longer bound by reading weights


def autoregressive(temperature: Any = 0.0, top_k: Any = None, top_p: Any = None) -> Speculation:
    """One token per target forward, from the key/value cache: the baseline of every method here.

    temperature: 0 (default): the best token; else softmax(l / T), then top_k, then top_p. Raises InputError for values
    out of range.
    """
    return Speculation(Nothing(), warp(temperature, top_k, top_p), _law(temperature, verify.rejection))


def speculative(
    draft: Any = "tiny-draft", k: int = 4, temperature: Any = 0.0, top_k: Any = None, top_p: Any = None,
    typical: bool = False,
) -> Any:  # fmt: skip
    """Speculative decoding: k draft tokens, one target forward, rejection sampling (arXiv 2211.17192, 2302.01318).

    draft: a loaded model with the target's tokenizer, or its name. k: draft tokens per target forward (the papers: 3 to
    10; 4). temperature, top_k, top_p: of target and draft. typical: accept what is likely enough instead (lossy,
    arXiv 2401.10774). Raises InputError for values out of range.
    """
    _count("k", k)
    law = warp(temperature, top_k, top_p)
    accept = verify.typical if typical else _law(temperature, verify.rejection)
    return _with_draft(draft, lambda lm: Speculation(_chains(lm, law, 1, k), law, accept, source(lm)))


def _law(temperature: Any, sampled: verify.Law) -> verify.Law:
    """Greedy matching where the temperature is known to be 0; an array may be anything."""
    return verify.greedy if isinstance(temperature, int | float) and temperature == 0 else sampled


def _chains(lm: Any, law: Warp, width: int, depth: int) -> DraftModel:
    return DraftModel(lm.params, law, lm.model, width, depth)


def _with_draft(draft: Any, build: Any) -> Any:
    """The policy, or a promise of it where the draft is a name."""
    if isinstance(draft, str):
        return Unloaded(draft, build)
    if not all(hasattr(draft, part) for part in ("model", "params", "config", "name")):
        raise InputError(f"draft={draft!r} is no model: pass jaxdlm.load(...) or a name such as 'tiny-draft'")
    return build(draft)


def _count(name: str, value: Any, most: int = MOST) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InputError(f"{name}={value!r}: must be a whole number from 1 to {most}")


def source(lm: Any) -> Source:
    """What `check` compares."""
    config = lm.config
    return Source(lm.name, config.vocab_size, config.max_position, words(lm))


def words(lm: Any) -> int:
    """A hash of the tokenizer's words with their ids; 0 without a tokenizer."""
    if lm.tokenizer is None:
        return 0
    known = sorted(lm.tokenizer.backend.get_vocab().items())
    return zlib.crc32(repr(known).encode()) or 1


def check(lm: Any, policy: Speculation, max_new: int, longest: int) -> None:
    """Refuses targets and pairs that mean nothing, before the first forward. `longest`: prompt tokens of a row."""
    config, draft, tree = lm.config, policy.draft, policy.drafter.tree
    if config.attention != "causal" or config.prediction != "next" or config.noise != "none":
        raise InputError(
            f"{lm.name} is a diffusion model: this policy needs an autoregressive target such as 'tiny-ar'; "
            f"for {lm.name} use policy='threshold'"
        )
    if tree.depth > max_new:
        raise InputError(
            f"the draft of {tree.depth} tokens is longer than the {max_new} that the cache has room for: "
            f"lower the draft length or raise max_new"
        )
    if draft is None:
        return
    mine = words(lm)
    if (draft.words and mine and draft.words != mine) or (
        not (draft.words and mine) and draft.vocab_size != config.vocab_size
    ):
        raise InputError(
            f"draft {draft.name} ({draft.vocab_size} words) and target {lm.name} ({config.vocab_size} words) have "
            f"different vocabularies: use a draft that was trained with the target's tokenizer"
        )
    if longest + max_new > draft.max_position:
        raise InputError(
            f"{longest} prompt tokens with max_new={max_new} are more than the {draft.max_position} positions of draft "
            f"{draft.name}: shorten the prompt, lower max_new, or use another draft"
        )

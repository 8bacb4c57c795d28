"""The published methods by name: each a drafter, a law of acceptance and the target's sampling."""

import dataclasses
import zlib
from typing import Any

from jaxdlm import argument
from jaxdlm.errors import InputError
from jaxdlm.models.segments import segments
from jaxdlm.speculative import verify
from jaxdlm.speculative.drafters.lookup import Lookup
from jaxdlm.speculative.drafters.model import DraftModel
from jaxdlm.speculative.drafters.nothing import Nothing
from jaxdlm.speculative.drafters.pearl import Pearl
from jaxdlm.speculative.policy import Source, Speculation, Unloaded
from jaxdlm.speculative.warp import Warp, warp

MOST = 64  # nodes of a proposal: beyond it the target forward is no longer bound by reading weights
count = argument.whole(1, MOST)


def autoregressive(temperature: Any = 0.0, top_k: Any = None, top_p: Any = None) -> Speculation:
    """One token per target forward, from the key/value cache: the baseline of every method here.

    temperature: 0 (default): the best token; else softmax(l / T), then top_k, then top_p. Raises InputError for values
    out of range.
    """
    law = warp(temperature, top_k, top_p)
    return Speculation(Nothing(), law, _law(law, verify.rejection))


def speculative(
    draft: Any = "tiny-draft", k: int = 4, temperature: Any = 0.0, top_k: Any = None, top_p: Any = None,
    typical: bool = False,
) -> Any:  # fmt: skip
    """Speculative decoding: k draft tokens, one target forward, rejection sampling (arXiv 2211.17192, 2302.01318).

    draft: a loaded model with the target's tokenizer, or its name. k: draft tokens per target forward (the papers: 3 to
    10; 4). temperature, top_k, top_p: of target and draft. typical: accept what is likely enough instead (lossy,
    arXiv 2401.10774). Raises InputError for values out of range.
    """
    k, law = count(k, "k"), warp(temperature, top_k, top_p)
    accept = verify.typical if argument.flag(typical, "typical") else _law(law, verify.rejection)
    return _with_draft(draft, lambda lm: Speculation(_chains(lm, law, 1, k), law, accept, source(lm)))


def spectr(
    draft: Any = "tiny-draft", width: int = 4, depth: int = 4, temperature: Any = 0.0, top_k: Any = None,
    top_p: Any = None,
) -> Any:  # fmt: skip
    """SpecTr: `width` independent drafts of `depth` tokens, joined by K-SEQ (arXiv 2310.15141).

    width: K (the paper: up to 8). depth: L (8). One target forward reads all K · L + 1 tokens. At temperature 0 all
    drafts are the same, and one is made. Raises InputError for values out of range.
    """
    width = argument.whole(1, 16)(width, "width")
    depth = argument.whole(1, MOST // width)(depth, "depth")
    law = warp(temperature, top_k, top_p)
    width = 1 if law.greedy else width
    accept = _law(law, verify.k_sequence)
    return _with_draft(draft, lambda lm: Speculation(_chains(lm, law, width, depth), law, accept, source(lm)))


def eqspec(draft: Any = "tiny-draft", k: int = 5, official: bool = False) -> Any:
    """EQSPEC: greedy speculative decoding of a ragged batch, every row equal to its own decode (arXiv 2510.22876).

    The paper moves rows, masks and caches into line after every round; here each row has its own length, so there is
    nothing to move. k: 5. official: as in the released code, a round that is accepted whole ends with its last draft
    token, and the token that the target would add is not used. Raises InputError for k out of range.
    """
    k, official = count(k, "k"), argument.flag(official, "official")
    return _with_draft(draft, lambda lm: _equal(lm, k, official, 0))


def exspec(draft: Any = "tiny-draft", k: int = 5, slots: int = 8, official: bool = False) -> Any:
    """EXSPEC: as `eqspec` with a pool of prompts, `slots` of them at a time (arXiv 2510.22876).

    The paper puts rows of equal length together so that they need no padding; here any rows go together, and a row that
    is done makes room for the next prompt. Results depend neither on slots nor on the order. Raises InputError for
    values out of range.
    """
    k, official = count(k, "k"), argument.flag(official, "official")
    slots = argument.whole(1, 1024)(slots, "slots")
    return _with_draft(draft, lambda lm: _equal(lm, k, official, slots))


def _equal(lm: Any, k: int, official: bool, slots: int) -> Speculation:
    drafter = DraftModel(lm.params, warp(), lm.model, 1, k, bonus=not official)
    return Speculation(drafter, warp(), verify.greedy, source(lm), slots)


def pearl(
    draft: Any = "tiny-draft", chunk: int = 4, temperature: Any = 0.0, top_k: Any = None, top_p: Any = None
) -> Any:
    """PEARL: the draft writes the next chunk while the target verifies the last one (arXiv 2408.11850).

    chunk: draft tokens per round, about the ratio of the two models' times (the paper: 3 to 5). `decode` runs both
    on one device; `jaxdlm.speculative.generate_on_two` on two sets of them at the same time. Raises InputError for values out
    of range.
    """
    chunk, law = count(chunk, "chunk"), warp(temperature, top_k, top_p)
    accept = _law(law, verify.rejection)
    return _with_draft(draft, lambda lm: Speculation(Pearl(lm.params, law, lm.model, chunk), law, accept, source(lm)))


def easyspec(
    draft: Any = "tiny-draft", k: int = 5, group: int = 4, calibrate: bool = True, temperature: Any = 0.0,
    top_k: Any = None, top_p: Any = None,
) -> Any:  # fmt: skip
    """EasySpec: drafts with layers whose attention runs in parallel, and calibrates their keys (arXiv 2502.02493).

    k: draft tokens (5). group: layers at once (the paper: 4; 1: vanilla drafting). calibrate: read the committed tokens
    again with the exact draft at the start of every round (the paper's setting). Needs a draft whose layers are all
    alike. Raises InputError for values out of range or a mixed stack.
    """
    k, group, law = count(k, "k"), count(group, "group"), warp(temperature, top_k, top_p)
    calibrate = argument.flag(calibrate, "calibrate")
    accept = _law(law, verify.rejection)

    def build(lm: Any) -> Speculation:
        runs = segments(lm.config)
        if len(runs) > 1 or runs[0].period > 1 or lm.config.layer_scalar:
            raise InputError(f"easyspec groups equal layers, those of {lm.name} differ: use speculative instead")
        rough = dataclasses.replace(lm.model, group=group)
        drafter = DraftModel(lm.params, law, lm.model, 1, k, rough=rough, calibrate=calibrate)
        return Speculation(drafter, law, accept, source(lm))

    return _with_draft(draft, build)


def lookup(k: int = 8, ngram: int = 3, temperature: Any = 0.0, top_k: Any = None, top_p: Any = None) -> Speculation:
    """Prompt lookup: drafts what followed the last tokens where they stood before; no draft model.

    k: draft tokens (10 in the original). ngram: longest match that is looked for (3). Verified by greedy matching or
    rejection sampling, hence lossless. Raises InputError for values out of range.
    """
    k, ngram = count(k, "k"), argument.whole(1, 16)(ngram, "ngram")
    law = warp(temperature, top_k, top_p)
    return Speculation(Lookup(k, ngram), law, _law(law, verify.rejection))


def _law(law: Warp, sampled: verify.Law) -> verify.Law:
    """Greedy matching where the temperature is known to be 0; an array may be anything."""
    return verify.greedy if law.greedy else sampled


def _chains(lm: Any, law: Warp, width: int, depth: int) -> DraftModel:
    return DraftModel(lm.params, law, lm.model, width, depth)


def _with_draft(draft: Any, build: Any) -> Any:
    """The policy, or a promise of it where the draft is a name."""
    return Unloaded(draft, lambda lm: _with(lm, build)) if isinstance(draft, str) else _with(draft, build)


def _with(draft: Any, build: Any) -> Any:
    if not all(hasattr(draft, part) for part in ("model", "params", "config", "name")):
        raise InputError(
            f"draft={argument.shown(draft)} is no model: pass jaxdlm.load(...) or a name such as 'tiny-draft'"
        )
    if not _autoregressive(draft.config):
        raise InputError(f"draft {draft.name} is a diffusion model: use an autoregressive one such as 'tiny-draft'")
    return build(draft)


def _autoregressive(config: Any) -> bool:
    return config.attention == "causal" and config.prediction == "next" and config.noise == "none"


def source(lm: Any) -> Source:
    """What `check` compares."""
    config = lm.config
    return Source(lm.name, config.vocab_size, config.max_position, words(lm))


def words(lm: Any) -> int:
    """A hash of the tokenizer's words with their ids; 0 without a tokenizer."""
    if lm.tokenizer is None:
        return 0
    known = sorted(lm.tokenizer.words.items())
    return zlib.crc32(repr(known).encode()) or 1


def check(lm: Any, policy: Speculation, max_new: int, longest: int) -> None:
    """Refuses targets and pairs that mean nothing, before the first forward. `longest`: prompt tokens of a row."""
    config, draft = lm.config, policy.draft
    if not _autoregressive(config):
        raise InputError(
            f"{lm.name} is a diffusion model: this policy needs an autoregressive target such as 'tiny-ar'; "
            f"for {lm.name} use policy='threshold'"
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
            f"a prompt of {longest} tokens with max_new={max_new} is more than the {draft.max_position} positions of draft "
            f"{draft.name}: shorten the prompt, lower max_new, or use another draft"
        )

"""transfer_q: of the likeliest tokens the one whose answer, written to its end, earns most (arXiv 2405.20495)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.errors import InputError
from jaxdlm.registry import method
from jaxdlm.rewards import likelihood, read_reward
from jaxdlm.speculative.drafters.nothing import Nothing
from jaxdlm.speculative.pair import draft_info, with_draft
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.transfer_q import Baseline, Indirect, ValueSearch
from jaxdlm.speculative.warp import warp

MOST = 64


@method(
    paper="2405.20495",
    idea="of the likeliest tokens the one whose answer, written to its end, earns the greatest reward",
    use="a reward on whole answers, and a model aligned with it or with one like it",
    avoid="anything in a hurry: a token costs up to k x rollouts x length more",
    needs="",
    order=258,
)
def transfer_q(
    reward: Any = None, baseline: Any = None, k: int = 10, alpha: Any = 1.0, length: int = 20, rollouts: int = 1,
    temperature: Any = 0.0, baseline_reward: Any = None, beta: Any = 2.0, official: bool = False, guide: Any = None,
) -> Any:  # fmt: skip
    """Transfer Q*: argmax or softmax over the k likeliest tokens z of log p(z | s) + Q(s, z) / alpha, where Q is the mean
    reward of what an aligned baseline writes behind z (2405.20495).

    reward: one of `jaxdlm.rewards`, a function of (tokens, start, length), or a model or its name, which is
    `rewards.likelihood` of it; that of the target. baseline: the loaded model that writes the rollouts, of the target's
    tokenizer; the target. With the reward's own aligned model it is the paper's direct transfer, with the target itself
    Controlled Decoding's estimate, with length=0 ARGS (the reward of the unfinished text). k: 1 to 64 (10). alpha: at least
    1e-6, nats per unit of reward (1). length: tokens of a rollout, 0 to 4096, cut at the row's end and limit (code: 20;
    definition: to the end). rollouts: per candidate, 1 to 64; one is greedy, several are drawn (1). temperature: of the
    choice (0; code 0.7). baseline_reward, beta: indirect transfer, the reward that the baseline was aligned with, and its
    KL weight (code: 2): rollouts count by exp((r - r_BL) / beta), which add up to 1, so rollouts must be 2 or more;
    official: they do not, as released. guide: one of `jaxdlm.guides`, or a list of them; none. Raises InputError for values
    out of range. Departures from the released code: rows end at their end of text, and a reward sees no padding.
    """
    numbers = {
        "weight": 1.0 / argument.number(alpha, "alpha", low=1e-6), "temperature": argument.temperature(temperature),
        "k": argument.whole(1, MOST)(k, "k"), "length": argument.whole(0, 4096)(length, "length"),
        "rollouts": argument.whole(1, MOST)(rollouts, "rollouts"),
    }  # fmt: skip
    indirect = _indirect(baseline_reward, beta, argument.flag(official, "official"), rollouts)

    def build(earns: Any, lm: Any) -> Speculation:
        own = None if lm is None else Baseline(lm.params, lm.model)
        search = ValueSearch(earns, **numbers, baseline=own, indirect=indirect)
        return Speculation(Nothing(), warp(guide=guide), draft=None if lm is None else draft_info(lm), search=search)

    def with_baseline(earns: Any) -> Any:
        return build(earns, None) if baseline is None else with_draft(baseline, lambda lm: build(earns, lm), "baseline")

    if isinstance(reward, str) or hasattr(reward, "tokenizer"):
        return with_draft(reward, lambda lm: with_baseline(likelihood(lm)), "reward")
    return with_baseline(None if reward is None else read_reward(reward))


def _indirect(reward: Any, beta: Any, official: bool, rollouts: int) -> Indirect | None:
    if reward is None:
        argument.unused("without baseline_reward", beta=(beta, 2.0), official=(official, False))
        return None
    earns = read_reward(reward, "baseline_reward")
    if rollouts < 2 and not official:
        raise InputError(
            "with baseline_reward= rollouts must be 2 or more, or official=True: one alone has weight 1 whatever it earns"
        )
    return Indirect(earns, argument.number(beta, "beta", low=1e-6), official)

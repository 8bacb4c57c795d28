"""`planned`: a search for the answers that earn most under a reward that runs on the host, such as the tests of a program."""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxdlm import argument
from jaxdlm._decode import Continuation, prepare
from jaxdlm.core.compiled import compiled
from jaxdlm.errors import InputError
from jaxdlm.methods.pg_td import pg_td
from jaxdlm.output import Output, read_text
from jaxdlm.resolve import resolve_method
from jaxdlm.speculative.planning import Asked, PlanSearch
from jaxdlm.speculative.policy import Decoding, Speculation
from jaxdlm.speculative.state import Carry
from jaxdlm.typing import Array, Float32

Earns = Callable[[Any, int], float]


@dataclasses.dataclass(frozen=True, eq=False)
class Planned:
    """The result of `planned`.

    Attributes:
        out: what `decode` returns.
        reward: float32[B], of each answer; -inf where there is none.
        rollouts: int32[B], walks down the tree.
        generations: int32[B], answers that the model completed; what it had already cost no forward.
    """

    out: Output
    reward: np.ndarray
    rollouts: np.ndarray
    generations: np.ndarray

    def __repr__(self) -> str:
        """One line, also in a notebook."""
        return (
            f"<Planned {', '.join(f'{each:.3g}' for each in self.reward[:8])} by {int(self.generations.sum())} answers>"
        )


def planned(
    lm: Any, prompts: Sequence[Any], reward: Earns, policy: Any = None, *, workers: int = 1, **settings: Any
) -> Planned:
    """The answer to each prompt of the greatest reward that `pg_td`'s tree search completes (arXiv 2303.05510).

    The same search as `decode(policy=jd.pg_td(reward))`, tree for tree; here a round is one program, and between two rounds
    the host takes the rewards, of all prompts and leaves together.

    Args:
        lm: an autoregressive model, from `jaxdlm.load`.
        prompts: as in `decode`.
        reward: a function of (answer, number of the prompt), called once per answer: the text as `decode` would return it,
            or its ids where the model has no tokenizer. `jaxdlm.eval.tasks.sandbox.passed` runs a program's tests.
        policy: `jd.pg_td(...)` without a reward, or its words; by default `jd.pg_td()`.
        workers: threads that call the reward; more than one where it waits for processes (1).
        settings: as in `decode`, such as max_new, seed, stop, grammar; not n.

    Raises:
        InputError: as `decode`, for another policy, and for a reward that is no number, or has one already.

    Examples:
        >>> import jaxdlm as jd
        >>> lm = jd.load("tiny-ar")
        >>> kate = lambda text, prompt: text.startswith("[ Kate")
        >>> best = jd.planned(lm, ["shuffle : [ Alan , Kate ]"], kate, jd.pg_td(rollouts=8), max_new=8)
        >>> best.out.text, best.reward.tolist()
        (['[ Kate , Alan ]'], [1.0])
    """
    policy = pg_td() if policy is None else resolve_method(policy)
    search = policy.search if isinstance(policy, Speculation) else None
    if not isinstance(search, PlanSearch) or search.reward is not None:
        raise InputError("planned: the policy must be jd.pg_td(...) without a reward, which is the other argument here")
    if not callable(reward):
        argument.refuse(reward, "reward", "a function of (answer, number of the prompt)")
    argument.unused("with planned, which finds one answer", n=(settings.get("n", 1), 1))
    programs, outs, facts = prepare(lm, prompts, policy, **settings), [], []
    with concurrent.futures.ThreadPoolExecutor(argument.whole(1, 256)(workers, "workers")) as pool:
        for part, rows in zip(programs.parts, programs.rows, strict=True):
            assert isinstance(part, Continuation)
            carry = _searched(part, rows, _Host(reward, pool, {}))
            outs.append(part.output(carry.rows, carry.trace))
            tree = carry.drafter
            facts.append(np.stack([tree.best_reward, tree.rollouts, tree.generations])[:, : len(rows)])
    order = np.argsort(np.concatenate(programs.rows))
    best, rollouts, generations = np.concatenate(facts, axis=1)[:, order]
    return Planned(programs.joined(outs), best, rollouts.astype(np.int32), generations.astype(np.int32))


@dataclasses.dataclass(frozen=True)
class _Host:
    """The reward, who calls it, and what it has said of each prompt's answers."""

    reward: Earns
    pool: concurrent.futures.Executor
    known: dict[tuple[int, tuple[int, ...]], float]

    def earned(self, asked: dict[tuple[int, tuple[int, ...]], Any]) -> None:
        """Rewards of answers that are new, by prompt and ids."""
        new = {key: text for key, text in asked.items() if key not in self.known}
        for (key, text), value in zip(new.items(), self.pool.map(self.reward, new.values(), [row for row, _ in new])):
            try:
                number = float(value)
            except (TypeError, ValueError):
                number = float("nan")
            if np.isnan(number):
                raise InputError(
                    f"reward of {argument.shown(text)} (prompt {key[0]}) is {argument.shown(value)}: return a number"
                )
            self.known[key] = number


def _searched(part: Continuation, rows: np.ndarray, host: _Host) -> Carry:
    """The carry at the end: rounds of one program each, the host's rewards between its halves."""
    carry = part.start()
    while not np.all(carry.rows.done):
        carry, asked = _ahead(carry, part.decoding)
        carry = _back(carry, asked, _rewards(part, rows, asked, host), part.decoding)
    return carry


def _rewards(part: Continuation, rows: np.ndarray, asked: Asked, host: _Host) -> np.ndarray:
    """Of each answer of a round; 0 where there is none."""
    asks, broken = np.asarray(asked.leaves.asks).reshape(-1), np.asarray(asked.broken)
    tokens, start, length = map(np.asarray, (asked.tokens, asked.start, asked.length))
    each = asks.size // part.size
    keys: dict[int, tuple[int, tuple[int, ...]]] = {}
    texts: dict[tuple[int, tuple[int, ...]], Any] = {}
    for row in np.flatnonzero(asks & ~broken).tolist():
        ids = tuple(tokens[row, start[row] : length[row]].tolist())
        keys[row] = key = (int(rows[row // each]), ids)
        text = read_text(part.lm, np.asarray([ids], np.int32), part.stops)
        texts[key] = list(ids) if text is None else text[0]
    host.earned(texts)
    worth = np.zeros(asks.size, np.float32)
    for row, key in keys.items():
        worth[row] = host.known[key]
    return worth


@compiled()
def _ahead(carry: Carry, decoding: Decoding) -> tuple[Carry, Asked]:
    return _search(decoding).asked(carry, decoding)


@compiled()
def _back(carry: Carry, asked: Asked, reward: Float32[Array, "R"], decoding: Decoding) -> Carry:
    return _search(decoding).backed(carry, asked, reward)


def _search(decoding: Decoding) -> PlanSearch:
    search = decoding.policy.search
    assert isinstance(search, PlanSearch)
    return search

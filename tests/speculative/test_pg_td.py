"""PG-TD against a tree search over dictionaries, whose answers come from forwards over everything; the needle; both halves."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm import InputError, decode
from jaxdlm.core.carry import Status
from jaxdlm.speculative.planned_tree import Completed, Law, descended, planted, returned
from tests.guides import oracles
from tests.speculative.test_transfer_q import WORTH, log_softmax, worth
from tests.speculative.toys import END, PROMPTS, model, near, next_logits

RUN = {"max_new": 6}


def earned(text):
    return float(sum(WORTH[token] for token in text))


class Slow:
    """A search as in section 2 of the paper, node by node; rounds of several leaves count them as visits at once."""

    def __init__(self, logits_of, reward, k=3, c=4.0, base=10.0, most=6, end=END):
        self.logits_of, self.reward, self.k, self.c, self.base, self.most, self.end = (
            logits_of,
            reward,
            k,
            c,
            base,
            most,
            end,
        )
        self.nodes, self.answers, self.generations, self.forwards, self.rewards = {}, {}, 0, 0, {}
        self.complete(())
        self.nodes[()] = self.node(())

    def over(self, text):
        return bool(text) and (text[-1] == self.end or len(text) == self.most)

    def complete(self, prefix):
        """The greedy answer, one asked for before where there is any that begins so."""
        for answer in self.answers.values():
            if answer[: len(prefix)] == prefix:
                self.answers[prefix] = answer
                return answer
        text, read = prefix, 0
        while not self.over(text):
            text, read = (*text, int(np.argmax(self.logits_of(text)))), read + 1
        self.answers[prefix], self.generations = text, self.generations + 1
        self.forwards += read + bool(prefix and read)
        return text

    def node(self, prefix):
        children = []
        if not self.over(prefix):
            logits = self.logits_of(prefix)
            best = np.argsort(-logits, kind="stable")[: self.k]
            prior = np.exp(log_softmax(logits[best]))
            children = [{"token": int(t), "prior": p, "returns": [], "n": 0} for t, p in zip(best, prior)]
        return {"visits": 1, "children": children, "known": True}

    def urge(self, node, edge):
        beta = math.log((node["visits"] + self.base + 1) / self.base) + self.c
        value = max(edge["returns"], default=0.0)
        return value + beta * edge["prior"] * math.sqrt(math.log(node["visits"])) / (1 + edge["n"])

    def round(self, leaves=1):
        """Up to so many rollouts, their returns counted once all are under way."""
        under_way = []
        for _ in range(leaves):
            prefix, path = (), []
            while not self.over(prefix):
                node = self.nodes[prefix]
                edges = [e for e in node["children"] if self.nodes.get((*prefix, e["token"]), {"known": True})["known"]]
                if not edges:
                    path = None
                    break
                edge = max(edges, key=lambda edge: self.urge(node, edge))
                path.append((node, edge))
                prefix = (*prefix, edge["token"])
                if prefix not in self.nodes:
                    break
            if path is None:
                continue
            asks = prefix not in self.nodes
            if asks:
                before = self.generations
                self.complete(prefix)
                self.nodes[prefix] = self.node(prefix)
                self.nodes[prefix]["known"] = self.generations == before
            self.nodes[prefix]["visits"] += 1
            for node, edge in path:
                node["visits"], edge["n"] = node["visits"] + 1, edge["n"] + 1
            under_way.append((prefix, path))
        for prefix, path in under_way:
            self.nodes[prefix]["known"] = True
            answer = self.answers[prefix]
            self.rewards.setdefault(answer, self.reward(answer))
            for _, edge in path:
                edge["returns"].append(self.rewards[answer])
        return len(under_way)

    def best(self):
        self.rewards.setdefault(self.answers[()], self.reward(self.answers[()]))
        return max(self.rewards.values())


def searched(lm, prompt, rollouts, leaves=1, reward=earned, bend=lambda logits, text: logits, **numbers):
    slow = Slow(lambda text: np.asarray(bend(next_logits(lm, [*prompt, *text]), list(text))), reward, **numbers)
    done = 0
    while done < rollouts:
        done += slow.round(min(leaves, rollouts - done))
    return slow


def check(out, rollouts, **case):
    for row, prompt in enumerate(PROMPTS):
        slow = searched(model(0), prompt, rollouts, **case)
        text = out.tokens[row].tolist()
        text = tuple(text[: text.index(END) + 1] if END in text else text)
        assert slow.rewards[text] == slow.best()
        yield row, slow


@pytest.mark.slow
def test_it_is_the_search_over_dictionaries():
    """All prompts in one batch: answers, and forwards, of which answers that are known cost none; greedy at the least."""
    policy = jd.pg_td(worth, rollouts=24)
    out = decode(model(0), PROMPTS, policy, **RUN)
    for row, slow in check(out, 24):
        assert out.forwards[row] == out.drafted[row] == slow.forwards
        total = sum(log_softmax(next_logits(model(0), [*PROMPTS[row], *out.tokens[row, :at]]))[out.tokens[row, at]]
                    for at in range((out.commit_step[row] >= 0).sum()))  # fmt: skip
        assert out.logprobs[row].sum() == pytest.approx(total, abs=1e-3)
    order = [4, 2, 0, 1, 3]
    again = decode(model(0), [PROMPTS[i] for i in order], policy, ids=order, **RUN)
    np.testing.assert_array_equal(again.tokens, out.tokens[order])
    np.testing.assert_array_equal(again.forwards, out.forwards[order])


@pytest.mark.exhaustive
@pytest.mark.slow
def test_on_the_host_it_is_the_same_search():
    """Tree for tree, with leaves together; an answer is asked for once, and a row alone is that of the batch."""
    calls = []

    def reward(answer, prompt):
        calls.append((prompt, tuple(answer)))
        return earned(answer)

    best = jd.planned(model(0), PROMPTS, reward, jd.pg_td(rollouts=12, leaves=4), **RUN)
    assert len(calls) == len(set(calls))
    for row, slow in check(best.out, 12, leaves=4):
        assert best.generations[row] == slow.generations
        assert best.reward[row] == pytest.approx(slow.best(), abs=1e-5)
        assert {answer for prompt, answer in calls if prompt == row} == set(slow.rewards)
    assert best.rollouts.tolist() == [12] * 5


@pytest.mark.exhaustive
@pytest.mark.parametrize("leaves", [1, 3])
@pytest.mark.parametrize(("k", "c"), [(2, 0.5), (5, 8.0)])
def test_it_is_the_search_whatever_the_numbers(k, c, leaves):
    policy = jd.pg_td(worth, rollouts=40, k=k, c=np.float32(c), base=np.float32(3), leaves=leaves)
    out = decode(model(0), PROMPTS, policy, **RUN)
    for row, slow in check(out, 40, k=k, c=c, base=3.0, leaves=leaves):
        assert leaves > 1 or out.forwards[row] == slow.forwards
    alone = decode(model(0), [PROMPTS[2]], policy, ids=[2], **RUN)
    np.testing.assert_array_equal(alone.tokens[0], out.tokens[2])


@pytest.mark.exhaustive
def test_a_guide_bends_the_answers_and_their_branches():
    bend = lambda prompt: lambda logits, text: oracles.penalised(logits, [*prompt, *text], np.float32(2))  # noqa: E731
    out = decode(model(0), PROMPTS, jd.pg_td(worth, rollouts=12, guide=jd.guides.repetition(2.0)), **RUN)
    for row, prompt in enumerate(PROMPTS):
        slow = searched(model(0), prompt, 12, bend=bend(prompt))
        text = out.tokens[row].tolist()
        assert slow.rewards[tuple(text[: text.index(END) + 1] if END in text else text)] == slow.best()


@pytest.mark.exhaustive
def test_one_rollout_is_greedy_and_rewards_may_be_models():
    plain = decode(model(0), PROMPTS, "autoregressive", **RUN)
    one = decode(model(0), PROMPTS, jd.pg_td(worth, rollouts=1), **RUN)
    np.testing.assert_array_equal(one.tokens, plain.tokens)
    np.testing.assert_allclose(one.logprobs, plain.logprobs, atol=1e-4)
    judge = near(model(0), 0.3)
    out = decode(model(0), PROMPTS, jd.pg_td(judge, rollouts=8, enough=-0.1, generations=5), **RUN)
    assert out.tokens.shape == (5, 6)
    broken = lambda *row: jnp.where(row[1] == 1, jnp.nan, worth(*row))  # noqa: E731
    bad = decode(model(0), PROMPTS[:3], jd.pg_td(broken, rollouts=6), **RUN)
    sound = decode(model(0), PROMPTS[:3], jd.pg_td(worth, rollouts=6), **RUN)
    assert bad.status[1] is Status.NONFINITE
    np.testing.assert_array_equal(bad.tokens[[0, 2]], sound.tokens[[0, 2]])


# --------------------------------------------------------------------------------------------------- the tree alone


def needle(tree, law, rounds):
    """Trees after each round: texts of four tokens 0 or 1, answers go on with 0, the reward is of 1 1 1 1 alone."""
    chance = jnp.broadcast_to(jnp.log(jnp.array([0.6, 0.4])), (1, 4, 2))
    tokens = jnp.broadcast_to(jnp.array([0, 1]), (1, 4, 2))

    @jax.jit
    def one(tree):
        tree, leaf = descended(tree, law, jnp.bool_(False))
        text, depth = tree.text[leaf.node], tree.depth[leaf.node]
        text = jnp.where(jnp.arange(4) < depth, text, 0)[None]
        made = Completed(text, jnp.array([4]), jnp.zeros((1, 4)), tokens, chance)
        leaves = jax.tree.map(lambda part: part[None], leaf)
        return returned(tree, leaves, made, jnp.all(text == 1, axis=1).astype(jnp.float32))

    for _ in range(rounds):
        tree = one(tree)
        yield tree


def test_the_needle_comes_to_light_at_rollout_52():
    law = Law(jnp.float32(4), jnp.float32(10), jnp.float32(jnp.inf), jnp.int32(1000), jnp.int32(1000))
    trees = list(needle(planted(64, 4, 2), law, 54))
    first = next(at for at, tree in enumerate(trees) if tree.best_reward == 1)
    tree = trees[first]
    assert (first, int(tree.rollouts), int(tree.visits[0])) == (52, 52, 53)
    assert tree.visits[tree.child[0]].tolist() == [32, 22] and tree.text[tree.best].tolist() == [1, 1, 1, 1]
    for node in range(int(tree.count)):
        inner = tree.depth[node] < 4
        assert not inner or tree.tries[node].sum() == tree.visits[node] - (1 if node == 0 else 2)
    assert tree.generations < tree.rollouts
    np.testing.assert_array_less(np.diff([float(t.best_reward) for t in trees]), 1.1)
    assert all(a.best_reward <= b.best_reward for a, b in zip(trees, trees[1:]))


def test_the_bound_is_that_of_the_paper():
    """visits 5, prior 0.5, one return of 0.2: 1.6177; a child under way waits."""
    law = Law(4.0, 10.0, math.inf, 9, 9)
    tree = planted(3, 2, 2)
    tree = tree._replace(
        visits=tree.visits.at[0].set(5), token_logp=tree.token_logp.at[0, 0].set(0.0), count=jnp.int32(2),
        tries=tree.tries.at[0, 0].set(1), value=tree.value.at[0, 0].set(0.2), child=tree.child.at[0, 0].set(1),
        known=tree.known.at[:2].set(True),
    )  # fmt: skip
    urge = jax.jit(lambda tree: law.urge(tree, 0))
    np.testing.assert_allclose(urge(tree), [1.6177, 2 * (1.6177 - 0.2)], atol=1e-3)
    assert urge(tree._replace(known=tree.known.at[1].set(False)))[0] == -jnp.inf


def test_what_is_out_of_range_is_refused():
    for wrong, message in [
        ({"reward": 3}, "reward=3"), ({"rollouts": 0}, "rollouts=0"), ({"k": 65}, "k=65"), ({"c": -1}, "c=-1"),
        ({"base": 0}, "base=0"), ({"leaves": 0}, "leaves=0"), ({"generations": 0}, "generations=0"),
        ({"enough": "x"}, "enough='x'"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=message):
            jd.pg_td(**wrong)
    run = lambda *args, **more: jd.planned(model(0), PROMPTS[:1], *args, **RUN, **more)  # noqa: E731
    with pytest.raises(InputError, match=r"must be jd.pg_td\(...\) without a reward"):
        run(earned, jd.pg_td(worth))
    with pytest.raises(InputError, match=r"must be jd.pg_td\(...\) without a reward"):
        run(earned, "beam")
    with pytest.raises(InputError, match="reward=3: must be a function"):
        run(3)
    with pytest.raises(InputError, match="n=2 means nothing with planned"):
        run(lambda *_: 0, n=2)
    with pytest.raises(InputError, match="top_logprobs: a plan keeps"):
        decode(model(0), PROMPTS, jd.pg_td(worth), top_logprobs=2, **RUN)

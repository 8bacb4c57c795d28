"""Slow drafters in NumPy, written from the papers' loops, and the rounds that they need for a text that is known."""

import collections
import math

import jax
import numpy as np

F = np.float32


def rounds(draft, start: int, text: list[int], stop: int) -> int:
    """Target forwards for `text` from column `start` to `stop`: each commits what matches of a draft, and one more.

    draft(tokens so far) -> [(token, index of its parent in this list or -1)].
    """
    at, count = start, 0
    while at < stop:
        nodes, node, depth = draft(text[:at]), -1, 0
        while at + depth < stop - 1:
            wanted = [i for i, (token, parent) in enumerate(nodes) if parent == node and token == text[at + depth]]
            if not wanted:
                break
            node, depth = wanted[0], depth + 1
        at, count = min(at + depth + 1, stop), count + 1
    return count


def suffix_end(source: list[int], answer: list[int], most: int = 3) -> int:
    """IAD: where the answer has come to in the source, or -1."""
    for g in range(1, most + 1):
        if len(answer) < g:
            return -1
        ends = [i for i in range(g, len(source) + 1) if source[i - g : i] == answer[-g:]]
        if len(ends) <= 1:
            return ends[0] if ends else -1
    return -1


class TriGrams:
    """ADED's table of one row over a table of a corpus, and its search."""

    def __init__(self, base=None, most: int = 16, backoff: float = 0.0) -> None:
        self.base = base or {}
        self.own: dict[tuple[int, ...], list[list]] = collections.defaultdict(list)  # [token, weight] by place
        self.most, self.backoff = most, backoff

    def see(self, tokens: list[int], begin: int, end: int, step: float) -> None:
        """Counts each of these tokens behind the two and behind the one before it."""
        for i in range(begin, end):
            for order in (2, 1):
                if i >= order:
                    self._see(tuple(tokens[i - order : i]), tokens[i], step)

    def _see(self, key: tuple[int, ...], token: int, step: float) -> None:
        held = self.own[key]
        entry = next((e for e in held if e[0] == token), None)
        if entry is None:
            entry = [token, F(0)]
            if len(held) < self.most:
                held.append(entry)
            else:
                held[int(np.argmin([w for _, w in held]))] = entry
        entry[1] = min(F(entry[1] + F(step)), F(3))

    def after(self, a: int, b: int) -> list[tuple[int, np.float32]]:
        """Successors with their weights, the heaviest first."""
        both = list(self.base.get((a, b), []))
        single = [(c, F(w * F(self.backoff))) for c, w in self.own.get((b,), [])] if self.backoff else []
        for mine in (self.own.get((a, b), []), single):
            more = [(c, F(w + sum((v for t, v in mine if t == c), F(0)))) for c, w in both]
            both = more + [(c, w) for c, w in mine if c not in [t for t, _ in both]]
        capped = [(c, min(w, F(3))) for c, w in both]
        return sorted(capped, key=lambda each: -each[1])[: self.most]

    def mcts(self, root, runs: int, deep: int, c1: float, key) -> list[dict]:
        """Every node that the search made, in the order in which they were made."""
        nodes = [{"key": root, "n": 0, "s": 0.0, "p": F(0), "parent": None, "children": []}]
        for run in range(runs):
            path = [nodes[0]]
            while path[-1]["children"] and len(path) < deep:
                v = path[-1]
                urge = [self._urge(child, v["n"], c1) for child in v["children"]]
                path.append(v["children"][int(np.argmax(urge))])
            found = self.after(*path[-1]["key"])
            if found and len(path) < deep:
                v = path[-1]
                for token, weight in found:
                    child = {"key": (v["key"][1], token), "n": 0, "s": 0.0, "p": weight, "parent": v, "children": []}
                    v["children"].append(child)
                    nodes.append(child)
                path.append(v["children"][0])
            reward, at = 1 + sum(float(v["p"]) for v in path[1:]), path[-1]["key"]
            for level in range(len(path), deep):
                found = self.after(*at)
                if not found:
                    break
                here = jax.random.fold_in(jax.random.fold_in(key, run), level)
                total = np.cumsum([w for _, w in found], dtype=np.float32)
                place = int((total <= F(jax.random.uniform(here)) * total[-1]).sum())
                token, weight = found[min(place, len(found) - 1)]
                reward, at = reward + float(weight), (at[1], token)
            for v in path:
                v["n"] += 1
                v["s"] += reward
        return nodes

    @staticmethod
    def _urge(child, total: int, c1: float) -> float:
        if child["n"] == 0:
            return math.inf
        wide = (c1 + math.log((total + 8 + 1) / 8)) * float(child["p"]) * math.sqrt(total) / (1 + child["n"])
        return child["s"] / child["n"] + wide

    def best(self, root, wide: int, deep: int) -> list[dict]:
        """The nodes that are worth most by the product of shares, level by level."""
        level = [{"key": root, "n": 1.0, "parent": None}]
        nodes = list(level)
        for _ in range(1, deep):
            below = []
            for v in level:
                found = self.after(*v["key"])
                total = sum(float(w) for _, w in found)
                below += [{"key": (v["key"][1], c), "n": v["n"] * float(w) / total, "parent": v} for c, w in found]
            level = sorted(below, key=lambda v: -v["n"])[:wide]
            nodes += level
        return nodes

    def tree(self, nodes: list[dict], paths: int) -> list[tuple[int, int]]:
        """The tree of the most valued nodes, each with its heaviest successor: (token, parent)."""
        order = sorted(range(len(nodes)), key=lambda i: (-nodes[i]["n"], i))[:paths]
        top = [nodes[i] for i in order]
        place = {id(v): i - 1 for i, v in enumerate(top)}
        made = [(v["key"][1], place[id(v["parent"])]) for v in top[1:]]
        for v in top:
            found = self.after(*v["key"])
            if found and (found[0][0], place[id(v)]) not in made:
                made.append((found[0][0], place[id(v)]))
        return made


class Aded:
    """The drafter of a row, round by round."""

    def __init__(
        self,
        prompt,
        *,
        base=None,
        paths=24,
        deep=4,
        runs=150,
        c1=32.0,
        backoff=0.0,
        recount=True,
        prompted=True,
        keys=None,
    ):
        self.grams, self.paths, self.deep, self.runs, self.c1 = TriGrams(base, backoff=backoff), paths, deep, runs, c1
        self.recount, self.keys, self.at = recount, keys, len(prompt)
        if prompted:
            self.grams.see(list(prompt), 0, len(prompt) - (16 if recount else 0), 0.04 * 14)

    def __call__(self, text: list[int]) -> list[tuple[int, int]]:
        n = len(text)
        if self.recount:
            self.grams.see(text, max(0, n - 14), n, 0.04)
        elif n > self.at:
            self.grams.see(text, self.at, n, 0.04 * 14)
            self.at = n
        if n < 2:
            return []
        root = text[-2], text[-1]
        if self.keys is None:
            nodes = self.grams.best(root, self.paths - 1, self.deep)
        else:
            nodes = self.grams.mcts(root, self.runs, self.deep, self.c1, self.keys(n))
        return self.grams.tree(nodes, self.paths)

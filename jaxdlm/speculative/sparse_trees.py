"""Trees of guesses and prompt tokens of a given size, by how often guesses come true (PPD, arXiv 2405.18628, its §4).

A guess is a path of ranks (k_1, ..., k_d): its token is the k_d-th best guess at distance d. With acc[d][k] the chance that the
guess of rank k at distance d comes true, a path is worth the product of its chances, which is taken as the chance that all of it
is accepted.
"""

import heapq
import itertools
import math
from dataclasses import dataclass

import numpy as np

from jaxdlm.errors import InputError

Path = tuple[int, ...]
Accuracy = tuple[tuple[float, ...], ...]  # [distance][rank]


@dataclass(frozen=True)
class Sparse:
    """One tree: paths, parents before children, and how many prompt tokens stand behind each; the root has all."""

    paths: tuple[Path, ...]
    prompts: tuple[int, ...]


@dataclass(frozen=True)
class Forest:
    """A tree for each number of distances that guesses are there for, 0 to m, as arrays of one size; see `arrays`."""

    trees: tuple[Sparse, ...]

    @property
    def distances(self) -> int:
        return len(self.trees) - 1

    @property
    def size(self) -> int:
        """Nodes of the largest."""
        return max(len(tree.paths) + sum(tree.prompts) + self.distances for tree in self.trees)

    @property
    def depth(self) -> int:
        return max(max((len(path) for path in tree.paths), default=0) for tree in self.trees) + self.distances

    def arrays(self) -> dict[str, np.ndarray]:
        """int32[m + 1, N]: `parent`, `distance` and `rank` of a guess, `prompt` (which one; -1: a guess), `exists`; and
        int32[m + 1, 1 + N, m] `behind`: the nodes of the prompt tokens behind the root and each node, -1 where there is none."""
        shape = (len(self.trees), self.size)
        made = {name: np.zeros(shape, np.int32) for name in ("parent", "distance", "rank", "exists")}
        made |= {
            "prompt": np.full(shape, -1, np.int32),
            "behind": np.full((shape[0], 1 + shape[1], self.distances), -1, np.int32),
        }
        for at, tree in enumerate(self.trees):
            place = {(): -1} | {path: node for node, path in enumerate(tree.paths)}
            for node, path in enumerate(tree.paths):
                values = {"parent": place[path[:-1]], "distance": len(path) - 1, "rank": path[-1], "exists": 1}
                for name, value in values.items():
                    made[name][at, node] = value
            node = len(tree.paths)
            for owner, count in zip((-1, *range(len(tree.paths))), (self.distances, *tree.prompts), strict=True):
                above = owner
                for number in range(count):
                    made["parent"][at, node], made["prompt"][at, node], made["exists"][at, node] = above, number, 1
                    made["behind"][at, 1 + owner, number] = above = node
                    node += 1
            made["parent"][at, node:] = -1
        return made


def worth(acc: Accuracy, path: Path) -> float:
    return math.prod(acc[distance][rank] for distance, rank in enumerate(path))


def best_paths(acc: Accuracy, depth: int, count: int) -> tuple[Path, ...]:
    """The `count` paths of most worth that are no longer than `depth`, parents first."""
    heap: list[tuple[float, Path]] = [(-worth(acc, (rank,)), (rank,)) for rank in range(len(acc[0])) if depth]
    chosen: list[Path] = []
    heapq.heapify(heap)
    while heap and len(chosen) < count:
        _, path = heapq.heappop(heap)
        chosen.append(path)
        if len(path) < depth:
            for rank in range(len(acc[len(path)])):
                heapq.heappush(heap, (-worth(acc, (*path, rank)), (*path, rank)))
    return tuple(chosen)


def expected(acc: Accuracy, paths: tuple[Path, ...]) -> float:
    """f: guesses that are accepted on average."""
    return sum(worth(acc, path) for path in paths)


def endings(acc: Accuracy, paths: tuple[Path, ...]) -> list[float]:
    """The chance that acceptance ends at each path."""
    own = {path: worth(acc, path) for path in paths}
    for path in paths:
        if len(path) > 1:
            own[path[:-1]] -= worth(acc, path)
    return [own[path] for path in paths]


def pruned(acc: Accuracy, paths: tuple[Path, ...], gains: list[float], budget: int) -> Sparse | None:
    """The tree with as many prompt tokens as the budget allows: one goes where it is missed least. None: it does not fit.

    gains: f of the tree for 0, 1, ..., m distances.
    """
    most = len(gains) - 1
    own, prompts = endings(acc, paths), [most] * len(paths)
    while len(paths) + sum(prompts) > budget:
        cost = [own[v] * (gains[s] - gains[s - 1]) if s > 1 else math.inf for v, s in enumerate(prompts)]
        least = int(np.argmin(cost))
        if math.isinf(cost[least]):
            return None
        prompts[least] -= 1
    return Sparse(paths, tuple(prompts))


def rate(acc: Accuracy, trees: list[Sparse]) -> float:
    """Guesses accepted per round in the long run: each round goes to the tree for as many distances as it has prompts for."""
    most = len(trees)
    move = np.zeros((most, most))
    for a, tree in enumerate(trees):
        own = endings(acc, tree.paths)
        for chance, s in zip(own, tree.prompts, strict=True):
            move[a, s - 1] += chance
        move[a, most - 1] += 1 - sum(own)
    law = np.full(most, 1 / most)
    for _ in range(200):
        law = law @ move
    return float(sum(p * expected(acc, tree.paths) for p, tree in zip(law, trees, strict=True)))


def plan(acc: Accuracy, budget: int) -> Forest:
    """The forest of trees within the budget (guesses and their prompt tokens; the root's m come on top) of the best rate.

    Tree 1 has a guess of each rank; the sizes of the others are searched. Raises InputError for a budget that not even tree 1
    with a prompt token each fits.
    """
    most, ranks = len(acc), len(acc[0])
    first = best_paths(acc, 1, min(ranks, budget // 2))
    if not first:
        raise InputError(f"budget={budget}: must be at least 2, a guess and a prompt token")
    low, high = max(budget // (most + 1), 1), max(budget // 2, 1)
    step = max(1, (high - low) // 6)
    chosen, top = None, -1.0
    for sizes in itertools.product(range(low, high + 1, step), repeat=most - 1):
        paths = [first, *(best_paths(acc, a + 2, size) for a, size in enumerate(sizes))]
        gains = [0.0, *(expected(acc, each) for each in paths)]
        trees = [pruned(acc, each, gains, budget) for each in paths]
        fitting = [tree for tree in trees if tree is not None]
        if len(fitting) == most and (value := rate(acc, fitting)) > top:
            chosen, top = fitting, value
    assert chosen is not None, "a tree of half the budget with a prompt token each fits"
    return Forest((Sparse((), ()), *chosen))

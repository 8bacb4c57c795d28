"""What guides do to the logits of one row, in plain Python: no state, no automaton, the whole text looked at each time."""

import functools

import numpy as np

from jaxdlm.grammar import FAR, Tables


def penalised(logits: np.ndarray, text: list[int], penalty: float) -> np.ndarray:
    """`text`: prompt and answer."""
    out = logits.copy()
    for token in set(text):
        out[token] = out[token] / penalty if out[token] > 0 else out[token] * penalty
    return out


def lowered(logits: np.ndarray, answer: list[int], frequency: float = 0.0, presence: float = 0.0) -> np.ndarray:
    """By the number of times that the answer holds each token, and by whether it does."""
    out = logits.copy()
    for token in set(answer):
        out[token] = out[token] - frequency * answer.count(token) - presence
    return out


def without(logits: np.ndarray, text: list[int], sequences) -> np.ndarray:
    """`text`: prompt and answer."""
    out = logits.copy()
    for *before, last in sequences:
        if text[len(text) - len(before) :] == before:
            out[last] = -np.inf
    return out


class Language:
    """A deterministic automaton by its edges {(state, token): state}; an end of text follows where it accepts."""

    def __init__(self, edges: dict, accepting: set[int], vocab: int, end: int, start: int = 1):
        last = 1 + max([start, *(state for edge in edges.items() for state in (edge[0][0], edge[1]))])
        self.edges = edges | {(state, end): last for state in accepting | {last}}
        self.accepting, self.vocab, self.start = accepting | {last}, vocab, start
        self.closes = functools.cache(self._closes)

    def after(self, answer: list[int]) -> int:
        state = self.start
        for token in answer:
            state = self.edges.get((state, token), 0)
        return state

    def accepts(self, answer: list[int]) -> bool:
        return self.after(answer) in self.accepting

    def _closes(self, state: int, room: int) -> bool:
        """Whether a sentence ends within so many more tokens, by trying them all."""
        following = {after for (before, _), after in self.edges.items() if before == state}
        return state in self.accepting or (room > 0 and any(self.closes(after, room - 1) for after in following))

    def allowed(self, logits: np.ndarray, answer: list[int], max_new: int) -> np.ndarray:
        out, state, room = np.full_like(logits, -np.inf), self.after(answer), max_new - len(answer)
        for (before, token), after in self.edges.items():
            if before == state and room > 0 and self.closes(after, room - 1):
                out[token] = logits[token]
        return out

    def tables(self, states: int = 16, classes: int = 32) -> Tables:
        """As the compiler of grammars lays them out: tokens with equal columns are one class, dead ones class 0."""
        columns = np.zeros((self.vocab, states), np.int32)
        for (before, token), after in self.edges.items():
            columns[token, before] = after
        kinds, inverse = np.unique(
            np.concatenate([np.zeros((1, states), np.int32), columns]), axis=0, return_inverse=True
        )
        assert not kinds[0].any() and len(kinds) <= classes
        following = np.zeros((states, classes), np.int32)
        following[:, : len(kinds)] = kinds.T
        accepting = np.isin(np.arange(states), list(self.accepting))
        distance = np.full(states, FAR, np.int32)
        for state in range(1, states):
            distance[state] = next((room for room in range(states) if self.closes(state, room)), FAR)
        classes = inverse.reshape(-1)[1:].astype(np.int32)
        return Tables(classes, following, accepting, distance, self.forced(states), np.int32(self.start))

    def alone(self, answer: list[int]) -> int:
        """Tokens of an answer that nothing else could stand for."""
        before = [self.after(answer[:place]) for place in range(len(answer))]
        return sum(len([1 for at, _ in self.edges if at == state]) == 1 for state in before)

    def forced(self, states: int) -> np.ndarray:
        """The token of each state that has one alone."""
        after = [[token for state, token in self.edges if state == at] for at in range(states)]
        return np.array([tokens[0] if len(tokens) == 1 else -1 for tokens in after], np.int32)


def languages(vocab: int, end: int) -> dict[str, Language]:
    """Of tokens that are no end."""
    words = [token for token in range(vocab) if token != end]
    return {
        "anything": Language({(1, token): 1 for token in words}, {1}, vocab, end),
        "even": Language({(1, token): 1 for token in words if token % 2 == 0}, {1}, vocab, end),
        "framed": Language({(1, 5): 2, (2, 7): 3, (2, 9): 3, (3, 7): 3, (3, 9): 3, (3, 11): 4}, {4}, vocab, end),
        "six of two": Language({(at, token): at + 1 for at in range(1, 7) for token in (3, 4)}, {7}, vocab, end),
        "ends in four": Language({(at, t): 2 if t == 4 else 1 for at in (1, 2) for t in words}, {2}, vocab, end),
    }

"""Sets of characters and their UTF-8, words, and sizes that are known in advance."""

import itertools
import random

from jaxdlm.grammar import syntax
from jaxdlm.grammar.automaton import _Nodes, automaton


def in_ranges(ranges, code):
    return any(low <= code <= high for low, high in ranges)


def test_utf8_of_random_sets_is_python_s():
    draw = random.Random(0)
    edges = [0, 0x7F, 0x80, 0x7FF, 0x800, 0xFFF, 0x1000, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x3FFFF, 0x40000, 0x10FFFF]
    for _ in range(60):
        points = sorted(
            draw.choice([draw.choice(edges), draw.randrange(0x110000)]) for _ in range(2 * draw.randint(1, 4))
        )
        ranges = list(zip(points[::2], points[1::2]))
        made = automaton(syntax.chars(ranges), "set") if syntax.chars(ranges).ranges else None
        near = {code + step for code in [*points, *edges] for step in (-1, 0, 1) if 0 <= code + step <= 0x10FFFF}
        for code in near | {draw.randrange(0x110000) for _ in range(20)}:
            if not 0xD800 <= code <= 0xDFFF:
                assert (made is not None and made.accepts(chr(code).encode())) == in_ranges(ranges, code), hex(code)


def test_what_is_no_utf8_is_in_no_set():
    made = automaton(syntax.repeat(syntax.chars(syntax.EVERY), 0, None), "all")
    draw = random.Random(1)
    good = 0
    for _ in range(3000):
        data = bytes(
            draw.choice([draw.randrange(256), 0xC3, 0xA9, 0xE2, 0xED, 0xF4, 0x80, 0x9F])
            for _ in range(draw.randint(0, 4))
        )
        try:
            data.decode()
            valid = True
        except UnicodeDecodeError:
            valid = False
        good += valid
        assert made.accepts(data) == valid, data
    assert 200 < good < 2800


def test_sets():
    draw = random.Random(2)
    for _ in range(200):
        some = [sorted(draw.choices(range(40), k=2)) for _ in range(draw.randint(0, 4))]
        others = [sorted(draw.choices(range(40), k=2)) for _ in range(draw.randint(0, 4))]
        left = syntax.without(some, others)
        assert left == syntax.merged(left)
        for code in range(42):
            assert in_ranges(left, code) == (in_ranges(some, code) and not in_ranges(others, code))
            assert in_ranges(syntax.merged(some), code) == in_ranges(some, code)


def test_words_are_the_smallest_automaton():
    texts = ["tap", "taps", "top", "tops", "stop", "stops", "é"]
    tree = syntax.words(texts)
    made = automaton(tree, "words")
    assert tree.size + 1 == made.accepting.size  # the automaton has a dead state besides
    for letters in itertools.product("tapso", repeat=4):
        for end in range(5):
            word = "".join(letters[:end])
            assert made.accepts(word.encode()) == (word in texts)
    assert made.accepts("é".encode()) and not made.accepts("é".encode()[:1])


def test_no_automaton_has_more_nodes_than_its_size():
    a, b = syntax.text("ab"), syntax.chars(syntax.EVERY)
    trees = [
        a, b, syntax.cat(a, b, a), syntax.alt(a, b), syntax.repeat(b, 3, 7), syntax.repeat(a, 2, None),
        syntax.members([a, b, a], [True, False, False], a), syntax.members([b] * 5, 2, a, b), syntax.words(["ab", "b"]),
        syntax.repeat(syntax.members([], 0, a, syntax.optional(b)), 0, 3),
    ]  # fmt: skip
    for tree in trees:
        nodes = _Nodes()
        end = nodes.new()
        before = len(nodes.edges)
        nodes.add(tree, 0, end)
        assert len(nodes.edges) - before <= tree.size


def test_members():
    """Against the sentences written out."""
    a, b, c, comma = (syntax.text(letter) for letter in "abc,")
    made = automaton(syntax.members([a, b, c], [False, True, False], comma), "object")
    allowed = {",".join(x for x, there in zip("abc", (i, 1, j)) if there) for i in (0, 1) for j in (0, 1)}
    listed = automaton(syntax.members([a, b], 1, comma, c), "array")
    lists = {"a"} | {",".join("ab" + "c" * n) for n in range(5)}
    open_ = automaton(syntax.members([a, b], [False, False], comma, c), "open")
    every = {",".join("ab"[:1] * i + "b" * j + "c" * n) for i in (0, 1) for j in (0, 1) for n in range(5)}
    for size in range(8):
        for letters in itertools.product("abc,", repeat=size):
            word = "".join(letters)
            assert made.accepts(word.encode()) == (word in allowed)
            assert listed.accepts(word.encode()) == (word in lists)
            assert open_.accepts(word.encode()) == (word in every)

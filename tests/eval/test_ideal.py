"""The bound of the report agrees with the laws."""

import pytest

from jaxdlm.eval import closed_forms, ideal


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_fewest_forwards(n):
    """One item per forward for a shuffle, two forwards for a rotation, one where greedy marginals are right."""
    assert ideal.fewest_forwards("shuffle", n, 0) == n
    assert ideal.fewest_forwards("rotate_any", n, 0) == 2
    assert ideal.fewest_forwards("remove_random", n, 0) == 1
    assert ideal.fewest_forwards("gshuffle", n, n) == n
    assert ideal.fewest_forwards("gshuffle", n, 1) == 1
    assert 1 < ideal.fewest_forwards("insert_random", n, 0) <= n


@pytest.mark.parametrize("n", [3, 6])
def test_one_forward(n):
    assert ideal.one_forward("shuffle", n, 0) == pytest.approx(closed_forms.shuffle_all_at_once(n))
    assert ideal.one_forward("gshuffle", n, 3) == pytest.approx(closed_forms.gshuffle_all_at_once(n, 3))
    assert ideal.one_forward("insert_random", n, 0) == pytest.approx(closed_forms.insert_random_all_at_once(n))
    assert ideal.one_forward("replace_random", n, 0) == pytest.approx(closed_forms.replace_random_all_at_once(n))
    assert ideal.one_forward("remove_random", n, 0) == 1


def test_bound_of_rows():
    row = {"answer": "[ Kate , Alan , Omar ]", "knobs": {"n": 3}}
    assert ideal.bound([{**row, "task": "copy"}]) == ([(8, 1), (8, 1)], 1)
    shuffles = ideal.bound([{**row, "task": "shuffle"}] * 2)
    assert shuffles == ([(pytest.approx(8 / 3), 1), (8, pytest.approx(6 / 27))], 3)
    both = ideal.bound([{**row, "task": "copy"}, {**row, "task": "shuffle"}])
    assert both == ([(4, 1), (8, pytest.approx(0.5 + 3 / 27))], 2)
    assert ideal.bound([{**row, "task": "couple"}]) is None
    assert ideal.bound([]) is None

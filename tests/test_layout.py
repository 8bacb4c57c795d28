"""Columns that prompts are padded to."""

import numpy as np
import pytest

from jaxdlm.layout import bucket_of, shared_columns


@pytest.mark.parametrize(
    ("columns", "bucket"),
    [(0, 16), (1, 16), (16, 16), (17, 24), (24, 24), (25, 32), (33, 48), (49, 64), (65, 96), (97, 128), (1500, 1536)],
)
def test_buckets(columns, bucket):
    assert bucket_of(columns) == bucket


def test_whole_blocks():
    assert [bucket_of(columns, 5) for columns in (3, 17, 30)] == [20, 25, 35]


def test_a_bucket_holds_its_prompt_and_at_most_a_third_of_pads():
    for columns in range(16, 5000):
        assert columns <= bucket_of(columns) <= 1.5 * columns and bucket_of(bucket_of(columns)) == bucket_of(columns)


@pytest.mark.parametrize(
    ("same", "expected"),
    [(0, 0), (31, 0), (32, 32), (47, 32), (48, 48), (63, 48), (64, 64), (95, 64), (96, 96), (130, 128)],
)
def test_shared_columns(same, expected):
    """What texts have alike at their beginning, rounded down; the last token of none is among it."""
    start = np.arange(same)
    texts = [np.concatenate([start, np.full(2, 1000 + row)]) for row in range(3)]
    assert shared_columns(texts) == expected
    assert shared_columns(texts[:1]) == 0
    assert shared_columns([start, start]) == shared_columns([start, texts[0][: same - 1]]) <= max(0, same - 1)

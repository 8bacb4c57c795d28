"""Columns that prompts are padded to."""

import pytest

from jaxdlm.layout import bucket_of


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

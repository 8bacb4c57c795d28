"""Generated prompts: the same on every machine, splits apart, every template used."""

import hashlib

import pytest

from jaxdlm.errors import InputError
from jaxdlm.train.instructions import TEMPLATES, instructions


def test_a_prompt_is_a_function_of_seed_split_and_number():
    many = instructions(300, 0)
    assert many[:40] == instructions(40, 0) and many != instructions(300, 1)
    assert hashlib.sha256("\n".join(many).encode()).hexdigest()[:16] == "d6254ca8dcbfdbd8"
    assert len(set(many)) > 250 and all(text == text.strip() and len(text) < 400 for text in many)


def test_no_prompt_is_in_two_splits():
    splits = {
        name: set(instructions(4 * len(TEMPLATES) * (10 if name == "train" else 1), 0, name))
        for name in ("train", "validation", "test")
    }
    assert not splits["train"] & splits["test"] and not splits["train"] & splits["validation"]
    assert not splits["test"] & splits["validation"]
    with pytest.raises(InputError, match="split 'held'"):
        instructions(1, 0, "held")

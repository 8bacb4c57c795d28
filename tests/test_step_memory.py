"""An ordinary forward behind a cache, compiled for TPUs at a released size: memory and copies; no TPU."""

import pytest

from tests.tpu_child import report

pytest.importorskip("libtpu")


@pytest.mark.slow
def test_a_cached_step_of_llada_8b_holds_less_than_the_logits_of_its_block(capsys):
    """Temporaries ≤ 1.1 × bfloat16 [8, 32, 126464] (per chip of four): no row of the vocabulary, no joined keys, no
    relaid weights; and the stored keys and values leave the step in the buffers in which they came."""
    found = report("step_memory", "--target", "v5e:2x2", "--tensor", "4", "--batch", "8")
    with capsys.disabled():
        print(f"\n{found}")
    assert found["ratio"] <= 1.1
    assert not found["copies"]
    stored = 2 * 32 * 8 * 512 * 32 * 128 * 2 // 4
    assert found["aliased"] >= stored

"""A decision's bits are its own: alone, in any batch and order, beside other rows, questions and choices."""

import jax
import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm.decisions import read, render
from tests.decisions.toys import net, spelled
from tests.marks import exhaustive

SIZES = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 96, "max_position": 256}
CASES = [("same", "bfloat16"), ("ar", "bfloat16")]
CASES += [exhaustive(case) for case in (("sdar", "bfloat16"), ("uniform", "bfloat16"), ("same", "float32"))]


def rows(count: int):
    """Prompts of several buckets, and questions of their own, some of them with a second beside. Few: of fewer programs."""
    longest, least, most = (40, 2, 9) if count > 20 else (20, 3, 5)
    random = np.random.default_rng(3)
    prompts = [random.integers(1, 45, int(random.integers(3, longest))).tolist() for _ in range(count)]
    sets = []
    for index in range(count):
        labels = random.permutation(np.arange(1, 45))[: int(random.integers(least, most))]
        asked = [spelled(*[[int(x)] for x in labels], name="label")]
        if index % 3 == 0:
            asked.append(spelled([int(labels[0])], [int(labels[1]), 7], name="second"))
        sets.append(asked)
    return prompts, sets


def bits(lm, prompts, sets, **settings):
    draws = {"draws": 1} if lm.config.noise == "uniform" else {}
    answers = jd.decide(lm, prompts, sets, read="text", law="chain", **draws, **settings)
    assert all(row.status == "ok" for row in answers)
    return [[(d.logits, d.label_mass, d.top_is_label, str(d.stderr)) for d in row.values()] for row in answers]


def compare(kind: str, dtype: str, count: int) -> int:
    """Rows that were held to what they are in one batch: in another order, by fives, alone, without a second question."""
    own = {} if kind in ("same", "uniform") else {"num_kv_heads": 2}
    own |= {"expert_size": 48, "shared_size": 48} if kind == "llada2" else {}
    lm, (prompts, sets) = net(kind, dtype, **SIZES, **own), rows(count)
    together, compared = bits(lm, prompts, sets), 0
    random = np.random.default_rng(5)
    for parts in ([random.permutation(count)], np.array_split(random.permutation(count), count // 5), [[0], [9], [18]]):
        for part in parts:
            some = [int(index) for index in part]
            found = bits(lm, [prompts[i] for i in some], [sets[i] for i in some], ids=some)
            assert found == [together[i] for i in some]
            compared += len(some)
    assert bits(lm, [prompts[9]], [sets[9][:1]], ids=[9])[0][0] == together[9][0], "without the other question"
    assert len({repr(each) for each in together}) == count
    return compared


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "dtype"), CASES)
def test_bits_are_equal_wherever_a_row_stands(kind, dtype):
    assert compare(kind, dtype, 20) == 43


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["same", "next", "sdar", "v2", "llada2", "ar", "uniform"])
def test_bits_of_many_rows(kind, dtype):
    assert compare(kind, dtype, 100) == 203


@pytest.mark.parametrize("kind", ["same", "ar"])
def test_options_do_not_change_each_other(kind):
    """Ratios of text probabilities are the same beside other options, in another order, and without some."""
    lm, prompt = net(kind), [5, 9, 2, 30]
    texts = [[3], [3, 9], [7, 2], [11], [8, 8]]
    whole = jd.decide(lm, [prompt], [spelled(*texts)], read="text")[0]["q"].logits
    for kept in ([0, 2], [4, 1, 0], [3, 1]):
        some = jd.decide(lm, [prompt], [spelled(*[texts[i] for i in kept])], read="text")[0]["q"].logits
        assert np.diff(some) == pytest.approx(np.diff([whole[i] for i in kept]), abs=1e-5)


def test_other_texts_and_choices_compile_nothing():
    lm = net("same")
    jd.decide(lm, [[3, 4, 5]], [spelled([3], [4], [5])])
    before = read._program._cache_size()
    answers = jd.decide(lm, [[9, 8], [7] * 13], [spelled([6], [7], [8], [9])], temperature=2.0)
    assert read._program._cache_size() == before
    assert len({row["q"].value for row in answers}) >= 1


@pytest.mark.slow
def test_a_batch_of_another_size_is_another_program_and_the_same_law():
    lm = net("same")
    one, other = (jd.decide(lm, [[3, 4, 5]], [spelled([3], [4])], batch=batch)[0]["q"].logits for batch in (16, 2))
    assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.slow
def test_a_vocabulary_in_tiles_and_stripes_is_read_alike():
    """Ids are gathered by the pass that makes the statistics, also where the last tile begins early."""
    import dataclasses

    lm = net("same")
    tiled = [dataclasses.replace(lm, model=dataclasses.replace(lm.model, tile=tile)) for tile in (48, 11, 20)]
    found = [jd.decide(each, [[3, 4, 5]], [spelled(*[[i] for i in range(1, 46)])])[0]["q"] for each in tiled]
    for each in found[1:]:
        assert each.logits == pytest.approx(found[0].logits, abs=1e-5)
        assert each.label_mass == pytest.approx(found[0].label_mass, abs=1e-6)


@pytest.mark.slow
def test_on_a_mesh_it_is_the_same_law():
    from jaxdlm import sharding

    lm = net("same")
    mesh = sharding.make_mesh({"data": 2, "tensor": 2})
    placed = jax.device_put(lm.params, sharding.param_shardings(lm.config, mesh))
    spread = lm.__class__(lm.model, placed, None, lm.name)
    asked = [spelled([3], [4], [9])]
    one, other = (jd.decide(each, [[3, 4, 5]], asked)[0]["q"].logits for each in (lm, spread))
    assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.exhaustive), "bfloat16"])
def test_what_questions_about_a_row_begin_with_is_read_once(dtype, monkeypatch):
    """A causal model: one program for the beginnings of 32 and of 48 columns each, whatever is asked; the shares are those of
    whole sequences, the bits those of a question alone."""
    lm, random = net("ar", dtype, **SIZES, num_kv_heads=2), np.random.default_rng(2)
    prompts = [random.integers(1, 45, size).tolist() for size in (40, 60, 50, 20)]
    asked = [spelled([3], [9], name="a"), spelled([7], [8, 2], [11], name="b"), spelled([3, 4], [3, 5], name="c")]
    program, heads = read._heads, []
    monkeypatch.setattr(
        read, "_heads", lambda model, params, tokens: heads.append(tokens) or program(model, params, tokens)
    )
    settings = {"read": "text", "batch": 4}
    together = jd.decide(lm, prompts, asked, **settings)
    assert [tokens.shape for tokens in heads] == [(4, 32), (4, 48)]
    for row, prompt in enumerate(prompts):
        for question in asked:
            alone = jd.decide(lm, [prompt], [question], ids=[row], **settings)[0][question.name]
            assert alone.logits == together[row][question.name].logits
    monkeypatch.setattr(render, "side_below", lambda columns: 0)
    whole, count = jd.decide(lm, prompts, asked, **settings), len(heads)
    assert len(heads) == count
    for row in range(len(prompts)):
        for name in "abc":
            assert whole[row][name].logits == pytest.approx(
                together[row][name].logits, abs=1e-5 if dtype == "float32" else 0.05
            )

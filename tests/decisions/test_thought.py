"""What a model writes about a row before it is asked: where it stands, and that it is the row's own."""

import pytest

import jaxdlm as jd
from jaxdlm.decisions import thought
from tests.decisions.test_render import chat, plain  # noqa: F401  (tokenizers)
from tests.decisions.toys import net, spelled

ASKED = jd.Choice("answer", ["[ Kate , Alan ]", "[ Alan , Kate ]"])
PROMPTS = ["reverse : [ Alan , Kate ]", "copy : [ Kate , Alan ]", "copy : [ Alan , Kate ]"]


@pytest.mark.slow
def test_questions_are_put_behind_the_thought():
    """`tiny-ar` writes its answer; then the same is asked of the chat of prompt and answer."""
    lm = jd.load("tiny-ar")
    answers = jd.decide(lm, PROMPTS, [ASKED], read="text", think=12, batch=4)
    written = jd.decode(lm, PROMPTS, max_new=12, rows_per_program=4).text
    assert [row.thought for row in answers] == written and answers.to_rows()[0]["thought"] == written[0]
    roles = ("user", "assistant")
    behind = [[{"role": r, "content": t} for r, t in zip(roles, pair)] for pair in zip(PROMPTS, written, strict=True)]
    for row, other in zip(answers, jd.decide(lm, behind, [ASKED], read="text", batch=4), strict=True):
        assert row["answer"].logits == other["answer"].logits and other.thought is None
    alone = jd.decide(lm, PROMPTS[1:2], [ASKED], read="text", think=12, batch=4, ids=[1])[0]
    assert (alone.thought, alone["answer"].logits) == (answers[1].thought, answers[1]["answer"].logits)


def test_a_chat_goes_on_with_the_thought_and_the_question(chat, plain, monkeypatch):  # noqa: F811
    asked = []

    def decode(lm, prompts, **_):
        asked.extend(prompts)
        return type("Out", (), {"text": [" So it is. ", ""]})

    monkeypatch.setattr(thought, "decode", decode)
    question = jd.Predicate("late", "Is it late?")
    settings = {"seed": 0, "ids": [0, 1], "batch": 2}
    states, thoughts = thought.think(chat, ["A state.", "Other."], [[question]] * 2, 9, **settings)
    assert asked[0] == f"A state.\n\nIs it late?\n\n{thought.THINK}" and thoughts == ["So it is.", ""]
    assert states[0] == [{"role": "user", "content": asked[0]}, {"role": "assistant", "content": "So it is."}]
    assert states[1] == "Other.", "nothing was thought"
    states, _ = thought.think(plain, ["A state.", "Other."], [[question]] * 2, 9, **settings)
    assert states[0] == f"{asked[2]}\nSo it is."


def test_token_ids_are_refused():
    with pytest.raises(jd.InputError, match="row 0 is token ids, and think= writes text"):
        jd.decide(net("ar"), [[3, 4]], [spelled([3], [4])], think=4)
    with pytest.raises(jd.InputError, match="think=-1: must be"):
        jd.decide(net("ar"), [[3, 4]], [spelled([3], [4])], think=-1)

"""Frames of a hand-made trajectory, in a terminal and as a page."""

import io
import json
import re
import types

import numpy as np
import pytest
from rich.console import Console

from jaxdlm import text, viz
from jaxdlm.errors import InputError
from tests import helpers


@pytest.fixture
def tokenizer(tmp_path):
    return text.Tokenizer.from_folder(helpers.word_level(tmp_path, ("Alan", "Fox", ",", "</script>")))


@pytest.fixture
def out(tokenizer):
    """Two rows of four columns: row 0 fills 1, then 0 and 2, then 3 with the end of text; row 1 is done at once."""
    ids = [tokenizer.backend.token_to_id(word) for word in ("Alan", "Fox", ",")]
    eos = tokenizer.eos[0]
    return types.SimpleNamespace(
        tokens=np.array([[*ids, eos], [ids[0], eos, eos, eos]], np.int32),
        commit_step=np.array([[1, 0, 1, 2], [0, 0, 0, 0]], np.int32),
        score=np.array([[0.5, 0.9, 1.0, 0.25], [1.0, 1.0, 1.0, 1.0]], np.float32),
        forwards=np.array([3, 1], np.int32),
        status=["eos", "eos"],
    )


def test_frames_show_what_was_written_before(out, tokenizer):
    drawn = viz.path(out, 0, tokenizer=tokenizer)
    masked = " " + viz.HIDDEN
    assert viz.frame(drawn, 0).plain == masked * 4
    assert viz.frame(drawn, 1).plain == masked + " Fox" + masked * 2
    assert viz.frame(drawn, 2).plain == "Alan Fox ," + masked
    assert viz.frame(drawn, 3).plain == "Alan Fox ,"


def test_tokens_are_counted_up_to_the_first_end_of_text(out, tokenizer):
    first, second = (viz.path(out, row, tokenizer=tokenizer) for row in (0, 1))
    assert (first.tokens, first.tokens_per_forward) == (4, 4 / 3)
    assert (second.tokens, second.tokens_per_forward) == (2, 2.0)
    assert viz.summary(second) == "2 tokens in 1 forward = 2.00 tokens per forward, eos"


def test_shades_are_probabilities_or_rescaled(out, tokenizer):
    assert viz.shades(viz.path(out, 0, tokenizer=tokenizer)) == [0.5, pytest.approx(0.9), 1.0, 0.25]
    out.score = np.array([[2.0, 4.0, 6.0, -np.inf]])
    assert viz.shades(viz.path(out, 0, tokenizer=tokenizer)) == [0.0, 0.5, 1.0, 0.0]
    out.score = np.log([[0.25, 0.5, 1.0, 0.125]])
    assert viz.shades(viz.path(out, 0, tokenizer=tokenizer)) == [0.25, 0.5, 1.0, 0.125]
    out.score = None
    assert viz.shades(viz.path(out, 0, tokenizer=tokenizer)) == [0.5, 1.0, 0.5, 0.0]


@pytest.mark.parametrize("terminal", [False, True])
def test_watch_ends_with_the_answer(out, tokenizer, terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
    viz.watch(viz.path(out, 0, tokenizer=tokenizer), console=console, seconds=0.01)
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    assert "Alan Fox ," in lines
    assert "4 tokens in 3 forwards" in lines
    if not terminal:
        assert [line.split("|")[0].strip() for line in lines.splitlines()[:-1]] == [f"step   {i}" for i in range(4)]


def test_watch_leaves_out_what_follows_the_end(out, tokenizer):
    console = Console(file=io.StringIO(), width=80)
    viz.watch(viz.path(out, 1, tokenizer=tokenizer), console=console)
    assert console.file.getvalue().splitlines()[0].count(viz.HIDDEN) == 2


def test_without_tokenizer_ids_are_shown(out):
    drawn = viz.path(out, 1, eos=[2])
    assert drawn.pieces[1] == "2 "
    assert drawn.tokens == 2


def test_page_is_one_file_and_safe(out, tokenizer, tmp_path):
    drawn = viz.path(out, 0, tokenizer=tokenizer, prompt="</script><script>alert(1)</script>")
    page = viz.write_html([drawn], tmp_path / "page.html", title="<b>").read_text()
    assert page.count("<script>") == 1
    assert "<b>" not in page
    assert not re.search(r"(src|href)\s*=|https?:|url\(", page)
    rows = json.loads(re.search(r"const rows = (.*);", page).group(1))
    assert rows[0]["prompt"] == "</script><script>alert(1)</script>"
    assert rows[0]["step"] == [1, 0, 1, 2]
    assert "".join(rows[0]["pieces"][:3]) == "Alan Fox ,"


def test_words_that_look_like_a_marker_stay_words(out, tokenizer, tmp_path):
    drawn = viz.path(out, 0, tokenizer=tokenizer, prompt="%TITLE% and %ROWS%")
    page = viz.write_html([drawn], tmp_path / "page.html", title="%ROWS% of %TITLE%").read_text()
    assert "<title>%ROWS% of %TITLE%</title>" in page
    assert json.loads(re.search(r"const rows = (.*);", page).group(1))[0]["prompt"] == "%TITLE% and %ROWS%"


def test_bad_requests(out, tokenizer, tmp_path):
    with pytest.raises(InputError, match="row=5: must be a whole number from 0 to 1"):
        viz.path(out, 5)
    with pytest.raises(InputError, match="cannot be written"):
        viz.write_html([viz.path(out, 0)], tmp_path / "none" / "page.html")
    out.commit_step = None
    with pytest.raises(InputError, match="save="):
        viz.path(out, 0)


def test_pieces_join_to_the_text(tmp_path):
    """Characters of several byte tokens stand whole at their last one."""
    tokenizer = text.Tokenizer.from_folder(helpers.byte_level(tmp_path, ("<|end|>",), helpers.CHATML))
    words = "naïve 中文 dogs"
    pieces = tokenizer.pieces(tokenizer.encode(words))
    assert "".join(pieces) == words
    assert "\ufffd" not in "".join(pieces)


def test_an_output_draws_itself(out, tokenizer, capsys):
    """It knows its tokenizer, and without one the ids that end its texts."""
    given = viz.path(out, 0, tokenizer=tokenizer)
    out.tokenizer, out.ends = tokenizer, ()
    assert viz.path(out, 0) == given
    viz.show(out)
    assert capsys.readouterr().out.startswith("Alan Fox ,\n")
    out.tokenizer, out.ends = None, (2,)
    assert viz.path(out, 1) == viz.path(out, 1, eos=[2])

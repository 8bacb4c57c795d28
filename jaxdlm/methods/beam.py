"""beam: the likeliest of several texts that are written side by side."""

from typing import Any

from jaxdlm import argument
from jaxdlm.registry import method
from jaxdlm.speculative.beam import BeamSearch
from jaxdlm.speculative.drafters.nothing import Nothing
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp

WIDEST = 64


@method(
    paper="1409.3215",
    idea="the likeliest of several texts that are written side by side",
    use="short answers with one right form: translation, transcription",
    avoid="open text, where the likeliest is dull",
    needs="",
    order=255,
)
def beam(width: int = 4, length_penalty: Any = 1.0, early_stopping: Any = False, guide: Any = None) -> Speculation:
    """Beam search: of the continuations of `width` texts the likeliest go on; the answer maximises log p / length^penalty.

    width: W rows per prompt, read together (1 to 64; 4). length_penalty: above 0 longer answers win, 0 the likeliest (-10
    to 10; 1.0, as in `transformers`). early_stopping: when a prompt is done with W finished texts: True: at once; False:
    when the likeliest beam, ended now, would not beat the worst of them; "never": when no continuation could, as far as
    its length decides that. guide: one of `jaxdlm.guides`, or a list of them; none. `decode(n=...)` returns the n best.
    Equals `transformers`' `generate(num_beams=W)` except that a guide bends logits, which are normalised again, and that
    ties go to the lower beam and id. Raises InputError for values out of range.
    """
    width = argument.whole(1, WIDEST)(width, "width")
    penalty = argument.number(length_penalty, "length_penalty", low=-10, high=10)
    if not isinstance(early_stopping, bool):
        argument.check_choice(early_stopping, "early_stopping", ("never",))
    search = BeamSearch(penalty, width, early_stopping)
    return Speculation(Nothing(), warp(guide=guide), samples=width, search=search)

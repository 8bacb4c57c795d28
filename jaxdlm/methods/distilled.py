"""distilled: a student that was trained to turn noise into the whole answer writes it in one forward (arXiv 2412.17153)."""

from typing import Any

from jaxdlm import argument
from jaxdlm.registry import method
from jaxdlm.speculative.distilled import Distilled, Student, read_student
from jaxdlm.speculative.drafters.nothing import Nothing
from jaxdlm.speculative.policy import Speculation
from jaxdlm.speculative.warp import warp
from jaxdlm.trained import shipped


@method(
    paper="2412.17153",
    idea="the whole answer in one forward of a student that turns noise into the model's own samples",
    use="short answers of bounded length, image tokens above all, where forwards are what costs",
    avoid="answers that must be right: the student is further from the model's law than the model",
    trained=True,
    needs="",
    order=259,
)
def distilled(
    weights: Any = "tiny-ar", steps: int = 1, keep: Any = None, redraw: int = 0, guide: Any = None
) -> Speculation:
    """Distilled Decoding: x_i = f(text, noise_1 .. noise_i) for all i at once, a sample of the model's own law (2412.17153).

    weights: a file of scripts/train.py --recipe distilled, the name of an embedded model that has one, tiny-ar, or a
    `speculative.distilled.Student`. steps: of the student, 1 to its length (1): it keeps an equal part of what it wrote, and
    looks again. keep: instead, two steps, of which the first writes so many tokens, 0 to its length - 1 (paper: 80 of 256;
    None). redraw: tokens behind these that the model itself writes, one per forward (0): 2 + redraw forwards. guide: one of
    `jaxdlm.guides`, or a list of them; none: it bends the tokens of a forward one after the other. The noise belongs to row
    and position, and is the same in every step. `forwards` counts those of student and model alike, and `logprobs` are the
    student's own, of each token by itself.
    Raises InputError for values out of range, longer answers than the student's, and students of another model.
    Departures from the released code: docs/deviations.md.
    """
    student = weights if isinstance(weights, Student) else read_student(shipped(weights, "distilled"))
    steps = argument.whole(1, student.length)(steps, "steps")
    again = argument.whole(0, student.length)(redraw, "redraw")
    first = argument.whole(0, student.length - 1, none=True)(keep, "keep")
    bounds = tuple(round(student.length * number / steps) for number in range(1, steps))
    if first is None:
        argument.unused("without keep", redraw=(again, 0))
        first = 0
    else:
        argument.unused("with keep", steps=(steps, 1))
        bounds = (first,) if first else ()
    last = min(first + again, student.length) if again else 0
    sampling = warp(student.temperature, guide=guide, noise="shared")
    return Speculation(Nothing(), sampling, search=Distilled(student, bounds, (first if again else 0, last)))

"""Word problems: the number decides, the written work decides strictness."""

from jaxdlm.eval.task import TASKS, make


def test_wrong_work_is_not_strict_and_a_wrong_number_is_not_correct():
    check = TASKS["gsm"].check
    for example in make("gsm", 30, "train"):
        work, number = example.answer.split(" #### ")
        assert not check(example, f"{work} #### {int(number) + 1}").correct
        first = work.split(" = ")[0]
        wrong = work.replace(first, first + "1", 1)
        score = check(example, f"{wrong} #### {number}")
        assert score.correct and not score.strict


def test_the_order_of_independent_steps_is_free():
    check = TASKS["gsm"].check
    for example in make("gsm", 10, "train", free_order=True):
        a, b, c, end = (part.strip() for part in example.answer.split(" . "))
        assert check(example, f"{b} . {a} . {c} . {end}").strict

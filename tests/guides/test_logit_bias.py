"""Biases of tokens: by hand, against `transformers`, and what is refused."""

import numpy as np
import pytest

import jaxdlm as jd
from jaxdlm.guides.logit_bias import bias_table
from tests.guides.test_repetition import VOCAB, behind, cases
from tests.speculative.toys import model

TOY = model(0, vocab=VOCAB)


def test_by_hand():
    logits = np.float32([2, -2, 0, 3, -1, 1, 4, 1, 1, -np.inf, 1])
    out = behind(jd.guides.logit_bias({2: 1.5, "9": 100, 3: -100}, TOY), [0, 1], [3], logits)
    np.testing.assert_array_equal(out, np.float32([2, -2, 1.5, -97, -1, 1, 4, 1, 1, -np.inf, 1]))
    np.testing.assert_array_equal(behind(jd.guides.logit_bias({}, TOY), [0, 1], [3], logits), logits)


@pytest.mark.parametrize(
    ("biases", "message"),
    [
        ([3], "logit_bias=.*an object of token ids"), ({VOCAB: 1}, f"token id={VOCAB}: must be a whole number from 0"),
        ({"x": 1}, "token id='x'"), ({"-1": 1}, "token id='-1'"), ({1.5: 1}, "token id=1.5"), ({True: 1}, "token id=True"),
        ({3: 101}, r"logit_bias\[3\]=101: must be a number from -100 to 100"), ({3: None}, r"logit_bias\[3\]=None"),
        ({3: float("nan")}, r"logit_bias\[3\]=nan"), ({"3": 1, "03": 2}, "token id 3 twice"), ({"9" * 5000: 1}, "token id="),
    ],
)  # fmt: skip
def test_what_is_no_bias_is_refused(biases, message):
    with pytest.raises(jd.InputError, match=message):
        bias_table(biases, VOCAB)


def test_another_model_is_refused():
    with pytest.raises(jd.InputError, match="logit_bias was made for 11 ids, toy has 23"):
        jd.decode(model(0), [[3]], jd.autoregressive(guide=jd.guides.logit_bias({3: 1}, TOY)), max_new=2)


@pytest.mark.slow
def test_transformers_says_the_same():
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers").SequenceBiasLogitsProcessor
    for prompt, answer, logits, penalty in cases(20):
        biases = {answer[0]: penalty, 7: -penalty}
        theirs = process([[[token], value] for token, value in biases.items()])
        theirs._prepare_bias_variables(torch.tensor(logits[None]))
        wanted = theirs(torch.tensor([prompt + answer]), torch.tensor(logits[None]))[0].numpy()
        np.testing.assert_allclose(behind(jd.guides.logit_bias(biases, TOY), prompt, answer, logits), wanted, rtol=1e-6)

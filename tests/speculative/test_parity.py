"""Greedy decoding against `generate` of PyPI transformers, on tiny random models with loud weights."""

import numpy as np
import pytest
import torch

from jaxdlm import decode, speculative
from jaxdlm._load import LM
from tests.models import oracles

NEW, GAP = 16, 1e-4
PROMPTS = [[5, 9, 31, 77, 12], [150, 3], [44, 45, 46, 44, 45, 46, 44, 101, 7, 8, 9, 20, 33, 21]]


def theirs(case, prompt):
    """Their tokens, and the gap of the two best logits at each."""
    ids = torch.tensor([prompt])
    with torch.no_grad():
        out = case.oracle.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, return_dict_in_generate=True,
            output_logits=True, pad_token_id=0,
        )  # fmt: skip
    top = torch.stack([x[0].topk(2).values for x in out.logits])
    return out.sequences[0, len(prompt) :].tolist(), (top[:, 0] - top[:, 1]).tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "drafted"),
    [("llama", False), ("qwen2", False), ("qwen3", False), ("gemma3_text", False), ("gemma3_text", True)],
)
def test_greedy_tokens_equal_transformers(name, drafted):
    """A ragged batch of ours against one row at a time of theirs; with a draft where sliding windows meet roll-back."""
    case = oracles.case(name)
    lm = LM(case.model, case.params, None, name)
    policy = speculative.speculative(lm, k=3) if drafted else "autoregressive"
    out = decode(lm, PROMPTS, policy=policy, max_new=NEW)
    for row, prompt in enumerate(PROMPTS):
        tokens, gaps = theirs(case, prompt)
        assert min(gaps) > GAP, "a tie: choose another prompt"
        assert out.tokens[row, : len(tokens)].tolist() == tokens
        assert (np.asarray(out.tokens[row, len(tokens) :]) == case.config.tokens.eos[0]).all()

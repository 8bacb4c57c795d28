"""Reward against KL divergence of `transfer_q` with an aligned baseline, with the model itself (Controlled Decoding's estimate)
and of unfinished texts (ARGS), beside the exact optimum, on Markov chains whose laws are computed exactly.

    python benchmarks/rewards.py --chains 8 --rows 1024

A chain of V tokens and T steps has random transitions and a random reward of each; an aligned model of it is its law times
exp(reward / beta), which is a chain too. Of a policy pi(z | s) ~ p(z | s) exp(Q(s, z) / alpha) both the mean reward and
KL(pi | p) follow by backward sums. By value iteration the best of E[reward] - alpha KL is known as well. Printed per chain
average: the reward at equal KL (by interpolation over alpha) of each estimate of Q, and, for `--rows`, what `jd.decode` measures
beside the sums, in standard errors.
"""

import argparse
import json
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxdlm as jd
from jaxdlm import struct
from jaxdlm._load import LM
from jaxdlm.core.model import KV, ModelOutput, Tiling
from jaxdlm.models import ModelConfig
from jaxdlm.models.config import RopeConfig, TokenIds

TOKENS, STEPS, BETA = 8, 6, 1.0
CONFIG = ModelConfig(
    family="llama", vocab_size=TOKENS, num_layers=1, hidden_size=TOKENS, num_heads=1, num_kv_heads=1, head_dim=2,
    intermediate_size=8, max_position=STEPS + 1, norm_eps=1e-6, rope=RopeConfig(theta=10000.0), attention="causal",
    prediction="next", noise="none", tokens=TokenIds(pad=0, eos=()), param_dtype="float32",
)  # fmt: skip


@dataclass(frozen=True)
class Chain:
    """A model whose logits are a row of a table [T, V, V], by position and token."""

    config: ModelConfig = CONFIG

    @property
    def tiling(self) -> Tiling:
        return Tiling(TOKENS)

    def apply(self, params: Any, tokens: Any, position: Any, valid: Any, past: Any = None, *, mask: Any = None) -> Any:
        nothing = jnp.zeros((1, *tokens.shape, 1, 2))
        return ModelOutput(params["table"][jnp.minimum(position, STEPS - 1), tokens], KV(nothing, nothing))

    def head(self, params: Any, hidden: Any, first: Any = None) -> Any:
        return hidden


def log_normal(logits: np.ndarray) -> np.ndarray:
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def soft(logp: np.ndarray, gain: np.ndarray, beta: float) -> np.ndarray:
    """Q of the best policy for E[reward] - beta KL, [T, V, V]: gain plus the value of what follows."""
    value, q = np.zeros(TOKENS), np.zeros_like(gain)
    for t in reversed(range(STEPS)):
        q[t] = gain[t] + value[None, :]
        value = beta * np.logaddexp.reduce(logp[t] + q[t] / beta, axis=1)
    return q


def mean(logp: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Q of following a law to the end."""
    value, q = np.zeros(TOKENS), np.zeros_like(gain)
    for t in reversed(range(STEPS)):
        q[t] = gain[t] + value[None, :]
        value = np.sum(np.exp(logp[t]) * q[t], axis=1)
    return q


def outcome(logp: np.ndarray, law: np.ndarray, gain: np.ndarray) -> tuple[float, float]:
    """(mean reward, KL from the model) of a law that begins behind token 0."""
    at, reward, kl = np.eye(TOKENS)[0], 0.0, 0.0
    for t in range(STEPS):
        p = at[:, None] * np.exp(law[t])
        reward, kl = reward + float((p * gain[t]).sum()), kl + float((p * (law[t] - logp[t])).sum())
        at = p.sum(0)
    return reward, kl


def curve(logp: np.ndarray, q: np.ndarray, gain: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    """[len(alphas), 2]: (KL, reward)."""
    points = [outcome(logp, log_normal(logp + q / alpha), gain) for alpha in alphas]
    return np.array([(kl, reward) for reward, kl in points])


@struct.dataclass
class Earned:
    """The reward of a text, inside the program."""

    gain: Any

    def __call__(self, tokens: Any, start: Any, length: Any) -> Any:
        at, tokens = jnp.arange(STEPS), tokens[:, : STEPS + 1]
        own = (at[None, :] + 1) < length[:, None]
        return jnp.sum(jnp.where(own, self.gain[at[None, :], tokens[:, :-1], tokens[:, 1:]], 0.0), axis=1)


def measured(logp: np.ndarray, aligned: np.ndarray, gain: np.ndarray, rows: int, rollouts: int) -> list[float]:
    """Rewards of `rows` texts that `jd.decode` wrote at alpha = beta = temperature of the choice."""
    earned = Earned(jnp.asarray(gain, jnp.float32))
    lm, baseline = (LM(Chain(), {"table": jnp.asarray(x, jnp.float32)}, None, "chain") for x in (logp, aligned))
    policy = jd.transfer_q(earned, baseline, k=TOKENS, alpha=BETA, length=STEPS, rollouts=rollouts, temperature=1.0)
    out = jd.decode(lm, [[0]] * rows, policy, max_new=STEPS, stop=False, rows_per_program=rows)
    text = np.concatenate([np.zeros((rows, 1), int), out.tokens], axis=1)
    return [float(gain[np.arange(STEPS), row[:-1], row[1:]].sum()) for row in text]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=8)
    parser.add_argument("--rows", type=int, default=1024, help="texts of the first chain that are decoded; 0: none")
    parser.add_argument("--rollouts", type=int, default=64)
    parser.add_argument("--kl", type=float, nargs="+", default=[0.5, 1.0, 2.0, 4.0])
    args = parser.parse_args()
    alphas = np.geomspace(0.05, 50, 200)[::-1]
    rewards: dict[str, list[list[float]]] = {}
    decoded: dict[str, float] = {}
    for seed in range(args.chains):
        random = np.random.default_rng(seed)
        logp, gain = (
            log_normal(1.5 * random.normal(size=(STEPS, TOKENS, TOKENS))),
            random.normal(size=(STEPS, TOKENS, TOKENS)),
        )
        best = soft(logp, gain, BETA)
        aligned = log_normal(logp + best / BETA)
        kinds = {
            "transfer_q, baseline aligned at beta = 1": mean(aligned, gain), "controlled decoding": mean(logp, gain),
            "ARGS, unfinished texts": gain,
        }  # fmt: skip
        for name, q in kinds.items():
            points = curve(logp, q, gain, alphas)
            rewards.setdefault(name, []).append(np.interp(args.kl, points[:, 0], points[:, 1]).tolist())
        matched = [mean(log_normal(logp + soft(logp, gain, a) / a), gain) for a in alphas]
        points = np.array([outcome(logp, log_normal(logp + q / a), gain)[::-1] for a, q in zip(alphas, matched)])
        rewards.setdefault("transfer_q, baseline aligned at beta = alpha", []).append(
            np.interp(args.kl, points[:, 0], points[:, 1]).tolist()
        )
        exact = np.array([outcome(logp, log_normal(logp + soft(logp, gain, a) / a), gain)[::-1] for a in alphas])
        rewards.setdefault("optimum", []).append(np.interp(args.kl, exact[:, 0], exact[:, 1]).tolist())
        if seed == 0 and args.rows:
            texts = measured(logp, aligned, gain, args.rows, args.rollouts)
            wanted, _ = outcome(logp, log_normal(logp + kinds["transfer_q, baseline aligned at beta = 1"] / BETA), gain)
            error = float(np.std(texts) / np.sqrt(len(texts)))
            decoded = {
                "mean": float(np.mean(texts)),
                "by sums": wanted,
                "standard errors": (np.mean(texts) - wanted) / error,
            }
    made = {
        name: dict(zip(map(str, args.kl), np.mean(values, 0).round(4).tolist())) for name, values in rewards.items()
    }
    print(json.dumps({"reward at KL": made, "decoded": decoded}))


if __name__ == "__main__":
    main()

"""The baseline: LLaDA's sampler and a plain decoder stack in PyTorch, on the weights of a jaxdlm model (2502.09992)."""

from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F

ACTIVATE = {"silu": F.silu, "relu2": lambda x: F.relu(x).square(), "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}


class TorchModel:
    """Full attention over whole sequences of one length."""

    def __init__(self, config: Any, params: Any, dtype: str) -> None:
        plain = {"attention": "full", "num_experts": 0, "sandwich_norm": False, "norm_plus_one": False, "v_norm": False}
        plain |= {"prediction": "same", "final_softcap": None}
        odd = [name for name, value in plain.items() if getattr(config, name) != value]
        odd += [] if config.rope.kind == "default" and config.rope.rotary_dim in (None, config.head_dim) else ["rope"]
        if odd:
            raise SystemExit(f"the PyTorch baseline knows LLaDA's stack only; this model has its own {', '.join(odd)}")
        self.config = config
        self.device = "cpu" if jax.default_backend() == "cpu" else "cuda"
        move = lambda x: torch.from_numpy(np.array(x, np.float32)).to(self.device, getattr(torch, dtype))  # noqa: E731
        self.weights = {name: move(leaf) for name, leaf in params.items() if name != "segments"}
        stacked = jax.tree.map(move, params["segments"][0][0])
        self.layers = [{name: leaf[i] for name, leaf in stacked.items()} for i in range(config.num_layers)]
        for layer in self.layers:  # matrices as torch.nn.Linear would hold them
            for name in ("wq", "wk", "wv"):
                layer[name] = layer[name].flatten(1).contiguous()
            layer["wo"] = layer["wo"].flatten(0, 1).contiguous()

    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, L] -> [B, L, D], after the final norm."""
        config, (rows, length) = self.config, tokens.shape
        x = self.weights["embed"][tokens]
        x = x if config.embed_scale is None else x * config.embed_scale
        half = torch.arange(0, config.head_dim, 2, device=x.device).float() / config.head_dim
        angle = torch.outer(torch.arange(length, device=x.device).float(), config.rope.theta**-half).repeat(1, 2)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        for layer in self.layers:
            h = self.norm(x, layer["attn_norm"])
            q, k, v = (self.heads(h, layer, name).view(rows, length, -1, config.head_dim) for name in "qkv")
            if config.qk_norm:
                q, k = self.norm(q, layer["q_norm"]), self.norm(k, layer["k_norm"])
            q, k, v = (y.transpose(1, 2) for y in (q, k, v))
            q, k = q * cos + turn(q) * sin, k * cos + turn(k) * sin
            mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=True, scale=config.attn_scale)
            x = x + mixed.transpose(1, 2).flatten(2) @ layer["wo"]
            h = self.norm(x, layer["mlp_norm"])
            act = ACTIVATE[config.activation]
            wide = act(h @ layer["gate"]) * (h @ layer["up"]) if config.gated_mlp else act(h @ layer["up"])
            x = x + wide @ layer["down"]
        return self.norm(x, self.weights["final_norm"])

    def heads(self, h: torch.Tensor, layer: dict[str, torch.Tensor], name: str) -> torch.Tensor:
        y = h @ layer[f"w{name}"]
        return y + layer[f"b{name}"].flatten() if self.config.qkv_bias else y

    def norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.config.norm_eps)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        config = self.config
        logits = hidden @ (self.weights["embed"].T if config.tie_embeddings else self.weights["lm_head"])
        return logits if config.logit_scale is None else logits * config.logit_scale


def turn(x: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat([-b, a], dim=-1)


def split(masks: int, steps: int) -> list[int]:
    """Commits per step: as equal as possible, the larger ones first."""
    return [masks // steps + (step < masks % steps) for step in range(steps)]


@torch.no_grad()
def paper(
    model: TorchModel, prompt: torch.Tensor, *, max_new: int, block: int, steps: int, temperature: float
) -> torch.Tensor:
    """As the paper's code: logits of every column, float64 Gumbel noise in product form, float64 softmax."""
    mask = model.config.tokens.mask
    rows, start = prompt.shape
    x = torch.cat([prompt, prompt.new_full((rows, max_new), mask)], dim=1)
    blocks = max_new // block
    for number in range(blocks):
        end = start + (number + 1) * block
        for count in split(block, steps // blocks):
            masked = x == mask
            logits = model.head(model.hidden(x))
            noisy = logits
            if temperature > 0:
                noisy = logits.double()
                noise = (-torch.log(torch.rand_like(noisy))) ** temperature
                noisy = noisy.exp() / noise
            proposal = noisy.argmax(-1)
            p = logits.double().softmax(-1).gather(-1, proposal[..., None])[..., 0]
            p[:, end:] = -torch.inf
            proposal = torch.where(masked, proposal, x)
            score = torch.where(masked, p, -torch.inf)
            commit = torch.zeros_like(masked)
            for row in range(rows):
                commit[row, score[row].topk(count).indices] = True
            x[commit] = proposal[commit]
    return x[:, start:]


@torch.no_grad()
def lean(
    model: TorchModel, prompt: torch.Tensor, *, max_new: int, block: int, steps: int, temperature: float
) -> torch.Tensor:
    """The same rule without the waste: logits of the block only, float32, additive noise, one topk for the batch."""
    mask = model.config.tokens.mask
    rows, start = prompt.shape
    x = torch.cat([prompt, prompt.new_full((rows, max_new), mask)], dim=1)
    blocks = max_new // block
    for number in range(blocks):
        window = slice(start + number * block, start + (number + 1) * block)
        for count in split(block, steps // blocks):
            logits = model.head(model.hidden(x)[:, window]).float()
            noisy = logits
            if temperature > 0:
                noisy = logits / temperature - torch.log(-torch.log(torch.rand_like(logits)))
            proposal = noisy.argmax(-1)
            score = logits.gather(-1, proposal[..., None])[..., 0] - logits.logsumexp(-1)
            score = torch.where(x[:, window] == mask, score, -torch.inf)
            chosen = score.topk(count, dim=-1).indices
            x[:, window] = x[:, window].scatter(1, chosen, proposal.gather(1, chosen))
    return x[:, start:]

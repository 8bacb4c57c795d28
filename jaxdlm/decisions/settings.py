"""The settings of a call of `decide`, each checked by itself and beside the others."""

import hashlib
import json
from typing import Any

from jaxdlm import argument
from jaxdlm.decisions import calibrate, spellings
from jaxdlm.decisions.laws import LAWS, Limits, masked
from jaxdlm.decisions.ordered import read_order
from jaxdlm.decisions.pool import CONFIDENCES, POOLS, read_orders, read_prior, read_temperature
from jaxdlm.decisions.render import read_templates
from jaxdlm.errors import InputError
from jaxdlm.layout import SEED

READS = ("label", "text")
MOST_DRAWS = 1024
MOST_STEPS = 256
IMPROPER = ("pseudo", "anyorder")  # laws whose sum over all texts is not 1


class Settings:
    """Settings of a call, checked."""

    def __init__(
        self, lm: Any, *, read: str = "label", law: str = "auto", orders: Any = 1, draws: Any = "auto",
        templates: Any = None, calibration: Any = None, prior: Any = None, temperature: Any = 1.0,
        width: Any = None, cache: Any = "auto", seed: Any = 0, batch: Any = 16, confidence: Any = "jev",
        max_contexts: Any = 4096, tolerance: Any = 0.01, joint: Any = False, sequential: Any = False,
        cfg: Any = 0.0, tokenisations: Any = "canonical", think: Any = 0, order: Any = None, steps: Any = 1,
        reread: Any = 0.0, pool: Any = "log", noise: Any = "row",
    ) -> None:  # fmt: skip
        self.lm = argument.model(lm)
        if isinstance(joint, str) and joint != "chain":
            argument.refuse(joint, "joint", 'true, false or "chain"')
        self.joint = joint if isinstance(joint, str) else argument.flag(joint, "joint")
        self.sequential = argument.flag(sequential, "sequential")
        if self.joint or self.sequential:
            self._check_reply(read=(read, "label"), orders=(orders, 1), templates=(templates, None), prior=(prior, None),
                              calibration=(calibration, None), cfg=(cfg, 0.0))  # fmt: skip
        self.read = argument.check_choice(read, "read", READS)
        self.law = argument.check_choice(law, "law", ("auto", *LAWS))
        self.pool = argument.check_choice(pool, "pool", POOLS)
        self.noise = argument.check_choice(noise, "noise", ("row", "content"))
        self.orders, self.prior = read_orders(orders), read_prior(prior)
        self.noisy = lm.config.noise == "uniform"
        if not self.noisy and self.noise != "row":
            raise InputError(f"noise={noise!r}: {lm.name} has no noise that would be drawn: leave it out")
        if lm.config.expert_capacity:
            raise InputError(
                f"{lm.name} routes the tokens of a block together, and questions share parts of blocks: decode them"
            )
        if lm.config.masked_canvas:
            raise InputError(
                f"{lm.name} reads masks in blocks behind a causal prefix, so ask it from left to right: load it with "
                f"family='nemotron_ld_ar'"
            )
        draws = draws if isinstance(draws, str) and draws == "auto" else argument.whole(1, MOST_DRAWS)(draws, "draws")
        if not self.noisy and draws not in ("auto", 1) and self.joint != "chain":
            raise InputError(f"draws={draws}: {lm.name} has no noise to draw: leave it out")
        self.templates = read_templates(templates)
        self.temperature = read_temperature(temperature)
        argument.check_choice(cache, "cache", ("auto", "none"))
        self.seed = SEED(seed, "seed")
        self.batch = argument.whole(1, argument.MOST_ROWS)(batch, "batch")
        self.confidence = argument.check_choice(confidence, "confidence", CONFIDENCES)
        if confidence == "mass" and self.law in IMPROPER:
            raise InputError(f"confidence='mass': law={law!r} gives no probabilities that would add up: use another")
        self.limits = Limits(
            argument.whole(1, none=True)(width, "width"), argument.whole(1)(max_contexts, "max_contexts"),
            argument.real(0, 1)(tolerance, "tolerance"), draws, argument.real(0, 1000)(cfg, "cfg"),
            read_order(order), argument.whole(1, MOST_STEPS)(steps, "steps"),
        )  # fmt: skip
        self._check_width()
        self._check_guidance()
        self._check_order()
        if self.limits.steps > 1 and not self.noisy:
            raise InputError(f"steps={steps}: {lm.name} has no noise that steps would remove: leave it out")
        self.reread = argument.real(0, 1000)(reread, "reread")
        self.think = argument.whole(0, lm.config.max_position)(think, "think")
        self.tokenisations = argument.check_choice(tokenisations, "tokenisations", spellings.WAYS)
        if self.tokenisations == "all" and (self.read != "text" or self.law not in ("auto", "chain", "product")):
            raise InputError(
                "tokenisations='all' is of read='text' with law='chain' or 'product', whose probabilities add up: leave it out"
            )
        self.calibration = None if calibration is None else calibrate.read(calibration)
        if self.calibration is not None:
            argument.unused("beside a calibration, which has both", temperature=(temperature, 1.0), prior=(prior, None))
            self.calibration.check_model(lm)
            self.calibration.check_reader(self.fingerprint)

    def _check_reply(self, **arguments: tuple[Any, Any]) -> None:
        """What several questions in one reply leave out."""
        if self.joint and self.sequential:
            raise InputError("joint and sequential exclude each other: leave one out")
        argument.unused("in a reply to several questions (joint, sequential)", **arguments)

    def _check_guidance(self) -> None:
        if self.limits.cfg and not (masked(self.lm.config) and self.read == "label" and self.law in ("auto", "slot")):
            raise InputError(
                f"cfg={self.limits.cfg}: guidance is of labels and law='slot' of masked models: leave it out"
            )

    def _check_order(self) -> None:
        if self.limits.order is None:
            return
        order, config = argument.shown(self.limits.order), self.lm.config
        if not masked(config) or config.attention != "full":
            raise InputError(f"order={order}: {self.lm.name} reads from left to right: leave it out")
        if self.read != "text" or self.law not in ("auto", "chain"):
            raise InputError(f"order={order} is of read='text' with law='chain': leave it out")

    def _check_width(self) -> None:
        width = self.limits.width
        if width is None:
            return
        if not masked(self.lm.config):
            raise InputError(
                f"width={width}: open columns are for masked models, which {self.lm.name} is not: leave it out"
            )
        if self.read == "label" and self.law in ("auto", "slot"):
            raise InputError(f"width={width}: law='slot' reads one column: leave it out")

    @property
    def fingerprint(self) -> str:
        """Of all that decides how a question is read: by it calibrations know their reader."""
        parts = [self.read, self.law, self.orders, [vars(each) for each in self.templates], list(self.limits)]
        parts += [self.joint, self.sequential, self.tokenisations, self.think, self.reread]
        parts += [each for each in (self.pool, self.noise) if each not in ("log", "row")]  # newer than fitted files
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def named(self) -> str:
        """The fingerprint of the reader and its calibration, as rows carry it."""
        fitted = None if self.calibration is None else self.calibration.fingerprint
        parts = [self.fingerprint, None if self.prior is None else self.prior.strength, self.temperature, fitted,
                 self.confidence, self.seed if self.noisy else None]  # fmt: skip
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

"""A recipe of a few thousand parameters for tests: copy and reverse, eight columns."""

import dataclasses

import jax

from jaxdlm.models.backbone import Backbone
from jaxdlm.models.params import init_params
from jaxdlm.train.data import Bucket, causal_batch, masked_batch
from jaxdlm.train.losses import answer_loss
from jaxdlm.train.recipes.tiny import config
from jaxdlm.train.step import Recipe, muon

BUCKET = Bucket(32, 16, 16, 1.0, {"copy": 0.6, "reverse": 0.4})


def small_recipe(name="tiny", trainable=".*"):
    make_batch = masked_batch if name == "tiny" else causal_batch
    model = Backbone(dataclasses.replace(config(name, 32, 2), num_heads=2, num_kv_heads=2, head_dim=16))

    def init(seed):
        return init_params(model.config, jax.random.key(seed), init="train")

    return Recipe(
        name=name,
        model=model,
        init=init,
        loss_fn=answer_loss,
        batch_at=lambda seed, step: make_batch(BUCKET, seed, step),
        optimizer=muon(jax.eval_shape(lambda: init(0))),
        steps=40,
        warmup=5,
        trainable=trainable,
    )

"""Model families on one shared decoder stack."""

from jaxdlm.models.backbone import Backbone
from jaxdlm.models.config import ModelConfig, RopeConfig, TokenIds
from jaxdlm.models.params import abstract_params, count_params, init_params, param_specs

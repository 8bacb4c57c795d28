"""Reading checkpoints: `open_folder` for what is in a folder, `load_params` to bring it onto devices."""

from jaxdlm.checkpoint.errors import CheckpointError
from jaxdlm.checkpoint.leaf import LeafSpec
from jaxdlm.checkpoint.placement import random_params, shardings
from jaxdlm.checkpoint.restore import load_params
from jaxdlm.checkpoint.source import Checkpoint, open_folder

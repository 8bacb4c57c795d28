"""Where draft tokens come from: a model, the text itself, a model's exits, or nowhere."""

from jaxdlm.speculative.drafters.lookup import Lookup
from jaxdlm.speculative.drafters.model import DraftModel
from jaxdlm.speculative.drafters.nothing import Nothing
from jaxdlm.speculative.drafters.pearl import Pearl
from jaxdlm.speculative.drafters.s2d import Exits
from jaxdlm.speculative.drafters.specdec_pp import SpecDecPP

__all__ = ["DraftModel", "Exits", "Lookup", "Nothing", "Pearl", "SpecDecPP"]


def __dir__() -> list[str]:
    return __all__

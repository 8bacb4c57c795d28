"""What drafters have in common that read by the target's own weights."""

import dataclasses
from typing import Any, Self, cast

from jaxdlm.speculative.state import Lent


class Borrowing:
    """A drafter to which the loop lends the target for a round (`Borrows`); its field `lent` holds it."""

    lent: Lent | None

    def borrow(self, lent: Lent) -> Self:
        return dataclasses.replace(cast(Any, self), lent=lent)

    @property
    def host(self) -> Lent:
        """The target."""
        assert self.lent is not None, "the loop lends the target"
        return self.lent

"""The exact marginal velocity in place of a network: no training, no model error."""

from __future__ import annotations

from ..data.base import Data
from ..errors import UserError
from ..flow.couplings import Coupling
from ..flow.oracles import MixtureVelocity
from ..flow.paths import Path
from ..flow.velocity import Field
from .base import Model


class Oracle(Model):
    """The closed form for data that is a Gaussian mixture with independent coupling."""

    name = "oracle"
    trained = False
    exact = True

    def check(self, path: Path, coupling: Coupling, source: Data, data: Data) -> None:
        self.field(path, coupling, source, data)

    def field(self, path: Path, coupling: Coupling, source: Data, data: Data) -> Field:
        mixture = data.mixture()
        if mixture is None or source.name != "normal" or coupling.name != "independent":
            raise UserError(
                f"model 'oracle' knows Gaussian mixtures with a normal source and independent coupling; "
                f"this flow has data '{data.name}', source '{source.name}', coupling '{coupling.name}'. Use a trained model."
            )
        return MixtureVelocity(path, *mixture)

"""The exact marginal velocity in place of a network: no training, no model error."""

from __future__ import annotations

from ..data.base import Data
from ..errors import UserError
from ..flow.couplings import Coupling
from ..flow.oracles import EmpiricalVelocity, MixtureVelocity
from ..flow.paths import Path
from ..flow.velocity import Field
from .base import Model, require_labels


class _Exact(Model):
    """Base of the oracles: a normal source, independent of the data."""

    trained = False
    exact = True

    def check(self, path: Path, coupling: Coupling, source: Data, data: Data) -> None:
        self.field(path, coupling, source, data)

    def refuse(self, knows: str, remedy: str, coupling: Coupling, source: Data, data: Data) -> UserError:
        return UserError(
            f"flow.model = '{self.name}': it knows {knows} with a normal source and independent coupling; this flow has "
            f"data '{data.name}', source '{source.name}', coupling '{coupling.name}'. {remedy}"
        )


class Oracle(_Exact):
    """The closed form for data that is a mixture of Gaussians, of any covariances.

    Args:
        conditional: samples are asked for by label, the number of their component.
    """

    name = "oracle"
    unchanged = {"conditional": False}
    conditional: bool = False

    def check(self, path: Path, coupling: Coupling, source: Data, data: Data) -> None:
        super().check(path, coupling, source, data)
        if self.conditional:
            require_labels(self, data)

    def field(self, path: Path, coupling: Coupling, source: Data, data: Data) -> Field:
        law = data.mixture()
        if law is None or source.name != "normal" or coupling.name != "independent":
            finite = data.size("train") is not None
            remedy = "Use model 'empirical' or a trained one." if finite else "Use a trained model."
            raise self.refuse("Gaussian mixtures", remedy, coupling, source, data)
        return MixtureVelocity(path, law.means, law.stds, law.weights, law.axes)


class Empirical(_Exact):
    """The exact velocity of a finite data set's training split: what training with endless capacity would learn.

    Its flow generates the training samples themselves, so it has no density. A call costs a pass over the whole split.
    """

    name = "empirical"
    version = 2  # nll gave it a density once
    dense = False

    def field(self, path: Path, coupling: Coupling, source: Data, data: Data) -> Field:
        if data.size("train") is None or source.name != "normal" or coupling.name != "independent":
            remedy = "Use model 'oracle' or a trained one." if data.mixture() is not None else "Use a trained model."
            raise self.refuse("finite data sets", remedy, coupling, source, data)
        return EmpiricalVelocity(path, data.take("train", None))

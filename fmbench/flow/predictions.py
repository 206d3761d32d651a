"""Predictions: what a network says about x_t (velocity, noise ε, data x1 or score), and how one becomes another.

With x = α x1 + σ ε every prediction is y = A x1 + B ε: (A, B) = (α̇, σ̇) for the velocity, (0, 1) for ε, (1, 0) for the data,
(0, −1/σ) for the score. Eliminating x1 and ε between x and one y gives any other, linear in both:

    y' = ((A'B − AB') x + (αB' − σA') y) / (αB − σA)

Expectations given x_t are related in the same way, for ε = x0 of any source and coupling; only where x0 is standard normal and
independent of x1 is the score −E[ε | x_t]/σ. Where the denominator vanishes the prediction does not determine the other: ε at
α = 0, data at σ = 0.

A trained network's velocity is v = c_skip x + c_out F(c_in x, t) for each prediction: `Parametrisation` has the coefficients.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import UserError
from .couplings import Coupling
from .paths import Path, Preconditioning, Schedule, column

Prediction = Literal["velocity", "epsilon", "data", "score"]
PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)
Said = Literal[Prediction, "v-prediction"]
"""v-prediction: α ε − σ x1, which some networks from outside say (Salimans & Ho 2022); nothing is trained on it here."""

STIFFEST = 20.0
"""1/ε: the velocity that follows from noise or score changes with x at the rate α̇/α, which diverges at t = 0 where α does
vanish; that from data at the rate σ̇/σ, which diverges at t = 1. There the network's error is magnified without bound and no
explicit step is short enough. The field therefore asks the network at no time where the rate exceeds 1/ε = 20, and holds the
time still beyond, v(t, x) = v(t_ε, x): on `rectified` for t < 0.05 (noise, score) or t > 0.95 (data). Training sees all times.

Measured on moons (mlp of width 64, rectified, noise predicted, W2 after 4 / 16 / 64 Euler steps, floor 0.42): 0.70 / 0.48 /
0.47 at 10, 0.82 / 0.50 / 0.48 at 20, 1.04 / 0.49 / 0.47 at 50, 2.2 / 1.2 / 0.6 at 200. Data predicted, Heun with 8 calls: 0.55,
0.57, 0.69, 3.6. Smaller is steadier but biased: an exact field held still from t = 0.95 narrows a mode of width 0.1 by 10 %,
from 0.9 by 19 %. No key knows this number: who changes it raises the version of the stage `train` (`FlowSpec`).
"""


def convert(y: Tensor, have: Said, want: Said, s: Schedule, x: Tensor) -> Tensor:
    """The prediction `want` at x from the prediction `have`.

    Args:
        y, x: `(B, *shape)`. s: an affine schedule, shaped to broadcast against x.
    """
    if have == want:
        return y
    if have == "score":
        have, y = "epsilon", -s.sigma * y
        if want == "epsilon":
            return y
    if want == "score":
        return -convert(y, have, "epsilon", s, x) / s.sigma
    a, b = _parts(have, s)
    a_, b_ = _parts(want, s)
    return ((a_ * b - a * b_) * x + (s.alpha * b_ - s.sigma * a_) * y) / (s.alpha * b - s.sigma * a)


def _parts(prediction: Said, s: Schedule) -> tuple[Tensor, Tensor]:
    """A and B of y = A x1 + B ε."""
    zero, one = torch.zeros_like(s.alpha), torch.ones_like(s.alpha)
    known = {"velocity": (s.d_alpha, s.d_sigma), "epsilon": (zero, one), "data": (one, zero)}
    return (known | {"v-prediction": (-s.sigma, s.alpha)})[prediction]


def check(prediction: Said, path: Path, coupling: Coupling, source: str, reflow: int, distilled: int = 0) -> None:
    """Raises `UserError` where what is predicted does not determine the velocity.

    Noise and data do on every affine path, whatever the coupling; the score with independent normal noise alone. A student is
    asked at times, t = 0 among them, at which only a velocity can be read.
    """
    if prediction == "velocity":
        return
    score = prediction == "score"
    reasons = [
        (not path.affine, f"path '{path.label()}' is a bridge"),
        (not path.sound, f"what path '{path.label()}' trains is no velocity"),
        (distilled > 0, f"a student of {distilled} steps is asked at its few times alone"),
        (score and coupling.name != "independent", f"coupling '{coupling.label()}' is not independent"),
        (score and reflow > 0, f"the pairs of reflow = {reflow} are not independent"),
        (score and source != "normal", f"source '{source}' is not normal"),
    ]
    remedy = ", or independent coupling, a normal source, an affine path and no reflow" if score else ""
    for holds, reason in reasons:
        if holds:
            raise UserError(
                f"flow.prediction = '{prediction}': {reason}, so that it does not determine the velocity. Use prediction "
                f"'velocity'{remedy}."
            )


class Parametrisation:
    """How the network F of a flow is read: what goes in, what it is trained to say, and the velocity that follows.

    F says the prediction itself (of the score σ s, see `target`). On paths that ask for preconditioning the inputs are scaled,
    and a velocity is then learned by its residual (`Path.preconditioning`).

    Args:
        data_std: the data's standard deviation, for the scaling.
    """

    def __init__(self, path: Path, prediction: Said, data_std: float):
        self.path, self.prediction, self.data_std = path, prediction, data_std
        self.plain = prediction == "velocity" and not path.preconditioned  # F is the velocity
        noise, data = prediction in ("epsilon", "score"), prediction == "data"
        self.first = _where_slow(path, "alpha", 0.0) if noise else 0.0
        self.last = _where_slow(path, "sigma", 1.0) if data else 1.0

    def head(self, t: Tensor) -> Preconditioning:
        """c_in, c_skip and c_out of v = c_skip x + c_out F(c_in x, t), where the network is asked (`STIFFEST`)."""
        one = torch.ones_like(t)
        if self.plain:
            return Preconditioning(one, 0 * one, one)
        scaled = self.path.preconditioning(t, self.data_std) if self.path.preconditioned else None
        if self.prediction == "velocity" and scaled is not None:
            return scaled
        s = self.path.schedule(self.asked(t))
        known: Prediction = "data" if self.prediction == "data" else "epsilon"
        c_skip = convert(0 * one, known, "velocity", s, one)
        c_out = convert(one, known, "velocity", s, 0 * one)
        return Preconditioning(
            one if scaled is None else scaled.c_in, c_skip, -c_out if self.prediction == "score" else c_out
        )

    def asked(self, t: Tensor) -> Tensor:
        """The time at which the network is asked in place of t."""
        return t.clamp(self.first, self.last)

    def regression(self, x0: Tensor, x1: Tensor, t: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What F sees at times t `(B,)` and what it should say: `(B, *shape)` each.

        Args:
            noise: of a bridge, see `Path.point`.

        The score is learned as σ s = −ε, with which denoising score matching under its usual weight λ = σ² (Song 2021, eq. 7)
        is a plain regression of targets of unit variance. That is how Song's code reads its networks, too, and the reason why
        score and noise are one regression and differ by a sign alone.
        """
        x, u = self.path.point(x0, x1, t, noise)
        target = {"velocity": u, "epsilon": x0, "data": x1, "score": -x0}[self.prediction]
        if not self.path.preconditioned:
            return x, target
        p = self.path.preconditioning(column(t, x), self.data_std)
        if self.prediction == "velocity":
            target = (target - p.c_skip * x) / p.c_out
        return p.c_in * x, target


def _where_slow(path: Path, name: Literal["alpha", "sigma"], end: float) -> float:
    """The time nearest to `end` at which |α̇/α| or |σ̇/σ|, decreasing away from that end, is at most `STIFFEST`."""

    def fast(t: float) -> bool:
        s = path.schedule(torch.tensor(t, dtype=torch.float64))
        value, slope = getattr(s, name).item(), getattr(s, f"d_{name}").item()
        return not abs(slope) <= STIFFEST * value  # infinite and undefined slopes too

    near, far = end, 0.5
    if not fast(near):
        return end
    for _ in range(60):
        middle = 0.5 * (near + far)
        near, far = (middle, far) if fast(middle) else (near, middle)
    return far

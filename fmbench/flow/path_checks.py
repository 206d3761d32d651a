"""Whether a path's schedule is one: asked of every path while planning, before anything runs."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UserError
from .paths import Path, Schedule, derivative_gap

WRONG_SLOPE = 1e-3  # a gap that neither float32 nor the curvature of a sane path explains
SYMBOLS = {"alpha": "α", "sigma": "σ", "d_alpha": "α̇", "d_sigma": "σ̇", "gamma": "γ", "d_gamma": "γ̇"}


def check_path(path: Path) -> None:
    """Raises `UserError` where `schedule` fails, gives no `Schedule` of finite numbers, or slopes that are no derivatives."""
    for shape in ((), (2,), (2, 1)):
        _check_kind(path, torch.full(shape, 0.5 * path.end_time, dtype=torch.float64))
    _check_inside(path)
    if path.sound and (gap := derivative_gap(path, 1e-3)) > WRONG_SLOPE:
        raise UserError(
            f"path '{path.label()}': its derivatives are not those of its α and σ: they differ from differences by "
            f"{gap:.2g}, relative to the largest. Mend d_alpha and d_sigma, or leave them out of a UserPath."
        )
    if path.affine:
        _check_ends(path)
        _check_direction(path)


def _check_kind(path: Path, t: Tensor) -> None:
    shape = tuple(t.shape)
    try:
        schedule = path.schedule(t)
    except NotImplementedError:
        raise UserError(
            f"path '{path.name}' has no schedule: implement schedule(t), or alpha(t) and sigma(t) of a UserPath"
        ) from None
    except Exception as error:  # of a user's own code
        raise UserError(
            f"path '{path.label()}': schedule(t) raises {type(error).__name__} at t of shape {shape}: {str(error).rstrip('.')}. "
            "t is a tensor of any shape, () too: use functions that work on each element, as torch.sin."
        ) from error
    if not isinstance(schedule, Schedule):
        raise UserError(
            f"path '{path.name}': schedule(t) returns {type(schedule).__name__}, not a Schedule(α, σ, α̇, σ̇)"
        )
    for symbol, value in _parts(schedule).items():
        if not isinstance(value, Tensor) or value.shape != t.shape:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise UserError(
                f"path '{path.label()}': schedule(t) gives {symbol} as {got} at t of shape {shape}: "
                "each is a tensor of the shape of t, a constant too, as torch.ones_like(t)"
            )


def _parts(schedule: Schedule) -> dict[str, Tensor]:
    """By symbol; γ of a bridge alone."""
    found = {symbol: getattr(schedule, name) for name, symbol in SYMBOLS.items()}
    return {symbol: x for symbol, x in found.items() if x is not None or symbol[0] != "γ"}


def _check_inside(path: Path) -> None:
    """Between the ends all must be finite: no start_time or end_time leaves that out."""
    t = path.start_time + (path.end_time - path.start_time) * torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    for symbol, values in _parts(path.schedule(t)).items():
        if (lost := ~values.isfinite()).any():
            raise UserError(
                f"path '{path.label()}': {symbol} = {values[lost][0]:g} at t = {t[lost][0]:.2g}, between the ends, where it "
                "must be finite. Mend its formula."
            )


def _check_ends(path: Path) -> None:
    """A velocity must be finite at both ends of the span: found late, it is a solve that left the finite numbers."""
    for end, time in (("start_time", path.start_time), ("end_time", path.end_time)):
        values = _parts(path.schedule(torch.tensor(time, dtype=torch.float64)))
        if lost := [f"{symbol} = {value.item():g}" for symbol, value in values.items() if not value.isfinite()]:
            within = f"{time:g} − 1e-5" if end == "end_time" else f"{time:g} + 1e-5"
            raise UserError(
                f"path '{path.label()}': {' and '.join(lost)} at t = {time:g}. Set its {end} within, as {within}, "
                "where all are finite."
            )


def _check_direction(path: Path) -> None:
    """Noise stands at t = 0: a path of the other direction would start every solve near 0, in silence."""
    ends = torch.tensor([path.start_time, path.end_time], dtype=torch.float64)
    schedule = path.schedule(ends)
    if schedule.alpha[1] * schedule.sigma[0] <= schedule.alpha[0] * schedule.sigma[1]:
        raise UserError(
            f"path '{path.label()}': α/σ does not rise from t = 0, the noise, to t = 1, the data: α = "
            f"{schedule.alpha[0]:.3g}, σ = {schedule.sigma[0]:.3g} at the first and {schedule.alpha[1]:.3g}, "
            f"{schedule.sigma[1]:.3g} at the last. Where its own time runs from data to noise, write 1 − t for t."
        )

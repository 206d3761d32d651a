"""Paths of a user's own, given by α and σ alone: derivatives by automatic differentiation where none are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .paths import Path, Schedule

Function = Callable[[Tensor], Tensor]


class UserPath(Path):
    """Base of affine paths that are given by `alpha` and `sigma`, elementwise functions of t of any shape and dtype.

    Override `d_alpha` and `d_sigma` where a closed form is known or automatic differentiation is not exact. α must rise and σ
    fall from t = 0 (noise) to t = 1 (data); where a derivative diverges at 1, set `end_time` below it, where at 0,
    `start_time` above. Parameters are annotated fields.
    """

    def alpha(self, t: Tensor) -> Tensor:
        """The data's coefficient at times t, of the shape of t."""
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        """The source's coefficient at times t, of the shape of t."""
        raise NotImplementedError

    def d_alpha(self, t: Tensor) -> Tensor:
        return derivative(self.alpha, t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return derivative(self.sigma, t)

    def schedule(self, t: Tensor) -> Schedule:
        return Schedule(self.alpha(t), self.sigma(t), self.d_alpha(t), self.d_sigma(t))


def path_from(
    name: str,
    alpha: Function,
    sigma: Function,
    d_alpha: Function | None = None,
    d_sigma: Function | None = None,
    *,
    method: str | None = None,
    version: int = 1,
    end_time: float = 1.0,
) -> type[UserPath]:
    """Registers the path of two functions under `name`, in a `--plugin` file for instance, and returns its class.

    Args:
        alpha, sigma: elementwise functions of t, such as `lambda t: t**2`; `d_alpha`, `d_sigma` their derivatives.
        method: what the table calls it; the name, if not given.
        version: part of every cache key, which sees the code of this file alone: raise it when a function from elsewhere changes.
        end_time: where integration ends, below 1 where a derivative diverges at 1.
    """
    from . import PATHS

    given = {"alpha": alpha, "sigma": sigma, "d_alpha": d_alpha, "d_sigma": d_sigma}
    members: dict[str, Any] = {key: _method(function) for key, function in given.items() if function is not None}
    members |= {"name": name, "method": method or name, "version": version, "end_time": end_time}
    members |= {"__doc__": f"The path '{name}', given by its α and σ.", "__reduce__": _by_name}
    members |= {"__module__": alpha.__module__, "__qualname__": f"path_from('{name}')"}
    path: type[UserPath] = type("PathFrom", (UserPath,), members)
    PATHS.register(path)
    return path


def _method(function: Function) -> Callable[[UserPath, Tensor], Tensor]:
    return lambda self, t: function(t)


def _by_name(self: UserPath) -> tuple[Any, ...]:
    """How a worker process, which has read the same plug-in, is told of a class that no module holds by its name."""
    return _named, (self.name,)


def _named(name: str) -> Path:
    from . import PATHS

    return PATHS.build(name)


def derivative(function: Function, t: Tensor) -> Tensor:
    """dfunction/dt of an elementwise function, of the shape and dtype of t; also where gradients are switched off.

    It can itself be differentiated where t asks for gradients.
    """
    if torch.is_grad_enabled() and t.requires_grad:
        value = function(t)
        return _slope(value, t, create_graph=True)
    with torch.inference_mode(False), torch.enable_grad():
        t = t.detach().clone().requires_grad_()
        return _slope(function(t), t, create_graph=False).detach()


def _slope(value: Tensor, t: Tensor, create_graph: bool) -> Tensor:
    if (
        not isinstance(value, Tensor) or not value.requires_grad
    ):  # a constant, as it should be or, told later, as a float
        return torch.zeros_like(t)
    return torch.autograd.grad(value.sum(), t, create_graph=create_graph)[0]

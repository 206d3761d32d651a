"""What a worker has read from the store: it does the cells of one flow one after the other, and reads what they share once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from ..flow.velocity import Field
from ..metrics.base import Geometry
from ..stages.flow import FlowSpec, Pairs, PairsSpec, velocity_field
from ..stages.sample import PILOT, SOLVED
from ..store import Store


@dataclass(frozen=True)
class _Keyed:
    """A flow as a cache argument: equal when its key is."""

    key: str
    flow: FlowSpec = field(compare=False)


def field_of(store: Store, flow: FlowSpec, device: str) -> Field:
    """A flow's velocity on a device."""
    return _field(store, _Keyed(flow.key, flow), device)


def called_from_cpu(field: Field, device: str) -> Field:
    """The field for metrics, whose tensors stay on the CPU; gradients pass through."""
    if device == "cpu":
        return field
    return lambda t, x, *label: field(t.to(device), x.to(device), *(a.to(device) for a in label)).to(x.device)


def pairs_of(store: Store, spec: PairsSpec | None) -> Pairs | None:
    return None if spec is None else _pairs(store, spec.key)


@lru_cache(maxsize=4)
def _field(store: Store, kept: _Keyed, device: str) -> Field:
    weights = store.read(kept.key).tensors if kept.flow.model.trained else None
    return velocity_field(kept.flow, weights, device)


@lru_cache(maxsize=4)
def geometry_of(store: Store, key: str) -> tuple[Geometry, int]:
    """What the reference solve of this key found, and its steps."""
    artefact = store.read(key)
    tensors = {name: artefact.tensors[name] for name in ("z0", *SOLVED)}
    pilot = artefact.info.get("pilot", min(PILOT, len(tensors["z0"])))
    return Geometry(**tensors, error=artefact.info["error"], pilot=pilot), artefact.info["steps"]


@lru_cache(maxsize=1)
def _pairs(store: Store, key: str) -> Pairs:
    tensors = store.read(key).tensors
    return Pairs(tensors["z0"], tensors["z1"], tensors.get("label"))

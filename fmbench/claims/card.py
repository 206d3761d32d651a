"""A claim in full, for people: what it says, what it needs and how it is decided."""

from __future__ import annotations

from typing import Any

from .axes import words
from .base import Claim


def card(claim: type[Claim]) -> dict[str, Any]:
    """Plain values by heading; what a claim does not have is left out."""
    fields = {name: field.get_default(call_default_factory=True) for name, field in claim.model_fields.items()}
    asked = [name for name, field in claim.model_fields.items() if field.is_required()]
    told = {
        "claim": claim.name,
        "statement": " ".join((claim.__doc__ or "").split("\n\n")[0].split()),
        "effect": claim.effect,
        "rule": claim.rule,
        "decision": "supported where all comparisons are shown to keep the rule, refuted where one is shown to break it",
        "metrics": ", ".join(claim.metrics if asked else claim().needs()),
        "axes": [words(side) for side in claim.axes],
        "guards": ", ".join(guard.name for guard in claim.guards),
        "asks for": ", ".join(asked),
        "parameters": {
            claim.model_fields[name].alias or name: list(value) if isinstance(value, tuple) else value
            for name, value in fields.items()
            if name not in asked
        },
        "source": claim.source,
    }
    return {heading: value for heading, value in told.items() if value not in ([], {}, "")}

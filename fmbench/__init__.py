"""fmbench: a benchmark and evaluation harness for flow-matching generative models.

import fmbench
results = fmbench.run("moons-nfe-sweep")
results.table             # pandas.DataFrame, one row per measured value
results.pivot("w2")       # metric against NFE, one column a method
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Results", "__version__", "evaluate", "run"]
WHERE = {"run": "fmbench.api", "evaluate": "fmbench.evaluation", "Results": "fmbench.results"}

if TYPE_CHECKING:
    from .api import run
    from .evaluation import evaluate
    from .results import Results


def __dir__() -> list[str]:  # what `fmbench.<tab>` offers
    return __all__


def __getattr__(name: str) -> Any:
    # Imported when first used: `fmbench --help` must not wait for torch.
    if name not in WHERE:
        raise AttributeError(f"module 'fmbench' has no attribute '{name}'")
    return getattr(importlib.import_module(WHERE[name]), name)

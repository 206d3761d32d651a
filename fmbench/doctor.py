"""Is this installation sound? Each check says its name, whether it is good, and what was found."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator

from .disk import nearest
from .machine import hardware, versions
from .store import Store, WriteError

Check = tuple[str, bool, str]


def checks() -> Iterator[Check]:
    """All checks, the quick ones first."""
    found = versions()
    lacking = [name for name, version in found.items() if version is None]
    listed = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    yield (
        "packages",
        not lacking,
        listed if not lacking else f"missing: {', '.join(lacking)}. Install with `pip install flow-matching-bench`.",
    )
    facts = hardware([])
    yield (
        "machine",
        True,
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gb']} GiB; GPUs: {', '.join(facts['gpus']) or 'none'}",
    )
    yield _cache()
    yield _path_derivatives()
    yield _coupling()
    yield _solver()


def _cache() -> Check:
    store = Store()
    try:
        store.ready()
    except WriteError as error:
        return "cache", False, str(error)
    root = store.root
    held = sum(file.stat().st_size for file in root.rglob("*") if file.is_file()) / 2**20
    return (
        "cache",
        True,
        f"{root}: {held:.0f} MiB held, {shutil.disk_usage(nearest(root)).free / 2**30:.0f} GiB free (FMBENCH_CACHE)",
    )


def _path_derivatives() -> Check:
    """The derivatives of every path against differences; of those that are kept as warnings they are known to be wrong."""
    from .flow import PATHS
    from .flow.paths import derivative_gap

    paths = map(PATHS.build, PATHS.names())
    worst = max(derivative_gap(path, 1e-5) for path in paths if path.sound)
    return "paths", worst < 1e-6, f"derivatives agree with differences to {worst:.1e}"


def _coupling() -> Check:
    """The assignment's cost against POT's."""
    import ot
    import torch

    from .flow import COUPLINGS
    from .randomness import generator

    rng = generator("doctor")
    x0, x1 = torch.randn(64, 2, generator=rng).double(), torch.randn(64, 2, generator=rng).double()
    i, j = COUPLINGS.build("minibatch-ot").pair(x0, x1, rng)
    cost = (x0[i] - x1[j]).square().sum(1).mean().item()
    best = float(ot.emd2([], [], ot.dist(x0.numpy(), x1.numpy())))
    return "optimal transport", math.isclose(cost, best, rel_tol=1e-9), f"assignment cost {cost:.6f}, POT's {best:.6f}"


def _solver() -> Check:
    """RK4 on dx/dt = x cos t, whose solution is e^{sin t}."""
    import torch

    from .flow.velocity import Velocity
    from .solvers import GRIDS, SOLVERS

    velocity = Velocity(lambda t, x: x * torch.cos(t))
    x = (
        SOLVERS.build("rk4")
        .integrate(velocity, torch.ones(1, 1, dtype=torch.float64), GRIDS.build("uniform").times(50, 1.0))
        .x
    )
    error = abs(x.item() - math.exp(math.sin(1.0)))
    return "solvers", error < 1e-8 and velocity.nfe == 200, f"RK4 error {error:.1e} in {velocity.nfe} calls"

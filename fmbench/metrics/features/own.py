"""A user's own features: a function in a file that the command line names."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from ...disk import sha256_of
from ...errors import UserError
from .base import Extractor, Network


class Own(Extractor):
    """What `factory` of a plug-in file makes, as `features: module:factory`; the file is named with --plugin.

    `factory()` gives a function (or torch module) of uint8 images `(B, 3, H, W)` that returns features `(B, dims)`. A
    suite file alone never makes Python run. The file's content and a module's weights enter every key.
    """

    name: ClassVar[str] = "own"
    factory: str

    def _function(self) -> Callable[[], Network]:
        module, _, function = self.factory.partition(":")
        module = Path(module).name.removesuffix(".py")  # as elsewhere a file may be written as a file
        loaded = sys.modules.get(f"fmbench_plugin_{module}")
        if loaded is None:
            raise UserError(f"features '{self.factory}': name its file, {module}.py, with --plugin")
        if not callable(made := getattr(loaded, function, None)):
            raise UserError(f"features '{self.factory}': {loaded.__file__} has no function '{function}'")
        return made

    def network(self) -> Network:
        make = self._function()
        try:
            network = make()
        except Exception as error:
            raise UserError(
                f"features '{self.factory}': the factory failed: {type(error).__name__}: {error}"
            ) from error
        if not callable(network):
            raise UserError(
                f"features '{self.factory}': the factory gives a {type(network).__name__}, not a function of images"
            )
        return network

    def weights(self) -> str | None:
        network = self.network()
        if not isinstance(network, nn.Module):
            return None
        digest = hashlib.sha256()
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def identity(self) -> dict[str, Any]:
        file = sys.modules[self._function().__module__].__file__
        return {**super().identity(), "source": sha256_of(Path(str(file)))}

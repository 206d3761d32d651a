"""Fields that were made elsewhere: found, loaded, called as v(t, x) whatever their argument order, and known by content."""

from __future__ import annotations

import hashlib
import inspect
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from ..errors import UserError, unknown
from ..plugins import importing_from, named
from ..randomness import seed_of

PARALLEL = "module."  # before every name that a parallel training saved
Arguments = Literal["auto", "t, x", "x, t"]
TIMES = frozenset({"t", "time", "times", "timestep", "timesteps", "tau", "s", "sigma", "sigmas", "noise_labels"})
"""What the time's argument is called: torchcfm and torchdyn write (t, x), flow_matching (x, t), diffusers (sample, timestep),
EDM (x, sigma)."""


@dataclass(frozen=True)
class Brought:
    """A field from outside and the sha256 of all that made it: code, weights, configuration."""

    call: Callable[..., Any]
    sha256: str


def bring(factory: str, weights: str | None) -> Brought:
    """What a factory stands for, loaded once for each content.

    Args:
        factory: `file.py:name`, `file.py` (its `velocity`), `module:name`, or the folder of a diffusers UNet2DModel. The name
            is a field, or takes nothing and gives one; random weights that it draws are the same each time.
        weights: a .safetensors or .pt file with the module's state, `file.pt:ema_model` for the state that it holds by that
            name; None when it brings its own.

    Raises:
        UserError: something is missing, cannot be loaded or does not fit together.
    """
    return _brought(factory, weights, _stamp(factory), _stamp(weights))


def short_name(factory: str) -> str:
    """What a table calls it: the function's name, for a usual one the file's, for a folder its own."""
    place, attribute = split(factory)
    if os.path.isdir(factory) or not attribute:
        return Path(factory).resolve().name
    return Path(place).stem if attribute == "velocity" else attribute


def split(factory: str) -> tuple[str, str]:
    """The file or module, and the name in it: the usual one is `velocity`."""
    place, colon, attribute = factory.rpartition(":")
    if colon and attribute.isidentifier():
        return place, attribute
    return factory, "velocity" if factory.endswith(".py") else ""


def in_order(call: Callable[..., Any], arguments: Arguments) -> Literal["t, x", "x, t"]:
    """Which of the two a field is called by; `auto` reads the names of its arguments.

    Raises:
        UserError: the names do not tell.
    """
    if arguments != "auto":
        return arguments
    first = _required(call, at_least=2)[:2]
    timely = [name in TIMES for name in first]
    if len(first) == 2 and sum(timely) == 1:
        return "t, x" if timely[0] else "x, t"
    raise UserError(
        f"its arguments ({', '.join(first)}) do not tell which is the time: call them t and x, or say 't, x' or 'x, t' "
        "(--arguments)"
    )


LABELS = frozenset({"y", "label", "labels", "class_labels", "classes", "c", "cond"})
"""What the label's argument is called: torchcfm writes y, diffusers class_labels, flow_matching passes what it is given on."""


def label_argument(call: Callable[..., Any]) -> str:
    """The name by which a conditional field is given its labels.

    Raises:
        UserError: it takes none.
    """
    parameters = _parameters(call)
    named = [p.name for p in parameters if p.name in LABELS]
    if not named and any(p.kind is p.VAR_KEYWORD for p in parameters):
        return "label"
    if not named:
        raise UserError(f"conditional: none of its arguments is a label ({', '.join(sorted(LABELS))})")
    return named[0]


def called(field: Brought, time_first: bool, t: Tensor, x: Tensor, **label: Tensor) -> Any:
    """The field's own answer at times t `(B,)`, in the precision of its weights and on the device of x."""
    module, dtype = field.call, x.dtype
    if isinstance(module, nn.Module):
        first = next((p for p in module.parameters() if p.is_floating_point()), None)
        if first is not None:
            dtype = first.dtype
            if first.device != x.device:
                module.to(x.device)
    t, x = t.to(dtype), x.to(dtype)
    answer = module(t, x, **label) if time_first else module(x, t, **label)
    return getattr(answer, "sample", answer)  # diffusers wraps it


def _stamp(place: str | None) -> tuple[Any, ...]:
    """Changes whenever a file does, or one in a folder."""
    path = Path(split(place)[0]) if place else Path()
    files = sorted(path.rglob("*")) if path.is_dir() and place else [path]
    return tuple((str(f), s.st_mtime_ns, s.st_size) for f in files if f.is_file() and (s := f.stat()))


@lru_cache(maxsize=2)
def _brought(factory: str, weights: str | None, *stamps: Any) -> Brought:
    found = _checkpoint(Path(factory)) if os.path.isdir(factory) else _made(factory)
    if not isinstance(found.call, nn.Module):
        if weights is not None:
            raise UserError(f"{factory} gives no torch module: it has no place for the weights {weights}")
        return found
    if weights is not None:
        _fill(found.call, weights)
    found.call.eval().requires_grad_(False)
    return Brought(found.call, _digest(found.sha256, found.call))


def _made(factory: str) -> Brought:
    place, attribute = split(factory)
    if not attribute:
        raise UserError(f"'{factory}' is no folder and no factory: write file.py:function or module:function")
    if place.endswith(".py") and not os.path.isfile(place):
        raise UserError(f"{place}: no such Python file")
    code = named(place)
    if not hasattr(code.module, attribute):
        public = [name for name, value in vars(code.module).items() if callable(value) and not name.startswith("_")]
        raise unknown(f"function of {place}", attribute, public)
    found = getattr(code.module, attribute)
    if not callable(found):
        raise UserError(f"{factory} is a {type(found).__name__}: it must be a field v(t, x), or give one when called")
    if isinstance(found, type) or not _required(found, at_least=0):
        with torch.random.fork_rng(devices=[]), importing_from(place):
            torch.manual_seed(seed_of("external"))
            try:
                found = found()
            except Exception as error:
                raise UserError(f"{factory}() failed: {type(error).__name__}: {error}") from error
        if not callable(found):
            raise UserError(
                f"{factory}() gives a {type(found).__name__}: it must give a field v(t, x) or a torch module"
            )
    return Brought(found, code.sha256)


def _parameters(call: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(call.forward if isinstance(call, nn.Module) else call).parameters.values())


def _required(call: Callable[..., Any], at_least: int) -> list[str]:
    """Names of the positional arguments without a default, or the first `at_least` positional ones."""
    try:
        parameters = _parameters(call)
    except (TypeError, ValueError):
        return ["?"] * max(at_least, 1)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in positional)
    return [p.name for p in positional[: max(needed, at_least)]]


def _checkpoint(folder: Path) -> Brought:
    """A UNet2DModel as diffusers saves it, or the `unet` of a saved pipeline; safetensors alone."""
    folder = folder if (folder / "config.json").is_file() or not (folder / "unet").is_dir() else folder / "unet"
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json: it is no checkpoint of a diffusers model")
    if not list(folder.glob("*.safetensors")):
        raise UserError(f"{folder} has no .safetensors weights; no other format is loaded, for pickles can run code")
    from diffusers import UNet2DModel

    try:
        kind = UNet2DModel.load_config(folder).get("_class_name")
        if kind != "UNet2DModel":
            raise UserError(f"{folder} holds a {kind}; what can be loaded is a UNet2DModel")
        module, loading = UNet2DModel.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True, low_cpu_mem_usage=False
        )
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{folder} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    _fits(str(folder), loading["missing_keys"], loading["unexpected_keys"])
    return Brought(module, hashlib.sha256((folder / "config.json").read_bytes()).hexdigest())


def _fill(module: nn.Module, file: str) -> None:
    """Puts the weights of a file into a module, all of them; `file.pt:ema_model` are those that it holds by that name."""
    place, part = (file, "") if os.path.isfile(file) else split(file)
    if not os.path.isfile(place):
        raise UserError(f"{place}: no such file of weights")
    state = _state(place)
    if part:
        if not isinstance(state, Mapping) or part not in state:
            raise unknown(f"part of {place}", part, state if isinstance(state, Mapping) else ())
        state = state[part]
    if not _is_state(state):
        raise UserError(f"{file} is no state of a module, by name one tensor each: it {_held(place, part, state)}")
    own, found = module.state_dict(), dict(state)
    if not any(name.startswith(PARALLEL) for name in own):
        consume_prefix_in_state_dict_if_present(found, PARALLEL)
    _fits(file, own.keys() - found.keys(), found.keys() - own.keys())
    if differing := [name for name in own if own[name].shape != found[name].shape]:
        name = differing[0]
        raise UserError(
            f"{file} does not fit: {name} is {tuple(found[name].shape)}, the module's {tuple(own[name].shape)}"
        )
    module.load_state_dict(found)


def _state(file: str) -> Any:
    try:
        if file.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # its text is of torch.load's own options
        raise UserError(
            f"{file} cannot be read: it holds more than tensors, as a whole module does, or is no file of weights, and other "
            "pickles can run code. Save the module's state_dict() alone."
        ) from None
    except Exception as error:
        raise UserError(f"{file} cannot be read: {str(error).splitlines()[0][:200]}. Save safetensors.") from error


def _is_state(held: object) -> bool:
    return isinstance(held, Mapping) and all(isinstance(value, Tensor) for value in held.values())


def _held(file: str, part: str, held: object) -> str:
    """What a file holds in place of a state, and how to name a state that is in it."""
    if not isinstance(held, Mapping):
        return f"holds a {type(held).__name__}"
    states = [] if part else [str(name) for name, value in held.items() if value and _is_state(value)]
    remedy = f". Name the part: {' or '.join(f'--weights {file}:{name}' for name in states[:3])}" if states else ""
    return f"holds the keys {', '.join(map(str, list(held)[:5]))}{remedy}"


def _fits(file: str, missing: Any, unexpected: Any) -> None:
    wrong = []
    for what, names in (("lacks", sorted(missing)), ("holds in excess", sorted(unexpected))):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            wrong.append(f"{what} {', '.join(names[:3])}{more}")
    if wrong:
        raise UserError(f"{file} does not fit the module: it {'; it '.join(wrong)}")


def _digest(code: str, module: nn.Module) -> str:
    digest = hashlib.sha256(code.encode())
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

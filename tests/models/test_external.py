"""Flows from outside: conventions are converted at the door, content is known, mistakes are told before anything runs."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fmbench.data import DATA
from fmbench.errors import UserError
from fmbench.flow import COUPLINGS, PATHS
from fmbench.flow.oracles import MixtureVelocity
from fmbench.flow.paths import Schedule
from fmbench.flow.predictions import PREDICTIONS, convert
from fmbench.models import MODELS, scheduler
from fmbench.models.external import External
from fmbench.plugins import admit
from fmbench.solvers import SOLVERS

MEAN, STD = (1.0, -0.5), (0.5, 2.0)
GAUSSIAN = {"name": "gaussian-mixture", "means": [MEAN], "stds": [STD]}
INDEPENDENT = COUPLINGS.build("independent")
NORMAL = DATA.build("normal")

CLOSED_FORM = f"""
import torch

def velocity(t, x):
    m, s = torch.tensor({MEAN}), torch.tensor({STD})
    t = t[:, None]
    return m + (t * s**2 - (1 - t)) / (t**2 * s**2 + (1 - t) ** 2) * (x - t * m)

def downward(timestep, x):  # data at 0, in thousandths
    return -velocity(1 - timestep / 1000, x)

half = 0.5

class Straight(torch.nn.Module):  # as torchcfm calls its networks
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(3, 2)

    def forward(self, t, x, y=None, *args, **kwargs):
        return self.net(torch.cat([x, t[:, None]], dim=1))

class Swapped(Straight):  # as flow_matching does
    def forward(self, x, t, **extras):
        return super().forward(t, x)

class Double(Swapped):
    def __init__(self):
        super().__init__()
        self.double()

def doubtful(a, b): return a
def narrow(t, x): return x[:, :1]
def number(t, x): return 1.0
def nans(t, x): return x * float("nan")
def raises(t, x): return torch.cat([x, t], dim=1)
def gives_text(): return "v"
def breaks(): return 1 / 0
def other(t, x): return 0 * x
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my.py"
    path.write_text(CLOSED_FORM)
    admit("my.py")
    return path


def external(factory: str, **fields: Any) -> External:
    model = MODELS.build({"name": "external", "factory": factory, **fields})
    assert isinstance(model, External)
    return model


def field_of(model: External, path: str = "rectified", source: Any = NORMAL, data: Any = GAUSSIAN) -> Any:
    parts = PATHS.build(path), INDEPENDENT, source, DATA.build(data)
    model.check(*parts)
    return model.field(*parts)


def points(n: int = 64) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.rand(n, generator=rng) * 0.8 + 0.1, torch.randn(n, 2, generator=rng)


def exact(path: str, a: float = 1.0, b: float = 0.0) -> MixtureVelocity:
    mean, std = a * torch.tensor([MEAN]) + b, a * torch.tensor([STD])
    return MixtureVelocity(PATHS.build(path), mean, std, torch.ones(1))


# ---- conventions ----


def test_a_closed_form_from_a_file_agrees_with_the_oracle_s_rows_in_both_directions_of_time(
    code: Path, measured: Callable[..., Any], tiny: Callable[..., Any]
) -> None:
    down = {"name": "external", "factory": "my.py:downward", "time": "data-at-0", "time_scale": 1000}
    suite = tiny(
        data=GAUSSIAN, flow={"model": ["oracle", {"name": "external", "factory": "my.py:velocity"}, down]},
        metrics=["w2", "transport_cost", "straightness", "nll"], sample__n=128, sample__reference__max_steps=128,
        sample__solvers=[{"name": "heun", "nfe": 4}], sample__reference__tolerance=1e-6,
    )  # fmt: skip
    table = measured(suite, plugins=("my.py",))
    assert set(table["status"]) == {"ok"}
    values = table[~table["model"].isin(["data", "truth"])].pivot_table(
        index="metric", columns="method", values="value"
    )
    assert sorted(values) == ["RF", "downward", "my"]
    assert len(values) == 4
    for brought in ("my", "downward"):  # the same field but for rounding in float32
        assert values[brought].to_dict() == pytest.approx(values["RF"].to_dict(), rel=2e-4)


@pytest.mark.parametrize("output", [*PREDICTIONS, "v-prediction"])
@pytest.mark.parametrize("path", ["rectified", "vp-cosine", "vp-linear"])
def test_every_output_becomes_the_velocity_by_its_path(output: Any, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that says the exact noise, data or score gives the exact velocity; its sign flipped, it does not."""
    from fmbench.models import external as module
    from fmbench.models.brought import Brought

    schedule, velocity = PATHS.build(path).schedule, exact(path)

    def said(s: Tensor, x: Tensor) -> Tensor:  # data at 0
        t = 1 - s.double()
        y = convert(velocity(t, x.double()), "velocity", output, schedule(t[:, None]), x.double())
        return -y if output == "velocity" else y

    monkeypatch.setattr(module, "bring", lambda *_: Brought(said, "0"))
    t, x = points()
    model = External(factory="x.py:said", time="data-at-0", output=output, arguments="t, x")
    assert torch.allclose(field_of(model, path)(t.double(), x), velocity(t, x), rtol=1e-3, atol=1e-3)
    monkeypatch.setattr(module, "bring", lambda *_: Brought(lambda s, x: -said(s, x), "0"))
    assert not torch.allclose(field_of(model, path)(t.double(), x), velocity(t, x), rtol=0.1, atol=0.1)


OUTSIDE = """
import torch

M, S = torch.tensor([1.0, -0.5], dtype=torch.float64), torch.tensor([0.5, 2.0], dtype=torch.float64)

def data(alpha, sigma, x):  # E[x1 | alpha x1 + sigma noise = x]
    return M + alpha * S**2 / (alpha**2 * S**2 + sigma**2) * (x - alpha * M)

def noise(alpha, sigma, x): return sigma / (alpha**2 * S**2 + sigma**2) * (x - alpha * M)

def columns(t): return t.double()[:, None]

def edm(x, sigma): return data(1, columns(sigma), x)  # Karras 2022: D(x, sigma)

def slope(x, sigma): return (x - edm(x, sigma)) / columns(sigma)  # Karras 2022, eq. 3: dx/dsigma

def ncsn(x, sigma): return -slope(x, sigma) / columns(sigma)  # Song 2021: the score, told sigma

def ddpm(sample, timestep):  # Ho 2020: the noise, at times up to 1000 from the data
    s = columns(timestep) / 1000
    alpha = torch.exp(-0.25 * s**2 * 19.9 - 0.05 * s)
    return noise(alpha, (1 - alpha**2).sqrt(), sample)

def v(sample, timestep):  # Salimans & Ho 2022
    angle = columns(timestep) / 999 * torch.pi / 2
    alpha, sigma = angle.cos(), angle.sin()
    return alpha * noise(alpha, sigma, sample) - sigma * data(alpha, sigma, sample)

def liu(t, x):  # Liu 2022
    t = columns(t)
    return data(t, 1 - t, x) - noise(t, 1 - t, x)

def flux(sample, sigma):  # noise - data, at 1000 sigma
    return -liu(1 - sigma.double() / 1000, sample)
"""


def test_the_gaussian_oracle_in_conventions_from_outside_measures_as_ours_does(
    tmp_path: Path, measured: Callable[..., Any], tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cost and W2 of the same field, written as its authors write it; the same with a wrong convention is another flow."""
    monkeypatch.chdir(tmp_path)
    Path("outside.py").write_text(OUTSIDE)
    admit("outside.py")
    ve = {"name": "ve", "sigma_min": 0.002, "sigma_max": 80.0}
    down: dict[str, Any] = {"time": "data-at-0", "time_scale": 1000}
    cases: list[tuple[Any, list[tuple[str, dict[str, Any]]]]] = [
        ("rectified", [("liu", {}), ("flux", down), ("flux", {"time": "sigma", "time_scale": 1000})]),
        ("vp-linear", [("ddpm", {"output": "epsilon", **down})]),
        ("vp-cosine", [("v", {"output": "v-prediction", "time": "data-at-0", "time_scale": 999})]),
        (ve, [("edm", {"output": "data", "time": "sigma"}), ("slope", {"time": "sigma"}),
              ("ncsn", {"output": "score", "time": "sigma"}), ("ncsn", {"output": "data", "time": "sigma"})]),
    ]  # fmt: skip
    for path, brought in cases:
        models = [{"name": "external", "factory": f"outside.py:{name}", **fields} for name, fields in brought]
        suite = tiny(
            data=GAUSSIAN, flow={"path": path, "model": ["oracle", *models]}, metrics=["w2", "transport_cost"],
            sample__n=64, sample__reference__max_steps=128, sample__solvers=[{"name": "heun", "nfe": 32}],
            sample__reference__tolerance=1e-4,
        )  # fmt: skip
        table = measured(suite, plugins=("outside.py",))
        assert set(table["status"]) == {"ok"}, table[table["status"] != "ok"][
            ["model", "metric", "status", "reason"]
        ].to_string()
        values = table[~table["model"].isin(["data", "truth"])].pivot_table(
            index="model", columns="metric", values="value"
        )
        assert len(values) == 1 + len(models)
        for model in values.index:
            right = not (model.startswith("external") and "ncsn" in model and "output=data" in model)
            same = values.loc[model].to_dict() == pytest.approx(values.loc["oracle"].to_dict(), rel=2e-4)
            assert same == right, (path, model, values)


@pytest.mark.parametrize("images", ["0..1", "0..255"])
def test_ranges_of_images_are_an_affine_map_of_data_and_noise(images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its own range the field carries y0 to m + s y0 (one Gaussian); in ours the same samples arrive."""
    from fmbench.models import external as module
    from fmbench.models.brought import Brought

    a, b = {"0..1": (0.5, 0.5), "0..255": (127.5, 127.5)}[images]
    monkeypatch.setattr(module, "bring", lambda *_: Brought(exact("rectified", a, b), "0"))
    model, path = External(factory="x.py:said", images=images, arguments="t, x"), PATHS.build("rectified")
    mean, std = model.noise(path)
    source = DATA.build({"name": "scaled-normal", "mean": mean, "std": std})
    x0 = source.take("train", 256).double()
    y0 = a * x0 + b
    assert y0.mean().abs() < 0.2
    assert y0.std().item() == pytest.approx(1, abs=0.2)
    from fmbench.flow.velocity import Velocity

    velocity, times = Velocity(field_of(model, source=source)), torch.linspace(0, 1, 201, dtype=torch.float64)
    x1 = SOLVERS.build("rk4").integrate(velocity, x0, times).x
    expected = torch.tensor(MEAN) + torch.tensor(STD) * y0
    assert torch.allclose(x1, expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(UserError, match=r"source \{name: scaled-normal, mean: -1, std: .*\}, not 'normal'"):
        field_of(model)


def test_argument_orders_precision_and_scalar_times(code: Path) -> None:
    t, x = points(5)
    for one, other in (("Straight", "Swapped"), ("Straight", "Double")):
        a, b = (field_of(external(f"my.py:{name}")) for name in (one, other))
        assert torch.allclose(a(t, x), b(t, x), atol=1e-6)
        assert b(t, x).dtype == torch.float32
        assert torch.allclose(a(torch.tensor(0.3, dtype=torch.float64), x), a(torch.full((5,), 0.3), x))
    swapped = field_of(external("my.py:doubtful", arguments="x, t"))
    assert torch.equal(swapped(t, x), x)


CLASSES = {"name": "gaussian-mixture", "means": [[-2.0, 0.0], [2.0, 1.0]], "stds": [[0.5, 0.5], [0.3, 0.4]]}


def test_where_its_velocity_would_be_stiff_it_is_asked_nearby(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that all data are 0: v = −x / (1 − t) up to a rate of 20, and that of t = 0.95 beyond."""
    monkeypatch.chdir(tmp_path)
    Path("zero.py").write_text("def said(t, x):\n    return 0 * x\n")
    admit("zero.py")
    field, (_, x) = field_of(external("zero.py:said", output="data")), points(4)
    for t, rate in ((0.5, 2), (0.9, 10), (0.97, 20), (1.0, 20)):
        assert torch.allclose(field(torch.tensor(t, dtype=torch.float64), x), -rate * x, rtol=1e-4)


CONDITIONAL = """
import torch

def field(t, x, y):  # 2: of no class
    m = torch.tensor([[-2.0, 0.0], [2.0, 1.0], [0.0, 5.0]])[y]
    return m - x

class Net(torch.nn.Module):
    def forward(self, x, t, **extras):
        return field(t, x, extras["label"])

def plain(t, x): return x
"""


def test_labels_reach_a_conditional_field_and_guidance_counts_in_its_own_convention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: Callable[..., Any]
) -> None:
    """Torchcfm's y and flow_matching's extras; w = 0, 1 is s = 1, 2, which cost one and two calls."""
    from fmbench.evaluation import composed

    monkeypatch.chdir(tmp_path)
    Path("cond.py").write_text(CONDITIONAL)
    admit("cond.py")
    t, x = points(4)
    label = torch.tensor([0, 1, -1, 1])
    for name in ("field", "Net"):
        model = external(f"cond.py:{name}", conditional=True, no_label=2)
        field = field_of(model, data=CLASSES)
        means = torch.tensor([[-2.0, 0.0], [2.0, 1.0], [0.0, 5.0], [2.0, 1.0]])
        assert torch.equal(field(t, x, label), means - x)
        assert torch.equal(field(t, x), torch.tensor([0.0, 5.0]) - x)
    suite = composed(
        "cond.py:field", data=CLASSES, conditional=True, no_label=2, guidance=[0, 1], guidance_as="w", metrics=["nfe"],
        solvers=[{"name": "euler", "steps": 1}], n=8,
    )  # fmt: skip
    assert suite["sample"]["guidance"] == [1, 2]
    suite["sample"]["reference"] = {"tolerance": 1e-2, "max_steps": 32}
    table = measured(suite, plugins=("cond.py",))
    calls = table[table["metric"] == "nfe"].set_index("guidance")["value"].to_dict()
    assert calls == {1.0: 1.0, 2.0: 2.0}

    from fmbench.plan import make_plan
    from fmbench.suite import parse

    suite["flow"]["model"] = {**suite["flow"]["model"], "no_label": None}
    with pytest.raises(UserError, match=r"has no unconditional velocity to be guided from: it has no label for none"):
        make_plan(parse(suite))
    with pytest.raises(UserError, match="none of its arguments is a label"):
        field_of(external("cond.py:plain", conditional=True), data=CLASSES)
    with pytest.raises(UserError, match=r"'field' failed .* with no_label 3: IndexError"):
        field_of(external("cond.py:field", conditional=True, no_label=3), data=CLASSES)
    three = {**CLASSES, "means": [*CLASSES["means"]] * 2, "stds": [*CLASSES["stds"]] * 2}  # type: ignore[misc]
    with pytest.raises(UserError, match=r"'field' failed .* with labels 0 and 3: IndexError"):
        field_of(external("cond.py:field", conditional=True), data=three)
    for taken in (0, 1):
        with pytest.raises(UserError, match=rf"no_label = {taken} is a class of the data"):
            field_of(external("cond.py:field", conditional=True, no_label=taken), data=CLASSES)
    with pytest.raises(UserError, match=r"no_label = 2 is told to none: set conditional"):
        field_of(external("cond.py:plain", no_label=2), data=CLASSES)
    with pytest.raises(UserError, match="unknown convention of guidance 'omega'"):
        composed("cond.py:field", data=CLASSES, guidance=[1], guidance_as="omega")


# ---- content ----


def test_the_digest_knows_the_code_and_the_weights_wherever_they_lie(code: Path, tmp_path: Path) -> None:
    model = external("my.py:Straight")
    assert external("my.py:Straight") == model
    assert model.digest
    assert model.label() == "external[factory=my.py:Straight]"
    assert MODELS.build(model.spec()) == pickle.loads(pickle.dumps(model)) == model
    (tmp_path / "sub").mkdir()
    moved = tmp_path / "sub" / "my.py"
    moved.write_text(CLOSED_FORM)
    admit(str(moved))
    assert external(f"{moved}:Straight").identity() == model.identity()

    state = {"net.weight": torch.zeros(2, 3), "net.bias": torch.ones(2)}
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pt")
    loaded = external("my.py:Straight", weights="w.safetensors")
    t, x = points(3)
    assert torch.equal(field_of(loaded)(t, x), torch.ones(3, 2))
    assert loaded.identity() == external("my.py:Straight", weights="w.pt").identity() != model.identity()

    code.write_text(CLOSED_FORM.replace("half = 0.5", "half = 0.6"))
    admit("my.py")
    assert external("my.py:Straight").identity() != model.identity()
    with pytest.raises(UserError, match="was measured before"):
        MODELS.build(model.spec())
    with pytest.raises(UserError, match="it was edited, or is not deterministic"):
        field_of(model)


def test_only_the_command_line_lets_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("touch.py").write_text("open('ran', 'w').close()\ndef velocity(t, x): return x\n")
    for factory in ("touch.py:velocity", "touch.py", "antigravity:geohash"):
        with pytest.raises(UserError, match=r"is Python that the command line does not name\. Allow it with --plugin"):
            external(factory)
    assert not Path("ran").exists()
    admit("touch.py")
    assert Path("ran").exists()
    assert external("touch.py").method() == "touch"


# ---- mistakes ----


@pytest.mark.parametrize(
    ("factory", "fields", "message"),
    [
        ("none.py:velocity", {}, "none.py: no such Python file"),
        ("my.py:velocty", {}, r"unknown function of my.py 'velocty'. Did you mean 'velocity'\?"),
        ("my.py:half", {}, "my.py:half is a float"),
        ("my.py:gives_text", {}, r"my.py:gives_text\(\) gives a str"),
        ("my.py:breaks", {}, r"my.py:breaks\(\) failed: ZeroDivisionError"),
        ("my.py:doubtful", {}, r"model 'doubtful': its arguments \(a, b\) do not tell which is the time"),
        ("my.py:narrow", {}, r"gives the shape \(2, 1\) for x of shape \(2, 2\)"),
        ("my.py:number", {}, "gives a float, not a tensor"),
        ("my.py:nans", {}, "not finite at t = 0.5"),
        ("my.py:raises", {}, r"failed at t = 0.5 on x of shape \(2, 2\): RuntimeError"),
        ("my.py:velocity", {"time": "data-at-2"}, "time = 'data-at-2': unknown. Did you mean 'data-at-1'"),
        ("my.py:velocity", {"weights": "w.safetensors"}, "no torch module: it has no place for the weights"),
        ("my.py:Straight", {"weights": "none.pt"}, "none.pt: no such file of weights"),
        ("my.py:Straight", {"weights": "my.py"}, "my.py cannot be read"),
        ("my.py:Straight", {"weights": "w.safetensors"}, "does not fit: net.weight is"),
        ("my.py:Straight", {"weights": "few.safetensors"}, "does not fit the module: it lacks net.bias, net.weight"),
        (
            "my.py:Straight",
            {"weights": "nested.pt"},
            r"holds the keys ema, step\. Name the part: --weights nested.pt:ema$",
        ),
        ("my.py:Straight", {"weights": "nested.pt:emma"}, "unknown part of nested.pt 'emma'. Did you mean 'ema'"),
        ("my.py:Straight", {"weights": "nested.pt:step"}, "nested.pt:step is no state of a module, .*: it holds a int"),
        ("my.py:Straight", {"weights": "nested.pt:ema"}, "it lacks net.bias, net.weight; it holds in excess a$"),
        (
            "my.py:Straight",
            {"weights": "whole.pt"},
            r"whole.pt cannot be read: .* Save the module's state_dict\(\) alone",
        ),
        ("nowhere", {}, "'nowhere' is no folder and no factory"),
        ("empty", {}, "empty has no config.json"),
        ("", {}, "needs its factory"),
    ],
)
def test_mistakes(code: Path, factory: str, fields: dict[str, Any], message: str) -> None:
    Path("empty").mkdir()
    save_file({"net.weight": torch.zeros(3, 3), "net.bias": torch.ones(2)}, "w.safetensors")
    save_file({"other": torch.zeros(1)}, "few.safetensors")
    torch.save({"ema": {"a": torch.zeros(1)}, "step": 3}, "nested.pt")
    torch.save(torch.nn.Linear(1, 1), "whole.pt")
    with pytest.raises(UserError, match=message):
        field_of(external(factory, **fields))


def test_a_checkpoint_of_a_training_gives_the_part_that_is_named(code: Path) -> None:
    """As torchcfm saves them: two networks beside the optimizer's state, from a parallel training with a prefix."""
    states = {name: {"net.weight": torch.full((2, 3), k), "net.bias": torch.zeros(2)} for name, k in PARTS.items()}
    parallel = {name: {f"module.{key}": value for key, value in state.items()} for name, state in states.items()}
    torch.save({**states, "optim": {"state": {}, "lr": 1e-3}, "step": 7}, "one.pt")
    torch.save(parallel, "several.pt")
    torch.save(states["ema_model"], "plain.pt")
    x, t = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.tensor(0.5, dtype=torch.float64)
    plain = field_of(external("my.py:Straight", weights="plain.pt"))(t, x)
    for file in ("one.pt", "several.pt"):
        assert torch.equal(field_of(external("my.py:Straight", weights=f"{file}:ema_model"))(t, x), plain)
        assert not torch.equal(field_of(external("my.py:Straight", weights=f"{file}:net_model"))(t, x), plain)


PARTS = {"net_model": 1.0, "ema_model": 2.0}


def test_what_is_not_the_velocity_needs_a_flow_that_determines_it(code: Path) -> None:
    parts = PATHS.build("rectified"), COUPLINGS.build("minibatch-ot"), NORMAL, DATA.build(GAUSSIAN)
    with pytest.raises(UserError, match="prediction = 'score': coupling 'minibatch-ot' is not independent"):
        external("my.py:other", output="score").check(*parts)


# ---- checkpoints of diffusers ----


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import UNet2DModel

    folder = tmp_path_factory.mktemp("checkpoint") / "unet"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"), norm_num_groups=4,
        ).save_pretrained(folder)  # fmt: skip
    return folder


def test_a_diffusers_folder_loads_as_it_was_saved(checkpoint: Path) -> None:
    from diffusers import UNet2DModel

    model = external(str(checkpoint), time="data-at-0", time_scale=1000.0)
    source, data = DATA.build({"name": "normal", "dims": [1, 8, 8]}), DATA.build("digits")
    field = field_of(model, source=source, data=data)
    x = source.take("train", 3)
    with torch.no_grad():
        expected = -UNet2DModel.from_pretrained(checkpoint).eval()(x, 750.0).sample
        assert torch.allclose(field(torch.tensor(0.25, dtype=torch.float64), x), expected, atol=1e-6)
    assert model.method() == "unet"
    assert external(str(checkpoint.parent)).identity()["digest"] == model.digest  # as a pipeline holds it
    with pytest.raises(UserError, match=r"failed at t = 0.5 on x of shape \(2, 2\)"):
        field_of(model)


DDPM, VE = {"output": "epsilon", "time": "data-at-0", "time_scale": 1000}, {"output": "score", "time": "sigma"}
SCALED = {"name": "ve", "sigma_min": 0.01, "sigma_max": 1348.0}


@pytest.mark.parametrize(
    ("kind", "settings", "path", "fields"),
    [
        ("DDPMScheduler", {}, "vp-linear", DDPM),
        ("DDPMScheduler", {"num_train_timesteps": 500, "beta_start": 2e-4, "beta_end": 0.04}, "vp-linear",
         {**DDPM, "time_scale": 500}),
        ("DDIMScheduler", {"prediction_type": "sample"}, "vp-linear", {**DDPM, "output": "data"}),
        ("DDPMScheduler", {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}, "vp-cosine",
         {**DDPM, "output": "v-prediction"}),
        ("EulerDiscreteScheduler", {}, {"name": "vp-linear", "beta_max": 20.1}, {**DDPM, "time_scale": 999}),
        ("FlowMatchEulerDiscreteScheduler", {}, "rectified", {**DDPM, "output": "velocity"}),
        ("DPMSolverMultistepScheduler", {"prediction_type": "flow_prediction"}, "rectified", {**DDPM, "output": "velocity"}),
        ("ScoreSdeVeScheduler", {"num_train_timesteps": 2000}, SCALED, VE),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["scheduler", "."])
def test_the_scheduler_beside_a_checkpoint_must_agree(
    checkpoint: Path, tmp_path: Path, kind: str, settings: dict[str, Any], path: Any, fields: dict[str, Any], place: str
) -> None:
    """A network of noise taken for a velocity would be measured without a word."""
    import shutil

    import diffusers

    folder = tmp_path / "pipeline"
    shutil.copytree(checkpoint, folder / "unet" if place == "scheduler" else folder)
    getattr(diffusers, kind)(**settings).save_pretrained(folder / place)
    source, data = DATA.build({"name": "normal", "dims": [1, 8, 8]}), DATA.build("digits")
    for named in {folder, folder / "unet"} if place == "scheduler" else {folder}:
        field_of(external(str(named), **fields), path, source, data)
    another = {**fields, "output": "data" if fields["output"] == "velocity" else "velocity"}
    wrong: list[tuple[Any, dict[str, Any]]] = [(path, {}), (path, {**fields, "time_scale": 2.0}), (path, another)]
    if fields["output"] != "velocity":
        wrong.append(("rectified", fields))
    for other, declared in wrong:
        with pytest.raises(
            UserError, match=rf"its scheduler, {kind}, says otherwise\. Declare --output {fields['output']} "
        ):
            field_of(external(str(folder), **declared), other, source, data)


def test_a_schedule_that_is_rescaled_to_end_in_noise_alone(tmp_path: Path) -> None:
    from diffusers import DDIMScheduler

    latent = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    rescaled, plain = (DDIMScheduler(**latent, rescale_betas_zero_snr=zero) for zero in (True, False))
    rescaled.save_pretrained(tmp_path)

    def path(of: Any, noise: float = 1.0) -> Any:
        def schedule(t: torch.Tensor) -> Schedule:
            kept = of.alphas_cumprod.double()[((1 - t) * 1000).round().long() - 1]
            return Schedule(kept.sqrt(), noise * (1 - kept).sqrt(), kept, kept)

        return SimpleNamespace(name="own", schedule=schedule, label=lambda: "own")

    scheduler.check(tmp_path, path(rescaled), "epsilon", "data-at-0", 1000)
    for wrong in (path(plain), path(rescaled, noise=0.9)):
        with pytest.raises(UserError, match="says otherwise"):
            scheduler.check(tmp_path, wrong, "epsilon", "data-at-0", 1000)


def test_a_pipeline_s_scheduler_is_found_from_within_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("unet", "scheduler"):
        (tmp_path / part).mkdir()
    file = tmp_path / "scheduler" / scheduler.FILE
    file.write_text("{}")
    monkeypatch.chdir(tmp_path / "unet")
    assert scheduler._file(Path(".")) == file.resolve()


def test_schedulers_that_cannot_be_read_or_scale_by_themselves(checkpoint: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(checkpoint, folder)
    source, data = DATA.build({"name": "normal", "dims": [1, 8, 8]}), DATA.build("digits")
    for text, message in (
        ("{", "cannot be read: JSONDecodeError"),
        (
            '{"_class_name": "DDPMScheduler", "beta_schedule": "odd"}',
            "no schedule that can be read: NotImplementedError",
        ),
        ('{"_class_name": "EDMEulerScheduler"}', "Bring a function"),
    ):
        (folder / "scheduler_config.json").write_text(text)
        with pytest.raises(UserError, match=message):
            field_of(external(str(folder)), source=source, data=data)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "diffusion_pytorch_model.safetensors").unlink(), "no .safetensors weights"),
        (lambda folder: _edit(folder, '"UNet2DModel"', '"UNet1DModel"'), "holds a UNet1DModel"),
        (lambda folder: _lose(folder, "conv_in.bias"), "does not fit the module: it lacks conv_in.bias"),
        (lambda folder: _edit(folder, "16\n", "32\n"), "cannot be loaded: .*(size mismatch|shape)"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be loaded"),
    ],
)
def test_folders_that_do_not_fit(checkpoint: Path, tmp_path: Path, harm: Callable[[Path], Any], message: str) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(checkpoint, folder)
    harm(folder)
    with pytest.raises(UserError, match=message):
        external(str(folder))


def _lose(folder: Path, name: str) -> None:
    file = folder / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    del state[name]
    save_file(state, file, metadata={"format": "pt"})


def _edit(folder: Path, old: str, new: str) -> None:
    text = (folder / "config.json").read_text()
    assert old in text
    (folder / "config.json").write_text(text.replace(old, new))


def test_the_noise_of_another_range_starts_where_its_path_starts() -> None:
    """On a path that starts at σ_0 z, ours must start at (σ_0 z − b) / a."""
    for path in map(PATHS.build, ("rectified", "ve", "vp-linear")):
        mean, std = External(images="0..1").noise(path)
        z = torch.randn(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        sigma = path.start(torch.ones((), dtype=torch.float64)).item()
        assert torch.allclose(path.start(mean + std * z), (sigma * z - 0.5) / 0.5, rtol=1e-9)
        assert math.isfinite(mean)

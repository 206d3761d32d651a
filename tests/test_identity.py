"""Identity: keys are frozen, every field is classified, and whatever shapes a result changes its key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

import fmbench.plan  # noqa: F401
from fmbench.data import DATA
from fmbench.flow import COUPLINGS, PATHS
from fmbench.flow.losses import MSE
from fmbench.flow.times import TIMES
from fmbench.identity import Record, Spec, canonical, key_of
from fmbench.metrics import METRICS
from fmbench.models import MODELS
from fmbench.registry import Component
from fmbench.solvers import GRIDS, SOLVERS
from fmbench.stages.flow import FlowSpec, PairsSpec, TrainSettings
from fmbench.stages.measure import FloorSpec, GivenSpec, MeasureSpec, PairingSpec, TruthSpec
from fmbench.stages.sample import ReferenceSpec, SampleSpec


def flow(**changes: Any) -> FlowSpec:
    plain = {
        "data": DATA.build("moons"), "source": DATA.build("normal"), "path": PATHS.build("rectified"),
        "coupling": COUPLINGS.build("independent"), "prediction": "velocity", "times": TIMES.build("uniform"),
        "model": MODELS.build("mlp"), "train": TrainSettings(), "seed": 0,
    }  # fmt: skip
    return FlowSpec(**{**plain, **changes})


CONDITIONAL = MODELS.build({"name": "mlp", "conditional": True, "label_dropout": 0.1})
PAIRS = PairsSpec(flow=flow(), n=1000, solver=SOLVERS.build("dopri5"))
REFERENCE = ReferenceSpec(flow=flow(), n=100, batch=50, sample_seed=0)
SAMPLE = SampleSpec(
    flow=flow(), solver=SOLVERS.build("heun"), steps=4, grid=GRIDS.build("uniform"), n=100, batch=50, sample_seed=0
)
EXAMPLES: dict[str, Spec] = {
    "train": flow(),
    "train, path with a parameter": flow(path=PATHS.build({"name": "fm-ot", "sigma_min": 0.1})),
    "train, reflow": flow(reflow=1, pairs=PAIRS),
    "pairs": PAIRS,
    "reference": REFERENCE,
    "sample": SAMPLE,
    "sample, adaptive": SAMPLE.model_copy(update={"solver": SOLVERS.build("dopri5"), "steps": None, "grid": None}),
    "sample, guided": SAMPLE.model_copy(update={"flow": flow(model=CONDITIONAL), "guidance": 2.0}),
    "measure": MeasureSpec(cell=SAMPLE, reference=REFERENCE, metric=METRICS.build("w2")),
    "floor": FloorSpec(data=DATA.build("moons"), metric=METRICS.build("w2"), n=100, sample_seed=0),
    "pairing": PairingSpec(
        data=DATA.build("moons"),
        source=DATA.build("normal"),
        coupling=COUPLINGS.build("minibatch-ot"),
        batch=64,
        pairs=None,
        metric=METRICS.build("transport_cost"),
        sample_seed=0,
    ),
    "given": GivenSpec(
        data=DATA.build("moons"), model=MODELS.build("samples"), metric=METRICS.build("w2"), n=100, sample_seed=0
    ),
    "truth": TruthSpec(flow=flow(), metric=METRICS.build("transport_cost")),
}
each = pytest.mark.parametrize("name", EXAMPLES)

# A key that changes orphans every stored result of its kind. If a change of yours moves one of these, ask whether it
# changes results. If so, raise the `version` of that stage or component (which moves the key, rightly) and write the
# new key here. If not (a field was added or renamed), keep the old keys: the field belongs in `silent`, or nowhere.
GOLDEN = {
    "given": "given-70866adf6edf83e5",
    "train": "train-9ca6e7d8292bce6f",
    "train, path with a parameter": "train-bcaa3d0b4a57863a",
    "train, reflow": "train-5830a3df32d1039a",
    "pairs": "pairs-d4cd301604028d0d",
    "reference": "reference-0883b7c0ffb4eec2",
    "sample": "sample-f76a01c587e0bf50",
    "sample, adaptive": "sample-8f7418387df07e1d",
    "sample, guided": "sample-a32be66174e94c46",
    "measure": "measure-ae4b4d2ba3a117e7",
    "floor": "floor-2f566684ff00feb5",
    "pairing": "pairing-31381a52f71687e6",
    "truth": "truth-f33689533b617aba",
}


@each
def test_keys_are_frozen(name: str) -> None:
    assert EXAMPLES[name].key == GOLDEN[name]


def subclasses(cls: type) -> Iterator[type]:
    for sub in cls.__subclasses__():
        yield sub
        yield from subclasses(sub)


def test_every_stage_is_here_and_classifies_all_its_fields() -> None:
    stages = {cls for cls in subclasses(Spec) if cls.__module__.startswith("fmbench.")}
    assert {type(spec) for spec in EXAMPLES.values()} == stages, "a stage without a golden key"
    for cls in stages:
        assert set(cls.model_fields) == cls.shaping | cls.silent, cls.__name__
        assert not cls.shaping & cls.silent, cls.__name__
        assert "stage" in cls.__dict__, f"{cls.__name__} needs a name of its own"
    assert len({cls.stage for cls in stages}) == len(stages)


def test_an_unclassified_field_is_an_error() -> None:
    class Forgetful(Spec):
        stage = "forgetful"
        shaping = frozenset({"a"})
        a: int
        b: int

    class Torn(Spec):
        stage = "torn"
        shaping = silent = frozenset({"a"})
        a: int

    class Stale(Spec):
        stage = "stale"
        shaping = frozenset({"a", "gone"})
        a: int

    with pytest.raises(TypeError, match=r"Forgetful: classify \['b'\]"):
        _ = Forgetful(a=1, b=2).key
    with pytest.raises(TypeError, match="Torn"):
        _ = Torn(a=1).key
    with pytest.raises(TypeError, match=r"Stale: classify \['gone'\]"):
        _ = Stale(a=1).key


@each
def test_a_record_proves_its_key(name: str) -> None:
    spec = EXAMPLES[name]
    read_back = json.loads(json.dumps(spec.identity(), indent=2))
    assert key_of(read_back) == spec.key
    assert spec.key.startswith(f"{spec.stage}-")
    assert len(spec.key) == len(spec.stage) + 17


OTHER: dict[str, Any] = {
    "data": DATA.build("checkerboard"), "source": DATA.build("eight-gaussians"), "path": PATHS.build("vp-cosine"),
    "coupling": COUPLINGS.build("minibatch-ot"), "times": None, "model": MODELS.build({"name": "mlp", "width": 64}),
    "train": TrainSettings(lr=2e-3), "seed": 1, "reflow": 2, "pairs": PAIRS.model_copy(update={"n": 7}),
    "flow": flow(seed=5), "n": 77, "batch": 33, "sample_seed": 9, "solver": SOLVERS.build("rk4"), "steps": 3,
    "tolerance": 0.5, "max_steps": 64, "metric": METRICS.build("sliced_w2"), "grid": None, "prediction": None,
    "cell": SAMPLE.model_copy(update={"sample_seed": 9}), "reference": REFERENCE.model_copy(update={"n": 101}),
    "precision": "tf32", "compile": True, "keep": False,
    "distilled": 3, "init": "previous", "inverted": 0.5, "teacher": REFERENCE.model_copy(update={"n": 55}),
    "guidance": 2.0,
}  # fmt: skip


@each
def test_every_shaping_field_changes_the_key_and_no_silent_one_does(name: str) -> None:
    spec = EXAMPLES[name]
    for field in type(spec).model_fields:
        changed = spec.model_copy(update={field: OTHER[field]})
        if getattr(spec, field) == OTHER[field]:
            continue
        assert (changed.key != spec.key) == (field in spec.shaping), field


@pytest.mark.parametrize("field", TrainSettings.model_fields)
def test_every_training_setting_changes_the_key_but_silent_ones(field: str) -> None:
    others = {
        "samples": 777_000, "schedule": "cosine", "precision": "bfloat16", "clip": None, "loss": "pseudo-huber",
        "weight": "velocity", "compile": True,
    }  # fmt: skip
    changed = flow(train=TrainSettings(**{field: others.get(field, 7)}))
    assert (changed.key != flow().key) == (field not in TrainSettings.silent)


def test_a_setting_added_later_is_left_out_where_it_changes_nothing() -> None:
    """At the value that computes what was computed before; its parameters, version and other values enter the key."""
    assert set(TrainSettings.unchanged) == {"loss", "weight", "ema_ramp"}
    plain = TrainSettings().identity()
    assert not TrainSettings.unchanged.keys() & plain.keys()
    assert TrainSettings(loss="mse", weight={"name": "uniform"}).identity() == plain
    other = TrainSettings(loss={"name": "pseudo-huber", "c": 0.1}).identity()
    assert other == plain | {"loss": {"name": "pseudo-huber", "version": 1, "c": 0.1}}
    newer = type("Newer", (MSE,), {"version": 2, "__module__": __name__})
    assert TrainSettings.model_construct(**dict(TrainSettings()) | {"loss": newer()}).identity() == plain | {
        "loss": {"name": "mse", "version": 2}
    }


def test_every_unchanged_value_is_the_default() -> None:
    """A default that moves away from it moves every key, as it must."""
    for record in subclasses(Record):
        for name in record.unchanged:
            assert name in record.model_fields
            assert not record.model_fields[name].is_required()


@pytest.mark.parametrize("part", ["data", "path", "coupling", "model", "times"])
def test_a_components_parameters_and_version_change_the_key(part: str) -> None:
    component = getattr(flow(), part)
    newer = type("Newer", (type(component),), {"version": component.version + 1, "__module__": __name__})
    assert flow(**{part: newer(**component.parameters())}).key != flow().key
    for field, value in component.parameters().items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            changed = component.model_copy(update={field: value + 1})
            assert flow(**{part: changed}).key != flow().key, field


def test_a_stages_version_and_its_inputs_change_the_key() -> None:
    class Later(SampleSpec):
        version = SampleSpec.version + 1

    assert Later(**{field: getattr(SAMPLE, field) for field in SampleSpec.model_fields}).key != SAMPLE.key
    child = SAMPLE.model_copy(update={"flow": flow(train=TrainSettings(lr=0.5))})
    assert child.key == key_of(child.identity()) != SAMPLE.key


def test_a_changed_copy_does_not_keep_the_key_of_its_original() -> None:
    original = flow()
    assert original.key == original.model_copy().key
    copy = original.model_copy(update={"seed": 1})
    assert copy.key == flow(seed=1).key != original.key


@pytest.mark.parametrize(("a", "b"), [(50, 50.0), (0.1, 1e-1), (1, 1.0)])
def test_spelling_of_numbers_does_not_matter(a: float, b: float) -> None:
    def key(value: float) -> str:
        return flow(path=PATHS.build({"name": "ve", "sigma_max": value + 0}), train=TrainSettings(lr=value)).key

    assert key(a) == key(b)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_canonical_json_survives_a_round_trip(value: Any) -> None:
    assert canonical(json.loads(canonical(value))) == canonical(value)
    assert canonical(value).isascii()


@given(st.dictionaries(st.text(max_size=3), st.integers(), min_size=2, max_size=5))
def test_order_of_keys_does_not_matter(mapping: dict[str, int]) -> None:
    assert canonical(mapping) == canonical(dict(reversed(mapping.items())))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_has_no_identity(bad: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical({"x": bad})


def test_identities_are_plain_json() -> None:
    """No component or model slips in unconverted, at any depth."""

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(isinstance(k, str) and plain(v) for k, v in value.items())
        if isinstance(value, list):
            return all(map(plain, value))
        assert not isinstance(value, Component | BaseModel)
        return value is None or isinstance(value, str | int | float | bool)

    assert all(plain(spec.identity()) for spec in EXAMPLES.values())

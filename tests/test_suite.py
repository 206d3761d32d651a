from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmbench.errors import UserError
from fmbench.plan import make_plan
from fmbench.solvers import SOLVERS
from fmbench.suite import Suite, load, override_value, parse, shipped

Tiny = Callable[..., dict[str, Any]]

CONTRACT = """
suite: gmm-two-paths
title: Two paths on a known mixture
about: One paragraph.
tier: cpu
data: {name: gaussian-mixture, means: [[-2, 0], [2, 0]], stds: [[0.3, 0.3], [0.5, 0.2]], weights: [0.5, 0.5]}
source: normal
flow:
  path: [rectified, vp-cosine]
  coupling: independent
  prediction: velocity
  times: uniform
  model: {name: mlp, width: 256, depth: 3}
  reflow: [0, 1, 2]
  seed: [0, 1, 2]
train: {samples: 2_000_000, batch: 256, lr: 1.0e-3, ema_samples: 50_000, precision: float32}
pairs: {n: 20_000, solver: {name: dopri5, rtol: 1.0e-5, atol: 1.0e-5}}
sample:
  n: 10_000
  solvers:
    - {name: euler, nfe: [1, 2, 4, 8, 16, 32, 64]}
    - {name: heun, nfe: [2, 4, 8, 16, 32, 64]}
    - {name: dopri5, rtol: 1.0e-5, atol: 1.0e-5}
metrics: [w2, sliced_w2, nll, transport_cost, straightness, path_energy, solver_error]
"""


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str | bytes], Suite]:
    """Loads a suite from a file with this content."""

    def load_text(text: str | bytes) -> Suite:
        path = tmp_path / "own.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(str(path))

    return load_text


def rejected(suite: Any, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        make_plan(parse(suite, overrides))
    return str(caught.value)


def test_the_contract_s_example(read: Callable[[str], Suite]) -> None:
    suite = read(CONTRACT)
    assert suite.train.samples == 2_000_000
    assert suite.train.lr == 1e-3
    assert [path.name for path in suite.flow.path] == ["rectified", "vp-cosine"]
    assert suite.flow.reflow == suite.flow.seed == [0, 1, 2]
    assert [(b.solver.name, b.steps) for b in suite.sample.solvers][6:9] == [("euler", 64), ("heun", 1), ("heun", 2)]
    assert len(make_plan(suite).flows()) == 2 * 3 * 3


def test_only_what_is_required_need_be_said() -> None:
    suite = parse({"suite": "s", "data": "moons", "flow": {}, "sample": {"solvers": [{"name": "euler", "nfe": 1}]},
                   "metrics": "nfe"})  # fmt: skip
    assert suite.flow.path[0].name == "rectified"
    for key in ("suite", "data", "flow", "sample", "metrics"):
        assert key in rejected({k: v for k, v in suite.resolved().items() if k not in (key, "source")})


@pytest.mark.parametrize("name", shipped())
def test_shipped_suites_load_under_their_own_name(name: str) -> None:
    suite = load(name)
    assert suite.suite == name
    assert suite.title
    assert suite.about
    assert make_plan(suite).cells


def test_moons_nfe_sweep_is_shipped() -> None:
    assert "moons-nfe-sweep" in shipped()


# Each line: what is wrong, and words that the message must hold (the key's path, the value, what is valid, the guess).
MISTAKES: list[tuple[str, list[str]]] = [
    ("sample_=1", ["'sample_'", "Did you mean 'sample'?", "metrics"]),
    ("flow.cupling=independent", ["'flow.cupling'", "'coupling'", "exclude"]),
    ("train.sampels=3", ["'train.sampels'", "'samples'", "ema_samples"]),
    ("sample.slovers=[]", ["'sample.slovers'", "'solvers'"]),
    ("sample.reference.tolernce=1", ["'sample.reference.tolernce'", "'tolerance'"]),
    ("pairs.m=1", ["'pairs.m'", "n, solver"]),
    ("tasks=[{data: moons, sorce: normal}]", ["'tasks.0.sorce'", "'source'"]),
    ("data=moon", ["data = 'moon'", "'moons'", "checkerboard"]),
    ("data={name: moons, noize: 1}", ["data", "'noize'", "'noise'"]),
    ("source=eight-gausians", ["source", "'eight-gaussians'"]),
    ("flow.path=rectifed", ["flow.path = 'rectifed'", "'rectified'", "vp-linear"]),
    ("flow.path=[rectified, {name: ve, sigma_mox: 1}]", ["flow.path", "'ve'", "'sigma_mox'", "sigma_max"]),
    ("flow.path={name: fm-ot, sigma_min: -1}", ["flow.path", "sigma_min = -1", "greater than or equal to 0"]),
    ("flow.path={name: ve, sigma_min: 60}", ["sigma_min = 60", "sigma_max = 50"]),
    ("flow.path={sigma_min: 1}", ["flow.path", "with a name", "rectified"]),
    ("flow.path=[]", ["flow.path", "empty"]),
    ("flow.path=[ve, ve]", ["flow.path", "'ve' is listed twice"]),
    ("flow.path=[fm-ot, {name: fm-ot, sigma_min: 1.0e-5}]", ["flow.path", "'fm-ot' is listed twice"]),
    ("flow.seed=[1, 1]", ["flow.seed", "'1' is listed twice"]),
    ("flow.seed=[-1]", ["flow.seed.0 = -1", "0"]),
    ("flow.seed=100000000000000000000", ["flow.seed.0", "less than"]),
    ("flow.prediction=velocty", ["flow.prediction", "'velocty'", "'velocity'"]),
    ("flow.prediction=[velocity, noise]", ["flow.prediction.1 = 'noise'", "epsilon", "score"]),
    ("flow.times=unifrom", ["flow.times", "'uniform'"]),
    ("flow.times={name: mode, s: 9}", ["flow.times", "s = 9", "1.75"]),
    ("flow.model={name: mlp, widht: 3}", ["flow.model", "'widht'", "'width'"]),
    ("flow.model={name: mlp, width: 0}", ["flow.model", "width = 0", "greater than 0"]),
    ("flow.model={name: mlp, 3: 4}", ["flow.model", "strings"]),
    ("flow.model={name: mlp, width: []}", ["flow.model", "empty"]),
    ("flow.model=unet", ["unet", "(2,)", "mlp"]),
    ("flow.model=oracle", ["oracle", "moons"]),
    ("flow.coupling={name: minibatch-ot, batch: 100}", ["batch", "train.batch = 64"]),
    ("flow.reflow=[0, -1]", ["flow.reflow.1 = -1"]),
    ("flow.exclude=[{paht: ve}]", ["'paht'", "'path'", "coupling"]),
    ("flow.exclude=[{path: vee}]", ["path to exclude 'vee'", "rectified"]),
    ("flow.exclude=[{path: rectified}]", ["flow.exclude", "every flow"]),
    ("train.loss=mes", ["train.loss = 'mes'", "'mse'", "pseudo-huber"]),
    ("train.loss={name: pseudo-huber, c: 0}", ["train.loss", "c = 0", "greater than 0"]),
    ("train.weight=snr", ["train.weight = 'snr'", "'min-snr'", "velocity"]),
    ("train.lr=0", ["train.lr = 0", "greater than 0"]),
    ("train.lr=fast", ["train.lr = 'fast'", "number"]),
    ("train.lr=.inf", ["train.lr = inf", "finite"]),
    ("train.clip=.nan", ["train.clip = nan"]),
    ("train.batch=10.5", ["train.batch = 10.5", "integer"]),
    ("train.schedule=cosin", ["train.schedule = 'cosin'", "'cosine'"]),
    ("train.precision=float16", ["train.precision", "'bfloat16'"]),
    ("tier=gpuu", ["tier = 'gpuu'", "'gpu'"]),
    ("suite=My Suite", ["suite = 'My Suite'"]),
    ("suite=../up", ["suite = '../up'"]),
    ("sample.n=0", ["sample.n = 0"]),
    ("sample.solvers=[]", ["sample.solvers", "at least one"]),
    ("flow.reflow=1000000000", ["flow.reflow", "less than or equal to 100"]),
    ("sample.solvers=[eulr]", ["sample.solvers", "'eulr'", "'euler'", "dopri5"]),
    ("sample.solvers=[euler]", ["sample.solvers", "'euler'", "nfe"]),
    ("sample.solvers=[{name: euler, nfe: 2, steps: 2}]", ["sample.solvers", "either nfe"]),
    ("sample.solvers=[{name: heun, nfe: [2, 3]}]", ["nfe = 3", "2 calls a step", "multiples of 2", "2 or 4"]),
    ("sample.solvers=[{name: rk4, nfe: 1}]", ["nfe = 1", "nearest 4"]),
    ("sample.solvers=[{name: euler, nfe: []}]", ["sample.solvers", "empty"]),
    ("sample.solvers=[{name: euler, nfe: 1.5}]", ["nfe = 1.5", "whole numbers"]),
    ("sample.solvers=[{name: euler, nfe: true}]", ["nfe = True", "whole numbers"]),
    ("sample.solvers=[{name: euler, nfe: [2, 2]}]", ["'euler' with 2 steps is listed twice"]),
    ("sample.solvers=[{name: euler, nfe: 1, grid: unform}]", ["'unform'", "'uniform'"]),
    ("sample.solvers=[{name: dopri5, nfe: 10}]", ["'dopri5'", "rtol", "not nfe"]),
    ("sample.solvers=[{name: edm-heun, nfe: 4}]", ["cannot meet nfe = 4", "2 · steps − 1, nearest 3 or 5"]),
    ("sample.solvers=[{name: euler, nfe: 4, batch: 0}]", ["batch = 0", "whole numbers from 1"]),
    ("sample.solvers=[{name: euler, nfe: 4, grid: cosin}]", ["grid", "'cosine'"]),
    ("sample.solvers=[{name: dopri5, rtoll: 1}]", ["'rtoll'", "'rtol'"]),
    ("sample.solvers=[{name: dopri5, rtol: 0}]", ["rtol = 0", "greater than 0"]),
    ("sample.solvers=[7]", ["sample.solvers", "7"]),
    ("sample.reference.max_steps=0", ["sample.reference.max_steps = 0"]),
    ("metrics=[]", ["metrics", "empty"]),
    ("metrics=[w3]", ["metrics", "'w3'", "'w2'", "transport_cost"]),
    ("metrics=[nfe, nfe]", ["metrics", "'nfe' is listed twice"]),
    ("metrics=[{name: w2, n: 10}, {name: w2, n: 20}]", ["metrics", "'w2' is listed twice"]),
    ("metrics=[{name: w2, n: 65}]", ["n = 65", "sample.n is 64"]),
    ("metrics=[{name: sliced_w2, projection: 3}]", ["metrics", "'projection'", "'projections'"]),
    ("pairs.solver=dopri", ["pairs", "Did you mean 'dopri"]),
    ("claims=[something]", ["claims", "'something'"]),
    ("data=null", ["data", "tasks"]),
    ("tasks=[moons]", ["tasks.0"]),
    ("tasks=[{data: moons}]", ["either data", "tasks"]),
    ("source=digits", ["(1, 8, 8)", "(2,)", "'digits'", "'moons'"]),
    ("source={name: normal, dims: [7]}", ["(7,)", "(2,)"]),
]  # fmt: skip


@pytest.mark.parametrize(("override", "words"), MISTAKES, ids=[mistake for mistake, _ in MISTAKES])
def test_a_mistake_names_its_key_and_what_is_valid(tiny: Tiny, override: str, words: list[str]) -> None:
    message = rejected(tiny(), override)
    assert [word for word in words if word not in message] == [], message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["is empty", "suite, data, flow, sample, metrics"]),
        (b"# a comment\n", ["is empty"]),
        (b"- a\n- b\n", ["list", "mapping"]),
        (b"just words", ["str", "mapping"]),
        (
            b"x: 1\na: [1, 2",
            ["no valid YAML: line 2, column 9: expected ',' or ']'", "flow sequence that begins on line 2"],
        ),
        (b"x: 1\na: b: c", ["no valid YAML: line 2, column 5: mapping values are not allowed here"]),
        (b"a:\n  - 1\n b: 2\n", ["no valid YAML: line 3, column 2: expected <block end>"]),
        (b"\x00\x01\x02", ["not a text file"]),
        (b"PK\x03\x04" + bytes(range(256)), ["not a text file"]),
        ("suite: größe".encode("latin-1"), ["not a text file"]),
        (b"suite: a\nsuite: b\n", ["'suite' stands twice"]),
        (b"flow: {path: ve, path: rectified}", ["'path' stands twice"]),
        (b"suite: a\ndata: moons\nsuite: b\n", ["line 3, column 1"]),
        (b"a: " + b"[" * 5000, ["no valid YAML"]),
        (b"a: 1\n---\nb: 2\n", ["no valid YAML"]),
        (b"a: !!python/object/apply:os.system [ls]", ["no valid YAML"]),
        (b"a: !!bool x", ["no valid YAML: line 1, column 4: 'x' is no bool"]),
        (b"a: !!map [b]", ["no valid YAML"]),
        (b"a: !!timestamp x", ["no valid YAML"]),
        (b"a: !!int ''", ["no valid YAML"]),
        (b"b: 1\na: 2001-99-99", ["no valid YAML: line 2, column 4: '2001-99-99' is no timestamp", "month must be"]),
        (b"? [1]\n: 2\n", ["no valid YAML: line 1, column 3: found unhashable key"]),
        (b"a: " + b"9" * 5000, ["no valid YAML"]),
        (b"a: &a [*a]", ["unknown key 'a'"]),
        (b"suite: &a [*a]", ["suite"]),
        (b"suite: s\nflow: {path: &a {name: ve, sigma_min: *a}}", ["sigma_min"]),
    ],
    ids=lambda value: repr(value)[:30] if isinstance(value, bytes) else "",
)
def test_files_that_are_no_suite(read: Callable[[bytes], Suite], content: bytes, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        read(content)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value
    assert "own.yaml" in str(caught.value)
    assert "<unicode string>" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_numbers_and_merges_as_yaml_writes_them(tiny: Tiny, read: Callable[[str], Suite]) -> None:
    suite = tiny()
    del suite["train"]
    text = "train: {samples: 2_000, lr: 1e-3, clip: 5}\n"  # YAML 1.1 reads 1e-3 as text
    assert read(yaml.safe_dump(suite) + text).train.model_dump() | {"samples": 2000, "lr": 0.001, "clip": 5.0} == (
        read(yaml.safe_dump(suite) + text).train.model_dump()
    )
    merged = "tasks: [&a {data: moons, source: spirals}, {<<: *a, data: checkerboard}]\n"
    del suite["data"]
    assert [(t.data.name, t.source.name) for t in read(yaml.safe_dump(suite) + merged).tasks] == [
        ("moons", "spirals"),
        ("checkerboard", "spirals"),
    ]


def test_flows_are_the_product_of_the_lists_less_exclude(tiny: Tiny) -> None:
    suite = parse(tiny(flow={
        "path": ["rectified", {"name": "fm-ot", "sigma_min": [0.1, 0.2]}], "coupling": ["independent", "minibatch-ot"],
        "model": {"name": "mlp", "width": [8, 16]}, "seed": [0, 1],
        "exclude": [{"path": "fm-ot", "coupling": "minibatch-ot"}, {"path": "fm-ot[sigma_min=0.2]", "seed": [1]}],
    }))  # fmt: skip
    have = {(f.path.label(), f.coupling.name, f.model.width, f.seed) for f in make_plan(suite).flows()}
    want = {
        (path, coupling, width, seed)
        for path in ("rectified", "fm-ot[sigma_min=0.1]", "fm-ot[sigma_min=0.2]")
        for coupling in ("independent", "minibatch-ot")
        for width in (8, 16)
        for seed in (0, 1)
        if not (path.startswith("fm-ot") and coupling == "minibatch-ot") and not (path.endswith("0.2]") and seed == 1)
    }
    assert have == want
    assert len(want) == 14


def test_a_parameter_that_is_a_list_is_no_product(tiny: Tiny) -> None:
    suite = parse(tiny(data="digits", flow__model={"name": "unet", "channels": [8, 16], "multipliers": [1, 2]}))
    assert [(model.channels, model.multipliers) for model in suite.flow.model] == [(8, (1, 2)), (16, (1, 2))]


def test_tasks_replace_data_and_source(tiny: Tiny) -> None:
    suite = tiny(tasks=[{"data": "moons"}, {"source": "eight-gaussians", "data": "spirals"}])
    del suite["data"]
    assert [(t.source.name, t.data.name) for t in parse(suite).problems()] == [
        ("normal", "moons"), ("eight-gaussians", "spirals")]  # fmt: skip
    assert "inside each of the tasks" in rejected(suite, "source=normal")


def test_the_normal_source_takes_the_data_s_shape(tiny: Tiny) -> None:
    assert parse(tiny(data="digits")).problems()[0].source.shape == (1, 8, 8)
    assert parse(tiny(data="digits")).resolved()["source"] == {"name": "normal", "dims": [1, 8, 8]}


def test_a_data_set_may_be_the_source(tiny: Tiny) -> None:
    suite = parse(tiny(source={"name": "eight-gaussians", "scale": 2}))
    assert suite.problems()[0].source.label() == "eight-gaussians[scale=2]"


def test_overrides(tiny: Tiny) -> None:
    suite = tiny(flow__model="mlp")
    changed = parse(suite, ["flow.model.width=32", "flow.seed=[4,5]", "sample.solvers.0.nfe=[8]", "train.clip=null",
                            "flow.path=[rectified,ve]", "pairs.n=7", "about=a = b"])  # fmt: skip
    assert changed.flow.model[0].width == 32
    assert changed.flow.seed == [4, 5]
    assert changed.sample.solvers[0].steps == 8
    assert changed.train.clip is None
    assert [path.name for path in changed.flow.path] == ["rectified", "ve"]
    assert (changed.pairs.n, changed.about) == (7, "a = b")
    assert suite == tiny(flow__model="mlp")  # the mapping given is left as it was


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("flow.seed", ["--set 'flow.seed'", "key=value"]),
        ("=3", ["--set '=3'", "key=value"]),
        ("flow.seed=[1", ["--set 'flow.seed=[1'", "YAML: line 1, column 3: expected ',' or ']'"]),
        ("flow.seed=!!bool x", ["YAML"]),
        ("flow.seed=" + "[" * 3000, ["YAML"]),
        ("sample.solvers.7.nfe=1", ["sample.solvers.7.nfe", "'7'", "0 (euler), 1 (heun)"]),
        ("sample.solvers.x.nfe=1", ["'x'", "0 (euler), 1 (heun)"]),
        ("train.lr.x=1", ["train.lr.x", "0.002"]),
        ("flow.sede=1", ["flow.sede", "'seed'"]),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_bad_overrides(tiny: Tiny, override: str, words: list[str]) -> None:
    message = rejected(tiny(), override)
    assert [word for word in words if word not in message] == [], message


def test_names_of_suites(tmp_path: Path) -> None:
    for name, words in {
        "moon-nfe-sweep": ["'moon-nfe-sweep'", "Did you mean 'moons-nfe-sweep'?", "YAML file"],
        "no/such.yaml": ["no suite file at 'no/such.yaml'", "moons-nfe-sweep"],
        str(tmp_path): ["no suite file"],
        "": ["suite"],
    }.items():
        with pytest.raises(UserError) as caught:
            load(name)
        assert [word for word in words if word not in str(caught.value)] == [], caught.value


# ---- properties ----

FIXED = [name for name in SOLVERS.names() if not SOLVERS.get(name).adaptive]


def some(values: list[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique_by=str)


ADAPTIVE: list[list[Any]] = [[], ["dopri5"], [{"name": "dopri5", "per_sample": [True, False], "batch": [8, 9]}]]


@st.composite
def suites(draw: st.DrawFn) -> dict[str, Any]:
    """Mappings that are valid suites."""
    solvers = [
        {
            "name": name,
            draw(st.sampled_from(["steps", "nfe"])): [SOLVERS.build(name).calls_for(k) for k in counts],
            **draw(st.sampled_from([{}, {}, {"batch": 64}, {"batch": [1, 64]}])),
        }
        for name in draw(some(FIXED))
        for counts in [draw(st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True))]
    ]
    seeds = draw(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=3, unique=True))
    return {
        "suite": "any",
        "data": draw(st.sampled_from(["moons", {"name": "spirals", "turns": 2.5}, "checkerboard",
                                      {"name": "gaussian-mixture", "means": [[-1.0, 0.0], [1, 0.5]], "stds": 0.3}])),
        **draw(st.sampled_from([{}, {"source": "normal"}, {"source": "eight-gaussians"}])),
        "flow": {
            "path": draw(some(["rectified", "fm-ot", {"name": "fm-ot", "sigma_min": 0.1}, {"name": "ve", "sigma_max": 9}])),
            "coupling": draw(some(["independent", "minibatch-ot", {"name": "minibatch-ot", "batch": 32}])),
            "times": draw(some(["uniform", "logit-normal", {"name": "mode", "s": 0.5}])),
            "model": {"name": "mlp", "width": draw(st.lists(st.integers(1, 99), min_size=1, max_size=2, unique=True))},
            "seed": draw(st.sampled_from([seeds, seeds[0]])),
        },
        "train": {"lr": draw(st.floats(1e-6, 1)), "batch": 64, "clip": draw(st.none() | st.floats(0.1, 9)),
                  "loss": draw(st.sampled_from(["mse", {"name": "pseudo-huber", "c": 0.1}])),
                  "weight": draw(st.sampled_from(["uniform", "velocity"]))},
        "sample": {"n": draw(st.integers(1, 500)), "solvers": [*solvers, *draw(st.sampled_from(ADAPTIVE))]},
        "metrics": draw(some(["sliced_w2", "nfe", "transport_cost", {"name": "mmd"}, "straightness", "seconds"])),
    }  # fmt: skip


@given(suites())
@settings(max_examples=40, deadline=None)
def test_the_resolved_suite_says_the_same(raw: dict[str, Any]) -> None:
    suite = parse(raw)
    again = parse(yaml.safe_load(yaml.safe_dump(suite.resolved())))
    assert again.resolved() == suite.resolved()
    cells, more = make_plan(suite).cells, make_plan(again).cells
    assert [(cell.columns, cell.spec.key) for cell in cells] == [(cell.columns, cell.spec.key) for cell in more]
    assert len({cell.spec.key for cell in cells}) == len(cells)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4)
    | st.sampled_from(["mlp", "moons", "rectified", "euler", "w2", "unet", "normal", "dopri5", "gaussian-mixture"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["name", "nfe", "steps", "path", "data", "means", "stds", "width", "dims", "n", "solver"])
        | st.text(max_size=4) | st.integers(),
        inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
PLACES = ["suite", "title", "tier", "data", "source", "tasks", "flow", "flow.path", "flow.coupling", "flow.model", "flow.seed",
          "flow.times", "flow.prediction", "flow.reflow", "flow.exclude", "train", "train.lr", "train.samples", "train.batch",
          "train.clip", "train.loss", "train.weight", "pairs", "pairs.solver", "pairs.n", "sample", "sample.n", "sample.seed",
          "sample.solvers", "sample.solvers.0", "sample.solvers.0.nfe", "sample.reference", "metrics", "metrics.0",
          "claims", "other"]  # fmt: skip


@given(st.sampled_from(PLACES), JUNK)
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_junk_anywhere_is_a_user_error_or_a_plan(tiny: Tiny, place: str, junk: Any) -> None:
    raw: Any = tiny()
    *outer, last = place.split(".")
    node = raw
    for key in outer:
        node = (
            node[int(key) if key.isdigit() else key]
            if not isinstance(node, dict) or key in node
            else node.setdefault(key, {})
        )
    node[int(last) if last.isdigit() else last] = junk
    with contextlib.suppress(UserError):
        make_plan(parse(raw))


@given(JUNK)
@settings(max_examples=100, deadline=None)
def test_junk_alone_is_a_user_error(junk: Any) -> None:
    with pytest.raises(UserError):
        parse(junk)


@given(st.text() | st.text(alphabet="ab:-[]{},&*!|>?'\"#% \n1."))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_a_user_error(read: Callable[[str], Suite], text: str) -> None:
    with contextlib.suppress(UnicodeEncodeError), pytest.raises(UserError):
        read(text)


@given(st.text() | st.text(alphabet="flow.seed=0123[]{},:*&!'\" ").map("flow.".__add__))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_override_is_applied_or_a_user_error(tiny: Tiny, text: str) -> None:
    with contextlib.suppress(UserError):
        assert isinstance(override_value(tiny(), text), dict)
        parse(tiny(), [text])


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        ({"metric": "npee", "because": "x"}, "Did you mean 'npe'?"),
        ({"data": "s-curv[noise=1]", "because": "x"}, "Did you mean 's-curve'?"),
        ({"method": "SB-CFM"}, "differences.0.because"),
        ({"because": ""}, "differences.0.because"),
    ],
)
def test_a_difference_names_what_there_is_and_says_why(tiny: Tiny, difference: dict[str, Any], said: str) -> None:
    assert said in rejected(tiny(differences=[difference]))


def test_a_difference_changes_no_key(tiny: Tiny) -> None:
    plain, told = (make_plan(parse(tiny(**more))) for more in ({}, {"differences": [{"because": "Luck."}]}))
    assert [cell.spec.key for cell in plain.cells] == [cell.spec.key for cell in told.cells]

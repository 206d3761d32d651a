from __future__ import annotations

import json
import math
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pytest
import vl_convert
from conftest import make_manifest, make_pictures, make_rows
from PIL import Image

from fmbench.errors import UserError
from fmbench.report import charts, pictures
from fmbench.report.page import render_page, write_page
from fmbench.results import Picture, Results, frame

VOID = {"meta", "link", "img", "br", "hr", "input", "path", "circle"}


class Reader(HTMLParser):
    """Checks that elements close in order; keeps what a browser would load, the specifications and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.specs: list[dict[str, Any]] = []
        self.tags: list[str] = []
        self.spec = False
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]
        self.spec = tag == "script" and ("type", "application/json") in attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.spec and self.open[-1] == "script":
            self.specs.append(json.loads(data))


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return render_page([Results.load(folder)])


def test_the_page_is_whole_and_loads_nothing(page: str) -> None:
    reader = Reader(page)
    assert all(load.startswith(("#", "data:image/png;base64,")) for load in reader.loads)
    assert "@import" not in page.split("<script>")[0]
    assert "url(" not in page.split("<script>")[0]
    assert len(page) < 3e6
    assert len(reader.specs) == 5
    for anchor in (load for load in reader.loads if load.startswith("#")):
        assert f'id="{anchor[1:]}"' in page


def without_values(spec: Any) -> Any:
    """The specification without its data, which takes long to check and has no schema."""
    if isinstance(spec, list):
        return [without_values(part) for part in spec]
    if not isinstance(spec, dict):
        return spec
    return {key: [] if key == "values" and "axis" not in spec else without_values(part) for key, part in spec.items()}


def test_every_specification_is_valid_vega_lite(page: str) -> None:
    for spec in Reader(page).specs:
        alt.Chart.from_dict(without_values(spec))
    with pytest.raises(Exception, match="valid"):  # the check can fail
        alt.Chart.from_dict({"mark": "no such mark", "encoding": {}})


def test_the_page_says_what_matters(page: str) -> None:
    for text in ("Five flows on two moons", "How do rectified flow", "supported", "refuted", "marginal error", "0.125",
                 "OT-CFM against RF: one seed alone",
                 "not finite after 1 of 1 steps", "Not ok (7)", "0123abc", "results.csv",
                 "Paths that miss an end"):  # fmt: skip
        assert text in page
    drawn = page.split("\n<script>")[0].count("<svg")
    assert drawn == 5 + (5 * 4 + 1) + (5 * 2 + 1)  # trajectories, samples of two solvers, the data beside each
    assert "Network calls to come within 5 % of the flow&#39;s own best w2" in page


@pytest.mark.parametrize("evil", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</script><b>"])
def test_names_are_text_not_code(tmp_path: Path, evil: str) -> None:
    rows = make_rows(seeds=1)
    for row in rows:
        for name in ("method", "reason", "data"):
            row[name] = evil if name != "method" or row.get("method") == "RF" else row.get("method")
    rows[-1] |= {"status": "failed"}
    arrays = make_pictures()
    arrays["index"] = np.array(str(arrays["index"]).replace('"RF"', json.dumps(evil)))
    manifest = make_manifest(suite=evil)
    manifest["suite"] |= {"title": evil, "about": evil}
    (tmp_path / "claims.json").write_text(json.dumps([{"claim": evil, "statement": evil, "verdict": evil}]))
    frame(rows).to_parquet(tmp_path / "results.parquet")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    np.savez(tmp_path / "pictures.npz", **arrays)  # type: ignore[arg-type]
    results = Results.load(tmp_path)
    reader = Reader(render_page([results]))
    assert reader.tags.count("script") == len(reader.specs) + 2
    assert "img" not in reader.tags
    assert any(row.get("flow") == evil for row in reader.specs[0]["data"]["values"])


def test_several_results_stand_side_by_side(make: Callable[..., Path]) -> None:
    runs = [make("a/moons", seeds=1), make("b/moons", seeds=1, shift=0.5, entropy=1)]
    page = render_page([Results.load(run) for run in runs])
    assert "Side by side: moons, moons (2)" in page
    assert "moons (2): OT-CFM" in page
    Reader(page)


def test_a_bare_result_has_a_page(tmp_path: Path) -> None:
    """No manifest, no pictures, no claims, no seeds, one value without direction or unit."""
    row = {"method": "m", "metric": "q", "value": -1.0, "solver": "euler", "nfe": 1.0, "status": "ok", "data": "d"}
    reader = Reader(render_page([Results(frame([row]))]))
    assert len(reader.specs) == 1


def test_writing_is_whole_or_the_users_mistake(tmp_path: Path) -> None:
    row = {"method": "m", "metric": "q", "value": -1.0, "solver": "euler", "nfe": 1.0, "status": "ok", "data": "d"}
    results = [Results(frame([row]))]
    path = write_page(results, tmp_path / "report.html")
    assert path.read_text(encoding="utf-8").endswith("</html>")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        write_page(results, tmp_path / "file" / "report.html")


def test_claims_that_are_no_list_are_refused(make: Callable[..., Path]) -> None:
    directory = make()
    (directory / "claims.json").write_text('{"claim": 1}')
    with pytest.raises(UserError, match="no list of claims"):
        render_page([Results.load(directory)])


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_the_main_chart_as_a_file(folder: Path, tmp_path: Path, kind: str) -> None:
    path = charts.save_chart(Results.load(folder), tmp_path / f"chart.{kind}")
    head = {"svg": b"<svg", "png": b"\x89PNG", "pdf": b"%PDF"}[kind]
    assert path.read_bytes().startswith(head)
    assert path.stat().st_size > 5000
    with pytest.raises(UserError, match=f"Did you mean '{kind}'|chart format"):
        charts.save_chart(Results.load(folder), tmp_path / f"chart.{kind}x")


def test_devices_are_told_in_words(make: Callable[..., Path]) -> None:
    results = Results.load(make())
    results.manifest["hardware"] = {"cpu": "Abacus", "devices": ["cpu", "cpu"]}
    assert "cpu Abacus, devices 2 × cpu" in render_page([results])


def test_a_png_stands_on_white(folder: Path, tmp_path: Path) -> None:
    # On nothing, the renderer makes every translucent band grey.
    with Image.open(charts.save_chart(Results.load(folder), tmp_path / "chart.png")) as picture:
        assert picture.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)


def test_the_main_chart_of_several_tasks(tmp_path: Path) -> None:
    rows = make_rows(seeds=1)
    results = Results(frame([*rows, *(row | {"data": "spirals"} for row in rows)]))
    spec = charts.main_chart(results)
    alt.VConcatChart.from_dict(without_values(spec))
    assert charts.save_chart(results, tmp_path / "a.svg").stat().st_size > 5000


def test_a_chart_shows_floor_failures_and_adaptive_solvers(folder: Path) -> None:
    summary = Results.load(folder).summary()
    spec = charts.metric_chart(summary, "solver_error")
    assert spec is not None
    values = spec["data"]["values"]
    assert {value["panel"] for value in values} == {"euler", "midpoint", "heun", "rk4"}
    assert sum(value["kind"] == "failed" for value in values) == 2
    assert sum(value["kind"] == "adaptive" for value in values) == 4 * 5
    spec = charts.metric_chart(summary, "w2")
    assert spec is not None
    assert sum(value["kind"] == "floor" for value in spec["data"]["values"]) == 4
    json.dumps(spec, allow_nan=False)


def test_a_method_keeps_its_colour() -> None:
    assert charts.colours(["VE", "mine", "RF"])["RF"] == charts.colours(["RF"])["RF"]
    many = charts.colours(["RF", "VP", "mine", "yours", "a: RF"])
    assert len(set(many.values())) == 4
    assert many["a: RF"] == many["RF"]


def test_images_become_one_mosaic_and_what_is_not_finite_is_seen() -> None:
    import base64
    import io

    from PIL import Image

    images = np.zeros((3, 1, 2, 2), dtype=np.float32)
    images[0], images[1], images[2, 0, 0, 0] = -1, 5, math.nan
    uri = pictures.mosaic(images, columns=2)
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
    assert sheet.shape == (5, 5, 3)
    assert sheet[0, 0].tolist() == [0, 0, 0]
    assert sheet[0, 3].tolist() == [255, 255, 255]
    assert sheet[3, 0].tolist() == [200, 30, 30]
    assert sheet[4, 1].tolist() == [128, 128, 128]


def test_trajectories_survive_what_exploded() -> None:
    lines = np.random.default_rng(0).normal(size=(5, 4, 2))
    lines[2, 1], lines[3, 2] = math.nan, 1e30
    ((name, picture),) = pictures.trajectories([Picture("trajectory", lines, np.linspace(0, 1, 5), method="VE")])
    assert name == "VE"
    assert "nan" not in picture
    assert len(picture) < 20_000
    assert pictures.trajectories([Picture("trajectory", np.zeros((5, 4, 3)), None)]) == []


def test_a_flow_has_its_trajectories_on_every_data_set() -> None:
    drawn = [Picture("trajectory", np.zeros((5, 4, 2)), method="RF", data=data) for data in ("moons", "s-curve")]
    assert [name for name, _ in pictures.trajectories(drawn)] == ["RF · moons", "RF · s-curve"]
    assert [name for name, _ in pictures.trajectories(drawn[:1])] == ["RF"]


def test_ticks_of_a_linear_axis_are_plain_numbers(make: Callable[..., Path]) -> None:
    """An axis's own format "~g" gives the digits of a step alone: 30, 40, … 70 would read 3e+1, 4e+1, … 7e+1."""
    run = make(seeds=1)
    table = Results.load(run).table
    path = table["metric"] == "straightness"
    table.loc[path, "value"] = 30 + 10.0 * np.arange(path.sum())
    chart = charts.flow_chart(Results(table).summary())
    assert chart is not None
    drawn = vl_convert.vegalite_to_svg(chart, vl_version=charts.VEGA_LITE)
    assert "e+1" not in drawn

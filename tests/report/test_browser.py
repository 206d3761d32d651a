"""The page in a real browser: charts are drawn, nothing is asked of the network, nothing is complained about."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fmbench.report.page import write_page
from fmbench.results import Results

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--window-size=1200,1600"]  # fmt: skip

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def opened(browser: Any, path: Path) -> dict[str, Any]:
    """Opens a page, waits for its charts; what was drawn, asked of the network and complained about."""
    from selenium.webdriver.support.ui import WebDriverWait

    for log in ("browser", "performance"):
        browser.get_log(log)  # what an earlier page left
    browser.get(path.as_uri())
    charts = browser.execute_script("return document.querySelectorAll('script.spec').length")
    WebDriverWait(browser, 20).until(
        lambda driver: (
            driver.execute_script("return document.querySelectorAll('.chart-wrapper > svg').length") == charts
        )
    )
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return {
        "charts": charts,
        "marks": browser.execute_script(
            "return [...document.querySelectorAll('.chart-wrapper > svg')].map(c => c.querySelectorAll('path').length)"
        ),
        "asked": [url for url in urls if not url.startswith(("file:", "data:", "blob:"))],
        "complaints": [entry["message"] for entry in browser.get_log("browser")],
        "overflow": browser.execute_script(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        ),
    }


@pytest.mark.parametrize("width", [400, 1200])
def test_one_result_is_drawn_offline_and_without_complaint(
    browser: Any, folder: Path, tmp_path: Path, width: int
) -> None:
    browser.set_window_size(width, 1600)
    seen = opened(browser, write_page([Results.load(folder)], tmp_path / "report.html"))
    assert seen["charts"] == 5  # four metrics of samples, one figure of the flows themselves
    assert min(seen["marks"]) > 20
    assert seen["asked"] == []
    assert seen["complaints"] == []
    assert seen["overflow"] <= 0  # what is wide scrolls in its own box


def test_a_click_in_the_legend_singles_a_flow_out(browser: Any, folder: Path, tmp_path: Path) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support.ui import WebDriverWait

    opened(browser, write_page([Results.load(folder)], tmp_path / "report.html"))
    faded = """return [...document.querySelector('.chart').querySelectorAll('.mark-symbol path')]
        .filter(p => +p.getAttribute('opacity') < 0.15).length"""
    before = browser.execute_script(faded)
    label = browser.find_element("css selector", ".chart .role-legend-label text")
    ActionChains(browser).move_to_element(label).click().perform()
    WebDriverWait(browser, 5).until(lambda driver: driver.execute_script(faded) > before)


def test_several_results_are_drawn_side_by_side(
    browser: Any, folder: Path, make: Callable[..., Path], tmp_path: Path
) -> None:
    page = write_page([Results.load(folder), Results.load(make("other", seeds=2))], tmp_path / "report.html")
    seen = opened(browser, page)
    assert seen["charts"] == 11
    assert seen["asked"] == []
    assert seen["complaints"] == []


WIDEST = Path(__file__).parent.parent.parent / "results" / "reference" / "reflow-2d"  # nine claims, ten flows


def test_the_table_of_claims_fits_and_its_numbers_stay_whole(browser: Any, tmp_path: Path) -> None:
    browser.set_window_size(1100, 1600)
    opened(browser, write_page([Results.load(WIDEST)], tmp_path / "report.html"))
    hidden, broken = browser.execute_script(
        """const table = document.querySelector("table.claims"), box = table.parentElement;
        const numbers = [...table.querySelectorAll("td:not(.long)")];
        return [box.scrollWidth - box.clientWidth, numbers.filter(n => n.getClientRects().length != 1
            || getComputedStyle(n).whiteSpace != "nowrap").length]"""
    )
    assert (hidden, broken) == (0, 0)


def test_every_table_and_figure_fits_on_paper(browser: Any, tmp_path: Path) -> None:
    opened(browser, write_page([Results.load(WIDEST)], tmp_path / "report.html"))
    width, height = 718, 1047  # A4 less its margins, in CSS pixels
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shapes = browser.execute_script(
        """return [...document.querySelectorAll("table, .chart svg")].map(each => [each.tagName,
            each.getBoundingClientRect().right, each.getBoundingClientRect().height])"""
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert max(right for _, right, _ in shapes) <= width
    assert max(tall for tag, _, tall in shapes if tag == "svg") <= height

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

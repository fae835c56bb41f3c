"""The report in a browser: headless Chromium, wide and narrow, light and dark.

Screenshots stay in the folder ESPER_TEST_SCREENSHOTS, else in pytest's temporary one. The README's picture is made by
``ESPER_TEST_SCREENSHOTS=docs python -m pytest tests/browser -k demo``.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from esper.errors import DataUnavailable
from esper.nissa.report.page import page
from esper.tasks.fashion_mnist import folder
from tests.support.command import wait_until
from tests.support.runs.reporting import HOSTILE, empty, full

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

NOW = datetime(2026, 1, 2, tzinfo=UTC)
WIDE, NARROW = 1280, 390
QUICK = ("boundary.steps=25", "training.steps=75", "policy.warmup=25", "verdict.measurements=2")


@dataclass
class Browser:
    """Shows pages; ``shots`` keeps what they look like."""

    driver: Chrome
    shots: Path
    width: int = WIDE

    def show(self, path: Path, width: int = WIDE, scheme: str = "light") -> None:
        """Open the page, with an empty console before."""
        self.width = width
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == NARROW}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme_of = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme_of)
        self.console()
        self.driver.get(path.as_uri())

    def console(self) -> list[str]:
        """What the console says since it was last asked."""
        return [each["message"] for each in self.driver.get_log("browser")]

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def count(self, selector: str) -> int:
        return int(self.run(f"return document.querySelectorAll({selector!r}).length"))

    def keep(self, name: str, down_to: str = "html") -> None:
        """A screenshot of the page, down to the end of that element."""
        width = self.run("return innerWidth")
        bottom = f"document.querySelector({down_to!r}).getBoundingClientRect().bottom + scrollY + 12"
        height = self.run(f"return Math.min({bottom}, document.documentElement.scrollHeight)")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        taken = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        self.shots.mkdir(parents=True, exist_ok=True)
        (self.shots / f"{name}.png").write_bytes(base64.b64decode(taken["data"]))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium; without it the test is skipped, or, with ESPER_CI, fails."""
    selenium = pytest.importorskip("selenium.webdriver") if not os.environ.get("ESPER_CI") else None
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not chromedriver:
        reason = "no browser: apt-get install chromium chromium-driver"
        pytest.fail(reason) if os.environ.get("ESPER_CI") else pytest.skip(reason)
    if selenium is None:
        from selenium import webdriver as selenium
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--hide-scrollbars", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(chromedriver))
    kept = os.environ.get("ESPER_TEST_SCREENSHOTS")
    yield Browser(driver, Path(kept) if kept else tmp_path_factory.mktemp("screenshots"))
    with warnings.catch_warnings():  # of sockets to the browser that are closed while it ends
        warnings.simplefilter("ignore")
        driver.quit()


def _esper(folder: Path, *words: str) -> None:
    command = [sys.executable, "-m", "esper", *words, "--home", str(folder / "home")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``trained(*RUNS)`` is the report that ``esper report`` writes of these runs; ``one`` and ``two`` are trained."""
    folder = tmp_path_factory.mktemp("report")
    settings = [word for each in QUICK for word in ("--set", each)]
    for seed, run_id in enumerate(("one", "two")):
        _esper(
            folder, "train", "--task", "digits", "--steps", "400", "--seed", str(seed), "--run-id", run_id, *settings
        )

    def report(*runs: str) -> Path:
        path = folder / f"{'-'.join(runs)}.html"
        _esper(folder, "report", *runs, "--out", str(path))
        return path

    return report


def _fits(browser: Browser) -> None:
    """Nothing is beyond the width of the screen. The window's own width grows with what does not fit a telephone."""
    assert browser.run("return document.documentElement.scrollWidth") == browser.width, "it scrolls sideways"
    beyond = browser.run(
        "return [...document.querySelectorAll('body *')].filter(e => !e.closest('.uplot')"
        f" && e.getBoundingClientRect().right > {browser.width} + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert beyond == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_report_of_a_run(browser: Browser, trained: Callable[..., Path], width: int, scheme: str) -> None:
    browser.show(trained("one"), width, scheme)
    browser.keep(f"report-{width}-{scheme}")
    assert browser.console() == []
    _fits(browser)
    assert browser.run("return performance.getEntriesByType('resource').length") == 0
    assert browser.count(".chart canvas") == 3
    assert browser.count(".lives .span") >= 2
    assert browser.count(".diary li") >= 3
    assert browser.count(".gates .ruler") >= 1
    assert browser.count(".tiles > div") == 6
    assert browser.run("return document.querySelector('h1').textContent").endswith(".")
    [red, green, blue] = browser.run(
        "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    assert (red + green + blue > 600) == (scheme == "light")


@pytest.mark.slow
def test_the_curves_are_drawn(browser: Browser, trained: Callable[..., Path]) -> None:
    browser.show(trained("one"))
    colours = browser.run(
        "return [...document.querySelectorAll('.chart canvas')].map(c => new Set(new Uint32Array(c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data.buffer)).size)"
    )
    assert min(colours) > 10, "a canvas is empty"


@pytest.mark.slow
def test_a_legend_has_values_while_a_curve_is_pointed_at(browser: Browser, trained: Callable[..., Path]) -> None:
    browser.show(trained("one"))
    values = (
        "return [...document.querySelectorAll('.chart .u-value')].filter(e => e.offsetParent).map(e => e.textContent)"
    )
    assert browser.run(values) == []
    browser.run(
        "const over = document.querySelector('.chart .u-over'), box = over.getBoundingClientRect();"
        "const where = {clientX: box.left + box.width / 2, clientY: box.top + 9};"
        "for (const kind of ['mouseenter', 'mousemove']) over.dispatchEvent(new MouseEvent(kind, where))"
    )
    wait_until(lambda: browser.run(values), "a value", 5)
    browser.keep("pointed")
    assert browser.run(values)[0].isdigit()
    assert browser.console() == []
    _fits(browser)


@pytest.mark.slow
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_runs_are_compared(browser: Browser, trained: Callable[..., Path], width: int) -> None:
    browser.show(trained("one", "two"), width)
    browser.keep(f"compared-{width}")
    assert browser.console() == []
    _fits(browser)
    assert browser.count(".runs tbody tr") == 2
    assert browser.count(".chart canvas") == 7
    assert browser.count(".different dd > span") == 4  # the random seed, and what was kept, of each


def test_lanes_begin_where_seeds_live_and_end_where_they_are_removed(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "lanes.html").write_text(page({"run": full()}, NOW), "utf-8")
    browser.show(tmp_path / "lanes.html", NARROW)
    lanes = browser.run(
        "return [...document.querySelectorAll('.track')].map(t => [t, t.querySelector('.lane')].map(e => "
        "e.getBoundingClientRect())).map(([t, l]) => [(l.left - t.left) / t.width, (l.right - t.left) / t.width])"
    )
    assert [[round(place, 2) for place in lane] for lane in lanes] == [[0.1, 0.4], [0.45, 1.0], [0.8, 0.9]]


def test_on_the_common_axis_no_run_is_cut_off(browser: Browser, tmp_path: Path) -> None:
    high, low = full(), full()
    high["boundaries"][0]["loss"] = 900.0
    low["boundaries"] = [{**row, "loss": row["loss"] / 1000} for row in low["boundaries"]]
    (tmp_path / "axis.html").write_text(page({"high": high, "low": low}, NOW), "utf-8")
    browser.show(tmp_path / "axis.html")
    browser.keep("axis")
    assert browser.console() == []
    labels = browser.run(
        "const c = document.querySelector('.chart canvas');"
        "const p = c.getContext('2d').getImageData(0, 0, c.width, 40).data;"
        "return new Set(new Uint32Array(p.buffer)).size"
    )
    assert labels > 3  # the greatest loss lies within the topmost part of the chart


@pytest.mark.slow
def test_the_demo_as_the_readme_shows_it(browser: Browser, tmp_path: Path) -> None:
    try:
        folder()
    except DataUnavailable as error:
        pytest.skip(str(error))
    _esper(tmp_path, "train", "--task", "fashion-mnist", "--run-id", "demo")
    _esper(tmp_path, "report", "demo", "--out", str(tmp_path / "demo.html"))
    browser.show(tmp_path / "demo.html")
    browser.keep("report", down_to=".lifelines")
    assert browser.console() == []
    assert (
        browser.run("return document.querySelector('h1').textContent") == "The network grew: it kept two of five seeds."
    )
    assert browser.count(".lives li") == 5


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_hostile_names_do_nothing(browser: Browser, tmp_path: Path, width: int) -> None:
    long = "a_very_long_name." * 12
    runs = {name: full(name) for name in (*HOSTILE, long)}
    (tmp_path / "hostile.html").write_text(page(runs, NOW), "utf-8")
    browser.show(tmp_path / "hostile.html", width)
    browser.keep(f"hostile-{width}")
    assert browser.console() == []
    _fits(browser)
    assert browser.count("body > script") == 3
    assert browser.count("img") == 0
    assert browser.count(".chart canvas") == 5 * len(runs) + 2  # each with two metrics, one of which all have
    shown = browser.run("return [...document.querySelectorAll('.eyebrow .name')].map(e => e.textContent)")
    assert shown == list(runs)


def test_a_run_that_has_only_begun(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "begun.html").write_text(page({"begun": empty()}, NOW), "utf-8")
    browser.show(tmp_path / "begun.html", NARROW)
    browser.keep("begun")
    assert browser.console() == []
    _fits(browser)
    assert browser.count(".chart canvas") == 0
    assert browser.count(".chart .none") == 3

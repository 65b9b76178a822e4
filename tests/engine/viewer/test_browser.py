"""The page as a person meets it, in a headless Chromium: what is on the screen, what a click answers, and that nobody else is asked.

`.ci/run` installs the browser and names a folder by SKYSENSE_BROWSER, where it says `ready` or why it `failed`. Elsewhere the
tests use what is installed, or skip.
"""

import io
import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from PIL import Image

from skysense_cli.engine.viewer.page import write_page
from skysense_cli.engine.viewer.serving import open_server

LONGEST_WAIT_S = 300
GROUND = (231, 234, 232)  # of the page where no layer lies
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--force-color-profile=srgb", "--window-size=1100,700",
)  # fmt: skip


def prepared():
    """Whether `.ci/run` installed a browser, which then has to work; skips with what it says where it could not."""
    home = Path(os.environ["SKYSENSE_BROWSER"]) if os.environ.get("SKYSENSE_BROWSER") else None
    until = time.monotonic() + LONGEST_WAIT_S
    while home and not (home / "ready").exists() and not (home / "failed").exists() and time.monotonic() < until:
        time.sleep(0.5)
    if home and (home / "failed").exists():
        pytest.skip(f"no browser: {(home / 'failed').read_text().strip()}")
    return bool(home and (home / "ready").exists())


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """A browser with an empty profile."""
    must = prepared()
    try:
        from selenium import webdriver
    except ImportError:
        pytest.skip("selenium is not installed")
    browser, service = shutil.which("chromium"), shutil.which("chromedriver")
    if not (browser and service):
        assert not must, "SKYSENSE_BROWSER says ready, but chromium and chromedriver are not in the path"
        pytest.skip("Debian's chromium and chromium-driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    made.set_script_timeout(60)
    yield made
    made.quit()


class Screen:
    """A page that is open. Colours are read from what the screen shows."""

    def __init__(self, driver, address):
        self.driver = driver
        for kind in ("browser", "performance"):
            driver.get_log(kind)  # of the page before
        driver.get(address)
        self.until(lambda: self.run("return document.body.dataset.ready"))

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def until(self, met):
        """Wait until it is met."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 60, poll_frequency=0.05).until(lambda _: met())

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def texts(self, selector):
        return [element.get_attribute("textContent") for element in self.driver.find_elements("css selector", selector)]

    def place(self, lon, lat):
        """Pixel of the window, x and y with fractions, of a place."""
        return self.run(
            "const p = skysense.map.project([arguments[1], arguments[0]]), o = skysense.map.getPixelBounds().min;"
            "const b = skysense.map.getContainer().getBoundingClientRect(); return [p.x - o.x + b.left, p.y - o.y + b.top]",
            lon, lat,
        )  # fmt: skip

    def picture(self):
        return np.asarray(Image.open(io.BytesIO(self.driver.get_screenshot_as_png())).convert("RGB")).astype(int)

    def color(self, lon, lat):
        x, y = self.place(lon, lat)
        return tuple(self.picture()[int(y), int(x)].tolist())

    def until_color(self, place, color):
        self.until(lambda: np.abs(np.subtract(self.color(*place), color)).max() <= 2)

    def click(self, lon, lat):
        """Click there; {what: answer} of the popup."""
        from selenium.webdriver.common.action_chains import ActionChains

        # the map may have moved, or still move, to show the last answer
        self.run("skysense.map.closePopup().stop().panTo([arguments[1], arguments[0]], { animate: false })", lon, lat)
        self.until(lambda: not self.driver.find_elements("css selector", ".leaflet-popup"))
        x, y = self.place(lon, lat)
        box = self.find("#map").rect
        action = ActionChains(self.driver)
        action.move_to_element_with_offset(
            self.find("#map"), int(x - box["x"] - box["width"] // 2), int(y - box["y"] - box["height"] // 2)
        ).click().perform()
        self.until(lambda: self.driver.find_elements("css selector", ".answer"))
        return dict(zip(self.texts(".answer th"), self.texts(".answer td"), strict=True))

    def show_only(self, title):
        """Uncheck every other layer, and make this one opaque."""
        self.run(
            "document.querySelectorAll('#layers li').forEach((li) => { const box = li.querySelector('input[type=checkbox]');"
            "if (box.checked !== (li.dataset.track === arguments[0])) box.click();"
            "const s = li.querySelector('input[type=range]'); s.value = 100; s.dispatchEvent(new Event('input')); })",
            title,
        )

    def requests(self):
        """Addresses that the page asked for."""
        messages = [json.loads(line["message"])["message"] for line in self.driver.get_log("performance")]
        return [line["params"]["request"]["url"] for line in messages if line["method"] == "Network.requestWillBeSent"]


@pytest.fixture(scope="module")
def page(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_page([folder], path, 2048)
    return path.as_uri()


@pytest.fixture(scope="module")
def served(folder):
    """The address of a server in this process."""
    with open_server([folder], 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.address
        server.shutdown()
        thread.join()


@pytest.fixture(params=["page", "served"])
def screen(request, driver):
    """The same maps as a page and served."""
    return Screen(driver, request.getfixturevalue(request.param))


def test_layers_appear_in_the_colours_of_the_legend(screen, maps):
    screen.show_only("crops")
    for column, color in ((20, maps.COLORS[0]), (60, maps.COLORS[1]), (100, maps.COLORS[2])):
        screen.until_color(maps.lonlat_of(maps.AT_60_NORTH, column, 60), color)
    screen.until_color(maps.lonlat_of(maps.AT_60_NORTH, 3, 3), GROUND)  # no data
    assert screen.texts("#legend .name") == list(maps.NAMES)
    swatches = screen.run("return [...document.querySelectorAll('#legend .swatch')].map((s) => s.style.background)")
    assert swatches == ["rgb({}, {}, {})".format(*color) for color in maps.COLORS.values()]
    cell = 0.01 * 1.0005  # hectares; a metre of this zone is 0.99975 m on its scale there
    hectares = [float(text) for text in screen.run("return [...document.querySelectorAll('#legend data')].map((d) => d.value)")]
    assert hectares == pytest.approx([cell * (40 * 90 - 100), cell * 40 * 90, cell * 40 * 90], rel=5e-3)
    assert screen.texts("#legend data")[1] == "36.0 ha"
    screen.show_only("crops confidence")
    screen.until_color(maps.lonlat_of(maps.AT_60_NORTH, 60, 45.5), (33, 145, 140))  # the middle of viridis
    assert screen.texts("#legend .ends span") == ["0", "1"]
    screen.show_only("scene")
    screen.until(lambda: np.array_equal(np.greater(screen.color(*maps.lonlat_of(maps.AT_60_NORTH, 61, 45)), 60), (True, False, False)))


def test_a_corner_lies_within_a_pixel_and_a_click_answers_what_is_there(screen, maps):
    grid = maps.AT_60_NORTH
    screen.show_only("crops")
    screen.until_color(maps.lonlat_of(grid, 100, 60), maps.COLORS[2])
    for column, row, color in ((120, 90, maps.COLORS[2]), (120, 0, maps.COLORS[2]), (0, 90, maps.COLORS[0])):
        right, down = (1 if column else -1), (1 if row else -1)  # outwards, by parts of a pixel of the map
        assert screen.color(*maps.lonlat_of(grid, column - 0.4 * right, row - 0.4 * down)) == color
        assert screen.color(*maps.lonlat_of(grid, column + 0.4 * right, row - 0.4 * down)) == GROUND
        assert screen.color(*maps.lonlat_of(grid, column - 0.4 * right, row + 0.4 * down)) == GROUND
    x, y = grid.affine.c + 10 * 60.5, grid.affine.f - 10 * 45.5
    lon, lat = maps.lonlat_of(grid, 60.5, 45.5)
    answer = screen.click(lon, lat)
    assert answer["crops"] == maps.NAMES[1]
    assert float(answer["crops confidence"]) == pytest.approx(0.505, abs=0.006)
    assert float(answer["longitude"].split("°")[0]) == pytest.approx(lon, abs=1e-4)
    assert float(answer["latitude"].split("°")[0]) == pytest.approx(lat, abs=1e-4)
    assert [float(part) for part in answer["EPSG:32633"].split(",")] == pytest.approx([x, y], abs=5)
    assert screen.click(*maps.lonlat_of(grid, 100.5, 45.5))["crops"] == maps.NAMES[2]
    assert screen.click(*maps.lonlat_of(grid, 7.5, 7.5))["crops"] == "no data"
    assert "crops" not in screen.click(*maps.lonlat_of(grid, 125, 45.5))


def test_opacity_and_swipe(screen, maps):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    grid, (west, east) = maps.AT_60_NORTH, (20, 100)
    screen.show_only("crops")
    screen.until_color(maps.lonlat_of(grid, west, 60), maps.COLORS[0])
    slider = screen.find('#layers li[data-track="crops"] input[type=range]')
    slider.send_keys(Keys.HOME)
    assert screen.color(*maps.lonlat_of(grid, west, 60)) == GROUND
    for _ in range(50):
        slider.send_keys(Keys.ARROW_RIGHT)
    half = np.add(GROUND, maps.COLORS[0]) / 2
    assert np.abs(np.subtract(screen.color(*maps.lonlat_of(grid, west, 60)), half)).max() <= 2
    slider.send_keys(Keys.END)
    screen.find("#swipe").click()
    assert screen.color(*maps.lonlat_of(grid, west, 60)) == maps.COLORS[0]
    assert screen.color(*maps.lonlat_of(grid, east, 60)) == GROUND  # right of the line
    drag = ActionChains(screen.driver).click_and_hold(screen.find("#divider span"))
    drag.move_by_offset(int(screen.place(*maps.lonlat_of(grid, 110, 60))[0] - screen.find("#divider").rect["x"]), 0).release().perform()
    assert screen.color(*maps.lonlat_of(grid, east, 60)) == maps.COLORS[2]
    assert screen.color(*maps.lonlat_of(grid, 117, 60)) == GROUND
    screen.find("#divider").send_keys(Keys.END)
    assert screen.color(*maps.lonlat_of(grid, east, 60)) == maps.COLORS[2]
    screen.find("#divider").send_keys(Keys.HOME)
    assert screen.color(*maps.lonlat_of(grid, west, 60)) == GROUND
    screen.find("#swipe").click()
    assert screen.color(*maps.lonlat_of(grid, west, 60)) == maps.COLORS[0]


def test_a_class_is_hidden_and_shown_from_the_legend_by_keyboard(screen, maps):
    from selenium.webdriver.common.keys import Keys

    place = maps.lonlat_of(maps.AT_60_NORTH, 60, 60)
    screen.show_only("crops")
    screen.until_color(place, maps.COLORS[1])
    line = screen.find('#legend li[data-code="1"] button')
    line.send_keys(Keys.ENTER)
    screen.until_color(place, GROUND)
    assert line.get_attribute("aria-pressed") == "false"
    screen.until_color(maps.lonlat_of(maps.AT_60_NORTH, 20, 60), maps.COLORS[0])
    line.send_keys(Keys.ENTER)
    screen.until_color(place, maps.COLORS[1])
    screen.find("#map").send_keys(Keys.ENTER)  # asks for the middle of the map
    screen.until(lambda: maps.NAMES[1] in screen.texts(".answer td"))


def test_texts_are_texts_and_simulated_data_are_called_so(screen, maps):
    assert screen.run("return window.pwned ?? null") is None
    assert screen.run("return document.querySelectorAll('img[src=x]').length") == 0
    assert screen.find("#simulated").text == "Simulated data: no satellite took these images."
    screen.find("#about summary").click()
    facts = dict(zip(screen.texts("#facts dt"), screen.texts("#facts dd"), strict=True))
    assert facts["bundle SHA-256"] == "0123456789abcdef"


def test_the_page_asks_nobody_and_complains_of_nothing(driver, page, maps):
    screen = Screen(driver, page)
    screen.show_only("crops confidence")
    screen.until_color(maps.lonlat_of(maps.AT_60_NORTH, 60, 45.5), (33, 145, 140))
    screen.click(*maps.lonlat_of(maps.AT_60_NORTH, 60.5, 45.5))
    asked = [address.partition(":")[0] for address in screen.requests() if address != page]
    assert set(asked) <= {"data", "blob"}
    assert driver.get_log("browser") == []


def test_the_served_page_asks_its_own_server_only(driver, served, maps):
    screen = Screen(driver, served)
    screen.show_only("crops")
    screen.until_color(maps.lonlat_of(maps.AT_60_NORTH, 60, 60), maps.COLORS[1])
    asked = screen.requests()
    assert any("/tiles/" in address for address in asked)
    assert all(address.startswith((served, "data:", "blob:")) for address in asked)
    assert driver.get_log("browser") == []


def test_the_time_slider_switches_dates_and_their_areas(driver, tmp_path, maps):
    from selenium.webdriver.common.keys import Keys

    for year, code in ((2019, 0), (2020, 1), (2021, 2)):
        numbers = np.full((90, 120), code, np.uint8)
        numbers[: 30 * (2022 - year)] = 255
        maps.write_classes(tmp_path / f"crops_{year}.tif", numbers=numbers)
    write_page([tmp_path], tmp_path / "page.html", 512)
    screen = Screen(driver, (tmp_path / "page.html").as_uri())
    place = maps.lonlat_of(maps.AT_60_NORTH, 60, 85)
    screen.until_color(place, maps.COLORS[2])
    assert screen.find("#day").text == "2021" and screen.texts("#legend .name") == [maps.NAMES[2]]
    screen.find("#date").send_keys(Keys.HOME)
    screen.until(lambda: screen.find("#day").text == "2019")
    screen.until_color(place, GROUND)  # without data that year
    assert screen.texts("#legend .name") == []
    screen.find("#after").click()
    screen.until_color(place, maps.COLORS[1])
    assert screen.texts("#legend data") == ["36.0 ha"] and screen.texts("#legend h3 small") == ["2020"]


def test_a_map_across_the_antimeridian_is_in_one_piece_and_its_places_are_right(driver, tmp_path, maps):
    grid = GeoBox((90, 120), Affine(100, 0, 326_705, 0, -100, 6_660_205), "EPSG:32601")
    maps.write_classes(tmp_path / "crops.tif", grid)
    write_page([tmp_path], tmp_path / "page.html", 512)
    screen = Screen(driver, (tmp_path / "page.html").as_uri())
    lon, lat = maps.lonlat_of(grid, 110.5, 45.5)
    assert lon < 0 < maps.lonlat_of(grid, 5, 45)[0]
    answer = screen.click(lon + 360, lat)  # east of 180 the map goes on
    assert answer["crops"] == maps.NAMES[2] and answer["longitude"].endswith("W")
    assert [float(part) for part in answer["EPSG:32601"].split(",")] == pytest.approx([326_705 + 11_050, 6_660_205 - 4_550], abs=40)


def test_on_a_small_screen_the_panel_folds_away(driver, page):
    screen = Screen(driver, page)
    try:
        driver.set_window_size(500, 800)
        screen.until(lambda: screen.find("#fold").is_displayed())
        before = screen.run("return document.getElementById('map').clientHeight")
        assert screen.run("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        screen.find("#fold").click()
        screen.until(lambda: screen.run("return document.getElementById('map').clientHeight") > before + 100)
        assert screen.find("#fold").get_attribute("aria-expanded") == "false"
    finally:
        driver.set_window_size(1100, 700)

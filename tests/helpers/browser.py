"""Headless Chromium, driven by Selenium, and the actions of a user of the demo page."""

import importlib.util
import shutil

import pytest

from mobilenet_jax.demo.npm import Package

AXE = Package(
    "axe-core",
    "4.14.1",
    "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
)

SECONDS = 30  # until a test gives up; machines differ in speed


def start_browser(width=1280, height=1000):
    """Returns a headless Chromium; the test is skipped where it, its driver or Selenium is missing."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver and importlib.util.find_spec("selenium")):
        pytest.skip("needs chromium, chromedriver and the Python package selenium")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    # Its sandbox does not run as root; the shared memory of containers is too small.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={width},{height}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(driver))


def wait_for(browser, condition):
    """Waits until a function returns a true value."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, SECONDS).until(lambda _: condition())


def read_status(browser):
    """Returns the text of the status line."""
    return browser.find_element("id", "status").text


def choose(browser, path):
    """Chooses a file and returns the final status."""
    browser.execute_script("document.getElementById('status').textContent = 'chosen'")
    browser.find_element("id", "file").send_keys(str(path))
    wait_for(browser, lambda: read_status(browser) not in ("chosen", "Reading the image …"))
    return read_status(browser)


def read_probabilities(browser):
    """Returns the probabilities of the classes by their names."""
    rows = browser.execute_script(
        "return [...document.querySelectorAll('#classes li')]"
        ".map(row => [row.querySelector('.name').textContent, Number(row.dataset.probability)])"
    )
    return dict(rows)


def move(browser, slider, value):
    """Moves a slider, as a user does."""
    browser.execute_script(
        "const slider = document.getElementById(arguments[0]); slider.value = arguments[1];"
        "slider.dispatchEvent(new Event('input')); slider.dispatchEvent(new Event('change'));", slider, value
    )  # fmt: skip

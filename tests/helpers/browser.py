"""Headless Chromium, driven by Selenium, for tests of web pages."""

import importlib.util
import shutil

import pytest


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

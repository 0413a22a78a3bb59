"""The page when a file is missing or of another version, and texts of unusual length."""

import contextlib
import json
import shutil
import threading

import pytest

from mobilenet_jax.demo.serve import make_server
from tests.helpers.browser import choose, read_probabilities, read_status, start_browser, wait_for


@contextlib.contextmanager
def open_page(folder):
    """Opens the page in a new browser, which has no service worker yet."""
    server, browser = make_server(folder), start_browser(width=390)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        browser.get(f"http://localhost:{server.server_port}/")
        yield browser
    finally:
        browser.quit()
        server.shutdown()
        server.server_close()


def remove(name):
    return lambda folder: (folder / name).unlink()


def change_the_network(folder):
    with open(folder / "model.tflite", "ab") as file:
        file.write(b"0")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (remove("model.tflite.json"), "model.tflite.json: HTTP status 404"),
        (remove("litert/core.js"), "dynamically imported module"),
        (change_the_network, "its description is of another version"),
    ],
)
def test_page_says_why_the_model_cannot_be_loaded(site, tmp_path, damage, reason):
    folder = shutil.copytree(site, tmp_path / "site")
    damage(folder)
    with open_page(folder) as browser:
        wait_for(browser, lambda: not read_status(browser).startswith("Loading"))
        status = read_status(browser)
        assert status.startswith("The model could not be loaded (")
        assert reason in status
        assert not browser.find_element("id", "camera").is_enabled()
        assert not browser.find_element("id", "offline").is_displayed(), "the worker refuses files of other versions"


def test_altered_pixels_are_not_classified(site, tmp_path, real_data):
    """Browsers that resist fingerprinting return white pixels, or add noise."""
    path = str(min(real_data.glob("*/*.jpg")))
    with open_page(site) as browser:
        wait_for(browser, lambda: read_status(browser) == "Ready.")
        assert choose(browser, path).startswith("Most probable of 7 classes: ")
        for pixel in ("255", "pixel + 40 * Math.random()"):
            browser.execute_script(
                "const prototype = CanvasRenderingContext2D.prototype;"
                "const read = prototype.original ??= prototype.getImageData;"
                "prototype.getImageData = function(...rectangle) {"
                "  const image = read.apply(this, rectangle);"
                f"  image.data.forEach((pixel, i) => image.data[i] = {pixel});"
                "  return image;"
                "};"
            )
            assert choose(browser, path).startswith("This browser alters the pixels that pages read")
            assert not browser.find_element("id", "result").is_displayed()


def test_classes_that_are_not_listed_are_counted(site, tmp_path, real_data):
    folder = shutil.copytree(site, tmp_path / "site")
    script = folder / "app.js"
    script.write_text(script.read_text().replace("MAX_ROWS = 20", "MAX_ROWS = 5"))
    with open_page(folder) as browser:
        wait_for(browser, lambda: read_status(browser) == "Ready.")
        choose(browser, min(real_data.glob("*/*.jpg")))
        shown = read_probabilities(browser)
        assert len(shown) == 5
        rest = 100 * (1 - sum(shown.values()))
        assert browser.find_element("id", "others").text == f"Other classes: 2, with {rest:.1f}% together."


def test_a_long_name_of_a_class_does_not_widen_the_page(site, tmp_path, real_data):
    folder = shutil.copytree(site, tmp_path / "site")
    description = json.loads((folder / "model.tflite.json").read_text())
    description["classes"] = [f"{name * 100}" for name in description["classes"]]
    (folder / "model.tflite.json").write_text(json.dumps(description))
    with open_page(folder) as browser:
        wait_for(browser, lambda: read_status(browser) == "Ready.")
        assert choose(browser, min(real_data.glob("*/*.jpg"))).startswith("Most probable of 7 classes: ")
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")

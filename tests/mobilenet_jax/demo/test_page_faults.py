"""The page when a file is missing or of another version, and texts of unusual length."""

import contextlib
import json
import shutil
import threading

import pytest

from mobilenet_jax.demo.serve import make_server
from tests.helpers.browser import choose, read_status, start_browser, wait_for


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


def test_a_long_name_of_a_class_does_not_widen_the_page(site, tmp_path, real_data):
    folder = shutil.copytree(site, tmp_path / "site")
    description = json.loads((folder / "model.tflite.json").read_text())
    description["classes"] = [f"{name * 100}" for name in description["classes"]]
    (folder / "model.tflite.json").write_text(json.dumps(description))
    with open_page(folder) as browser:
        wait_for(browser, lambda: read_status(browser) == "Ready.")
        assert choose(browser, min(real_data.glob("*/*.jpg"))).startswith("Most probable of 7 classes: ")
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")

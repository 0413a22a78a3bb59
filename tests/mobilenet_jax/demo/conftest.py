"""The page of a small network, served on this machine, and a browser."""

import importlib.util
import shutil
import threading

import pytest

from mobilenet_jax.demo.build import build_demo
from mobilenet_jax.demo.npm import read_package_files
from mobilenet_jax.demo.serve import make_server
from mobilenet_jax.errors import ExportError
from mobilenet_jax.weights.save import write_weights
from tests.helpers.browser import AXE, read_status, start_browser, wait_for
from tests.helpers.sensitive_weights import make_sensitive_weights


@pytest.fixture(scope="module")
def sensitive(tmp_path_factory):
    """Returns weights whose probabilities differ from image to image."""
    path = tmp_path_factory.mktemp("weights") / "sensitive.safetensors"
    write_weights(path, make_sensitive_weights("small", (96, 96)))
    return path


@pytest.fixture(scope="module")
def site(sensitive, tmp_path_factory):
    for package in ("litert_converter", "ai_edge_litert"):
        if not importlib.util.find_spec(package):
            pytest.skip(f"needs the Python package {package}: pip install -e '.[export]'")
    if not shutil.which("npm"):
        pytest.skip("needs npm")
    folder = tmp_path_factory.mktemp("demo") / "site"
    try:
        read_package_files(AXE, ["axe.min.js"])
    except ExportError as error:
        pytest.skip(f"needs npm's registry: {error}")
    build_demo(sensitive, folder)
    return folder


@pytest.fixture(scope="module")
def server(site):
    server = make_server(site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    browser = start_browser()
    yield browser
    browser.quit()


@pytest.fixture
def page(browser, server):
    """Opens the page and waits until its model is loaded."""
    browser.set_window_size(1280, 1000)
    browser.get(f"http://localhost:{server.server_port}/")
    wait_for(browser, lambda: read_status(browser) == "Ready.")
    return browser

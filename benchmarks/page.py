"""Measures the web page in headless Chromium: the time until it is ready, and until a chosen image is classified.

    python -m benchmarks.page SITE IMAGE ...

SITE is a folder that `mobilenet-jax demo` wrote. The last image is also enlarged to 12 megapixels. The times are
medians of nine repetitions in milliseconds. The first load is that of a new browser; later loads are from the cache of
the service worker. The time of an image is that from the choice of the file to the first frame after its result.
"""

import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from PIL import Image

from mobilenet_jax.demo.serve import make_server
from tests.helpers.browser import start_browser

_REPETITIONS, _SECONDS = 9, 60
_LARGE = (4000, 3000)
_RECORD_TIMES = """
addEventListener('DOMContentLoaded', () => {
  const status = document.getElementById('status');
  document.getElementById('file').addEventListener('change', () => { window.chosen = performance.now(); }, true);
  const record = () => {
    if (status.textContent === 'Ready.') window.ready ??= performance.now();
    if (status.textContent.startsWith('Most probable')) {
      requestAnimationFrame(() => setTimeout(() => { window.duration = performance.now() - window.chosen; }));
    }
  };
  new MutationObserver(record).observe(status, {childList: true});
});
"""


def main() -> None:
    """Prints one table."""
    site, *images = map(Path, sys.argv[1:])
    with make_server(site) as server, tempfile.TemporaryDirectory() as folder:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://localhost:{server.server_port}/"
        large = Path(folder) / "large.jpg"
        Image.open(images[-1]).resize(_LARGE, Image.Resampling.BICUBIC).save(large, quality=90)
        print("| measured | ms |\n|---|---|")
        print(f"| first load | {statistics.median(_measure_first_load(url) for _ in range(_REPETITIONS)):.0f} |")
        browser = _open(url)
        browser.execute_async_script("navigator.serviceWorker.ready.then(() => arguments[0]())")
        print(f"| later load | {statistics.median(_measure_load(browser) for _ in range(_REPETITIONS)):.0f} |")
        for image in [*images, large]:
            durations = [_measure_image(browser, image) for _ in range(_REPETITIONS + 1)]  # the first one warms up
            width, height = Image.open(image).size
            print(f"| image of {width} x {height} | {statistics.median(durations[1:]):.0f} |")
        browser.quit()
        server.shutdown()


def _open(url: str) -> Any:
    browser = start_browser()
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _RECORD_TIMES})
    browser.get(url)
    _wait_for(browser, "ready")
    return browser


def _measure_first_load(url: str) -> float:
    browser = _open(url)
    milliseconds = _wait_for(browser, "ready")
    browser.quit()
    return milliseconds


def _measure_load(browser: Any) -> float:
    browser.refresh()
    return _wait_for(browser, "ready")


def _measure_image(browser: Any, image: Path) -> float:
    browser.execute_script("window.duration = undefined")
    browser.find_element("id", "file").send_keys(str(image.resolve()))
    return _wait_for(browser, "duration")


def _wait_for(browser: Any, name: str) -> float:
    """Returns a global variable of the page when it is set."""
    deadline = time.monotonic() + _SECONDS
    while (value := browser.execute_script(f"return window.{name}")) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(browser.find_element("tag name", "body").text[:200])
        time.sleep(0.05)
    return float(value)


if __name__ == "__main__":
    main()

"""The page in a browser: equal to Python, robust, accessible, usable without a network."""

import hashlib
import json
import re
import threading
import time

import numpy as np
import pytest
from PIL import Image, ImageOps

from input_pipeline.preprocessing import Preprocessing
from input_pipeline.sources.isic import CLASS_TITLES
from mobilenet_jax.demo.build import build_demo
from mobilenet_jax.demo.npm import read_package_files
from mobilenet_jax.demo.serve import make_server
from mobilenet_jax.inference.classifier import Classifier
from mobilenet_jax.inference.predict_files import classify_files
from mobilenet_jax.weights.load import read_weights
from mobilenet_jax.weights.save import write_weights
from mobilenet_jax.weights.weights_file import compute_sha256
from tests.helpers.browser import AXE, choose, move, read_probabilities, read_status, start_browser, wait_for
from tests.helpers.sensitive_weights import make_images, make_sensitive_weights


def predict(weights, paths):
    classifier = Classifier(read_weights(weights))
    [batch] = classify_files(classifier, list(map(str, paths)), batch_size=64)
    return classifier.class_names, batch.probabilities


def test_page_and_python_compute_the_same_probabilities(page, sensitive, real_photographs, real_data, tmp_path):
    """Classifies images of 200 x 150 and of 600 x 450 pixels, and smaller ones."""
    paths = real_photographs[:20] + sorted(real_data.glob("*/*.jpg"))[:20]
    for size in ((20, 24), (33, 200)):  # smaller than the input, and only partly
        paths.append(tmp_path / f"{size}.png")
        Image.open(paths[0]).resize(size).save(paths[-1])
    names, expected = predict(sensitive, paths)
    for path, row in zip(paths, expected, strict=True):
        assert choose(page, path).endswith("Not a diagnosis.")
        shown = read_probabilities(page)
        assert [shown[name] for name in names] == pytest.approx(list(row), abs=0.01)
        assert max(shown, key=shown.get) == names[row.argmax()]
    others = ("console-api", "rendering")  # LiteRT logs to the first; Chromium without a GPU to the second
    assert [entry for entry in page.get_log("browser") if entry["source"] not in others] == []


@pytest.mark.parametrize(
    "steps", [pytest.param(Preprocessing("crop"), marks=pytest.mark.slow), Preprocessing("crop", "shades_of_gray")]
)
def test_page_cuts_the_part_that_the_weights_record(site, tmp_path, steps):
    """Classifies images of three shapes by a network for images that are not square, and moves the frame."""
    write_weights(weights := tmp_path / "w.safetensors", make_sensitive_weights(size=(96, 128), preprocessing=steps))
    build_demo(weights, tmp_path / "site")
    paths = [tmp_path / f"{name}.png" for name in ("square", "wide", "upright", "bottom")]
    for path, size in zip(paths, ((150, 150), (200, 150), (128, 201), (128, 96)), strict=True):
        pixels = make_images(1, size[::-1])[0] * np.array([1, 0.7, 0.5])
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    Image.open(paths[2]).crop((0, 105, 128, 201)).save(paths[3])
    names, expected = predict(weights, paths)
    server = make_server(tmp_path / "site")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = start_browser()
    try:
        browser.get(f"http://localhost:{server.server_port}/")
        wait_for(browser, lambda: read_status(browser) == "Ready.")
        for path, row in zip(paths[:3], expected, strict=False):
            choose(browser, path)
            assert [read_probabilities(browser)[name] for name in names] == pytest.approx(list(row), abs=0.01)
        move(browser, "top", 1)
        wait_for(browser, lambda: np.allclose([read_probabilities(browser)[n] for n in names], expected[3], atol=0.01))
    finally:
        browser.quit()
        server.shutdown()
        server.server_close()


def test_page_applies_the_orientation_of_a_photograph(page, sensitive, real_photographs, tmp_path):
    upright = Image.open(real_photographs[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: to be displayed after a turn by 90 degrees
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", quality=100, subsampling=0, exif=exif)
    ImageOps.exif_transpose(Image.open(tmp_path / "turned.jpg")).save(tmp_path / "upright.png")
    names, [expected] = predict(sensitive, [tmp_path / "upright.png"])
    choose(page, tmp_path / "turned.jpg")
    shown = read_probabilities(page)
    assert [shown[name] for name in names] == pytest.approx(list(expected), abs=0.01)


def test_page_uses_the_first_frame_of_an_animation(page, sensitive, tmp_path):
    frames = [Image.new("RGB", (40, 40), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=10)
    names, [expected] = predict(sensitive, [tmp_path / "a.gif"])
    choose(page, tmp_path / "a.gif")
    assert [read_probabilities(page)[name] for name in names] == pytest.approx(list(expected), abs=0.01)


def test_page_says_what_is_wrong_with_a_file_and_stays_usable(page, real_data, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    assert choose(page, tmp_path / "text.jpg") == "This file is not an image that the browser can read."
    Image.new("1", (10_000, 10_000)).save(tmp_path / "huge.png")
    assert choose(page, tmp_path / "huge.png") == "This image has 100 megapixels; the limit is 64."
    Image.new("I;16", (40, 40), 4000).save(tmp_path / "deep.png")
    assert choose(page, tmp_path / "deep.png") == "This image has 16 bits per channel. Convert it to 8 bits first."
    Image.new("RGBA", (40, 40), (200, 100, 50, 254)).save(tmp_path / "glass.png")
    assert choose(page, tmp_path / "glass.png").startswith("This image is transparent in places.")
    assert not page.find_element("id", "result").is_displayed()
    assert choose(page, min(real_data.glob("*/*.jpg"))).startswith("Most probable of 7 classes: ")


def test_page_shows_the_full_names_of_the_classes(page, real_data):
    name, title = re.search(r"classes: (\w+) \((.+)\), ", choose(page, min(real_data.glob("*/*.jpg")))).groups()
    assert title == CLASS_TITLES[name]
    rows = page.find_element("id", "classes").text
    assert all(f"{name} ({title})" in rows for name, title in CLASS_TITLES.items())


def test_moving_the_frame_classifies_another_part(page, sensitive, tmp_path):
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32, :32] = (250, 120, 10)
    Image.fromarray(pixels).save(tmp_path / "whole.png")
    Image.fromarray(pixels[:32, :32]).save(tmp_path / "part.png")
    choose(page, tmp_path / "whole.png")
    whole = read_probabilities(page)
    for slider, value in (("zoom", 2), ("left", 0), ("top", 0)):
        move(page, slider, value)
    names, [expected] = predict(sensitive, [tmp_path / "part.png"])
    wait_for(page, lambda: read_probabilities(page) != whole)
    wait_for(page, lambda: np.allclose([read_probabilities(page)[n] for n in names], expected, atol=0.01))


def test_dragging_moves_the_frame_by_the_way_of_the_pointer(page, tmp_path):
    """Moves it by single pixels, which are less than a step of the sliders."""
    from selenium.webdriver import ActionChains

    Image.new("RGB", (1000, 1000)).save(tmp_path / "square.png")
    choose(page, tmp_path / "square.png")
    move(page, "zoom", 2)
    canvas = page.find_element("id", "preview")
    actions = ActionChains(page, duration=0).move_to_element(canvas).click_and_hold()
    for _ in range(60):
        actions.move_by_offset(1, 0)
    actions.release().perform()
    left, top, width = page.execute_script(
        "const value = id => Number(document.getElementById(id).value);"
        "return [value('left'), value('top'), document.getElementById('preview').clientWidth]"
    )
    assert left == pytest.approx(0.5 + 60 / (width / 2), abs=0.01)
    assert top == 0.5


def test_a_second_finger_on_the_preview_moves_nothing(page, tmp_path):
    Image.new("RGB", (1000, 1000)).save(tmp_path / "square.png")
    choose(page, tmp_path / "square.png")
    left = page.find_element("id", "left")
    assert not left.is_enabled()  # there is no room
    move(page, "zoom", 2)
    assert left.is_enabled()
    moved = page.execute_script("""
        const canvas = document.getElementById('preview'), errors = [], seen = [];
        canvas.setPointerCapture = () => {}; // the pointers of this test do not exist
        addEventListener('error', event => errors.push(event.message));
        for (const [type, pointerId, clientX] of [
          ['down', 1, 100], ['down', 2, 200], ['move', 2, 400], ['move', 1, 110], ['up', 1, 110], ['move', 2, 50],
        ]) {
          const properties = {pointerId, clientX, isPrimary: pointerId === 1, bubbles: true};
          canvas.dispatchEvent(new PointerEvent(`pointer${type}`, properties));
          seen.push(Number(document.getElementById('left').value));
        }
        return {errors, seen};
    """)
    assert moved["errors"] == []
    assert moved["seen"][:3] == [0.5] * 3
    assert 0.5 < moved["seen"][3] == moved["seen"][5] < 0.6


def test_a_tap_on_the_preview_classifies_nothing(page, real_data):
    from selenium.webdriver import ActionChains

    choose(page, min(real_data.glob("*/*.jpg")))
    page.execute_script("document.getElementById('status').textContent = 'chosen'")
    ActionChains(page, duration=0).move_to_element(page.find_element("id", "preview")).click().perform()
    page.execute_async_script("setTimeout(arguments[0], 500)")
    assert read_status(page) == "chosen"


def test_photographs_are_read_in_strips(page):
    """iOS limits a canvas to fewer pixels than its photographs have."""
    sizes, equal = page.execute_async_script(
        """
        const done = arguments[0];
        const sizes = [], create = document.createElement.bind(document);
        import('./photograph.js').then(async ({readPixels}) => {
          const source = new OffscreenCanvas(2100, 2100), context = source.getContext('2d');
          for (let i = 0; i < 2100; i += 10) {
            context.fillStyle = `rgb(${i % 251}, ${i % 241}, 7)`;
            context.fillRect(i, i, 2100, 2100);
          }
          const part = {x: 50, y: 30, width: 2010, height: 2000};
          const expected = context.getImageData(part.x, part.y, part.width, part.height).data;
          const bitmap = await createImageBitmap(source);
          document.createElement = name => { const element = create(name); sizes.push(element); return element; };
          const pixels = readPixels(bitmap, part);
          document.createElement = create;
          const equal = pixels.length === expected.length && pixels.every((v, i) => v === expected[i]);
          done([sizes.map(canvas => canvas.width * canvas.height), equal]);
        });
        """
    )
    assert len(sizes) == 2, "the check of the colors, then the strips"
    assert sizes[1] <= 4e6
    assert equal


def test_page_works_without_a_network_after_the_first_load(site, real_data):
    """Stops the server, and loads the page again."""
    server = make_server(site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = start_browser()
    try:
        browser.get(f"http://localhost:{server.server_port}/")
        wait_for(browser, lambda: read_status(browser) == "Ready.")
        wait_for(browser, browser.find_element("id", "offline").is_displayed)
        server.shutdown()
        server.server_close()
        browser.refresh()
        wait_for(browser, lambda: read_status(browser) == "Ready.")
        assert choose(browser, min(real_data.glob("*/*.jpg"))).startswith("Most probable of 7 classes: ")
    finally:
        browser.quit()


def test_page_sends_nothing(page, server, real_data):
    choose(page, min(real_data.glob("*/*.jpg")))
    urls = page.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert urls
    assert all(url.startswith((f"http://localhost:{server.server_port}/", "blob:")) for url in urls)
    blocked = page.execute_async_script(
        "fetch('https://example.com/').then(() => arguments[0](false), () => arguments[0](true))"
    )
    assert blocked


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_accessible(page, real_data, scheme):
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    choose(page, min(real_data.glob("*/*.jpg")))
    page.execute_script("document.querySelector('details').open = true")
    page.execute_script(read_package_files(AXE, ["axe.min.js"])["axe.min.js"].decode())
    found = page.execute_async_script("axe.run().then(arguments[0])")["violations"]
    assert [(violation["id"], violation["help"]) for violation in found] == []


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_page_fits_the_screen(page, real_data, width):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 1000}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    choose(page, min(real_data.glob("*/*.jpg")))
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_page_works_by_keyboard(page, real_data):
    choose(page, min(real_data.glob("*/*.jpg")))
    from selenium.webdriver import ActionChains, Keys

    reached = []
    page.execute_script("document.activeElement.blur()")
    for _ in range(8):
        ActionChains(page).send_keys(Keys.TAB).perform()
        reached.append(page.execute_script("return document.activeElement.id || document.activeElement.localName"))
        if reached[-1] == "zoom":  # the sliders of the position are disabled before
            ActionChains(page).send_keys(Keys.ARROW_RIGHT * 10).perform()
    assert {"camera", "file", "zoom", "left", "top", "summary"} <= set(reached)


def test_names_of_classes_are_text_for_the_page(server, site, browser):
    file = site / "model.tflite.json"
    original = file.read_text()
    description = json.loads(original)
    description["classes"][0] = name = "<img src=x onerror=alert(1)>"
    file.write_text(json.dumps(description))
    try:
        other = start_browser()  # without the cache of the service worker
        try:
            other.get(f"http://localhost:{server.server_port}/")
            wait_for(other, lambda: read_status(other) == "Ready.")
            Image.new("RGB", (50, 50)).save(site / "black.png")
            choose(other, site / "black.png")
            assert name in read_probabilities(other)
            assert other.execute_script("return document.images.length") == 0
        finally:
            other.quit()
    finally:
        file.write_text(original)


def test_the_result_of_the_last_image_is_shown(page, sensitive, real_photographs, tmp_path):
    """Chooses a large image, which takes longer to decode, and at once a small one."""
    Image.fromarray(np.full((4000, 4000, 3), 200, np.uint8)).save(tmp_path / "large.png")
    names, [expected] = predict(sensitive, [real_photographs[0]])
    page.execute_script("document.getElementById('status').textContent = 'chosen'")
    for image in (tmp_path / "large.png", real_photographs[0]):
        page.find_element("id", "file").send_keys(str(image))
    wait_for(page, lambda: read_status(page).startswith("Most probable"))
    page.execute_async_script("setTimeout(arguments[0], 1000)")
    assert [read_probabilities(page)[name] for name in names] == pytest.approx(list(expected), abs=0.01)


def test_a_finger_moves_the_frame_only_after_zooming_in(page, real_data):
    """Otherwise an image that fills the screen of a phone would keep the page from scrolling."""
    choose(page, min(real_data.glob("*/*.jpg")))
    actions = []
    for zoom in (1, 2):
        page.execute_script(
            "const slider = document.getElementById('zoom'); slider.value = arguments[0];"
            "slider.dispatchEvent(new Event('input'));", zoom
        )  # fmt: skip
        actions.append(page.execute_script("return getComputedStyle(document.getElementById('preview')).touchAction"))
    assert actions == ["auto", "none"]


def test_an_upright_image_fits_the_screen(page, tmp_path):
    Image.new("RGB", (300, 900)).save(tmp_path / "upright.png")
    choose(page, tmp_path / "upright.png")
    fraction, ratio = page.execute_script(
        "const {width, height} = document.getElementById('preview').getBoundingClientRect();"
        "return [height / innerHeight, height / width]"
    )
    assert fraction == pytest.approx(0.6, abs=0.01)
    assert ratio == pytest.approx(3, abs=0.02)


def test_a_new_version_waits_until_the_page_is_closed(page, site):
    """Its network and names of classes must not be mixed with those of an open page. Other caches are kept.

    The new worker is online before one of its files.
    """
    cached = "fetch('model.tflite.json').then(response => response.json()).then(json => arguments[0](json.notice))"

    def reopen(page, url):
        page.get("about:blank")
        time.sleep(0.5)  # until the browser has noticed that the page is closed
        page.get(url)
        return page.execute_async_script(cached)

    page.execute_async_script("navigator.serviceWorker.ready.then(() => arguments[0]())")
    assert not page.find_element("id", "update").is_displayed()
    page.execute_async_script("caches.open('other application').then(() => arguments[0]())")
    worker, description = site / "service-worker.js", site / "model.tflite.json"
    originals = {path: path.read_text() for path in (worker, description)}
    update = "navigator.serviceWorker.ready.then(registration => registration.update()).finally(() => arguments[0]())"
    states = "[registration.installing, registration.waiting].map(worker => !!worker)"
    find = f"navigator.serviceWorker.getRegistration().then(registration => arguments[0]({states}))"
    try:
        content = json.loads(originals[description])
        changed = json.dumps({**content, "notice": "new"})
        text = originals[worker].replace("VERSION = '", "VERSION = 'new", 1)
        worker.write_text(text.replace(compute_sha256(description), hashlib.sha256(changed.encode()).hexdigest()))
        page.execute_async_script(update)
        wait_for(page, lambda: page.execute_async_script(find) == [False, False])
        description.write_text(changed)
        page.execute_async_script(update)
        wait_for(page, lambda: page.execute_async_script(find) == [False, True])
        wait_for(page, lambda: page.find_element("id", "update").is_displayed())
        assert page.execute_async_script(cached) == content["notice"]
        url = page.current_url
        wait_for(page, lambda: reopen(page, url) == "new")
        names = page.execute_async_script("caches.keys().then(arguments[0])")
        assert "other application" in names
        assert len(names) == 2
    finally:
        for path, text in originals.items():
            path.write_text(text)
        page.execute_async_script(
            "navigator.serviceWorker.getRegistration().then(registration => registration.unregister())"
            ".then(() => arguments[0]())"
        )

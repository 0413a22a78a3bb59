from pathlib import Path

import pytest
from matplotlib import font_manager

from input_pipeline import fonts
from input_pipeline.fonts import find_fonts

CHINESE = "黑色素瘤"


@pytest.fixture
def install(monkeypatch):
    """Returns a function that adds characters to Matplotlib's fonts, by the name of the file; no others exist."""
    list_characters, manager = fonts._list_characters, font_manager.fontManager
    monkeypatch.setattr(manager, "ttflist", [font for font in manager.ttflist if "mpl-data" in font.fname])

    def install(characters):
        monkeypatch.setattr(
            fonts,
            "_list_characters",
            lambda file: list_characters(file) | {*map(ord, characters.get(Path(file).stem, ""))},
        )
        fonts._find_font.cache_clear()

    yield install
    fonts._find_font.cache_clear()


def test_matplotlib_has_the_characters_of_most_names(caplog):
    assert find_fonts(["nevus", "Größe", "меланома", "μ"]) == ["DejaVu Sans"]
    assert find_fonts([]) == ["DejaVu Sans"]
    assert caplog.text == ""


def test_an_installed_font_is_used_for_the_characters_that_it_lacks(install, caplog):
    install({"STIXGeneral": CHINESE[:2], "cmr10": CHINESE})
    assert find_fonts(["nevus", CHINESE]) == ["DejaVu Sans", "cmr10"]
    assert caplog.text == ""


def test_characters_without_a_font_are_warned_of(install, caplog):
    install({"cmr10": CHINESE[:3]})
    assert find_fonts([CHINESE]) == ["DejaVu Sans", "cmr10"]
    assert f"no installed font has the characters {''.join(sorted(CHINESE))}" in caplog.text

"""Fonts for names in any script, such as those of classes, in pictures."""

import functools
import logging
from collections.abc import Iterable

from matplotlib import font_manager

_DEFAULT = "DejaVu Sans"  # comes with Matplotlib; it lacks the scripts of East and South Asia
_BOXES = "Last Resort"  # has a box for every character
_logger = logging.getLogger(__name__)


def find_fonts(texts: Iterable[str]) -> list[str]:
    """Returns the names of font families for texts: Matplotlib's own, and an installed one if that lacks characters.

    Characters that neither has become empty boxes, which is warned of once.

    Args:
        texts: the texts.
    """
    characters = {ord(character) for text in texts for character in text if character.isprintable()}
    missing = frozenset(characters - _list_characters(font_manager.findfont(_DEFAULT)))
    family = _find_font(missing) if missing else None
    return [_DEFAULT, family] if family else [_DEFAULT]


@functools.cache
def _find_font(characters: frozenset[int]) -> str | None:
    """Returns the family of the installed font that has the most of the characters; None if no font has any."""
    fonts = [font for font in font_manager.fontManager.ttflist if not font.name.startswith(_BOXES)]
    files = {font.name: font.fname for font in fonts}  # one of each family
    counts = {name: len(characters & _list_characters(files[name])) for name in sorted(files)}
    best = max(counts, key=lambda name: counts[name])
    if counts[best] < len(characters):
        _logger.warning(
            "no installed font has the characters %s: pictures show boxes instead; install a font of their script",
            "".join(map(chr, sorted(characters)[:10])),
        )
    # Some families have no regular weight, which Matplotlib warns of several times.
    logging.getLogger(font_manager.__name__).setLevel(logging.ERROR)
    return best if counts[best] else None


def _list_characters(file: str) -> set[int]:
    return set(font_manager.get_font(file).get_charmap())

"""Draws docs/sample.jpg: one row of sample lesions per class.

python docs/draw_sample.py docs/sample.jpg
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw

from input_pipeline.sources.isic import CLASS_NAMES
from input_pipeline.sources.lesion_drawing import HEIGHT, WIDTH, draw_lesion

_MARGIN = 4  # pixels
_LABEL_WIDTH = 56


def main() -> None:
    """Writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT.jpg", type=Path)
    parser.add_argument("--columns", type=int, default=8, help="lesions per class (default: 8)")
    args = parser.parse_args()
    draw_contact_sheet(args.columns).save(args.out, quality=88)


def draw_contact_sheet(columns: int) -> Image.Image:
    """Draws one row of lesions per class, with the name of the class at the left."""
    row_height, column_width = HEIGHT + _MARGIN, WIDTH + _MARGIN
    size = _LABEL_WIDTH + columns * column_width, _MARGIN + len(CLASS_NAMES) * row_height
    sheet = Image.new("RGB", size, "white")
    for row, name in enumerate(CLASS_NAMES):
        top = _MARGIN + row * row_height
        ImageDraw.Draw(sheet).text((6, top + HEIGHT // 2 - 5), name, fill="black")
        for column in range(columns):
            sheet.paste(draw_lesion(name, column, 0), (_LABEL_WIDTH + column * column_width, top))
    return sheet


if __name__ == "__main__":
    main()

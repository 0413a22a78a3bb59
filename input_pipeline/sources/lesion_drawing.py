"""Draws skin lesions for the bundled sample.

The drawings are not medical images. They imitate, roughly, the criteria of dermoscopy: the shape and the border of a
lesion, its colors and its structures, which differ from class to class as those of real lesions do.
"""

import numpy as np
from PIL import Image, ImageDraw

from input_pipeline.sources.isic import CLASS_NAMES

SEED = 2018
HEIGHT, WIDTH = 96, 128  # pixels

Color = tuple[float, float, float]  # red, green and blue, from 0 to 1


class _Canvas:
    """A view of skin to paint on.

    Coordinates (u, v) belong to the lesion, whose center is the origin; the height of the image is about 2. They differ
    from view to view, so that structures keep their place on the lesion.
    """

    def __init__(self, view: np.random.Generator, skin: Color):
        y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
        x, y = (2 * x + 1 - WIDTH) / HEIGHT, (2 * y + 1 - HEIGHT) / HEIGHT
        angle, zoom = view.uniform(-0.5, 0.5), view.uniform(0.85, 1.15)
        shift_x, shift_y = view.uniform(-0.15, 0.15, 2)
        sin, cos = float(np.sin(angle) * zoom), float(np.cos(angle) * zoom)
        self.u, self.v = cos * (x - shift_x) - sin * (y - shift_y), sin * (x - shift_x) + cos * (y - shift_y)
        self._to_pixels = lambda u, v: (
            ((cos * u + sin * v) / zoom**2 + shift_x) * HEIGHT / 2 + WIDTH / 2,
            ((cos * v - sin * u) / zoom**2 + shift_y) * HEIGHT / 2 + HEIGHT / 2,
        )
        self.image = np.ones((HEIGHT, WIDTH, 3), np.float32) * np.array(skin, np.float32)
        self._view = (x, y, view)

    def cover(self, color: Color, weight: np.ndarray) -> None:
        """Paints a color with a weight from 0 to 1 per pixel."""
        self.image += np.clip(weight, 0, 1)[..., None] * (np.array(color, np.float32) - self.image)

    def make_noise(self, rng: np.random.Generator, waves_across: float) -> np.ndarray:
        """Returns a smooth random surface of standard deviation 1 with about `waves_across` waves per unit."""
        frequency = rng.normal(0, 4.4 * waves_across, (10, 2)).astype(np.float32)
        phase = rng.uniform(0, 2 * np.pi, 10).astype(np.float32)
        angle = np.multiply.outer(frequency[:, 0], self.u) + np.multiply.outer(frequency[:, 1], self.v)
        return np.cos(angle + phase[:, None, None]).sum(0) / np.float32(np.sqrt(5))

    def make_disc(self, u: float, v: float, radius: float, soft: float = 0.3) -> np.ndarray:
        """Returns 1 inside a disc, 0 outside, with a border as wide as `soft` times the radius."""
        return _smooth_step((radius - np.hypot(self.u - u, self.v - v)) / (soft * radius))

    def paint_dots(
        self,
        rng: np.random.Generator,
        n: int,
        spread: float,
        radius: tuple[float, float],
        color: Color,
        soft: float = 0.3,
    ) -> None:
        """Paints `n` dots within `spread` of the center, with radii in the range `radius`."""
        for _ in range(n):
            distance, angle = spread * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
            at = distance * np.cos(angle), distance * np.sin(angle)
            self.cover(color, 0.85 * self.make_disc(*at, rng.uniform(*radius), soft))

    def paint_vessel(self, rng: np.random.Generator, radius: float, color: Color) -> None:
        """Paints one branching vessel, from the rim of the lesion inward."""
        layer = Image.new("L", (WIDTH * 2, HEIGHT * 2))
        draw = ImageDraw.Draw(layer)
        start = rng.uniform(0, 2 * np.pi)
        tips = [(radius * np.cos(start), radius * np.sin(start), start + np.pi + rng.normal(0, 0.4), 4.0)]
        while tips:
            u, v, heading, width = tips.pop()
            for _ in range(5):
                heading += rng.normal(0, 0.45)
                to_u, to_v = u + 0.08 * np.cos(heading), v + 0.08 * np.sin(heading)
                ends = [2 * c for at in ((u, v), (to_u, to_v)) for c in self._to_pixels(*at)]
                draw.line(ends, fill=255, width=round(width / 2))
                u, v = to_u, to_v
            if width > 1.5:
                tips += [(u, v, heading + turn, width * 0.6) for turn in (-0.6, 0.6)]
        self.cover(color, 0.6 * np.asarray(layer.resize((WIDTH, HEIGHT), Image.Resampling.BOX)) / 255)

    def finish(self) -> Image.Image:
        """Adds hairs, uneven light, the dark corners of a dermatoscope and grain, and returns the image."""
        x, y, view = self._view
        layer = Image.new("L", (WIDTH * 2, HEIGHT * 2))
        draw = ImageDraw.Draw(layer)
        for _ in range(view.choice([0, 0, 0, 2, 5])):
            at, bend = view.uniform(0, 2 * WIDTH, 2), view.normal(0, 30)
            points = [(at[0] + (at[1] - at[0]) * t + bend * t * (1 - t), 2 * HEIGHT * t) for t in np.linspace(0, 1, 9)]
            draw.line(points, fill=255, width=1)
        self.cover((0.15, 0.1, 0.08), 0.8 * np.asarray(layer.resize((WIDTH, HEIGHT), Image.Resampling.BOX)) / 255)
        slope_x, slope_y = view.normal(0, 0.04, 2)
        light = view.uniform(0.92, 1.05) * (1 + slope_x * x + slope_y * y)
        light *= 1 - view.choice([0.0, 0.25, 0.6]) * _smooth_step((np.hypot(x, y) - 1.4) / 0.12)
        tint = 1 + view.normal(0, 0.015, 3)
        image = self.image * light[..., None] * tint + view.normal(0, 0.012, self.image.shape)
        return Image.fromarray((np.clip(image, 0, 1) * 255).astype(np.uint8))


def _smooth_step(x: np.ndarray) -> np.ndarray:
    """Rises from 0 to 1 around x = 0."""
    return 0.5 + 0.5 * np.tanh(x)


def _make_outline(
    canvas: _Canvas, rng: np.random.Generator, radius: tuple[float, float], ragged: float, soft: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the weight of the body (1 inside, 0 outside) and the distance from its center (1 at the border)."""
    size, stretch, tilt = rng.uniform(*radius), rng.uniform(0.75, 1.0), rng.uniform(0, np.pi)
    a = canvas.u * np.cos(tilt) + canvas.v * np.sin(tilt)
    b = (canvas.v * np.cos(tilt) - canvas.u * np.sin(tilt)) / stretch
    angle = np.arctan2(b, a)
    border = np.ones_like(a)
    for k in range(2, 9):
        border += ragged * rng.normal() / np.sqrt(k - 1) * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    distance = np.hypot(a, b) / (size * np.maximum(border, 0.3))
    return _smooth_step((1 - distance) / soft), distance


def _make_network(canvas: _Canvas, rng: np.random.Generator, lines_across: float) -> np.ndarray:
    """Returns a net of thin lines, 1 on a line: the pigment network."""
    tilt = rng.uniform(0, np.pi)
    net = np.zeros_like(canvas.u)
    bend = 0.8 * canvas.make_noise(rng, 0.8) + 0.5 * canvas.make_noise(rng, 2.5)
    for k in range(3):
        turn = tilt + k * np.pi / 3
        wave = np.cos(np.pi * lines_across * (canvas.u * np.cos(turn) + canvas.v * np.sin(turn)) + bend)
        net = np.maximum(net, np.exp(-((wave / 0.35) ** 2)))
    return net * np.clip(0.75 + 0.35 * canvas.make_noise(rng, 1.2), 0, 1)


def _vary_color(rng: np.random.Generator, color: Color, spread: float = 0.03) -> Color:
    """Returns a random color near the given one."""
    red, green, blue = np.clip(np.array(color) + rng.normal(0, spread) + rng.normal(0, spread / 3, 3), 0, 1)
    return float(red), float(green), float(blue)


def _paint_mel(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Paints melanoma: asymmetric, ragged, brown to black with a blue-gray veil and pale regression, irregular dots."""
    body, distance = _make_outline(canvas, rng, (0.55, 0.85), 0.11, 0.08)
    canvas.cover(_vary_color(rng, (0.42, 0.27, 0.2)), body)
    canvas.cover((0.28, 0.2, 0.15), 0.6 * body * _make_network(canvas, rng, 9))
    lean = canvas.u * np.cos(turn := rng.uniform(0, 2 * np.pi)) + canvas.v * np.sin(turn)
    canvas.cover((0.13, 0.08, 0.08), body * _smooth_step((canvas.make_noise(rng, 0.7) + 1.2 * lean - 0.4) / 0.3))
    canvas.cover((0.36, 0.4, 0.5), 0.8 * body * _smooth_step((canvas.make_noise(rng, 0.8) - 0.9 - 0.8 * lean) / 0.3))
    canvas.cover((0.8, 0.66, 0.62), 0.7 * body * _smooth_step((canvas.make_noise(rng, 0.8) - 1.4) / 0.2))
    streaks = _smooth_step((canvas.make_noise(rng, 3.0) - 0.6) / 0.2) * np.exp(-(((distance - 1.0) / 0.12) ** 2))
    canvas.cover((0.16, 0.1, 0.09), 0.8 * streaks)
    canvas.paint_dots(rng, int(rng.integers(5, 14)), 0.6, (0.02, 0.06), (0.1, 0.07, 0.07))


def _paint_nv(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Paints a nevus: round or oval, symmetric, one brown with a regular network that fades to the border."""
    body, distance = _make_outline(canvas, rng, (0.4, 0.65), 0.025, 0.12)
    canvas.cover(_vary_color(rng, (0.62, 0.43, 0.32), 0.05), 0.9 * body)
    canvas.cover(_vary_color(rng, (0.45, 0.29, 0.2)), 0.65 * body * _make_network(canvas, rng, rng.uniform(8, 11)))
    canvas.cover((0.42, 0.27, 0.2), 0.5 * body * np.exp(-((distance / 0.5) ** 2)))


def _paint_bcc(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Paints basal cell carcinoma: pearly pink, branching vessels, blue-gray nests, sometimes an ulcer, no network."""
    body, _ = _make_outline(canvas, rng, (0.5, 0.8), 0.06, 0.1)
    canvas.cover(_vary_color(rng, (0.88, 0.68, 0.66), 0.02), 0.85 * body)
    canvas.cover((0.95, 0.84, 0.82), 0.5 * body * _smooth_step(canvas.make_noise(rng, 1.0) - 0.8))
    for _ in range(rng.integers(3, 6)):
        canvas.paint_vessel(rng, rng.uniform(0.45, 0.7), (0.72, 0.16, 0.18))
    canvas.paint_dots(rng, int(rng.integers(4, 12)), 0.45, (0.04, 0.12), (0.42, 0.44, 0.53), soft=0.7)
    if rng.random() < 0.4:
        canvas.paint_dots(rng, 1, 0.25, (0.1, 0.18), (0.5, 0.14, 0.1))


def _paint_akiec(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Paints actinic keratosis: red, unclear border, white follicles in a red net (strawberry pattern), pale scales."""
    body, _ = _make_outline(canvas, rng, (0.55, 0.85), 0.1, 0.3)
    canvas.cover(_vary_color(rng, (0.8, 0.42, 0.38)), 0.85 * body)
    follicles = 1 - _make_network(canvas, rng, 6.5)
    canvas.cover((0.93, 0.74, 0.66), 0.6 * body * _smooth_step((follicles - 0.75) / 0.12))
    canvas.cover((0.95, 0.9, 0.75), 0.9 * body * _smooth_step((canvas.make_noise(rng, 2.5) - 1.5) / 0.15))


def _paint_bkl(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Paints benign keratosis: sharp border, waxy yellow-brown or gray-brown, pale cysts, dark openings, furrows."""
    body, _ = _make_outline(canvas, rng, (0.5, 0.8), 0.06, 0.03)
    canvas.cover(_vary_color(rng, (0.64, 0.5, 0.34), 0.05), body)
    furrows = np.exp(-((canvas.make_noise(rng, 1.3) / 0.18) ** 2))
    canvas.cover((0.42, 0.31, 0.2), 0.6 * body * furrows)
    canvas.paint_dots(rng, int(rng.integers(6, 14)), 0.5, (0.025, 0.05), (0.97, 0.92, 0.78))
    canvas.paint_dots(rng, int(rng.integers(4, 10)), 0.5, (0.03, 0.055), (0.22, 0.14, 0.08))


def _paint_df(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Paints dermatofibroma: small, round, a white scar-like center in a faint brown net that fades into the skin."""
    body, distance = _make_outline(canvas, rng, (0.42, 0.6), 0.03, 0.25)
    canvas.cover(_vary_color(rng, (0.74, 0.52, 0.42)), 0.8 * body)
    canvas.cover((0.56, 0.37, 0.27), 0.45 * body * _make_network(canvas, rng, 10))
    canvas.cover((0.96, 0.88, 0.85), 0.95 * _smooth_step((rng.uniform(0.4, 0.55) - distance) / 0.12))


def _paint_vasc(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Paints a vascular lesion: round lacunae, red to purple to blue-black, close together on red, a clear border."""
    body, _ = _make_outline(canvas, rng, (0.4, 0.65), 0.05, 0.07)
    canvas.cover(_vary_color(rng, (0.72, 0.22, 0.25)), body)
    lacunae = ((0.55, 0.05, 0.12), (0.36, 0.05, 0.2), (0.2, 0.06, 0.18))
    tone = rng.integers(3)
    for _ in range(3):
        canvas.paint_dots(rng, int(rng.integers(3, 7)), 0.42, (0.09, 0.18), _vary_color(rng, lacunae[tone], 0.02))


_PAINT = {
    "MEL": _paint_mel,
    "NV": _paint_nv,
    "BCC": _paint_bcc,
    "AKIEC": _paint_akiec,
    "BKL": _paint_bkl,
    "DF": _paint_df,
    "VASC": _paint_vasc,
}


def draw_lesion(class_name: str, lesion: int, view: int) -> Image.Image:
    """Draws one view of one lesion, 128 x 96 pixels; a pure function of its arguments."""
    rng = np.random.default_rng((SEED, CLASS_NAMES.index(class_name), lesion))
    skin = _vary_color(rng, (0.86, 0.68, 0.6), 0.04)
    canvas = _Canvas(np.random.default_rng((SEED, CLASS_NAMES.index(class_name), lesion, view + 1)), skin)
    canvas.image += 0.012 * canvas.make_noise(rng, 1.5)[..., None] + 0.01 * canvas.make_noise(rng, 5.0)[..., None]
    _PAINT[class_name](canvas, rng)
    return canvas.finish()

"""The steps from a decoded image to the pixels of the network, the same in training and in inference."""

from typing import Any, Literal, NamedTuple

Resize = Literal["stretch", "crop"]
ColorConstancy = Literal["none", "shades_of_gray"]
# The values that pixel values 0 and 255 are mapped to; tuples of three if those of red, green and blue differ.
InputScaling = tuple[float, float] | tuple[tuple[float, float, float], tuple[float, float, float]]
MINKOWSKI_NORM = 6  # Finlayson and Trezzi found that shades of gray work best with it


class Preprocessing(NamedTuple):
    """The steps from a decoded image to the pixels of a network, which its weights record.

    Attributes:
        resize: `"stretch"` resizes the whole image, so that its proportions change unless they are those of the
            network's input. `"crop"` keeps them: it cuts the longer side, equally at both ends, and an odd pixel at the
            right or at the bottom.
        color_constancy: `"shades_of_gray"` removes the color cast of the light, see `image_ops.remove_color_cast`.
    """

    resize: Resize = "stretch"
    color_constancy: ColorConstancy = "none"

    def list_changes(self) -> dict[str, Any]:
        """Returns the steps that differ from the defaults, by name."""
        return {name: value for name, value in self._asdict().items() if value != self._field_defaults[name]}

    def describe(self, size: tuple[int, int]) -> str:
        """Returns instructions for other programs.

        Args:
            size: height and width of the result in pixels.
        """
        height, width = size
        resize = "resize the whole image"
        if self.resize == "crop":
            resize = (
                "cut the longer side equally at both ends (an odd pixel at the right or at the bottom) to the "
                "proportions of the result, then resize"
            )
        steps = (
            f"{resize} to {height} x {width} (height x width): area averaging if neither side becomes longer, else "
            "bilinear interpolation"
        )
        if self.color_constancy != "none":
            steps += f"; then remove the color cast by shades of gray with the norm {MINKOWSKI_NORM}"
        return steps


STRETCH = Preprocessing()

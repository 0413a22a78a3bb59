import numpy as np
import pytest
from PIL import Image

from input_pipeline.image_reader import read_images


@pytest.mark.parametrize("batch_size", [1, 3, 20, 100])
def test_files_are_read_in_order_and_unreadable_ones_are_reported(tmp_path, batch_size):
    paths = [tmp_path / f"{i}.png" for i in range(40)]
    for i, path in enumerate(paths):
        Image.new("RGB", (40, 40), (i, 2 * i, 3 * i)).save(path)
    paths[4].write_text("not an image")
    paths[7].unlink()
    Image.new("RGB", (40, 40)).save(paths[18], "PPM")
    batches = list(read_images([str(path) for path in paths], (32, 48), batch_size))
    assert len(batches) == -(-40 // batch_size)
    index = np.concatenate([batch.positions for batch in batches])
    assert index.tolist() == [i for i in range(40) if i not in (4, 7, 18)]
    pixels = np.concatenate([batch.pixels for batch in batches])
    assert pixels.shape == (37, 32, 48, 3)
    np.testing.assert_array_equal(pixels[:, 0, 0], [(i, 2 * i, 3 * i) for i in index])
    unreadable = "is not an image in one of the formats JPEG, PNG, WEBP, BMP, TIFF, GIF, or is damaged"
    assert [fault for batch in batches for fault in batch.faults] == [
        f"{paths[4]} cannot be read (it {unreadable})",
        f"{paths[7]} cannot be read (No such file or directory)",
        f"{paths[18]} cannot be read (it {unreadable})",
    ]

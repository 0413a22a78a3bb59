"""The TFDS data set `isic2018_task3`: importing this module registers it, so that `tfds.load` finds it.

It is downloaded from the ISIC archive, or created from a folder in the archive's layout (see `isic.py`), which TFDS
calls the manual folder:

    tfds.load("isic2018_task3", download_and_prepare_kwargs={
        "download_config": tfds.download.DownloadConfig(manual_dir=DIR)})
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from input_pipeline.examples import Examples, Part
from input_pipeline.sources.isic import CLASS_NAMES, GROUND_TRUTH, GROUPINGS, INPUT, read_isic

PARTS: dict[Part, str] = {"Training": "train", "Validation": "validation", "Test": "test"}

_DOWNLOADS = "https://isic-archive.s3.amazonaws.com/challenges/2018"

_DESCRIPTION = """
Dermoscopic images of pigmented skin lesions, each with one of seven diagnoses: the 10,015 training, 193 validation and
1,512 test images of Task 3 of the ISIC challenge of 2018. The training images are HAM10000. Several images may show one
lesion, which `lesion_id` identifies, and a split should keep those together. The lesions of validation and test images
are not published: their `lesion_id` is the image's own name. The license is CC BY-NC 4.0.
"""

_CITATION = """
@article{tschandl2018ham10000,
  title = {The {HAM10000} dataset, a large collection of multi-source dermatoscopic images of common pigmented skin
           lesions},
  author = {Tschandl, Philipp and Rosendahl, Cliff and Kittler, Harald},
  journal = {Scientific Data},
  volume = {5},
  pages = {180161},
  year = {2018},
  doi = {10.1038/sdata.2018.161},
}
@article{codella2019skin,
  title = {Skin Lesion Analysis Toward Melanoma Detection 2018: A Challenge Hosted by the International Skin Imaging
           Collaboration ({ISIC})},
  author = {Codella, Noel and Rotemberg, Veronica and Tschandl, Philipp and Celebi, M. Emre and Dusza, Stephen and
            Gutman, David and Helba, Brian and Kalloo, Aadi and Liopyris, Konstantinos and Marchetti, Michael and
            Kittler, Harald and Halpern, Allan},
  journal = {arXiv preprint arXiv:1902.03368},
  year = {2019},
}
"""


class Isic2018Task3(tfds.core.GeneratorBasedBuilder):
    """The archive's JPEG files, byte for byte, with label, lesion and name."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""
    Nothing has to be downloaded by hand. A manual folder is used instead of a download if it holds
    {INPUT.format("Training")}/, {GROUND_TRUTH.format("Training")}/ and {GROUPINGS}, and optionally the same folders of
    Validation and Test.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(names=CLASS_NAMES),
                    "lesion_id": tfds.features.Text(),
                    "image_id": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://challenge.isic-archive.com/landing/2018/47/",
            citation=_CITATION,
            license="CC BY-NC 4.0",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[Any]]:
        parts = read_parts(_find_manual_folder(dl_manager) or _download_folder(dl_manager))
        return {split: self._generate_examples(examples) for split, examples in parts.items()}

    def _generate_examples(self, examples: Examples) -> Iterator[tuple[str, dict[str, Any]]]:
        for path, label, lesion in zip(examples.paths, examples.labels, examples.lesions, strict=True):
            name = Path(path).stem
            yield name, {"image": path, "label": int(label), "lesion_id": lesion, "image_id": name}


def read_parts(folder: Path) -> dict[str, Examples]:
    """Reads the examples of each split: the training set, and each other set that has a ground truth.

    Raises:
        DataError: something is missing or contradictory; the message names the file and the line.
    """
    return {
        split: read_isic(folder, part)
        for part, split in PARTS.items()
        if part == "Training" or (folder / GROUND_TRUTH.format(part)).is_dir()
    }


def _find_manual_folder(dl_manager: tfds.download.DownloadManager) -> Path | None:
    """Returns the manual folder if it holds the archive's files."""
    try:
        folder = Path(dl_manager.manual_dir)
    except AssertionError:  # there is none, or it is empty
        return None
    return folder if (folder / INPUT.format("Training")).is_dir() else None


def _download_folder(dl_manager: tfds.download.DownloadManager) -> Path:
    """Downloads and unpacks the archive's files, and links them side by side, in the layout that `read_isic` reads."""
    names = [name.format(part) for part in PARTS for name in (INPUT, GROUND_TRUTH)]
    urls = {name: f"{_DOWNLOADS}/{name}.zip" for name in names} | {GROUPINGS: f"{_DOWNLOADS}/{GROUPINGS}"}
    unpacked = dl_manager.download_and_extract(urls)
    folder = Path(dl_manager.download_dir) / "isic2018_task3_links"
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in unpacked.items():
        target = Path(path) if name == GROUPINGS else Path(path) / name
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target.absolute())
    return folder

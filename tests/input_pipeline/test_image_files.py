import pytest

from input_pipeline.image_files import is_address

FILE = "isic2018_task3-train.array_record-00000-of-00001"


@pytest.mark.parametrize(
    "address", [f"/tfds/{FILE}#12/ISIC_1.jpg", rf"C:\tfds\{FILE}#12/ISIC_1.jpg", rf"{FILE}#0\1.jpg"]
)
def test_addresses_of_records_have_any_separator(address):
    assert is_address(address)


@pytest.mark.parametrize("path", [f"/tfds/{FILE}", f"/tfds/{FILE}#12/", rf"C:\tfds\{FILE}#x\1.jpg", r"C:\1.jpg"])
def test_files_are_not_addresses(path):
    assert not is_address(path)

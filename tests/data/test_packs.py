"""Packs: what is written is read back, and only a pack is a pack."""

import numpy as np
import pytest
from pack_files import write_pack
from PIL import Image

from vlmamba.data.mini import training_packs
from vlmamba.data.packs import open_pack, square_pixels
from vlmamba.data.photos import class_name


@pytest.fixture
def pack_directory(tmp_path):
    red, wide = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 4), (0, 0, 255))
    for name in ("things_train", "things_dev"):
        write_pack(
            tmp_path / f"{name}.npz",
            [red, wide],
            y=np.array([1, 0]),
            meta={"classes": ["car_side", "anchor"]},
        )
    return tmp_path


def test_a_pack_reads_back(pack_directory):
    pack = open_pack(pack_directory / "things_train.npz")
    assert len(pack) == 2
    assert pack.classes == ["car_side", "anchor"]
    assert pack.picture(1).size == (8, 4)
    assert pack.arrays["y"].tolist() == [1, 0]


def test_pictures_become_grey_padded_squares(pack_directory):
    pixels = square_pixels(open_pack(pack_directory / "things_train.npz"), 8)
    assert pixels.shape == (2, 8, 8, 3)
    assert (pixels[0] == (255, 0, 0)).all()
    assert (pixels[1, :2] == 127).all()
    assert (pixels[1, 2:6] == (0, 0, 255)).all()
    assert (pixels[1, 6:] == 127).all()


def test_validation_packs_are_never_trained_on(pack_directory):
    assert list(training_packs(pack_directory)) == ["things_train"]
    (pack_directory / "things_train.npz").unlink()
    with pytest.raises(FileNotFoundError, match="no training packs"):
        training_packs(pack_directory)


def test_a_file_that_is_no_pack_is_named(tmp_path):
    path = tmp_path / "broken.npz"
    path.write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"broken\.npz is not a picture pack"):
        open_pack(path)


def test_tiny_imagenet_names_are_shortened_and_labels_become_words(tmp_path):
    write_pack(
        tmp_path / "t.npz", [], y=np.array([]), meta={"names": ["bullfrog, Rana catesbeiana"]}
    )
    assert open_pack(tmp_path / "t.npz").classes == ["bullfrog"]
    assert class_name("windsor_chair") == "windsor chair"
    assert class_name("Motorbikes") == "motorbike"

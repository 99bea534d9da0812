"""Pictures are found in every layout that LLaVA's instructions make, and nowhere else."""

import os

import pytest

from vlmamba.data.faults import BadSampleError
from vlmamba.data.picture_folder import PictureFolder

LAYOUT = [
    "coco/train2017/000000033471.jpg", "gqa/images/2354786.jpg", "ocr_vqa/images/0140620628.jpg",
    "textvqa/train_images/011e7e629fb9ae7b.jpg", "vg/VG_100K/713545.jpg", "vg/VG_100K_2/2402.jpg",
    "00453/004539375.jpg",
]  # fmt: skip


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "data"
    for name in LAYOUT:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (tmp_path / "secret.jpg").touch()
    (tmp_path / "data2").mkdir()
    return root


@pytest.mark.parametrize("name", LAYOUT)
def test_a_picture_is_found_below_the_root(root, name):
    assert PictureFolder(root).find(name) == root / name


@pytest.mark.parametrize("ending", [".png", ".gif", ".jpeg"])
def test_a_picture_that_kept_its_ending_is_found_by_its_name(root, ending):
    kept = root / "ocr_vqa/images" / f"B00001{ending}"
    kept.touch()
    assert PictureFolder(root).find("ocr_vqa/images/B00001.jpg") == kept


def test_a_picture_that_is_not_there_has_the_path_it_should_have(root):
    assert PictureFolder(root).find("gqa/images/1.jpg") == root / "gqa/images/1.jpg"


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "gqa/../../secret.jpg", "/etc/x.png", "C:\\x.png", "..\\x.png", "a\0b", "", ".."]
)  # fmt: skip
def test_a_path_that_leaves_the_root_is_refused(root, name):
    with pytest.raises(BadSampleError) as caught:
        PictureFolder(root).find(name)
    assert caught.value.reason == "path-outside"


def test_links_may_lead_about_within_the_root_and_not_out_of_it(root):
    (root / "again").symlink_to(root / "gqa")
    (root / "same.jpg").symlink_to(root / LAYOUT[0])
    (root / "out").symlink_to(root.parent)
    (root / "out.jpg").symlink_to(root.parent / "secret.jpg")
    (root / "near").symlink_to(root.parent / "data2")  # its name begins like the root's
    folder = PictureFolder(root)
    assert folder.find("again/images/2354786.jpg").exists()
    assert folder.find("same.jpg").exists()
    for name in ("out/secret.jpg", "out.jpg", "near/x.jpg"):
        with pytest.raises(BadSampleError, match="link to"):
            folder.find(name)


def test_what_is_no_file_is_not_opened(root):
    os.mkfifo(root / "pipe.jpg")
    for name in ("pipe.jpg", "gqa/images"):
        with pytest.raises(BadSampleError, match="is not a file"):
            PictureFolder(root).find(name)


def test_the_root_itself_may_be_a_link(root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    assert PictureFolder(tmp_path / "link").find(LAYOUT[0]).exists()

"""Shards give the samples that a file and a folder give: the same tokens, the same pictures, the same faults."""

import io
import json
import pickle
import sys
import tarfile

import numpy as np
import pytest
from faulty_set import about, talk
from PIL import Image
from tiny import tiny_processor

from vlmamba.data.check import check
from vlmamba.data.faults import BadSampleError
from vlmamba.data.llava import LlavaData, LlavaSamples
from vlmamba.data.sources import open_source

PROCESSOR = tiny_processor()
SAMPLES = [
    about("a.png", "one"),
    talk("Hello <image>", "Yes?", id="text"),
    about(["b.png", "a.png"], "two", "<image><image>Which is red?", "The first."),
    talk("<image>\nAnd this?", "A dog.", "Sure?", "Yes.", id="long", image="b.png"),
]


@pytest.fixture
def pictures(tmp_path):
    """Bytes by name, and in the folder `images`."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    found = {}
    for name in ("a.png", "b.png"):
        file = tmp_path / "images" / name
        Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(file)
        found[name] = file.read_bytes()
    return found


def names_of(sample):
    image = sample.get("image") or []
    return [image] if isinstance(image, str) else image


def write_tars(folder, samples, pictures):
    """Two shards, with what else such files hold: folders, texts, and pictures before their .json."""
    folder.mkdir()
    for shard, part in enumerate((samples[:2], samples[2:])):
        with tarfile.open(folder / f"{shard:03}.tar", "w") as tar:
            for n, sample in enumerate(part):
                files = [(f".{i}.png", pictures[name]) for i, name in enumerate(names_of(sample))]
                files.insert(n, (".json", json.dumps(sample).encode()))
                files.append((".txt", b"not asked for"))
                for ending, data in files:
                    member = tarfile.TarInfo(f"train/{n:06}{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return folder


def write_parquets(folder, samples, pictures, column="image"):
    """Two shards of groups of one row, as `datasets` writes them."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    folder.mkdir()
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    turn = pa.struct([("from", pa.string()), ("value", pa.string())])
    kind = picture if column == "image" else pa.list_(picture)
    schema = pa.schema([("id", pa.string()), (column, kind), ("conversations", pa.list_(turn))])
    for shard, part in enumerate((samples[:3], samples[3:])):
        rows = []
        for sample in part:
            shown = [{"bytes": pictures[n], "path": None} for n in names_of(sample)]
            value = shown if column == "images" else (shown or [None])[0]
            rows.append({k: sample.get(k) for k in ("id", "conversations")} | {column: value})
        pq.write_table(
            pa.Table.from_pylist(rows, schema), folder / f"{shard}.parquet", row_group_size=1
        )
    return folder


@pytest.fixture(params=["tar", "parquet", "parquet of lists"])
def shards(request, tmp_path, pictures):
    if request.param == "tar":
        return write_tars(tmp_path / "shards", SAMPLES, pictures), SAMPLES
    if request.param == "parquet":  # one picture a sample
        single = [sample for sample in SAMPLES if len(names_of(sample)) < 2]
        return write_parquets(tmp_path / "shards", single, pictures), single
    return write_parquets(tmp_path / "shards", SAMPLES, pictures, "images"), SAMPLES


def test_shards_give_what_a_file_and_a_folder_give(shards, tmp_path):
    folder, samples = shards
    (tmp_path / "data.json").write_text(json.dumps(samples))
    plain = LlavaSamples(tmp_path / "data.json", tmp_path / "images", PROCESSOR, 256)
    packed = LlavaSamples(folder, "", PROCESSOR, 256)
    assert packed.lengths == plain.lengths
    assert packed.has_picture == plain.has_picture
    for k in reversed(range(len(samples))):  # in any order
        one, other = packed.sample(k), plain.sample(k)
        assert (one.name, one.input_ids, one.labels) == (other.name, other.input_ids, other.labels)
        assert [p.tobytes() for p in one.pictures] == [p.tobytes() for p in other.pictures]


def test_shards_make_batches_and_are_checked(shards):
    folder, samples = shards
    batches = LlavaData(str(folder)).batches(PROCESSOR, 2, 256, seed=0)
    assert set(batches.batch(0).sample_ids) == {sample["id"] for sample in samples}
    report = check(open_source(folder, None), PROCESSOR, 256, processes=1, quiet=True)
    assert not report.faults
    assert report.different_pictures == sum(len(names_of(sample)) for sample in samples)
    sent = pickle.loads(pickle.dumps(open_source(folder, None)))  # as to another process
    assert check(sent, PROCESSOR, 256, processes=1, quiet=True) == report


@pytest.mark.parametrize("write", [write_tars, write_parquets])
def test_faults_of_shards_have_names_and_places(write, tmp_path, pictures):
    broken = {"a.png": pictures["a.png"][:60], "b.png": b""}
    samples = [about("a.png", "half"), about("b.png", "empty"), talk("<image>?", "Ha.", id="none")]
    samples += [{"id": "odd", "conversations": []}]
    source = open_source(write(tmp_path / "shards", samples, broken), None)
    report = check(source, PROCESSOR, 256, processes=1, quiet=True)
    found = {name: fault.examples[0]["id"] for name, fault in report.faults.items()}
    assert found == {"truncated": "half", "empty": "empty", "no-answer": "odd"}
    (example,) = report.faults["truncated"].examples
    assert example["detail"].startswith(("000.tar#0: ", f"{tmp_path}/shards/0.parquet:1#0: "))


def test_a_picture_that_is_only_a_path_is_missing(tmp_path, pictures):
    folder = write_parquets(tmp_path / "shards", SAMPLES[:1], {"a.png": None, "b.png": None})
    with pytest.raises(BadSampleError, match=r"a picture is missing: sample one .* has no bytes"):
        LlavaSamples(folder, "", PROCESSOR, 256).sample(0)


def test_pictures_without_a_sample_are_a_fault(tmp_path, pictures):
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "0.tar", "w") as tar:
        tar.add(tmp_path / "images" / "a.png", "1.png")
    with pytest.raises(BadSampleError, match=r"pictures without a \.json file"):
        open_source(tmp_path / "shards", None).read(0)


def test_folders_that_are_no_shards_say_so(tmp_path, pictures, monkeypatch):
    with pytest.raises(ValueError, match=r"holds no \.tar or \.parquet shard"):
        open_source(tmp_path, None)
    with pytest.raises(ValueError, match="needs the folder that its picture paths start from"):
        open_source(tmp_path / "data.json", None)
    tars = write_tars(tmp_path / "shards", SAMPLES, pictures)
    torn = (tars / "001.tar").read_bytes()
    (tars / "001.tar").write_bytes(torn[:700])
    with pytest.raises(ValueError, match=r"001\.tar is not a whole tar file"):
        open_source(tars, None)
    (tars / "0.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"holds \.tar and \.parquet files"):
        open_source(tars, None)
    for tar in tars.glob("*.tar"):
        tar.unlink()
    with pytest.raises(ValueError, match=r"0\.parquet is not a parquet file"):
        open_source(tars, None)
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pa.table({"x": [1]}), tars / "0.parquet")
    with pytest.raises(ValueError, match=r"0\.parquet has no column 'conversations'"):
        open_source(tars, None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'vlmamba\[train\]'"):
        open_source(tars, None)

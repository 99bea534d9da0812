"""The recurrent state as an object: rows are independent, files come back equal, misfits are refused."""

import pytest
import torch
from safetensors.torch import save_file

from vlmamba.config import MambaConfig
from vlmamba.state import State

CONFIG = MambaConfig(d_model=8, n_layer=3, vocab_size=50, d_state=4, d_conv=4)


def some_state(batch_size: int = 2) -> State:
    torch.manual_seed(batch_size)
    state = State.allocate(CONFIG, batch_size)
    state.conv_state.normal_()
    state.ssm_state.normal_()
    state.length += torch.arange(1, batch_size + 1)
    return state


def tensors(state: State) -> tuple[torch.Tensor, ...]:
    return state.conv_state, state.ssm_state, state.length


def equal(a: State, b: State) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def test_allocate():
    state = State.allocate(CONFIG, 5)
    assert state.conv_state.shape == (3, 5, 16, 3)
    assert state.ssm_state.shape == (3, 5, 16, 4)
    assert state.length.tolist() == [0] * 5
    assert state.batch_size == 5
    assert not any(tensor.any() for tensor in tensors(state))
    assert state.num_bytes == 3 * 5 * 16 * (3 + 4) * 4


@pytest.mark.parametrize(
    ("dtype", "of_scan"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_the_scans_state_is_wide(dtype, of_scan):
    state = State.allocate(CONFIG, 1, dtype=dtype)
    assert (state.conv_state.dtype, state.ssm_state.dtype) == (dtype, of_scan)


def test_select_takes_rows_in_order_and_copies_them():
    state = some_state(3)
    before = state.clone()
    chosen = state.select(torch.tensor([2, 0, 2]))
    assert chosen.length.tolist() == [3, 1, 3]
    for row, source in enumerate((2, 0, 2)):
        assert torch.equal(chosen.conv_state[:, row], state.conv_state[:, source])
        assert torch.equal(chosen.ssm_state[:, row], state.ssm_state[:, source])
    chosen.ssm_state[:, 0] += 1
    assert torch.equal(chosen.ssm_state[:, 2], state.ssm_state[:, 2]), "rows share no memory"
    assert equal(state, before)


def test_fork_puts_copies_of_a_row_side_by_side():
    state = some_state(2)
    forked = state.fork(3)
    assert forked.length.tolist() == [1, 1, 1, 2, 2, 2]
    assert equal(forked.select(torch.tensor([0, 3])), state)
    assert equal(forked.select(torch.tensor([2, 5])), state)


def test_clone_shares_no_memory():
    state = some_state()
    twin = state.clone()
    assert equal(state, twin)
    for tensor in tensors(twin):
        tensor.zero_()
    assert all(tensor.any() for tensor in tensors(state))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_save_and_load(tmp_path, dtype):
    state = State.allocate(CONFIG, 2, dtype=dtype)
    state.conv_state.normal_()
    state.ssm_state.normal_()
    state.length += 7
    state.save(tmp_path / "cat.state")
    loaded = State.load(str(tmp_path / "cat.state"))
    assert equal(loaded, state)
    assert loaded.conv_state.dtype == dtype
    assert [path.name for path in tmp_path.iterdir()] == ["cat.state"]


def test_a_part_of_a_batch_is_saved_alone(tmp_path):
    row = some_state(4).select(torch.tensor([1]))
    row.save(tmp_path / "row")
    assert (tmp_path / "row").stat().st_size < row.num_bytes + 1000
    assert equal(State.load(tmp_path / "row"), row)


def test_saving_replaces_a_file_only_by_a_whole_one(tmp_path, monkeypatch):
    path = tmp_path / "cat.state"
    first = some_state(1)
    first.save(path)

    def fail(*args, **options):
        raise OSError("no space left on device")

    monkeypatch.setattr("vlmamba.state.save_file", fail)
    with pytest.raises(OSError, match="no space"):
        some_state(2).save(path)
    assert equal(State.load(path), first)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such state file"):
        State.load(tmp_path / "nothing")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04]\x94."])
def test_a_file_that_is_something_else(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a readable state file") as caught:
        State.load(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_file(tmp_path):
    path = tmp_path / "cat.state"
    some_state().save(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="is not a readable state file"):
        State.load(path)


def test_a_safetensors_file_of_other_tensors(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(3)}, path)
    with pytest.raises(ValueError, match=r"model.safetensors is not a"):
        State.load(path)


@pytest.mark.parametrize("part", ["conv_state", "ssm_state"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_state_that_is_not_finite(tmp_path, part, value):
    state = some_state()
    getattr(state, part)[1, 0, 3, 1] = value
    state.save(tmp_path / "file")
    with pytest.raises(ValueError, match="not finite"):
        State.load(tmp_path / "file")


def test_difference():
    state = some_state()
    assert state.difference(state.clone()) == 0
    for part in ("conv_state", "ssm_state"):
        other = state.clone()
        getattr(other, part)[2, 1, 5, 0] += 0.25
        assert state.difference(other) == other.difference(state) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="cannot be compared"):
        state.difference(some_state(3))


@pytest.mark.parametrize(
    "changes", [{"n_layer": 2}, {"d_model": 16}, {"expand": 1}, {"d_state": 8}]
)
def test_another_models_state_is_refused(changes):
    sizes = {"d_model": 8, "n_layer": 3, "vocab_size": 50, "d_state": 4} | changes
    some_state().check_fits(CONFIG)
    with pytest.raises(ValueError, match="another model made it"):
        some_state().check_fits(MambaConfig(**sizes))

"""The 2-D scans against orders written by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmamba.scan2d import NUM_DIRECTIONS, inverse_orders, orders_on, scan_orders

# A grid of 2 x 3 patches, numbered row by row:
#   0 1 2
#   3 4 5
BSM = [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]]
CSM = [
    [0, 1, 2, 3, 4, 5],  # row by row
    [0, 3, 1, 4, 2, 5],  # column by column
    [5, 4, 3, 2, 1, 0],
    [5, 2, 4, 1, 3, 0],
]

grids = st.tuples(st.integers(1, 9), st.integers(1, 9))
mechanisms = st.sampled_from(["bsm", "csm"])


@pytest.mark.parametrize(("mechanism", "expected"), [("bsm", BSM), ("csm", CSM)])
def test_orders_written_by_hand(mechanism, expected):
    assert scan_orders(mechanism, 2, 3).tolist() == expected


def test_cross_scan_equals_vmambas():
    """VMamba's CrossScan: the map, its transpose, and both reversed."""
    x = torch.randn(4, 5)
    forward = torch.stack([x.flatten(), x.t().flatten()])
    theirs = torch.cat([forward, forward.flip(1)])
    assert torch.equal(x.flatten()[scan_orders("csm", 4, 5)], theirs)


@given(mechanism=mechanisms, grid=grids)
@settings(deadline=None)
def test_every_order_visits_every_patch_once_and_comes_back(mechanism, grid):
    orders = scan_orders(mechanism, *grid)
    p = grid[0] * grid[1]
    assert orders.shape == (NUM_DIRECTIONS[mechanism], p)
    assert orders.dtype == torch.long
    assert torch.equal(orders.sort(dim=1).values, torch.arange(p).expand_as(orders))
    inverse = inverse_orders(orders)
    patches = torch.randn(p)
    for order, back in zip(orders, inverse, strict=True):
        assert torch.equal(patches[order][back], patches)
        assert torch.equal(patches[back][order], patches)


@given(mechanism=mechanisms, grid=grids)
@settings(deadline=None)
def test_half_of_the_orders_are_the_other_half_backward(mechanism, grid):
    orders = scan_orders(mechanism, *grid)
    forward, backward = orders.chunk(2)
    assert torch.equal(forward.flip(1), backward)


def test_one_row_or_column_has_one_way_to_go():
    for grid in ((1, 5), (5, 1)):
        orders = scan_orders("csm", *grid)
        assert torch.equal(orders[0], orders[1])


def test_kept_orders_are_the_same_and_kept():
    device = torch.device("cpu")
    orders, inverse = orders_on("csm", 3, 4, device)
    assert torch.equal(orders, scan_orders("csm", 3, 4))
    assert torch.equal(inverse, inverse_orders(orders))
    assert orders_on("csm", 3, 4, device)[0] is orders


def test_orders_first_made_in_inference_can_be_trained_with():
    orders_on.cache_clear()
    with torch.inference_mode():
        orders_on("bsm", 2, 2, torch.device("cpu"))
    orders, _ = orders_on("bsm", 2, 2, torch.device("cpu"))
    x = torch.randn(4, requires_grad=True)
    x[orders].sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0] * 4

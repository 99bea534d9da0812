"""The 2-D scan mechanisms (paper Fig. 3): orders in which the patches of a grid are visited.

An order is a permutation of the row-major patch indices, so scanning is indexing with it and putting
the patches back is indexing with its inverse.
"""

from functools import lru_cache

import torch
from torch import Tensor

from vlmamba.config import ScanMechanism

NUM_DIRECTIONS: dict[ScanMechanism, int] = {"bsm": 2, "csm": 4}


def scan_orders(mechanism: ScanMechanism, h_p: int, w_p: int) -> Tensor:
    """The visiting orders of a grid of h_p x w_p patches, one row a direction: (directions, p), int64.

    BSM, the Bidirectional-Scan Mechanism: row-major forward and backward.
    CSM, the Cross-Scan Mechanism: row-major, column-major, and both backward, in VMamba's sequence.
    """
    rows = torch.arange(h_p * w_p)
    if mechanism == "bsm":
        return torch.stack([rows, rows.flip(0)])
    columns = rows.view(h_p, w_p).t().reshape(-1)
    return torch.stack([rows, columns, rows.flip(0), columns.flip(0)])


def inverse_orders(orders: Tensor) -> Tensor:
    """The permutations that undo `orders` (directions, p)."""
    return orders.argsort(dim=1)


@lru_cache(maxsize=32)
def orders_on(
    mechanism: ScanMechanism, h_p: int, w_p: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """`scan_orders` and `inverse_orders` on a device, kept so that no forward pass copies them there again."""
    with torch.inference_mode(False):
        orders = scan_orders(mechanism, h_p, w_p)
        return orders.to(device), inverse_orders(orders).to(device)

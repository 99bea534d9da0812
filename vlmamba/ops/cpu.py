"""The CPU backend: the ops in plain PyTorch operations, arranged so that the work stays in the cache.

A just-in-time compiler was measured beside it and gained nothing that its import and compile time would
not take back. Threads are PyTorch's own (`torch.set_num_threads`).
"""

from vlmamba.ops.cpu_conv import causal_conv1d, causal_conv1d_update, gated_conv1d
from vlmamba.ops.cpu_loss import linear_cross_entropy
from vlmamba.ops.cpu_norm import add_rms_norm
from vlmamba.ops.cpu_scan import selective_scan, selective_state_update
from vlmamba.ops.reference import scan_dynamics

__all__ = [
    "add_rms_norm",
    "causal_conv1d",
    "causal_conv1d_update",
    "gated_conv1d",
    "linear_cross_entropy",
    "scan_dynamics",
    "selective_scan",
    "selective_state_update",
]

"""VL-Mamba: a vision-language model whose language model is a Mamba state-space model.

Axes, in every docstring and shape comment: `b` batch, `l` sequence, `p` patches (`h_p` x `w_p`),
`d` model width, `e` inner width, `n` state, `r` dt_rank, `k` d_conv, `v` vocabulary,
`c h w` pixel channels, rows and columns.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlmamba.conversation import Conversation
    from vlmamba.engine.sampling import Sampling
    from vlmamba.state import State
    from vlmamba.vlm import VLM, load

__version__ = "0.1.0"
__all__ = ["VLM", "Conversation", "Sampling", "State", "load"]

_HOME = {
    "Conversation": "vlmamba.conversation",
    "Sampling": "vlmamba.engine.sampling",
    "State": "vlmamba.state",
    "VLM": "vlmamba.vlm",
    "load": "vlmamba.vlm",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used, so that `import vlmamba` does not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'vlmamba' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)

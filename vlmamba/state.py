"""The recurrent state: all that a Mamba language model remembers, the same size whatever it has read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vlmamba.config import MambaConfig

_FORMAT = "vlmamba-state-1"


@dataclass
class State:
    """What `b` sequences have left behind in every layer.

    conv_state (n_layer, b, e, d_conv - 1): the last inputs of each convolution, in the model's dtype;
    ssm_state (n_layer, b, e, n): the scan's state, float32; length (b,): tokens read, image tokens included.
    A forward pass that is given a state continues from it and updates it in place.
    """

    conv_state: Tensor
    ssm_state: Tensor
    length: Tensor

    @classmethod
    def allocate(
        cls,
        config: MambaConfig,
        batch_size: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "State":
        """The state of `batch_size` sequences that have read nothing."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        layers = (config.n_layer, batch_size, config.d_inner)
        return cls(
            torch.zeros((*layers, config.d_conv - 1), device=device, dtype=dtype),
            torch.zeros((*layers, config.d_state), device=device, dtype=wide),
            torch.zeros(batch_size, device=device, dtype=torch.long),
        )

    @property
    def batch_size(self) -> int:
        return self.length.shape[0]

    @property
    def num_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.conv_state, self.ssm_state))

    def select(self, rows: Tensor) -> "State":
        """A copy of the given rows, in that order; a row may be taken several times."""
        return State(
            self.conv_state.index_select(1, rows),
            self.ssm_state.index_select(1, rows),
            self.length.index_select(0, rows),
        )

    def fork(self, k: int) -> "State":
        """k independent copies of every row, a row's copies side by side."""
        rows = torch.arange(self.batch_size, device=self.length.device)
        return self.select(rows.repeat_interleave(k))

    def clone(self) -> "State":
        return self.fork(1)

    def to(self, device: torch.device | str) -> "State":
        return State(self.conv_state.to(device), self.ssm_state.to(device), self.length.to(device))

    def save(
        self, path: str | Path, form: str = _FORMAT, notes: Mapping[str, str] | None = None
    ) -> None:
        """Writes a safetensors file; an existing file is replaced only by a whole new one.

        `form` names what the file is, and `load` must be asked for the same; `notes` are kept beside the tensors.
        """
        path = Path(path)
        tensors = {
            "conv_state": self.conv_state.contiguous(),
            "ssm_state": self.ssm_state.contiguous(),
            "length": self.length,
        }
        partial = path.with_name(path.name + ".partial")
        save_file(tensors, partial, metadata={**(notes or {}), "format": json.dumps(form)})
        partial.replace(path)

    @classmethod
    def load(
        cls, path: str | Path, device: torch.device | str = "cpu", form: str = _FORMAT
    ) -> "State":
        """Reads what `save` wrote; raises ValueError when the file is something else."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such state file")
        try:
            with safe_open(path, "pt", device=str(device)) as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != json.dumps(form):
                    raise ValueError(f"{path} is not a {form} file: write one with State.save")
                names = ("conv_state", "ssm_state", "length")
                state = cls(*(file.get_tensor(name) for name in names))
        except SafetensorError as error:
            raise ValueError(f"{path} is not a readable state file: {error}") from None
        if not all(t.isfinite().all() for t in (state.conv_state, state.ssm_state)):
            raise ValueError(f"{path} holds numbers that are not finite: read the picture again")
        return state

    def difference(self, other: "State") -> float:
        """The largest absolute difference between two states of equal shape."""
        if self.ssm_state.shape != other.ssm_state.shape:
            raise ValueError(
                f"states of shapes {tuple(self.ssm_state.shape)} and {tuple(other.ssm_state.shape)} cannot be compared"
            )
        pairs = ((self.conv_state, other.conv_state), (self.ssm_state, other.ssm_state))
        return max((a.double() - b.double()).abs().max().item() for a, b in pairs)

    def check_fits(self, config: MambaConfig) -> None:
        """Raises ValueError unless a model of this configuration can continue from the state."""
        expected = (config.n_layer, config.d_inner, config.d_state)
        found = (self.ssm_state.shape[0], *self.ssm_state.shape[2:])
        if found != expected:
            raise ValueError(
                f"the state has (layers, inner width, d_state) {found}, the model {expected}: another model made it"
            )

"""The rows of the paper's Tables 2 to 5 at small scale, and the rows that the paper leaves out.

A variant is one model; several tables may have it as a row, and it is trained once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vlmamba.config import ConnectorConfig, VisionLayout

SIZES = ("small", "middle", "large")  # of the language model


@dataclass(frozen=True)
class Variant:
    """A model: its tower's layout, the size of its language model, its connector."""

    name: str
    layout: VisionLayout
    size: str
    connector: ConnectorConfig


def _with(name: str, **connector: str) -> Variant:
    return Variant(name, "siglip", "large", ConnectorConfig(**connector))  # pyright: ignore[reportArgumentType]


# In the order in which they are trained: what the paper's questions need most comes first.
VARIANTS = {
    variant.name: variant
    for variant in (
        _with("mlp", kind="mlp"),
        _with("mlp-wide", kind="mlp-wide"),
        _with("vss-l2-bsm"),
        _with("vss-mlp", kind="vss-mlp"),
        _with("vss-l2-csm", scan="csm"),
        Variant("clip-large", "clip", "large", ConnectorConfig(kind="mlp")),
        Variant("clip-middle", "clip", "middle", ConnectorConfig(kind="mlp")),
        Variant("clip-small", "clip", "small", ConnectorConfig(kind="mlp")),
        _with("vss-l2-bsm-projections", share="projections"),
        _with("vss-l2-csm-projections", scan="csm", share="projections"),
        _with("vss-l2-bsm-sum", merge="sum"),
        _with("vss-l2-csm-sum", scan="csm", merge="sum"),
    )
}


@dataclass(frozen=True)
class Row:
    """A line of a table: its words, the variant that it shows, and the paper's row that it stands for (None: none)."""

    label: str
    variant: str
    paper: str | None = None


@dataclass(frozen=True)
class Ablation:
    """A table of the paper: its rows, and the variants that every other row is compared with."""

    number: int
    title: str
    rows: tuple[Row, ...]
    bases: tuple[str, ...]

    def label(self, variant: str) -> str:
        return next(row.label for row in self.rows if row.variant == variant)


TABLES = {
    table.number: table
    for table in (
        Ablation(
            2,
            "language model (CLIP layout, MLP)",
            (
                Row("small", "clip-small", "Mamba-1.4B"),
                Row("middle", "clip-middle", "Mamba-2.8B-Pile"),
                Row("large", "clip-large", "Mamba-2.8B-Slimpj"),
            ),
            ("clip-small",),
        ),
        Ablation(
            3,
            "vision encoder (large language model, MLP)",
            (
                Row("CLIP layout", "clip-large", "CLIP-ViT-L"),
                Row("SigLIP layout", "mlp", "SigLIP-SO"),
            ),
            ("clip-large",),
        ),
        Ablation(
            4,
            "connector (SigLIP layout, large language model, BSM)",
            (
                Row("MLP", "mlp", "MLP"),
                Row("MLP, as wide as VSS-L2", "mlp-wide"),
                Row("VSS-MLP", "vss-mlp", "VSS-MLP"),
                Row("VSS-L2", "vss-l2-bsm", "VSS-L2"),
            ),
            ("mlp", "mlp-wide"),
        ),
        Ablation(
            5,
            "scan mechanism (SigLIP layout, large language model, VSS-L2)",
            (
                Row("BSM", "vss-l2-bsm", "BSM"),
                Row("CSM", "vss-l2-csm", "CSM"),
                Row("BSM, dynamics for each direction", "vss-l2-bsm-projections"),
                Row("CSM, dynamics for each direction", "vss-l2-csm-projections"),
                Row("BSM, directions summed", "vss-l2-bsm-sum"),
                Row("CSM, directions summed", "vss-l2-csm-sum"),
            ),
            ("vss-l2-bsm",),
        ),
    )
}


def choose_tables(names: Sequence[str]) -> list[Ablation]:
    """The tables by number, or all; raises ValueError for another word."""
    if "all" in names:
        return list(TABLES.values())
    known = {str(number): table for number, table in TABLES.items()}
    for name in names:
        if name not in known:
            raise ValueError(f"there is no table {name!r} to repeat: use 2, 3, 4, 5 or all")
    return [known[name] for name in dict.fromkeys(names)]


def variants_of(tables: Sequence[Ablation]) -> list[Variant]:
    """The models that the tables show, each once, in the order of training."""
    wanted = {row.variant for table in tables for row in table.rows}
    return [variant for name, variant in VARIANTS.items() if name in wanted]

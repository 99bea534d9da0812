"""What every record in `results/` says beside its figures: when, where, and of which code they were taken."""

import datetime
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "vlmamba", "torch", "triton", "transformers", "mambapy", "tokenizers", "typer", "numpy", "pillow",
)  # fmt: skip


def circumstances(command: str, seed: int | None = None) -> dict[str, Any]:
    """The head of a record; versions of packages that are not installed are left out."""
    root = Path(__file__).parent
    commit, changed = (
        subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True).stdout.strip()
        for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit + (" with changes" if changed else ""),
        "seed": seed,
        "hardware": {"cpu": _processor(), "cores": os.cpu_count(), "gpu": gpu},
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

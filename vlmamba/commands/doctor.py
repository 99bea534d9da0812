"""`vlmamba doctor`: what this installation can do here, and why."""

import json
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from vlmamba.commands.failure import BAD_USAGE, FAILED, failing_with

PACKAGES = ("vlmamba", "torch", "triton", "transformers", "tokenizers", "safetensors", "numpy")
PACKAGES += ("pillow", "huggingface_hub")


def doctor(
    json_output: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Show versions, devices, the backends chosen and why, free memory, and a short self test.

    \b
    vlmamba doctor
    vlmamba doctor --json
    """
    with failing_with(
        BAD_USAGE, (ValueError, RuntimeError)
    ):  # a backend that cannot be forced here
        report = {
            "versions": _versions(),
            "devices": _devices(),
            "embedded_model": _embedded_model(),
        }
    report["self_test"] = _self_test(report["embedded_model"] is not None)
    print(json.dumps(report) if json_output else _in_words(report))
    if not report["self_test"]["passed"]:
        raise typer.Exit(FAILED)


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _devices() -> list[dict[str, Any]]:
    import torch

    from vlmamba.engine.graphs import why_no_graphs_on
    from vlmamba.ops.backend import choose

    devices = [("cpu", platform.processor() or platform.machine(), _free_memory_gb())]
    for index in range(torch.cuda.device_count()):
        free, _ = torch.cuda.mem_get_info(index)
        devices.append((f"cuda:{index}", torch.cuda.get_device_name(index), free / 1e9))
    report = []
    for name, model, free_gb in devices:
        choice = choose(torch.device(name))
        entry = {"device": name, "name": model, "free_memory_gb": free_gb}
        entry |= {"backend": choice.backend, "reason": choice.reason}
        why_not = why_no_graphs_on(torch.device(name))
        entry["engine"] = f"module by module: {why_not}" if why_not else "replayed CUDA graphs"
        report.append(entry)
    report[0]["threads"] = torch.get_num_threads()
    return report


def _free_memory_gb() -> float | None:
    """Memory that a new process may take, where Linux tells."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 1e6
    except OSError:
        pass
    return None


def _embedded_model() -> dict[str, Any] | None:
    from vlmamba.vlm import embedded_model

    try:
        directory = embedded_model()
    except FileNotFoundError:
        return None
    num_bytes = sum(file.stat().st_size for file in directory.iterdir() if file.is_file())
    return {"megabytes": num_bytes / 1e6}


def _self_test(ask: bool) -> dict[str, Any]:
    """The ops of every device against their definition, and a question to the embedded model."""
    start = time.perf_counter()
    errors = {}
    try:
        errors = _op_errors()
        answer = _answer() if ask else None
    except Exception as error:  # whatever is broken here is what the report is for
        return {"passed": False, "error": f"{type(error).__name__}: {error}".splitlines()[0]}
    passed = all(error < 1e-3 for error in errors.values()) and answer in (None, "red")
    seconds = time.perf_counter() - start
    return {"passed": passed, "op_errors": errors, "answer": answer, "seconds": seconds}


def _op_errors() -> dict[str, float]:
    """The largest difference between the chosen scan and its definition, by device."""
    import torch

    from vlmamba.ops import selective_scan
    from vlmamba.ops.reference import selective_scan_ref

    generator = torch.Generator().manual_seed(0)
    u, dt, z = torch.randn(3, 2, 67, 16, generator=generator)
    A = -torch.rand(16, 4, generator=generator)
    B, C = torch.randn(2, 2, 67, 4, generator=generator)
    expected, _ = selective_scan_ref(u, dt, A, B, C, z=z, dt_softplus=True)
    errors = {}
    names = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    for name in names:
        args = [tensor.to(name) for tensor in (u, dt, A, B, C)]
        found = selective_scan(*args, z=z.to(name), dt_softplus=True)
        assert isinstance(found, torch.Tensor)
        errors[name] = float((found.cpu() - expected).abs().max())
    return errors


def _answer() -> str:
    """What the embedded model says about a red square on white."""
    from vlmamba.data.painting import Contents, Thing, paint
    from vlmamba.vlm import load

    square = Thing("square", "red", 0.5, 0.5, 0.35)
    return load().ask(
        paint(Contents("shape", "white", (square,)), 128), "What colour is the square?"
    )


def _in_words(report: dict[str, Any]) -> str:
    found = (
        f"{name} {version or 'is not installed'}" for name, version in report["versions"].items()
    )
    lines = ["versions", *(f"  {line}" for line in found), "devices"]
    for device in report["devices"]:
        free = device["free_memory_gb"]
        memory = "" if free is None else f", {free:.1f} GB free"
        threads = f", {device['threads']} threads" if "threads" in device else ""
        lines.append(f"  {device['device']}: {device['name']}{threads}{memory}")
        lines.append(f"    backend {device['backend']}: {device['reason']}")
        lines.append(f"    answers {device['engine']}")
    model = report["embedded_model"]
    lines.append(
        f"embedded model: {model['megabytes']:.1f} MB" if model else "embedded model: not installed"
    )
    test = report["self_test"]
    lines.append(f"self test: {'passed' if test['passed'] else 'FAILED'}")
    if "error" in test:
        lines.append(f"  {test['error']}")
        return "\n".join(lines)
    lines += [
        f"  scan on {name}: largest error {error:.1e}" for name, error in test["op_errors"].items()
    ]
    if test["answer"] is not None:
        lines.append(f"  asked for the colour of a red square: {test['answer']}")
    return "\n".join(lines)

"""Marks of tests of Triton kernels: under the interpreter on the CPU, compiled ahead of time, on a GPU.

Triton decides at import whether to interpret, so interpreted tests run in a process of their own, which one test of
their file starts with `run_interpreted`.
"""

import os
import subprocess
import sys

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in a process with the interpreter")
compiled = pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")


def on_gpu(test):
    """Marks a test that needs a real CUDA device."""
    skip = pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="no CUDA device")
    return pytest.mark.gpu(skip(test))


def run_interpreted(*files: str) -> str:
    """What pytest printed of the files' tests with the interpreter on; fails where one of them fails."""
    command = [sys.executable, "-m", "pytest", "-m", "not gpu", "-p", "no:cacheprovider", *files]
    settings = {"TRITON_INTERPRET": "1", "VLMAMBA_BACKEND": "gpu", "PYTEST_ADDOPTS": ""}
    run = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout

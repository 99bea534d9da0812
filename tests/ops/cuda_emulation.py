"""Compiles the CUDA kernels with g++ against `cuda_emulation.h` and runs them on tensors in main memory."""

import ctypes
import hashlib
import re
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
LAUNCHER = """
static ARGUMENTS arguments;
static void call() { KERNEL(arguments); }
extern "C" void launch(int blocks, int threads, int backwards, const ARGUMENTS* a) {
  arguments = *a;
  emulation::body = call;
  for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) emulation::run_block(threads, backwards);
}
"""


class EmulatedKernel:
    """Takes the place of `cuda_runtime.Kernel`."""

    backwards = False  # the order in which a block's threads run between two barriers

    def __init__(self, library: Path) -> None:
        self._launch = ctypes.CDLL(str(library)).launch

    def launch(
        self, blocks: int, threads: int, shared_bytes: int, arguments: ctypes.Structure
    ) -> None:
        self._launch(blocks, threads, int(self.backwards), ctypes.byref(arguments))


def kernel_in(directory: Path):
    """What takes the place of `cuda_runtime.kernel`; libraries are kept in `directory`."""

    def kernel(source, name, defines, device, shared_bytes):
        # g++ has no shared memory of a size given at launch.
        source = source.replace(
            "extern __shared__ float4 memory[];",
            f"static float4 memory[{shared_bytes // 16 or 1}];",
        )
        struct = re.search(rf"{name}\(const (\w+) a\)", source)[1]
        launcher = LAUNCHER.replace("KERNEL", name).replace("ARGUMENTS", struct)
        flags = [f"-D{key}={value}" for key, value in defines]
        text = f'#include "cuda_emulation.h"\n{source}\n{launcher}'
        stem = hashlib.sha256((text + str(flags)).encode()).hexdigest()
        library = directory / f"{stem}.so"
        if not library.exists():
            command = ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", "-w", f"-I{HERE}", *flags]
            run = subprocess.run(
                [*command, "-x", "c++", "-", "-o", str(library)],
                input=text, capture_output=True, text=True,
            )  # fmt: skip
            assert run.returncode == 0, run.stderr[:4000]
        return EmulatedKernel(library)

    return kernel

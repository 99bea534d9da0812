"""Compiles the CUDA kernels with g++ against a header beside this file and runs them on tensors in main memory."""

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
  emulation::grid = blocks;
  emulation::body = call;
  for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) emulation::run_block(threads, backwards);
}
"""


class EmulatedKernel:
    """Takes the place of `cuda_runtime.Kernel`."""

    backwards = False  # the order in which a block's threads run between two barriers

    def __init__(self, library: Path) -> None:
        self._launch = ctypes.CDLL(str(library)).launch

    def prefer_shared(self) -> None:
        pass

    def launch(
        self,
        blocks: int,
        threads: int,
        shared_bytes: int,
        arguments: ctypes.Structure,
        early: bool = False,
    ) -> None:
        self._launch(blocks, threads, int(self.backwards), ctypes.byref(arguments))


def kernel_in(directory: Path, header: str = "cuda_emulation.h", run: str = "run_block"):
    """What takes the place of `cuda_runtime.kernel`; libraries are kept in `directory`.

    run: the function of the header that runs a block's threads.
    """

    def kernel(source, name, defines, device, shared_bytes, suffix=""):
        # g++ has no shared memory of a size given at launch.
        source = source.replace(
            "extern __shared__ float4 memory[];",
            f"static float4 memory[{-(-shared_bytes // 16) or 1}];",
        )
        struct = re.search(rf"{name}\(const (?:__grid_constant__ )?(\w+) a\)", source)[1]
        launcher = LAUNCHER.replace("KERNEL", name).replace("ARGUMENTS", struct)
        launcher = launcher.replace("run_block", run)
        flags = [f"-D{key}={value}" for key, value in defines]
        text = f'#include "{header}"\n{source}\n{launcher}'
        stem = hashlib.sha256((text + str(flags)).encode()).hexdigest()
        library = directory / f"{stem}.so"
        if not library.exists():
            command = ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", "-w", f"-I{HERE}", *flags]
            compiled = subprocess.run(
                [*command, "-x", "c++", "-", "-o", str(library)],
                input=text, capture_output=True, text=True,
            )  # fmt: skip
            assert compiled.returncode == 0, compiled.stderr[:4000]
        return EmulatedKernel(library)

    return kernel

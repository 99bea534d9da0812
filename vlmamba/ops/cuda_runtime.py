"""CUDA C++ without a compiler at install time: compiled by NVRTC, which torch brings, launched by the driver.

Both libraries are called through ctypes, so nothing is installed for their sake. Compiled kernels are kept in
memory and in the user's cache directory (XDG_CACHE_HOME, else ~/.cache), in files named after everything that
they depend on; a cache that is unreadable, broken or not writable costs the compilation and nothing else.
"""

import ctypes
import hashlib
import os
import site
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Define = tuple[str, int]
OLDEST = (8, 0)  # cp.async
INVALID_CONTEXT = 201
# CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, _PREFERRED_SHARED_MEMORY_CARVEOUT
MAX_DYNAMIC_SHARED_BYTES, SHARED_CARVEOUT = 8, 9
# CU_TENSOR_MAP_DATA_TYPE_..., _SWIZZLE_..., _L2_PROMOTION_...
BFLOAT16, SWIZZLE_128B, PROMOTION_256B = 9, 3, 3
PROGRAMMATIC_STREAM_SERIALIZATION = 6  # CU_LAUNCH_ATTRIBUTE_...


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute."""

    _fields_ = (
        ("id", ctypes.c_int),
        ("pad", ctypes.c_char * 4),
        ("value", ctypes.c_int),
        ("rest", ctypes.c_char * 60),
    )


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p), ("attributes", ctypes.c_void_p), ("num_attributes", ctypes.c_uint),
    )  # fmt: skip


@cache
def unavailable(device: int) -> str | None:
    """Why CUDA C++ cannot be compiled for and run on this CUDA device; None if it can."""
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        return f"compute capability {capability[0]}.{capability[1]} is below 8.0"
    try:
        kernel('extern "C" __global__ void nothing() {}', "nothing", (), device, 0)
    except (OSError, RuntimeError, AttributeError) as error:  # missing, or too old
        return str(error).splitlines()[0]
    return None


class Kernel:
    """One compiled kernel on one device; its only argument is a struct."""

    def __init__(self, cubin: bytes, name: str, device: int) -> None:
        library, self._kernel = ctypes.c_void_p(), ctypes.c_void_p()
        nothing = (None, None, 0, None, None, 0)
        _check(_driver().cuLibraryLoadData(ctypes.byref(library), cubin, *nothing))
        _check(_driver().cuLibraryGetKernel(ctypes.byref(self._kernel), library, name.encode()))
        self._device = device

    def allow_shared(self, num_bytes: int) -> None:
        """Lets a block take more shared memory than the 48 KiB that need no permission."""
        _check(_driver().cuKernelSetAttribute(
            MAX_DYNAMIC_SHARED_BYTES, num_bytes, self._kernel, self._device
        ))  # fmt: skip

    def prefer_shared(self, percent: int = 100) -> None:
        """How much of a multiprocessor's first-level cache shall be shared memory."""
        _check(_driver().cuKernelSetAttribute(SHARED_CARVEOUT, percent, self._kernel, self._device))

    def launch(
        self,
        blocks: int,
        threads: int,
        shared_bytes: int,
        arguments: ctypes.Structure,
        early: bool = False,
    ) -> None:
        """Starts the kernel on torch's current stream of its device.

        `early`: while the kernel before it still runs, for which it then waits itself.
        """
        stream = torch.cuda.current_stream(self._device).cuda_stream
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        attribute = _Attribute(PROGRAMMATIC_STREAM_SERIALIZATION, b"", 1, b"")
        config = _Config(
            (blocks, 1, 1), (threads, 1, 1), shared_bytes, stream, ctypes.addressof(attribute), 1
        )

        def start() -> int:
            if early:
                return _driver().cuLaunchKernelEx(
                    ctypes.byref(config), self._kernel, pointers, None
                )
            return _driver().cuLaunchKernel(
                self._kernel, blocks, 1, 1, threads, 1, 1, shared_bytes, ctypes.c_void_p(stream), pointers, None
            )  # fmt: skip

        status = start()
        if status == INVALID_CONTEXT:  # the first call in a thread, such as autograd's
            context = ctypes.c_void_p()
            _check(_driver().cuDevicePrimaryCtxRetain(ctypes.byref(context), self._device))
            _check(_driver().cuCtxSetCurrent(context))
            status = start()
        _check(status)


@cache
def kernel(
    source: str,
    name: str,
    defines: tuple[Define, ...],
    device: int,
    shared_bytes: int,
    suffix: str = "",
) -> Kernel:
    """The kernel `name` of `source`, compiled with `defines` for `device`, or taken from the cache.

    suffix: "a" for instructions that only this architecture has.
    """
    made = Kernel(cubin(source, defines, f"{_architecture(device)}{suffix}"), name, device)
    if shared_bytes > 48 * 1024:
        made.allow_shared(shared_bytes)
    return made


def cubin(source: str, defines: tuple[Define, ...], architecture: int | str) -> bytes:
    """Machine code for sm_`architecture`, from the cache directory if it is there and whole."""
    options = (f"--gpu-architecture=sm_{architecture}", "--std=c++17")
    options += tuple(f"-D{name}={value}" for name, value in defines)
    key = "\n".join((nvrtc_version(), *options, source))
    path = _cache_directory() / f"{hashlib.sha256(key.encode()).hexdigest()}.cubin"
    try:
        digest, code = path.read_bytes().split(b"\n", 1)
        if digest == hashlib.sha256(code).hexdigest().encode():
            return code
    except (OSError, ValueError):  # absent, or not such a file
        pass
    code = _compile(source, options)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(hashlib.sha256(code).hexdigest().encode() + b"\n" + code)
        os.replace(file.name, path)
    except OSError:  # full, or not ours to write to: compiled again next time
        pass
    return code


def tensor_map(matrix: Tensor, rows: int, columns: int) -> bytes:
    """A CUtensorMap: how the copy engine finds boxes of rows x columns in a bfloat16 matrix (n, k).

    A row of a box is 128 bytes at most, and its sixteens of bytes are swapped; what lies outside the matrix is zeros.
    """
    n, k = matrix.shape
    room = ctypes.create_string_buffer(128 + 64)
    at = -ctypes.addressof(room) % 64  # where the driver wants it
    extent, pitch = (ctypes.c_uint64 * 2)(k, n), (ctypes.c_uint64 * 1)(2 * matrix.stride(0))
    box, every = (ctypes.c_uint32 * 2)(columns, rows), (ctypes.c_uint32 * 2)(1, 1)
    _check(_driver().cuTensorMapEncodeTiled(
        ctypes.c_void_p(ctypes.addressof(room) + at), BFLOAT16, 2, ctypes.c_void_p(matrix.data_ptr()),
        extent, pitch, box, every, 0, SWIZZLE_128B, PROMOTION_256B, 0,
    ))  # fmt: skip
    return room.raw[at : at + 128]


def _cache_directory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vlmamba" / "kernels"


def _compile(source: str, options: tuple[str, ...]) -> bytes:
    """The machine code of `source`. Raises RuntimeError with the compiler's first complaint."""
    nvrtc = _nvrtc()
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), source.encode(), b"vlmamba.cu", 0, None, None
    )  # fmt: skip
    try:
        flags = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if nvrtc.nvrtcCompileProgram(program, len(options), flags):
            nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            complaint = ctypes.create_string_buffer(size.value)
            nvrtc.nvrtcGetProgramLog(program, complaint)
            raise RuntimeError(
                f"NVRTC {nvrtc_version()}: {complaint.value.decode(errors='replace')}"
            )
        nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
        code = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetCUBIN(program, code)
        return code.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


@cache
def nvrtc_version() -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    _nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def _architecture(device: int) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@cache
def _nvrtc() -> Any:
    """The run-time compiler: that of torch's CUDA version where torch has one, else any installed one.

    Raises OSError where there is none.
    """
    version = (torch.version.cuda or "").partition(".")[0]
    pattern = f"nvidia/*/lib/libnvrtc.so.{version or '*'}"
    roots = {*sys.path, *site.getsitepackages(), site.getusersitepackages()}
    found = sorted(path for root in roots for path in Path(root or ".").glob(pattern))
    for name in (*map(str, found), f"libnvrtc.so.{version}" if version else "libnvrtc.so"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise OSError("libnvrtc: install nvidia-cuda-nvrtc")


@cache
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")


def _check(status: int) -> None:
    if status:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(status, ctypes.byref(text))
        raise RuntimeError(f"CUDA driver: {(text.value or b'unknown error').decode()} ({status})")

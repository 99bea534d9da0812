"""Several processes on this machine, as torchrun would start them, but forked from one that has imported torch."""

import multiprocessing
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

# The second is what an optimiser imports at its first step.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["vlmamba.train.runner", "torch._dynamo"])


def launch(world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(*arguments)` returns in each of `world` processes; an exit code where one did not end well."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    started = []
    for rank in range(world):
        ours, theirs = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(
            target=_run, args=(rank, world, port, theirs, function, arguments)
        )
        process.start()
        theirs.close()
        started.append((process, ours))
    results = []
    for process, pipe in started:
        try:
            results.append(pickle.loads(pipe.recv_bytes()))
        except EOFError:
            process.join(60)
            results.append(process.exitcode)
    for process, _ in started:
        process.join(60)
        assert process.exitcode is not None, "a process hangs"
    return results


def _run(
    rank: int, world: int, port: int, pipe: Any, function: Callable[..., Any], arguments: tuple
) -> None:
    import torch

    torch.set_num_threads(1)
    if world > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
            "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
        }  # fmt: skip
    try:
        # Plain pickle copies tensors; multiprocessing's own would share memory of a process about to end.
        pipe.send_bytes(pickle.dumps(function(*arguments)))
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)

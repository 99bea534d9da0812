"""Work in processes: in order, errors as they were raised, and nothing that goes on alone."""

import os
import signal
import subprocess
import sys
import time

import pytest

from vlmamba.data.faults import BadSampleError
from vlmamba.data.processes import spread


def square(n):
    return n * n, os.getpid()


def fail(n):
    if n == 3:
        raise BadSampleError("missing", f"number {n}")
    return n


def die(n):
    if n == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return n


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order(processes):
    results = list(spread(square, range(30), processes))
    assert [result for result, _ in results] == [n * n for n in range(30)]
    assert (os.getpid() in {pid for _, pid in results}) == (processes == 1)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_arrives_as_it_was_raised(processes):
    with pytest.raises(BadSampleError) as caught:
        list(spread(fail, range(30), processes))
    assert (caught.value.reason, caught.value.detail) == ("missing", "number 3")


def test_a_process_that_dies_is_said():
    with pytest.raises(RuntimeError, match="ended from outside"):
        list(spread(die, range(30), 2))


def test_no_process_outlives_its_parent(tmp_path):
    """SIGKILL cannot be caught: the workers notice by themselves."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from vlmamba.data.processes import spread\n"
        "def work(n):\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    list(spread(work, range(4), 2))\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while any(map(alive, workers)):
        assert time.monotonic() < deadline, "a worker is still there"
        time.sleep(0.05)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False

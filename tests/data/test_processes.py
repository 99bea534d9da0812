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


@pytest.fixture
def parent(tmp_path):
    """A process with two workers, in a session of its own as on a terminal; each says its number and works."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, sys, time\n"
        "from vlmamba.commands.interrupt import stoppable\n"
        "from vlmamba.data.processes import spread\n"
        "def work(n):\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(float(sys.argv[1]))\n"
        "if __name__ == '__main__':\n"
        "    with stoppable() as stopped:\n"
        "        print('ready', flush=True)\n"
        "        for _ in spread(work, range(8), 2):\n"
        "            if stopped():\n"
        "                sys.exit(7)\n"
    )
    started = []

    def start(seconds):
        process = subprocess.Popen(
            [sys.executable, str(script), str(seconds)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("delay", [0.05, 0.2, 1.0])
def test_ctrl_c_on_a_terminal_is_heard_by_the_parent_alone(parent, delay):
    """A terminal sends it to all processes; the workers, even while they start, go on to what they do."""
    process = parent(0.3)
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (7, "")


def test_no_process_outlives_its_parent(parent):
    """SIGKILL cannot be caught: the workers notice by themselves."""
    process = parent(60)
    workers = [int(process.stdout.readline()) for _ in range(2)]
    process.kill()
    process.communicate()
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

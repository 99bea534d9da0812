"""How the CUDA scan divides its work, chosen by what was measured on an H100 (docs/kernels.md)."""

from functools import cache
from typing import NamedTuple

# A multiprocessor with w warps of one plan takes about as long as w + IDLE_WARPS busy ones would:
# the fewer warps it has, the longer it waits for memory and for the special-function units.
IDLE_WARPS = 6


class Plan(NamedTuple):
    """The names are those of the .cu files."""

    threads: int
    lanes: int  # that share a channel
    cpt: int  # channels a thread
    tile: int  # positions between two barriers; the backward pass starts each from a saved state
    chunk: int  # positions whose states the backward pass keeps in registers
    keep: int  # 1 where the backward pass keeps decays in registers too, 0 where it computes them twice
    npoly: int  # of a lane's states, how many exponentials are polynomials
    blocks: int  # a multiprocessor: how many the compiler must leave registers for
    work: float  # a warp and position: what measurements give, in units of its own
    segments: int = 1  # of a sequence, which blocks of the backward pass walk one after the other
    cut: bool = False  # or at once, each from what a pass over all of them has found

    @property
    def channels(self) -> int:
        return self.threads // self.lanes * self.cpt


FORWARD = (
    Plan(threads=128, lanes=2, cpt=1, tile=16, chunk=0, keep=0, npoly=0, blocks=5, work=103),
    Plan(threads=128, lanes=4, cpt=1, tile=16, chunk=0, keep=0, npoly=0, blocks=5, work=52),
    Plan(threads=128, lanes=8, cpt=1, tile=32, chunk=0, keep=0, npoly=0, blocks=5, work=33.5),
    Plan(threads=160, lanes=8, cpt=1, tile=32, chunk=0, keep=0, npoly=0, blocks=3, work=33),
)
MANY = Plan(threads=128, lanes=4, cpt=2, tile=16, chunk=8, keep=1, npoly=0, blocks=2, work=260)
FEWER = Plan(threads=128, lanes=8, cpt=2, tile=16, chunk=16, keep=0, npoly=0, blocks=3, work=158)
BACKWARD = (
    MANY,
    MANY._replace(segments=4),
    MANY._replace(segments=16, cut=True, work=320),
    FEWER,
    FEWER._replace(segments=4),
    Plan(threads=160, lanes=8, cpt=1, tile=16, chunk=16, keep=0, npoly=0, blocks=2, work=113),
)
# More than 16 states.
WIDE_FORWARD = (
    Plan(threads=128, lanes=8, cpt=1, tile=32, chunk=0, keep=0, npoly=0, blocks=6, work=22),
)
WIDE_BACKWARD = (
    Plan(threads=128, lanes=8, cpt=1, tile=16, chunk=8, keep=0, npoly=0, blocks=2, work=65),
)


# That pass; how many segments there are is the backward pass's affair.
REACH = Plan(threads=128, lanes=2, cpt=1, tile=16, chunk=0, keep=0, npoly=0, blocks=5, work=0)
WIDE_REACH = Plan(threads=128, lanes=8, cpt=1, tile=16, chunk=0, keep=0, npoly=0, blocks=5, work=0)


def forward_plan(n: int, rows: int, channels: int, multiprocessors: int) -> Plan:
    return _fastest(FORWARD if n <= 16 else WIDE_FORWARD, rows, channels, multiprocessors)


def backward_plan(n: int, rows: int, channels: int, multiprocessors: int) -> Plan:
    return _fastest(BACKWARD if n <= 16 else WIDE_BACKWARD, rows, channels, multiprocessors)


@cache
def _fastest(plans: tuple[Plan, ...], rows: int, channels: int, multiprocessors: int) -> Plan:
    """The plan whose busiest multiprocessor is done first."""

    def duration(plan: Plan) -> float:
        units = rows * -(-channels // plan.channels)
        # With few units, segments in turn leave most of the device idle.
        segments = plan.segments if plan.cut or units > 2 * multiprocessors else 1
        blocks = -(-units * segments // multiprocessors)
        full, rest = divmod(blocks, plan.blocks)
        rounds = [plan.blocks] * full + [rest] * (rest > 0)
        return sum(plan.work * (r * plan.threads // 32 + IDLE_WARPS) for r in rounds) / segments

    return min(plans, key=duration)

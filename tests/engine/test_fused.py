"""The fused kernels of decoding and reading against the modules: interpreted, compiled ahead of time, on a GPU."""

from itertools import zip_longest

import pytest
import torch
from interpreter import compiled, interpreted, on_gpu, run_interpreted
from tiny import tiny_config

from vlmamba.engine import Sampling, generate
from vlmamba.engine.forward import decode, prefill
from vlmamba.engine.graphs import graphs_of, why_not_fused
from vlmamba.model import VLMamba
from vlmamba.ops.reference import causal_conv1d_ref
from vlmamba.state import State

triton = pytest.importorskip("triton")
from vlmamba.engine.fused import FusedStep, Plan, plan_for  # noqa: E402
from vlmamba.engine.fused_read import fused_read  # noqa: E402
from vlmamba.ops import decode as kernels  # noqa: E402
from vlmamba.ops.thin_linear import Tile  # noqa: E402

SMALL = Plan(Tile(64, 32), Tile(64, 32, splits=2), Tile(64, 32), select_splits=2)
PLANS = {
    "a row a program": SMALL,
    "16 rows a program": SMALL._replace(select_rows=16, step_rows=4, dt_proj=Tile(64, 32)),
    "one split": SMALL._replace(select_splits=1, out_proj=Tile(64, 32)),
}


def odd_model(dtype: torch.dtype, device: str = "cpu", **text) -> VLMamba:
    """No width is a power of two, and the parts of a split are not all full."""
    torch.manual_seed(0)
    sizes = {"d_model": 18, "n_layer": 2, "vocab_size": 97, "d_state": 5, "dt_rank": 33} | text
    model = VLMamba(tiny_config(tie_embeddings=False, **sizes))
    model.lm_head.weight.data.normal_()
    return model.to(device, dtype).eval().requires_grad_(False)


def some_state(model: VLMamba, b: int) -> State:
    """What rows may have left behind; row i is the same in every batch."""
    state = model.allocate_state(b)
    for row in range(b):
        make = torch.Generator().manual_seed(row)
        for part in (state.conv_state, state.ssm_state):
            part[:, row] = torch.randn(part[:, row].shape, generator=make).to(part)
    return state


def assert_near(ours: torch.Tensor, right: torch.Tensor, tolerance: float) -> None:
    assert ours.dtype == right.dtype
    assert ours.shape == right.shape
    error = (ours.double() - right.double()).norm() / right.double().norm()
    assert error < tolerance, f"relative error {error:.1e}"


def follow_steps(step, model: VLMamba, b: int, tolerance: float, steps: int = 1) -> None:
    """Steps one after the other, logits and states, with states that hold NaN before."""
    expected, ours = some_state(model, b), some_state(model, b)
    for count in range(steps):
        tokens = ((torch.arange(b) * 7 + count) % model.config.text.vocab_size).to(model.device)
        right = decode(model, tokens, expected)
        after = model.allocate_state(b)
        after.conv_state.fill_(torch.nan)
        after.ssm_state.fill_(torch.nan)
        logits = step(tokens, ours, after)
        ours = after
        assert_near(logits, right, tolerance)
        assert_near(ours.conv_state, expected.conv_state, tolerance)
        assert_near(ours.ssm_state, expected.ssm_state, tolerance)
        assert torch.equal(ours.length, expected.length)


def spoil(step) -> None:
    """Fills a step's buffers with NaN."""
    for buffer in vars(step).values():
        if isinstance(buffer, torch.Tensor):
            buffer.fill_(torch.nan)


def check_steps(model: VLMamba, b: int, plan: Plan, tolerance: float) -> None:
    """Two steps, with buffers that hold NaN before."""
    step = FusedStep(model, b, plan)
    spoil(step)
    follow_steps(step, model, b, tolerance, steps=2)


@interpreted
@pytest.mark.parametrize(("name", "b"), [*zip(PLANS, (3, 8, 1), strict=True)])
def test_steps_equal_the_modules(b, name):
    check_steps(odd_model(torch.float32), b, PLANS[name], 1e-5)


@interpreted
def test_steps_in_bfloat16():
    # The interpreter cuts float32 to bfloat16 where PyTorch rounds.
    check_steps(odd_model(torch.bfloat16, n_layer=1), 3, SMALL, 2e-2)


@interpreted
def test_more_rows_than_a_program_takes():
    model = odd_model(torch.float32, d_model=8, n_layer=1, d_state=2, dt_rank=3)
    check_steps(model, 67, SMALL._replace(select_rows=16, step_rows=4), 1e-5)


@interpreted
@pytest.mark.parametrize("l", [9, 22])
@pytest.mark.parametrize("lengths", [None, [9, 1, 2]])
def test_reading_equals_the_modules(lengths, l):
    check_reading(odd_model(torch.float32), lengths, l, 1e-5)


def check_reading(model: VLMamba, lengths: list[int] | None, l: int, tolerance: float) -> None:
    """Of 3 rows: at a length of 9 few positions, at 22 more than the products of few take."""
    embeds = torch.randn(
        3, l, model.config.text.d_model, generator=torch.Generator().manual_seed(1)
    ).to(model.lm_head.weight)
    expected, ours = some_state(model, 3), some_state(model, 3)
    mask = torch.arange(l) < torch.tensor(lengths or [l] * 3)[:, None]
    right = prefill(model, embeds, mask.to(model.device), expected)
    limit = None if lengths is None else torch.tensor(lengths, device=model.device)
    hidden = fused_read(model.model.language_model, embeds, limit, ours)
    assert_near(model.lm_head(hidden), right, tolerance)
    assert_near(ours.conv_state, expected.conv_state, tolerance)
    assert_near(ours.ssm_state, expected.ssm_state, tolerance)
    assert torch.equal(ours.length, expected.length)


@interpreted
@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("l", [1, 2, 7])
def test_last_inputs_equal_the_definition(l, width):
    x = torch.randn(2, l, 10)[..., :5]
    state = torch.randn(3, 2, 5, width - 1)
    expected, ours = state.clone(), state
    _, expected[1] = causal_conv1d_ref(x, torch.ones(5, width), initial_state=state[1])
    kernels.keep_inputs(x, ours[1], None)
    assert torch.equal(ours, expected)
    lengths = torch.tensor([l, 1])
    _, expected[1, 1] = causal_conv1d_ref(
        x[1:, :1], torch.ones(5, width), initial_state=state[1, 1:]
    )
    _, expected[1, :1] = causal_conv1d_ref(x[:1], torch.ones(5, width), initial_state=state[1, :1])
    kernels.keep_inputs(x, ours[1], lengths)
    assert torch.equal(ours, expected)


@compiled
def test_the_interpreted_tests_pass():
    assert "passed" in run_interpreted(__file__)


def test_what_the_kernels_do_not_know_is_named():
    model = odd_model(torch.float32)
    assert why_not_fused(model) is None
    assert why_not_fused(odd_model(torch.float64)) == "torch.float64 has no fused kernels"
    handle = model.model.vision_tower.encoder.register_forward_hook(lambda *_: None)
    assert why_not_fused(model) == "model.vision_tower.encoder carries a hook"
    handle.remove()

    class Adapter(torch.nn.Linear):
        pass

    mixer = model.model.language_model.layers[1].mixer
    mixer.in_proj = Adapter(18, 72, bias=False).requires_grad_(False)
    assert why_not_fused(model) == "layers.1.mixer.in_proj is a Adapter"


def test_without_a_gpu_there_are_no_graphs():
    assert graphs_of(odd_model(torch.float32)) is None


# On a GPU.


@on_gpu
@pytest.mark.parametrize("b", [1, 3, 8, 17, 64, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_on_the_device(b, dtype):
    check_steps(odd_model(dtype, "cuda"), b, plan_for(b), 1e-4 if dtype == torch.float32 else 2e-2)


@on_gpu
def test_steps_at_the_published_width():
    model = odd_model(
        torch.bfloat16, "cuda", d_model=2560, d_state=16, dt_rank=160, vocab_size=50280
    )
    for b in (1, 8, 64):
        check_steps(model, b, plan_for(b), 2e-2)


@on_gpu
@pytest.mark.parametrize("batches", [(1, 2, 8), (16, 24, 64, 70)])
def test_a_row_has_the_same_bits_in_any_batch_of_its_plan(batches):
    model = odd_model(torch.bfloat16, "cuda", d_model=1024, d_state=16, dt_rank=64, vocab_size=5000)
    alone = {}
    for b in batches:
        after = model.allocate_state(b)
        logits = FusedStep(model, b)(torch.arange(b, device="cuda"), some_state(model, b), after)
        for row in (0, b // 2, b - 1):
            one = model.allocate_state(1)
            if row not in alone:
                before = some_state(model, row + 1).select(torch.tensor([row], device="cuda"))
                tokens = torch.tensor([row], device="cuda")
                step = FusedStep(model, 1, plan_for(batches[0]))
                alone[row] = step(tokens, before, one)[0], one
            right, one = alone[row]
            assert torch.equal(logits[row], right), (b, row)
            assert torch.equal(after.ssm_state[:, row], one.ssm_state[:, 0])
            assert torch.equal(after.conv_state[:, row], one.conv_state[:, 0])


@on_gpu
@pytest.mark.parametrize("l", [9, 22])
@pytest.mark.parametrize("lengths", [None, [9, 1, 2]])
def test_reading_on_the_device(lengths, l):
    check_reading(odd_model(torch.float32, "cuda"), lengths, l, 1e-4)


@on_gpu
@pytest.mark.parametrize("l", [9, 30, 75])
@pytest.mark.parametrize("lengths", [None, [9, 1, 2]])
def test_reading_in_bfloat16_on_the_device(lengths, l):
    """As wide as the kernels of many positions ask, which a model of odd width does not take."""
    model = odd_model(torch.bfloat16, "cuda", d_model=64, d_state=16, dt_rank=32)
    check_reading(model, lengths, l, 2e-2)


def tokens_of(generation) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in generation.finish_reasons]
    for step in generation:
        for row, token in zip(step.rows, step.tokens, strict=True):
            rows[row].append(token)
            if len(rows[row]) == 5 + 2 * row:  # rows end at different steps
                generation.finish(row)
    return rows


@on_gpu
def test_graphs_write_what_the_modules_write(monkeypatch):
    """In float32, prompts of unequal length, twice over, so that the second time all is replayed."""
    model = odd_model(torch.float32, "cuda")
    ids = torch.randint(3, 97, (6, 11), generator=torch.Generator().manual_seed(2)).cuda()
    mask = torch.arange(11) < torch.tensor([11, 3, 7, 1, 9, 5])[:, None]
    mask = mask.cuda()
    written = {}
    for way in ("modules", "graphs", "replayed"):
        with monkeypatch.context() as patch:
            if way == "modules":
                patch.setattr("vlmamba.engine.generation.graphs_of", lambda _: None)
            state = model.allocate_state(6)
            rows = tokens_of(
                generate(model, ids, attention_mask=mask, state=state, sampling=Sampling(20))
            )
            written[way] = rows, state
    assert graphs_of(model) is not None
    for way in ("graphs", "replayed"):
        assert written[way][0] == written["modules"][0]
        assert_near(written[way][1].ssm_state, written["modules"][1].ssm_state, 1e-4)
        assert torch.equal(written[way][1].length, written["modules"][1].length)


@on_gpu
def test_two_generations_at_once_do_not_disturb_each_other():
    model = odd_model(torch.float32, "cuda")
    prompts = [torch.tensor([[5, 6, 7]]).cuda(), torch.tensor([[50, 3, 9]]).cuda()]
    alone = [[s.tokens for s in generate(model, p, sampling=Sampling(12))] for p in prompts]
    pair = [generate(model, p, sampling=Sampling(12)) for p in prompts]
    together: list[list[list[int]]] = [[], []]
    for steps in zip_longest(*pair):  # the one may end before the other
        for tokens, step in zip(together, steps, strict=True):
            tokens += [] if step is None else [step.tokens]
    assert together == alone


@on_gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_waits_for_the_device_before_the_first_token_does(temperature):
    """Prompts of unequal length with a picture, given on the CPU; the second time, when all is replayed."""
    model = odd_model(torch.float32, "cuda")
    vision = model.config.vision
    ids = torch.randint(3, 90, (2, 20))
    ids[0, : vision.num_patches] = model.config.image_token_id
    mask = torch.arange(20) < torch.tensor([20, 7])[:, None]
    pixels = torch.randn(1, 3, vision.image_size, vision.image_size, device="cuda")
    sampling = Sampling(4, temperature=temperature, seed=0)
    firsts = []
    for time in range(4):
        torch.cuda.set_sync_debug_mode("error" if time == 3 else "default")
        try:
            generation = generate(model, ids, pixels, attention_mask=mask, sampling=sampling)
            firsts.append(next(generation).tokens)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        generation.close()
    assert firsts == firsts[:1] * 4


@on_gpu
def test_changed_weights_are_seen():
    model = odd_model(torch.float32, "cuda")
    ids = torch.tensor([[5, 6, 7]]).cuda()
    first = [[s.tokens for s in generate(model, ids, sampling=Sampling(8))] for _ in range(3)]
    assert first[0] == first[1] == first[2]
    model.lm_head.weight.neg_()
    other = [s.tokens for s in generate(model, ids, sampling=Sampling(8))]
    assert other != first[0]


@on_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_another_gpu_than_the_current_one_answers_as_it_does():
    vision = odd_model(torch.float32, "cpu").config.vision
    pixels = torch.randn(1, 3, vision.image_size, vision.image_size)
    said = []
    for device in ("cuda:0", "cuda:1"):
        model = odd_model(torch.float32, device)
        ids = torch.tensor([[model.config.image_token_id] * vision.num_patches + [5, 6, 7]])
        for _ in range(3):  # the second time it is recorded, the third replayed
            steps = generate(model, ids, pixels.to(device), sampling=Sampling(8))
            said.append([step.tokens for step in steps])
    assert all(tokens == said[0] for tokens in said)

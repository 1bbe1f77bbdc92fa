"""Window models: what was not seen yet changes nothing, every parameter learns, and shapes are checked."""

import pytest
import torch
from early_persistence_detection.models.window_models import WINDOW_MODELS, build_window_model, padded_prefix
from hypothesis import given, settings
from hypothesis import strategies as st
from run_directory import InputError
from torchvision.models.video import mvit_v2_s
from torchvision.ops import StochasticDepth

NUM_FRAMES, SIZE = 8, 32  # the least that all of them take, and quick
# of MViT's last block: what shapes the answers to all queries but the class token's, the only one that its head reads
WITHOUT_EFFECT = {
    f"network.blocks.15.attn.{name}" for name in ("rel_pos_h", "rel_pos_w", "rel_pos_t", "pool_q.pool.weight")
}


@pytest.fixture(scope="module")
def small():
    """Each model in evaluation mode, built for short and small clips."""
    torch.manual_seed(0)
    return {name: build_window_model(name, NUM_FRAMES, SIZE).eval() for name in WINDOW_MODELS}


@given(st.integers(1, 5), st.integers(1, NUM_FRAMES), st.integers(0, 2**31))
def test_a_padded_prefix_repeats_the_last_frame_seen(batch, age, seed):
    clips = torch.rand(batch, NUM_FRAMES, 2, 3, generator=torch.Generator().manual_seed(seed))
    padded = padded_prefix(clips, age)
    assert padded.shape == clips.shape
    for t in range(NUM_FRAMES):
        assert torch.equal(padded[:, t], clips[:, min(t, age - 1)])
    assert torch.equal(padded_prefix(padded, age), padded)


@given(st.lists(st.integers(1, NUM_FRAMES), min_size=1, max_size=5))
def test_each_clip_may_have_its_own_age(ages):
    clips = torch.rand(len(ages), NUM_FRAMES, 4)
    one_by_one = [padded_prefix(clips[row : row + 1], age) for row, age in enumerate(ages)]
    assert torch.equal(padded_prefix(clips, torch.tensor(ages)), torch.cat(one_by_one))


@settings(max_examples=6, deadline=None)
@given(name=st.sampled_from(WINDOW_MODELS), age=st.integers(1, NUM_FRAMES - 1), seed=st.integers(0, 2**31))
def test_the_answer_at_an_age_does_not_depend_on_later_frames(small, name, age, seed):
    generator = torch.Generator().manual_seed(seed)
    clips = torch.rand(2, NUM_FRAMES, 3, SIZE, SIZE, generator=generator) * 2 - 1
    other = clips.clone()
    other[:, age:] = torch.rand(2, NUM_FRAMES - age, 3, SIZE, SIZE, generator=generator) * 2 - 1
    with torch.inference_mode():
        answer = small[name](padded_prefix(clips, age))
        assert torch.equal(answer, small[name](padded_prefix(other, age)))
        assert not torch.equal(small[name](clips), small[name](other))  # without padding it would


@pytest.mark.parametrize("name", WINDOW_MODELS)
def test_a_step_on_whole_clips_reaches_every_parameter(name):
    torch.manual_seed(0)
    model = build_window_model(name)
    for module in model.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.0  # with 2 clips it may drop a block for both
    logits = model(torch.rand(2, 16, 3, 64, 64) * 2 - 1)
    assert logits.shape == (2,) and torch.isfinite(logits).all()
    torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor([0.0, 1.0])).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), parameter_name
        assert bool(parameter.grad.any()) != (name == "mvit_v2_s" and parameter_name in WITHOUT_EFFECT), parameter_name


def test_mvit_differs_from_the_library_in_the_window_only():
    def shapes(network):
        named = network.named_parameters()
        return {name: tuple(value.shape) for name, value in named if "rel_pos" not in name and "head" not in name}

    def settings_of(network):
        kept = ("kernel_size", "stride", "num_heads", "p", "residual_pool", "residual_with_cls_embed")
        modules = network.named_modules()
        return {(name, key): getattr(module, key) for name, module in modules for key in kept if hasattr(module, key)}

    with torch.device("meta"):
        theirs = mvit_v2_s(weights=None)
        ours = build_window_model("mvit_v2_s").network
    assert shapes(ours) == shapes(theirs)
    assert settings_of(ours) == settings_of(theirs)
    assert ours.blocks[0].attn.rel_pos_h.shape < theirs.blocks[0].attn.rel_pos_h.shape


def test_the_seed_makes_the_weights():
    first, second = (build_window_model("s3d", NUM_FRAMES, SIZE) for _ in [torch.manual_seed(3)] * 2)
    torch.manual_seed(3)
    again = build_window_model("s3d", NUM_FRAMES, SIZE)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_an_unknown_name_is_answered_with_the_valid_ones():
    with pytest.raises(InputError, match=r"r2d2.*r3d_18, s3d, mvit_v2_s"):
        build_window_model("r2d2")


@pytest.mark.parametrize(("num_frames", "size"), [(12, 64), (16, 60), (0, 64), (16, 0)])
def test_windows_that_do_not_divide_are_refused(num_frames, size):
    with pytest.raises(ValueError, match="multiple"):
        build_window_model("s3d", num_frames, size)


def test_clips_of_another_shape_are_refused(small):
    with pytest.raises(ValueError, match=r"expected \(B, 8, 3, 32, 32\), got \(2, 16, 3, 32, 32\)"):
        small["s3d"](torch.zeros(2, 16, 3, 32, 32))


@pytest.mark.parametrize("age", [0, NUM_FRAMES + 1, torch.tensor([1, 0])])
def test_ages_outside_the_clip_are_refused(age):
    with pytest.raises(ValueError, match="from 1 to 8"):
        padded_prefix(torch.zeros(2, NUM_FRAMES, 3), age)

"""The streaming classifier is causal, streams exactly, and treats every track alone."""

import numpy as np
import pytest
import torch
from early_persistence_detection.models.calibration import Calibration
from early_persistence_detection.models.early_persistence_classifier import ClassifierConfig, EarlyPersistenceClassifier
from early_persistence_detection.models.extractors.i3d import I3DConfig
from early_persistence_detection.models.extractors.magvit_tokenizer import TokenizerConfig
from early_persistence_detection.models.extractors.slowfast import SlowFastConfig
from early_persistence_detection.models.extractors.transformer import TransformerConfig
from early_persistence_detection.models.tensor_state import frames_to_input
from hypothesis import given, settings
from hypothesis import strategies as st

NUM_FRAMES = 16


SMALL = {
    "magvit": TokenizerConfig(channels=(8, 16, 24)),
    "i3d": I3DConfig(width_divisor=16),
    "slowfast": SlowFastConfig((8, 12, 16, 16), (4, 6, 8, 8), interval=3),
    "transformer": TransformerConfig(width=32, num_layers=2, window=5),
}


@pytest.fixture(scope="module", params=SMALL)
def model(request) -> EarlyPersistenceClassifier:
    torch.manual_seed(0)
    model = EarlyPersistenceClassifier(SMALL[request.param], ClassifierConfig(width=32, num_heads=4, state_width=24))
    # a model whose outputs move with its input, and a calibration that differs from age to age
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    scale, shift = torch.linspace(0.5, 2, NUM_FRAMES), torch.linspace(-0.2, 0.2, NUM_FRAMES)
    model.set_calibration(Calibration(tuple(scale.tolist()), tuple(shift.tolist()), 0.9))
    return model.eval()


def random_clips(seed: int, batch: int, frames: int = NUM_FRAMES) -> torch.Tensor:
    return torch.rand(batch, frames, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def streamed(model: EarlyPersistenceClassifier, clips: torch.Tensor) -> torch.Tensor:
    state, outputs = model.initial_state(len(clips)), []
    for frame in clips.unbind(1):
        p, state = model.step(frame, None, state)
        outputs.append(p)
    return torch.stack(outputs, dim=1)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), batch=st.integers(1, 5), frames=st.integers(1, NUM_FRAMES))
@torch.inference_mode()
def test_step_equals_forward_at_every_prefix(model, seed, batch, frames):
    clips = random_clips(seed, batch, frames)
    torch.testing.assert_close(streamed(model, clips), model(clips), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_the_output_depends_on_the_input(model):
    p = model(random_clips(0, 4))
    assert p.std() > 1e-3 and ((p > 0) & (p < 1)).all()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), changed_from=st.integers(1, NUM_FRAMES - 1))
@torch.inference_mode()
def test_future_frames_leave_earlier_outputs_bit_identical(model, seed, changed_from):
    clips = random_clips(seed, 2)
    altered = clips.clone()
    altered[:, changed_from:] = random_clips(seed + 1, 2)[:, changed_from:]
    before, after = model(clips), model(altered)
    assert torch.equal(before[:, :changed_from], after[:, :changed_from])
    assert not torch.equal(before[:, changed_from:], after[:, changed_from:])


@torch.inference_mode()
def test_future_frames_leave_earlier_tokens_bit_identical(model):
    clips = random_clips(3, 2)
    altered = clips.clone()
    altered[:, 9:] = -altered[:, 9:]
    assert torch.equal(model.extractor.encode(clips)[0][:, :9], model.extractor.encode(altered)[0][:, :9])
    if model.extractor_name == "magvit":  # its decoder too
        assert torch.equal(model.extractor(clips)[0][:, :9], model.extractor(altered)[0][:, :9])


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**31), companions=st.integers(1, 6))
@torch.inference_mode()
def test_companions_in_the_batch_do_not_matter(model, seed, companions):
    clip, others = random_clips(seed, 1), random_clips(seed + 1, companions)
    alone = model(clip)
    torch.testing.assert_close(model(torch.cat([clip, others]))[:1], alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(model(torch.cat([others, clip]))[-1:], alone, atol=1e-6, rtol=0)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**31), first_age=st.integers(0, 6), second_age=st.integers(0, 6))
@torch.inference_mode()
def test_tracks_of_different_ages_share_a_batch(model, seed, first_age, second_age):
    """Tracks join and leave mid-stream; each goes on as if it were alone."""
    first, second = random_clips(seed, 2), random_clips(seed + 1, 3)
    expected = torch.cat([model(first)[:, : first_age + 4], torch.zeros(2, 0)], dim=1), model(second)
    states = []
    for clips, age in ((first, first_age), (second, second_age)):
        state = model.initial_state(len(clips))
        for frame in clips[:, :age].unbind(1):
            _, state = model.step(frame, None, state)
        states.append(state)
    state = states[0].append(states[1])
    for offset in range(2):
        p, state = model.step(torch.cat([first[:, first_age + offset], second[:, second_age + offset]]), None, state)
        torch.testing.assert_close(p[:2], expected[0][:, first_age + offset], atol=1e-5, rtol=0)
        torch.testing.assert_close(p[2:], expected[1][:, second_age + offset], atol=1e-5, rtol=0)
    state = state.select(torch.tensor([4, 0]))
    assert state.age.tolist() == [second_age + 2, first_age + 2]
    p, _ = model.step(torch.stack([second[2, second_age + 2], first[0, first_age + 2]]), None, state)
    torch.testing.assert_close(
        p, torch.stack([expected[1][2, second_age + 2], expected[0][0, first_age + 2]]), atol=1e-5, rtol=0
    )


@torch.inference_mode()
def test_explicit_attention_is_the_same_function(model):
    clips = random_clips(5, 3)
    p, attention = model.forward_with_attention(clips)
    torch.testing.assert_close(p, model(clips), atol=1e-6, rtol=0)
    assert attention.shape == (3, NUM_FRAMES, NUM_FRAMES, 64)
    torch.testing.assert_close(attention.sum((2, 3)), torch.ones(3, NUM_FRAMES), atol=1e-5, rtol=0)
    future = torch.ones(NUM_FRAMES, NUM_FRAMES).triu(1).bool()
    assert (attention[:, future] == 0).all()


@torch.inference_mode()
def test_removed_tokens_pass_nothing_on(model):
    """What a removed token held makes no difference; removing nothing changes nothing."""
    clips = random_clips(6, 2)
    removed = torch.zeros(2, NUM_FRAMES, 64, dtype=torch.bool)
    torch.testing.assert_close(model(clips, removed), model(clips), atol=1e-6, rtol=0)
    removed[:, :5] = True  # every token of the first five frames
    codes = model.extractor.encode(clips)[0]
    other = codes.clone()
    other[:, :5] = -other[:, :5]
    assert torch.equal(model.head(codes, removed)[0], model.head(other, removed)[0])
    assert not torch.equal(model.head(codes)[0], model.head(other)[0])
    assert torch.isfinite(model(clips, removed | True)).all()


@torch.inference_mode()
def test_a_finished_track_cannot_be_stepped_further(model):
    clips = random_clips(7, 1)
    state = model.initial_state(1)
    for frame in clips.unbind(1):
        _, state = model.step(frame, None, state)
    with pytest.raises(ValueError, match="16 frames old"):
        model.step(clips[:, 0], None, state)


@pytest.mark.parametrize("shape", [(2, 17, 3, 64, 64), (2, 0, 3, 64, 64), (2, 4, 64, 64, 3), (4, 3, 64, 64)])
def test_wrong_shapes_are_refused(model, shape):
    with pytest.raises(ValueError, match="expected"):
        model(torch.zeros(shape))


@torch.inference_mode()
def test_no_tracks_at_all_are_refused(model):
    _, state = model.step(random_clips(8, 1)[:, 0], None, model.initial_state(1))
    with pytest.raises(ValueError, match="at least one"):
        model.step(torch.zeros(0, 3, 64, 64), None, state.select(torch.zeros(0, dtype=torch.long)))


def test_pixels_to_input():
    pixels = np.zeros((2, 64, 64, 3), np.uint8)
    pixels[0, 1, 2] = (255, 0, 51)
    tensor = frames_to_input(pixels)
    assert tensor.shape == (2, 3, 64, 64) and tensor.dtype == torch.float32
    torch.testing.assert_close(tensor[0, :, 1, 2], torch.tensor([1.0, -1.0, -0.6]), atol=1e-6, rtol=0)


def test_the_calibration_is_set_in_one_way_which_moves_the_probabilities_too():
    config = next(iter(SMALL.values()))
    model = EarlyPersistenceClassifier(config, ClassifierConfig(width=32, num_heads=4, state_width=24))
    logits, ages = torch.zeros(1, model.num_frames), torch.arange(model.num_frames)
    shifted = Calibration((1.0,) * model.num_frames, (2.0,) * model.num_frames, 0.9)
    with pytest.raises(AttributeError, match="calibration"):
        model.calibration = shifted
    model.set_calibration(shifted)
    assert model.calibration == shifted
    torch.testing.assert_close(model.probability(logits, ages), torch.full_like(logits, 2.0).sigmoid())

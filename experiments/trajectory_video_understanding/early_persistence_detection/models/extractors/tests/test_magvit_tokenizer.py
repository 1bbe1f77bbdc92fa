"""The tokenizer's quantizer, its loss, and the measure that tells a collapsed codebook from a healthy one."""

import numpy as np
import pytest
import torch
from early_persistence_detection.models.extractors.magvit_tokenizer import (
    MagvitTokenizer,
    TokenizerConfig,
    perplexity,
    reconstruction_loss,
)
from early_persistence_detection.models.object_tokens import object_mask
from early_persistence_detection.models.tensor_state import frames_to_input
from early_persistence_detection.training.tokenizer_health import require_healthy
from run_directory import InputError


@pytest.fixture(scope="module")
def tokenizer() -> MagvitTokenizer:
    torch.manual_seed(0)
    return MagvitTokenizer(TokenizerConfig(channels=(8, 16, 24))).eval()


@torch.inference_mode()
def test_codes_and_indices_agree(tokenizer):
    frames = torch.rand(2, 3, 3, 64, 64) * 2 - 1
    latents, _ = tokenizer.latents(frames)
    codes, indices = tokenizer.quantize(20 * latents)
    assert codes.shape == (2, 3, 64, 4) and indices.shape == (2, 3, 64)
    assert indices.min() >= 0 and indices.max() < tokenizer.codebook_size == 1000
    assert len(indices.unique()) > 10
    assert torch.equal(tokenizer.codes_of(indices), codes)


def test_gradients_pass_through_the_quantizer(tokenizer):
    frames = torch.rand(1, 2, 3, 64, 64) * 2 - 1
    reconstruction, _ = tokenizer(frames)
    assert reconstruction.shape == frames.shape
    reconstruction.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in tokenizer.encoder[0].conv.parameters())
    tokenizer.zero_grad()


def test_perplexity_counts_the_codes_in_use():
    assert perplexity(torch.full((5, 7), 3), 1000) == pytest.approx(1)
    assert perplexity(torch.arange(40).repeat(3), 1000) == pytest.approx(40)


def test_object_pixels_weigh_four_times():
    frames, reconstruction = torch.zeros(1, 1, 3, 64, 64), torch.zeros(1, 1, 3, 64, 64)
    mask = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    mask[..., :32] = True
    reconstruction[..., :32] = 1.0  # wrong on the object half only
    assert float(reconstruction_loss(reconstruction, frames, mask, 4.0)) == pytest.approx(0.8)
    assert float(reconstruction_loss(reconstruction, frames, ~mask, 4.0)) == pytest.approx(0.2)


def test_object_mask_draws_ellipses_and_ignores_what_is_unseen():
    objects = torch.full((1, 2, 3, 4), float("nan"))
    objects[0, 0, 1] = torch.tensor([20.0, 40.0, 10.0, 5.0])
    mask = object_mask(objects)
    assert mask.shape == (1, 2, 64, 64) and not mask[0, 1].any()
    assert int(mask[0, 0].sum()) == pytest.approx(np.pi * 10 * 5, rel=0.05)
    assert mask[0, 0, 40, 20] and mask[0, 0, 40, 28] and not mask[0, 0, 47, 20]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"object_codebook_perplexity": 1.7}, "collapsed"), ({"object_psnr_db": 12.0}, "does not see the objects")],
)
def test_a_collapsed_tokenizer_is_refused(change, message):
    healthy = {
        "object_codebook_perplexity": 200.0,
        "codebook_size": 1000,
        "object_psnr_db": 25.0,
        "object_psnr_trivial_background_db": 11.0,
    }
    require_healthy(healthy)
    with pytest.raises(InputError, match=message):
        require_healthy(healthy | change)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8])
@torch.inference_mode()
def test_latents_do_not_depend_on_the_batch_size(batch_size):
    """To the bit, at the size that is trained: a latent on the edge between two codes must round the same way."""
    torch.manual_seed(0)
    tokenizer = MagvitTokenizer().eval()
    pixels = torch.randint(0, 256, (64, 1, 64, 64, 3), dtype=torch.uint8)
    pixels[::4] = 90  # blank frames, whose constant latents are the likeliest to lie on an edge
    frames = frames_to_input(pixels)
    together, _ = tokenizer.latents(frames)
    apart = torch.cat([tokenizer.latents(part)[0] for part in frames.split(batch_size)])
    assert torch.equal(together, apart)


def test_more_codes_than_are_stored_are_refused():
    TokenizerConfig(levels=(8, 8, 8, 8, 8))  # 2 ** 15, the most
    with pytest.raises(ValueError, match="more than 32768"):
        TokenizerConfig(levels=(9, 8, 8, 8, 8))

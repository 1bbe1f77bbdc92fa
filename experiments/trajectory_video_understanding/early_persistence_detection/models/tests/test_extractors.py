"""Every extractor is causal, streams exactly in chunks of any length, and is as large as its size promises."""

import dataclasses
import itertools

import pytest
import torch
from early_persistence_detection.models.checkpoint import load_model, save_model
from early_persistence_detection.models.early_persistence_classifier import (
    ClassifierConfig,
    EarlyPersistenceClassifier,
    PixelsToLogits,
)
from early_persistence_detection.models.efficiency_metrics import flops_of_step
from early_persistence_detection.models.extractors.registry import CONFIGS, EXTRACTORS, SIZES, build_extractor, name_of
from early_persistence_detection.models.extractors.slowfast import SlowFast, SlowFastConfig
from hypothesis import given, settings
from hypothesis import strategies as st
from run_directory import InputError

NUM_FRAMES = 16
CPU = torch.device("cpu")


def random_clips(seed: int, batch: int, frames: int = NUM_FRAMES) -> torch.Tensor:
    return torch.rand(batch, frames, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module", params=EXTRACTORS)
def extractor(request):
    torch.manual_seed(0)
    return build_extractor(CONFIGS[request.param]["small"]).eval()


@torch.inference_mode()
def test_tokens_are_a_grid_per_frame_and_depend_on_the_frame(extractor):
    clips = random_clips(0, 2, 5)
    tokens, _ = extractor.encode(clips)
    assert tokens.shape == (2, 5, 64, extractor.code_dim) and torch.isfinite(tokens).all()
    assert tokens.std() > 1e-3 and not torch.equal(tokens[0], tokens[1])


@settings(max_examples=6, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=2, max_size=5), seed=st.integers(0, 2**31))
@torch.inference_mode()
def test_chunks_of_a_clip_give_the_tokens_of_the_whole(extractor, lengths, seed):
    clips = random_clips(seed, 2, sum(lengths))
    whole, _ = extractor.encode(clips)
    cache, parts = None, []
    for chunk in clips.split(lengths, dim=1):
        tokens, cache = extractor.encode(chunk, cache)
        parts.append(tokens)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_tokens_remember_the_past_and_know_nothing_of_the_future(extractor):
    clips = random_clips(1, 1, 8)
    altered = clips.clone()
    altered[:, 4] = -altered[:, 4]
    before, after = extractor.encode(clips)[0], extractor.encode(altered)[0]
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 5], after[:, 5])


@torch.inference_mode()
def test_zeros_are_the_cache_of_an_unseen_track(extractor):
    _, cache = extractor.encode(random_clips(2, 3, 1))
    clips = random_clips(3, 3, 4)
    torch.testing.assert_close(
        extractor.encode(clips, cache.unseen(3))[0], extractor.encode(clips)[0], atol=1e-5, rtol=0
    )


def test_every_weight_learns_from_the_classifiers_loss(extractor):
    head = EarlyPersistenceClassifier(extractor.config, ClassifierConfig()).head
    network = PixelsToLogits(extractor, head)
    network.zero_grad()
    logits, attention = network(random_clips(4, 2, 9), explicit=True)
    (logits.square().sum() + attention[..., 0].sum()).backward()
    for name, parameter in network.named_parameters():
        if "decoder" in name or "from_code" in name or "to_pixels" in name:  # of the tokenizer's reconstruction
            continue
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_mixed_precision_trains_every_extractor(extractor):
    head = EarlyPersistenceClassifier(extractor.config, ClassifierConfig()).head
    network = PixelsToLogits(extractor, head).eval()  # no dropout
    clips = random_clips(11, 1, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, attention = network(clips, explicit=True)
        loss = logits.float().square().sum() + attention.float().square().sum()
    loss.backward()
    assert torch.isfinite(loss)
    with torch.no_grad():
        torch.testing.assert_close(logits.float(), network(clips)[0], atol=0.1, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_the_sizes_are_within_a_factor_of_two_in_work_per_new_frame(size):
    flops = {}
    for name in EXTRACTORS:
        model = EarlyPersistenceClassifier(CONFIGS[name][size], ClassifierConfig()).eval()
        assert model.extractor_name == name
        flops[name] = flops_of_step(model, CPU).mean()
    assert max(flops.values()) < 2 * min(flops.values()), flops


@torch.inference_mode()
def test_the_slow_pathway_works_every_few_frames_only():
    torch.manual_seed(1)
    extractor = SlowFast(SlowFastConfig(interval=3)).eval()
    slow = extractor.config.slow_channels[-1]
    tokens = extractor.encode(random_clips(5, 1, 8))[0][0, :, :, :slow]
    changes = [not torch.equal(before, after) for before, after in itertools.pairwise(tokens)]
    assert changes == [False, False, True, False, False, True, False]
    model = EarlyPersistenceClassifier(extractor.config, ClassifierConfig()).eval()
    flops = flops_of_step(model, CPU)
    dear, cheap = flops[[0, 3, 6, 9, 12, 15]], flops[[1, 2, 4, 5, 7, 8, 10, 11, 13, 14]]
    assert dear.min() > 2 * cheap.max()


@torch.inference_mode()
def test_slow_pathways_of_tracks_of_different_ages_keep_their_own_time():
    torch.manual_seed(2)
    extractor = SlowFast(SlowFastConfig(interval=4)).eval()
    first, second = random_clips(6, 2, 9), random_clips(7, 1, 9)
    of_first, of_second = extractor.encode(first)[0], extractor.encode(second)[0]
    cache = extractor.encode(first[:, :3])[1].append(extractor.encode(second[:, :1])[1])
    for offset in range(6):
        tokens, cache = extractor.encode(torch.cat([first[:, 3 + offset], second[:, 1 + offset]]).unsqueeze(1), cache)
        torch.testing.assert_close(tokens[:2, 0], of_first[:, 3 + offset], atol=1e-4, rtol=0)
        torch.testing.assert_close(tokens[2:, 0], of_second[:, 1 + offset], atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="one frame at a time"):
        extractor.encode(random_clips(8, 3, 2), cache)


def test_slowfast_needs_as_many_channels_as_stages():
    with pytest.raises(ValueError, match="4 stages"):
        SlowFast(dataclasses.replace(SlowFastConfig(), fast_channels=(8, 16)))


@torch.inference_mode()
def test_the_window_bounds_how_far_the_transformer_looks_back():
    config = dataclasses.replace(CONFIGS["transformer"]["small"], num_layers=1, window=3)
    extractor = build_extractor(config).eval()
    clips = random_clips(9, 1, 6)
    altered = clips.clone()
    altered[:, 1] = 0
    differs = (extractor.encode(clips)[0] != extractor.encode(altered)[0]).flatten(2).any(-1)[0].tolist()
    assert differs == [False, True, True, True, False, False]


@pytest.mark.parametrize("name", EXTRACTORS)
def test_a_checkpoint_rebuilds_any_extractor_and_knows_which(tmp_path, name):
    torch.manual_seed(3)
    model = EarlyPersistenceClassifier(CONFIGS[name]["small"], ClassifierConfig()).eval()
    save_model(tmp_path / "model.pt", model)
    loaded = load_model(tmp_path / "model.pt", extractor=name)
    assert name_of(loaded.extractor.config) == loaded.extractor_name == name
    clips = random_clips(10, 2, 3)
    with torch.inference_mode():
        assert torch.equal(model(clips), loaded(clips))
    other = EXTRACTORS[EXTRACTORS.index(name) - 1]
    with pytest.raises(InputError, match=rf"is of the extractor {name}, not {other}; give .* --extractor {other}"):
        load_model(tmp_path / "model.pt", extractor=other)


def test_an_unknown_extractor_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(InputError, match="unknown extractor 'vit'; choose one of magvit, i3d, slowfast, transformer"):
        load_model(tmp_path / "model.pt", extractor="vit")
    config = CONFIGS["i3d"]["small"]
    save_model(tmp_path / "model.pt", EarlyPersistenceClassifier(config, ClassifierConfig()))
    value = torch.load(tmp_path / "model.pt", weights_only=True)
    torch.save({**value, "extractor": {**value["extractor"], "name": "vit"}}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="unknown extractor 'vit'"):
        load_model(tmp_path / "model.pt")

"""The loops themselves: the epoch that is kept, mirror images, stops between two steps, memory that runs out."""

import copy
import dataclasses
import os
import signal

import numpy as np
import pytest
import torch
from early_persistence_detection.models.checkpoint import load_torch, save_torch
from early_persistence_detection.models.early_persistence_classifier import (
    ClassifierConfig,
    PersistenceHead,
    PixelsToLogits,
)
from early_persistence_detection.models.extractors.magvit_tokenizer import MagvitTokenizer, TokenizerConfig
from early_persistence_detection.models.extractors.registry import build_extractor
from early_persistence_detection.models.extractors.slowfast import SlowFastConfig
from early_persistence_detection.models.object_tokens import object_tokens
from early_persistence_detection.models.stream import MODALITIES
from early_persistence_detection.models.tensor_state import frames_to_input
from early_persistence_detection.training.classifier_training import (
    ClassifierTraining,
    WatchedBatch,
    predict_logits,
    train_head,
    validate,
)
from early_persistence_detection.training.context import TrainingContext
from early_persistence_detection.training.encoded_clips import EncodedSplit, PixelClips, encode_split, validation_clips
from early_persistence_detection.training.optimisation import MicroBatches, Optimisation
from early_persistence_detection.training.profiles import PROFILES
from early_persistence_detection.training.stop_request import Stopped, StopRequest
from early_persistence_detection.training.tokenizer_training import TokenizerTraining, train_tokenizer
from persistence_augmented_dataset.dataset import METADATA_COLUMNS, ClipSplit, _column_shape
from run_directory import InputError
from video_tracks.clip import CLIP_SIZE, NUM_FRAMES

CPU = torch.device("cpu")
CONTEXT = TrainingContext(CPU)
SETTINGS = ClassifierTraining(epochs=3, batch_size=8)


@pytest.fixture(scope="module")
def tokenizer() -> MagvitTokenizer:
    torch.manual_seed(0)
    return MagvitTokenizer(TokenizerConfig(channels=(8, 8, 16))).eval()


def new_head(dropout: float = 0.1, kind: type[PersistenceHead] = PersistenceHead) -> PersistenceHead:
    torch.manual_seed(1)
    return kind(ClassifierConfig(width=16, num_heads=2, state_width=8, dropout=dropout), 4)


def random_clips(count: int, seed: int) -> EncodedSplit:
    """Labels that the first frame's tokens tell, so that there is something to learn."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=random)
    tokens = torch.randint(0, 500, (count, 16, 64), generator=random) + 500 * labels[:, None, None]
    shown = torch.randint(-1, 2, (count, 16, 64), generator=random)
    shown[::3] = -1  # clips that the attention loss leaves out, unevenly over the halves of a batch
    return EncodedSplit(tokens.to(torch.int16), labels.float(), shown.to(torch.int8))


def pixel_split(count: int, seed: int) -> ClipSplit:
    """Random pixels with one bright disc as the candidate."""
    random = np.random.default_rng(seed)
    metadata = {name: np.zeros(_column_shape(count, shape), dtype) for name, (dtype, shape) in METADATA_COLUMNS.items()}
    metadata["label"] = random.integers(0, 2, count).astype(np.uint8)
    metadata["scene_id"] = np.arange(count, dtype=np.int32)
    metadata["objects"][:] = np.nan
    metadata["objects"][:, :, 0] = random.uniform(10, 54, (count, NUM_FRAMES, 4))
    metadata["objects"][:, :, 0, 2:] = random.uniform(5, 12, (count, NUM_FRAMES, 2))
    metadata["object_kind"][:] = -1
    metadata["object_kind"][:, 0] = metadata["label"]
    pixels = random.integers(0, 256, (count, NUM_FRAMES, CLIP_SIZE, CLIP_SIZE, 3)).astype(np.uint8)
    return ClipSplit(None, "train", {}, [pixels], np.arange(count), metadata)


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


# the epoch that is kept


def test_validation_measures_the_average_and_puts_the_weights_back(tokenizer):
    head = new_head()
    optimisation = Optimisation(head, 1e-2, 10, CPU, seed=0)
    for average in optimisation.average:
        average.mul_(0.5)
    before = copy.deepcopy(head)
    with optimisation.averaged():
        inside = [parameter.detach().clone() for parameter in head.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(inside, optimisation.average, strict=True))
    assert not torch.equal(inside[0], next(before.parameters())) and same(head, before)


def test_the_averaged_weights_of_the_best_epoch_are_kept(tokenizer):
    """Validation labels that training contradicts get worse with every epoch: an early one must win."""
    head, clips = new_head(), random_clips(40, 1)
    validation = dataclasses.replace(random_clips(30, 2))
    validation = dataclasses.replace(validation, labels=1 - validation.labels)
    settings = dataclasses.replace(SETTINGS, epochs=6, learning_rate=1e-2)
    rows = []
    kept = train_head(head, tokenizer, clips, validation, settings, CONTEXT, after_epoch=lambda *row: rows.append(row))
    losses = [figures["validation_loss"] for _, figures, _ in rows]
    assert kept == 1 + int(np.argmin(losses)) and kept < 6
    assert validate(head, tokenizer, validation, CPU)["validation_loss"] == losses[kept - 1]
    assert not head.training


def test_of_equal_epochs_the_earlier_is_kept(tokenizer):
    settings = dataclasses.replace(SETTINGS, learning_rate=1e-30, weight_decay=0.0)
    assert train_head(new_head(), tokenizer, random_clips(20, 1), random_clips(9, 2), settings, CONTEXT) == 1


def test_without_validation_the_last_average_is_kept(tokenizer):
    clips, shorter = random_clips(40, 1), []
    head = new_head()
    assert (
        train_head(head, tokenizer, clips, None, SETTINGS, CONTEXT, after_epoch=lambda *row: shorter.append(row))
        is None
    )
    last = shorter[-1][2]["optimisation"]
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), last["average"], strict=True))


# resuming


def signalled_head(num_steps: int, steps: list[int]) -> type[PersistenceHead]:
    """A head whose training is interrupted, as by Ctrl-C, in its step of that number; `steps` gets one of each."""

    class Signalled(PersistenceHead):
        def forward(self, *args, **options):
            if self.training:
                steps.append(1)
                if len(steps) == num_steps:
                    os.kill(os.getpid(), signal.SIGINT)
            return super().forward(*args, **options)

    return Signalled


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize("steps_before_stop", [1, 4, 5, 7, 15])
def test_stopped_after_any_step_and_resumed_ends_with_the_same_weights(
    tokenizer, steps_before_stop, validated, tmp_path
):
    clips, validation = random_clips(40, 1), random_clips(30, 2) if validated else None
    clips = dataclasses.replace(clips, mirrored=random_clips(40, 1))
    settings = dataclasses.replace(SETTINGS, flip=True, token_dropout=0.3)
    undisturbed, rows = new_head(), []
    kept = train_head(
        undisturbed, tokenizer, clips, validation, settings, CONTEXT, after_epoch=lambda *r: rows.append(r[:2])
    )

    stop, saved, again, steps = StopRequest(), {}, [], []

    def save(state):
        save_torch(tmp_path / "last.pt", {"state": state})
        saved["times"] = saved.get("times", 0) + 1

    def after_epoch(epoch, figures, state):
        again.append((epoch, figures))
        save(state)

    with stop, pytest.raises(Stopped) as caught:
        train_head(
            new_head(kind=signalled_head(steps_before_stop, steps)), tokenizer, clips, validation, settings,
            TrainingContext(CPU, stop=stop),
            after_epoch=after_epoch, save=save,
        )  # fmt: skip
    assert caught.value.code == 130 and len(steps) == steps_before_stop
    torch.manual_seed(99)  # nothing may hang on the generator's state
    head = new_head()
    resumed = load_torch(tmp_path / "last.pt")["state"]
    assert kept == train_head(
        head, tokenizer, clips, validation, settings, CONTEXT, resumed=resumed, after_epoch=after_epoch, save=save
    )
    assert same(head, undisturbed)
    assert again == rows


def test_the_tokenizer_stopped_after_any_step_ends_with_the_same_weights(tmp_path):
    split = pixel_split(6, 3)
    settings = TokenizerTraining(num_steps=5, batch_size=4, num_frames=2, checkpoint_every=3)

    def new(kind: type[MagvitTokenizer] = MagvitTokenizer) -> MagvitTokenizer:
        torch.manual_seed(4)
        return kind(TokenizerConfig(channels=(8, 8, 16)))

    undisturbed, lines = new(), []
    train_tokenizer(undisturbed, split, settings, TrainingContext(CPU, log=lines.append), save=lambda state: None)

    class Signalled(MagvitTokenizer):
        calls = 0

        def forward(self, frames):
            Signalled.calls += 1
            if Signalled.calls == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().forward(frames)

    stop, again = StopRequest(), []

    def save(state):
        save_torch(tmp_path / "last.pt", {"state": state})

    with stop, pytest.raises(Stopped) as caught:
        train_tokenizer(new(Signalled), split, settings, TrainingContext(CPU, stop=stop, log=again.append), save=save)
    assert caught.value.code == 143 and "step 2/5" in caught.value.where
    tokenizer = new()
    resumed = load_torch(tmp_path / "last.pt")["state"]
    train_tokenizer(tokenizer, split, settings, TrainingContext(CPU, log=again.append), resumed=resumed, save=save)
    assert same(tokenizer, undisturbed) and again == lines


# stop requests


def test_a_stop_is_put_off_in_a_loop_only_and_a_second_one_never():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        with pytest.raises(Stopped) as caught:
            os.kill(os.getpid(), signal.SIGTERM)
        assert caught.value.code == 143
    with StopRequest() as stop, pytest.raises(Stopped) as caught, stop.put_off():
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the second signal did not end it")
    assert caught.value.code == 143
    with StopRequest() as stop, pytest.raises(Stopped), stop.put_off():
        os.kill(os.getpid(), signal.SIGINT)  # nobody heeds it in the loop: it must not be lost
    assert signal.getsignal(signal.SIGTERM) is before


# mirror images


def test_mirrored_clips_are_encoded_as_mirrored_pixels_with_mirrored_objects(tokenizer):
    split = pixel_split(5, 7)
    shown = object_tokens(split.metadata["objects"], split.metadata["object_kind"])
    mirror = encode_split(tokenizer, split, shown, CPU, mirror=True)
    flipped = dataclasses.replace(split, shards=[split.shards[0][:, :, :, ::-1].copy()])
    objects = split.metadata["objects"].copy()
    objects[..., 0] = CLIP_SIZE - objects[..., 0]
    expected = encode_split(tokenizer, flipped, object_tokens(objects, split.metadata["object_kind"]), CPU)
    assert torch.equal(mirror.tokens, expected.tokens) and torch.equal(mirror.labels, expected.labels)
    assert (mirror.shown == expected.shown).float().mean() > 0.999  # coverage exactly at the limit may round
    assert not torch.equal(mirror.shown, torch.from_numpy(shown))


def test_each_clip_is_shown_as_it_is_or_mirrored(tokenizer):
    """Over the epochs both versions of about every clip are seen, in a proportion of about one half."""
    seen = []

    class Watched(PersistenceHead):
        def forward(self, codes, *args, **options):
            if self.training:
                seen.append(codes[:, 0, 0].clone())
            return super().forward(codes, *args, **options)

    clips = random_clips(40, 1)
    mirrored = dataclasses.replace(clips, tokens=torch.full_like(clips.tokens, 7))
    both = dataclasses.replace(clips, mirrored=mirrored)
    settings = dataclasses.replace(SETTINGS, flip=True, epochs=4)
    train_head(new_head(kind=Watched), tokenizer, both, None, settings, CONTEXT)
    mirror_code = tokenizer.codes_of(torch.full((1, 1, 1), 7, dtype=torch.int32))[0, 0, 0]
    was_mirrored = (torch.cat(seen) == mirror_code).all(1).reshape(4, 40)
    assert 0.35 < was_mirrored.float().mean() < 0.65
    assert len({tuple(row.tolist()) for row in was_mirrored}) == 4  # drawn anew each epoch
    with pytest.raises(ValueError, match="mirrored"):
        train_head(new_head(), tokenizer, clips, None, settings, CONTEXT)


def test_settings_of_the_profiles():
    full, quick, smoke = (PROFILES[name].classifier_training for name in ("full", "quick", "smoke"))
    assert (full.epochs, full.batch_size, full.flip, full.validation_fraction) == (20, 8, True, 0.1)
    assert (quick.epochs, quick.flip, quick.average_decay, quick.validation_fraction) == (5, False, 0.995, 0.05)
    assert (smoke.epochs, smoke.batch_size, PROFILES["smoke"].tokenizer_training.num_steps) == (2, 16, 30)
    assert ClassifierTraining().weight_decay == 0.01


def test_the_validation_fraction_counts_scenes():
    split = pixel_split(40, 1)
    assert validation_clips(split, 0.1).sum() == 4 and validation_clips(split, 0.1)[-4:].all()
    assert validation_clips(split, 0.001).sum() == 1
    with pytest.raises(InputError, match="one training scene"):
        validation_clips(pixel_split(1, 1), 0.1)


def test_settings_reach_the_optimizer(tokenizer):
    optimisation = Optimisation(new_head(), 1e-3, 10, CPU, seed=0, weight_decay=0.25, average_decay=0.5)
    assert optimisation.optimizer.param_groups[0]["weight_decay"] == 0.25
    states = []
    settings = dataclasses.replace(SETTINGS, weight_decay=0.25)
    train_head(
        new_head(),
        tokenizer,
        random_clips(9, 1),
        None,
        settings,
        CONTEXT,
        after_epoch=lambda *row: states.append(row[2]),
    )
    assert states[0]["optimisation"]["optimizer"]["param_groups"][0]["weight_decay"] == 0.25


# memory that runs out


class SmallMemory(PersistenceHead):
    """Runs out of memory as CUDA does when a training batch is larger than `largest`."""

    largest = 4

    def forward(self, codes, *args, **options):
        if self.training and len(codes) > self.largest:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(codes, *args, **options)


@pytest.mark.parametrize("size", [8, 7])
def test_two_halves_give_the_gradient_of_the_whole(tokenizer, size):
    """One step of one batch, so that the parameters' .grad is that of the step."""
    settings = dataclasses.replace(SETTINGS, epochs=1)
    heads = [new_head(dropout=0.0), new_head(dropout=0.0)]
    figures = []
    for head, count in zip(heads, (1, 2), strict=True):
        train_head(
            head, tokenizer, random_clips(size, 5), None, settings,
            TrainingContext(CPU, micro_batches=MicroBatches(count)), after_epoch=lambda *row: figures.append(row[1]),
        )  # fmt: skip
    for whole, halves in zip(*(head.parameters() for head in heads), strict=True):
        torch.testing.assert_close(halves.grad, whole.grad, rtol=0, atol=1e-6)
    assert figures[0] == pytest.approx(figures[1], abs=1e-6)


def test_two_halves_give_the_gradient_of_the_whole_tokenizer():
    settings = TokenizerTraining(num_steps=1, batch_size=5, num_frames=2)
    tokenizers, lines = [], []
    for count in (1, 2):
        torch.manual_seed(4)
        tokenizers.append(MagvitTokenizer(TokenizerConfig(channels=(8, 8, 16))))
        train_tokenizer(
            tokenizers[-1], pixel_split(6, 3), settings,
            TrainingContext(CPU, micro_batches=MicroBatches(count), log=lines.append), save=lambda state: None,
        )  # fmt: skip
    for whole, halves in zip(*(tokenizer.parameters() for tokenizer in tokenizers), strict=True):
        torch.testing.assert_close(halves.grad, whole.grad, rtol=0, atol=1e-6)
    assert lines[0] == lines[1]


def test_out_of_memory_halves_the_batch_once_and_repeats_the_step(tokenizer):
    clips, lines = random_clips(40, 1), []
    micro_batches = MicroBatches(log=lines.append)
    head, halved = new_head(kind=SmallMemory), new_head()
    train_head(head, tokenizer, clips, None, SETTINGS, TrainingContext(CPU, micro_batches=micro_batches))
    train_head(halved, tokenizer, clips, None, SETTINGS, TrainingContext(CPU, micro_batches=MicroBatches(2)))
    assert same(head, halved)  # from the first step on, which was not lost
    assert micro_batches.count == 2 and len(lines) == 1 and "2 parts" in lines[0]


def test_out_of_memory_twice_names_the_flag(tokenizer):
    class Smaller(SmallMemory):
        largest = 3

    with pytest.raises(InputError, match="--batch_size"):
        train_head(new_head(kind=Smaller), tokenizer, random_clips(40, 1), None, SETTINGS, CONTEXT)


def test_out_of_memory_in_the_tokenizer_halves_its_batch():
    class Small(MagvitTokenizer):
        def forward(self, frames):
            if len(frames) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(frames)

    settings = TokenizerTraining(num_steps=2, batch_size=4, num_frames=2)
    micro_batches = MicroBatches()
    torch.manual_seed(4)
    small = Small(TokenizerConfig(channels=(8, 8, 16)))
    nothing = lambda _: None  # noqa: E731
    context = TrainingContext(CPU, micro_batches=micro_batches, log=nothing)
    train_tokenizer(small, pixel_split(6, 3), settings, context, save=nothing)
    assert micro_batches.count == 2
    with pytest.raises(InputError, match="--batch_size"):
        larger = dataclasses.replace(settings, batch_size=8)
        train_tokenizer(small, pixel_split(6, 3), larger, context, save=nothing)


# extractors that are trained with the classifier


def network_from_pixels() -> PixelsToLogits:
    torch.manual_seed(4)
    extractor = build_extractor(SlowFastConfig((4, 8, 8, 8), (4, 4, 4, 4)))
    head = PersistenceHead(ClassifierConfig(width=16, num_heads=2, state_width=8), extractor.code_dim)
    return PixelsToLogits(extractor, head)


def pixel_clips(count: int, seed: int) -> PixelClips:
    split = pixel_split(count, seed)
    return PixelClips.of(split, object_tokens(split.metadata["objects"], split.metadata["object_kind"]))


def test_clips_as_drawn_are_mirrored_pixels_and_tokens_and_the_right_ones():
    clips = pixel_clips(6, 8)
    indices, in_mirror = np.array([4, 0, 5]), np.array([True, False, True])
    drawn = clips.as_drawn(indices, in_mirror)
    frames = drawn.inputs(slice(0, 3), None, CPU)
    as_they_are = frames_to_input(clips.split.clips(indices))
    assert torch.equal(frames[0], as_they_are[0].flip(-1)) and torch.equal(frames[1], as_they_are[1])
    assert torch.equal(drawn.inputs(torch.tensor([2, 1]), None, CPU), frames[[2, 1]])
    grid = clips.shown.unflatten(2, (8, 8))
    assert torch.equal(drawn.shown[2].unflatten(1, (8, 8)), grid[5].flip(-1))
    assert torch.equal(drawn.shown[1], clips.shown[0]) and torch.equal(drawn.labels, clips.labels[indices])


def test_extractor_and_head_learn_together_and_a_stop_costs_nothing():
    settings = dataclasses.replace(SETTINGS, flip=True, token_dropout=0.2, epochs=2, batch_size=4)
    clips, validation = pixel_clips(10, 1), pixel_clips(5, 2)
    whole, before = network_from_pixels(), network_from_pixels()
    states: list[dict] = []

    def keep(epoch: int, figures: dict, state: dict) -> None:
        states.append(copy.deepcopy(state))  # what it holds goes on being trained

    train_head(whole, whole.extractor, clips, validation, settings, CONTEXT, after_epoch=keep)
    for name in ("extractor.fast.0.conv.weight", "extractor.slow.0.conv.weight", "head.readout.5.weight"):
        assert not torch.equal(before.get_parameter(name), whole.get_parameter(name)), name
    resumed = network_from_pixels()
    train_head(resumed, resumed.extractor, clips, validation, settings, CONTEXT, resumed=states[0])
    expected = whole.state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in resumed.state_dict().items())
    losses = validate(whole, whole.extractor, validation, CPU)
    assert np.isfinite(losses["validation_loss"])


# pixels and evidence


def fused_head(kind: type[PersistenceHead] = PersistenceHead) -> PersistenceHead:
    torch.manual_seed(1)
    return kind(ClassifierConfig(width=16, num_heads=2, state_width=8, num_evidence=2), 4)


def clips_with_evidence(count: int, seed: int) -> EncodedSplit:
    """Labels that evidence tells as well as the tokens do; its second column is noise, and half absent."""
    clips = random_clips(count, seed)
    random = torch.Generator().manual_seed(seed + 1)
    evidence = torch.randn(count, 16, 2, generator=random)
    evidence[..., 0] += 4 * clips.labels[:, None]
    evidence[..., 1][evidence[..., 1] > 0] = float("nan")
    return dataclasses.replace(clips, evidence=evidence)


def test_a_head_without_evidence_is_trained_as_if_there_were_none(tokenizer):
    heads = new_head(), new_head()
    clips = clips_with_evidence(40, 1)
    for head, seen in zip(heads, (clips, dataclasses.replace(clips, evidence=None)), strict=True):
        train_head(head, tokenizer, seen, None, SETTINGS, CONTEXT)
    assert same(*heads)


def test_a_fused_head_learns_to_do_with_either_and_with_both(tokenizer):
    head, clips, other = fused_head(), clips_with_evidence(240, 1), clips_with_evidence(100, 2)
    rows = []
    settings = dataclasses.replace(SETTINGS, epochs=6, batch_size=24, learning_rate=2e-2)
    head.standardise_by(clips.evidence)
    train_head(head, tokenizer, clips, other, settings, CONTEXT, after_epoch=lambda *row: rows.append(row[1]))
    for modality in MODALITIES:
        logits = predict_logits(head, tokenizer, other, CPU, modality=modality)
        assert ((logits[:, -1] > 0) == (other.labels > 0.5)).float().mean() > 0.9, modality
    losses = [rows[-1][f"validation_loss_{modality}"] for modality in MODALITIES]
    assert rows[-1]["validation_loss"] == pytest.approx(np.mean(losses))
    blank = dataclasses.replace(other, tokens=torch.zeros_like(other.tokens))
    told, untold = (predict_logits(head, tokenizer, seen, CPU, modality="evidence") for seen in (other, blank))
    assert torch.equal(told, untold)


def test_what_a_clip_is_not_watched_by_does_not_reach_the_training(tokenizer):
    """A third each; withheld evidence is absent, withheld pixels are masked and their attention is not judged."""
    clips = clips_with_evidence(600, 3)
    watched_by = np.random.default_rng(0).integers(0, 3, 600)
    batch = WatchedBatch.of(clips, watched_by)
    pixels, evidence, both = (torch.from_numpy(watched_by == index) for index in range(3))
    assert torch.isnan(batch.evidence[pixels]).all()
    torch.testing.assert_close(batch.evidence[~pixels], clips.evidence[~pixels], equal_nan=True)
    assert torch.equal(batch.withheld, evidence)
    assert (batch.shown[evidence] == -1).all() and torch.equal(batch.shown[both], clips.shown[both])
    assert WatchedBatch.of(clips, None).evidence is None
    seen = []

    class Noted(PersistenceHead):
        def forward(self, codes, removed=None, explicit=False, evidence=None, withheld=None):
            if self.training:
                known = torch.isfinite(evidence).any(dim=(1, 2))
                assert not (withheld & ~known).any()  # nothing at all is never shown
                seen.append((int((known & ~withheld).sum()), int((~known).sum()), int(withheld.sum())))
            return super().forward(codes, removed, explicit, evidence, withheld)

    settings = dataclasses.replace(SETTINGS, epochs=1, batch_size=200)
    train_head(fused_head(Noted), tokenizer, clips_with_evidence(600, 1), None, settings, CONTEXT)
    counts = np.sum(seen, axis=0)
    assert counts.sum() == 600 and counts.min() > 150


@pytest.mark.parametrize("steps_before_stop", [4, 8])
def test_a_fused_training_is_resumed_exactly(tokenizer, steps_before_stop, tmp_path):
    clips, validation = clips_with_evidence(40, 1), clips_with_evidence(30, 2)
    undisturbed = fused_head()
    train_head(undisturbed, tokenizer, clips, validation, SETTINGS, TrainingContext(CPU))
    stop, steps, saved = StopRequest(), [], []

    with stop, pytest.raises(Stopped):
        train_head(
            fused_head(signalled_head(steps_before_stop, steps)), tokenizer, clips, validation, SETTINGS,
            TrainingContext(CPU, stop=stop),
            save=lambda state: saved.append(copy.deepcopy(state)),
        )  # fmt: skip
    head = fused_head()
    train_head(head, tokenizer, clips, validation, SETTINGS, TrainingContext(CPU), resumed=saved[-1])
    assert same(head, undisturbed)


def test_memory_that_runs_out_does_not_mix_up_what_clips_are_watched_by(tokenizer):
    """A step in two halves has the gradient of the whole, with evidence too."""
    heads = fused_head(), fused_head()
    settings = dataclasses.replace(SETTINGS, epochs=1, batch_size=40)
    for head, count in zip(heads, (1, 2), strict=True):
        head.eval()
        head.train = lambda mode=True: None  # no dropout: its noise depends on how a batch is cut
        context = TrainingContext(CPU, micro_batches=MicroBatches(count))
        train_head(head, tokenizer, clips_with_evidence(40, 1), None, settings, context)
    for whole, halves in zip(heads[0].parameters(), heads[1].parameters(), strict=True):
        torch.testing.assert_close(whole, halves, atol=1e-5, rtol=1e-3)

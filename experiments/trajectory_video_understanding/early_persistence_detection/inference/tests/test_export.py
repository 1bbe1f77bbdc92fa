"""An exported model answers as torch does, tracks of all ages beside each other, and its folder is not to be trifled
with."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from early_persistence_detection.inference import export_model, exported_stream
from early_persistence_detection.inference.exported_stream import ExportedStream, open_exported, read_description
from early_persistence_detection.inference.exporting import export_stream
from early_persistence_detection.inference.opening import open_model
from early_persistence_detection.inference.session import Session
from early_persistence_detection.models.calibration import Calibration
from early_persistence_detection.models.checkpoint import save_model
from early_persistence_detection.models.early_persistence_classifier import (
    ClassifierConfig,
    EarlyPersistenceClassifier,
)
from early_persistence_detection.models.evidence.evidence_model import EvidenceModel
from early_persistence_detection.models.extractors.registry import CONFIGS, EXTRACTORS
from early_persistence_detection.models.torch_stream import TorchStream
from run_directory import InputError
from run_directory.tests.script_runs import run_script

PACKAGES = Path(__file__).parents[3]
GENERAL_MODEL = PACKAGES / "early_persistence_detection" / "models" / "evidence" / "general_model.npz"
NUM_EVIDENCE = {"magvit": 2}  # columns; the others are watched by pixels alone


@pytest.fixture(scope="module", params=EXTRACTORS)
def exported(request, tmp_path_factory) -> tuple[EarlyPersistenceClassifier, Path]:
    """A model of small size with weights at random, its calibration no identity, and its export."""
    torch.manual_seed(0)
    config = ClassifierConfig(num_evidence=NUM_EVIDENCE.get(request.param, 0))
    model = EarlyPersistenceClassifier(CONFIGS[request.param]["small"], config).eval()
    ages = np.linspace(0.5, 2, model.num_frames)
    for name in model.modalities:
        model.set_calibration(Calibration(tuple(ages), tuple(ages - 1), confidence_threshold=0.8), name)
    folder = tmp_path_factory.mktemp(request.param)
    save_model(folder / "model.pt", model)
    parity = export_stream(model, folder / "model.pt", folder / "exported")
    assert parity["max_abs_dp"] <= 1e-5
    return model, folder / "exported"


def frames(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (16, count, 64, 64, 3), np.uint8)


@pytest.mark.parametrize("most_at_once", [exported_stream.MOST_AT_ONCE, 3])
def test_tracks_that_come_and_go_are_told_what_torch_tells_them(exported, monkeypatch, most_at_once):
    """Births in every third frame, some leave early: 1 to 9 tracks of mixed ages, at once and piece by piece."""
    monkeypatch.setattr(exported_stream, "MOST_AT_ONCE", most_at_once)
    model, folder = exported
    rng, ours, theirs = np.random.default_rng(1), ExportedStream(folder), TorchStream(model)
    states: list = [ours.initial_state(0), theirs.initial_state(0)]
    ages = np.zeros(0, np.int64)
    for now in range(24):
        if now % 3 == 0:
            born = int(rng.integers(1, 4))
            states = [
                each.append(stream.initial_state(born)) for each, stream in zip(states, (ours, theirs), strict=True)
            ]
            ages = np.concatenate([ages, np.zeros(born, np.int64)])
        pixels = rng.integers(0, 256, (len(ages), 64, 64, 3), np.uint8)
        p, states[0] = ours.step(pixels, None, states[0])
        q, states[1] = theirs.step(pixels, None, states[1])
        assert p.shape == (len(ages),) and p.dtype == np.float64
        np.testing.assert_allclose(p, q, rtol=0, atol=1e-5)
        ages += 1
        kept = np.flatnonzero((ages < 16) & (rng.random(len(ages)) > 0.15))
        states = [each.select(kept) for each in states]
        ages = ages[kept]


def test_a_track_is_told_the_same_alone_and_in_a_crowd(exported):
    _, folder = exported
    stream, clips = ExportedStream(folder), frames(5)
    crowd, alone = stream.initial_state(5), stream.initial_state(1)
    for frame in clips:
        p, crowd = stream.step(frame, None, crowd)
        q, alone = stream.step(frame[2:3], None, alone)
        np.testing.assert_allclose(p[2], q[0], rtol=0, atol=1e-6)


def test_a_nan_in_one_track_leaves_the_others_bit_equal(exported):
    _, folder = exported
    stream, clips = ExportedStream(folder), frames(4)
    sound, hurt = stream.initial_state(4), stream.initial_state(4)
    others = [0, 1, 3]
    for index, frame in enumerate(clips):
        p, sound = stream.step(frame, None, sound)
        if index == 2:
            hurt.hidden[2] = np.nan
            hurt.tokens_so_far()[hurt.token_row == 2] = np.nan
            for layer in hurt.pasts:
                for past in layer:
                    if past.dtype.kind == "f":
                        past[2] = np.nan
        q, hurt = stream.step(frame, None, hurt)
        np.testing.assert_array_equal(p[others], q[others])
    assert np.isnan(q[2])


def test_two_continuations_of_one_state_do_not_meet(exported):
    _, folder = exported
    stream, clips = ExportedStream(folder), frames(2)
    state = stream.initial_state(2)
    for frame in clips[:3]:
        _, state = stream.step(frame, None, state)
    _, one = stream.step(clips[3], None, state)
    _, other = stream.step(clips[4], None, state)
    expected, _ = stream.step(clips[5], None, one)
    _, once_more = stream.step(clips[3], None, state)
    again, _ = stream.step(clips[5], None, once_more)
    different, _ = stream.step(clips[5], None, other)
    np.testing.assert_array_equal(expected, again)
    assert not np.array_equal(expected, different)


def test_what_another_continuation_writes_is_never_read(exported):
    _, folder = exported
    stream, clips = ExportedStream(folder), frames(2)
    state = stream.initial_state(2)
    for frame in clips[:5]:
        _, state = stream.step(frame, None, state)
    expected, other = stream.step(clips[7], None, state)
    assert other.tokens is state.tokens  # else nothing is shared
    other.tokens_so_far()[len(state.token_row) :] = np.nan
    p, _ = stream.step(clips[7], None, state)
    np.testing.assert_array_equal(p, expected)


def test_a_track_costs_the_memory_of_its_own_frames(exported):
    """Young ones beside an old one, as they come: no room for an age that they have not reached."""
    model, folder = exported
    stream, clips = ExportedStream(folder), frames(8)
    state = stream.initial_state(1)
    before_any = state.num_bytes
    for frame in clips[:12]:
        _, state = stream.step(frame[:1], None, state)
    state = state.append(stream.initial_state(7))
    _, state = stream.step(clips[12], None, state)
    of_a_frame = 4 * model.config.tokens_per_frame * model.config.width
    assert state.num_bytes < 8 * before_any + 1.1 * (13 + 7) * of_a_frame


def test_what_a_model_cannot_do_is_refused(exported):
    model, folder = exported
    stream = ExportedStream(folder)
    state, frame = stream.initial_state(2), frames(2)[0]
    with pytest.raises(ValueError, match="expected uint8"):
        stream.step(frame[:1], None, state)
    with pytest.raises(ValueError, match="neither frames nor evidence"):
        stream.step(None, None, state)
    if not model.config.num_evidence:
        with pytest.raises(ValueError, match="takes none"):
            stream.step(frame, np.zeros((2, 2), np.float32), state)
    for _ in range(16):
        _, state = stream.step(frame, None, state)
    with pytest.raises(ValueError, match="already 16 frames old"):
        stream.step(frame, None, state)


def test_a_session_decides_as_with_torch(exported):
    model, folder = exported
    rng = np.random.default_rng(3)
    ours, theirs = Session(open_model(folder)), Session(TorchStream(model))
    for index in range(30):
        picture = rng.integers(0, 256, (120, 160, 3), np.uint8)
        boxes = [(10 + 2 * index, 20, 24, 40), (90, 60, 30, 30)][: 1 + (index % 4 != 3)]
        a, b = (each.update(picture, boxes, [0.9, 0.6][: len(boxes)]) for each in (ours, theirs))
        assert [(t.track_id, t.decision, t.decision_frame) for t in a] == [
            (t.track_id, t.decision, t.decision_frame) for t in b
        ]
        np.testing.assert_allclose([t.probability for t in a], [t.probability for t in b], rtol=0, atol=1e-5)
    assert any(record.decision is not None for record in ours.records.values())


@pytest.mark.parametrize("exported", ["magvit"], indirect=True)
class TestOneFolder:
    """What does not depend on the extractor."""

    def test_evidence_alone_and_beside_pixels(self, exported):
        model, folder = exported
        stream, torch_stream = ExportedStream(folder), TorchStream(model)
        assert stream.modalities == ("pixels", "evidence", "both")
        evidence = np.random.default_rng(0).normal(0, 1, (16, 3, 2)).astype(np.float32)
        evidence[3, 1] = np.nan
        for by_pixels in (False, True):
            ours, theirs = stream.initial_state(3), torch_stream.initial_state(3)
            for frame, told in zip(frames(3), evidence, strict=True):
                p, ours = stream.step(frame if by_pixels else None, told, ours)
                q, theirs = torch_stream.step(frame if by_pixels else None, told, theirs)
                np.testing.assert_allclose(p, q, rtol=0, atol=1e-5)
        with pytest.raises(ValueError, match="from birth on or never"):
            _, state = stream.step(None, evidence[0], stream.initial_state(3))
            stream.step(frames(3)[0], evidence[1], state)

    def test_half_the_memory_in_half_precision(self, exported, tmp_path):
        model, folder = exported
        save_model(tmp_path / "model.pt", model)
        parity = export_stream(model, tmp_path / "model.pt", tmp_path / "half", "float16")
        assert parity["max_abs_dp"] <= 0.02
        sizes = []
        for each in (ExportedStream(folder), ExportedStream(tmp_path / "half")):
            state = each.initial_state(4)
            for frame in frames(4):
                _, state = each.step(frame, None, state)
            sizes.append(state.num_bytes)
        assert sizes[1] < 0.51 * sizes[0]
        torch_bytes = 4 * (16 * 64 * 64 * 2 * 4 + 2 * 4 * (24 * 32 * 32 + 48 * 16 * 16 + 96 * 8 * 8))
        assert sizes[0] < 0.72 * torch_bytes and sizes[1] < 0.36 * torch_bytes

    def test_half_the_memory_and_the_same_answers(self, exported, tmp_path):
        """Frames kept as they came; p as ever, whatever the caller does with his array afterwards."""
        model, folder = exported
        save_model(tmp_path / "model.pt", model)
        export_stream(model, tmp_path / "model.pt", tmp_path / "frames", "frames")
        usual, frugal = ExportedStream(folder), ExportedStream(tmp_path / "frames")
        states = [usual.initial_state(4), frugal.initial_state(4)]
        for index, frame in enumerate(frames(4)):
            if index == 5:
                states = [state.select(np.array([2, 0, 1])) for state in states]
                states = [s.append(m.initial_state(1)) for s, m in zip(states, (usual, frugal), strict=True)]
            p, states[0] = usual.step(frame, None, states[0])
            q, states[1] = frugal.step(frame, None, states[1])
            np.testing.assert_allclose(p, q, rtol=0, atol=1e-6)
            frame[:] = 0
        whole = frugal.initial_state(4)
        for frame in frames(4):
            _, whole = frugal.step(frame, None, whole)
        torch_bytes = 4 * (16 * 64 * 64 * 2 * 4 + 2 * 4 * (24 * 32 * 32 + 48 * 16 * 16 + 96 * 8 * 8))
        assert whole.num_bytes < 0.49 * torch_bytes

    @pytest.mark.parametrize(
        ("damage", "problem"),
        [
            (lambda folder: (folder / "step.onnx").write_bytes(b"no graph"), "step.onnx is missing or not as it was"),
            (lambda folder: (folder / "step.onnx").unlink(), "step.onnx is missing or not as it was"),
            (lambda folder: (folder / "model.json").write_text("{"), "model.json is damaged"),
            (lambda folder: (folder / "model.json").write_text("[]"), "model.json is damaged"),
            (lambda folder: (folder / "model.json").unlink(), "model.json cannot be read"),
        ],
    )
    def test_a_damaged_folder_is_refused_in_one_line(self, exported, tmp_path, damage, problem):
        folder = tmp_path / "copy"
        shutil.copytree(exported[1], folder)
        damage(folder)
        with pytest.raises(InputError) as caught:
            open_exported(folder)
        assert problem in str(caught.value) and "export_model.py" in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("key", "value", "problem"),
        [
            ("format_version", 99, "format version 99"),
            ("format", "other", "of another kind"),
            ("calibrations", {}, "is damaged"),
            ("graphs", {"step": {"file": "../../etc/passwd", "changed": []}}, "cannot be loaded"),
        ],
    )
    def test_a_foreign_description_is_refused(self, exported, tmp_path, key, value, problem):
        folder = tmp_path / "copy"
        shutil.copytree(exported[1], folder)
        description = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps(description | {key: value}))
        with pytest.raises(InputError, match=problem):
            open_exported(folder)

    def test_what_else_lies_there_is_not_replaced(self, exported, tmp_path):
        model, _ = exported
        save_model(tmp_path / "model.pt", model)
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "letter.txt").write_text("keep")
        with pytest.raises(InputError, match="holds something else"):
            export_stream(model, tmp_path / "model.pt", tmp_path / "mine")
        assert (tmp_path / "mine" / "letter.txt").read_text() == "keep"
        assert sorted(each.name for each in tmp_path.iterdir()) == ["mine", "model.pt"]

    def test_the_folder_tells_what_it_is(self, exported):
        _, folder = exported
        described = read_description(folder)
        assert described["parity"]["max_abs_dp"] <= 1e-5 and described["extractor"] == "magvit"
        bill = json.loads((folder / "sbom.cdx.json").read_text())
        names = {part["name"] for part in bill["components"]}
        assert {"step.onnx", "evidence.onnx", "numpy", "onnxruntime", "av", "pillow"} <= names and "torch" not in names
        assert described["sha256"]["step.onnx"] in (folder / "MODEL_CARD.md").read_text()

    def test_it_tells_nothing_of_where_it_was_made(self, exported):
        _, folder = exported
        for path in folder.iterdir():
            content = path.read_bytes()
            for place in (str(PACKAGES), "site-packages", "exporting.py", str(Path.home())):
                assert place.encode() not in content, (path.name, place)

    def test_it_runs_without_torch(self, exported, tmp_path):
        code = (
            "import sys, numpy as np, early_persistence_detection as epd\n"
            "camera = epd.Session(epd.open_model(sys.argv[1]))\n"
            "for index in range(20): camera.update(np.zeros((90, 120, 3), np.uint8), [(10 + index, 20, 24, 30)])\n"
            "print(sorted({'torch', 'torchvision', 'scipy', 'trackers', 'supervision', 'cv2', 'matplotlib'} "
            "& set(sys.modules)), [record.decision is not None for record in camera.records.values()])\n"
        )
        environment = os.environ | {"PYTHONPATH": str(PACKAGES)}
        command = [sys.executable, "-c", code, str(exported[1])]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert result.stdout == "[] [True]\n"


@pytest.mark.parametrize("exported", ["transformer"], indirect=True)
def test_frames_are_kept_only_where_a_layer_sees_them_one_by_one(exported, tmp_path):
    model, _ = exported
    save_model(tmp_path / "model.pt", model)
    with pytest.raises(InputError, match="leave --cache frames out"):
        export_stream(model, tmp_path / "model.pt", tmp_path / "frames", "frames")


@pytest.mark.parametrize("name", ["slowfast", "i3d"])
def test_other_extractors_with_frames_kept(name, tmp_path):
    model = EarlyPersistenceClassifier(CONFIGS[name]["small"], ClassifierConfig()).eval()
    save_model(tmp_path / "model.pt", model)
    parity = export_stream(model, tmp_path / "model.pt", tmp_path / "frames", "frames")
    assert parity["max_abs_dp"] <= 1e-5
    sizes = [sum(past.nbytes for layer in ExportedStream(tmp_path / "frames").initial_state(1).pasts for past in layer)]
    sizes.append(sum(past.nbytes for layer in model.initial_state(1).encoder.pasts for past in layer))
    assert sizes[0] == sizes[1] - 2 * 3 * 3 * 64 * 64


def test_an_evidence_model_is_exported_as_it_is(tmp_path):
    result = run_script(export_model.main, "--model", GENERAL_MODEL, "--output", tmp_path / "exported")
    assert result.returncode == 0, result.stderr
    model = open_model(tmp_path / "exported")
    assert isinstance(model, EvidenceModel)
    assert (tmp_path / "exported" / "evidence.npz").read_bytes() == GENERAL_MODEL.read_bytes()
    with pytest.raises(InputError, match="by evidence alone"):
        ExportedStream(tmp_path / "exported")

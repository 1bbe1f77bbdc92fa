"""certify_camera.py: a promise of one camera where its tracks allow one, and how many more it takes where not."""

from __future__ import annotations

import json
from pathlib import Path

from early_persistence_detection.inference import detect
from early_persistence_detection.models.evidence.evidence_model import load_evidence_model
from early_persistence_detection.training import certify_camera
from run_directory.tests.script_runs import run_script


def write_camera(folder: Path, num_blocks: int) -> Path:
    """One walker that stays and one glimpse in every 2 seconds of 10 frames each."""
    folder.mkdir(parents=True)
    rows = []
    for block in range(num_blocks):
        first = 20 * block
        rows += [f"{first + age + 1},-1,{20 + 2 * age},50,20,50,0.9\n" for age in range(17)]
        rows += [f"{first + 6},-1,300,{100 + block % 50},15,20,0.2\n"]
    (folder / "det.txt").write_text("".join(rows))
    (folder / "seqinfo.ini").write_text(
        f"[Sequence]\nname=yard\nframeRate=10\nseqLength={20 * num_blocks}\nimWidth=400\nimHeight=400\n"
    )
    return folder / "det.txt"


def test_a_promise_is_made_and_kept_with_the_model(tmp_path: Path) -> None:
    detections = write_camera(tmp_path / "yard", 60)
    out = tmp_path / "model"
    flags = ("--target", "outlives_clip", "--block_seconds", 2, "--promise", "marginal")
    made = run_script(certify_camera.main, "--detections", detections, *flags, "--eps", 0.3, "--output", out)
    assert made.returncode == 0, made.stderr
    report = json.loads((out / "camera_certificate.json").read_text())
    assert report["num_scenes"] == 60 and "with confidence 0.9" in report["in_words"]
    model = load_evidence_model(out / "evidence_model.npz").asking("outlives_clip")
    assert model.calibration.certificate is not None and model.calibration.certificate.is_certified
    done = run_script(
        detect.main,
        *("--model", out / "evidence_model.npz", "--target", "outlives_clip", "--rule", "certified"),
        *("--detections", detections, "--output", tmp_path / "decided"),
    )
    assert done.returncode == 0, done.stderr


def test_the_usual_answer_is_how_much_is_missing(tmp_path: Path) -> None:
    detections = write_camera(tmp_path / "yard", 6)
    flags = ("--target", "outlives_clip", "--block_seconds", 2)
    out = tmp_path / "out"
    tried = run_script(certify_camera.main, "--detections", detections, *flags, "--eps", 0.1, "--output", out)
    assert tried.returncode == 0 and "no promise yet: about" in tried.stdout
    done = run_script(
        detect.main,
        *("--model", tmp_path / "out" / "evidence_model.npz", "--target", "outlives_clip", "--rule", "certified"),
        *("--detections", detections, "--output", tmp_path / "decided"),
    )
    assert done.returncode == 2 and "has no certified rule" in done.stderr


def test_what_is_real_needs_ground_truth(tmp_path: Path) -> None:
    detections = write_camera(tmp_path / "yard", 2)
    refused = run_script(certify_camera.main, "--detections", detections, "--eps", 0.1, "--output", tmp_path / "out")
    assert refused.returncode == 2 and "nobody can know without --ground_truth" in refused.stderr

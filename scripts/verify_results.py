#!/usr/bin/env python3
"""Check that a finished run is whole and good: every line of the verification checklist, one after the other.

    python scripts/verify_results.py --results_dir RESULTS --data_dir data/standard-6000-2000-2000-seed0
    python scripts/verify_results.py --results_dir RESULTS --figures_only

Reads   RESULTS, and the datasets given with --data_dir (their checksums are computed anew)
Writes  nothing; prints `ok` or `FAIL` with the reason for each line. Exit code 1 when a line fails.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import torch
from early_persistence_detection.evaluation.result_files import (
    ATTENTION_OVERVIEW,
    COMPARISON_PICTURE,
    EFFICIENCY_CHARTS,
    EVALUATION_PICTURES,
    MODELS,
    PREDICTIONS,
    REAL_TRACKS_PICTURES,
    STAGE_FILES,
    TEXTS,
    StageFile,
    read_stage,
)
from early_persistence_detection.models.checkpoint import load_model
from early_persistence_detection.models.tensor_state import frames_to_input
from persistence_augmented_dataset.dataset import SPLITS, load_split, read_manifest
from run_directory import CommandLine, InputError, read_json, run_cli
from video_tracks.clip import CLIP_SIZE

PICTURES = (*EVALUATION_PICTURES, ATTENTION_OVERVIEW, *EFFICIENCY_CHARTS)
MOT_ROW = re.compile(r"^\d+,-?\d+(,-?[\d.]+){4,}")


class CheckFailed(Exception):
    """A line of the checklist does not hold; the message says why."""


# a damaged file can hold anything: whatever goes wrong with it, its line fails and the others are still checked
FAILURES = (CheckFailed, OSError, ValueError, KeyError, TypeError, AttributeError, cv2.error)


def require(holds: bool, reason: str) -> None:
    """Fail the check with `reason` unless it holds."""
    if not holds:
        raise CheckFailed(reason)


def check_stage_file(path: Path, stage: str, script: str) -> None:
    """A valid JSON object of its stage and schema version, without NaN, made with known code."""
    value = read_json(path, script, stage)
    require(isinstance(value.get("provenance"), dict), "it does not say what it was made with (provenance)")


def check_picture(path: Path) -> None:
    """A PNG that opens and shows more than one colour."""
    require(path.is_file(), "it does not exist")
    image = cv2.imread(str(path))
    if image is None:
        raise CheckFailed("it does not open")
    require(min(image.shape[:2]) >= 64, f"it is only {image.shape[1]} x {image.shape[0]} px")
    require(float(image.std()) > 1.0, "it is blank")


def check_samples(folder: Path) -> None:
    """The attention pictures of the samples."""
    samples = sorted(folder.glob("sample_*_attention.png"))
    require(bool(samples), "there is none")
    for sample in samples:
        try:
            check_picture(sample)
        except CheckFailed as failure:
            raise CheckFailed(f"{sample.name}: {failure}") from None


def check_text(path: Path) -> None:
    """A text that exists and says something, with no figure left unfilled."""
    require(path.is_file(), "it does not exist")
    text = path.read_text(encoding="utf-8")
    require(len(text.split()) >= 20, "it says next to nothing")
    require(not re.search(r"\{\{|\}\}|\bnan\b|\bNone\b", text), "it holds an unfilled or undefined value")


class ExternalReferences(HTMLParser):
    """Collects what a page would load from outside itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.num_images = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note images and every reference that is neither data nor a link for the reader to follow."""
        self.num_images += tag in {"img", "image", "svg"}
        for name, value in attrs:
            loads = name in {"src", "srcset", "poster", "data"} or (name in {"href", "xlink:href"} and tag != "a")
            if loads and value and not value.startswith(("data:", "#")):
                self.found.append(value)
            if name == "style" and value:
                self.note_css(value)

    def handle_data(self, data: str) -> None:
        """Style sheets load too."""
        if self.cdata_elem == "style":
            self.note_css(data)

    def note_css(self, css: str) -> None:
        """Collect `url(...)` and `@import` that are not data."""
        references = re.findall(r"url\(\s*['\"]?([^)'\"]+)", css) + re.findall(r"@import\s+['\"]([^'\"]+)", css)
        self.found += [reference for reference in references if not reference.startswith(("data:", "#"))]


def check_self_contained(path: Path) -> None:
    """The page shows pictures and loads nothing from elsewhere."""
    require(path.is_file(), "it does not exist")
    page = ExternalReferences()
    page.feed(path.read_text(encoding="utf-8"))
    require(not page.found, f"it loads {', '.join(page.found[:3])}")
    require(page.num_images > 0, "it shows no picture")


def check_predictions(results: Path) -> None:
    """One row per test clip."""
    with open(results / PREDICTIONS, newline="", encoding="utf-8") as file:
        num_rows = sum(1 for _ in csv.DictReader(file))
    expected = read_stage(results, "evaluation")["num_clips"]
    require(num_rows == expected, f"{num_rows} rows, the evaluation counted {expected} clips")


def check_training_log(results: Path) -> None:
    """Every epoch that the configuration asked for is in the log."""
    epochs = read_stage(results, "training")["epochs"]
    logged = re.findall(r"Epoch (\d+)/(\d+): Loss=", (results / "training.log").read_text(encoding="utf-8"))
    require(bool(logged), "it holds no line `Epoch 1/20: Loss=..., Accuracy=...`")
    last, total = (int(number) for number in logged[-1])
    require(last == total == len(epochs), f"it ends with epoch {last} of {total}, the metrics hold {len(epochs)}")


def check_markers(results: Path) -> None:
    """Training said that it is done, nothing said that it failed."""
    require((results / "TRAINING_COMPLETE.txt").is_file(), "TRAINING_COMPLETE.txt does not exist")
    failed = {path.name for path in results.glob("*_FAILED.txt")}
    if "VERIFY_FAILED.txt" in failed:  # of this very checklist, and of the pipeline that ended with it
        failed -= {"VERIFY_FAILED.txt", "PIPELINE_FAILED.txt"}
    require(not failed, f"there is {', '.join(sorted(failed))}")


def check_monitoring(results: Path) -> None:
    """The files by which a run is watched hold lines of the documented form."""
    stamp = r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] "
    progress = (results / "PROGRESS.txt").read_text(encoding="utf-8").splitlines()
    require(bool(progress) and bool(re.match(stamp, progress[-1])), "PROGRESS.txt does not end with a dated line")
    heartbeat = (results / "HEARTBEAT.txt").read_text(encoding="utf-8")
    require(bool(re.match(stamp + "Heartbeat: .+ in progress$", heartbeat.strip())), "HEARTBEAT.txt is malformed")


def check_model(path: Path) -> None:
    """The file alone rebuilds a model that gives probabilities."""
    model = load_model(path, torch.device("cpu"))
    with torch.inference_mode():
        frames = torch.zeros((1, 2, CLIP_SIZE, CLIP_SIZE, 3), dtype=torch.uint8)
        p = model(frames_to_input(frames, torch.device("cpu")))
    require(bool(((p >= 0) & (p <= 1)).all()), f"it gives {p.tolist()} for a blank clip")


def check_tracks(path: Path) -> None:
    """MOT Challenge text with at least one track."""
    rows = path.read_text(encoding="utf-8").split()
    require(bool(rows), "it is empty")
    malformed = [row for row in rows if not MOT_ROW.match(row)]
    require(not malformed, f"{malformed[:1]} is not frame,id,x,y,width,height,...")


def check_video(path: Path) -> None:
    """A video whose frames can be read, or detect.py's reason why there is none."""
    if not path.exists():
        left_out = read_json(path.with_name("summary.json"), "detect.py", "detect").get("annotated_video", {})
        require(bool(left_out.get("reason")), "it does not exist")
        return
    video = cv2.VideoCapture(str(path))
    opened, frame = video.read()
    video.release()
    require(opened and float(frame.std()) > 1.0, "its first frame cannot be read or is blank")


def check_leakage(results: Path) -> None:
    """On clips without a cue nobody beats the Bayes limit."""
    found = read_stage(results, "leak")
    require(
        found["passed"] is True,
        "the classifier beat the Bayes limit on blind clips by more than three standard errors",
    )


def check_dataset(directory: Path) -> None:
    """Every shard of every split has the checksum in the manifest."""
    for split in SPLITS:
        load_split(directory, split, verify=True)


def check_trained_on(results: Path, directory: Path) -> None:
    """The model's configuration names this preset and these clips."""
    data = read_stage(results, "config")["data"]
    manifest = read_manifest(directory)
    counts = {name: split["num_clips"] for name, split in manifest["splits"].items()}
    require(data["preset"] == manifest["preset"], f"trained on preset {data['preset']}, not {manifest['preset']}")
    require(data["num_clips"] == counts, f"trained on {data['num_clips']} clips, not {counts}")


def read_figures(results: Path) -> list[dict[str, Any]]:
    """The success figures as the report judged them: name, value, comparison, target, whether it is met."""
    return read_stage(results, "report")["criteria"]


def describe_figure(figure: dict[str, Any]) -> str:
    """One figure in words."""
    measured = "not measured" if figure["value"] is None else f"{figure['value']:.4g}"
    verdict = "met" if figure["met"] else "MISSED"
    return f"{figure['name']}: {measured} (target {figure['comparison']} {figure['target']}: {verdict})"


def has_targets(results: Path) -> bool:
    """Whether the figures are meant to meet the targets, which were set for a trained model on standard clips."""
    try:
        config = read_stage(results, "config")
        return config["profile"] != "smoke" and config["data"]["preset"] == "standard"
    except FAILURES:
        return True


def check_figures(results: Path) -> None:
    """Every figure meets the floor."""
    figures = read_figures(results)
    require(len(figures) > 0, "there is none")
    if not has_targets(results):
        return
    missed = [describe_figure(figure) for figure in figures if figure["met"] is not True]
    require(not missed, "; ".join(missed))


def reads_tokens(results: Path) -> bool:
    """Whether the run's extractor is the tokenizer, whose tokens compare_tokens.py judges."""
    try:
        return read_stage(results, "config")["extractor"] == "magvit"
    except FAILURES:
        return True


def is_compared(results: Path) -> bool:
    """Whether the run has put extractors side by side: either file of it counts, so a lost one is noticed."""
    return any((results / name).exists() for name in (STAGE_FILES["comparison"].path, COMPARISON_PICTURE))


def is_judged_on_real_tracks(results: Path) -> bool:
    """Whether the run had annotated footage: any file of it counts, so a lost one is noticed."""
    return any((results / name).exists() for name in (STAGE_FILES["real_tracks"].path, *REAL_TRACKS_PICTURES))


def owed_stage_files(results: Path) -> list[StageFile]:
    """The JSON files that this run must have."""
    owed = dict(STAGE_FILES)
    if not reads_tokens(results):
        del owed["ablation"]
    if not is_judged_on_real_tracks(results):
        del owed["real_tracks"]
    if not is_compared(results):
        del owed["comparison"]
    if not is_compared(results) or not (results / STAGE_FILES["windows"].path).exists():
        del owed["windows"]
    return list(owed.values())


def check_comparison(results: Path) -> None:
    """Every extractor has a row, every pair a difference, and something is recommended."""
    value = read_stage(results, "comparison")
    count = len(value["extractors"])
    require(count > 0, "it compares nothing")
    require(len(value["differences"]) == count * (count - 1) // 2, f"{count} extractors need all their differences")
    require(bool(value["recommendation"]), "it recommends nothing")


def checklist(results: Path, datasets: list[Path]) -> list[tuple[str, Callable[[], None]]]:
    """Every line with the function that checks it."""
    lines: list[tuple[str, Callable[[], None]]] = [
        ("the run's markers: training complete, nothing failed", partial(check_markers, results)),
        ("PROGRESS.txt and HEARTBEAT.txt can be watched", partial(check_monitoring, results)),
        ("training.log holds every epoch", partial(check_training_log, results)),
    ]
    pictures = list(PICTURES)
    if is_judged_on_real_tracks(results):
        pictures += REAL_TRACKS_PICTURES
    if is_compared(results):
        pictures.append(COMPARISON_PICTURE)
        lines.append(("extractors are compared, every pair of them", partial(check_comparison, results)))
    for file in owed_stage_files(results):
        check = partial(check_stage_file, results / file.path, file.stage, file.script)
        lines.append((f"{file.path} is valid", check))
    for name in pictures:
        lines.append((f"{name} opens and is not blank", partial(check_picture, results / name)))
    for name in TEXTS:
        lines.append((f"{name} is filled in", partial(check_text, results / name)))
    for name in MODELS:
        lines.append((f"{name} loads alone", partial(check_model, results / name)))
    lines += [
        ("attention pictures of the samples open", partial(check_samples, results / "visualizations")),
        (f"{PREDICTIONS} has a row per test clip", partial(check_predictions, results)),
        ("detection/candidates.txt is MOT text", partial(check_tracks, results / "detection" / "candidates.txt")),
        (
            "detection/annotated.mp4 plays, or is left out with a reason",
            partial(check_video, results / "detection" / "annotated.mp4"),
        ),
        ("FINAL_REPORT.html is self-contained", partial(check_self_contained, results / "FINAL_REPORT.html")),
        ("blind clips leak nothing", partial(check_leakage, results)),
    ]
    for directory in datasets:
        lines.append((f"checksums of {directory.name}", partial(check_dataset, directory)))
    if datasets:
        lines.append((f"trained on {datasets[0].name}", partial(check_trained_on, results, datasets[0])))
    wanted = "meet their targets" if has_targets(results) else "are there (no targets for this profile and preset)"
    lines.append((f"the success figures {wanted}", partial(check_figures, results)))
    return lines


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--results_dir", type=Path, required=True, help="a finished run's directory")
    parser.add_argument(
        "--data_dir", type=Path, nargs="*", default=[], help="datasets to check; the first is the one trained on"
    )
    parser.add_argument("--figures_only", action="store_true", help="print the success figures, check nothing")
    return parser.parse_args()


def main() -> None:
    """Print the figures, or check every line."""
    arguments = parse_args()
    if not arguments.results_dir.is_dir():
        raise InputError(f"{arguments.results_dir} is not a folder; give the --results_dir of a finished run")
    if arguments.figures_only:
        for figure in read_figures(arguments.results_dir):
            print(describe_figure(figure))
        return
    num_failed = 0
    for line, check in checklist(arguments.results_dir, arguments.data_dir):
        try:
            check()
        except FAILURES as failure:
            num_failed += 1
            print(f"FAIL  {line}: {' '.join(str(failure).split())}", flush=True)
        else:
            print(f"ok    {line}", flush=True)
    if num_failed:
        print(f"{num_failed} of the lines above failed")
        raise SystemExit(1)


if __name__ == "__main__":
    run_cli(main)

"""The generator's command line: determinism, resuming, refusals, and clear errors for damaged data."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from persistence_augmented_dataset.dataset import (
    IMPLIED_COLUMNS,
    METADATA_COLUMNS,
    POSTERIOR_OF,
    SPLITS,
    load_split,
)
from persistence_augmented_dataset.pair_format import export_pairs, import_pairs
from persistence_augmented_dataset.synthetic.bayes import get_preset
from persistence_augmented_dataset.synthetic.scenes import sample_scene
from persistence_augmented_dataset.synthetic.shards import generate_dataset, plan_shards, scene_metadata
from run_directory import InputError, sha256_file

PACKAGE = Path(__file__).resolve().parents[1]
COUNTS = {"train": 300, "calibration": 30, "test": 40}
FLAGS = ["--num_clips", "300", "--calibration_clips", "30", "--test_clips", "40", "--seed", "5"]


def command(script, *args):
    return [sys.executable, str(PACKAGE / script), *map(str, args)]


def run(script, *args):
    return subprocess.run(command(script, *args), capture_output=True, text=True, check=False)


def files_of(directory):
    return {
        str(path.relative_to(directory)): sha256_file(path)
        for path in sorted(directory.rglob("*"))
        if path.suffix in (".npy", ".npz")
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("dataset") / "standard"
    generate_dataset(directory, get_preset("standard"), 5, COUNTS)
    return directory


@pytest.fixture
def damaged(dataset, tmp_path):
    """A copy of the dataset for a test to damage."""
    subprocess.run(["cp", "-r", str(dataset), str(tmp_path / "copy")], check=True)
    return tmp_path / "copy"


def assert_one_line_error(result, *words):
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]


def test_two_workers_give_the_same_bytes_as_one(dataset, tmp_path):
    result = run("generate_dataset.py", *FLAGS, "--workers", 2, "--output_dir", tmp_path / "two")
    assert result.returncode == 0, result.stderr
    assert files_of(tmp_path / "two") == files_of(dataset)
    assert len(files_of(dataset)) == 8


def test_splits_have_the_asked_counts_and_share_no_scene(dataset):
    splits = {name: load_split(dataset, name) for name in SPLITS}
    assert {name: len(split) for name, split in splits.items()} == COUNTS
    scene_ids = [set(split.metadata["scene_id"]) for split in splits.values()]
    assert not scene_ids[0] & scene_ids[1]
    assert not scene_ids[0] & scene_ids[2]
    assert not scene_ids[1] & scene_ids[2]
    train = splits["train"]
    assert (train.metadata["visible"][:, 0]).all()
    assert np.isfinite(train.metadata["bayes_posterior"]).all()
    assert (np.isnan(train.metadata["boxes"]).any(axis=-1) == ~train.metadata["visible"]).all()
    assert not np.array_equal(train.clips(slice(0, 30)), splits["calibration"].clips(slice(0, 30)))


def test_another_seed_gives_other_clips(dataset, tmp_path):
    generate_dataset(tmp_path / "other", get_preset("standard"), 6, {**COUNTS, "train": 10})
    ours = load_split(dataset, "train").clips(slice(0, 10))
    assert not np.array_equal(ours, load_split(tmp_path / "other", "train").clips(slice(0, 10)))


def test_more_clips_only_add_clips():
    few, many = (plan_shards(get_preset("standard"), 0, "train", count) for count in (700, 2000))
    assert few[:-1] == many[: len(few) - 1]
    assert many[len(few) - 1].scene_indices[: len(few[-1].scene_indices)] == few[-1].scene_indices
    assert sum(plan.num_clips for plan in many) == 2000


def test_a_whole_dataset_is_left_alone(dataset):
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    result = run("generate_dataset.py", *FLAGS, "--output_dir", dataset)
    assert result.returncode == 0
    assert "already whole" in result.stdout
    assert before == {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}


def test_resume_after_kill_gives_the_same_bytes_and_keeps_whole_shards(tmp_path):
    counts = {"train": 1500, "calibration": 10, "test": 10}
    flags = ["--num_clips", "1500", "--calibration_clips", "10", "--test_clips", "10", "--workers", "2"]
    output = tmp_path / "killed"
    process = subprocess.Popen(
        command("generate_dataset.py", *flags, "--output_dir", output), stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not list(output.glob("train/shard_*.npy")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # its workers leave with it
    left = {path: path.stat().st_mtime_ns for path in output.glob("train/shard_*.npy")}
    assert 1 <= len(left) < 6
    assert not (output / "manifest.json").exists()
    assert_one_line_error(
        run("generate_dataset.py", *flags, "--seed", "1", "--output_dir", output), "seed 0 instead of 1", "--force"
    )
    result = run("generate_dataset.py", *flags, "--output_dir", output)
    assert result.returncode == 0, result.stderr
    assert left == {path: path.stat().st_mtime_ns for path in left}
    generate_dataset(tmp_path / "straight", get_preset("standard"), 0, counts)
    assert files_of(output) == files_of(tmp_path / "straight")


def test_another_preset_needs_force(damaged):
    flags = ["--preset", "easy", "--num_clips", "10", "--calibration_clips", "5", "--test_clips", "5"]
    result = run("generate_dataset.py", *flags, "--output_dir", damaged)
    assert_one_line_error(result, "preset 'standard' instead of 'easy'", "--force")
    assert len(load_split(damaged, "train")) == 300
    (damaged / "notes.txt").write_text("mine")
    result = run("generate_dataset.py", *flags, "--output_dir", damaged, "--force")
    assert result.returncode == 0, result.stderr
    easy = load_split(damaged, "train")
    assert easy.manifest["preset"] == "easy"
    assert len(easy) == 10
    assert (damaged / "notes.txt").read_text() == "mine"


def test_a_folder_of_foreign_data_needs_force(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match="did not make"):
        generate_dataset(tmp_path, get_preset("easy"), 0, {"train": 5, "calibration": 5, "test": 5})


@pytest.mark.parametrize("bad", [["--num_clips", "0"], ["--num_clips", "x"], ["--preset", "medium"]])
def test_wrong_flags_exit_2_and_write_nothing(bad, tmp_path):
    result = run("generate_dataset.py", "--num_clips", "5", *bad, "--output_dir", tmp_path / "out")
    assert result.returncode == 2
    assert not (tmp_path / "out").exists()


def corrupt_shard(directory):
    path = directory / "test" / "shard_00000.npy"
    data = bytearray(path.read_bytes())
    data[5000] ^= 255
    path.write_bytes(data)


def truncate_shard(directory):
    path = directory / "test" / "shard_00000.npy"
    path.write_bytes(path.read_bytes()[:5000])


def raise_schema_version(directory):
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["schema_version"] = 99
    (directory / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (corrupt_shard, ["shard_00000.npy", "checksum"]),
        (truncate_shard, ["shard_00000.npy", "checksum"]),
        (lambda d: (d / "test" / "shard_00000.npy").unlink(), ["shard_00000.npy", "missing"]),
        (lambda d: (d / "manifest.json").unlink(), ["manifest.json", "generate_dataset.py"]),
        (lambda d: (d / "manifest.json").write_text(""), ["manifest.json", "not valid JSON"]),
        (raise_schema_version, ["manifest.json", "schema version 99"]),
    ],
    ids=["corrupt", "truncated", "missing shard", "missing manifest", "empty manifest", "schema"],
)
def test_damaged_data_is_one_clear_error(damaged, tmp_path, damage, words):
    """Through the command line of a reader (preview.py), which writes nothing then."""
    damage(damaged)
    output = tmp_path / "sheet.png"
    result = run("preview.py", "--data", damaged, "--split", "test", "--output", output)
    assert_one_line_error(result, *words)
    assert not output.exists()


def test_preview_draws_both_kinds(dataset, tmp_path):
    result = run("preview.py", "--data", dataset, "--split", "test", "--output", tmp_path / "sheet.png")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "sheet.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_every_column_is_stored(dataset):
    assert set(load_split(dataset, "test").metadata) == set(METADATA_COLUMNS)


FINGERPRINTS = {  # of scene 3, split train, seed 5: before there was a detector they were the same
    "easy": "c6099149aa209563",
    "standard": "2a0f4c6d955f771e",
    "blind": "aec4dabf0d537fb7",
    "hard": "648f594a28fd9366",
}


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_presets_without_a_detector_draw_what_they_always_drew(name):
    """Metadata to 3 decimals, which no library version moves; its columns are those of before."""
    metadata = scene_metadata(sample_scene(get_preset(name), (5, 0, 3)))
    assert not set(IMPLIED_COLUMNS) & set(metadata)
    digest = hashlib.sha256()
    for column in METADATA_COLUMNS:
        if column in metadata:
            values = metadata[column].astype(np.float64)
            digest.update((np.nan_to_num(values, nan=-1e3).round(3) + 0.0).tobytes())
    assert digest.hexdigest()[:16] == FINGERPRINTS[name]


def test_a_dataset_without_a_detector_names_none(dataset):
    assert "detector" not in json.loads((dataset / "generation.json").read_text())["parameters"]["preset"]
    with np.load(dataset / "train" / "shard_00000.meta.npz") as archive:
        assert set(archive.files) == set(METADATA_COLUMNS) - set(IMPLIED_COLUMNS)
    metadata = load_split(dataset, "train").metadata
    np.testing.assert_array_equal(metadata["bayes_posterior_pixels"], metadata["bayes_posterior"])
    assert np.isnan(metadata["bayes_posterior_evidence"]).all()


def test_a_detectors_dataset_has_scores_and_three_limits(tmp_path):
    counts = {"train": 30, "calibration": 10, "test": 10}
    generate_dataset(tmp_path, get_preset("detector"), 0, counts)
    metadata = load_split(tmp_path, "train").metadata
    np.testing.assert_array_equal(np.isfinite(metadata["scores"]), metadata["visible"])
    limits = np.stack([metadata[name] for name in POSTERIOR_OF.values()])
    assert np.isfinite(limits).all() and all(
        not np.array_equal(limits[i], limits[j]) for i, j in ((0, 1), (0, 2), (1, 2))
    )
    export_pairs(tmp_path, tmp_path / "pairs")
    import_pairs(tmp_path / "pairs", tmp_path / "back")
    back = load_split(tmp_path / "back", "train").metadata
    for name in METADATA_COLUMNS:
        np.testing.assert_array_equal(back[name], metadata[name])


def test_a_dataset_that_was_made_before_scores_were_kept_is_whole_without_them(dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "old")
    for path in (tmp_path / "old").rglob("*.meta.npz"):
        with np.load(path) as archive:
            columns = {name: archive[name] for name in archive.files if name != "scores"}
        np.savez(path, **columns)
    old, new = (load_split(folder, "train", verify=False) for folder in (tmp_path / "old", dataset))
    assert old.metadata.keys() == new.metadata.keys() == METADATA_COLUMNS.keys()
    assert old.metadata["scores"].shape == (len(old), 16) and np.isnan(old.metadata["scores"]).all()
    np.testing.assert_array_equal(old.metadata["objects"], new.metadata["objects"])

"""The pair format: what is exported comes back the same, and bad pairs are refused in one line."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from persistence_augmented_dataset.dataset import METADATA_COLUMNS, SPLITS, load_split
from persistence_augmented_dataset.pair_format import export_pairs, import_pairs
from persistence_augmented_dataset.synthetic.bayes import get_preset
from persistence_augmented_dataset.synthetic.shards import generate_dataset
from run_directory import InputError

COUNTS = {"train": 24, "calibration": 7, "test": 9}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pairs") / "data"
    generate_dataset(directory, get_preset("standard"), 2, COUNTS)
    return directory


@pytest.fixture
def pairs(dataset, tmp_path):
    export_pairs(dataset, tmp_path / "pairs")
    return tmp_path / "pairs"


def write_bare_pairs(folder, count, **fields):
    """Pairs as another program may hold them: a tensor and little else."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for index in range(count):
        torch.save(torch.rand(16, 3, 64, 64, generator=generator), folder / f"augmented_traj_{index:05d}.pt")
        record = {"label": index % 2, **{key: value(index) for key, value in fields.items()}}
        (folder / f"augmented_traj_{index:05d}.json").write_text(json.dumps(record))


def test_round_trip_is_exact(dataset, pairs, tmp_path):
    assert len(list(pairs.glob("augmented_traj_*.pt"))) == sum(COUNTS.values())
    import_pairs(pairs, tmp_path / "back")
    for name in SPLITS:
        before, after = load_split(dataset, name), load_split(tmp_path / "back", name)
        np.testing.assert_array_equal(before.clips(slice(None)), after.clips(slice(None)))
        for column in METADATA_COLUMNS:
            np.testing.assert_array_equal(before.metadata[column], after.metadata[column])
    assert after.manifest["preset"] == "standard"
    assert after.manifest["unknown_columns"] == []


def test_a_pair_is_what_its_users_expect(dataset, pairs):
    tensor = torch.load(pairs / "augmented_traj_00003.pt", weights_only=True)
    record = json.loads((pairs / "augmented_traj_00003.json").read_text())
    train = load_split(dataset, "train")
    assert tensor.shape == (16, 3, 64, 64)
    assert tensor.dtype == torch.float32
    assert 0 <= tensor.min() < tensor.max() <= 1
    np.testing.assert_array_equal((tensor * 255).round().byte().permute(0, 2, 3, 1), train.clips([3])[0])
    assert record["label"] == train.metadata["label"][3]
    assert record["split"] == "train"


def test_pairs_without_metadata_become_a_dataset_of_unknowns(tmp_path):
    write_bare_pairs(tmp_path / "bare", 10)
    import_pairs(tmp_path / "bare", tmp_path / "data")
    splits = [load_split(tmp_path / "data", name) for name in SPLITS]
    assert sum(len(split) for split in splits) == 10
    for split in splits:
        assert np.isnan(split.metadata["bayes_posterior"]).all()
        assert (split.metadata["path_type"] == 255).all()
        assert "bayes_posterior" in split.manifest["unknown_columns"]
        assert "label" not in split.manifest["unknown_columns"]


def test_splits_share_no_scene(tmp_path):
    write_bare_pairs(tmp_path / "bare", 20, scene_id=lambda index: index // 4)
    import_pairs(tmp_path / "bare", tmp_path / "data")
    scenes = [set(load_split(tmp_path / "data", name).metadata["scene_id"]) for name in SPLITS]
    assert sum(map(len, scenes)) == len(set.union(*scenes)) == 5


@pytest.mark.parametrize(
    ("name", "record"),
    [("label as a word", {"label": "persistent"}), ("a flag", {"is_persistent": True})],
)
def test_other_spellings_of_the_label(tmp_path, name, record):
    write_bare_pairs(tmp_path / "bare", 3)
    for path in (tmp_path / "bare").glob("*.json"):
        path.write_text(json.dumps(record))
    import_pairs(tmp_path / "bare", tmp_path / "data")
    assert load_split(tmp_path / "data", "train").metadata["label"].tolist() == [1]


def save(value):
    return lambda pairs: torch.save(value, pairs / "augmented_traj_00002.pt")


def record(text):
    return lambda pairs: (pairs / "augmented_traj_00002.json").write_text(text)


def with_nan():
    clip = torch.zeros(16, 3, 64, 64)
    clip[3, 1, 5, 5] = float("nan")
    return clip


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: (p / "augmented_traj_00002.json").unlink(), r"augmented_traj_00002\.json does not exist"),
        (lambda p: (p / "augmented_traj_00002.pt").unlink(), r"augmented_traj_00002\.pt"),
        (save(torch.zeros(8, 3, 64, 64)), r"00002\.pt .*\(8, 3, 64, 64\).*\(16, 3, 64, 64\)"),
        (save(torch.zeros(16, 3, 64, 64, dtype=torch.uint8)), r"00002\.pt .*uint8"),
        (save({"frames": 1}), r"00002\.pt .*dict"),
        (save(with_nan()), r"00002\.pt .*NaN"),
        (save(torch.full((16, 3, 64, 64), 255.0)), r"00002\.pt .*\[0, 1\]"),
        (lambda p: (p / "augmented_traj_00002.pt").write_bytes(b"no"), r"00002\.pt cannot be read"),
        (record("{"), r"00002\.json is not valid JSON"),
        (record("{}"), r"00002\.json .*label"),
        (record('{"label": 2}'), r"00002\.json .*label"),
        (record('{"label": 1, "split": "train", "cue": [1, 2]}'), r"00002\.json .*cue"),
        (record('{"label": 1, "split": "train", "visible": "yes"}'), r"00002\.json .*visible"),
    ],
)
def test_bad_pairs_are_refused_and_nothing_is_written(pairs, tmp_path, damage, words):
    damage(pairs)
    with pytest.raises(InputError, match=words):
        import_pairs(pairs, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["pairs"]


def test_command_line(dataset, tmp_path):
    module = [sys.executable, "-m", "persistence_augmented_dataset.pair_format"]
    pairs, back = tmp_path / "pairs", tmp_path / "back"
    subprocess.run([*module, "export", "--data", dataset, "--split", "test", "--output_dir", pairs], check=True)
    assert len(list(pairs.glob("*.json"))) == COUNTS["test"]
    result = subprocess.run(
        [*module, "import", "--pairs", tmp_path / "none", "--output_dir", back],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.strip().splitlines()) == 1


def test_neither_direction_overwrites(dataset, pairs):
    with pytest.raises(InputError, match="not empty"):
        export_pairs(dataset, pairs)
    with pytest.raises(InputError, match="not empty"):
        import_pairs(pairs, dataset)

"""The one command: what it says, what it refuses, and that a run cut short goes on. Real script, real stages."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from early_persistence_detection.models.extractors.registry import EXTRACTORS
from early_persistence_detection.models.stopping.rules import RULES
from early_persistence_detection.training.profiles import PROFILES

SCRIPTS = Path(__file__).resolve().parents[1]
PIPELINE = SCRIPTS / "run_magvit_early_persistence_pipeline_ec2.sh"
ENVIRONMENT = {**os.environ, "EARLY_PERSISTENCE_VENV": sys.prefix}


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        env={**ENVIRONMENT, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def wait_for(condition: Callable[[], bool], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_help_teaches(script: Path):
    result = run("bash", script, "--help")
    assert result.returncode == 0 and result.stderr == ""
    assert f"bash scripts/{script.name}" in result.stdout
    assert not re.search("shellcheck (source|disable)", result.stdout)  # meant for the checker, not for users


def test_help_names_every_flag():
    shown = run("bash", PIPELINE, "--help").stdout
    cases = PIPELINE.read_text().split("parse_arguments() {")[1].split("\n}")[0]
    taken = {word for line in re.findall(r"^ {6}([-\w| ]+)\)", cases, re.MULTILINE) for word in line.split(" | ")}
    taken -= {"-h", "--follow"}  # second spellings
    assert len(taken) > 40 and not {word for word in taken if not re.search(rf"{word}(?![\w-])", shown)}
    for flag in [
        *("status", "logs", "attach", "stop", "sync", "verify"),
        *("--host", "--key", "--ssh_config", "--accept_new_host_key", "--remote_dir", "--repository", "--branch"),
        *("--local_results", "--sync_interval", "--heartbeat", "--env_file", "--dry-run"),
        *("--smoke", "--until", "--preset", "--publish"),
        "--local",
        "--quick",
        "--full",
        "--results_dir",
        "--data_dir",
        "--video",
        "--detections",
        "--ground_truth",
        "--epochs",
        "--batch_size",
        "--num_clips",
        "--seed",
        "--extractor",
        "--compare",
        "--real_data",
        "--rule",
        "--eps",
        "--device",
        "--help",
    ]:
        assert f"  {flag}" in shown, flag


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no host"),
        (["status"], "no host"),
        (["--host", "-oProxyCommand=evil"], "is no host"),
        (["--host", "a b"], "is no host"),
        (["--host", "gpu", "--branch", "a..b"], "a..b"),
        (["--host", "gpu", "--key", "no such key"], "no such key"),
        (["--host", "gpu", "--results_dir", "x"], "--remote_dir"),
        (["--host", "gpu", "--publish", "x"], "--publish"),
        (["--host", "gpu", "--env_file", "no such file"], "no such file"),
        (["--since", "10m"], "--since goes with logs"),
        (["--local", "--preset", "blind"], "blind"),
        (["--local", "--rule", "dice"], "dice"),
        (["--local", "--extractor", "c3d"], "magvit, i3d, slowfast, transformer, not 'c3d'"),
        (["--local", "--extractor", "magvit i3d"], "magvit i3d"),
        (["--host", "gpu", "--extractor", "c3d"], "c3d"),
        (["--local", "--eps", "2"], "2"),
        (["--local", "--eps", "0.00"], "0.00"),
        (["--local", "--bogus"], "--bogus"),
        (["--local", "--smoke", "--until", "nosuchstage"], "generate_standard, "),
        (["--local", "--smoke", "--preset", "easy", "--until", "generate_standard"], "generate_easy, "),
        (["--local", "extra"], "extra"),
        (["--local", "--epochs"], "--epochs"),
        (["--local", "--epochs", "0"], "--epochs"),
        (["--local", "--batch_size", "two"], "two"),
        (["--local", "--seed", "-1"], "-1"),
        (["--local", "--results_dir"], "--results_dir"),
        (["--local", "--quick", "--full"], "not both"),
        (["--local", "--video", "no such file.mp4"], "no such file.mp4"),
        (["--local", "--real_data", "no such folder"], "MOT15/"),
        (["--local", "--real_data", str(PIPELINE)], "MOT15/"),
        (["--local", "--real_data"], "--real_data"),
        (["--local", "--detections", str(PIPELINE)], "--video"),
        (["--local", "--first_frame", "0"], "--detections"),
        (["--local", "--box_format"], "--box_format"),
        (["--local", "--video_first_frame", "0"], "--video"),
        (["--local", "--video_first_frame", "one"], "one"),
    ],
)
def test_wrong_command_line_is_one_line_and_exit_2(arguments: list[str], message: str):
    result = run("bash", PIPELINE, *arguments)
    assert result.returncode == 2
    assert message in result.stderr and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("asked", "cuda", "said"),
    [
        ("quick", "True", "Profile quick, because --quick was given"),
        ("smoke", "True", "Profile smoke, because --smoke was given"),
        ("full", "False", "Profile full, because --full was given"),
        ("", "True", "Profile full, because this machine has a CUDA GPU"),
        ("", "False", "Profile quick, because this machine has no CUDA GPU"),
    ],
)
def test_the_profile_and_its_reason_are_said(tmp_path: Path, asked: str, cuda: str, said: str):
    # a torch that answers as the machine at hand would
    (tmp_path / "torch.py").write_text(f"class cuda:\n    is_available = staticmethod(lambda: {cuda})\n")
    script = 'source "$1/lib/common.sh"; source "$1/lib/profiles.sh"; python=$2; choose_profile "$3" "$4"; '
    command = ("bash", "-c", script + 'echo "$train_clips"', "bash", SCRIPTS, sys.executable, asked)
    result = run(*command, "", PYTHONPATH=str(tmp_path))
    assert said in result.stdout, result.stderr
    assert int(result.stdout.split()[-1]) >= (6000 if asked != "smoke" else 1)
    assert run(*command, "77", PYTHONPATH=str(tmp_path)).stdout.split()[-1] == "77"


def settings_of(tmp_path: Path, text: str, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a dry run says with this pipeline.env."""
    (tmp_path / "pipeline.env").write_text(text)
    command = [
        "bash",
        PIPELINE,
        "--dry-run",
        "--quick",
        "--repository",
        "here",
        "--env_file",
        tmp_path / "pipeline.env",
    ]
    return run(*command, *flags, **environment)


def test_flags_win_over_the_environment_which_wins_over_the_file(tmp_path: Path):
    text = "# a comment\n\n  PIPELINE_HOST='from the file'\nPIPELINE_EPOCHS=3\nPIPELINE_BRANCH=\"of-file\"\n"
    text = text.replace("'from the file'", "file-host")
    shown = settings_of(tmp_path, text).stdout
    assert "ssh file-host" in shown and "--epochs 3" in shown and "committed to of-file" in shown
    shown = settings_of(tmp_path, text, PIPELINE_HOST="environment-host", PIPELINE_EPOCHS="4").stdout
    assert "ssh environment-host" in shown and "--epochs 4" in shown
    shown = settings_of(tmp_path, text, "--host", "flag-host", "--epochs", "5", PIPELINE_HOST="environment-host").stdout
    assert "ssh flag-host" in shown and "--epochs 5" in shown


def test_the_hosts_run_gets_the_rule_and_its_promise(tmp_path: Path):
    shown = settings_of(tmp_path, "PIPELINE_HOST=x\n", "--rule", "certified", "--eps", "0.03").stdout
    assert "--rule certified" in shown and "--eps 0.03" in shown
    assert "--rule threshold" in settings_of(tmp_path, "PIPELINE_HOST=x\n").stdout


def test_the_hosts_run_compares_extractors_when_asked(tmp_path: Path):
    shown = settings_of(tmp_path, "PIPELINE_HOST=x\n", "--compare", "--seed", "4").stdout
    assert " --compare" in shown
    for name in EXTRACTORS:
        for seed in (4, 5, 6):
            assert f" train_{name}_seed{seed} calibrate_{name}_seed{seed} evaluate_{name}_seed{seed} " in shown
    assert "compare_window_models compare_extractors report" in shown
    shown = settings_of(tmp_path, "PIPELINE_HOST=x\n").stdout
    assert "--compare" not in shown and "compare_extractors" not in shown


@pytest.mark.parametrize("name", ["magvit", "i3d", "slowfast", "transformer"])
def test_the_hosts_run_gets_the_extractor_and_only_the_tokenizer_has_its_tokens_judged(tmp_path: Path, name: str):
    for shown in (
        settings_of(tmp_path, "PIPELINE_HOST=x\n", "--extractor", name).stdout,
        settings_of(tmp_path, f"PIPELINE_HOST=x\nPIPELINE_EXTRACTOR={name}\n").stdout,
    ):
        assert f"--extractor {name} " in shown
        assert ("compare_tokens" in shown) == (name == "magvit")


def test_the_host_judges_real_tracks_where_it_has_footage(tmp_path: Path):
    for shown in (
        settings_of(tmp_path, "PIPELINE_HOST=x\n", "--real_data", "/there/footage").stdout,
        settings_of(tmp_path, "PIPELINE_HOST=x\nPIPELINE_REAL_DATA=/there/footage\n").stdout,
    ):
        assert "--real_data /there/footage" in shown and " detect evaluate_tracks report" in shown
    shown = settings_of(tmp_path, "PIPELINE_HOST=x\n").stdout
    assert "--real_data" not in shown and "evaluate_tracks" not in shown


COMPARE = """
source "$1/lib/common.sh"; source "$1/lib/profiles.sh"; source "$1/lib/settings.sh"
eval "$(awk '/^(compare|train_compared|compare_window_models|compare_extractors)\\(\\) /, /^}/' "$2")"
run_stage() { printf 'stage %s\n' "$*"; }; stage_done() { printf 'done %s\n' "$1"; }
python=py device=cpu seed=2 results_dir=/results standard_data=/data compare=$3
choose_profile smoke ''; compare
"""


def test_every_extractor_is_trained_from_three_seeds_before_they_are_compared():
    command = ("bash", "-c", COMPARE, "bash", SCRIPTS, PIPELINE)
    shown = run(*command, "yes")
    assert shown.returncode == 0, shown.stderr
    stages = [line.split()[1] for line in shown.stdout.splitlines() if line.startswith("stage ")]
    runs = [f"{name}_seed{seed}" for name in ("magvit", "i3d", "slowfast", "transformer") for seed in (2, 3, 4)]
    assert stages == [
        *(f"{verb}_{name}" for name in runs for verb in ("train", "calibrate", "evaluate")),
        "compare_window_models",
        "compare_extractors",
    ]
    assert [line.split()[1] for line in shown.stdout.splitlines() if line.startswith("done ")] == stages
    train = next(line for line in shown.stdout.splitlines() if line.startswith("stage train_i3d_seed3 "))
    assert "--extractor i3d --seed 3" in train and "--output_dir /results/comparison/i3d/seed3" in train
    assert "--num_samples 96" in train and train.endswith("--resume")
    last = shown.stdout.splitlines()[-2]
    assert "--seeds 2 3 4" in last and "/results/comparison/transformer/seed4/evaluation/predictions.csv" in last
    assert "/evaluation/comparisons/compare_extractors.py" in last and "--output /results/comparison " in last
    evaluate = next(line for line in shown.stdout.splitlines() if line.startswith("stage evaluate_i3d_seed3 "))
    assert "--output /results/comparison/i3d/seed3/evaluation " in evaluate
    assert "/results/comparison/i3d/seed3/efficiency_metrics.json" in evaluate
    assert not [line for line in run(*command, "").stdout.splitlines() if line.startswith("stage ")]


END_OF_STUDY = """
source "$1/lib/common.sh"; source "$1/lib/stages.sh"
eval "$(awk '/^(detect|choose_video|report|verify|finish)\\(\\) /, /^}/' "$2")"
python=$3 results_dir=$4 until=$5 video=a.mp4 video_first_frame='' detections='' ground_truth='' detect_code=0
dry_run='' publish_to='' standard_data=s blind_data=b model=m rule=threshold device=cpu seed=0
EARLY_PERSISTENCE_LOCK_DESCRIPTOR=9
detect; report; verify; finish
"""
RUNNER = """#!/usr/bin/env bash
printf '%s\\n' "$*"
case "$*" in
  *"--stage detect "*) exit {code} ;;
  *"--stage verify "*) exit {verified} ;;
esac
"""


def end_of_study(
    tmp_path: Path, code: int, until: str = "", script: str = END_OF_STUDY
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """The last stages, the runner of each pretended: what the script says, and the stages that were begun."""
    runner = tmp_path / "python"
    runner.write_text(RUNNER.format(code=code, verified=int(code != 0)))
    runner.chmod(0o755)
    result = run("bash", "-c", script, "bash", SCRIPTS, PIPELINE, runner, tmp_path, until)
    words = [line.split() for line in result.stdout.splitlines() if "--stage " in line]
    return result, [line[line.index("--stage") + 1] for line in words]


@pytest.mark.parametrize("code", [1, 2, 3, 137])
def test_a_detection_that_fails_leaves_the_report_whole_and_the_exit_code_tells(tmp_path: Path, code: int):
    (tmp_path / "DETECT_FAILED.txt").touch()
    result, stages = end_of_study(tmp_path, code)
    assert result.returncode == code and stages == ["detect", "report", "verify"]
    assert "--finish" not in result.stdout  # not every stage is done
    report = next(line for line in result.stdout.splitlines() if "--stage report" in line)
    assert "DETECT_FAILED.txt" in report and f"{tmp_path}/detection " not in report
    assert result.stderr.count("\n") == 1 and "DETECT_FAILED.txt" in result.stderr


def test_a_detection_that_was_stopped_stops_the_run(tmp_path: Path):
    for code in (129, 130, 143):
        result, stages = end_of_study(tmp_path, code)
        assert result.returncode == code and stages == ["detect"]


def test_a_run_until_detect_ends_there_however_it_went(tmp_path: Path):
    for code in (0, 2):
        result, stages = end_of_study(tmp_path, code, "detect")
        assert result.returncode == code and stages == ["detect"]


def test_a_detection_that_went_well_is_followed_by_the_rest(tmp_path: Path):
    (tmp_path / "detection").mkdir()
    result, stages = end_of_study(tmp_path, 0)
    assert result.returncode == 0 and stages == ["detect", "report", "verify"] and "--finish" in result.stdout


@pytest.mark.parametrize("place", ["boxes/seqinfo.ini", "seqinfo.ini"])
def test_the_scale_of_the_boxes_is_an_input_of_the_detection(tmp_path: Path, place: str):
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes" / "det.txt").touch()
    (tmp_path / place).touch()
    script = END_OF_STUDY.replace("detections=''", f"detections='{tmp_path}/boxes/det.txt'")
    result, _ = end_of_study(tmp_path, 0, script=script)
    detect = next(line for line in result.stdout.splitlines() if "--stage detect " in line)
    assert [Path(word).resolve() for word in detect.split() if "seqinfo" in word] == [tmp_path.resolve() / place]


def one_video(folder: Path) -> Path:
    """Twelve grey frames."""
    writer = cv2.VideoWriter(str(folder / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (80, 60))
    for _ in range(12):
        writer.write(np.full((60, 80, 3), 90, np.uint8))
    writer.release()
    return folder / "a.avi"


def test_what_a_file_of_boxes_does_not_say_is_said_to_the_pipeline(tmp_path: Path):
    (tmp_path / "det.txt").write_text("".join(f"{frame},-1,2,3,30,20,1\n" for frame in range(12)))
    command = ["bash", PIPELINE, "--local", "--smoke", "--results_dir", tmp_path / "R", "--data_dir", tmp_path / "D"]
    command += ["--video", one_video(tmp_path), "--detections", tmp_path / "det.txt", "--until", "generate_standard"]
    refused = run(*command)
    assert refused.returncode == 2 and "give --first_frame 0" in refused.stderr and not (tmp_path / "R").exists()
    plan = run(*command[:-2], "--first_frame", "0", "--dry-run").stdout
    assert "--first_frame 0" in next(line for line in plan.splitlines() if "detect.py" in line)
    assert run(*command, "--first_frame", "0").returncode == 0


def test_the_image_that_is_frame_1_is_said_to_the_pipeline(tmp_path: Path):
    (tmp_path / "img1").mkdir()
    for number in range(31, 34):
        cv2.imwrite(str(tmp_path / "img1" / f"{number}.png"), np.full((60, 80, 3), 90, np.uint8))
    (tmp_path / "det.txt").write_text("1,-1,2,3,30,20,1\n")
    command = ["bash", PIPELINE, "--local", "--smoke", "--results_dir", tmp_path / "R", "--data_dir", tmp_path / "D"]
    command += ["--video", tmp_path / "img1", "--detections", tmp_path / "det.txt", "--dry-run"]
    plan = run(*command, "--video_first_frame", "31").stdout
    assert "--video_first_frame 31" in next(line for line in plan.splitlines() if "detect.py" in line)


@pytest.mark.parametrize(
    ("detections", "message"),
    [("1,-1,nan,2,3,4,1\n", "det.txt line 1"), ("900,-1,2,3,10,10,1\n", "frame 900"), (None, "det.txt does not exist")],
)
def test_a_wrong_input_of_the_last_stage_is_refused_before_anything_is_made(
    tmp_path: Path, detections: str | None, message: str
):
    one_video(tmp_path)
    if detections is not None:
        (tmp_path / "det.txt").write_text(detections)
    command = ["bash", PIPELINE, "--local", "--smoke", "--results_dir", tmp_path / "R", "--data_dir", tmp_path / "D"]
    result = run(*command, "--video", tmp_path / "a.avi", "--detections", tmp_path / "det.txt")
    assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "R").exists() and not (tmp_path / "D").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PIPELINE_HOST=x\nPIPELINE_EXTRACTOR=c3d\n", "c3d"),
        ("PIPELINE_HOTS=x\n", "PIPELINE_HOTS"),
        ("rm -rf /\n", "line 1"),
        ("PIPELINE_HOST=x\nPIPELINE_EPOCHS=many\n", "PIPELINE_EPOCHS"),
        ("PIPELINE_HOST=x\nPIPELINE_SYNC_INTERVAL=0\n", "PIPELINE_SYNC_INTERVAL"),
    ],
)
def test_a_wrong_settings_file_is_one_line_and_exit_2(tmp_path: Path, text: str, message: str):
    result = settings_of(tmp_path, text)
    assert result.returncode == 2
    assert message in result.stderr and len(result.stderr.splitlines()) == 1


def test_a_settings_file_is_read_not_run(tmp_path: Path):
    mark = tmp_path / "ran"
    shown = settings_of(tmp_path, f"PIPELINE_HOST=$(touch${{IFS}}{mark})`touch${{IFS}}{mark}`;x\n").stdout
    assert "$(touch" in shown and not mark.exists()


def test_the_example_lists_every_setting_and_is_accepted(tmp_path: Path):
    example = (SCRIPTS.parent / "pipeline.env.example").read_text()
    names = (SCRIPTS / "lib" / "settings.sh").read_text().split("setting_names='")[1].split("'")[0].split()
    for name in names:
        assert f"PIPELINE_{name.upper()}=" in example, name
    assert settings_of(tmp_path, example).returncode == 0


class Run:
    """One results directory and the command that works on it."""

    def __init__(self, path: Path):
        self.results, self.data = path / "it's the results", path / "the data"

    def start(self) -> subprocess.Popen[str]:
        command = ["bash", str(PIPELINE), "--local", "--quick", "--results_dir", str(self.results)]
        return subprocess.Popen(
            [*command, "--data_dir", str(self.data)],
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def shards(self) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in self.data.rglob("shard_*.npy")}

    def processes(self) -> list[str]:
        """Command lines that work in this results or data folder."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().decode("utf-8", "replace")
            except OSError:
                continue
            if str(self.data) in words:
                found.append(words)
        return found


def test_killed_and_interrupted_runs_go_on_from_where_they_were(tmp_path: Path):
    work = Run(tmp_path)

    first = work.start()
    wait_for(lambda: len(work.shards()) >= 3)
    second = work.start()
    output, _ = second.communicate(timeout=40)
    assert second.returncode == 2 and f"in use by process {first.pid}" in output

    os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=40)
    wait_for(lambda: not work.processes())
    before = work.shards()
    assert not list(work.results.glob("*_COMPLETE.txt"))

    third = work.start()
    wait_for(lambda: len(work.shards()) > len(before) + 2)
    os.killpg(third.pid, signal.SIGINT)  # Ctrl-C: to everyone in the terminal's foreground group
    output, _ = third.communicate(timeout=40)
    assert third.returncode == 130, output
    assert not work.processes()
    after = work.shards()
    assert {path: after[path] for path in before} == before  # whole shards were not made again
    assert not list(work.results.glob("*_COMPLETE.txt")) and not list(work.results.glob("*_FAILED.txt"))
    assert "interrupted" in (work.results / "PROGRESS.txt").read_text()


def test_a_failing_stage_stops_the_run_with_its_reason(tmp_path: Path):
    work = Run(tmp_path)
    work.data.mkdir()
    # another dataset already lies where this one belongs
    folder = work.data / "standard-6000-2000-2000-seed0"
    (folder / "train").mkdir(parents=True)
    run_ = work.start()
    output, _ = run_.communicate(timeout=60)
    assert run_.returncode == 2
    marker = (work.results / "GENERATE_STANDARD_FAILED.txt").read_text()
    assert "exit code 2" in marker and "holds a dataset" in marker
    assert "generate_standard failed" in output
    assert not (work.results / ".stages" / "generate_blind.json").exists()


def test_the_scripts_and_the_code_name_the_same_extractors_profiles_and_rules():
    """Bash on a laptop without an environment has to know them, too; so the lists are held against each other."""
    settings = (SCRIPTS / "lib" / "settings.sh").read_text()
    assert re.search(r"^extractor_names='(.*)'$", settings, re.MULTILINE).group(1).split() == list(EXTRACTORS)
    profiles = (SCRIPTS / "lib" / "profiles.sh").read_text()
    assert re.findall(r"^    (\w+)\)$", profiles, re.MULTILINE) == ["smoke", "quick", "full"]
    assert set(PROFILES) == {"smoke", "quick", "full"}
    script = (SCRIPTS / "run_magvit_early_persistence_pipeline_ec2.sh").read_text()
    assert "|".join(RULES) in script


def test_the_hosts_run_gets_what_a_file_of_boxes_does_not_say(tmp_path: Path):
    given = ["--video", "/a", "--video_first_frame", "31", "--detections", "/det.txt"]
    given += ["--first_frame", "0", "--box_format", "xyxy"]
    shown = settings_of(tmp_path, "PIPELINE_HOST=x\n", *given).stdout
    assert "--video_first_frame 31" in shown
    assert "--detections /det.txt" in shown and "--first_frame 0" in shown and "--box_format xyxy" in shown


def test_what_is_about_boxes_is_refused_without_them(tmp_path: Path):
    refused = settings_of(tmp_path, "PIPELINE_HOST=x\n", "--video", "/a.mp4", "--first_frame", "0")
    assert refused.returncode == 2 and "--first_frame is about --detections or --ground_truth" in refused.stderr

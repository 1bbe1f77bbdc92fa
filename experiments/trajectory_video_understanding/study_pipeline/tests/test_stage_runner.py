"""The stage runner on real processes and files: what is skipped, what runs again, and what survives a fault."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

# a stage that copies its input to its output and leaves a line for every time it ran
COPY_STAGE = """
import shutil, sys
import helper_module
source, target, journal = sys.argv[1:4]
print("copying", flush=True)
print("to stderr too", file=sys.stderr, flush=True)
shutil.copyfile(source, target)
open(journal, "a").write(helper_module.LINE)
"""

# a stage that says that it is up, then waits; Ctrl-C leaves a line for each signal that arrives
WAIT_STAGE = """
import os, sys, time
ready, journal = sys.argv[1:3]
try:
    open(ready + ".tmp", "w").write(str(os.getpid()))
    os.replace(ready + ".tmp", ready)
    time.sleep(60)
except KeyboardInterrupt:
    open(journal, "a").write("interrupted\\n")
    try:
        time.sleep(1)
    except KeyboardInterrupt:
        open(journal, "a").write("interrupted again\\n")
    sys.exit(130)
"""


class Workplace:
    """A folder with a stage script, its helper module, an input and a results directory."""

    def __init__(self, path: Path):
        self.path, self.results = path, path / "results"
        self.script, self.helper = path / "stage.py", path / "helper_module.py"
        self.source, self.target, self.journal = (
            path / "input.txt",
            self.results / "out.txt",
            path / "journal.txt",
        )
        self.script.write_text(COPY_STAGE)
        self.helper.write_text('LINE = "ran\\n"\n')
        self.source.write_text("one")

    def arguments(self, *command: object, stage: str = "copy", options: tuple[object, ...] = ()) -> list[str]:
        default = (sys.executable, self.script, self.source, self.target, self.journal)
        runner = [sys.executable, "-m", "study_pipeline.stage_runner", "--stage", stage, "--results_dir", self.results]
        given = options or ("--inputs", self.source, "--outputs", self.target)
        return [str(part) for part in (*runner, *given, "--", *(command or default))]

    def run(self, *command: object, stage: str = "copy", options: tuple[object, ...] = ()):
        return subprocess.run(
            self.arguments(*command, stage=stage, options=options),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def times_run(self) -> int:
        return len(self.journal.read_text().splitlines()) if self.journal.exists() else 0

    def start_waiting(self, **popen: object) -> tuple[subprocess.Popen, int]:
        """Start a stage that waits; return the runner and the pid of the stage once it is up."""
        script, ready = self.path / "wait.py", self.path / "ready"
        script.write_text(WAIT_STAGE)
        ready.unlink(missing_ok=True)
        options = ("--inputs", self.source, "--outputs", self.target)
        arguments = self.arguments(sys.executable, script, ready, self.journal, stage="wait", options=options)
        runner = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **popen)
        wait_for(ready.exists)
        return runner, int(ready.read_text())


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rsplit(")", 1)[1].split()[0] != "Z"


@pytest.fixture(params=["plain", 'it\'s a "quoted" folder'])
def anywhere(tmp_path: Path, request: pytest.FixtureRequest) -> Workplace:
    path = tmp_path / request.param
    path.mkdir()
    return Workplace(path)


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


def test_second_run_is_skipped_and_says_so(anywhere: Workplace):
    first = anywhere.run()
    assert first.returncode == 0, first.stderr
    assert anywhere.target.read_text() == "one"
    second = anywhere.run()
    assert second.returncode == 0
    assert anywhere.times_run() == 1
    assert "copy: nothing changed" in second.stdout
    state = json.loads((anywhere.results / ".stages" / "copy.json").read_text())
    assert state["stage"] == "copy" and state["exit_code"] == 0


def test_log_progress_and_heartbeat_are_written(workplace: Workplace):
    result = workplace.run()
    log = (workplace.results / "logs" / "copy.log").read_text()
    assert "copying" in log and "to stderr too" in log
    assert "copying" in result.stdout
    assert "copy: started" in (workplace.results / "PROGRESS.txt").read_text()
    assert "Heartbeat: copy in progress" in (workplace.results / "HEARTBEAT.txt").read_text()


def change_input(workplace: Workplace) -> None:
    workplace.source.write_text("two")


def change_script(workplace: Workplace) -> None:
    workplace.script.write_text(COPY_STAGE + "\nprint('more')\n")


def change_helper(workplace: Workplace) -> None:
    workplace.helper.write_text('LINE = "ran differently\\n"\n')


def delete_output(workplace: Workplace) -> None:
    workplace.target.unlink()


def truncate_output(workplace: Workplace) -> None:
    workplace.target.write_text("")


def tear_state(workplace: Workplace) -> None:
    (workplace.results / ".stages" / "copy.json").write_text('{"stage": "co')


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (change_input, "input.txt changed"),
        (change_script, "stage.py changed"),
        (change_helper, "helper_module.py changed"),
        (delete_output, "out.txt is missing"),
        (truncate_output, "out.txt was altered"),
        (tear_state, "not finished before"),
    ],
)
def test_what_changed_runs_again_and_the_reason_is_said(workplace: Workplace, change, reason: str):
    workplace.run()
    change(workplace)
    result = workplace.run()
    assert result.returncode == 0, result.stdout
    assert workplace.times_run() == 2
    assert reason in result.stdout
    assert workplace.target.read_text() == workplace.source.read_text()


def test_other_flags_and_other_parameters_run_again(workplace: Workplace):
    workplace.run()
    other = workplace.path / "other.txt"
    command = (sys.executable, workplace.script, workplace.source, workplace.target, other)
    assert "the command changed" in workplace.run(*command).stdout
    options = ("--inputs", workplace.source, "--outputs", workplace.target, "--parameters", "profile=full")
    assert "profile changed" in workplace.run(*command, options=options).stdout


def test_comments_and_docstrings_do_not_run_a_stage_again(workplace: Workplace):
    workplace.run()
    workplace.helper.write_text('"""What this is."""\n\n# why\nLINE = "ran\\n"\n')
    assert "nothing changed" in workplace.run().stdout
    assert workplace.times_run() == 1


def test_code_reached_through_packages_counts(workplace: Workplace):
    package = workplace.path / "parts"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("from .deeper import VALUE\n")
    (package / "deeper.py").write_text("VALUE = 1\n")
    (package / "unrelated.py").write_text("VALUE = 1\n")
    workplace.helper.write_text('def late():\n    from parts import inner\n\n\nLINE = "ran\\n"\n')
    workplace.run()
    (package / "unrelated.py").write_text("VALUE = 2\n")
    assert "nothing changed" in workplace.run().stdout
    (package / "deeper.py").write_text("VALUE = 2\n")
    assert "deeper.py changed" in workplace.run().stdout


def test_dataset_folder_counts_by_its_manifest_and_files_present(workplace: Workplace):
    data = workplace.path / "data"
    (data / "train").mkdir(parents=True)
    (data / "train" / "shard_00000.npy").write_bytes(b"pixels")
    (data / "manifest.json").write_text('{"seed": 0}')
    options = ("--inputs", data, "--outputs", workplace.target)
    workplace.run(options=options)
    (data / "manifest.json").write_text('{"seed": 0, "provenance": {"written_at": "later"}}')
    assert "nothing changed" in workplace.run(options=options).stdout
    (data / "manifest.json").write_text('{"seed": 1}')
    assert "data changed" in workplace.run(options=options).stdout
    (data / "train" / "shard_00000.npy").unlink()
    assert "data changed" in workplace.run(options=options).stdout


def test_missing_input_is_one_line_and_exit_2(workplace: Workplace):
    workplace.source.unlink()
    result = workplace.run()
    assert result.returncode == 2
    assert workplace.times_run() == 0
    assert "input.txt" in result.stderr and len(result.stderr.splitlines()) == 1


def test_failed_stage_leaves_exit_code_and_tail(workplace: Workplace):
    workplace.run()
    (workplace.results / "PIPELINE_COMPLETE.txt").write_text("earlier")
    workplace.script.write_text("import sys\nprint('line before')\nsys.exit('the disk said no')\n")
    result = workplace.run()
    assert result.returncode == 1
    marker = (workplace.results / "COPY_FAILED.txt").read_text()
    assert "exit code 1" in marker and "line before" in marker and "the disk said no" in marker
    assert not (workplace.results / ".stages" / "copy.json").exists()
    assert not (workplace.results / "PIPELINE_COMPLETE.txt").exists()
    workplace.script.write_text(COPY_STAGE)
    assert workplace.run().returncode == 0
    assert not (workplace.results / "COPY_FAILED.txt").exists()


def test_success_without_the_promised_output_is_a_failure(workplace: Workplace):
    workplace.script.write_text("print('did nothing')\n")
    result = workplace.run()
    assert result.returncode != 0
    assert "out.txt" in (workplace.results / "COPY_FAILED.txt").read_text()


def test_a_killed_stage_fails_and_the_next_start_runs_it(workplace: Workplace):
    runner, stage = workplace.start_waiting()
    os.kill(stage, signal.SIGKILL)
    assert runner.wait(20) == 128 + signal.SIGKILL
    assert "signal 9" in (workplace.results / "WAIT_FAILED.txt").read_text()
    assert workplace.run().returncode == 0


def test_a_killed_runner_takes_its_stage_along_and_the_next_start_runs_it(workplace: Workplace):
    runner, stage = workplace.start_waiting()
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait(20)
    wait_for(lambda: not is_alive(stage))
    assert not (workplace.results / ".stages" / "wait.json").exists()
    assert workplace.run().returncode == 0


def test_a_killed_parent_ends_runner_and_stage(workplace: Workplace):
    script = workplace.path / "wait.py"
    script.write_text(WAIT_STAGE)
    ready = workplace.path / "ready"
    (workplace.results / ".stages").mkdir(parents=True)
    options = ("--lock_descriptor", "9")
    arguments = workplace.arguments(sys.executable, script, ready, workplace.journal, stage="wait", options=options)
    opened = f"exec 9>>'{workplace.results}/.stages/lock'; \"$@\"; exit $?"
    parent = subprocess.Popen(["bash", "-c", opened, "bash", *arguments], stdout=subprocess.DEVNULL)
    wait_for(ready.exists)
    stage = int(ready.read_text())
    parent.kill()
    parent.wait(20)
    wait_for(lambda: not is_alive(stage))
    wait_for(lambda: workplace.run().returncode == 0)


@pytest.mark.parametrize("to", ["runner", "terminal"])
def test_interrupt_reaches_the_stage_once_and_ends_with_130(workplace: Workplace, to: str):
    (workplace.results).mkdir()
    runner, stage = workplace.start_waiting(start_new_session=True)
    if to == "runner":
        os.kill(runner.pid, signal.SIGINT)
    else:
        os.killpg(runner.pid, signal.SIGINT)  # what a terminal does: everyone in the foreground group
    assert runner.wait(20) == 130
    assert not is_alive(stage)
    assert workplace.journal.read_text() == "interrupted\n"
    assert not list(workplace.results.glob("*_FAILED.txt"))
    assert not list(workplace.results.glob("*_COMPLETE.txt"))
    assert not (workplace.results / ".stages" / "wait.json").exists()
    assert "interrupted" in (workplace.results / "PROGRESS.txt").read_text()


def test_second_runner_is_refused_with_who_and_since_when(workplace: Workplace):
    runner, _ = workplace.start_waiting()
    result = workplace.run()
    runner.send_signal(signal.SIGINT)
    runner.wait(20)
    assert result.returncode == 2
    assert workplace.times_run() == 0 or workplace.journal.read_text() == "interrupted\n"
    assert f"process {runner.pid}" in result.stderr and "since 20" in result.stderr
    assert workplace.run().returncode == 0


def test_lock_taken_for_a_whole_pipeline(workplace: Workplace):
    """The descriptor of the calling shell keeps the lock between stages; the stages of that shell may run."""
    options = ("--lock_descriptor", "9", "--inputs", workplace.source, "--outputs", workplace.target)
    stage = " ".join(f"'{part}'" for part in workplace.arguments(options=options))
    lock = workplace.results / ".stages" / "lock"
    inner = f"'{sys.executable}' -m study_pipeline.stage_runner --lock_descriptor 9 --results_dir '{workplace.results}'"
    script = f"mkdir -p '{lock.parent}'; exec 9>>'{lock}'; {inner} || exit; {stage} || exit; echo held; read -r _"
    shell = subprocess.Popen(["bash", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert shell.stdout is not None and shell.stdin is not None
    while "held" not in (line := shell.stdout.readline()):
        assert line, "the shell ended early"
    refused = workplace.run()
    shell.communicate("\n", timeout=20)
    assert refused.returncode == 2 and f"process {shell.pid}" in refused.stderr
    assert workplace.run().returncode == 0


def test_orphans_of_a_dead_pipeline_are_ended_before_the_next_start(workplace: Workplace):
    """A stage whose helpers outlive both it and the runner holds the lock; the next start ends them."""
    script, ready = workplace.path / "fork.py", workplace.path / "ready"
    script.write_text(
        "import os, signal, sys, time\n"
        "if os.fork() == 0:\n"
        "    signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "    open(sys.argv[1] + '.tmp', 'w').write(str(os.getpid()))\n"
        "    os.replace(sys.argv[1] + '.tmp', sys.argv[1])\n"
        "time.sleep(60)\n"
    )
    runner = subprocess.Popen(
        workplace.arguments(sys.executable, script, ready, stage="fork"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(ready.exists)
    orphan = int(ready.read_text())
    runner.kill()
    runner.wait(20)
    result = workplace.run()
    assert result.returncode == 0, result.stderr
    assert not is_alive(orphan)


def test_work_in_progress_is_dropped_only_when_the_stage_changed(workplace: Workplace):
    progress = workplace.results / "checkpoints"
    options = ("--inputs", workplace.source, "--outputs", workplace.target, "--work_in_progress", progress)
    workplace.script.write_text("import sys\nsys.exit(3)\n")
    workplace.run(options=options)
    progress.mkdir()
    (progress / "last.pt").write_text("half way")
    workplace.run(options=options)
    assert (progress / "last.pt").exists()
    workplace.source.write_text("two")
    workplace.run(options=options)
    assert not progress.exists()


def test_always_runs_and_leaves_the_pipeline_marker_when_it_succeeds(workplace: Workplace):
    marker = workplace.results / "PIPELINE_COMPLETE.txt"
    options = ("--always", "--inputs", workplace.source, "--outputs", workplace.target)
    workplace.run(options=options)
    finish = [sys.executable, "-m", "study_pipeline.stage_runner", "--finish", "--results_dir", str(workplace.results)]
    subprocess.run(finish, check=True, capture_output=True)
    workplace.run(options=options)
    assert workplace.times_run() == 2 and marker.exists()
    workplace.run(options=(*options[1:], "--parameters", "a=1"))
    assert not marker.exists()


def test_terminal_keeps_bars_and_the_log_keeps_lines(workplace: Workplace):
    workplace.script.write_text(
        "import sys\n"
        "assert sys.stderr.isatty()\n"
        "for i in range(3):\n"
        "    print(f'\\rbar {i}', end='', file=sys.stderr, flush=True)\n"
        "print('\\rdone with it', file=sys.stderr)\n"
        f"open({str(workplace.target)!r}, 'w').write('x')\n"
    )
    master, slave = pty.openpty()
    runner = subprocess.Popen(workplace.arguments(), stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    seen = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
    os.close(master)
    assert runner.wait(20) == 0, seen
    assert b"\rbar 1" in seen
    log = (workplace.results / "logs" / "copy.log").read_text()
    assert "done with it" in log and "\r" not in log and "bar 1" not in log


def test_a_closed_reader_does_not_stop_the_stage(workplace: Workplace):
    workplace.script.write_text(
        "import time\n"
        "for i in range(20):\n"
        "    print('line', i, flush=True)\n"
        "    time.sleep(0.02)\n"
        f"open({str(workplace.target)!r}, 'w').write('x')\n"
    )
    runner = subprocess.Popen(workplace.arguments(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert runner.stdout is not None and runner.stderr is not None
    runner.stdout.close()
    runner.stderr.close()
    assert runner.wait(20) == 0
    assert "line 19" in (workplace.results / "logs" / "copy.log").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage", "x", "--results_dir", "R"], "command"),
        (["--stage", "../x", "--results_dir", "R", "--", "true"], "../x"),
        (["--stage", "x", "--results_dir", "R", "--parameters", "novalue", "--", "true"], "novalue"),
        (["--results_dir", "R"], "--stage"),
    ],
)
def test_wrong_command_line_is_exit_2(tmp_path: Path, arguments: list[str], message: str):
    result = subprocess.run(
        [sys.executable, "-m", "study_pipeline.stage_runner", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2 and message in result.stderr
    assert not (tmp_path / "R").exists()

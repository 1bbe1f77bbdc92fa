"""Many videos on a Ray cluster: actors that each open the model once, a core each, and decide one video at a time."""

from __future__ import annotations

import argparse
import collections
import os
import secrets
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from run_directory import InputError, needs_extra, write_text
from study_pipeline.run_lock import state_folder

from early_persistence_detection.inference.local_workers import ATTEMPTS, limit_threads
from early_persistence_detection.inference.many_videos import Task, decide_task, failed_row, open_for
from early_persistence_detection.training.stop_request import STOP_SIGNALS

SLOW_START_SECONDS = 30.0
CONNECT_SECONDS = 10.0
PROBE = "probe"  # what every node must see in OUTPUT/.stages


class VideoActor:
    """A worker on some node. `ready` comes first: the node, and why it cannot work, in a line."""

    def __init__(self, args: argparse.Namespace, output: Path, token: str):
        self._args, self._output, self._token = args, output, token
        self._model: Any = None

    def ready(self) -> tuple[str, str | None]:
        """Node id and problem."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        problem = unseen_storage(self._output, self._token, [])
        if problem is not None:
            return node, problem
        limit_threads(1)
        try:
            self._model = open_for(self._args)
        except InputError as error:
            return node, str(error)
        return node, None

    def decide(self, task: Task) -> dict[str, Any]:
        """The video's row."""
        return decide_task(task, self._model)


def unseen_storage(output: Path, token: str, paths: Sequence[Path]) -> str | None:
    """What this node does not see of what all must share, in a line; None where it sees everything and can write."""
    name = os.uname().nodename
    folder = state_folder(output)
    try:
        same = (folder / PROBE).read_text(encoding="utf-8") == token
    except OSError:
        same = False
    if not same:
        return (
            f"node {name} does not see {output} as this machine does; give an --output on storage that all nodes share"
        )
    try:
        write_text(folder / f"{PROBE}.{secrets.token_hex(8)}", token)
    except OSError as error:
        return f"node {name} cannot write in {output} ({error.strerror}); allow it"
    unseen = [path for path in paths if not path.exists()]
    if unseen:
        return (
            f"node {name} does not see {unseen[0]} ({len(unseen)} of {len(paths)} inputs); put them on storage that "
            "all nodes share under one path"
        )
    return None


def require_answer(address: str) -> None:
    """Raise InputError where nobody listens at HOST:PORT: Ray itself would try for many minutes."""
    place = address.removeprefix("ray://")
    host, _, port = place.rpartition(":")
    if not host or not port.isdecimal():
        return  # auto or local
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"--address {address}: no Ray cluster answers ({error}); start one with ray start") from None


class RayWorkers:
    """An `Engine` of `count` actors, by default one for each core of the cluster."""

    def __init__(self, args: argparse.Namespace, output: Path, address: str, count: int | None):
        with needs_extra("--address", "cluster"):
            import ray
        self._ray: Any = ray
        self._args, self._output, self._token = args, output, secrets.token_hex(16)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anyone
        require_answer(address)
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
        if address == "local":
            settings |= {"num_cpus": count, "include_dashboard": False}
        handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        try:
            ray.init(address=address, **settings)
        except (ConnectionError, RuntimeError, ValueError) as error:
            text = " ".join(str(error).split())[:200]
            raise InputError(
                f"--address {address}: no Ray cluster answers ({text}); start one with ray start"
            ) from None
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)  # Ray puts its own in their place, which tell nobody and keep nothing
        self._count = count or max(1, int(ray.cluster_resources().get("CPU", 1)))
        options: dict[str, Any] = {"num_cpus": 1, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        if str(args.device).startswith("cuda"):
            options["num_gpus"] = 1
        self._actor: Any = ray.remote(**options)(VideoActor)
        self._nodes: dict[Any, str] = {}  # where each actor is

    def rows(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, dict[str, Any]]]:
        """As `Engine` has it. An actor that dies is replaced; its video is tried again, and that counts against it
        unless the node died too. Actors for which there is no core yet wait for one.
        """
        ray = self._ray
        self._require_shared_storage(tasks)
        waiting = collections.deque(tasks)
        deaths: collections.Counter[str] = collections.Counter()
        count = min(self._count, len(tasks))
        asked: dict[Any, tuple[Any, Task | None]] = {}  # answer to come -> its actor and task; None: `ready`
        left, failed_starts, is_told = len(tasks), 0, False
        for _ in range(count):
            self._begin(asked)
        idle: list[Any] = []
        while left:
            while idle and waiting:
                actor, next_task = idle.pop(), waiting.popleft()
                asked[actor.decide.remote(next_task)] = actor, next_task
            finished, _ = ray.wait(list(asked), num_returns=1, timeout=SLOW_START_SECONDS)
            if not finished and not self._nodes and not is_told:
                is_told = True
                free = ray.available_resources().get("CPU", 0)
                print(f"waiting for the cluster: {count} cores asked for, {free:g} free", flush=True)
            for answer in finished:
                actor, task = asked.pop(answer)
                try:
                    content = ray.get(answer)
                except ray.exceptions.RayTaskError as error:
                    raise error.as_instanceof_cause() from None  # a fault of ours: `decide_task` tells of the video's
                except ray.exceptions.RayError as error:
                    node_died = not self._is_alive(self._nodes.pop(actor, ""))
                    if task is None:
                        failed_starts += 1
                        if failed_starts > ATTEMPTS * count:
                            raise InputError(f"workers end at their start ({_line(error)}); see Ray's logs") from None
                    elif node_died or deaths[task.video.name] + 1 < ATTEMPTS:
                        deaths[task.video.name] += not node_died
                        waiting.appendleft(task)
                    else:
                        left -= 1
                        yield (
                            task,
                            failed_row(
                                task.video, f"the process that decided it died {ATTEMPTS} times ({_line(error)})"
                            ),
                        )
                    if left:
                        self._begin(asked)
                    continue
                if task is None:
                    self._nodes[actor], problem = content
                    if problem is not None:
                        raise InputError(problem)
                else:
                    left -= 1
                    yield task, content
                idle.append(actor)

    def _begin(self, asked: dict[Any, tuple[Any, Task | None]]) -> None:
        actor = self._actor.remote(self._args, self._output, self._token)
        asked[actor.ready.remote()] = actor, None

    def _is_alive(self, node: str) -> bool:
        return any(each["NodeID"] == node and each["Alive"] for each in self._ray.nodes())

    def _require_shared_storage(self, tasks: Sequence[Task]) -> None:
        """Ask every node, before any work. Raises InputError."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ray = self._ray
        write_text(state_folder(self._output) / PROBE, self._token)
        paths = [path for task in tasks for path in (task.video.path, task.video.detections) if path is not None]
        paths += [] if self._args.model is None else [self._args.model]
        ask = ray.remote(num_cpus=0, max_retries=0)(unseen_storage)
        answers = []
        for node in ray.nodes():
            if node["Alive"]:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                answers.append(ask.options(scheduling_strategy=there).remote(self._output, self._token, paths))
        for answer in answers:
            try:
                problem = ray.get(answer)
            except ray.exceptions.RayTaskError as error:
                raise InputError(f"a node cannot run this software ({_line(error)}); install the same on all") from None
            except ray.exceptions.RayError:
                continue  # it died meanwhile; whoever takes its place is asked by `ready`
            if problem is not None:
                raise InputError(problem)

    def close(self) -> None:
        """As `Engine` has it: the actors end with the connection."""
        self._ray.shutdown()


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__

"""An exported model on ONNX Runtime, and the folder that `export_model.py` writes: no torch.

The folder holds `model.json` (what the model is, its calibrations, the checksum of every file) and the graphs, or the
arrays of an evidence model. Nothing is unpickled, and a file that is not as it was written is refused.

What is remembered of a track: the newest frames of every layer that looks back, the recurrent state, and a token for
every place of every frame so far. Tokens lie in one array, a frame of a track after another as they were seen: a young
track keeps and costs what it has seen, whatever the age of the others.

Legend: B tracks, M frames seen of all of them together, N tokens per frame, D width, E columns of evidence.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from run_directory import InputError, sha256_file
from video_tracks.clip import CLIP_SIZE

from early_persistence_detection.models.calibration import Calibration
from early_persistence_detection.models.evidence.evidence_model import EvidenceModel, load_evidence_model
from early_persistence_detection.models.logistic import expit
from early_persistence_detection.models.stream import StreamState, modality_of

FORMAT, FORMAT_VERSION = "early-persistence-exported-model", 2
MODEL_JSON = "model.json"
EVIDENCE_FILE = "evidence.npz"  # of a model that goes by evidence alone
MAKE_IT = "export_model.py"
AT_REST = {"float32": np.float32, "float16": np.float16, "frames": np.float32}  # by what is chosen as cache
MOST_AT_ONCE = 256  # tracks that a graph is run on: what it needs meanwhile is twice what it remembers of them


class _Tokens:
    """Tokens (M, N, D) with room for more frames. States share it: each knows how far it goes."""

    def __init__(self, array: np.ndarray, num_used: int):
        self.array = array
        self.num_used = num_used  # frames; a state that ends before must not write here

    @classmethod
    def of(cls, parts: Sequence[np.ndarray], num_more: int) -> _Tokens:
        """A copy of all `parts`, (., N, D) each, with room for `num_more` frames."""
        used = sum(map(len, parts))
        tokens = cls(np.empty((used + num_more, *parts[0].shape[1:]), parts[0].dtype), used)
        np.concatenate(parts, out=tokens.array[:used])
        return tokens


@dataclasses.dataclass(frozen=True)
class ExportedState:
    """What the model remembers of B tracks between two frames."""

    ages: np.ndarray  # int64 (B,), frames seen so far
    hidden: np.ndarray  # float32 (B, state width)
    tokens: _Tokens
    token_row: np.ndarray  # int64 (M,), of which track each frame of tokens is
    token_frame: np.ndarray  # int64 (M,), which of the track's frames, from 0
    pasts: tuple[tuple[np.ndarray, ...], ...] | None  # by layer, (B, ...) each; None without pixels

    @property
    def longest(self) -> int:
        """Age of the oldest track; 0 of none."""
        return int(self.ages.max(initial=0))

    @property
    def num_bytes(self) -> int:
        """Of memory, all arrays together."""
        pasts = sum(past.nbytes for layer in self.pasts or () for past in layer)
        of_tokens = self.tokens.array.nbytes + self.token_row.nbytes + self.token_frame.nbytes
        return pasts + self.hidden.nbytes + self.ages.nbytes + of_tokens

    def tokens_so_far(self) -> np.ndarray:
        """Tokens (M, N, D)."""
        return self.tokens.array[: len(self.token_row)]

    def inputs(self) -> dict[str, np.ndarray]:
        """What a graph takes of it, by name. Of a state with pixels."""
        assert self.pasts is not None
        return {
            "age": self.ages,
            "hidden": self.hidden,
            "tokens": self.tokens_so_far(),
            "token_row": self.token_row,
            "token_frame": self.token_frame,
        } | {f"past_{layer}_{lag}": past for layer, kept in enumerate(self.pasts) for lag, past in enumerate(kept)}

    def part(self, first: int, end: int) -> ExportedState:
        """The tracks at rows `first` to `end`, for one look: it shares the memory of all."""
        if first == 0 and end >= len(self.ages):
            return self
        of_these = np.flatnonzero((self.token_row >= first) & (self.token_row < end))
        tokens = self.tokens_so_far()[of_these]
        assert self.pasts is not None
        return ExportedState(
            self.ages[first:end],
            self.hidden[first:end],
            _Tokens(tokens, len(tokens)),
            self.token_row[of_these] - first,
            self.token_frame[of_these],
            tuple(tuple(past[first:end] for past in layer) for layer in self.pasts),
        )

    def select(self, rows: np.ndarray) -> ExportedState:
        """As `StreamState`."""
        if len(rows) == len(self.ages) and np.array_equal(rows, np.arange(len(rows))):
            return self  # nobody leaves, as in most frames: nothing is copied
        new_row = np.full(len(self.ages), -1)
        new_row[rows] = np.arange(len(rows))
        token_row = new_row[self.token_row]
        kept = np.flatnonzero(token_row >= 0)
        pasts = None if self.pasts is None else tuple(tuple(past[rows] for past in layer) for layer in self.pasts)
        return ExportedState(
            self.ages[rows],
            self.hidden[rows],
            _Tokens.of([self.tokens_so_far()[kept]], len(rows)),
            token_row[kept],
            self.token_frame[kept],
            pasts,
        )

    def append(self, other: ExportedState) -> ExportedState:
        """As `StreamState`."""
        if not len(self.ages) or not len(other.ages):
            return self if len(self.ages) else other
        watched = self.longest > 0 and other.longest > 0
        if watched and (self.pasts is None) != (other.pasts is None):
            raise ValueError("tracks that are watched without pixels cannot join those that are watched by them")
        pasts = None
        if self.pasts is not None and other.pasts is not None:
            pasts = tuple(
                tuple(np.concatenate(pair) for pair in zip(*layers, strict=True))
                for layers in zip(self.pasts, other.pasts, strict=True)
            )
        ages = np.concatenate([self.ages, other.ages])
        return ExportedState(
            ages,
            np.concatenate([self.hidden, other.hidden]),
            _Tokens.of([self.tokens_so_far(), other.tokens_so_far()], len(ages)),
            np.concatenate([self.token_row, other.token_row + len(self.ages)]),
            np.concatenate([self.token_frame, other.token_frame]),
            pasts,
        )


class ExportedStream:
    """A `StreamModel` from the folder that `export_model.py` wrote.

    `threads` of one step; 0: as many as there are cores. Raises InputError, in one line, for a folder that is missing,
    damaged, of another kind or of another version.
    """

    def __init__(self, folder: str | Path, threads: int = 0):
        folder = Path(folder)
        description = read_description(folder)
        if description["kind"] != "stream":
            raise InputError(f"{folder} holds a model that goes by evidence alone; open it with open_model")
        try:
            self.num_frames = int(description["num_frames"])
            self.modalities = tuple(map(str, description["modalities"]))
            self.calibrations: Mapping[str, Calibration] = {
                name: Calibration.from_dict(description["calibrations"][name]) for name in self.modalities
            }
            self._num_evidence = int(description["num_evidence"])
            self._state_width = int(description["state_width"])
            self._token_shape = int(description["tokens_per_frame"]), int(description["width"])
            self._at_rest = AT_REST[description["cache"]]
            self._frame_layer = description["frame_layer"]
            self._interval = int(description["interval"])
            self._pasts = [
                [
                    (tuple(map(int, shape)), self._at_rest if kind == "float" else np.dtype(kind))
                    for shape, kind in layer
                ]
                for layer in description["pasts"]
            ]
            self._changed = {name: tuple(map(int, graph["changed"])) for name, graph in description["graphs"].items()}
            files = {name: folder / str(graph["file"]) for name, graph in description["graphs"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{folder / MODEL_JSON} is damaged ({error}); make the folder with {MAKE_IT}") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._graphs = {
                name: onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
                for name, path in files.items()
            }
        except Exception as error:  # the runtime's own errors have no common base but this
            raise InputError(f"{folder} cannot be loaded ({_line(error)}); make it with {MAKE_IT}") from None
        scale = {name: np.array(each.scale, np.float32) for name, each in self.calibrations.items()}
        shift = {name: np.array(each.shift, np.float32) for name, each in self.calibrations.items()}
        self._scale, self._shift = scale, shift
        self.sha256 = sha256_file(folder / MODEL_JSON)  # it holds those of the graphs

    @property
    def calibration(self) -> Calibration:
        """As `StreamModel`."""
        return self.calibrations["pixels"]

    def initial_state(self, batch_size: int) -> ExportedState:
        """As `StreamModel`."""
        pasts = tuple(tuple(np.zeros((batch_size, *shape), kind) for shape, kind in layer) for layer in self._pasts)
        tokens = _Tokens(np.zeros((0, *self._token_shape), self._at_rest), 0)
        hidden = np.zeros((batch_size, self._state_width), np.float32)
        none, ages = np.zeros(0, np.int64), np.zeros(batch_size, np.int64)
        return ExportedState(ages, hidden, tokens, none, none, pasts)

    def step(
        self, pixels: np.ndarray | None, evidence: np.ndarray | None, state: StreamState
    ) -> tuple[np.ndarray, ExportedState]:
        """As `StreamModel`."""
        assert isinstance(state, ExportedState)  # of this model, as every state that it is given
        modality = modality_of(pixels, evidence)
        if modality not in self.modalities:
            raise ValueError("evidence is given, and this model takes none")
        count, longest = len(state.ages), state.longest
        if longest >= self.num_frames:
            raise ValueError(f"a track is already {longest} frames old, the model decides within that many")
        if longest and (state.pasts is None) != (pixels is None):
            raise ValueError("a track is watched by its pixels from birth on or never")
        if evidence is not None and evidence.shape != (count, self._num_evidence):
            raise ValueError(f"evidence is {evidence.shape}, expected {(count, self._num_evidence)}")
        if pixels is None:
            assert evidence is not None
            logit, hidden = self._graphs["evidence"].run(None, {"evidence": evidence, "hidden": state.hidden})
            after = dataclasses.replace(state, ages=state.ages + 1, hidden=hidden, pasts=None)
        else:
            expected = (count, CLIP_SIZE, CLIP_SIZE, 3)
            if pixels.shape != expected or pixels.dtype != np.uint8:
                raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}, expected uint8 {expected}")
            logit, after = self._watch(pixels, evidence, state)
        # in single precision, as in calibration: what was certified is what decides
        p = expit((self._scale[modality][state.ages] * logit + self._shift[modality][state.ages]).astype(np.float32))
        return p.astype(np.float64), after

    def _watch(
        self, pixels: np.ndarray, evidence: np.ndarray | None, state: ExportedState
    ) -> tuple[np.ndarray, ExportedState]:
        assert state.pasts is not None
        if self._num_evidence and evidence is None:
            evidence = np.full((len(state.ages), self._num_evidence), np.nan, np.float32)
        if self._interval == 1:
            parts = [("step", np.arange(len(state.ages)))]
        else:
            is_due = state.ages % self._interval == 0
            parts = [("refresh", np.flatnonzero(is_due)), ("stand", np.flatnonzero(~is_due))]
        parts = [(name, rows) for name, rows in parts if len(rows)]
        if len(parts) == 1:
            logit, hidden, token, pasts = self._run(parts[0][0], pixels, evidence, state)
        else:
            logit = np.empty(len(state.ages), np.float32)
            hidden = np.empty_like(state.hidden)
            token = np.empty((len(state.ages), *self._token_shape), self._at_rest)
            pasts = tuple(tuple(np.empty_like(past) for past in layer) for layer in state.pasts)
            for name, rows in parts:
                given = None if evidence is None else evidence[rows]
                part = self._run(name, pixels[rows], given, state.select(rows))
                logit[rows], hidden[rows], token[rows] = part[:3]
                for layer, of_rows in zip(pasts, part[3], strict=True):
                    for past, new in zip(layer, of_rows, strict=True):
                        past[rows] = new
        return logit, self._after(state, hidden, token, pasts)

    def _run(
        self, name: str, pixels: np.ndarray, evidence: np.ndarray | None, state: ExportedState
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[tuple[np.ndarray, ...], ...]]:
        assert state.pasts is not None
        graph, parts = self._graphs[name], []
        for first in range(0, len(state.ages), MOST_AT_ONCE):
            end = first + MOST_AT_ONCE
            given = state.part(first, end).inputs() | {"pixels": pixels[first:end]}
            if evidence is not None:
                given["evidence"] = evidence[first:end]
            # what a graph does not need is no input of it, such as the oldest frame of what only stands
            wanted = {each.name: np.ascontiguousarray(given[each.name]) for each in graph.get_inputs()}
            parts.append(graph.run(None, wanted))
        logit, hidden, token, *newest = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        changed = dict(zip(self._changed[name], newest, strict=True))
        if self._frame_layer is not None:
            changed[self._frame_layer] = pixels.copy()  # the caller may write into his own
        pasts = tuple(
            (changed[layer], *kept[:-1]) if layer in changed else kept for layer, kept in enumerate(state.pasts)
        )
        return logit, hidden, token, pasts

    def _after(
        self,
        state: ExportedState,
        hidden: np.ndarray,
        token: np.ndarray,
        pasts: tuple[tuple[np.ndarray, ...], ...],
    ) -> ExportedState:
        """The state with this frame's tokens, written into the array that is there unless another state did so."""
        tokens, ages, before = state.tokens, state.ages, len(state.token_row)
        kept = np.flatnonzero(ages + 1 < self.num_frames)  # the last frame of a track is never looked back on
        now = before + len(kept)
        if tokens.num_used != before or now > len(tokens.array):
            to_come = (self.num_frames - 1) * len(ages) - before  # at most
            # room for as many again: where nobody comes or goes, which copies too, frames are copied three times in all
            tokens = _Tokens.of([state.tokens_so_far()], min(len(kept) + before, to_come))
        tokens.array[before:now] = token if len(kept) == len(ages) else token[kept]
        tokens.num_used = now
        token_row = np.concatenate([state.token_row, kept])
        token_frame = np.concatenate([state.token_frame, ages[kept]])
        return ExportedState(ages + 1, hidden, tokens, token_row, token_frame, pasts)


def open_exported(folder: str | Path) -> ExportedStream | EvidenceModel:
    """The model of a folder that `export_model.py` wrote, of either kind. Raises InputError as `ExportedStream`."""
    folder = Path(folder)
    if read_description(folder)["kind"] == "evidence":
        return load_evidence_model(folder / EVIDENCE_FILE)
    return ExportedStream(folder)


def read_description(folder: Path) -> dict[str, Any]:
    """What `model.json` says, once every file is as its checksum there. Raises InputError."""
    path = folder / MODEL_JSON
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        if description["format"] != FORMAT:
            raise ValueError("another format")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give the folder that {MAKE_IT} writes") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged or of another kind ({_line(error)}); make it with {MAKE_IT}") from None
    if description.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {description.get('format_version')!r}, this code reads {FORMAT_VERSION}; "
            f"make the folder again with {MAKE_IT}"
        )
    checksums = description.get("sha256")
    if description.get("kind") not in ("stream", "evidence") or not isinstance(checksums, dict) or not checksums:
        raise InputError(f"{path} is damaged; make the folder again with {MAKE_IT}")
    for name, checksum in checksums.items():
        file = folder / Path(str(name)).name
        if not file.is_file() or sha256_file(file) != checksum:
            raise InputError(f"{file} is missing or not as it was exported; make the folder again with {MAKE_IT}")
    return dict(description)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

"""A classifier as ONNX graphs of one step: caches in, caches out, any number of tracks of any ages.

What torch keeps of a track for the decision query are keys and values of every token. Both are linear in the token, so
the graphs keep the token alone, half as much: what the query asks of keys is asked of tokens by way of the key
projection, and the value projection comes after the weighted sum. That is the same function, up to rounding.

Of every layer that looks back, a step makes one new frame; the older ones the caller shifts, so that nothing is copied.

Graphs of a model: `step`, or of SlowFast `refresh` and `stand`, since Python decides there by a track's age what is
computed; of a model that takes evidence `evidence`, for tracks whose pixels are withheld.

Legend: B tracks, M frames seen of all of them together, N tokens per frame, D width, H heads, E columns of evidence.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import io
import logging
import math
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from run_directory import InputError, needs_extra, require_writable, sha256_file, write_json, write_text
from torch import Tensor, nn
from torch.nn import functional
from video_tracks.clip import CLIP_SIZE

from early_persistence_detection.inference.exported_stream import (
    EVIDENCE_FILE,
    FORMAT,
    FORMAT_VERSION,
    MODEL_JSON,
    ExportedStream,
)
from early_persistence_detection.models.early_persistence_classifier import EarlyPersistenceClassifier
from early_persistence_detection.models.evidence.evidence_model import load_evidence_model
from early_persistence_detection.models.extractors.interface import Cache
from early_persistence_detection.models.extractors.slowfast import SlowFast
from early_persistence_detection.models.stream import StreamModel
from early_persistence_detection.models.torch_stream import TorchStream

OPSET = 18
MOST_DIFFERENT = {"float32": 1e-5, "float16": 0.02, "frames": 1e-5}  # of p, between an export and its model, by cache
DISTRIBUTION = "early-persistence-detection"
NUM_SLOW_LAYERS = 2  # of SlowFast's pasts: what stands, and what the slow pathway looks back on


@dataclasses.dataclass(frozen=True)
class Graph:
    """One graph, serialised, and the layers whose past it changes, by their number."""

    name: str
    content: bytes
    changed_layers: tuple[int, ...]


class _Step(nn.Module):
    """One frame of tracks that are watched by their pixels, evidence beside them where the model takes some."""

    def __init__(
        self,
        classifier: EarlyPersistenceClassifier,
        lengths: Sequence[int],
        frames_seen: int,
        changed_layers: tuple[int, ...],
        frame_layer: int | None,
    ):
        super().__init__()
        self.classifier, self.lengths = classifier, lengths
        self.frames_seen, self.changed_layers, self.frame_layer = frames_seen, changed_layers, frame_layer

    def forward(
        self,
        pixels: Tensor,
        evidence: Tensor | None,
        age: Tensor,
        hidden: Tensor,
        tokens: Tensor,
        token_row: Tensor,
        token_frame: Tensor,
        *pasts: Tensor,
    ) -> tuple[Tensor, ...]:
        """pixels uint8 (B, 64, 64, 3); evidence (B, E); age long (B,); hidden (B, .); tokens (M, N, D), of which track
        and which of its frames they are, long (M,); pasts (B, ...) -> logit (B,), hidden, token (B, N, D), the newest
        past of each layer.
        """
        head, at_rest = self.classifier.head, tokens.dtype
        frames = _frames(pixels)
        layers, first = [], 0
        for layer, length in enumerate(self.lengths):
            kept = pasts[first : first + length]
            if layer == self.frame_layer:
                made = [self.classifier.extractor.of_frame(_frames(past)) for past in kept]
                is_seen = [(age > lag)[:, None, None, None] for lag in range(length)]  # before the first are zeros
                layers.append(tuple(torch.where(*pair, 0.0) for pair in zip(is_seen, made, strict=True)))
            else:
                layers.append(tuple(_working(past) for past in kept))
            first += length
        cache = Cache((self.frames_seen,), layers)  # all rows are of one case
        codes, after = self.classifier.extractor.encode(frames.unsqueeze(1), cache)
        token = head.tokens(codes, None)[:, 0]  # [B, N, D]
        summary = head.pool(token.unsqueeze(1), None)[:, 0]
        features = None
        if evidence is not None:
            known = head.features(evidence.unsqueeze(1), frames.shape[0], 1)
            assert known is not None
            features = known[:, 0]
            summary = summary + head.evidence_summary(features)
        state = _recurred(head.recurrence, summary, hidden)
        context = self._asked(state, age, token, tokens.to(torch.float32), token_row, token_frame)
        logit = head.answer(state, context, features)
        newest = (after.pasts[layer][0] for layer in self.changed_layers)
        return logit, state, token.to(at_rest), *(_at_rest(past, at_rest) for past in newest)

    def _asked(
        self, state: Tensor, age: Tensor, token: Tensor, tokens: Tensor, token_row: Tensor, token_frame: Tensor
    ) -> Tensor:
        """What the decision query finds in the tokens so far, this frame's included: (B, D)."""
        head = self.classifier.head
        heads, width = head.config.num_heads, head.config.width
        key_weight, value_weight = head.key_value.weight.chunk(2)
        key_bias, value_bias = head.key_value.bias.chunk(2)
        query = head.query(state).unflatten(-1, (heads, -1)) / math.sqrt(width // heads)  # [B, H, D/H]
        asked = torch.einsum("bhd,hdw->bhw", query, key_weight.unflatten(0, (heads, -1)))  # of tokens
        # of the age that a key tells, and of its bias: a number a frame
        of_age = torch.einsum("bhd,thd->tbh", query, (head.age_key + key_bias).unflatten(-1, (heads, -1)))
        now = of_age[age, torch.arange(age.shape[0])]  # [B, H]
        past_scores = torch.matmul(asked[token_row], tokens.transpose(-1, -2))  # [M, H, N]
        past_scores = past_scores + of_age[token_frame, token_row].unsqueeze(2)
        new_scores = torch.matmul(asked, token.transpose(-1, -2)) + now.unsqueeze(2)  # [B, H, N]
        # a softmax over all of a track's frames, each frame summed up before they are joined
        highest = new_scores.amax(2)  # [B, H]
        to_row = token_row.unsqueeze(1).expand(-1, heads)
        highest = highest.scatter_reduce(0, to_row, past_scores.amax(2), "amax")
        past_weights = torch.exp(past_scores - highest[token_row].unsqueeze(2))
        new_weights = torch.exp(new_scores - highest.unsqueeze(2))
        total = new_weights.sum(2).index_put((token_row,), past_weights.sum(2), accumulate=True)  # [B, H]
        found = torch.matmul(new_weights, token)  # [B, H, D]
        found = found.index_put((token_row,), torch.matmul(past_weights, tokens), accumulate=True)
        found = found / total.unsqueeze(-1)
        values = torch.einsum("bhw,hdw->bhd", found, value_weight.unflatten(0, (heads, -1)))
        return (values + value_bias.unflatten(-1, (heads, -1))).flatten(-2)


class _EvidenceStep(nn.Module):
    """One frame of tracks whose pixels are withheld."""

    def __init__(self, classifier: EarlyPersistenceClassifier):
        super().__init__()
        self.head = classifier.head

    def forward(self, evidence: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """evidence (B, E), hidden (B, .) -> logit (B,), hidden."""
        features = self.head.features(evidence.unsqueeze(1), evidence.shape[0], 1)
        assert features is not None
        features = features[:, 0]
        summary = self.head.no_pixels + self.head.evidence_summary(features)
        state = _recurred(self.head.recurrence, summary, hidden)
        return self.head.answer(state, torch.zeros_like(features), features), state


def _frames(pixels: Tensor) -> Tensor:
    """uint8 (B, 64, 64, 3) -> as extractors take them, (B, 3, 64, 64)."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32).div(127.5).sub(1.0)


def _working(past: Tensor) -> Tensor:
    return past.to(torch.float32) if past.is_floating_point() else past


def _at_rest(past: Tensor, kind: torch.dtype) -> Tensor:
    return past.to(kind) if past.is_floating_point() else past


def _recurred(cell: nn.GRU, x: Tensor, hidden: Tensor) -> Tensor:
    """One step of the GRU, written out: exported as a loop over one frame it costs more than its sums."""
    of_input, of_state = (
        functional.linear(given, cell.get_parameter(f"weight_{end}_l0"), cell.get_parameter(f"bias_{end}_l0")).chunk(
            3, -1
        )
        for given, end in ((x, "ih"), (hidden, "hh"))
    )
    reset, update = (torch.sigmoid(of_input[gate] + of_state[gate]) for gate in (0, 1))
    new = torch.tanh(of_input[2] + reset * of_state[2])
    return (1 - update) * new + update * hidden


def empty_pasts(classifier: EarlyPersistenceClassifier, batch_size: int, cache: str) -> list[tuple[Tensor, ...]]:
    """What layers keep of tracks of which nothing was seen yet, (B, ...) each, at rest as `cache` of AT_REST says."""
    with torch.no_grad():
        pasts = classifier.initial_state(batch_size).encoder.pasts
    kind = torch.float16 if cache == "float16" else torch.float32
    at_rest = [tuple(_at_rest(past, kind) for past in layer) for layer in pasts]
    layer = frame_layer(classifier, cache)
    if layer is not None:
        shape = batch_size, CLIP_SIZE, CLIP_SIZE, 3
        at_rest[layer] = tuple(torch.zeros(shape, dtype=torch.uint8) for _ in at_rest[layer])
    return at_rest


def _shape_and_kind(past: Tensor) -> tuple[tuple[int, ...], str]:
    """Without the batch; "float" is as the rest of the cache."""
    return tuple(past.shape[1:]), "float" if past.is_floating_point() else str(past.dtype).removeprefix("torch.")


def frame_layer(classifier: EarlyPersistenceClassifier, cache: str) -> int | None:
    """The number of the layer of which frames are kept as they came, None of none."""
    return classifier.extractor.frame_layer if cache == "frames" else None


def export_graphs(classifier: EarlyPersistenceClassifier, cache: str = "float32") -> list[Graph]:
    """The graphs of a classifier in evaluation mode, on the CPU; `cache` of AT_REST."""
    batch, cached = 3, 5  # of the example, tracks and frames of them; both are free in the graph
    at_rest = empty_pasts(classifier, batch, cache)
    config, lengths, of_frames = classifier.config, [len(layer) for layer in at_rest], frame_layer(classifier, cache)
    looking_back = tuple(layer for layer, length in enumerate(lengths) if length and layer != of_frames)
    cases = {"step": (1, looking_back)}
    if isinstance(classifier.extractor, SlowFast):
        interval = classifier.extractor.config.interval
        cases = {
            "refresh": (interval, looking_back),
            "stand": (1, tuple(layer for layer in looking_back if layer >= NUM_SLOW_LAYERS)),
        }
    pasts = {f"past_{layer}_{lag}": past for layer, kept in enumerate(at_rest) for lag, past in enumerate(kept)}
    evidence = torch.zeros(batch, config.num_evidence) if config.num_evidence else None
    hidden = torch.zeros(batch, config.state_width)
    inputs = {
        "pixels": torch.zeros(batch, CLIP_SIZE, CLIP_SIZE, 3, dtype=torch.uint8),
        "evidence": evidence,
        "age": torch.tensor([3, 2, 0]),
        "hidden": hidden,
        "tokens": _at_rest(
            torch.zeros(cached, config.tokens_per_frame, config.width),
            torch.float16 if cache == "float16" else torch.float32,
        ),
        "token_row": torch.tensor([0, 0, 1, 0, 1]),
        "token_frame": torch.tensor([0, 1, 0, 2, 1]),
    }
    graphs = []
    for name, (frames_seen, changed) in cases.items():
        module = _Step(classifier, lengths, frames_seen, changed, of_frames)
        outputs = ["logit", "new_hidden", "token", *(f"new_{layer}" for layer in changed)]
        graphs.append(Graph(name, _exported(module, inputs, pasts, outputs), changed))
    if evidence is not None:
        given = {"evidence": evidence, "hidden": hidden}
        graphs.append(Graph("evidence", _exported(_EvidenceStep(classifier), given, {}, ["logit", "new_hidden"]), ()))
    return graphs


def _exported(
    module: nn.Module,
    inputs: Mapping[str, Tensor | None],
    pasts: Mapping[str, Tensor],
    output_names: list[str],
) -> bytes:
    """A graph whose batch is free, as is the number of cached frames."""
    with needs_extra("exporting a model", "export"):
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    free = torch.export.Dim.DYNAMIC
    shapes = [None if value is None else {0: free} for value in inputs.values()]
    of_pasts = (tuple({0: free} for _ in pasts),) if pasts else ()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for name in ("onnxscript", "onnx_ir", "torch.onnx"):  # what they say of their own optimisations
            logging.getLogger(name).setLevel(logging.ERROR)
        program = torch.onnx.export(
            module.eval(),
            (*inputs.values(), *pasts.values()),
            dynamic_shapes=(*shapes, *of_pasts),
            input_names=[name for name, value in {**inputs, **pasts}.items() if value is not None],
            output_names=output_names,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    graph = model.graph
    # where each node comes from: half of the file, and paths of this machine
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
    _without_copies(graph)
    return bytes(model.SerializeToString())


def _without_copies(graph: Any) -> None:
    """Give out the array itself where an output is one that was folded and unfolded again, since views are copied."""
    maker = {name: node for node in graph.node for name in node.output}
    shapes = {each.name: str(each.type.tensor_type.shape) for each in (*graph.value_info, *graph.output)}
    outputs = {each.name for each in graph.output}
    for output in graph.output:
        squeezed = maker[output.name]
        unfolded = maker.get(squeezed.input[0]) if squeezed.op_type == "Squeeze" else None
        if unfolded is None or unfolded.op_type != "Reshape":
            continue
        source = unfolded.input[0]
        if source not in maker or source in outputs or shapes.get(source) != shapes[output.name]:
            continue
        outputs.add(source)  # of two outputs that are one frame the second stays a copy
        graph.node.remove(squeezed)
        for node in graph.node:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == source:
                        names[index] = output.name


def export_evidence(path: Path, output: Path) -> None:
    """Write the folder of an evidence model. Raises InputError for what is none, and as `_replaced`."""
    load_evidence_model(path)
    with _new_folder(output) as folder:
        shutil.copyfile(path, folder / EVIDENCE_FILE)
        _describe(folder, {"kind": "evidence"}, [EVIDENCE_FILE], path, "goes by evidence alone, without pixels")


def export_stream(
    classifier: EarlyPersistenceClassifier, path: Path, output: Path, cache: str = "float32"
) -> dict[str, Any]:
    """Write the folder of a classifier that was read from `path`; `cache` of AT_REST. Returns its parity with torch.

    Raises InputError where it does not answer as the classifier does, and where `output` holds something else.
    """
    _refuse_to_replace(output)  # before the work
    if cache == "frames" and classifier.extractor.frame_layer is None:
        raise InputError(
            f"{classifier.extractor_name} keeps nothing that is of one frame alone; leave --cache frames out"
        )
    config, extractor = classifier.config, classifier.extractor
    graphs = export_graphs(classifier, cache)
    with _new_folder(output) as folder:
        for graph in graphs:
            (folder / f"{graph.name}.onnx").write_bytes(graph.content)
        described = {
            "kind": "stream",
            "extractor": classifier.extractor_name,
            "num_frames": classifier.num_frames,
            "tokens_per_frame": config.tokens_per_frame,
            "width": config.width,
            "state_width": config.state_width,
            "num_evidence": config.num_evidence,
            "modalities": classifier.modalities,
            "calibrations": {name: each.as_dict() for name, each in classifier.calibrations.items()},
            "cache": cache,
            "interval": extractor.config.interval if isinstance(extractor, SlowFast) else 1,
            "pasts": [[_shape_and_kind(past) for past in layer] for layer in empty_pasts(classifier, 1, cache)],
            "frame_layer": frame_layer(classifier, cache),
            "graphs": {graph.name: {"file": f"{graph.name}.onnx", "changed": graph.changed_layers} for graph in graphs},
        }
        files = [f"{graph.name}.onnx" for graph in graphs]
        watches = f"watches tracks by {', '.join(classifier.modalities)}; extractor {classifier.extractor_name}"
        _describe(folder, described, files, path, watches)
        parity = parity_with(classifier, ExportedStream(folder))
        most = MOST_DIFFERENT[cache]
        if not parity["max_abs_dp"] <= most:
            raise InputError(
                f"the export of {path} gives p that differ by {parity['max_abs_dp']:.2g}, more than {most:g}; "
                f"nothing was written; with --cache float16 try float32"
            )
        _describe(folder, described | {"parity": parity}, files, path, watches)
    return parity


def parity_with(
    classifier: EarlyPersistenceClassifier, exported: ExportedStream, clips: int = 8, seed: int = 0
) -> dict[str, Any]:
    """The largest difference of p on random clips, over all ages and modalities, tracks of several ages in a batch."""
    rng = np.random.default_rng(seed)
    num_frames, columns = classifier.num_frames, classifier.config.num_evidence
    coarse = rng.integers(0, 256, (clips, num_frames, 8, 8, 3), np.uint8)
    pixels = coarse.repeat(8, 2).repeat(8, 3)
    evidence = rng.normal(0, 1, (clips, num_frames, max(columns, 1))).astype(np.float32)
    evidence[rng.random(evidence.shape) < 0.2] = np.nan
    models: tuple[StreamModel, StreamModel] = exported, TorchStream(classifier)
    worst = 0.0
    for modality in classifier.modalities:
        # half of the tracks are born at once, the others one by one, so that ages differ
        births = np.maximum(np.arange(clips) - clips // 2, 0)
        states: list[Any] = [None, None]
        rows = np.zeros(0, np.int64)  # clips that are live, in the order of the states
        for now in range(num_frames + int(births.max())):
            born = np.flatnonzero(births == now)
            for index, model in enumerate(models):
                if len(born):
                    fresh = model.initial_state(len(born))
                    states[index] = fresh if states[index] is None else states[index].append(fresh)
            rows = np.concatenate([rows, born])
            age = now - births[rows]
            frame = None if modality == "evidence" else pixels[rows, age]
            told = None if modality == "pixels" else evidence[rows, age]
            p, states[0] = models[0].step(frame, told, states[0])
            q, states[1] = models[1].step(frame, told, states[1])
            worst = max(worst, float(np.abs(p - q).max()))
            live = np.flatnonzero(age + 1 < num_frames)
            if not len(live):
                break
            rows = rows[live]
            states = [state.select(live) for state in states]
    return {"clips": clips, "ages": num_frames, "max_abs_dp": worst}


def _refuse_to_replace(output: Path) -> None:
    """Raise InputError where something else than an export lies there."""
    if output.exists() and not (output / MODEL_JSON).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} holds something else than an exported model; give another --output")


@contextlib.contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """A folder that takes the place of `output` when the block ends well. Raises InputError where that holds anything
    but an export.
    """
    _refuse_to_replace(output)
    output = output.absolute()
    require_writable(output.parent)
    folder = output.parent / f".{output.name}.{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
        aside = output.parent / f".{output.name}.{os.getpid()}.old"
        if output.exists():
            os.replace(output, aside)
        os.replace(folder, output)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _describe(folder: Path, described: dict[str, Any], files: list[str], path: Path, what: str) -> None:
    """Write model.json, the card and the bill of materials."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxruntime", "numpy")}
    checksums = {name: sha256_file(folder / name) for name in files}
    made_from = {"file": path.name, "sha256": sha256_file(path)}
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "opset": OPSET, "made_from": made_from}
    write_json(folder / MODEL_JSON, {**head, **described, "sha256": checksums, "versions": versions})
    parity = described.get("parity")
    lines = [
        f"# Exported model of {path.name}",
        "",
        f"It {what}. Read by `early_persistence_detection.open_model(folder)`, which needs ONNX Runtime and no torch.",
        "",
        *(f"- {name}: SHA-256 `{checksum}`" for name, checksum in checksums.items()),
        f"- made from SHA-256 `{made_from['sha256']}`, with {', '.join(f'{k} {v}' for k, v in versions.items())}",
        *(
            [f"- p differs from the checkpoint's by at most {parity['max_abs_dp']:.1e} on random clips"]
            if parity
            else []
        ),
        "",
        "Its p is calibrated on what it was calibrated on: synthetic scenes, or the camera that it was taught on. On",
        "other cameras check it first (`detect.py --ground_truth`, or the shadow mode of the service). The licence of",
        "the data that a model was taught on holds for the model, too.",
        "",
    ]
    write_text(folder / "MODEL_CARD.md", "\n".join(lines))
    write_text(folder / "sbom.cdx.json", _bill_of_materials(checksums))


def _bill_of_materials(checksums: Mapping[str, str]) -> str:
    """CycloneDX: the model's files, and what the runtime depends on, with the versions that are here."""
    with needs_extra("the bill of materials", "export"):
        from cyclonedx.model import HashAlgorithm, HashType
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Component, ComponentType
        from cyclonedx.output.json import JsonV1Dot6
        from packageurl import PackageURL
    bom = Bom()
    version = importlib.metadata.version(DISTRIBUTION)
    root = Component(name=DISTRIBUTION, version=version, type=ComponentType.LIBRARY, bom_ref=DISTRIBUTION)
    bom.metadata.component = root
    parts = [
        Component(
            name=name,
            type=ComponentType.MACHINE_LEARNING_MODEL if name.endswith(".onnx") else ComponentType.DATA,
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=checksum)],
            bom_ref=name,
        )
        for name, checksum in checksums.items()
    ]
    for requirement in importlib.metadata.requires(DISTRIBUTION) or []:
        if "extra ==" in requirement:
            continue
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        here = importlib.metadata.version(name)
        purl = PackageURL("pypi", None, name, here)
        parts.append(Component(name=name, version=here, type=ComponentType.LIBRARY, purl=purl, bom_ref=str(purl)))
    for part in parts:
        bom.components.add(part)
    bom.register_dependency(root, parts)
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"

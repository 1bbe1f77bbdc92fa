"""One step of every extractor's stream can be exported, gives what it gives in Python, and scatters nothing."""

import pytest
import torch
from early_persistence_detection.models.extractors.interface import Cache, Extractor
from early_persistence_detection.models.extractors.registry import CONFIGS, EXTRACTORS, build_extractor
from torch import Tensor, nn

# what a sum or a write into part of a tensor becomes in a graph, where nothing is changed in place
SCATTERS = ("scatter", "index_put", "index_copy", "aten.copy")
INTERVAL = CONFIGS["slowfast"]["small"].interval
FRAMES_SEEN = {
    "at a slow frame": (INTERVAL, 2 * INTERVAL),
    "between slow frames": (INTERVAL + 1, INTERVAL + 1),
    "out of step": (2, INTERVAL),
    "out of step between slow frames": (1, 2),
}
# what was seen decides what SlowFast computes, and no other extractor's work
CASES = [(name, case) for name in EXTRACTORS for case in FRAMES_SEEN if name == "slowfast" or case == "out of step"]


class Step(nn.Module):
    """A step with flat tensors in and out, of tracks of which `frames_seen` were seen."""

    def __init__(self, extractor: Extractor, cache: Cache):
        super().__init__()
        self.extractor, self.frames_seen = extractor, cache.frames_seen

    def forward(self, frame: Tensor, pasts: list[tuple[Tensor, ...]]) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """(B, 3, 64, 64) and pasts -> tokens (B, 1, N, Q), new pasts."""
        tokens, cache = self.extractor.encode(frame.unsqueeze(1), Cache(self.frames_seen, pasts))
        return tokens, cache.pasts


def cache_after(extractor: Extractor, frames_seen: tuple[int, ...]) -> Cache:
    """The cache of tracks that began at different times."""
    of_tracks = [extractor.encode(random_frames(seen, 1, seen))[1] for seen in frames_seen]
    cache = of_tracks[0]
    for other in of_tracks[1:]:
        cache = cache.append(other)
    return cache


def random_frames(seed: int, batch: int, frames: int) -> Tensor:
    return torch.rand(batch, frames, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(("name", "case"), CASES)
@torch.no_grad()
def test_a_step_is_exported_without_scatters(name, case):
    torch.manual_seed(0)
    extractor = build_extractor(CONFIGS[name]["small"]).eval()
    cache = cache_after(extractor, FRAMES_SEEN[case])
    step, frame = Step(extractor, cache), random_frames(9, len(cache.frames_seen), 1)[:, 0]
    program = torch.export.export(step, (frame, cache.pasts))
    tokens, pasts = program.module()(frame, cache.pasts)
    expected_tokens, expected_pasts = step(frame, cache.pasts)
    assert torch.equal(tokens, expected_tokens)
    torch.testing.assert_close(pasts, expected_pasts, atol=0, rtol=0)
    called = [str(node.target) for node in program.run_decompositions().graph.nodes if node.op == "call_function"]
    assert "aten.convolution.default" in called
    assert not [target for target in called if any(scatter in target for scatter in SCATTERS)]

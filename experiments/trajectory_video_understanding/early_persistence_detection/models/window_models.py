"""What a user would pick instead of a streaming model: torchvision's video classifiers, from random weights.

They keep no state between frames. For every new frame of a track they look at the whole window again, with the frames
that are not there yet replaced by the last one seen, so each frame costs a full forward.

Legend: B batch, T frames, H, W pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from run_directory import InputError
from torch import Tensor, nn
from torchvision.models.video import r3d_18, s3d
from torchvision.models.video.mvit import MSBlockConfig, MViT
from video_tracks.clip import CLIP_SIZE, NUM_FRAMES

WINDOW_MODELS = ("r3d_18", "s3d", "mvit_v2_s")
FRAMES_MULTIPLE, SIZE_MULTIPLE = 8, 32  # the largest strides of the three in time and space


class WindowModel(nn.Module):
    """A video classifier with one logit of P(persistent), behind this project's axes.

    Maps clips float32 (B, T, 3, H, W) in [-1, 1] to logits (B,). Raises ValueError for clips of another shape.
    """

    def __init__(self, network: nn.Module, num_frames: int, size: int):
        super().__init__()
        self.network, self.clip_shape = network, (num_frames, 3, size, size)

    def forward(self, clips: Tensor) -> Tensor:
        if clips.shape[1:] != self.clip_shape:
            expected = ", ".join(map(str, self.clip_shape))
            raise ValueError(f"expected (B, {expected}), got {tuple(clips.shape)}")
        return self.network(clips.transpose(1, 2)).squeeze(-1)  # [B, 3, T, H, W] -> [B, 1] -> [B]


def require_window_model(name: str) -> None:
    """Raise InputError unless `name` is one of WINDOW_MODELS."""
    if name not in WINDOW_MODELS:
        raise InputError(f"unknown window model {name!r}; use {', '.join(WINDOW_MODELS)}")


def build_window_model(name: str, num_frames: int = NUM_FRAMES, size: int = CLIP_SIZE) -> WindowModel:
    """A window model of WINDOW_MODELS with random weights (of torch's global generator), in training mode.

    r3d_18     the 18-layer 3D ResNet of Tran et al., A Closer Look at Spatiotemporal Convolutions for Action
               Recognition, CVPR 2018; as it is, its pooling adapts to any size
    s3d        Xie et al., Rethinking Spatiotemporal Feature Learning, ECCV 2018; its last pooling, made for 7 x 7 maps,
               takes the mean over all places instead, which is what it does to 16 frames of 224 x 224 pixels
    mvit_v2_s  Li et al., MViTv2: Improved Multiscale Vision Transformers for Classification and Detection, CVPR 2022;
               its relative positions are those of the smaller window

    Dropout and stochastic depth are torchvision's. Raises InputError for an unknown name, ValueError where
    `num_frames` is no multiple of 8 or `size` none of 32.
    """
    require_window_model(name)
    if num_frames < 1 or num_frames % FRAMES_MULTIPLE or size < 1 or size % SIZE_MULTIPLE:
        raise ValueError(
            f"a window is a multiple of {FRAMES_MULTIPLE} frames of a multiple of {SIZE_MULTIPLE} pixels, "
            f"not {num_frames} of {size}"
        )
    if name == "r3d_18":
        network = r3d_18(weights=None, num_classes=1)
    elif name == "s3d":
        network = s3d(weights=None, num_classes=1)
        network.avgpool = nn.AdaptiveAvgPool3d(1)
    else:
        network = _mvit_v2_s(num_frames, size)
    return WindowModel(network, num_frames, size)


def _mvit_v2_s(num_frames: int, size: int) -> MViT:
    """torchvision's `mvit_v2_s`, which itself takes no other window than 16 frames of 224 x 224, for another window.

    16 blocks in 4 stages; a stage begins in its first block with queries of half the height and width.
    """
    stage = np.repeat([0, 1, 2, 3], [1, 2, 11, 2])  # of each block
    width, heads, stride_kv = (96, 192, 384, 768), (1, 2, 4, 8), (8, 4, 2, 1)
    begins = np.diff(stage, prepend=0)  # 1 in the first block of stages 1 to 3
    blocks = [
        MSBlockConfig(
            num_heads=heads[this],
            input_channels=width[this - begun],
            output_channels=width[this],
            kernel_q=[3, 3, 3],
            kernel_kv=[3, 3, 3],
            stride_q=[1, 1 + begun, 1 + begun],
            stride_kv=[1, stride_kv[this], stride_kv[this]],
        )
        for this, begun in zip(stage.tolist(), begins.tolist(), strict=True)
    ]
    return MViT(
        spatial_size=(size, size),
        temporal_size=num_frames,
        block_setting=blocks,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        stochastic_depth_prob=0.2,
        num_classes=1,
    )


def padded_prefix(clips: Tensor, age: int | Tensor) -> Tensor:
    """The clips as they look at `age`: frames after it are replaced by frame `age`. (B, T, ...) -> (B, T, ...).

    `age` counts from 1; one for all clips, or int (B,) on the CPU. Raises ValueError for ages outside 1..T.
    """
    ages = torch.as_tensor(age).reshape(-1, 1)  # [B or 1, 1]
    num_frames = clips.shape[1]
    if int(ages.min()) < 1 or int(ages.max()) > num_frames:
        raise ValueError(f"ages go from 1 to {num_frames}, not {ages.flatten().tolist()}")
    frame_index = torch.minimum(torch.arange(num_frames), ages - 1).expand(len(clips), -1).to(clips.device)  # [B, T]
    return clips[torch.arange(len(clips), device=clips.device).unsqueeze(1), frame_index]

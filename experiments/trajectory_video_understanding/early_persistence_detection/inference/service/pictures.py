"""Pictures from clients: JPEG, looked at before they are decoded."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from early_persistence_detection.inference.service.problems import Problem


def jpeg_size(data: bytes, most_pixels: int) -> tuple[int, int]:
    """Width and height in px of a JPEG, from its header alone. Raises Problem 415 for anything else, 413 for one of
    more than `most_pixels`.
    """
    width, height = _opened(data).size
    if width * height > most_pixels:
        raise Problem(413, f"the picture has {width} x {height} px, more than {most_pixels} in all; send a smaller one")
    return width, height


def decode_jpeg(data: bytes, most_pixels: int) -> np.ndarray:
    """uint8 RGB (H, W, 3). Raises Problem as `jpeg_size`, and 415 for one that is damaged."""
    jpeg_size(data, most_pixels)
    try:
        return np.asarray(_opened(data).convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise Problem(415, f"the picture is a damaged JPEG ({error}); send it again") from None


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """uint8 RGB (H, W, 3) -> JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return file.getvalue()


def _opened(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is judged by its own limit
            return Image.open(io.BytesIO(data), formats=["JPEG"])
    except Image.DecompressionBombError:
        raise Problem(413, "the picture has far too many px; send a smaller one") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        raise Problem(415, "the picture is no JPEG; send a JPEG") from None

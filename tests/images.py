"""Images that a small network finds hard: extremes, noise, edges. All 3×64×64 within [-1, 1]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def _images() -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(5)
    y, x = np.mgrid[0:64, 0:64]
    shape = (3, 64, 64)
    images = {
        "black": np.zeros(shape),
        "white": np.ones(shape),
        "minus one": -np.ones(shape),
        "noise": random.uniform(-1, 1, shape),
        "noise of a photo": random.uniform(0, 1, shape),
        "hard noise": random.choice([-1.0, 1.0], shape),
        "checkerboard of pixels": np.broadcast_to((x + y) % 2 * 2.0 - 1, shape),
        "checkerboard of patches": np.broadcast_to((x // 8 + y // 8) % 2 * 1.0, shape),
        "ramps": np.stack([x / 63, y / 63, (x + y) / 126]),
        "blob": np.stack([np.exp(-((x - 20) ** 2 + (y - 30) ** 2) / 200) * tint for tint in (1, 0.7, 0.4)]),
    }
    return {name: image.astype(np.float32) for name, image in images.items()}


IMAGES = _images()

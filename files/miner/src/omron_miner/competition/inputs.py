"""The inputs validators run a competition circuit on: a photo, randomly augmented, or plain noise.

An input is one float32 array of the baseline model's shape. Photos must be in the form that is fed to the model, so
already scaled and normalised (upstream: RGB, /255, minus ImageNet's mean, by its deviation); they are not decoded here.
The same seed draws the same inputs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from omron_miner.circuits.examples import read_input_file
from omron_miner.errors import ConfigError, InputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[np.float32]

# Upstream's competitions/1/data_processor.py; section 6 of the protocol.
FLIP_PROBABILITY = 0.5
JITTER = 0.1
"""An input is multiplied by one factor within 1 ± this."""
LARGEST_ANGLE = math.radians(10)
NOISE = 0.01
"""Standard deviation of the noise added to each number."""
LIMIT = 1.0
"""Numbers are finally clipped to ± this."""
_SUFFIXES = (".json", ".npy")


def read_inputs(path: Path, shape: tuple[int, ...]) -> list[Array]:
    """The inputs in a file (JSON, one input, or .npy, one or several) or in all such files of a folder, by name.

    Each has `shape`. Raises ConfigError when there is none or one is not of that shape.
    """
    files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"{path} contains no inputs", "put .npy or .json files there")
    return [array for file in files for array in _read(file, shape)]


def draw(samples: list[Array] | None, shape: tuple[int, ...], count: int, seed: int) -> list[Array]:
    """`count` inputs as validators draw them: augmented samples or, as they do without photos, augmented noise."""
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(count):
        base = samples[random.integers(len(samples))] if samples else random.standard_normal(shape, np.float32)
        drawn.append(augment(base, random))
    return drawn


def augment(image: Array, random: np.random.Generator) -> Array:
    """Randomly flipped, brightened or darkened, rotated, with noise, and clipped to ±1.

    Only a batch of images (four dimensions, the last two height and width) is flipped and rotated.
    """
    pictures = image.ndim == 4
    if pictures and random.random() < FLIP_PROBABILITY:
        image = image[..., ::-1]
    image = image * np.float32(1 + random.uniform(-JITTER, JITTER))
    if pictures:
        image = rotate(image, random.uniform(-LARGEST_ANGLE, LARGEST_ANGLE))
    noisy = image + random.standard_normal(image.shape, np.float32) * np.float32(NOISE)
    bounded: Array = np.clip(noisy, -LIMIT, LIMIT).astype(np.float32)
    return bounded


def rotate(image: Array, angle: float) -> Array:
    """Rotates each image of a batch by `angle` (radians) about its centre; bilinear, 0 beyond the border.

    As torch's affine_grid and grid_sample do with align_corners: corners are the corner pixels' centres.
    """
    height, width = image.shape[-2:]
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    column = (x * math.cos(angle) - y * math.sin(angle) + 1) / 2 * (width - 1)
    row = (x * math.sin(angle) + y * math.cos(angle) + 1) / 2 * (height - 1)
    top, left = np.floor(row), np.floor(column)
    turned = np.zeros(image.shape, np.float64)
    for at_row, row_share in ((top, top + 1 - row), (top + 1, row - top)):
        for at_column, column_share in ((left, left + 1 - column), (left + 1, column - left)):
            inside = (at_row >= 0) & (at_row < height) & (at_column >= 0) & (at_column < width)
            picked = image[..., np.where(inside, at_row, 0).astype(int), np.where(inside, at_column, 0).astype(int)]
            turned += picked * (row_share * column_share * inside)
    return turned.astype(np.float32)


def _read(path: Path, shape: tuple[int, ...]) -> list[Array]:
    size = math.prod(shape)
    try:
        values = np.asarray(np.load(path) if path.suffix == ".npy" else _read_json(path), np.float32)
    except ConfigError:
        raise
    except Exception as error:  # numpy raises what the parts of the file's format raise: zipfile's, MemoryError, ...
        raise ConfigError(f"cannot read inputs from {path}: {error}", "give .npy or .json files of numbers") from error
    if values.size == 0 or size == 0 or values.size % size:
        raise ConfigError(f"{path} has {values.size} numbers, the model takes {size}", "provide inputs of this model")
    if not np.isfinite(values).all():
        raise ConfigError(f"{path} contains NaN or infinity", "give finite numbers")
    return list(values.reshape(-1, *shape))


def _read_json(path: Path) -> object:
    try:
        rows = list(read_input_file(path).values())
    except InputError as error:
        raise ConfigError(error.message, error.hint) from error
    if len(rows) != 1:
        raise ConfigError(f"{path} has {len(rows)} inputs, the model takes one", 'write {"input_data": [[...]]}')
    return rows[0]

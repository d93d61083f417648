"""BM3D in NumPy, after Dabov, Foi, Katkovnik, Egiazarian, IEEE Transactions on Image Processing 16, 2007.

Two passes: like blocks are stacked, transformed in three dimensions and shrunk, first by a hard threshold,
then by Wiener's filter with the first result as the pilot. Every group has the same number of blocks (the
paper also sets a limit on their distance), and the third transform is Hadamard's.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.fft import dctn, idctn
from scipy.linalg import hadamard
from scipy.ndimage import uniform_filter

BLOCK, STEP, REACH = 8, 3, 14
THRESHOLD = 2.7
KAISER = np.outer(np.kaiser(BLOCK, 2.0), np.kaiser(BLOCK, 2.0))


def bm3d(image: np.ndarray, sigma: float, strength: float = 1.0) -> np.ndarray:
    """An image (H, W) without normal noise of standard deviation `strength * sigma`."""
    sigma = strength * sigma
    noisy = np.asarray(image, np.float64)
    pilot = _pass(noisy, noisy, 16, lambda stack, _: _hard(stack, sigma))
    return _pass(noisy, pilot, 32, lambda stack, clean: _wiener(stack, clean, sigma))


def _hard(stack: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    kept = np.abs(stack) > THRESHOLD * sigma
    return stack * kept, 1 / np.maximum(kept.sum(axis=(1, 2, 3)), 1)


def _wiener(stack: np.ndarray, clean: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    gain = clean**2 / (clean**2 + sigma**2)
    return stack * gain, 1 / np.maximum((gain**2).sum(axis=(1, 2, 3)), 1e-12)


def _pass(noisy: np.ndarray, guide: np.ndarray, count: int, shrink: object) -> np.ndarray:
    places = _like_blocks(guide, count)
    mix = hadamard(count) / np.sqrt(count)
    stacks = []
    for image in (noisy, guide):
        blocks = sliding_window_view(image, (BLOCK, BLOCK))[places[..., 0], places[..., 1]]
        stacks.append(np.einsum("ij,njxy->nixy", mix, dctn(blocks, axes=(2, 3), norm="ortho")))
    shrunk, weights = shrink(*stacks)  # type: ignore[operator]
    blocks = idctn(np.einsum("ij,njxy->nixy", mix, shrunk), axes=(2, 3), norm="ortho")
    total, weight = np.zeros_like(noisy), np.zeros_like(noisy)
    offset = np.arange(BLOCK)
    rows = places[..., 0, None, None] + offset[:, None]
    columns = places[..., 1, None, None] + offset
    share = np.broadcast_to(weights[:, None, None, None] * KAISER, blocks.shape)
    np.add.at(total, (rows, columns), share * blocks)
    np.add.at(weight, (rows, columns), share)
    return total / weight


def _like_blocks(image: np.ndarray, count: int) -> np.ndarray:
    """Corners (references, count, 2) of the blocks nearest to each reference block, itself the first."""
    last = np.array(image.shape) - BLOCK
    corners = [np.unique(np.append(np.arange(0, n + 1, STEP), n)) for n in last]
    at = np.stack(np.meshgrid(*corners, indexing="ij"), axis=-1).reshape(-1, 2)
    moves = np.stack(np.meshgrid(*[np.arange(-REACH, REACH + 1)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    moves = moves[np.argsort(np.abs(moves).sum(axis=1), kind="stable")]
    padded = np.pad(image, REACH)
    half = BLOCK // 2
    distances = np.full((len(at), len(moves)), np.inf)
    for i, move in enumerate(moves):
        there = at + move
        valid = ((there >= 0) & (there <= last)).all(axis=1)
        top, left = REACH + move
        shifted = padded[top : top + image.shape[0], left : left + image.shape[1]]
        # The filter's centre of an even window lies behind its middle.
        near = uniform_filter((image - shifted) ** 2, BLOCK)[at[valid, 0] + half, at[valid, 1] + half]
        distances[valid, i] = near
    distances[:, 0] = -1  # each block itself, before others that rounding makes as near
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return at[:, None] + moves[nearest]

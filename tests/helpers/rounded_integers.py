"""The integers of rounded weights and inputs, and their product: an independent reference in numpy."""

import numpy as np


def weight_integers(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric, row by row; in float32, as the layers compute."""
    highest = 2 ** (bits - 1) - 1
    integers, scales = np.zeros(weight.shape, np.int64), np.ones(len(weight), np.float32)
    for row in range(len(weight)):
        largest = np.abs(weight[row]).max()
        if largest > 0:
            scales[row] = np.float32(largest) / np.float32(highest)
        integers[row] = np.clip(np.rint(weight[row] / scales[row]), -highest, highest)
    return integers, scales


def input_integers(x: np.ndarray, low, high, bits: int) -> tuple[np.ndarray, np.float32, int]:
    """Asymmetric over the whole tensor, with 0 on the grid."""
    low, high = np.float32(min(low, 0)), np.float32(max(high, 0))
    highest = 2**bits - 1
    scale = (high - low) / np.float32(highest) if high > low else np.float32(1)
    zero_point = int(np.rint(-low / scale))
    return np.clip(np.rint(x / scale) + zero_point, 0, highest).astype(np.int64), scale, zero_point


def slow_product(x: np.ndarray, weight: np.ndarray, low, high, bits: int) -> np.ndarray:
    """The integers multiplied as integers, and the scales put on at the end."""
    q_x, s_x, zero = input_integers(x, low, high, bits)
    q_w, s_w = weight_integers(weight, bits)
    return ((q_x - zero) @ q_w.T) * s_x.astype(np.float64) * s_w.astype(np.float64)

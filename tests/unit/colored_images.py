"""Plain images of two colors, which any network tells apart."""
import numpy as np
from PIL import Image


def two_colors(folder, n, height, width):
    "Write `n` red and `n` blue images with some noise into `folder`, named by color and number; returns the folder."
    rng = np.random.default_rng(0)
    for name, color in dict(red=(200, 30, 30), blue=(30, 30, 200)).items():
        for i in range(n):
            pixels = np.array(color) + rng.integers(-25, 25, (height, width, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder/f'{name}_{i}.png')
    return folder

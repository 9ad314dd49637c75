"""Small data sets that the contract tests draw for themselves: toys of three kinds, and lamps with a place."""
import numpy as np
from PIL import Image, ImageDraw

KINDS = {'red_ball': (210, 60, 50), 'blue_brick': (60, 90, 210), 'green_bar': (60, 170, 80)}


def draw_toy(kind, rng, size=(56, 44)):
    "One toy on a gray table, at a place and of a size that `rng` chooses."
    noise = rng.integers(-12, 12, (size[1], size[0], 3))
    image = Image.fromarray((150 + noise).astype(np.uint8))
    x, y, r = rng.integers(16, size[0] - 16), rng.integers(14, size[1] - 14), rng.integers(9, 13)
    pen = ImageDraw.Draw(image)
    if kind == 'red_ball': pen.ellipse((x - r, y - r, x + r, y + r), fill=KINDS[kind])
    elif kind == 'blue_brick': pen.rectangle((x - r, y - r, x + r, y + r), fill=KINDS[kind])
    else: pen.rectangle((x - 3, y - r, x + 3, y + r), fill=KINDS[kind])
    return image


def draw_toys(folder, kinds=tuple(KINDS), each=20, seed=0):
    "Write `each` images of every kind into `folder`, named like `red_ball_03.jpg`."
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for kind in kinds:
        for i in range(each): draw_toy(kind, rng).save(folder/f'{kind}_{i:02}.jpg')
    return folder


def draw_lamps(folder, rooms=3, each=8):
    "Dark rooms with a lamp in each image, a folder for each room, and beside each image a text file with the lamp's x and y."
    rng = np.random.default_rng(1)
    for room in range(rooms):
        (folder/f'room{room}').mkdir(parents=True)
        for i in range(each):
            x, y = rng.uniform(20, 140), rng.uniform(20, 100)
            image = Image.new('RGB', (160, 120), (30, 30, 60))
            ImageDraw.Draw(image).ellipse((x - 8, y - 8, x + 8, y + 8), fill=(250, 240, 190))
            file = folder/f'room{room}'/f'{i:03}.png'
            image.save(file)
            file.with_suffix('.txt').write_text(f'{x:.2f},{y:.2f}')
    return folder

"""What the contract tests share: their figures are closed, and the small data sets that they draw are there for every file."""
import pytest

import toys


@pytest.fixture(scope='module', autouse=True)
def figures_closed():
    yield
    import matplotlib.pyplot as plt
    plt.close('all')


@pytest.fixture(scope='session')
def toy_box(tmp_path_factory):
    "A folder with 20 images of each kind of toy, with the kind in the file's name."
    return toys.draw_toys(tmp_path_factory.mktemp('toys')/'box')


@pytest.fixture(scope='session')
def toy_shelves(tmp_path_factory):
    "The same toys in a folder for each kind, below `train` and `valid`."
    root = tmp_path_factory.mktemp('shelves')
    for part, each in ('train', 15), ('valid', 5):
        for kind in toys.KINDS: toys.draw_toys(root/part/kind, kinds=[kind], each=each, seed=len(part) + each)
    return root

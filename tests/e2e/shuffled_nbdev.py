"""Run `nbdev_test` on all notebooks in another order than by name.

    python tests/e2e/shuffled_nbdev.py 1 0                          # order number 1, in this process
    python tests/e2e/shuffled_nbdev.py 2 4 --skip_file_re '^15'      # order number 2, four workers; more options are passed to nbdev_test

nbdev runs several notebooks in one process, so what one of them changes can break those after it. An order by name shows this for one order only.
"""
import random
import sys

from fastcore.script import call_parse
from nbdev import test


def shuffled(seed):
    "Return a replacement of `sorted`: by name first, because the file system lists files in any order, and then shuffled by `seed`."
    def order(files):
        files = sorted(files)
        random.Random(seed).shuffle(files)
        return files
    return order


@call_parse
def main(
    seed: int, # the number of the order
    n_workers: int, # processes; 0 runs all notebooks in this one
    path: str = None, # a notebook or folder, as for `nbdev_test`
    skip_file_re: str = None, # leave out notebooks whose names match
):
    "Run `nbdev_test` with the notebooks in the order number `seed`."
    test.sorted = shuffled(seed)  # nbdev_test sorts its files with this name
    test.nbdev_test(path=path, n_workers=n_workers, do_print=True, skip_file_re=skip_file_re)

"""The reader's own folder, `work/`, which Git ignores: copies of the chapters and the exercise notebooks to write in.

    python tools/work.py           # create it, or add what is not there yet: what `make lab` does first
    python tools/work.py update    # bring new versions beside the answers: what `make update` does

A notebook that a reader has changed is never overwritten.
"""
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = Path('work')


def main(args):
    from fastbook_impl.exercises.work import start, update
    os.chdir(ROOT)
    if args[:1] != ['update']: start(WORK, chapters=True, command='make update')
    elif WORK.exists(): update(WORK)
    else: print(f'There is no folder {WORK} yet: `make lab` creates it.')


if __name__ == '__main__': main(sys.argv[1:])

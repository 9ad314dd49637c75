"""Write the exercise notebooks `nbs/exercises/NN_name.ipynb`: what `make exercises` does.

    python tools/exercises.py           # write those that are not in step with their definitions
    python tools/exercises.py --check   # write nothing; say which are not in step

An exercise is defined once, in `nbs/checks/`. A cell that somebody changed, such as one with an answer, is never overwritten.
"""
import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(argv=None, root=ROOT):
    from fastbook_impl.exercises.engine import CHAPTERS
    from fastbook_impl.exercises.notebooks import marks, notebook, source_of
    from fastbook_impl.exercises.work import read_marks, update_one, write_marks
    p = argparse.ArgumentParser(prog='tools/exercises.py', description='Write the exercise notebooks.')
    p.add_argument('--check', action='store_true', help='write nothing, and fail if a notebook is not in step')
    check = p.parse_args(argv).check
    folder, late = root/'nbs'/'exercises', []
    shipped = read_marks(folder)
    for chapter, name in CHAPTERS.items():
        path, new = folder/f'{name}.ipynb', notebook(chapter)
        if path.exists() and [source_of(c) for c in json.loads(path.read_text(encoding='utf-8'))['cells']] == [source_of(c) for c in new['cells']]: continue
        late.append(path.name)
        if check: continue
        report = update_one(path, new, shipped.get(path.name, {}), exercises=True)
        shipped[path.name] = marks(new)
        print(f"{path.name}: {'; '.join(report) or 'brought up to date'}")
    if late and not check: write_marks(folder, shipped, ignore=False)
    if check and late: print(f"not in step with nbs/checks: {', '.join(late)}. `make exercises` writes them anew.")
    return 1 if check and late else 0


if __name__ == '__main__': sys.exit(main())

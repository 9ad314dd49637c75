"""Write the section of exercises into the chapter notebooks: what `make exercises` does.

    python tools/questionnaire.py                            # all chapters: write, run the section, keep its outputs
    python tools/questionnaire.py nbs/04_mnist_basics.ipynb
    python tools/questionnaire.py --check                    # write nothing; say which chapters are not in step

An exercise is written once, in `nbs/questionnaire/`. Its four cells in the chapter (the task, the stub, the check, and the solution, which JupyterLab folds) are made from it here.
They are known by their ids, which begin with `q-`. The section needs nothing from the chapter above it, so it is run by itself.
"""
import argparse
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbdev.clean import nbdev_clean
from nbformat.v4 import new_code_cell, new_markdown_cell

from course import ENCRYPTED

ROOT = Path(__file__).resolve().parent.parent
INTRO = '''## Questionnaire

The book ends this chapter with {n} questions. Here each of them is something to do: a function to write, a result to predict before you run it, a reason to choose. Fill in the first cell of an exercise and run it together with the second, which tells you how it went. The third is folded: it holds our solution.

`hint('{first}')` helps you on, gently at first. `skip('{first}')` puts an exercise aside. What you have answered is kept when the kernel is restarted; `reset('{first}')` forgets it.'''
IMPORTS = 'from fastbook_impl.fastbook import *\nfrom fastbook_impl.questionnaire.all import *'


def section(chapter, exs):
    "The cells of a chapter's section, without outputs."
    call = lambda name, ex: f"{name}('{ex.number}', {', '.join(ex.names)})"
    cells = [markdown(f'q-{chapter}-intro', INTRO.format(n=len(exs), first=exs[0].number)), code(f'q-{chapter}-imports', IMPORTS)]
    for ex in exs:
        id = f'q-{chapter}-{ex.place[1]:02}'
        cells += [markdown(id, f'### {ex.number} {ex.title}\n\n{ex.task}{options(ex)}'), code(f'{id}-stub', ex.stub), code(f'{id}-check', call('check', ex)),
                  code(f'{id}-solution', f"{ex.solution}\n{call('check_solution', ex)}", hidden=True)]
    return [*cells, markdown(f'q-{chapter}-end', '### How far you are'), code(f'q-{chapter}-progress', f"progress('{chapter}')")]


def options(ex):
    "The worded answers of an exercise, one a line."
    lines = [f'- **{k}**: {v}' for p in ex.parts for k, v in getattr(p, 'options', {}).items()]
    return '\n\n' + '\n'.join(lines) if lines else ''


def markdown(id, source): return new_markdown_cell(source, id=id)


def code(id, source, hidden=False):
    return new_code_cell(source, id=id, metadata={'jupyter': {'source_hidden': True}} if hidden else {})


def in_step(nb, cells):
    "Does the notebook end in these cells?"
    there = [c for c in nb.cells if c.id.startswith('q-')]
    return [(c.id, c.source, c.cell_type) for c in there] == [(c.id, c.source, c.cell_type) for c in cells] and nb.cells[-len(there):] == there


def run(cells):
    "Run the section by itself, with a progress file of its own, so that the outputs are those of a new reader."
    nb = nbformat.v4.new_notebook(cells=cells, metadata={'kernelspec': {'display_name': 'python3', 'language': 'python', 'name': 'python3'}})
    with tempfile.TemporaryDirectory() as home:
        NotebookClient(nb, timeout=600, config=ENCRYPTED, resources={'metadata': {'path': str(ROOT/'nbs')}}, coalesce_streams=True).execute(env={**os.environ, 'FASTBOOK_HOME': home, 'FASTBOOK_DATA': 'sample'})
    return nb.cells


def write(path, cells):
    nb = nbformat.read(path, as_version=4)
    nb.cells = [c for c in nb.cells if not c.id.startswith('q-')] + run(cells)
    path.write_text(nbformat.writes(nb), encoding='utf-8')
    nbdev_clean(str(path))


def main(argv=None):
    from fastbook_impl.questionnaire.core import CHAPTERS, exercises
    p = argparse.ArgumentParser(prog='tools/questionnaire.py', description='Write the exercises into the chapter notebooks.')
    p.add_argument('notebooks', nargs='*', type=Path, help='chapter notebooks (default: all that have exercises)')
    p.add_argument('--check', action='store_true', help='write nothing, and fail if a chapter is not in step')
    args = p.parse_args(argv)
    wanted, late = {o.stem for o in args.notebooks}, []
    for chapter, name in CHAPTERS.items():
        path, exs = ROOT/'nbs'/f'{name}.ipynb', exercises(chapter)
        if wanted and name not in wanted: continue
        cells = section(chapter, exs)
        if in_step(nbformat.read(path, as_version=4), cells): continue
        late.append(path.name)
        if not args.check:
            write(path, cells)
            print(f'{path.name}: {len(exs)} exercises')
    if args.check and late: print(f"not in step with nbs/questionnaire: {', '.join(late)}. `make exercises` writes them anew.")
    return 1 if args.check and late else 0


if __name__ == '__main__': sys.exit(main())

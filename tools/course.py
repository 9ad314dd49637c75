"""Run every chapter from top to bottom without a browser: what `make course` does.

    python tools/course.py                          # all chapters
    python tools/course.py nbs/04_mnist_basics.ipynb
    python tools/course.py --keep executed          # and keep the executed notebooks, to look at
    python tools/course.py --both                   # twice: on real data and on the built-in samples

Chapters run in a copy of `nbs/`; the notebooks on disk stay as they are. `FASTBOOK_DATA` and `FASTBOOK_MIRROR` reach them as they are set.

A chapter says what it trained with `fastbook_impl.fastbook.chapter_result(trained, result, **metrics)`. That call leaves an output of the type
`application/vnd.fastbook.result+json`, with the keys `trained`, `result` and `metrics`; each such output is a row of the table at the end.
The data that it describes with `data_card`, from `fastbook_impl.course.claims`, and what it claims with `claim`, are listed below that table. With `--both`, each
claim shows its value on real data and its value on the built-in sample.
"""
import argparse
import logging
import os
import re
import shutil
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from tqdm import tqdm
from traitlets.config import Config

from setup_env import for_kernels

ROOT = Path(__file__).resolve().parent.parent
RESULT_MIME = 'application/vnd.fastbook.result+json'
CLAIM_MIME = 'application/vnd.fastbook.claim+json'
DATA_MIME = 'application/vnd.fastbook.data+json'
ENCRYPTED = Config(KernelManager={'transport_encryption': 'auto'})  # a kernel is spoken to over local ports, which others on the machine can hear
logging.getLogger('tornado.general').setLevel(logging.CRITICAL)  # pyzmq tells it, with a traceback, that a kernel is gone; our own sentence says so
ANSI = re.compile(r'\x1b\[[0-9;]*m')


@dataclass
class Run:
    "What became of one chapter."
    name: str
    seconds: float = 0.
    results: list = field(default_factory=list)
    claims: list = field(default_factory=list)
    data: list = field(default_factory=list)
    error: str = None


def chapters(root=ROOT):
    "The chapter notebooks: those at the top of `nbs/` that begin with the chapter's number."
    return sorted((root/'nbs').glob('[0-9][0-9]*_*.ipynb'))


def reported(nb, mime):
    "What a notebook's cells left as data of the type `mime`."
    outputs = (o for c in nb.cells for o in c.get('outputs', []))
    return [o['data'][mime] for o in outputs if mime in o.get('data', {})]


def results(nb):
    "What a notebook's cells reported with `chapter_result`."
    return reported(nb, RESULT_MIME)


def claims(nb):
    "What a notebook's cells claimed with `claim`."
    return reported(nb, CLAIM_MIME)


def data_cards(nb):
    "The data that a notebook's cells described with `data_card`, each data set once."
    cards = reported(nb, DATA_MIME)
    return [c for i, c in enumerate(cards) if c not in cards[:i]]


def failure(nb, err):
    "Where a notebook stopped, and why: the number of the cell as one counts them from the top, the error, the line."
    number, cell = next(((i, c) for i, c in enumerate(nb.cells, 1) if any(o.output_type == 'error' for o in c.get('outputs', []))), (None, None))
    if cell is None: return last_line(str(err))
    out = next(o for o in cell.outputs if o.output_type == 'error')
    at = [o for o in ANSI.sub('', '\n'.join(out.traceback)).splitlines() if re.match(r'-+> *\d+ ', o)]
    line = re.sub(r'^-+> *\d+ ', '', at[0]).strip() if at else cell.source.splitlines()[0]
    return f'cell {number}: {out.ename}: {last_line(out.evalue)}\n    {line}'


def last_line(text): return ([o for o in ANSI.sub('', text).splitlines() if o.strip()] or ['no message'])[-1]


def without_outputs(nb):
    "What an earlier run left in the notebook is no result of this one, which may not get that far."
    for c in nb.cells:
        if c.cell_type == 'code': c.outputs = []
    return nb


def execute(path, cwd, bar, env=os.environ):
    "Run one notebook in a kernel of its own, working in the folder `cwd`, a tick of `bar` per cell."
    nb, run, start = without_outputs(nbformat.read(path, as_version=4)), Run(path.stem), time.time()
    client = NotebookClient(nb, timeout=None, kernel_name='python3', resources={'metadata': {'path': str(cwd)}}, coalesce_streams=True,
                            config=ENCRYPTED, on_cell_complete=lambda **kw: bar.update())
    try: client.execute(env=for_kernels(env))
    except CellExecutionError as e: run.error = failure(nb, e)
    except DeadKernelError: run.error = 'its Python died; the usual cause is that memory ran out'
    run.seconds, run.results, run.claims, run.data = time.time() - start, results(nb), claims(nb), data_cards(nb)
    return nb, run


def run_all(paths, keep=None, env=os.environ):
    "Run the chapters one after the other under one progress bar."
    cells = {o: len(nbformat.read(o, as_version=4).cells) for o in paths}
    runs, done = [], 0
    with tempfile.TemporaryDirectory(prefix='fastbook-course-') as tmp, tqdm(total=sum(cells.values()), unit='cell', **bar_style()) as bar:
        for path in paths:
            bar.set_description(path.stem)
            cwd = Path(tmp)/path.stem
            shutil.copytree(path.parent, cwd, ignore=shutil.ignore_patterns('.ipynb_checkpoints', 'models'))
            nb, run = execute(path, cwd, bar, env)
            runs.append(run)
            done += cells[path]
            bar.update(done - bar.n)
            if keep: nbformat.write(nb, keep/path.name)
    return runs


def bar_style():
    "A bar on a terminal; in a log, a line now and then."
    return {} if sys.stderr.isatty() else dict(mininterval=10, ncols=80, ascii=True)


def table(runs):
    "The table: chapter, what was trained, result, seconds."
    rows = [('chapter', 'what was trained', 'result', 'seconds')]
    for run in runs:
        lines = [(o['trained'], o['result']) for o in run.results]
        if run.error: lines.append(('failed', textwrap.shorten(run.error.splitlines()[0], 60, placeholder=' …')))
        for i, (trained, result) in enumerate(lines or [('nothing reported', '')]):
            rows.append(('' if i else run.name, trained, result, '' if i else f'{run.seconds:.1f}'))
    widths = [max(len(o[i]) for o in rows) for i in range(4)]
    line = lambda row: '  '.join([*(o.ljust(w) for o, w in zip(row[:3], widths)), row[3].rjust(widths[3])]).rstrip()
    return '\n'.join([line(rows[0]), line(['-'*w for w in widths]), *map(line, rows[1:])])


def claims_table(runs, on_sample=()):
    "The claims of all chapters, one a line: value, spread over seeds, bound, data and verdict; '' if there are none. `on_sample` adds their values there."
    others = {(run.name, c['name']): c for run in on_sample for c in run.claims}
    lines = []
    for name, c in ((run.name, c) for run in runs for c in run.claims):
        other = others.pop((name, c['name']), None)
        on = f'; on the sample: {other["value"]:.4g}' if other else '; not claimed on the sample' if on_sample else ''
        lines.append(f'{name}  {claim_text(c)}{on}')
    return '\n'.join(lines + [f'{name}  only on the sample: {claim_text(c)}' for (name, _), c in others.items()])


def data_table(runs):
    "The data of each chapter, one data set a line; '' if no chapter describes any."
    return '\n'.join(f'{run.name}  {data_text(c)}' for run in runs for c in run.data)


def data_text(c):
    "One data card in a line."
    return f'{c["name"]}: {c["what"]}; {c["n_files"]:,} files; {"generated here" if c["generated"] else "real"}; {c["origin"]}; license: {c["license"]}'


def claim_text(c):
    "One claim in a line."
    seeds = f' ({min(c["spread"]):.4g} to {max(c["spread"]):.4g} over {len(c["spread"])} seeds)' if c['spread'] else ''
    verdict = 'holds' if c['holds'] and c['checked'] else 'not checked: generated data' if not c['checked'] else 'DOES NOT HOLD'
    return f'{c["name"]}: {c["value"]:.4g}{seeds}, claimed {c["bound"]}: {verdict}' + (f' [{c["data"]}]' if c['data'] else '')


def data_in_use(env=os.environ):
    "Which data the chapters were asked to use, in words."
    mode, mirror = env.get('FASTBOOK_DATA', 'auto'), env.get('FASTBOOK_MIRROR')
    return f'FASTBOOK_DATA={mode}' + (f', FASTBOOK_MIRROR={mirror}' if mirror else '')


def main(args=None):
    parser = argparse.ArgumentParser(description='Run the chapters, and say what they trained.')
    parser.add_argument('notebooks', nargs='*', type=Path, help='notebooks to run; all chapters unless given')
    parser.add_argument('--keep', type=Path, metavar='FOLDER', help='keep the executed notebooks here')
    parser.add_argument('--both', action='store_true', help='run the chapters twice, with FASTBOOK_DATA=real and with FASTBOOK_DATA=sample')
    args = parser.parse_args(args)
    missing = [str(o) for o in args.notebooks if not o.exists()]
    if missing: parser.error(f'no such notebook: {", ".join(missing)}')
    paths = args.notebooks or chapters()
    if not paths: parser.error(f'there is no chapter in {ROOT/"nbs"}')
    if args.keep: args.keep.mkdir(parents=True, exist_ok=True)
    paths = [o.resolve() for o in paths]
    if not args.both: return report(run_all(paths, args.keep))
    envs = [{**os.environ, 'FASTBOOK_DATA': o} for o in ('real', 'sample')]
    real, sample = [run_all(paths, args.keep if i == 0 else None, env) for i, env in enumerate(envs)]
    return max(report(sample, env=envs[1]), report(real, sample, envs[0]))


def report(runs, on_sample=(), env=os.environ):
    "Print what became of the chapters; return 1 if one of them failed, or else 0."
    print(f'\n{data_in_use(env)}\n\n{table(runs)}', flush=True)
    if described := data_table(runs): print(f'\nData\n\n{described}', flush=True)
    if claimed := claims_table(runs, on_sample): print(f'\nClaims\n\n{claimed}', flush=True)
    for run in runs:
        if run.error: print(f'\n{run.name} failed: {run.error}', file=sys.stderr)
    return 1 if any(o.error for o in runs) else 0


if __name__ == '__main__':
    try: sys.exit(main())
    except KeyboardInterrupt: sys.exit('\nStopped.')

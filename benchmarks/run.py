"""The same work on this package, on fastai and in plain PyTorch: run it, print the ratios, write `results.md`.

    make bench                                    # set up, and all rows
    .venv/bin/python benchmarks/run.py --only imports,ch4 --runs 5
    .venv/bin/python benchmarks/run.py --only ch4 --profile 30 --contenders ours

Needs nothing but the standard library; every contender works in a process of its own (`worker.py`), in turn: A B C, A B C, …
"""
import argparse
import datetime
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import environment as env
import rows
import tables

RESULTS = HERE/'results.md'


class Failed(Exception):
    "A contender did not finish; the text is the end of what it printed."


def arguments(argv=None):
    p = argparse.ArgumentParser(prog='benchmarks/run.py', description='The same work on this package, on fastai and in plain PyTorch, in turn.')
    p.add_argument('--only', type=lambda s: s.split(','), default=rows.ORDER, metavar='ROW,…', help='rows to run: ' + ', '.join(rows.ORDER))
    p.add_argument('--runs', type=int, help='how often each contender does the work (default: 5, and 3 for the long rows)')
    p.add_argument('--contenders', type=lambda s: s.split(','), metavar='NAME,…', help='only these, for example ours,plain')
    p.add_argument('--threads', type=int, default=2, help="size of torch's thread pool, for everyone (default: 2)")
    p.add_argument('--quick', action='store_true', help='a fraction of the work, once: does everything run? Nothing is written')
    p.add_argument('--busy', action='store_true', help='for a machine that does other work too: one thread, and processor time instead of seconds. Nothing is written')
    p.add_argument('--profile', type=int, default=0, metavar='LINES', help='run once under cProfile and print that many lines. Nothing is written')
    args = p.parse_args(argv)
    unknown = [r for r in args.only if r not in rows.ORDER]
    if unknown: p.error(f"there is no row {', '.join(unknown)}; the rows are {', '.join(rows.ORDER)}")
    if args.runs is not None and args.runs < 1: p.error('--runs must be at least 1')
    if args.quick or args.profile: args.runs = 1
    return args


def main(argv=None):
    args = arguments(argv)
    env.set_up()
    facts = env.machine()
    print(tables.plain_list(facts), flush=True)
    sections, failures = {}, []
    with tempfile.TemporaryDirectory(prefix='fastbook-bench-') as tmp:
        for name in args.only:
            row = rows.load(name)
            print(f'\n{row.TITLE}', flush=True)
            load, data = other_load(), env.dataset(row.DATA) if hasattr(row, 'DATA') else None
            results, failed = run_row(name, row, args, data, Path(tmp))
            failures += failed
            sections[row.TITLE] = section(row, results, failed, data, load, args)
            print('\n' + sections[row.TITLE].split('\n', 2)[2], flush=True)
    if not (args.quick or args.busy or args.profile or args.contenders):
        tables.write_report(RESULTS, head(facts), sections, [rows.load(n).TITLE for n in rows.ORDER])
        print(f'written: {RESULTS.relative_to(env.ROOT)}')
    return 1 if failures else 0


def run_row(name, row, args, data, tmp):
    "Every contender in turn, `runs` times: their numbers by contender, and the sentences about those that failed."
    wanted = [c for c in row.NAMES if not args.contenders or c in args.contenders]
    results, failed = {c: [] for c in wanted}, {}
    if getattr(row, 'WARM_UP', False):
        for c in wanted: attempt(name, c, args, data, tmp, 'warm-up', failed)
    runs = args.runs or row.RUNS
    for run in range(runs):
        for c in wanted:
            if c in failed: continue
            begin = time.perf_counter()
            numbers = attempt(name, c, args, data, tmp, run, failed)
            if numbers is None: continue
            results[c].append(numbers)
            first = row.MEASURES[0]
            print(f'  {run + 1}/{runs}  {c:<12} {tables.number(numbers[first.key], first.unit):>16}   (process: {time.perf_counter() - begin:.0f} s)', flush=True)
    return results, [f'{row.NAMES[c]} did not finish: {why}' for c, why in failed.items()]


def attempt(name, contender, args, data, tmp, run, failed):
    "One run, or `None` and a note in `failed`."
    try: return run_worker(name, contender, args, data, tmp, run)
    except Failed as e:
        lines = [l for l in str(e).strip().splitlines() if l.strip()]
        failed[contender] = without_paths(lines[-1] if lines else 'no message')[:300]
        print(f'  {contender} did not finish:\n{without_paths(os.linesep.join(lines[-25:]))}', flush=True)


def run_worker(name, contender, args, data, tmp, run):
    """The numbers that `contender` reports for one run of the row `name`.
    Each run begins with an empty cache of ours; a contender called `…-cached` finds the one that the contender before it filled."""
    venv = env.BENCH if contender == 'fastai' else env.OURS
    home, answer = tmp/f'{name}-{run}', tmp/'answer.json'
    answer.unlink(missing_ok=True)
    seed = run if isinstance(run, int) else 0
    job = {'run': seed, 'threads': args.threads, 'quick': args.quick, 'busy': args.busy, 'profile': args.profile, 'data': str(data.path) if data else ''}
    command = [env.python(venv), '-W', 'ignore', str(HERE/'worker.py'), name, contender, str(answer), json.dumps(job)]
    variables = {**os.environ, 'FASTBOOK_HOME': str(home), 'FASTAI_HOME': str(home/'fastai'), 'MPLBACKEND': 'agg', 'OMP_NUM_THREADS': str(1 if args.busy else args.threads),
                 'PYTHONPATH': str(env.ROOT), 'COLUMNS': '120'}
    code, output = in_terminal(command, variables, cwd=tmp)
    if args.profile: print(output)
    if code or not answer.exists(): raise Failed(output)
    return json.loads(answer.read_text())


def in_terminal(command, variables, cwd):
    "Exit code and output of a command that believes it writes to a terminal, so that progress bars are drawn and cost what they cost a reader."
    import pty
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=variables, cwd=cwd)
    os.close(theirs)
    output = b''
    while True:
        try: piece = os.read(ours, 2**16)
        except OSError: break  # Linux says so when the other end is closed
        if not piece: break
        output = (output + piece)[-200_000:]
    os.close(ours)
    return process.wait(), output.decode(errors='replace').replace('\r\n', '\n')


def without_paths(text):
    "The text without this machine's folders."
    for folder, name in ((env.ROOT, ''), (Path(tempfile.gettempdir()), '<temporary>'), (Path.home(), '~')): text = text.replace(f'{folder}/', name and f'{name}/')
    return text


def other_load():
    "How many processes wanted the processor lately, before this row adds its own."
    try: return os.getloadavg()[0]
    except (OSError, AttributeError): return 0.


def head(facts):
    return '\n\n'.join(['# Results', 'Written by `make bench`; what the rows mean and how they are measured is told in [README.md](README.md).', tables.markdown(['', ''], [list(f) for f in facts])])


def section(row, results, failed, data, load, args):
    "The row as Markdown: what was measured, on what, when, by which command; the numbers; the floors."
    runs = max((len(r) for r in results.values()), default=0)
    command = shlex.join(['python', 'benchmarks/run.py', *sys.argv[1:]])
    how = '1 thread, processor time' if args.busy else f'{args.threads} threads'
    when = f"{datetime.date.today():%Y-%m-%d}; {runs} run{'s'*(runs != 1)} of each in turn, {how}; `{command}`."
    on = f'Data: {data.description}.' if data else ''
    noisy = f'**The machine was busy with other work (load {load:.1f} on {env.cores()} cores): these numbers are noise.**' if load > env.cores()/2 and not args.busy else ''
    extra = row.report(results, row.NAMES) if hasattr(row, 'report') and any(results.values()) else ''
    return tables.section(row.TITLE, row.NOTE, f'{when} {on}'.strip(), noisy, *(f'**{f}**' for f in failed),
                          tables.measures_table(row.MEASURES, results, row.NAMES, row.BASE), extra, tables.floors_table(row.FLOORS, row.MEASURES, results, row.NAMES))


if __name__ == '__main__': sys.exit(main())

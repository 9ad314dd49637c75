"""Everything that must hold, in four stages, ending in one plain count: what `make test` runs.

1. export:    `fastbook_impl` is what a fresh `nbdev_export` of the notebooks makes, no line more or less
2. clean:     `nbdev_clean` would change no notebook
3. notebooks: `nbdev_test` runs every notebook from top to bottom, on the built-in data
4. pytest:    the tests in `tests/`

The tree is only read: exporting and cleaning happen in a copy. So do the caches: data goes to a temporary `FASTBOOK_HOME`.
"""
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path

from setup_env import lasting

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Count:
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, o): return Count(self.passed + o.passed, self.failed + o.failed, self.skipped + o.skipped)
    def __str__(self): return f'{self.passed} passed, {self.failed} failed' + (f', {self.skipped} skipped' if self.skipped else '')


def say(*text): print(*text, flush=True)


# --- stages 1 and 2: a copy of the notebooks, exported and cleaned, beside what is in the tree ---------------------------

def notebooks(root):
    "The notebooks that nbdev sees, relative to `root`."
    found = (o.relative_to(root) for o in (root/'nbs').rglob('*.ipynb'))
    return sorted(o for o in found if not any(part[0] in '._' for part in o.parts))


def modules(root):
    return {o.relative_to(root) for o in (root/'fastbook_impl').rglob('*.py')}


def nbdev(command, cwd, env=None):
    "Run one of nbdev's commands in `cwd`; what it said comes back with its exit code."
    module = {'nbdev_export': 'nbdev.doclinks', 'nbdev_clean': 'nbdev.clean'}[command]
    env = {k: v for k, v in (env or os.environ).items() if k != 'IN_TEST'}
    cmd = [sys.executable, '-c', f'from {module} import {command}; {command}()']
    return subprocess.run(cmd, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def copy_notebooks(root, dest):
    "A project in `dest` with nothing in it but the settings and the notebooks of `root`."
    shutil.copy(root/'settings.ini', dest)
    for nb in notebooks(root):
        (dest/nb).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root/nb, dest/nb)


def check_export(root, copy):
    "Compare `fastbook_impl` with a fresh export, file by file."
    res = nbdev('nbdev_export', copy)
    if res.returncode:
        say(res.stdout)
        return Count(failed=1)
    made, found, count = modules(copy), modules(root), Count()
    for o in sorted(made | found):
        if o not in found: problem = 'is missing'
        elif o not in made: problem = 'comes from no notebook and may be deleted'
        elif (root/o).read_text(encoding='utf-8') != (copy/o).read_text(encoding='utf-8'): problem = 'is not what the notebooks say'
        else: count.passed += 1; continue
        count.failed += 1
        say(f'  {o} {problem}')
    if count.failed: say('  `make export` writes the package anew from the notebooks.')
    return count


def check_clean(root, copy):
    "Compare each notebook with what `nbdev_clean` makes of it."
    res = nbdev('nbdev_clean', copy)
    if res.returncode:
        say(res.stdout)
        return Count(failed=1)
    dirty = [o for o in notebooks(root) if (root/o).read_bytes() != (copy/o).read_bytes()]
    for o in dirty: say(f'  {o} is not clean')
    if dirty: say('  `make export` cleans the notebooks, too.')
    return Count(len(notebooks(root)) - len(dirty), len(dirty))


# --- stage 3: nbdev_test, a process of its own for each notebook, as a kernel is ---------------------------------------------

def share_cores():
    "Notebooks run side by side, each with its share of the cores: two on a small machine, up to four."
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    workers = min(4, max(1, cores))
    return workers, max(1, cores//workers)


def test_in_child(name, root, env, log):
    "Run `nbdev_test` over one notebook, all that is said going to the file `log`; the exit code tells how it went."
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for fd in 1, 2: os.dup2(out, fd)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(root)
    import torch
    from nbdev.test import nbdev_test
    torch.set_num_threads(int(env['OMP_NUM_THREADS']))
    nbdev_test(path=str(name), n_workers=0)


def start_notebook(ctx, name, root, env, log):
    "A fresh process that runs one notebook."
    proc = ctx.Process(target=test_in_child, args=(name, str(root), env, str(log)), name=str(name))
    proc.log, proc.began = log, time.time()
    proc.start()
    return proc


def finish_notebook(proc):
    "Wait for the process of a notebook and say how it went; returns whether it passed."
    proc.join()
    if proc.exitcode: say(proc.log.read_text(errors='replace') if proc.log.exists() else '', f'  {proc.name} failed (exit code {proc.exitcode})')
    say(f'  {time.time()-proc.began:5.1f} s  {proc.name}')
    return proc.exitcode == 0


def run_side_by_side(starts, workers):
    """Start processes by calling `starts`, no more than `workers` at a time, and yield each as it ends.

    One thread starts and asks them all: `Process.start` asks after every other process too, and an exit code that
    two threads ask for at once reaches one of them; the other is told 255.
    """
    running = {}
    try:
        for start in starts:
            proc = start()
            running[proc.sentinel] = proc
            while len(running) == workers: yield from [running.pop(o) for o in wait(running)]
        while running: yield from [running.pop(o) for o in wait(running)]
    finally:
        for proc in running.values(): proc.terminate()


def run_notebooks(root, env):
    "Run every notebook, the largest files first, so that none is left alone at the end."
    workers, threads = share_cores()
    env = dict(env, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    ctx = multiprocessing.get_context('forkserver' if os.name == 'posix' else 'spawn')
    if os.name == 'posix': ctx.set_forkserver_preload(['torch', 'torchvision', 'pandas', 'sklearn.metrics', 'nbdev.test'])  # loaded once, inherited by each
    names = sorted(notebooks(root), key=lambda o: -(root/o).stat().st_size)
    with tempfile.TemporaryDirectory() as tmp:
        starts = (partial(start_notebook, ctx, o, root, env, Path(tmp)/str(o).replace(os.sep, '-')) for o in names)
        passed = [finish_notebook(o) for o in run_side_by_side(starts, workers)]
    return Count(sum(passed), len(passed) - sum(passed))


# --- stage 4: pytest -----------------------------------------------------------------------------------------------------

LONGEST = 'lab_browser', 'multicat', 'book_ch05', 'app_browser', 'cleaner_browser', 'export' # files that take a minute or more begin, so that none is left alone at the end


def run_pytest(root, env, report):
    workers, threads = share_cores()
    env = dict(env, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    side_by_side = ['-n', str(workers), '--dist', 'loadfile', '--no-loadscope-reorder'] # the tests of a file share what they have set up
    longest = (f'tests/test_{o}.py' for o in LONGEST)
    files = [*(o for o in longest if (root/o).exists()), 'tests']
    code = subprocess.run([sys.executable, '-m', 'pytest', *side_by_side, '--junitxml', str(report), *files], cwd=root, env=env).returncode
    if code < 0 or code > 5: say(f'  pytest was stopped in the middle (exit code {code})')
    return read_junit(report)


def read_junit(report):
    "The counts in a report of pytest; a run that left none, or in which nothing ran, is a failure."
    try: suite = next(ET.parse(report).iter('testsuite'))
    except (OSError, ET.ParseError, StopIteration):
        say('  pytest left no report')
        return Count(failed=1)
    total, skipped = int(suite.get('tests')), int(suite.get('skipped'))
    failed = int(suite.get('failures')) + int(suite.get('errors'))
    if not total:
        say('  pytest found no test')
        return Count(failed=1)
    return Count(total - failed - skipped, failed, skipped)


def hear_interrupts():
    "What a script starts in the background ignores Ctrl-C, and so would every process below; some of what is tested is how they take it."
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN: signal.signal(signal.SIGINT, signal.default_int_handler)


def main(root=ROOT):
    hear_interrupts()
    with tempfile.TemporaryDirectory(prefix='fastbook-verify-') as tmp:
        tmp = Path(tmp)
        copy, home = tmp/'copy', tmp/'home'
        copy.mkdir()
        copy_notebooks(root, copy)
        env = dict(lasting(), FASTBOOK_DATA='sample', FASTBOOK_HOME=str(home), FASTBOOK_TEST_HOME=str(home))
        stages = {'export': lambda: check_export(root, copy), 'clean': lambda: check_clean(root, copy),
                  'notebooks': lambda: run_notebooks(root, env), 'pytest': lambda: run_pytest(root, env, tmp/'pytest.xml')}
        total, table = Count(), []
        for name, stage in stages.items():
            say(f'{name}:')
            start = time.time()
            count = stage()
            total += count
            table.append(f'  {name:<10} {time.time()-start:6.1f} s   {count}')
            if name != 'pytest': say(f'  {count}')
    say('\n' + '\n'.join(table) + '\n')
    say(total)
    return 1 if total.failed else 0


if __name__ == '__main__':
    try: sys.exit(main())
    except KeyboardInterrupt: sys.exit(130)

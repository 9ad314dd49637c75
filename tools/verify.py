"""Everything that must hold, in stages, ending in one plain count: what `make test` runs.

1. export:    `fastbook_impl` is what a fresh `nbdev_export` of the notebooks writes
2. clean:     `nbdev_clean` would change no notebook
3. lint:      `ruff check`, with the rules in pyproject.toml
4. types:     pyright (basic) finds no error in the package
5. notebooks: `nbdev_test` runs every notebook from top to bottom, on the built-in data
6. pytest:    the tests in `tests/`

    python tools/verify.py           # make test: all stages; slow cells and tests with the marker `slow` are left out
    python tools/verify.py --quick   # make check: no notebooks, and no tests with the markers `slow` or `medium`
    python tools/verify.py --long    # make test-long: the slow cells and tests too

The tree is only read: exporting and cleaning happen in a copy. So do the caches: data goes to a temporary `FASTBOOK_HOME`.
"""
import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
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


# --- stages 3 and 4: style and types -------------------------------------------------------------------------------------

def check_lint(root):
    "Run ruff over the code; each file with a finding counts as failed."
    return run_checker(root, r'^(.+?):\d+:\d+: ', 'ruff', 'check', '--no-cache', '--output-format', 'concise')


def check_types(root):
    "Run pyright over the package; each file with an error counts as failed."
    return run_checker(root, r'^ +(.+?\.py):\d+:\d+ - error', 'basedpyright', '--level', 'error')


def run_checker(root, finding, module, *args):
    "Run the checker `module`, print what it found, and count the files that the pattern `finding` picks out of its output."
    res = subprocess.run([sys.executable, '-m', module, *args], cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if res.returncode == 0: return Count(passed=1)
    say(res.stdout.rstrip())
    found = {m[1] for m in re.finditer(finding, res.stdout, re.M)}
    return Count(failed=max(1, len(found)))


# --- stage 5: nbdev_test -------------------------------------------------------------------------------------------------

def share_cores():
    "Processes to run side by side, and the threads of each: two processes on a small machine, up to four."
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    workers = min(4, max(1, cores))
    return workers, max(1, cores//workers)


def for_side_by_side(env):
    "The environment for processes that share the cores, and the number of them."
    workers, threads = share_cores()
    return dict(env, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads)), workers


def run_notebooks(root, env, flags=''):
    "Run `nbdev_test` and print how long each notebook took; `flags` are nbdev's, `slow` includes the slow cells."
    env, workers = for_side_by_side(env)
    call = f'nbdev_test(do_print=True, n_workers={workers}, flags={flags!r})'
    cmd = [sys.executable, '-c', f'from nbdev.test import nbdev_test; {call}']
    began, seconds, failed = {}, {}, []
    with subprocess.Popen(cmd, cwd=root, env=dict(env, PYTHONUNBUFFERED='1'), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors='replace') as proc:
        for line in proc.stdout: follow_nbdev(line.rstrip('\n'), root, began, seconds, failed)
    expected = [str(o) for o in notebooks(root)]
    cut_short = [o for o in expected if o not in seconds]
    for o in cut_short: say(f'  {o} was not finished')
    if proc.returncode and not failed and not cut_short: failed.append('nbdev_test itself')
    say(slowest('notebooks', seconds.items()))
    return Count(len(seconds) - len(failed), len(failed) + len(cut_short))


def follow_nbdev(line, root, began, seconds, failed):
    "Note what a line of `nbdev_test --do_print` says of a notebook; a line of any other kind is printed."
    event = re.match(r'(Starting|- Completed) (.+\.ipynb)$', line)
    name = os.path.relpath(event[2], root).replace(os.sep, '/') if event else None
    if event and event[1] == 'Starting': began[name] = time.time()
    elif event:
        seconds[name] = time.time() - began[name]
        say(f'  {seconds[name]:5.1f} s  {name}')
    elif re.match(r'\t\S+\.ipynb$', line):
        failed.append(line.strip())
        say(line)
    elif line not in ('Success.', ''): say(line)


def slowest(what, seconds, n=10):
    "A table of the `n` entries of `seconds`, pairs of a name and seconds, that took longest."
    rows = sorted(seconds, key=lambda o: -o[1])[:n]
    return '\n'.join([f'  slowest {what}:', *(f'  {s:7.1f} s  {name}' for name, s in rows)])


# --- stage 6: pytest -----------------------------------------------------------------------------------------------------

SKIPPED_MARKS = {'quick': 'not slow and not medium', 'usual': 'not slow', 'long': ''}


def run_pytest(root, env, report, mode='usual'):
    """Run pytest, the work shared out by pytest-xdist: a process that is done takes tests from one that is not.

    There is one process more than for notebooks, because tests with servers and browsers wait for a third of their time.
    """
    env, workers = for_side_by_side(env)
    cmd = [sys.executable, '-m', 'pytest', '-n', str(workers + 1), '--dist', 'worksteal', '--junitxml', str(report), '-m', SKIPPED_MARKS[mode]]
    code = subprocess.run(cmd, cwd=root, env=env).returncode
    if code < 0 or code > 5: say(f'  pytest was stopped in the middle (exit code {code})')
    say(slowest('tests', test_seconds(report)))
    return read_junit(report)


def test_seconds(report):
    "The tests in a report of pytest, each with its seconds, set-up included."
    try: cases = list(ET.parse(report).iter('testcase'))
    except (OSError, ET.ParseError): return []
    return [(f"{o.get('classname')}::{o.get('name')}", float(o.get('time'))) for o in cases]


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


def stages(mode, root, copy, tmp, env):
    "The stages of a run, by name, in order."
    every = {'export': lambda: check_export(root, copy), 'clean': lambda: check_clean(root, copy), 'lint': lambda: check_lint(root),
             'types': lambda: check_types(root),
             'notebooks': lambda: run_notebooks(root, env, 'slow' if mode == 'long' else ''),
             'pytest': lambda: run_pytest(root, env, tmp/'pytest.xml', mode)}
    if mode == 'quick': del every['notebooks']
    return every


def main(mode='usual', root=ROOT):
    hear_interrupts()
    with tempfile.TemporaryDirectory(prefix='fastbook-verify-') as tmp:
        tmp = Path(tmp)
        copy, home = tmp/'copy', tmp/'home'
        copy.mkdir()
        copy_notebooks(root, copy)
        env = dict(lasting(), FASTBOOK_DATA='sample', FASTBOOK_HOME=str(home), FASTBOOK_TEST_HOME=str(home))
        total, table = Count(), []
        for name, stage in stages(mode, root, copy, tmp, env).items():
            say(f'{name}:')
            start = time.time()
            count = stage()
            total += count
            table.append(f'  {name:<10} {time.time()-start:6.1f} s   {count}')
            if name != 'pytest': say(f'  {count}')
    say('\n' + '\n'.join(table) + '\n')
    say(total)
    return 1 if total.failed else 0


def arguments(args=None):
    parser = argparse.ArgumentParser(description='Run the checks and tests of this project.')
    parser.add_argument('--quick', dest='mode', action='store_const', const='quick', help='no notebooks, and only the fast tests')
    parser.add_argument('--long', dest='mode', action='store_const', const='long', help='the slow cells and tests too')
    return parser.parse_args(args).mode or 'usual'


if __name__ == '__main__':
    try: sys.exit(main(arguments()))
    except KeyboardInterrupt: sys.exit(130)

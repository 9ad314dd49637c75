"""Everything that must hold, in four stages, ending in one plain count: what `make test` runs.

1. export:    `fastbook_impl` is what a fresh `nbdev_export` of the notebooks makes, no line more or less
2. clean:     `nbdev_clean` would change no notebook
3. notebooks: `nbdev_test` runs every notebook from top to bottom, on the built-in data
4. pytest:    the tests in `tests/`

The tree is only read: exporting and cleaning happen in a copy. So do the caches: data goes to a temporary `FASTBOOK_HOME`.
"""
import os
import re
import shutil
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
        elif o not in made: problem = 'comes from no notebook'
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


# --- stage 3: nbdev_test -------------------------------------------------------------------------------------------------

def share_cores():
    "Notebooks run side by side, each with its share of the cores: two on a small machine, up to four."
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    workers = min(4, max(1, cores))
    return workers, max(1, cores//workers)


def run_notebooks(root, env):
    "Run `nbdev_test`, with a line per notebook as it ends."
    total = len(notebooks(root))
    workers, threads = share_cores()
    if total < 2: workers = 0
    env = dict(env, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    cmd = [sys.executable, '-u', '-c', f'from nbdev.test import nbdev_test; nbdev_test(n_workers={workers}, do_print=True)']
    started, failed = {}, 0
    with subprocess.Popen(cmd, cwd=root, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as proc:
        for line in proc.stdout:
            if line.startswith('Starting '): started[line[9:].strip()] = time.time()
            elif line.startswith('- Completed '):
                name = line[12:].strip()
                say(f'  {time.time()-started.get(name, time.time()):5.1f} s  {os.path.relpath(name, root)}')
            elif line.startswith('nbdev Tests Failed'): failed = sum(o.startswith('\t') for o in list(proc.stdout))
            elif line.strip() not in ('', 'Success.'): say(line.rstrip())
    if proc.returncode and not failed:
        say(f'  nbdev_test stopped with exit code {proc.returncode}')
        return Count(failed=1)
    return Count(total - failed, failed)


# --- stage 4: pytest -----------------------------------------------------------------------------------------------------

def run_pytest(root, env, report):
    subprocess.run([sys.executable, '-m', 'pytest', '--junitxml', str(report)], cwd=root, env=env)
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


def main(root=ROOT):
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

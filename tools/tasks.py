"""The commands of this project. `make NAME` calls them; without make, on Windows for instance, `python tools/tasks.py NAME` does the same.

Every command sets up what it needs first (once; see tools/setup_env.py) and runs from a fresh clone.
"""
import os
import subprocess
import sys

from setup_env import DOCS, LATEST, ROOT, VENV, say, venv_python
from setup_env import main as set_up

EXPORT = 'from nbdev.doclinks import nbdev_export; nbdev_export()'
CLEAN = 'from nbdev.clean import nbdev_clean; nbdev_clean()'


def run(*args, venv=VENV):
    "Run Python in `venv` from the root of the repository; returns its exit code."
    try: return subprocess.run([str(venv_python(venv)), *args], cwd=str(ROOT)).returncode
    except KeyboardInterrupt: return 130


def tool(name, *fixed, tests=False):
    "A command that runs tools/<name>.py with `fixed` and the words of the command line."
    def command(args): return set_up(['--tests'] if tests else []) or run(str(ROOT/'tools'/f'{name}.py'), *fixed, *args)
    return command


def lab(args):
    "Set up, check the installation once, and open JupyterLab."
    code = set_up([])
    if code: return code
    run(str(ROOT/'tools'/'selfcheck.py'), '--once')  # what fails there is mended in the lab
    return run_until_interrupted(str(ROOT/'tools'/'lab.py'), *args)


def run_until_interrupted(*args):
    "Run a server. Where the system can, it takes the place of this process, so that Ctrl-C reaches it alone."
    cmd = [str(venv_python(VENV)), *args]
    if os.name == 'nt': return run(*args)
    sys.stdout.flush()
    os.chdir(str(ROOT))
    os.execv(cmd[0], cmd)


def app(args): return set_up([]) or run_until_interrupted(str(ROOT/'tools'/'lab.py'), '--app', *args)


def export(args): return set_up([]) or run('-c', EXPORT) or run('-c', CLEAN)


def bench(args): return set_up([]) or run(str(ROOT/'benchmarks'/'run.py'), *args)


def docs(args): return set_up(['--docs']) or run(str(ROOT/'tools'/'site_build.py'), *args, venv=DOCS)


def docs_serve(args): return set_up(['--docs']) or run(str(ROOT/'tools'/'site_build.py'), '--serve', *args, venv=DOCS)


def test_latest(args):
    "Run the tests with the newest releases that settings.ini allows."
    return set_up(['--tests']) or set_up(['--latest']) or run(str(ROOT/'tools'/'verify.py'), *args, venv=LATEST)


TASKS = {
    'lab': (lab, 'open the course in JupyterLab, in a folder of your own: work/'),
    'update': (tool('work', 'update'), 'bring new versions of the course into your folder work/, beside your answers'),
    'test': (tool('verify', tests=True), 'run every test except the slow ones and print the totals (at most 15 minutes)'),
    'check': (tool('verify', '--quick', tests=True), 'check export, notebooks and style, and run the fast tests (about 3 minutes)'),
    'test-long': (tool('verify', '--long', tests=True), 'run every test, the slow ones and slow cells included'),
    'test-latest': (test_latest, 'run the tests with the newest releases instead of the locked ones'),
    'course': (tool('course'), 'run every chapter and print a table of what was trained, and how well'),
    'app': (app, 'open the application of chapter 2: upload an image, see the breeds'),
    'bench': (bench, 'compare this package with fastai and plain PyTorch'),
    'docs': (docs, 'build the documentation site in _docs/html from the saved outputs'),
    'docs-serve': (docs_serve, 'show the site that was built'),
    'export': (export, 'write the package from the notebooks, and clean them'),
    'exercises': (tool('exercises'), 'write the exercise notebooks, nbs/exercises/'),
    'readme': (tool('readme'), 'render README.md from nbs/index.ipynb'),
    'selfcheck': (tool('selfcheck'), 'train the first classifier on the built-in digits'),
    'lock': (tool('lock'), 'lock the versions that settings.ini asks for (--upgrade moves to the newest)'),
    'setup': (lambda args: set_up(['--tests']), 'only set up'),
}


def help_text(): return '\n'.join(f'{name:<13}{about}' for name, (_, about) in TASKS.items())


def main(args):
    if not args or args[0] in ('help', '-h', '--help'):
        say(help_text())
        return 0
    name, *rest = args
    if name not in TASKS:
        say(f'There is no task {name!r}; the tasks are: {", ".join(TASKS)}.', file=sys.stderr)
        return 2
    return TASKS[name][0](rest)


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))

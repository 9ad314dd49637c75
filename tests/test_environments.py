"""`pip install .` with the runtime requirements only, beside fastcore 2: everything imports, and a net learns.

`.venv-fastcore2` (made by the set-up of `make test`, see tools/fastcore2.py) holds the runtime requirements and nothing of the tools.
The package is built and installed here from a copy, so that what is tested is what the notebooks say now.
"""
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

import fastcore2
import selfcheck

PYTHON = fastcore2.VENV2/'bin'/'python'


@pytest.fixture(scope='module')
def installed(root, tmp_path_factory):
    "The package as `pip install .` would install it, in a folder of its own."
    if not PYTHON.exists(): pytest.fail('there is no .venv-fastcore2 yet: make setup')
    copy, site = tmp_path_factory.mktemp('clone'), tmp_path_factory.mktemp('site')
    for name in 'settings.ini', 'setup.py', 'pyproject.toml', 'README.md', 'LICENSE':
        if (root/name).exists(): shutil.copy(root/name, copy)
    shutil.copytree(root/'fastbook_impl', copy/'fastbook_impl', ignore=shutil.ignore_patterns('__pycache__'))
    cmd = [sys.executable, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--no-deps', '--no-build-isolation', '--no-index', '--target', site, copy]
    res = subprocess.run(cmd, capture_output=True, text=True)
    assert res.returncode == 0, res.stdout + res.stderr
    return site


@pytest.fixture
def run(installed, tmp_path):
    "Run Python there, away from the repository; what it printed comes back."
    def run(*args):
        env = dict(os.environ, PYTHONPATH=str(installed), OMP_NUM_THREADS='1')
        res = subprocess.run([PYTHON, *args], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert res.returncode == 0, res.stdout + res.stderr
        return res.stdout
    return run


def modules(folder):
    return sorted(str(o.relative_to(folder)) for o in (folder/'fastbook_impl').rglob('*.py'))


def test_all_modules_are_installed_and_nothing_else(root, installed):
    assert modules(installed) == modules(root)
    assert {o.name for o in installed.iterdir() if not o.name.endswith('.dist-info')} - {'bin', '__pycache__'} == {'fastbook_impl'}


def test_the_environment_is_what_it_says(run):
    "fastcore 2, every runtime requirement met, and none of the tools."
    code = '''
import importlib.metadata as md, importlib.util as iu, json
from packaging.requirements import Requirement
reqs = [r for r in map(Requirement, md.requires('fastbook_impl')) if r.marker is None or r.marker.evaluate({'extra': ''})]
unmet = [str(r) for r in reqs if not r.specifier.contains(md.version(r.name), prereleases=True)]
tools = [o for o in ('nbdev', 'execnb', 'jupyterlab', 'nbclient', 'pytest', 'playwright', 'fastai') if iu.find_spec(o)]
print(json.dumps(dict(fastcore=md.version('fastcore'), unmet=unmet, tools=tools, number=len(reqs))))'''
    found = json.loads(run('-c', code))
    assert int(found['fastcore'].split('.')[0]) >= 2
    assert found['unmet'] == [] and found['tools'] == [] and found['number'] > 5


def test_every_module_imports_with_fastcore_2(run, installed):
    names = [re.sub(r'(/__init__)?\.py$', '', o).replace('/', '.') for o in modules(installed)]
    said = run('-c', f'import importlib\nfor o in {names!r}: importlib.import_module(o)\nimport fastbook_impl; print(fastbook_impl.__file__)')
    assert said.strip() == str(installed/'fastbook_impl'/'__init__.py')


def test_a_net_learns_with_fastcore_2(run):
    said = run(selfcheck.__file__, '--dry')
    accuracy = float(re.search(r'accuracy ([\d.]+)', said)[1])
    assert accuracy >= selfcheck.FLOOR


def test_extras_of_a_requirement_are_followed():
    "The closure that is linked: what is required, what that requires, markers and extras minded; not the tools."
    from packaging.requirements import Requirement
    found = fastcore2.closure([Requirement('matplotlib'), Requirement('fastcore')])
    assert {'matplotlib', 'numpy', 'python-dateutil', 'fastcore'} <= set(found) and not {'nbdev', 'jupyterlab', 'pytest'} & set(found)

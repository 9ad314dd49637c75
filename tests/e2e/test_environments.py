"""`pip install .` with the runtime requirements only, beside fastcore 2: everything imports, and a net learns.

`.venv-fastcore2` (made by the set-up of `make test` from requirements/fastcore2.txt) holds the runtime requirements, and no extra or tool.
The package is built and installed here from a copy, so that what is tested is what the notebooks say now.
The extras are missing there, which shows what the package says without them.
"""
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

import selfcheck
import setup_env

pytestmark = pytest.mark.medium
PYTHON = setup_env.venv_python(setup_env.VENV2)


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
    "All but the one that is nothing but widgets, which needs the extra of that name."
    names = [re.sub(r'(/__init__)?\.py$', '', o).replace('/', '.') for o in modules(installed)]
    names.remove('fastbook_impl.vision.widgets')
    said = run('-c', f'import importlib\nfor o in {names!r}: importlib.import_module(o)\nimport fastbook_impl; print(fastbook_impl.__file__)')
    assert said.strip() == str(installed/'fastbook_impl'/'__init__.py')


@pytest.mark.parametrize('code, extra', [
    ('from fastbook_impl.text.all import WordTokenizer; WordTokenizer()', 'tokenizers is not installed: run pip install .fastbook_impl.text..'),
    ('from fastbook_impl.text.all import SubwordTokenizer; SubwordTokenizer().setup(["a text"])', 'tokenizers is not installed: run pip install .fastbook_impl.text..'),
    ('from fastbook_impl.fastbook import gv; gv("a->b")', 'pydot is not installed: run pip install .fastbook_impl.graph..'),
    ('from fastbook_impl.fastbook import widgets; widgets.Button', 'ipywidgets is not installed: run pip install .fastbook_impl.widgets..'),
    ('import fastbook_impl.vision.widgets', 'ipywidgets is not installed: run pip install .fastbook_impl.widgets..'),
    ('from fastbook_impl.vision.all import create_body; create_body("tf_efficientnet_lite0")', '.*timm is not installed: run pip install .fastbook_impl.timm..(; .*)?'),
])
def test_a_missing_extra_is_named(run, code, extra):
    said = run('-c', f'try: exec({code!r})\nexcept ImportError as e: print(e)').strip()
    assert re.fullmatch(extra, said)


def test_every_extra_that_is_named_exists_and_installs_its_package():
    from packaging.requirements import Requirement

    from fastbook_impl.imports import EXTRAS
    cfg = setup_env.read_settings()
    for package, extra in EXTRAS.items(): assert package in [Requirement(o).name for o in setup_env.extras(cfg, extra)]


def test_every_import_is_declared(root):
    "A package that the library imports is a requirement, an extra, or brought by whoever runs it: IPython by the notebook, the others are asked for by name."
    import ast
    from importlib import metadata

    from packaging.requirements import Requirement
    cfg, brought = setup_env.read_settings(), {'IPython', 'onnx', 'onnxscript', 'onnxruntime'}
    declared = {Requirement(o).name.lower() for o in cfg['requirements'].split() + setup_env.extras(cfg, 'all')}
    owners, unknown = metadata.packages_distributions(), {}
    for path in (root/'fastbook_impl').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            found = [o.name for o in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for top in {o.split('.')[0] for o in found} - set(sys.stdlib_module_names) - brought - {'fastbook_impl'}:
                if not {o.lower() for o in owners.get(top, [top])} & declared: unknown[top] = path.name
    assert unknown == {}


def test_a_net_learns_with_fastcore_2(run):
    said = run(selfcheck.__file__, '--dry')
    accuracy = float(re.search(r'accuracy ([\d.]+)', said)[1])
    assert accuracy >= selfcheck.FLOOR

"Imports only go down: each module imports from its own layer or from a lower one, and no two modules import each other."
import ast
from pathlib import Path

import pytest

# From the bottom to the top. A name stands for a module or for everything in a package; the longest that fits counts.
LAYERS = ['torch_core imports', 'losses samples', 'data', 'metrics layers optimizer', 'learner callback checkpoint interpret',
          'inference export', 'vision text tabular collab basics', 'course fastbook', 'exercises', 'cli']
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names.split()}
NO_TRAINING = 'learner', 'callback', 'optimizer', 'checkpoint', 'interpret'


def modules(root: Path) -> dict:
    "Module name, without the package, to its file."
    package = root/'fastbook_impl'
    files = (o for o in package.rglob('*.py') if o.name != '_modidx.py')
    return {'.'.join(o.relative_to(package).with_suffix('').parts).removesuffix('.__init__'): o for o in files}


def imported(name: str, file: Path, known) -> set:
    "The modules of ours that `file` imports, also within functions."
    package = ['fastbook_impl', *(name.split('.') if file.name == '__init__.py' else name.split('.')[:-1])]
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import): names = [o.name for o in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            home = '.'.join([*base, *([node.module] if node.module else [])])
            names = [home, *(f'{home}.{o.name}' for o in node.names)]
        else: continue
        ours = (o.removeprefix('fastbook_impl.') for o in names if o.startswith('fastbook_impl.'))
        found |= {o for o in ours if o in known}
    return found - {name}


@pytest.fixture(scope='module')
def graph(root):
    files = modules(root)
    return {name: imported(name, file, files) for name, file in files.items() if name not in ('__init__', '')}


def level(name: str) -> int: return LEVEL[name.partition('.')[0]]


def test_every_module_has_a_layer(graph):
    assert not [o for o in graph if o.partition('.')[0] not in LEVEL]


def test_imports_only_go_down(graph):
    up = [f'{a} imports {b}' for a, names in graph.items() for b in names if level(b) > level(a)]
    assert not up, '\n'.join(up)


def test_no_modules_import_each_other(graph):
    def reachable(start):
        seen, todo = set(), list(graph[start])
        while todo:
            o = todo.pop()
            if o not in seen: seen.add(o); todo += graph.get(o, ())
        return seen
    circles = sorted(o for o in graph if o in reachable(o))
    assert not circles, circles


def test_inference_imports_nothing_that_trains(graph):
    bad = [f'{a} imports {b}' for a, names in graph.items() if a.startswith('inference') for b in names if b.partition('.')[0] in NO_TRAINING]
    assert not bad, bad

"Notebooks run one after the other in one process, as `nbdev_test` does it: none changes anything for those that come after."
import os
import subprocess
import sys

import nbformat
import pytest

import verify

FAST = """library/1_core/02_torch_core library/2_data/06_transforms library/2_data/07_core library/2_data/08_block library/5_vision/01_core
library/7_tabular/01_core library/7_tabular/02_data library/6_text/01_core library/6_text/02_data library/6_text/06_all library/9_course/02_cli
checks/00d_progress""".split()


def run(root, notebooks):
    "Run the notebooks in a process of their own: its exit code, which counts those that failed or left something, and what it printed."
    res = subprocess.run([sys.executable, 'tests/e2e/leftovers.py', *map(str, notebooks)], cwd=root, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return res.returncode, res.stdout


def write_notebook(path, *cells):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells], metadata={'kernelspec': {'name': 'python3', 'language': 'python', 'display_name': 'python3'}})
    nbformat.write(nb, path)
    return path


def test_fast_notebooks_leave_nothing(root):
    code, said = run(root, [f'nbs/{o}.ipynb' for o in FAST])
    assert code == 0, said
    assert said.count('passed') == len(FAST)


@pytest.mark.slow
@pytest.mark.parametrize('folder', ['library', 'samples', 'checks'])
def test_all_notebooks_leave_nothing(root, folder):
    code, said = run(root, sorted((root/'nbs'/folder).rglob('*.ipynb')))
    assert code == 0, said


def test_what_is_left_behind_is_found(root, tmp_path):
    "Each cell is a way in which a notebook has once changed things for those after it, or could."
    bad = write_notebook(tmp_path/'bad.ipynb',
        'import os, torch\nimport matplotlib.pyplot as plt\nfrom fastcore.basics import defaults, patch\nfrom fastbook_impl.data.core import DataLoaders, show_batch\n'
        'from fastbook_impl.learner import Learner, default_callbacks\nfrom fastbook_impl.torch_core import TensorText',
        'class Datasets: pass\n@patch\ndef new_empty(self:DataLoaders): return Datasets()',
        '@show_batch.register\ndef _other(x:TensorText, y, samples, **kwargs): return 1',
        'os.environ["FASTBOOK_SOMETHING"] = "1"\nplt.rcParams["image.cmap"] = "Greys"\ndefaults.surprise = 1\ntorch.set_num_threads(torch.get_num_threads()+1)')
    code, said = run(root, [bad])
    found = [line.split('leaves ')[1] for line in said.splitlines() if 'leaves ' in line]
    for name in ('DataLoaders.new_empty: changed', 'show_batch.versions[', 'environment FASTBOOK_SOMETHING: added', 'rcParams image.cmap: changed',
                 'fastcore default surprise: added', 'threads of PyTorch: changed'):
        assert any(name in o for o in found), (name, said)
    assert code == 1


def test_the_same_code_run_again_is_no_change(root, tmp_path):
    good = write_notebook(tmp_path/'good.ipynb',
        'from fastcore.basics import patch\nfrom PIL import Image\nfrom fastbook_impl.data.transforms import Transform, ToTensor',
        '@patch\ndef to_thumb(self:Image.Image, h, w=None):\n    "Return a copy with the same aspect ratio that fits into `h` rows and `w` columns (`h` columns by default)."\n'
        '    res = self.copy()\n    res.thumbnail((h if w is None else w, h))\n    return res',
        'class Thing: pass\n@ToTensor.encodes.register\ndef _thing(self, o:Thing): return 1\nassert ToTensor()(Thing()) == 1')
    code, said = run(root, [good])
    assert code == 0, said


def test_a_notebook_that_fails_is_told(root, tmp_path):
    code, said = run(root, [write_notebook(tmp_path/'fails.ipynb', 'assert 1 == 2')])
    assert code == 1 and 'FAILED' in said


@pytest.mark.slow
@pytest.mark.parametrize('seed, workers', [(1, 0), (2, 1), (3, 2), (4, 4)])
def test_plain_nbdev_test_passes_in_any_order(root, tmp_path, seed, workers):
    "As a reader runs it: from the root of the repository, without a variable of ours, and with an empty cache."
    env = {k: v for k, v in os.environ.items() if not k.startswith(('FASTBOOK_', 'OMP_', 'MKL_'))}
    cmd = [sys.executable, 'tests/e2e/shuffled_nbdev.py', str(seed), str(workers)]
    res = subprocess.run(cmd, cwd=root, env=dict(env, HOME=str(tmp_path)), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert res.returncode == 0, res.stdout
    assert res.stdout.count('- Completed ') == len(verify.notebooks(root))


def test_the_order_of_notebooks_depends_on_the_seed_alone():
    from shuffled_nbdev import shuffled
    names = [f'{i}.ipynb' for i in range(20)]
    assert shuffled(1)(names) == shuffled(1)(names[::-1]) != shuffled(2)(names)
    assert sorted(shuffled(2)(names)) == sorted(names)

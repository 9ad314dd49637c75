"""The guides of the documentation site: every Python example runs."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDES = Path(__file__).resolve().parent.parent.parent/'docs'/'guides'


def examples(path):
    "The Python blocks of a guide, in order. Blocks of another language are not run."
    return re.findall(r'^```python\n(.*?)^```$', path.read_text(encoding='utf-8'), re.M | re.S)


def test_the_guides_have_examples():
    found = {o.name: len(examples(o)) for o in GUIDES.glob('*.md')}
    assert all(found[o] for o in ('own-data.md', 'deploy.md', 'from-fastai.md', 'from-pytorch.md', 'errors.md', 'cheat-sheet.md')), found


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(o.name for o in GUIDES.glob('*.md') if examples(o)))
def test_examples_of_a_guide_run(name, root, tmp_path):
    "In a new process, in an empty folder, with the built-in data."
    env = dict(os.environ, PYTHONPATH=str(root), FASTBOOK_DATA='sample', FASTBOOK_HOME=str(tmp_path/'home'), MPLBACKEND='agg', OMP_NUM_THREADS='1')
    (tmp_path/'work').mkdir()
    res = subprocess.run([sys.executable, '-W', 'error::FutureWarning', '-c', '\n\n'.join(examples(GUIDES/name))], cwd=tmp_path/'work', env=env, capture_output=True, text=True, timeout=900)
    assert res.returncode == 0, res.stderr[-2000:]

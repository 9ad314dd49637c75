"""The floors of accuracy on real data: each script of `benchmarks/claims` with three seeds. It trains for minutes, and `make test-long` runs it."""
import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
SCRIPTS = {
    'pets.py': ['cat or dog: error', 'cat or dog: seconds', 'cat or dog: points', 'three breeds: error', 'three breeds: seconds', 'three breeds: points'],
    'pairs.py': ['pairs of photographs: accuracy', 'pairs of photographs: points'],
    'streets.py': ['street scenes: points'],
    'text.py': ['film reviews: points of accuracy of a bag of words over an AWD-LSTM from scratch'],
}


@pytest.mark.parametrize('script', SCRIPTS)
def test_the_claims_of_a_script_hold_on_the_mirror(script, mirror, root, tmp_path):
    pytest.importorskip('timm')
    recorded = tmp_path/'claims.jsonl'
    env = {**os.environ, 'FASTBOOK_MIRROR': str(mirror), 'FASTBOOK_DATA': 'real', 'FASTBOOK_HOME': str(tmp_path/'home'), 'FASTBOOK_CLAIMS': str(recorded)}
    done = subprocess.run([sys.executable, str(root/'benchmarks'/'claims'/script)], cwd=tmp_path, env=env, capture_output=True, text=True)
    lines = recorded.read_text(encoding='utf-8').splitlines() if recorded.exists() else []
    with open(os.environ['FASTBOOK_CLAIMS'], 'a', encoding='utf-8') as f: f.writelines(line + '\n' for line in lines)  # listed at the end of the tests
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    claims = [json.loads(line) for line in lines]
    assert len(claims) == len(SCRIPTS[script]) and all(c['name'].startswith(start) for c, start in zip(claims, SCRIPTS[script]))
    assert all(c['holds'] and c['checked'] and len(c['spread']) == 3 and '(real' in c['data'] for c in claims)

"""The benchmarks' arithmetic and writing: nothing here is timed, and fastai is not needed."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT/'benchmarks'))

import rows
import run
import tables
from tables import Floor, Measure

NAMES = {'plain': 'plain PyTorch', 'ours': 'this package', 'fastai': 'fastai'}
RESULTS = {'plain': [{'epoch': t} for t in (0.05, 0.04, 0.06)], 'ours': [{'epoch': t} for t in (0.06, 0.05, 0.9)], 'fastai': [{'epoch': 0.2}, {'epoch': 0.3}]}


def test_median_and_ratio():
    assert tables.centre(RESULTS['plain'], 'epoch') == 0.05
    assert tables.centre(RESULTS['fastai'], 'epoch') == 0.25
    assert tables.centre([], 'epoch') is None and tables.centre([{'other': 1}], 'epoch') is None
    assert tables.ratio(RESULTS, 'epoch', 'ours', 'plain') == pytest.approx(1.2)
    assert tables.ratio(RESULTS, 'epoch', 'ours', 'absent') is None


def test_one_slow_run_does_not_move_the_median():
    assert tables.centre(RESULTS['ours'], 'epoch') == 0.06


@pytest.mark.parametrize('x,unit,text', [(0.0531, 's', '53.1 ms'), (2.2178, 's', '2.22 s'), (336.8, 's', '337 s'), (41.13, 'pictures/s', '41.1 pictures/s'),
                                         (2145.6, 'MB', '2,146 MB'), (0.98, '', '0.98'), (None, 's', '–')])
def test_numbers_are_short(x, unit, text): assert tables.number(x, unit) == text


@pytest.mark.parametrize('floor,ratio,met', [(Floor('t', 'a', 'b', at_most=1.3), 1.3, True), (Floor('t', 'a', 'b', at_most=1.3), 1.31, False),
                                             (Floor('t', 'a', 'b', at_least=3), 3., True), (Floor('t', 'a', 'b', at_least=3), 2.9, False)])
def test_floors(floor, ratio, met): assert floor.met(ratio) is met


def test_measures_table():
    text = tables.measures_table([Measure('epoch', 'one epoch')], RESULTS, NAMES, 'plain')
    lines = text.splitlines()
    assert len({len(l) for l in lines}) == 1, 'columns line up'
    assert [c.strip() for c in lines[3].strip('|').split('|')] == ['one epoch', 'this package', '60 ms', '50 ms to 0.9 s', '1.20']


def test_a_floor_without_numbers_is_not_called_met():
    floors, measures = [Floor('epoch', 'ours', 'plain', at_most=1.3), Floor('epoch', 'fastai', 'ours', at_least=5), Floor('epoch', 'ours', 'absent', at_most=1)], [Measure('epoch', 'one epoch')]
    text = tables.floors_table(floors, measures, RESULTS, {**NAMES, 'absent': 'nobody'})
    assert [l.strip('| ').rsplit('|', 1)[1].strip() for l in text.splitlines()[2:]] == ['yes', '**no**', 'not measured']


def test_a_part_of_the_rows_replaces_only_its_sections(tmp_path):
    path, order, head = tmp_path/'results.md', ['A', 'B', 'C'], '# Results\n\nmachine 1'
    tables.write_report(path, head, {'C': tables.section('C', 'old c'), 'A': tables.section('A', 'old a')}, order)
    tables.write_report(path, head, {'B': tables.section('B', 'new b'), 'A': tables.section('A', 'new a')}, order)
    assert path.read_text() == '# Results\n\nmachine 1\n\n## A\n\nnew a\n\n## B\n\nnew b\n\n## C\n\nold c\n'
    assert list(tmp_path.iterdir()) == [path]


def test_numbers_of_another_machine_are_dropped(tmp_path):
    path, order = tmp_path/'results.md', ['A', 'B']
    tables.write_report(path, '# Results\n\nmachine 1', {'A': tables.section('A', 'one')}, order)
    tables.write_report(path, '# Results\n\nmachine 2', {'B': tables.section('B', 'two')}, order)
    assert path.read_text() == '# Results\n\nmachine 2\n\n## B\n\ntwo\n'


@pytest.mark.parametrize('name', rows.ORDER)
def test_every_row_is_complete(name):
    row = rows.load(name)
    keys = {m.key for m in row.MEASURES}
    assert row.BASE in row.NAMES and row.NOTE and row.RUNS >= 1 and callable(row.work)
    assert row.FLOORS and all(f.measure in keys and f.ours in row.NAMES and f.other in row.NAMES for f in row.FLOORS)


def test_a_row_needs_no_torch_to_be_described():
    code = "import sys; sys.path.insert(0, 'benchmarks'); import run, rows; [rows.load(n) for n in rows.ORDER]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0


def test_an_unknown_row_is_named(capsys):
    with pytest.raises(SystemExit): run.arguments(['--only', 'ch4,nope'])
    assert 'there is no row nope; the rows are imports, ch4' in capsys.readouterr().err


def test_quick_and_profiled_runs_happen_once():
    assert run.arguments(['--quick', '--runs', '5']).runs == 1 and run.arguments(['--profile', '20']).runs == 1


def test_folders_of_this_machine_are_left_out(): assert run.without_paths(f'error in {ROOT}/benchmarks/run.py') == 'error in benchmarks/run.py'


def test_a_contender_that_fails_is_told_and_the_others_go_on(monkeypatch, capsys):
    def worker(name, contender, args, data, tmp, n):
        if contender == 'ours': raise run.Failed('Traceback …\nValueError: no such thing\n')
        return {'epoch': 1., 'batch': 1.}
    monkeypatch.setattr(run, 'run_worker', worker)
    results, failed = run.run_row('loop', rows.load('loop'), run.arguments(['--runs', '2']), None, Path('.'))
    assert failed == ['this package did not finish: ValueError: no such thing']
    assert [len(results[c]) for c in ('plain', 'ours', 'fastai')] == [2, 0, 2]


@pytest.mark.medium
def test_the_worker_writes_what_the_work_returns(tmp_path):
    answer = tmp_path/'answer.json'
    options = json.dumps({'run': 3})
    done = subprocess.run([sys.executable, str(ROOT/'benchmarks'/'worker.py'), 'imports', 'torch', str(answer), options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(answer.read_text())) == {'seconds'}


def test_a_worker_sees_a_terminal(tmp_path):
    code, output = run.in_terminal([sys.executable, '-c', "import sys; print(sys.stdout.isatty(), sys.stderr.isatty()); sys.exit(3)"], None, tmp_path)
    assert (code, output.strip()) == (3, 'True True')


def test_ch4_data_and_plain_loop(tmp_path):
    "Pictures lit from the left or from the right: the plain loop tells them apart, and the rows are repeated to the number asked for."
    import numpy as np
    import torch
    from PIL import Image
    ch4, made = rows.load('ch4'), np.random.default_rng(0)
    for part in ('train', 'valid'):
        for digit, lit in (('3', slice(None, 14)), ('7', slice(14, None))):
            folder = tmp_path/part/digit
            folder.mkdir(parents=True)
            for i in range(6):
                picture = made.integers(0, 60, (28, 28)).astype('uint8')
                picture[:, lit] += 190
                Image.fromarray(picture).save(folder/f'{i}.png')
    x, y, vx, vy = ch4.digits(tmp_path, rows=600)
    assert x.shape == (600, 784) and y.shape == (600, 1) and vx.shape == (12, 784) and 0 <= x.min() and x.max() <= 1
    assert torch.equal(x[:12], x[12:24]) and y[:6].sum() == 6
    torch.manual_seed(0)
    found = ch4.plain(x, y, vx, vy, 4, iter(range(100)).__next__)
    assert found['epoch'] == 1 and found['accuracy'] > 0.9


def test_pixel_statistics():
    import torch
    presizing = rows.load('presizing')
    flat, stripes = torch.full((1, 3, 8, 8), 0.5), torch.zeros(1, 3, 8, 8)
    stripes[..., ::2] = 1.
    assert {k: round(float(v[0, 0]), 3) for k, v in presizing.statistics(flat).items()} == {'mean': 0.5, 'std': 0, 'detail': 0, 'dark': 0}
    assert {k: round(float(v[0, 0]), 3) for k, v in presizing.statistics(stripes).items()} == {'mean': 0.5, 'std': 0.504, 'detail': 0.5, 'dark': 0.5}


def test_differences_between_libraries_are_counted_in_standard_errors():
    presizing = rows.load('presizing')
    one = {key: [[0.49]*3, [0.51]*3] for key in presizing.STATISTICS}
    other = {**one, 'std': [[0.49, 0.55, 0.49], [0.51, 0.57, 0.51]], 'detail': [[0.44]*3, [0.46]*3]}
    a, b = presizing.average([one]), presizing.average([other])
    assert a['mean'][0] == (pytest.approx(0.5), pytest.approx(0.01))
    apart, where = presizing.furthest_apart(a, b)
    assert apart == pytest.approx(0.06/(2*0.01**2)**0.5) and where == presizing.STATISTICS['std']
    few, enough = (presizing.report({'plain': [], 'ours': [one]*n, 'fastai': [other]*n}, NAMES) for n in (1, 3))
    assert '4.2 standard errors, too few passes (2) to judge' in few and '0.5600 ± 0.0100' in few and 'differ by +11%' in few
    assert 'standard errors, **more than** the 3' in enough


def test_the_same_pictures_are_held_out_everywhere():
    presizing = rows.load('presizing')
    names = [Path(f'Bengal_{i}.jpg') for i in range(500)]
    assert 0.1 < sum(map(presizing.held_out, names))/len(names) < 0.3
    assert presizing.held_out(Path('a')/'Bengal_7.jpg') == presizing.held_out(Path('b')/'Bengal_7.jpg')


def test_a_failed_set_up_is_one_sentence_and_what_the_tool_says(tmp_path):
    import environment
    tool = tmp_path/'tool.py'
    tool.write_text("import sys; print('WARNING: somewhere', file=sys.stderr); sys.exit('ERROR: no such package')")
    with pytest.raises(SystemExit) as e: environment.run([sys.executable, str(tool)])
    assert "fastai's environment cannot be made" in str(e.value) and str(e.value).endswith('ERROR: no such package') and 'WARNING' not in str(e.value)


def test_versions_are_read_without_importing(tmp_path):
    import environment
    for name in ('torch-1.2.3.dist-info', 'fastcore-0.4.5.dist-info'): (tmp_path/'lib'/'python3.11'/'site-packages'/name).mkdir(parents=True)
    assert environment.versions(tmp_path, ['torch', 'fastcore', 'fastai']) == {'torch': '1.2.3', 'fastcore': '0.4.5'}
    assert environment.version_tuple('2.8.12') == (2, 8, 12) < environment.version_tuple('2.8.13')

"""The public names, signatures and default values of the package are those of the golden files. `python tools/contract.py --write` writes the files anew."""
import fastcore
import pytest

import contract


@pytest.fixture(scope='module')
def recorded(root): return contract.read(root/contract.GOLDEN)


@pytest.fixture(scope='module')
def found(root): return contract.golden(root)


def test_public_names_and_signatures_are_those_of_the_golden_files(recorded, found):
    if not fastcore.__version__.startswith('1.12.'): recorded, found = map(contract.without_fastcore, (recorded, found))
    report = contract.compare(recorded, found)
    assert not report, f'{report}\n\nIf this is meant, run `python tools/contract.py --write`, and say in the commit message why.'


def test_every_surface_has_a_golden_file(recorded):
    assert set(recorded) == {'signatures.txt', 'modules.txt', *(f'surface_{o}.txt' for o in contract.SURFACES)}


def test_golden_files_are_sorted_without_repetition(recorded):
    for name, lines in recorded.items(): assert lines == sorted(set(lines)), name


def test_golden_files_hold_nothing_of_one_machine(recorded, root):
    text = '\n'.join(line for lines in recorded.values() for line in lines)
    for trace in (' at 0x', str(root), str(root.home()), '/tmp'): assert trace not in text


@pytest.mark.parametrize('change,said', [
    ('Learner.fit(self, n_epoch, lr=0.1)', 'changed'), (None, 'gone'), ('Learner.fit_all(self)', 'new')])
def test_a_changed_lost_or_new_name_is_reported(change, said):
    was, now = ['Learner.fit(self, n_epoch, lr=None)', 'Learner.freeze(self)'], ['Learner.freeze(self)']
    if said == 'new': now += was[:1]
    report = contract.compare({'signatures.txt': was}, {'signatures.txt': now + [change]*bool(change)})
    assert said in report and (change or was[0]) in report and 'freeze' not in report


def test_what_happened_to_several_surfaces_is_told_once():
    old, new = ({f'surface_{o}.txt': lines for o in ('basics', 'vision.all')} for lines in (['Learner', 'Recorder'], ['Recorder']))
    assert contract.compare(old, new).splitlines() == ['surface_basics.txt, surface_vision.all.txt:', '  gone     Learner']


def test_defaults_are_written_without_addresses():
    class Plain: pass
    def f(a, /, b=1e-3, *args, c=Plain(), d=Plain, e=len, g=slice(1e-6, None), h=(1, [None, 'x']), **kwargs): pass
    assert contract.signature(f) == "(a, /, b=0.001, *args, c=<Plain>, d=Plain, e=len, g=slice(1e-06, None, None), h=(1, [None, 'x']), **kwargs)"


def test_parameters_after_a_star_are_written_so():
    assert contract.signature(lambda a, *, b=None: None) == '(a, *, b=None)'
    assert contract.signature(lambda a, b, /: None) == '(a, b, /)'


def test_a_method_that_another_module_adds_is_on_the_surface_that_imports_it(recorded):
    assert 'ClassificationInterpretation.plot_confusion_matrix' in recorded['surface_basics.txt']
    assert 'Learner.lr_find' in recorded['surface_vision.all.txt']
    assert 'Learner.lr_find' not in recorded['surface_inference.txt']

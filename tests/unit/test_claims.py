"""Claims: printed, checked, collected; and data cards."""
import json

import nbformat
import pytest
import torch

import course
from fastbook_impl.course.claims import CLAIM_MIME, ClaimFailed, DataCard, claim, data_card
from fastbook_impl.data.external import URLs, untar_data

DRAWN, REAL = [DataCard('things', 'things', 7, 'someone', 'CC0', generated) for generated in (True, False)]


@pytest.fixture(autouse=True)
def collected(tmp_path, monkeypatch):
    "These claims are about `claim` itself, and are not listed with those of the course."
    monkeypatch.setenv('FASTBOOK_CLAIMS', str(tmp_path/'claims'))
    return tmp_path/'claims'


def test_a_claim_prints_its_number_and_returns_it(capsys):
    assert claim('accuracy of a net', torch.tensor(0.987), at_least=0.97, data='digits') == pytest.approx(0.987)
    out = capsys.readouterr().out
    assert all(word in out for word in ('accuracy of a net', '0.987', '0.97', 'holds', 'digits')) and out.count('\n') == 1


@pytest.mark.parametrize('value, bounds', [(0.5, dict(at_least=0.6)), (0.5, dict(at_most=0.4)), (0.5, dict(at_least=0.1, at_most=0.4)), (float('nan'), dict(at_least=0)), ([0.9, 0.1], dict(at_least=0.6))])
def test_a_claim_that_does_not_hold_fails_after_it_was_printed(capsys, value, bounds):
    with pytest.raises(ClaimFailed): claim('a', value, **bounds)
    assert 'DOES NOT HOLD' in capsys.readouterr().out


def test_seeds_are_averaged_and_their_spread_is_shown(capsys):
    assert claim('error', [0.02, 0.04, 0.03], at_most=0.03) == pytest.approx(0.03)
    assert '3 seeds, 0.02 to 0.04' in capsys.readouterr().out
    claim('gain', 0.3, at_least=0, spread=torch.tensor([0.1, 0.5]))
    assert '2 seeds, 0.1 to 0.5' in capsys.readouterr().out


def test_a_claim_about_real_data_is_not_checked_on_drawn_data(capsys):
    claim('a method helps', -1., at_least=0, data=DRAWN, needs_real=True)
    assert 'not checked' in capsys.readouterr().out
    for card, needs in (DRAWN, False), (REAL, True), (None, True):
        with pytest.raises(ClaimFailed): claim('a method helps', -1., at_least=0, data=card, needs_real=needs)


@pytest.mark.parametrize('value, bounds, words', [(1, {}, 'at_least'), ([], dict(at_least=1), 'empty')])
def test_a_claim_without_bound_or_value_says_so(value, bounds, words):
    with pytest.raises(ValueError, match=words): claim('a', value, **bounds)


def test_claims_are_collected_in_a_file(collected):
    claim('first', 1, at_least=0)
    with pytest.raises(ClaimFailed): claim('second', 1, at_most=0)
    rows = [json.loads(l) for l in collected.read_text().splitlines()]
    assert [(r['name'], r['holds']) for r in rows] == [('first', True), ('second', False)]


def test_a_chapters_claims_are_listed(tmp_path, capsys, root):
    path = tmp_path/'01_claims.ipynb'
    sources = [f'import sys; sys.path.insert(0, {str(root)!r})\nfrom fastbook_impl.course.claims import claim', 'claim("good", 0.9, at_least=0.5, data="digits")', 'claim("bad", 0.1, at_least=0.5)']
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(o) for o in sources]), path)
    assert course.main([str(path), '--keep', str(tmp_path/'kept')]) == 1
    out, err = capsys.readouterr()
    rows = [l for l in out.splitlines() if 'claimed at least' in l]
    assert len(rows) == 2 and 'good' in rows[0] and 'holds' in rows[0] and 'digits' in rows[0] and 'DOES NOT HOLD' in rows[1]
    assert 'ClaimFailed' in err
    kept = nbformat.read(tmp_path/'kept'/path.name, as_version=4)
    assert [o['name'] for o in course.claims(kept)] == ['good', 'bad']
    assert any(CLAIM_MIME in o.get('data', {}) for c in kept.cells for o in c.outputs)


def test_a_chapters_data_and_its_claims_on_real_data_and_on_the_sample(tmp_path, capsys, root):
    path = tmp_path/'01_both.ipynb'
    sources = [f'import os, sys; sys.path.insert(0, {str(root)!r})\nfrom fastbook_impl.course.claims import DataCard, claim', 'real = os.environ["FASTBOOK_DATA"] == "real"',
               'card = DataCard("things", "odd things", 7, "someone", "CC0", not real)\ncard', 'card', 'claim("it helps", 0.9 if real else 0.2, at_least=0.5, data=card, needs_real=True)',
               'if not real: claim("drawn", 1, at_least=0)']
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(o) for o in sources]), path)
    assert course.main([str(path), '--both']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [l for l in lines if 'odd things' in l] == ['01_both  things: odd things; 7 files; generated here; someone; license: CC0', '01_both  things: odd things; 7 files; real; someone; license: CC0']
    last = lines[len(lines) - lines[::-1].index('Claims'):]
    assert [l for l in last if l] == ['01_both  it helps: 0.9, claimed at least 0.5: holds [things (real, 7 files)]; on the sample: 0.2', '01_both  only on the sample: drawn: 1, claimed at least 0: holds']


def test_a_built_in_sample_is_called_generated(home):
    path = untar_data(URLs.MNIST_SAMPLE)
    card = data_card(path/'train'/'3')
    assert card.generated and card.name == 'MNIST_SAMPLE' and card.n_files == sum(f.is_file() for f in path.rglob('*'))
    assert 'generated' in str(card)


def test_the_mirrors_photographs_are_called_real(real_pets):
    card = data_card(real_pets)
    assert not card.generated and card.name == 'PETS' and card.license.startswith('CC BY-SA 4.0') and 'mirror' in card.origin and card.n_files > 1200


@pytest.mark.parametrize('name, what, license', [('CAMVID_TINY', 'street scenes', 'unknown'), ('IMDB_SAMPLE', 'film reviews', 'unknown'), ('MNIST_SAMPLE', 'handwritten', 'unknown'),
                                                 ('ADULT_SAMPLE', 'census', 'CC BY 4.0'), ('rt_polarity.tgz', 'one sentence', 'unknown'), ('camvid_multilabel.tgz', 'several labels', 'unknown')])
def test_a_license_that_the_creator_does_not_state_is_unknown(mirror, home, monkeypatch, name, what, license):
    monkeypatch.setenv('FASTBOOK_MIRROR', str(mirror)); monkeypatch.setenv('FASTBOOK_DATA', 'auto')
    card = data_card(untar_data(getattr(URLs, name, name)))
    assert what in card.what and card.license == license and not card.generated and 'unknown' not in card.origin


def test_a_folder_of_your_own(tmp_path):
    (tmp_path/'a.txt').write_text('a')
    assert (data_card(tmp_path).n_files, data_card(tmp_path).generated) == (1, False)
    with pytest.raises(FileNotFoundError, match='nowhere'): data_card(tmp_path/'nowhere')

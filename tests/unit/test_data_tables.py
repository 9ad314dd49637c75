"The generated table of people: the original's columns and words, gaps, and salaries that follow the rules."
import numpy as np
import pandas as pd
import pytest

from fastbook_impl.data.external import URLs, untar_data
from fastbook_impl.samples.core import find_sample
from fastbook_impl.samples.adult import EDUCATION, make_adult_sample, make_people, salary_points

COLUMNS = 'age workclass fnlwgt education education-num marital-status occupation relationship race sex capital-gain capital-loss hours-per-week native-country salary'.split()


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    dest = tmp_path_factory.mktemp('adult')
    make_adult_sample(dest)
    return dest/'adult.csv'


@pytest.fixture(scope='module')
def df(file): return pd.read_csv(file, skipinitialspace=True)


def test_it_is_registered_and_untar_data_makes_it(home, monkeypatch, file):
    assert find_sample('ADULT_SAMPLE').make is make_adult_sample
    monkeypatch.setenv('FASTBOOK_DATA', 'sample')
    path = untar_data(URLs.ADULT_SAMPLE)
    assert path.name == 'adult_sample' and (path/'adult.csv').read_bytes() == file.read_bytes()  # the same bytes every time


def test_the_columns_and_words_are_those_of_the_original(file, df, mirror, tmp_path):
    import tarfile
    with tarfile.open(mirror/'adult_sample.tgz') as f: f.extractall(tmp_path, filter='data')
    real = pd.read_csv(next(tmp_path.rglob('adult.csv')))
    raw = pd.read_csv(file)  # spaces before the words, as there
    assert list(raw.columns) == list(real.columns) == COLUMNS
    for c in COLUMNS:
        assert pd.api.types.is_numeric_dtype(raw[c]) == pd.api.types.is_numeric_dtype(real[c]), c
        if not pd.api.types.is_numeric_dtype(raw[c]): assert set(raw[c].dropna()) <= set(real[c].dropna()), c
    assert abs((raw.salary == '>=50k').mean() - (real.salary == '>=50k').mean()) < 0.02
    assert abs(raw.age.mean() - real.age.mean()) < 1.5 and abs(raw['hours-per-week'].mean() - real['hours-per-week'].mean()) < 1.5


def test_rows_gaps_and_years_of_schooling(df):
    assert df.shape == (20000, 15) and set(df.salary) == {'<50k', '>=50k'}
    gaps = df.isna().sum()
    assert set(gaps[gaps > 0].index) == {'education-num', 'occupation'} and gaps.max() < 500
    told = df.dropna(subset=['education-num'])
    assert (told['education-num'] == told.education.map({e: i for i,e in enumerate(EDUCATION, 1)})).all()
    assert df.age.between(17, 90).all() and df['hours-per-week'].between(1, 99).all()


def test_salaries_follow_the_rules():
    df = make_people(40000, seed=7)
    chance = 1/(1 + np.exp(-salary_points(df)))
    rich = df.salary == '>=50k'
    for low in np.arange(0, 1, .2):
        some = (chance >= low) & (chance < low + .2)
        assert abs(rich[some].mean() - chance[some].mean()) < .02
    assert .84 < np.maximum(chance, 1 - chance).mean() < .87


def test_what_has_no_influence_has_none():
    df = make_people(40000, seed=8)
    rich = df.salary == '>=50k'
    assert abs(rich[df.sex == 'Female'].mean() - rich[df.sex == 'Male'].mean()) < .015
    assert abs(rich[df.race == 'Black'].mean() - rich[df.race == 'White'].mean()) < .025
    assert abs(np.corrcoef(df.fnlwgt, rich)[0, 1]) < .015


def test_points_are_read_from_the_file_with_or_without_spaces(file, df):
    assert np.allclose(salary_points(pd.read_csv(file)), salary_points(df))

"The generated ratings of films: the original's files and columns, tastes that can be found again, and the same bytes every time."
import numpy as np
import pandas as pd
import pytest

from fastbook_impl.data.external import URLs, untar_data
from fastbook_impl.samples.ratings import GENRES, expected_stars, make_films, make_ml_100k, make_ml_sample, make_ratings, make_viewers
from fastbook_impl.samples.core import find_sample


@pytest.fixture(scope='module')
def large(tmp_path_factory):
    dest = tmp_path_factory.mktemp('ml')
    make_ml_100k(dest)
    return dest


def test_it_is_registered_and_untar_data_makes_it(home, monkeypatch, tmp_path):
    assert find_sample('ML_SAMPLE').make is make_ml_sample and find_sample('ML_100k').make is make_ml_100k
    monkeypatch.setenv('FASTBOOK_DATA', 'sample')
    path = untar_data(URLs.ML_SAMPLE)
    make_ml_sample(tmp_path)
    assert path.name == 'movie_lens_sample' and (path/'ratings.csv').read_bytes() == (tmp_path/'ratings.csv').read_bytes()


def test_the_small_table(tmp_path):
    make_ml_sample(tmp_path)
    df = pd.read_csv(tmp_path/'ratings.csv')
    assert list(df.columns) == ['userId', 'movieId', 'rating', 'timestamp'] and len(df) == 6031
    assert df.userId.nunique() == df.movieId.nunique() == 100 and not df.duplicated(['userId', 'movieId']).any()
    assert set(df.rating) == set(np.arange(.5, 5.5, .5))


def test_the_large_files(large):
    data = pd.read_csv(large/'u.data', delimiter='\t', header=None)
    assert data.shape == (100_000, 4) and set(data[2]) == {1, 2, 3, 4, 5} and not data.duplicated([0, 1]).any()
    assert data[0].nunique() == 943 and data[0].value_counts().min() >= 20 and data[1].between(1, 1682).all()
    items = pd.read_csv(large/'u.item', delimiter='|', header=None, encoding='latin-1')
    assert items.shape == (1682, 24) and items[1].is_unique and items[1].str.match(r'.+ \(19\d\d\)$').all() and (items.iloc[:, 5:].sum(axis=1) == 1).all()
    genres = [o.split('|')[0] for o in (large/'u.genre').read_text('latin-1').split()]
    assert len(genres) == 19 and set(GENRES) <= set(genres)
    assert pd.read_csv(large/'u.user', delimiter='|', header=None).shape == (943, 5)


def test_ratings_follow_the_tastes():
    rng = np.random.default_rng(3)
    films, viewers = make_films(200, rng), make_viewers(300, rng)
    df = make_ratings(viewers, films, 20_000, rng)
    stars = expected_stars(viewers, films)[df.user, df.film]
    for low in np.arange(2, 4.5, .5): # where few ratings are cut off at 1 or 5
        some = (stars >= low) & (stars < low + .5)
        assert abs(df.stars[some].mean() - stars[some].mean()) < .1
    assert ((stars.clip(1, 5) - df.stars)**2).mean() < .65*df.stars.var()


def test_more_ratings_than_films_to_rate():
    rng = np.random.default_rng(0)
    films, viewers = make_films(5, rng), make_viewers(4, rng)
    assert len(make_ratings(viewers, films, 20, rng).drop_duplicates(['user', 'film'])) == 20 # everybody has seen everything
    with pytest.raises(ValueError, match='n=21 is too large: 4 people and 5 films make 20 ratings at most'): make_ratings(viewers, films, 21, rng)

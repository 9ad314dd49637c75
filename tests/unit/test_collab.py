"Recommenders: what the cells of the book's chapters 1 and 8 ask of them (models of our own), a learner kept and loaded, and what is said about ratings that cannot be learned from."
import pytest

from fastbook_impl.collab import *
from fastbook_impl.tabular.all import *

pytestmark = pytest.mark.medium


# chapter 1

@pytest.fixture(scope='module')
def chapter_1():
    set_seed(42)
    path = untar_data(URLs.ML_SAMPLE)
    dls = CollabDataLoaders.from_csv(path/'ratings.csv')
    learn = collab_learner(dls, y_range=(0.5,5.5))
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(10)
    return learn


def test_chapter_1(chapter_1, capsys):
    chapter_1.show_results()
    said = capsys.readouterr().out
    assert 'rating_pred' in said and 'userId' in said
    variance = chapter_1.dls.valid_ds.ys.to_numpy().var()
    assert chapter_1.recorder.values[-1][1] < .75*variance


# chapter 8

@pytest.fixture(scope='module')
def ratings():
    path = untar_data(URLs.ML_100k)
    ratings = pd.read_csv(path/'u.data', delimiter='\t', header=None,
                          names=['user','movie','rating','timestamp'])
    movies = pd.read_csv(path/'u.item',  delimiter='|', encoding='latin-1',
                         usecols=(0,1), names=('movie','title'), header=None)
    ratings = ratings.merge(movies)
    assert len(ratings) == 100_000
    return ratings[:20_000] # a fifth, for the sake of time


@pytest.fixture(scope='module')
def dls(ratings):
    set_seed(42)
    return CollabDataLoaders.from_df(ratings, item_name='title', bs=64)


def trained(learn, epochs=1):
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 5e-3, wd=0.1)
    return learn.recorder.values[-1][1]


def test_chapter_8_data(ratings, dls, capsys):
    dls.show_batch()
    said = capsys.readouterr().out
    assert all(o in said for o in ('user', 'title', 'rating'))
    n_users  = len(dls.classes['user'])
    n_movies = len(dls.classes['title'])
    assert (n_users, n_movies) == (dls.train_ds.items.user.nunique() + 1, dls.train_ds.items.title.nunique() + 1)
    n_factors = 5
    user_factors = torch.randn(n_users, n_factors)
    one_hot_3 = one_hot(3, n_users).float()
    assert torch.equal(user_factors.t() @ one_hot_3, user_factors[3])
    x,y = dls.one_batch()
    assert x.shape == (64, 2) and y.shape == (64, 1)


class Match(Module):
    def __init__(self, n_users, n_movies, n): self.users, self.movies = Embedding(n_users, n), Embedding(n_movies, n)
    def forward(self, x): return sigmoid_range((self.users(x[:, 0])*self.movies(x[:, 1])).sum(dim=1), 0, 5.5)


def numbers(*size): return nn.Parameter(torch.randn(*size)*.01)


class MatchAndBias(Module):
    def __init__(self, n_users, n_movies, n):
        self.user_factors, self.movie_factors = numbers(n_users, n), numbers(n_movies, n)
        self.user_bias, self.movie_bias = numbers(n_users), numbers(n_movies)

    def forward(self, x):
        u, m = x.unbind(1)
        return sigmoid_range((self.user_factors[u]*self.movie_factors[m]).sum(dim=1) + self.user_bias[u] + self.movie_bias[m], 0, 5.5)


def test_chapter_8_models_by_hand(ratings, dls):
    n_users, n_movies = len(dls.classes['user']), len(dls.classes['title'])
    for model in Match, MatchAndBias:
        learn = Learner(dls, model(n_users, n_movies, 50), loss_func=MSELossFlat())
        assert trained(learn, 5) < ratings.rating.var()
    assert len(L(learn.model.parameters())) == 4
    movie_bias = learn.model.movie_bias.squeeze()
    idxs = movie_bias.argsort(descending=True)[:5]
    best = [dls.classes['title'][i] for i in idxs]
    g = ratings.groupby('title')['rating'].mean()
    assert g[best].mean() > g.mean() + .3
    top_movies = ratings.groupby('title')['rating'].count().sort_values(ascending=False).index.values[:100]
    top_idxs = tensor([learn.dls.classes['title'].o2i[m] for m in top_movies])
    assert learn.model.movie_factors[top_idxs].cpu().detach().shape == (100, 50)


def test_chapter_8_collab_learner(dls):
    learn = collab_learner(dls, n_factors=50, y_range=(0, 5.5))
    assert [n for n,_ in learn.model.named_children()] == ['u_weight', 'i_weight', 'u_bias', 'i_bias']
    trained(learn)
    movie_bias = learn.model.i_bias.weight.squeeze()
    idxs = movie_bias.argsort(descending=True)[:5]
    names = [dls.classes['title'][i] for i in idxs]
    assert learn.model.bias(names).tolist() == movie_bias[idxs].tolist()
    movie_factors = learn.model.i_weight.weight
    idx = dls.classes['title'].o2i[names[0]]
    distances = nn.CosineSimilarity(dim=1)(movie_factors, movie_factors[idx][None])
    idx = distances.argsort(descending=True)[1]
    assert isinstance(dls.classes['title'][idx], str)


def test_chapter_8_embeddings_and_a_network(dls, ratings):
    embs = get_emb_sz(dls)
    assert [o[0] for o in embs] == [len(dls.classes['user']), len(dls.classes['title'])]

    class SideBySide(Module):
        def __init__(self, user_sz, item_sz):
            self.users, self.items = Embedding(*user_sz), Embedding(*item_sz)
            self.layers = nn.Sequential(nn.Linear(user_sz[1] + item_sz[1], 100), nn.ReLU(), nn.Linear(100, 1), SigmoidRange(0, 5.5))

        def forward(self, x): return self.layers(torch.cat([self.users(x[:, 0]), self.items(x[:, 1])], dim=1))

    learn = Learner(dls, SideBySide(*embs), loss_func=MSELossFlat())
    assert trained(learn) < ratings.rating.var()
    learn = collab_learner(dls, use_nn=True, y_range=(0, 5.5), layers=[100,50])
    assert isinstance(learn.model, EmbeddingNN) and trained(learn) < ratings.rating.var()


# beyond the book

def table(n=200):
    rng = np.random.default_rng(0)
    return pd.DataFrame({'who': rng.choice(['Ana', 'Bo', 'Cy', 'Di'], n), 'what': rng.choice(['tea', 'milk', 'beer'], n), 'stars': rng.integers(1, 6, n)})


def small(**kwargs):
    set_seed(0)
    return CollabDataLoaders.from_df(table(), bs=16, device='cpu', **kwargs)


def test_the_dot_product_is_what_it_says():
    model, x = EmbeddingDotBias(3, 5, 4), tensor([[1, 2], [4, 0]])
    want = [model.u_weight.weight[u] @ model.i_weight.weight[i] + model.u_bias.weight[u, 0] + model.i_bias.weight[i, 0] for u,i in x]
    torch.testing.assert_close(model(x), torch.stack(want))
    model.y_range = 1, 3
    torch.testing.assert_close(model(x), 1 + 2*torch.stack(want).sigmoid())


def test_a_seed_fixes_the_split_and_whole_numbers_become_floats():
    a, b = (small(seed=7, valid_pct=.25) for _ in range(2))
    assert a.valid_ds.items.index.equals(b.valid_ds.items.index) and len(a.valid_ds) == 50
    assert a.one_batch()[1].dtype is torch.float32


def test_who_is_new_gets_a_prediction(capsys):
    learn = collab_learner(small(), n_factors=2, y_range=(0.5, 5.5))
    row, pred, _ = learn.predict({'who': 'somebody new', 'what': 'tea'})
    assert .5 < pred < 5.5
    row.show()
    assert '#na#' in capsys.readouterr().out


@pytest.mark.parametrize('args', [{'n_factors': 2}, {'use_nn': True, 'layers': [8]}])
def test_kept_and_loaded(tmp_path, args):
    learn = collab_learner(small(path=tmp_path), y_range=(0, 5.5), **args)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    loaded = load_learner(learn.export())
    for row in table().iloc[:3].to_dict('records'): torch.testing.assert_close(loaded.predict(row)[1], learn.predict(row)[1])
    rows = table().drop(columns='stars')
    torch.testing.assert_close(loaded.get_preds(dl=loaded.dls.test_dl(rows))[0], learn.get_preds(dl=learn.dls.test_dl(rows))[0])
    if not learn.model.__class__ is EmbeddingDotBias: return
    assert loaded.model.bias(['tea']).item() == learn.model.bias(['tea']).item()
    assert loaded.model.weight(['Ana', 'Cy'], is_item=False).shape == (2, 2)


def test_bad_ratings():
    with pytest.raises(TypeError, match='pandas DataFrame.* list'): CollabDataLoaders.from_df([1, 2])
    with pytest.raises(ValueError, match="expected three columns, for users, items and ratings, got 2: 'who', 'what'"): CollabDataLoaders.from_df(table()[['who', 'what']])
    with pytest.raises(KeyError, match="no column 'wha'; did you mean 'what'"): CollabDataLoaders.from_df(table(), item_name='wha')
    with pytest.raises(ValueError, match="must be three different columns, got 'what'.*set user_name, item_name and rating_name"): CollabDataLoaders.from_df(table(), user_name='what')
    with pytest.raises(ValueError, match="labels are missing in the column 'stars'"): CollabDataLoaders.from_df(table().assign(stars=np.nan))
    with pytest.raises(ValueError, match="'many' in row"): CollabDataLoaders.from_df(table().assign(stars='many'))
    with pytest.raises(ValueError, match='the table has no ratings'): CollabDataLoaders.from_df(table()[:0])
    with pytest.raises(FileNotFoundError, match='nowhere.csv'): CollabDataLoaders.from_csv('nowhere.csv')


def test_bad_learners():
    with pytest.raises(TypeError, match='create them with CollabDataLoaders'): collab_learner(TabularDataLoaders.from_df(table(), procs=[Categorify], cat_names=['who'], cont_names=[], y_names='stars'))
    with pytest.raises(ValueError, match='pass use_nn=True'): collab_learner(small(), layers=[10])
    with pytest.raises(KeyError, match="'te' does not occur in the column 'what' of the training data; did you mean 'tea'"): collab_learner(small()).model.weight(['te'])

"""The book's cells about tables, typed in with only the import lines changed: chapter 1 on ADULT_SAMPLE, chapter 9 on a small made-up table of auctions with the columns that its code names."""
import numpy as np
import pytest
import torch

from fastbook_impl.fastbook import *
from fastbook_impl.tabular.all import *


# chapter 1

@pytest.fixture(scope='module')
def adult():
    path = untar_data(URLs.ADULT_SAMPLE)

    dls = TabularDataLoaders.from_csv(path/'adult.csv', path=path, y_names="salary",
        cat_names = ['workclass', 'education', 'marital-status', 'occupation',
                     'relationship', 'race'],
        cont_names = ['age', 'fnlwgt', 'education-num'],
        procs = [Categorify, FillMissing, Normalize])

    set_seed(42)
    learn = tabular_learner(dls, metrics=accuracy)
    with learn.no_bar(): learn.fit_one_cycle(3)
    return learn


def test_chapter_1(adult):
    assert adult.recorder.values[-1][2] > 0.82


def test_chapter_1_its_classes_and_columns(adult):
    dls = adult.dls
    assert dls.vocab == ['<50k', '>=50k'] and dls.cat_names[-1] == 'education-num_na' and len(dls.classes['education']) == 17
    assert [e.num_embeddings for e in adult.model.embeds] == [len(dls.classes[c]) for c in dls.cat_names]


# chapter 9

dep_var = 'SalePrice'
sizes = 'Large','Large / Medium','Medium','Small','Mini','Compact'


def auctions(n=1500):
    rng = np.random.default_rng(42)
    size, year = rng.integers(0, 6, n), rng.integers(1970, 2011, n)
    days = rng.integers(0, 4000, n)
    price = np.exp(11 - .25*size + .03*(year - 1990) - days/20000 + rng.normal(0, .1, n))
    return pd.DataFrame({'SalesID': np.arange(n)*7, dep_var: price.round(), 'MachineID': rng.integers(0, 10**6, n),
        'YearMade': np.where(rng.random(n) < .05, 1000, year), 'MachineHoursCurrentMeter': np.where(rng.random(n) < .6, np.nan, rng.integers(0, 9000, n)),
        'saledate': (pd.Timestamp('2001-01-01') + pd.to_timedelta(days, unit='D')).strftime('%m/%d/%Y 0:00'),
        'ProductSize': [sizes[i] if rng.random() > .3 else None for i in size], 'state': rng.choice(['Texas', 'Ohio', 'Iowa'], n),
        'ProductGroup': rng.choice(['WL', 'SSL', 'TTT'], n), 'Drive_System': rng.choice(['Two Wheel Drive', 'Four Wheel Drive', None], n),
        'Enclosure': rng.choice(['OROPS', 'EROPS', 'EROPS w AC'], n)})


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp('bluebook')
    auctions().to_csv(path/'TrainAndValid.csv', index=False)
    return path


@pytest.fixture(scope='module')
def df(path):
    df = pd.read_csv(path/'TrainAndValid.csv', low_memory=False)
    df['ProductSize'] = df['ProductSize'].astype('category')
    df['ProductSize'] = df['ProductSize'].cat.set_categories(sizes, ordered=True) # pandas has no `inplace` here any more
    df[dep_var] = np.log(df[dep_var])
    df = add_datepart(df, 'saledate')
    return df


@pytest.fixture(scope='module')
def splits(df):
    cond = (df.saleYear<2010) | (df.saleMonth<10)
    train_idx = np.where( cond)[0]
    valid_idx = np.where(~cond)[0]

    splits = (list(train_idx),list(valid_idx))
    return splits


@pytest.fixture(scope='module')
def to(df, splits):
    procs = [Categorify, FillMissing]
    cont,cat = cont_cat_split(df, 1, dep_var=dep_var)
    to = TabularPandas(df, procs, cat, cont, y_names=dep_var, splits=splits)
    return to


def test_chapter_9_dates(df):
    assert ' '.join(o for o in df.columns if o.startswith('sale')) == ('saleYear saleMonth saleWeek saleDay saleDayofweek saleDayofyear saleIs_month_end saleIs_month_start '
        'saleIs_quarter_end saleIs_quarter_start saleIs_year_end saleIs_year_start saleElapsed')


def test_chapter_9_tabular_pandas(to, df, splits, capsys):
    assert type(to) is TabularPandas
    assert (len(to.train),len(to.valid)) == (len(splits[0]), len(splits[1]))
    to.show(3)
    assert 'EROPS' in capsys.readouterr().out
    to1 = TabularPandas(df, [Categorify, FillMissing], ['state', 'ProductGroup', 'Drive_System', 'Enclosure'], [], y_names=dep_var, splits=splits)
    to1.show(3)
    assert to.items.head(3).shape[0] == 3
    assert set(to1.items[['state', 'ProductGroup', 'Drive_System', 'Enclosure']].head(3).dtypes) == {np.dtype('int8')}
    assert to.classes['ProductSize'] == ['#na#', 'Large', 'Large / Medium', 'Medium', 'Small', 'Mini', 'Compact']


def test_chapter_9_trees(to, path):
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.tree import DecisionTreeRegressor
    save_pickle(path/'to.pkl',to)
    to = load_pickle(path/'to.pkl')
    xs,y = to.train.xs,to.train.y
    valid_xs,valid_y = to.valid.xs,to.valid.y
    m = DecisionTreeRegressor(max_leaf_nodes=4)
    m.fit(xs, y);

    def r_mse(pred,y): return round(math.sqrt(((pred-y)**2).mean()), 6)
    def m_rmse(m, xs, y): return r_mse(m.predict(xs), y)
    assert m_rmse(m, xs, y) < y.std()

    def rf(xs, y, n_estimators=40, max_samples=200_000, max_features=0.5, min_samples_leaf=5, **kwargs):
        return RandomForestRegressor(n_jobs=1, n_estimators=n_estimators, max_samples=max_samples, max_features=max_features,
                                     min_samples_leaf=min_samples_leaf, oob_score=True).fit(xs, y)
    m = rf(xs, y, n_estimators=20, max_samples=500)
    assert m_rmse(m, valid_xs, valid_y) < valid_y.std()

    def rf_feat_importance(m, df):
        return pd.DataFrame({'cols':df.columns, 'imp':m.feature_importances_}).sort_values('imp', ascending=False)
    fi = rf_feat_importance(m, xs)
    to_keep = fi[fi.imp>0.005].cols
    assert {'YearMade', 'ProductSize'} <= set(to_keep)

    xs.loc[xs['YearMade']<1900, 'YearMade'] = 1950
    valid_xs.loc[valid_xs['YearMade']<1900, 'YearMade'] = 1950
    assert xs['YearMade'].min() == 1950

    p = valid_xs['ProductSize'].value_counts(sort=False).plot.barh()
    c = to.classes['ProductSize']
    plt.yticks(range(len(c)), c);
    plt.close('all')

    df_dom = pd.concat([xs, valid_xs])
    is_valid = np.array([0]*len(xs) + [1]*len(valid_xs))
    m = rf(df_dom, is_valid, n_estimators=20, max_samples=500)
    assert 'saleElapsed' in set(rf_feat_importance(m, df_dom)[:6].cols)


def test_chapter_9_network(path, splits):
    df_nn = pd.read_csv(path/'TrainAndValid.csv', low_memory=False)
    df_nn['ProductSize'] = df_nn['ProductSize'].astype('category')
    df_nn['ProductSize'] = df_nn['ProductSize'].cat.set_categories(sizes, ordered=True)
    df_nn[dep_var] = np.log(df_nn[dep_var])
    df_nn = add_datepart(df_nn, 'saledate')
    df_nn_final = df_nn[['YearMade', 'ProductSize', 'Enclosure', 'saleElapsed', 'ProductGroup', 'saleDayofyear'] + [dep_var]]
    cont_nn,cat_nn = cont_cat_split(df_nn_final, max_card=9000, dep_var=dep_var)
    cont_nn.append('saleElapsed')
    cat_nn.remove('saleElapsed')
    assert df_nn_final[cat_nn].nunique()['Enclosure'] == 3

    procs_nn = [Categorify, FillMissing, Normalize]
    to_nn = TabularPandas(df_nn_final, procs_nn, cat_nn, cont_nn,
                          splits=splits, y_names=dep_var)
    dls = to_nn.dataloaders(256)
    y = to_nn.train.y
    assert 8 < y.min() and y.max() < 12.5

    set_seed(42)
    learn = tabular_learner(dls, y_range=(8,12), layers=[500,250],
                            n_out=1, loss_func=F.mse_loss)
    with learn.no_bar():
        learn.lr_find(show_plot=False, num_it=20)
        learn.fit_one_cycle(5, 1e-2)
        preds,targs = learn.get_preds()
    def r_mse(pred,y): return round(math.sqrt(((pred-y)**2).mean()), 6)
    assert preds.shape == targs.shape == (len(splits[1]), 1)
    assert r_mse(preds,targs) < to_nn.valid.y.std()
    learn.path = path
    learn.save('nn')
    learn.load('nn')

    rf_preds = np.full(len(preds), y.mean())
    ens_preds = (to_np(preds.squeeze()) + rf_preds) /2
    assert r_mse(preds.squeeze().numpy(), to_nn.valid.y) < r_mse(ens_preds, to_nn.valid.y) < r_mse(rf_preds, to_nn.valid.y)    # between the net and a constant


# chapter 15: what it says of TabularModel

def test_chapter_15_tabular_model(adult):
    import inspect
    assert list(inspect.signature(TabularModel.__init__).parameters) == ['self', 'emb_szs', 'n_cont', 'out_sz', 'layers', 'ps', 'embed_p', 'y_range', 'use_bn', 'bn_final',
                                                                        'bn_cont', 'act_cls', 'lin_first']
    self, (x_cat, x_cont, _) = adult.model.eval(), adult.dls.one_batch()
    expected = self(x_cat, x_cont)
    if self.n_emb != 0:
        x = [e(x_cat[:,i]) for i,e in enumerate(self.embeds)]
        x = torch.cat(x, 1)
        x = self.emb_drop(x)
    if self.n_cont != 0:
        if self.bn_cont is not None: x_cont = self.bn_cont(x_cont)
        x = torch.cat([x, x_cont], 1) if self.n_emb != 0 else x_cont
    assert torch.equal(self.layers(x), expected)

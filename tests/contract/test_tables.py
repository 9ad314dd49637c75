"""Tables: one line to a loader and a network, the steps behind it, trees on the same numbers, and a network for prices."""
import pytest

from fastbook_impl.fastbook import *
from fastbook_impl.tabular.all import *

GRADES = ['poor', 'fair', 'good', 'mint']
PRICE = 'paid'


@pytest.fixture(scope='module')
def income():
    "A trained network for the census."
    path = untar_data(URLs.ADULT_SAMPLE)
    data = TabularDataLoaders.from_csv(path/'adult.csv', path=path, y_names='salary', cat_names=['education', 'occupation', 'marital-status', 'race'],
                                       cont_names=['age', 'education-num', 'hours-per-week'], procs=[Categorify, FillMissing, Normalize])
    set_seed(42)
    learner = tabular_learner(data, metrics=accuracy)
    with learner.no_bar(), learner.no_logging(): learner.fit_one_cycle(2)
    return learner


def bikes(n=1200):
    "Used bicycles: what was paid rises with grade and age, and fell over the years."
    rng = np.random.default_rng(11)
    grade, built, day = rng.integers(0, 4, n), rng.integers(1990, 2020, n), rng.integers(0, 2500, n)
    paid = np.exp(5 + .4*grade + .03*(built - 2000) - day/5000 + rng.normal(0, .1, n))
    return pd.DataFrame({'code': np.arange(n) + 5000, PRICE: paid.round(2), 'built': np.where(rng.random(n) < .04, 0, built),
                         'gears': np.where(rng.random(n) < .3, np.nan, rng.integers(1, 28, n)),
                         'sold': (pd.Timestamp('2012-03-01') + pd.to_timedelta(day, unit='D')).strftime('%Y-%m-%d'),
                         'grade': [GRADES[g] if rng.random() > .2 else None for g in grade], 'town': rng.choice(['Ulm', 'Gent', 'Lund'], n),
                         'frame': rng.choice(['steel', 'alu', None], n)})


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('bikes')
    bikes().to_csv(folder/'sales.csv', index=False)
    return folder


def prepared(folder):
    sales = pd.read_csv(folder/'sales.csv', low_memory=False)
    sales['grade'] = sales['grade'].astype('category').cat.set_categories(GRADES, ordered=True)
    sales[PRICE] = np.log(sales[PRICE])
    return add_datepart(sales, 'sold')


@pytest.fixture(scope='module')
def sales(folder): return prepared(folder)


@pytest.fixture(scope='module')
def splits(sales):
    late = (sales.soldYear == 2018) | (sales.soldYear == 2017) & (sales.soldMonth > 6)
    return list(np.where(~late)[0]), list(np.where(late)[0])


@pytest.fixture(scope='module')
def table(sales, splits):
    continuous, categories = cont_cat_split(sales, 1, dep_var=PRICE)
    return TabularPandas(sales, [Categorify, FillMissing], categories, continuous, y_names=PRICE, splits=splits)


def rmse(preds, truth): return float(np.sqrt(((np.asarray(preds) - np.asarray(truth))**2).mean()))


# one line

def test_a_network_for_a_table_learns_more_than_the_commonest_answer(income):
    assert len(income.recorder.values) == 2 and income.recorder.values[-1][2] > .78


def test_loaders_of_a_table_know_targets_categories_and_what_was_missing(income):
    data = income.dls
    assert list(data.vocab) == ['<50k', '>=50k']
    assert list(data.cat_names) == ['education', 'occupation', 'marital-status', 'race', 'education-num_na']
    assert data.classes['education'][0] == '#na#' and len(data.classes['education-num_na']) == 3


def test_every_category_has_an_embedding_of_its_classes(income):
    assert [e.num_embeddings for e in income.model.embeds] == [len(income.dls.classes[name]) for name in income.dls.cat_names]


def test_a_row_of_a_table_is_predicted(income):
    row, label, probs = income.predict(pd.read_csv(income.dls.path/'adult.csv').iloc[3])
    assert probs.shape == (2,) and int(label) == int(probs.argmax())


# dates, columns, parts

def test_a_date_becomes_thirteen_columns(sales):
    parts = ['Year', 'Month', 'Week', 'Day', 'Dayofweek', 'Dayofyear', 'Is_month_end', 'Is_month_start', 'Is_quarter_end', 'Is_quarter_start', 'Is_year_end', 'Is_year_start', 'Elapsed']
    assert [o for o in sales.columns if o.startswith('sold')] == [f'sold{part}' for part in parts]


def test_columns_with_few_values_are_categories(sales):
    continuous, categories = cont_cat_split(sales, 1, dep_var=PRICE)
    assert {'grade', 'town', 'frame', 'soldIs_month_end'} <= set(categories) and {'code', 'built', 'gears'} <= set(continuous)
    assert PRICE not in continuous + categories
    continuous, categories = cont_cat_split(sales, max_card=40, dep_var=PRICE)
    assert 'built' in categories and 'code' in continuous
    assert isinstance(continuous, list) and isinstance(categories, list)


def test_a_table_has_a_part_for_training_and_one_for_validation(table, splits):
    assert type(table) is TabularPandas
    assert (len(table.train), len(table.valid)) == tuple(map(len, splits))


def test_a_table_shows_names_and_holds_numbers(table, capsys):
    table.show(4)
    said = capsys.readouterr().out
    assert any(town in said for town in ('Ulm', 'Gent', 'Lund'))
    assert str(table.items['town'].dtype) == 'int8' and table.items.head(2).shape[0] == 2


def test_ordered_categories_keep_their_order(table): assert list(table.classes['grade']) == ['#na#', *GRADES]


def test_gaps_are_filled_with_the_median_and_noted(table, sales, splits):
    assert 'gears_na' in table.cat_names
    assert not table.xs['gears'].isna().any()
    gap = next(i for i in splits[0] if np.isnan(sales['gears'].iloc[i]))
    assert table.train.xs['gears'].loc[gap] == sales['gears'].iloc[splits[0]].median()


def test_columns_can_be_named_and_none_be_continuous(sales, splits, capsys):
    small = TabularPandas(sales, [Categorify, FillMissing], ['town', 'frame'], [], y_names=PRICE, splits=splits)
    small.show(2)
    assert list(small.xs.columns) == ['town', 'frame'] and small.cont_names == []
    assert 'Ulm' in small.classes['town'] and set(map(str, small.items[['town', 'frame']].dtypes)) == {'int8'}


# trees

def test_a_table_is_saved_and_loaded_whole(table, tmp_path):
    save_pickle(tmp_path/'table.pkl', table)
    again = load_pickle(tmp_path/'table.pkl')
    pd.testing.assert_frame_equal(again.train.xs, table.train.xs)
    assert (again.valid.y == table.valid.y).all()


def test_numbers_and_targets_fit_a_tree_and_a_forest(table):
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.tree import DecisionTreeRegressor
    xs, y, held, truth = table.train.xs, table.train.y, table.valid.xs, table.valid.y
    tree = DecisionTreeRegressor(max_leaf_nodes=5).fit(xs, y)
    assert rmse(tree.predict(xs), y) < y.std()
    forest = RandomForestRegressor(n_jobs=1, n_estimators=15, max_samples=400, max_features=.6, min_samples_leaf=4, oob_score=True, random_state=0).fit(xs, y)
    assert rmse(forest.predict(held), truth) < truth.std()
    weight = pd.Series(forest.feature_importances_, index=xs.columns).sort_values(ascending=False)
    assert {'built', 'grade'} <= set(weight.index[:5])


def test_a_column_of_numbers_can_be_corrected(table):
    xs = table.train.xs.copy()
    xs.loc[xs['built'] < 1900, 'built'] = 1985
    assert xs['built'].min() == 1985 and len(xs) == len(table.train)


def test_counts_of_classes_are_drawn_with_their_names(table):
    table.valid.xs['grade'].value_counts(sort=False).plot.barh()
    names = table.classes['grade']
    plt.yticks(range(len(names)), names)
    assert [o.get_text() for o in plt.gca().get_yticklabels()] == list(names)


# a network for prices

def test_a_network_predicts_prices_within_a_range(folder, splits, tmp_path):
    sales = prepared(folder)[['built', 'grade', 'frame', 'soldElapsed', 'soldDayofyear', PRICE]]
    continuous, categories = cont_cat_split(sales, max_card=500, dep_var=PRICE)
    if 'soldElapsed' in categories: categories.remove('soldElapsed')
    if 'soldElapsed' not in continuous: continuous.append('soldElapsed')
    table = TabularPandas(sales, [Categorify, FillMissing, Normalize], categories, continuous, splits=splits, y_names=PRICE)
    assert table.train.xs['soldElapsed'].mean() == pytest.approx(0, abs=1e-3)
    set_seed(1)
    learner = tabular_learner(table.dataloaders(128), y_range=(3, 8), layers=[60, 30], n_out=1, loss_func=F.mse_loss)
    with learner.no_bar(), learner.no_logging():
        learner.lr_find(show_plot=False, num_it=10)
        learner.fit_one_cycle(8, 1e-2)
        preds, truth = learner.get_preds()
    assert preds.shape == truth.shape == (len(splits[1]), 1) and 3 <= preds.min() and preds.max() <= 8
    assert rmse(preds, truth) < table.valid.y.std()
    assert to_np(preds.squeeze()).shape == (len(splits[1]),)

    learner.path = tmp_path
    learner.save('prices')
    kept = {k: v.clone() for k, v in learner.model.state_dict().items()}
    for p in learner.model.parameters(): p.data.zero_()
    learner.load('prices')
    for k, v in learner.model.state_dict().items(): assert torch.equal(kept[k], v)


# inside the network

def test_a_tabular_model_takes_its_parts_in_this_order():
    assert list(inspect.signature(TabularModel).parameters) == ['emb_szs', 'n_cont', 'out_sz', 'layers', 'ps', 'embed_p', 'y_range', 'use_bn', 'bn_final', 'bn_cont', 'act_cls', 'lin_first']


def test_a_tabular_model_is_embeddings_and_numbers_through_layers(income):
    model = income.model.eval()
    categories, numbers, _ = income.dls.one_batch()
    embedded = model.emb_drop(torch.cat([table(categories[:, i]) for i, table in enumerate(model.embeds)], dim=1))
    together = torch.cat([embedded, model.bn_cont(numbers)], dim=1)
    assert torch.equal(model(categories, numbers), model.layers(together))
    assert (model.n_emb, model.n_cont) == (embedded.shape[1], numbers.shape[1])

"Tables: what becomes of columns and rows, of rows that come later, and what is said about tables that cannot be learned from."
import re
import warnings

import numpy as np
import pytest
import torch

from fastbook_impl.tabular.all import *

PROCS = [Categorify, FillMissing, Normalize]


def says(sentence): return re.escape(sentence)


def table(n=60):
    rng = np.random.default_rng(0)
    df = pd.DataFrame({'kind': rng.choice(['red', 'green', 'blue'], n), 'flag': rng.random(n) < .5, 'size': rng.normal(50, 10, n), 'count': rng.integers(0, 200, n)})
    df.loc[::7, 'size'] = np.nan
    df.loc[::11, 'kind'] = None
    return df.assign(label=np.where(df['count'] > 100, 'many', 'few'), price=df['count']*2. + 1)


def split(n=60, k=48): return range(k), range(k, n)


def tabular(df=None, procs=PROCS, cat=('kind', 'flag'), cont=('size', 'count'), y='label', **kwargs):
    df = table() if df is None else df
    return TabularPandas(df, procs, list(cat), list(cont), y, **{'splits': split(len(df), len(df)*4//5), **kwargs})


def loaders(bs=8, **kwargs): return tabular(**kwargs).dataloaders(bs=bs, device='cpu')


@pytest.fixture(scope='module')
def learn():
    set_seed(42)
    learn = tabular_learner(loaders(), layers=[20, 10], metrics=accuracy)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(12, 2e-2)
    return learn


# columns and rows

def test_the_table_that_was_given_stays_as_it_was():
    df = table()
    before = df.copy(deep=True)
    to = tabular(df)
    pd.testing.assert_frame_equal(df, before)
    to.items.loc[:, 'size'] = 0
    pd.testing.assert_frame_equal(df, before)


def test_inplace_changes_it():
    df = table()
    to = TabularPandas(df, Categorify, 'kind', inplace=True)
    assert to.items is df and df.kind.isin([0, 1, 2, 3]).all()


def test_procs_learn_from_training_rows_only():
    df = table()
    df.loc[50, 'kind'], df.loc[51, 'count'] = 'violet', 10**6
    to = tabular(df)
    assert to.classes['kind'] == ['#na#', 'blue', 'green', 'red']
    assert to.means['count'] == pytest.approx(df['count'][:48].mean()) and to.na_dict['size'] == pytest.approx(df['size'][:48].median(), rel=1e-6)
    assert to.valid.items.kind[50] == 0


def test_rows_are_those_of_the_splits_in_their_order():
    to = tabular(splits=([5, 3, 9], [8, 1]), procs=None)
    assert to.items.index.tolist() == [5, 3, 9, 8, 1] and to.valid.items.index.tolist() == [8, 1]
    assert len(to.train) == 3 and to.iloc[1:2].items.index.tolist() == [3]


def test_decoding_gives_the_rows_back():
    df = table()
    back = tabular(df).decode()
    for c in ('kind', 'flag', 'label', 'count'):
        told = df[c].notna()
        assert (back.items[c][told] == df[c][told]).all(), c
    assert set(back.items.kind[df.kind.isna()]) == {'#na#'}
    assert np.allclose(back.items['size'][df['size'].notna()], df['size'].dropna(), atol=1e-3)
    assert back.items['count'].dtype == df['count'].dtype
    assert back.decode().items.equals(back.items)


def test_texts_keep_their_spaces_and_categories_may_be_of_any_kind():
    to = TabularPandas(pd.DataFrame({'a': [' x', 'x', 'x '], 'b': [1.5, 2.5, np.nan], 'c': [True, None, 3], 'd': pd.to_datetime(['2020-01-01', None, '2020-01-02'])}), Categorify, list('abcd'))
    assert len(to.classes['a']) == 4 and to.items.a.nunique() == 3
    assert to.classes['b'] == ['#na#', 1.5, 2.5] and to.items.b.tolist() == [1, 2, 0]
    assert to.items.c[1] == 0 and to.items.c[0] != to.items.c[2] and to.items.d.tolist() == [1, 0, 2]


def test_many_categories_do_not_overflow():
    n = 300
    to = TabularPandas(pd.DataFrame({'a': [f'{i:03}' for i in range(n)]}), Categorify, 'a')
    assert to.items.a.tolist() == list(range(1, n + 1))


@pytest.mark.parametrize('kind', ['string', 'str', object, 'category'])
def test_every_way_that_pandas_keeps_texts(kind):
    df = table().astype({'kind': kind, 'label': kind})
    to = tabular(df)
    assert to.classes['kind'][1:] == ['blue', 'green', 'red'] and to.vocab == ['few', 'many']
    assert to.dataloaders(bs=8).one_batch()[0].shape == (8, 3)


@pytest.mark.parametrize('kind', ['Int64', 'int16', 'uint8', 'float64', object, 'str'])
def test_every_way_that_pandas_keeps_numbers(kind):
    df = table()
    to = tabular(df.astype({'count': kind}))
    assert np.allclose(to.conts['count'], tabular(df).conts['count'], atol=1e-5)


def test_gaps_are_filled_as_asked():
    df = pd.DataFrame({'a': [1., 1., 5., np.nan]})
    fills = {s: TabularPandas(df, FillMissing(getattr(FillStrategy, s), fill_vals={'a': -7}), cont_names='a').items.a[3] for s in ('median', 'mode', 'constant')}
    assert fills == {'median': 1, 'mode': 1, 'constant': -7}
    assert 'a_na' not in TabularPandas(df, FillMissing(add_col=False), cont_names='a').items


def test_categories_with_an_order_keep_it():
    sizes = ['S', 'M', 'L']
    df = pd.DataFrame({'s': pd.Categorical(['L', 'S', 'M'], sizes, ordered=True)})
    assert TabularPandas(df, Categorify, 's').items.s.tolist() == [3, 1, 2]


# dates

def test_dates():
    df = add_datepart(pd.DataFrame({'when': ['2024-02-29 13:30:05', '2023-12-31 00:00:00']}), 'when', time=True)
    first, last = df.to_dict('records')
    assert first | {'whenWeek': 9, 'whenDayofyear': 60, 'whenHour': 13, 'whenMinute': 30, 'whenSecond': 5, 'whenElapsed': 1709213405} == first
    assert last['whenIs_year_end'] and last['whenWeek'] == 52 and 'when' not in df
    assert add_datepart(pd.DataFrame({'saleDate': ['2024-01-01']}), 'saleDate', drop=False).columns[0] == 'saleDate'
    with pytest.raises(KeyError, match=says("the table has no column 'wen'; did you mean 'when'?")): add_datepart(pd.DataFrame({'when': []}), 'wen')


# batches

def test_every_row_comes_once_in_an_epoch_and_rows_stay_together():
    df = pd.DataFrame({'a': range(100), 'b': [float(i) for i in range(100)], 'y': [i % 2 for i in range(100)]})
    dls = TabularPandas(df, [Categorify], 'a', 'b', 'y', y_block=CategoryBlock(), splits=split(100, 80)).dataloaders(bs=9, drop_last=False)
    epochs = [[torch.cat(o) for o in zip(*dls.train)] for _ in range(2)]
    for cats, conts, ys in epochs:
        assert sorted(conts[:, 0].tolist()) == list(range(80))
        assert (cats[:, 0] == conts[:, 0] + 1).all() and (ys[:, 0] == conts[:, 0] % 2).all()
    assert not torch.equal(epochs[0][1], epochs[1][1])
    assert [len(b[0]) for b in dls.train] == [9]*8 + [8] and torch.cat([b[1] for b in dls.valid])[:, 0].tolist() == list(range(80, 100))


def test_an_epoch_longer_than_one_portion(monkeypatch):
    monkeypatch.setattr(TabDataLoader, '_at_once', 20)
    dls = tabular().dataloaders(bs=7, drop_last=False)
    assert [len(b[0]) for b in dls.train] == [7]*6 + [6]
    assert [len(b[0]) for b in tabular().dataloaders(bs=7).train] == [7]*6


def test_loaders_obey_seed_n_and_batch_hooks():
    dls = loaders()
    def epoch(): set_seed(3); return torch.cat([b[1] for b in dls.train])
    assert torch.equal(epoch(), epoch())
    assert sum(len(b[0]) for b in dls.train.new(n=16)) == 16
    class Mute(ItemTransform):
        def encodes(self, b): return b[0], b[1]*0, b[2]
    assert tabular().dataloaders(bs=8, device='cpu', after_batch=Mute).one_batch()[1].abs().sum() == 0
    one_by_one = list(dls.valid.new(bs=None))
    assert len(one_by_one) == 12 and one_by_one[0][0].shape == (3,)


def test_batches_go_where_they_are_sent(monkeypatch):
    assert tabular(device='meta').dataloaders(bs=8).one_batch()[0].device.type == 'meta'
    assert tabular().dataloaders(bs=8, device='meta').one_batch()[1].device.type == 'meta'
    monkeypatch.setattr('fastbook_impl.tabular.core._max_resident', 10) # too large to be moved in one piece
    dls = tabular().dataloaders(bs=8, device='meta')
    assert dls.train._whole()[0].device.type == 'cpu' and dls.one_batch()[0].device.type == 'meta'


@pytest.mark.medium
def test_importing_it_loads_neither_pandas_nor_matplotlib():
    import subprocess, sys
    code = "import sys; from fastbook_impl.tabular.all import *; sys.exit(any(m in sys.modules for m in ('pandas', 'matplotlib', 'sklearn', 'torchvision')))"
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0


def test_one_kind_of_column_is_enough():
    for cat, cont in (((), ('count',)), (('kind',), ())):
        learn = tabular_learner(loaders(cat=cat, cont=cont), layers=[5])
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
        assert learn.get_preds()[0].shape == (12, 2)


# learners

def test_it_learns_predicts_and_shows(learn, capsys):
    assert learn.recorder.values[-1][2] > .8
    row = table().iloc[50]
    shown, number, probs = learn.predict(row)
    assert shown.items.label[0] == learn.dls.vocab[number] and probs.sum() == pytest.approx(1, abs=1e-5)
    preds = learn.get_preds()[0]
    assert torch.allclose(probs, preds[2], atol=1e-5)          # row 50 is the third of validation
    assert torch.allclose(learn.predict(row.to_dict())[2], probs)
    capsys.readouterr()
    shown.show(); learn.show_results(max_n=3); learn.dls.show_batch(max_n=3)
    text = capsys.readouterr().out
    assert 'label_pred' in text and ('many' in text or 'few' in text)


def test_new_rows(learn):
    df = table()[:3].drop(columns='label').assign(kind=['violet', 'red', None], count=[5, 190, 100])
    preds, targs = learn.get_preds(dl=learn.dls.test_dl(df))
    assert preds.shape == (3, 2) and targs is None
    assert preds.argmax(1).tolist()[:2] == [learn.dls.vocab.o2i['few'], learn.dls.vocab.o2i['many']]
    with_answer = learn.dls.test_dl(table()[:6])
    assert learn.get_preds(dl=with_answer)[1].shape == (6, 1) and learn.validate(dl=with_answer)[1] > .5
    assert learn.get_preds(dl=learn.dls.test_dl(table()[:6].assign(label='unheard of')))[1] is None
    assert learn.get_preds(dl=learn.dls.test_dl(table()[:6].assign(label=None)))[1] is None
    with pytest.raises(ValueError, match=says("the label 'unheard of' is not among the 2 classes")): learn.dls.test_dl(table()[:6].assign(label='unheard of'), with_labels=True)


def test_a_gap_where_training_had_none(learn):
    df = table()[:2].assign(count=[np.nan, 7.])
    dl = learn.dls.test_dl(df)
    assert 'count_na' not in dl.dataset.items and torch.isfinite(dl.one_batch()[1]).all()


def test_where_it_errs(learn):
    interp = ClassificationInterpretation.from_learner(learn)
    assert interp.confusion_matrix().sum() == 12
    losses, idxs = interp.top_losses(3)
    assert losses[0] >= losses[-1]


def test_numbers_and_several_numbers():
    learn = tabular_learner(loaders(y='price'), layers=[20], y_range=(0, 500), metrics=rmse)
    assert isinstance(learn.model.layers[-1], type(tabular_learner(loaders(y='price'), config=tabular_config(y_range=(0, 1))).model.layers[-1]))
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(2, 1e-2)
    preds, targs = learn.get_preds()
    assert preds.shape == targs.shape == (12, 1) and 0 <= preds.min() and preds.max() <= 500
    assert learn.predict(table().iloc[0])[0].items.price[0] == pytest.approx(float(learn.predict(table().iloc[0])[1]))
    two = tabular_learner(loaders(cont=['size'], y=['price', 'count']), layers=[20])
    with two.no_bar(), two.no_logging(): two.fit(1)
    assert two.get_preds()[0].shape == (12, 2)
    two.show_results(max_n=2)


def test_several_labels_in_columns_of_zeros_and_ones():
    df = table()
    df['a'], df['b'] = (df['count'] > 100)*1, (df['count'] > 50)*1
    to = TabularPandas(df, PROCS, ['kind'], ['size'], ['a', 'b'], y_block=MultiCategoryBlock(encoded=True, vocab=['a', 'b']), splits=split())
    learn = tabular_learner(to.dataloaders(bs=8), layers=[10], metrics=accuracy_multi)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    preds, targs = learn.get_preds()
    assert preds.shape == targs.shape == (12, 2) and 0 <= preds.min() <= preds.max() <= 1


def test_classes_written_as_numbers():
    df = table().assign(label=lambda d: (d['count'] > 100)*1)
    assert tabular(df).c == 1 and tabular(df).dataloaders(bs=8).one_batch()[2].dtype == torch.float32  # a regression, unless it is said otherwise
    to = tabular(df, y_block=CategoryBlock)
    assert to.c == 2 and to.vocab == [0, 1] and to.dataloaders(bs=8).one_batch()[2].dtype == torch.int64


def test_saved_and_loaded(learn, tmp_path):
    learn.path = tmp_path
    learn.save('table')
    other = tabular_learner(loaders(), layers=[20, 10], path=tmp_path).load('table')
    assert torch.equal(other.get_preds()[0], learn.get_preds()[0])


def test_pickled_by_the_reader():
    import pickle
    to = pickle.loads(pickle.dumps(tabular()))
    assert to.classes['kind'] == ['#na#', 'blue', 'green', 'red'] and len(to.valid) == 12


# the model

def test_widths_of_embeddings():
    to = tabular()
    assert get_emb_sz(to) == [(4, emb_sz_rule(4)), (3, 3), (3, 3)]
    assert [e.embedding_dim for e in tabular_learner(to.dataloaders(bs=8), emb_szs={'kind': 7}).model.embeds] == [7, 3, 3]
    with pytest.raises(KeyError, match=says("'kin' is not a categorical column")): get_emb_sz(to, {'kin': 2})


def test_layers_of_the_model():
    def kinds(**kwargs): return [[type(o).__name__ for o in group] if isinstance(group, nn.Sequential) else type(group).__name__ for group in TabularModel([(4, 3)], 2, 1, [6, 5], **kwargs).layers]
    assert kinds() == [['Linear', 'ReLU', 'BatchNorm1d'], ['Linear', 'ReLU', 'BatchNorm1d'], ['Linear']]
    assert kinds(ps=.5, lin_first=False, bn_final=True) == [['BatchNorm1d', 'Dropout', 'Linear', 'ReLU']]*2 + [['BatchNorm1d', 'Linear']]
    assert kinds(use_bn=False, y_range=(0, 1)) == [['Linear', 'ReLU'], ['Linear', 'ReLU'], ['Linear'], 'SigmoidRange']
    assert [g[0].p for g in TabularModel([(4, 3)], 2, 1, [6, 5], ps=[.1, .2], use_bn=False, lin_first=False).layers[:2]] == [.1, .2]
    assert TabularModel([], 2, 1, [3], bn_cont=False).bn_cont is None
    with pytest.raises(ValueError, match=says('no inputs: pass cat_names or cont_names')): TabularModel([], 0, 1, [5])


def test_gradients_reach_every_part():
    model = TabularModel([(4, 3), (5, 2)], 2, 1, [6])
    model(torch.tensor([[1, 2], [3, 4]]), torch.randn(2, 2)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.embeds[0].weight.grad[[0, 2]].abs().sum() == 0


# tables that cannot be learned from

@pytest.mark.parametrize('kwargs,error,sentence', [
    (dict(cat=['knid']), KeyError, "the table has no column 'knid'; did you mean 'kind'?"),
    (dict(cont=['weight']), KeyError, "the table has no column 'weight'; it has 'kind', 'flag', 'size', 'count', 'label', 'price'"),
    (dict(y='lable'), KeyError, "the table has no column 'lable'; did you mean 'label'?"),
    (dict(cat=['kind', 'label']), ValueError, "'label' is the target and also in cat_names"),
    (dict(cont=['price'], y='price'), ValueError, "'price' is the target and also in cont_names"),
    (dict(cat=['count']), ValueError, "'count' is in cat_names and in cont_names"),
    (dict(cat=['flag'], cont=['kind']), ValueError, "the column 'kind' is in cont_names but contains a non-numeric value: "),
    (dict(splits=(range(30), range(28, 60))), ValueError, 'the splits overlap: 2 rows occur more than once, such as row 28'),
    (dict(splits=(range(30), range(30, 61))), IndexError, 'splits contain row 60, but the table has 60 rows: pass positions from 0 to 59'),
    (dict(cat=['kind'], y=['label', 'flag']), ValueError, "y_names has 2: 'label', 'flag'. For several columns of zeros and ones pass y_block=MultiCategoryBlock(encoded=True, vocab=y_names)"),
    (dict(y_block=MultiCategoryBlock()), TypeError, 'targets encoded by MultiCategorize: pass y_block='),
])
def test_wrong_descriptions(kwargs, error, sentence):
    with pytest.raises(error, match=says(sentence)): tabular(**{'cat': ['kind', 'flag'], 'cont': ['size', 'count'], **kwargs})


def bad(**columns): return table().assign(**columns)


@pytest.mark.parametrize('df,error,sentence', [
    (table().assign(label=table().label.mask(table().index % 25 == 3)), ValueError, "3 of 60 labels are missing in the column 'label' (rows 3, 28, 53): drop these rows with df.dropna(subset=['label'])"),
    (bad(count=[np.inf] + [1.]*59), ValueError, "the column 'count' has 1 infinite value, first in row 0"),
    (bad(size=np.nan), ValueError, "the column 'size' is empty in all training rows, so no fill value can be computed: remove it from cont_names"),
    (bad(count=pd.Timestamp('2020-01-01')), ValueError, "the column 'count' is in cont_names but contains dates: convert them with add_datepart"),
    (table()[:0], ValueError, 'the table has no rows'),
    (pd.concat([table(), table()[['kind']]], axis=1), ValueError, "the table has 2 columns named 'kind': rename them, or drop all but one"),
    (table().assign(label=['few']*50 + ['many']*10), ValueError, "the label 'many' is not among the 1 classes of the training set: 'few'"),
    ([1, 2], TypeError, 'a pandas DataFrame, got a list'),
])
def test_wrong_tables(df, error, sentence):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises(error, match=says(sentence)): tabular(df)


def test_infinite_targets():
    with pytest.raises(ValueError, match=says("the column 'price' has 2 infinite values, first in row 4")): tabular(table().assign(price=lambda d: d.price.where(~d.index.isin([4, 9]), np.inf)), y='price')


def test_words_that_are_to_be_numbers():
    with pytest.raises(ValueError, match=says("the column 'label' is a regression target but contains a non-numeric value: 'few' in row 0. For classes pass y_block=CategoryBlock()")):
        tabular(table().assign(label='few'), y_block=RegressionBlock)


def test_rows_with_the_same_name_are_different_rows():
    to = tabular(pd.concat([table(), table()]))
    assert to.decode().items.label.tolist() == [*table().label]*2


def test_a_constant_column_is_shifted_and_said():
    with pytest.warns(UserWarning, match=says("the column 'count' has the same value, 7, in all training rows, so it is not scaled: remove it from cont_names")):
        to = tabular(table().assign(count=[7]*48 + [8]*12))
    assert to.train.conts['count'].eq(0).all() and to.valid.conts['count'].eq(1).all()


def test_an_empty_categorical_column_is_said():
    with pytest.warns(UserWarning, match=r"the column 'kind' is empty in all training rows .*remove it from cat_names"): to = tabular(table().assign(kind=None))
    assert to.items.kind.eq(0).all()


def test_a_proc_that_is_lacking_is_named():
    with pytest.raises(ValueError, match="the column 'size' has 7 missing values.* add FillMissing to procs"): loaders(procs=[Categorify]).one_batch()
    with pytest.raises(ValueError, match="the column 'kind' has type .* needs numbers: add Categorify to procs"): loaders(procs=[FillMissing]).one_batch()
    with pytest.raises(ValueError, match=says('the categories of the columns are unknown: add Categorify to procs')): tabular_learner(loaders(procs=[FillMissing], cat=['flag']))


def test_batches_larger_than_the_table():
    with pytest.raises(ValueError, match='48 items, fewer than one batch of 64.*bs=24.*drop_last=False'):
        tabular().dataloaders()


def test_wrong_new_rows(learn):
    dls = learn.dls
    with pytest.raises(KeyError, match=says("the table has no column 'kind'; it has 'flag', ")): dls.test_dl(table().drop(columns='kind'))
    with pytest.raises(ValueError, match=says("the column 'count' has 1 infinite value, first in row 1")): dls.test_dl(table()[:3].assign(count=[1., np.inf, 2.]))
    with pytest.raises(ValueError, match=says("the column 'count' is in cont_names but contains a non-numeric value: 'lots' in row 0")): learn.predict({**table().iloc[0], 'count': 'lots'})
    with pytest.raises(ValueError, match='no rows to predict: pass a table with at least one row'): dls.test_dl(table()[:0])
    with pytest.raises(TypeError, match='pandas DataFrame, a Series or a dict, got a list'): dls.test_dl([1, 2])


def test_splits_that_are_none():
    with pytest.raises(TypeError, match=says('got a function: call it with the table, as in splits=RandomSplitter()(df)')): tabular(splits=RandomSplitter())
    with pytest.raises(TypeError, match=says('splits must be two lists of row positions, one for training and one for validation: pass splits=(train, valid)')): tabular(splits=list(range(40)))
    mask = table()['count'] > 50
    with pytest.raises(TypeError, match=says('got a mask of True and False: convert it with np.flatnonzero')): tabular(splits=(mask, ~mask))
    with pytest.raises(ValueError, match='the first of the splits is empty'): tabular(splits=([], [1, 2]))
    assert len(tabular(splits=(range(60), [])).valid) == 0


@pytest.mark.parametrize('valid_idx, error, said', [([100], IndexError, 'valid_idx names item 100, and there are 60, counted from 0'), ([3, -1], IndexError, 'valid_idx names item -1'),
    ([True, False]*30, TypeError, 'valid_idx holds True and False, and indices are expected: MaskSplitter takes a mask'), (range(60), ValueError, 'the first of the splits is empty')])
def test_validation_rows_that_are_not_there(valid_idx, error, said):
    with pytest.raises(error, match=says(said)): TabularDataLoaders.from_df(table(), procs=PROCS, y_names='label', valid_idx=valid_idx, bs=8)
    assert len(TabularDataLoaders.from_df(table(), procs=PROCS, y_names='label', valid_idx=np.array([0, 59]), bs=8).valid_ds) == 2


@pytest.mark.parametrize('block', ['category', CategoryBlock().type_tfms, 3])
def test_what_is_no_block(block):
    with pytest.raises(TypeError, match=r'y_block must be CategoryBlock, RegressionBlock or MultiCategoryBlock\(encoded=True, vocab=\[…\]\), got '): tabular(y_block=block)


@pytest.mark.parametrize('dates, bad', [(['blue', '2020-01-01'], "'blue' in row 0"), (['2020-01-01', None, 'tomorrow'], "'tomorrow' in row 2"), (['2020-01-01', '3/4/2020'], "'3/4/2020' in row 1")])
def test_dates_that_are_none(dates, bad):
    df = pd.DataFrame({'day': dates})
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')    # pandas guesses aloud
        with pytest.raises(ValueError, match=rf"column 'day' as dates: {says(bad)} is not a date.* pd\.to_datetime\(…, format=…\)"): add_datepart(df, 'day')
    assert df.columns.tolist() == ['day'] and df.equals(pd.DataFrame({'day': dates}))
    with pytest.raises(KeyError, match=says("the table has no column 'days'; did you mean 'day'?")): make_date(df, 'days')


def test_wrong_arguments_of_procs_and_models(learn):
    dls = learn.dls
    with pytest.raises(TypeError, match=says("FillStrategy.median, FillStrategy.mode or FillStrategy.constant, got 'median'")): FillMissing('median')
    with pytest.raises(TypeError, match=says('layers must be a list of hidden layer widths, such as [200, 100], got 200')): tabular_learner(dls, layers=200)
    with pytest.raises(TypeError, match=says('y_range must be a pair of the lowest and highest prediction, such as (0, 5), got 5')): tabular_learner(dls, y_range=5)
    with pytest.raises(TypeError, match=says('embedding widths must be a dict by column name, such as {"city": 8}, got [(4, 3)]')): tabular_learner(dls, emb_szs=[(4, 3)])
    with pytest.raises(TypeError, match="TabularModel has no argument 'dropout'; it has ps, embed_p"): tabular_learner(dls, config={'dropout': .5})
    with pytest.raises(TypeError, match='config must not contain layers: pass layers, .* to tabular_learner itself'): tabular_config(layers=[3])


def test_one_row_at_a_time(learn):
    with pytest.raises(ValueError, match=says('predict takes one row, got 3: for several rows call learn.get_preds(dl=learn.dls.test_dl(rows))')): learn.predict(table()[:3])
    assert torch.equal(learn.predict(table()[:1])[2], learn.predict(table().iloc[0])[2])


def test_learners_for_tables_only(learn):
    other = DataLoaders(DataLoader(range(10), bs=2), DataLoader(range(10), bs=2))
    with pytest.raises(TypeError, match='tabular_learner needs loaders of a TabularPandas, got loaders of a range'): tabular_learner(other)
    with pytest.raises(ValueError, match='the table has no target: pass y_names or n_out'): tabular_learner(loaders(y=None))
    with pytest.raises(TypeError, match="TabularModel has no argument 'dropout'"): tabular_config(dropout=.1)


# files

def write(path, data): path.write_bytes(data); return path


def test_from_csv(tmp_path):
    file = tmp_path/'t.csv'
    table().to_csv(file, index=False)
    dls = TabularDataLoaders.from_csv(file, procs=PROCS, y_names='label', bs=8)
    assert set(dls.cat_names) == {'kind', 'flag', 'size_na'} and set(dls.cont_names) == {'size', 'count', 'price'} and isinstance(dls, TabularDataLoaders)
    rest = TabularDataLoaders.from_csv(file, procs=PROCS, y_names='label', cat_names=['kind', 'flag'], bs=8, valid_idx=range(40, 60))
    assert set(rest.cont_names) == {'size', 'count', 'price'} and len(rest.valid_ds) == 20


def test_files_that_cannot_be_read(tmp_path):
    latin = write(tmp_path/'villes.csv', 'ville,habitants\nOrléans,116238\n'.encode('latin-1'))
    with pytest.raises(ValueError, match=r"villes\.csv is not UTF-8 \(byte 0xe9 in it, .*\): say how it was written, with encoding='cp1252'"): TabularDataLoaders.from_csv(latin, y_names='habitants')
    twice = write(tmp_path/'twice.csv', b'a,b,a\n1,2,3\n')
    with pytest.raises(ValueError, match=r"twice\.csv has two columns named 'a': rename one of them in the file"): TabularDataLoaders.from_csv(twice)
    fine = write(tmp_path/'fine.csv', b'a,a.1\n' + b'1,2\n3,4\n'*10)
    assert TabularDataLoaders.from_csv(fine, cont_names=['a', 'a.1'], bs=2).train_ds.items.shape == (16, 2)
    with pytest.raises(ValueError, match=r'empty\.csv is empty'): TabularDataLoaders.from_csv(write(tmp_path/'empty.csv', b''))
    with pytest.raises(FileNotFoundError, match='nowhere.csv'): TabularDataLoaders.from_csv(tmp_path/'nowhere.csv')


# the real table

def test_real_adult_within_reach_of_what_is_known(mirror, tmp_path, monkeypatch):
    monkeypatch.setenv('FASTBOOK_MIRROR', str(mirror)); monkeypatch.setenv('FASTBOOK_DATA', 'auto'); monkeypatch.setenv('FASTBOOK_HOME', str(tmp_path))
    path = untar_data(URLs.ADULT_SAMPLE)
    set_seed(0)
    dls = TabularDataLoaders.from_csv(path/'adult.csv', path=path, y_names='salary', cat_names=['workclass', 'education', 'marital-status', 'occupation', 'relationship', 'race'],
                                      cont_names=['age', 'fnlwgt', 'education-num'], procs=PROCS, valid_idx=range(26000, 32561), bs=256)
    learn = tabular_learner(dls, metrics=accuracy)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(2, 3e-3)
    assert learn.recorder.values[-1][2] > .825


# what the saved chapter measured

def test_the_chapter_about_tables(saved_figures):
    f = saved_figures('15d_tables')
    assert f['accuracy'] > .835 > f['always_no'] and f['embeddings'] > f['numbers_of_words'] + .03 > f['no_words'] + .05
    assert min(f['education'], f['occupation']) > .95

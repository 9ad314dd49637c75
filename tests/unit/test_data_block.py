"The data block: what it makes of few words, what it copies, and how it says what is wrong."
import re
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from fastcore.foundation import L

from fastbook_impl.data.block import CategoryBlock, DataBlock, MultiCategoryBlock, RegressionBlock, TransformBlock, merge_tfms
from fastbook_impl.data.core import TfmdDL
from fastbook_impl.data.transforms import (ColReader, ColSplitter, EndSplitter, IndexSplitter, IntToFloatTensor, ItemGetter, Normalize, RandTransform,
                                           RegexLabeller, ToTensor, Transform, using_attr)
from fastbook_impl.torch_core import TensorImage, set_seed


def _image(i): return TensorImage(torch.full((3, 4, 4), int(i), dtype=torch.uint8))
def _parity(i): return 'odd' if int(i) % 2 else 'even'
def _block(**kwargs): return DataBlock(**{'blocks': (TransformBlock(_image, batch_tfms=IntToFloatTensor), CategoryBlock), 'get_y': _parity, 'splitter': EndSplitter(), **kwargs})


@pytest.fixture
def table():
    return pd.DataFrame({'fname': [str(i) for i in range(6)], 'labels': ['a b', 'b', None, 'a', 'a b', 'b'], 'y': [.5]*6, 'is_valid': [False]*4 + [True]*2})


def test_a_bare_block_gives_rows_twice(table):
    dsets = DataBlock().datasets(table)
    x, y = dsets.train[0]
    assert len(dsets.train) == 5 and len(dsets.valid) == 1 and x.equals(y) and x['fname'] == str(x.name)


def test_lambdas_on_rows_as_in_the_book(table):
    dsets = DataBlock(get_x=lambda r: r['fname'], get_y=lambda r: r['labels']).datasets(table)
    assert all(isinstance(o, tuple) and len(o) == 2 for o in dsets.train)


def test_a_splitter_of_ones_own(table):
    def splitter(df): return df.index[~df['is_valid']].tolist(), df.index[df['is_valid']].tolist()
    dls = DataBlock(blocks=(TransformBlock(lambda f: _image(f)), MultiCategoryBlock), splitter=splitter, get_x=lambda r: r['fname'],
                    get_y=ColReader('labels', label_delim=' ')).dataloaders(table, bs=2, device='cpu')
    assert (len(dls.train_ds), len(dls.valid_ds), dls.vocab) == (4, 2, ['a', 'b'])
    assert dls.train_ds[2][1].tolist() == [0., 0.]
    idxs = torch.where(dls.train_ds[0][1] == 1.)[0]
    assert dls.train_ds.vocab[idxs] == ['a', 'b']


@pytest.mark.parametrize('workers', [0, 2])
def test_lambdas_and_workers(workers):
    set_seed(1)
    dls = _block(get_y=lambda i: 'big' if i > 5 else 'small').dataloaders(range(20), bs=4, num_workers=workers, device='cpu')
    set_seed(2)
    assert torch.cat([yb for _,yb in dls.train]).sum() == 6


def test_num_workers_change_nothing():
    class Noise(RandTransform):
        def encodes(self, x: TensorImage): return x + torch.randint(0, 99, x.shape, dtype=torch.uint8)
    def epoch(n):
        set_seed(1)
        return list(_block(item_tfms=Noise).dataloaders(range(20), bs=4, num_workers=n, device='cpu').train)
    for (xa, ya), (xb, yb) in zip(epoch(0), epoch(2), strict=True): assert torch.equal(xa, xb) and torch.equal(ya, yb)


def test_a_recipe_forgets_what_it_saw():
    block = DataBlock(blocks=(TransformBlock, CategoryBlock), splitter=IndexSplitter([0]), batch_tfms=Normalize())
    assert block.datasets(['a', 'b', 'a']).vocab == ['a', 'b']
    assert block.datasets(['x', 'y', 'x']).vocab == ['x', 'y']


def test_new_changes_the_copy():
    one = _block(item_tfms=Transform(lambda x: x))
    two = one.new(batch_tfms=Normalize.from_stats([.5], [.5], cuda=False))
    assert [t.name for t in two.batch_tfms] == ['IntToFloatTensor', 'Normalize'] and len(one.batch_tfms) == 1
    assert [t.name for t in two.item_tfms] == ['ToTensor'] and len(one.item_tfms) == 2


def test_of_each_class_the_last_wins_but_functions_and_lambdas_stay():
    a, b = Normalize(1, 1), Normalize(2, 2)
    assert merge_tfms([a], [b]) == [b]
    assert len(merge_tfms([lambda x: x, lambda x: x], [Transform(len), Transform(str)])) == 4
    assert len(merge_tfms([ToTensor], [ToTensor()], None)) == 1


def test_arguments_of_blocks_and_of_the_call():
    class MyDL(TfmdDL): pass
    block = _block(blocks=(TransformBlock(_image, dl_type=MyDL, dls_kwargs={'before_batch': [list], 'drop_last': False}), CategoryBlock))
    dls = block.dataloaders(range(10), bs=3, path='models', device='cpu')
    assert type(dls.train) is MyDL and len(dls.train) == 3 and len(dls.train.before_batch) == 1 and dls.path == Path('models')
    assert len(block.dataloaders(range(10), bs=3, drop_last=True, device='cpu').train) == 2


def test_getters_for_several_inputs(table):
    block = DataBlock(blocks=(TransformBlock, RegressionBlock, CategoryBlock), n_inp=2, get_x=[ColReader('fname'), ColReader('y')], get_y=ColReader('fname'), splitter=lambda d: (range(6), [0]))
    assert block.datasets(table).train[0] == ('0', torch.tensor(.5), torch.tensor(0))
    with pytest.raises(ValueError) as e: DataBlock(blocks=(TransformBlock, TransformBlock, CategoryBlock), get_x=str)
    assert re.search('get_x has 1 function, .*each input: 2, with 3 blocks and n_inp=2', str(e.value))
    with pytest.raises(ValueError, match='getters has 1 function, .*each block: 2'): DataBlock(getters=[str])
    with pytest.raises(ValueError, match='get_y has 2 functions, .*each target: 1'): DataBlock(get_y=[str, str])


def test_items_that_are_tuples():
    block = DataBlock(blocks=(TransformBlock, CategoryBlock), getters=[ItemGetter(0), ItemGetter(1)], splitter=IndexSplitter([0]))
    assert block.datasets([(5, 'a'), (6, 'b'), (7, 'a')]).train[0] == (6, torch.tensor(1))
    assert DataBlock(get_x=lambda o: o[0], get_y=lambda o: o[1]).datasets([(5, 'a')]*5).train[0] == (5, 'a')


def test_a_subclass_with_answers():
    class Parity(DataBlock):
        blocks = (TransformBlock(_image), CategoryBlock)
        get_y = staticmethod(_parity)
    assert Parity().datasets(range(10)).vocab == ['even', 'odd']


def test_one_block_only():
    assert DataBlock(blocks=TransformBlock(_image)).datasets(range(5)).train[0][0].shape == (3, 4, 4)


# --- bad input

def test_no_items():
    for source in ('images', Path('images')):
        with pytest.raises(ValueError) as e: _block(get_items=lambda p: L()).dataloaders(source)
        assert str(e.value) == 'there are no items in images: check the path, and what get_items looks for'


def test_a_label_rule_that_matches_nothing_names_the_file():
    block = DataBlock(blocks=(TransformBlock, CategoryBlock), get_y=using_attr(RegexLabeller(r'(.+)_\d+.jpg$'), 'name'), splitter=IndexSplitter([0]))
    with pytest.raises(ValueError, match=r"^images/read.me: get_y: the pattern .* matches nothing in 'read.me'"):
        block.datasets([Path('images/cat_1.jpg'), Path('images/cat_2.jpg'), Path('images/read.me')])
    with pytest.raises(ValueError, match="^images/cat_1.jpg: get_y raised AttributeError: 'NoneType' object has no attribute 'groups'"):
        import re
        DataBlock(blocks=(TransformBlock, CategoryBlock), get_y=lambda f: re.match('x', f.name).groups()[0], splitter=IndexSplitter([1])).datasets([Path('images/cat_1.jpg')]*2)


def test_one_class_only():
    with pytest.warns(UserWarning, match="all training items have the same label, 'same'"): _block(get_y=lambda i: 'same').datasets(range(10))


@pytest.mark.parametrize('block,y', [(CategoryBlock, lambda i: i), (MultiCategoryBlock, lambda i: [i])])
def test_classes_that_only_the_validation_set_has(block, y):
    with pytest.raises(ValueError, match='^2 of the labels of the validation set never occur in the training set: 8, 9. Split so that they do'):
        DataBlock(blocks=(TransformBlock, block), get_y=y, splitter=EndSplitter()).datasets(range(10))
    DataBlock(blocks=(TransformBlock, block(vocab=list(range(10)))), get_y=y, splitter=EndSplitter()).datasets(range(10))


def test_a_training_set_smaller_than_a_batch():
    with pytest.raises(ValueError, match='the training set has 8 items, fewer than one batch of 64'): _block().dataloaders(range(10))


def test_a_missing_column(table):
    with pytest.raises(ValueError, match="row 0: get_x .ColReader. raised KeyError: the table has no column 'file'; it has 'fname', 'is_valid', 'labels', 'y'"):
        DataBlock(get_x=ColReader('file'), splitter=ColSplitter()).datasets(table)
    with pytest.raises(KeyError, match="the table has no column 'valid'; it has 'fname', 'is_valid', 'labels', 'y'"): DataBlock(splitter=ColSplitter('valid')).datasets(table)


def test_nan_in_a_target(table):
    table.loc[1, 'y'] = float('nan')
    dsets = DataBlock(blocks=(TransformBlock, RegressionBlock), get_x=ColReader('fname'), get_y=ColReader('y'), splitter=ColSplitter()).datasets(table)
    with pytest.raises(ValueError, match='^row 1: RegressionSetup: the target is .*nan.*, .*not a finite number'): dsets.train[1]


def test_several_labels_that_nobody_split(table):
    with pytest.raises(TypeError, match="list of labels.* 'a b' is a str: split it, for example with label_delim"):
        DataBlock(blocks=(TransformBlock, MultiCategoryBlock), get_y=ColReader('labels'), splitter=ColSplitter()).datasets(table)


# --- summary

def _summary(capsys, block, source, **kwargs):
    try: block.summary(source, **kwargs); error = None
    except Exception as e: error = str(e)
    return capsys.readouterr().out, error


def test_summary_of_a_sound_recipe(capsys):
    out, error = _summary(capsys, _block(), range(10))
    assert error is None
    for line in ('Found 10 items', '2 data sets of sizes 8, 2', "get_y (_parity)                'even'", 'Categorize                     TensorCategory(0)',
                 'ToTensor                       (TensorImage of size 3x4x4, uint8, TensorCategory(0))',
                 'stacked                        (TensorImage of size 4x3x4x4, uint8, TensorCategory of size 4, int64)',
                 'IntToFloatTensor               (TensorImage of size 4x3x4x4, float32, TensorCategory of size 4, int64)'): assert line in out, line


def test_summary_stops_at_shapes_that_do_not_fit(capsys):
    block = _block(blocks=(TransformBlock(lambda i: _image(i)[:, :1+i % 3]), CategoryBlock))
    out, error = _summary(capsys, block, range(10))
    assert 'item 1                         (TensorImage of size 3x2x4, uint8, TensorCategory(1))' in out
    assert 'stacking them FAILS' in out and 'batch_tfms' not in out
    assert error.startswith('the items of a batch must have one shape, and 0 has (3, 1, 4) and 1 has (3, 2, 4).')


@pytest.mark.parametrize('kwargs,step', [({'get_y': lambda i: i/0}, 'get_y '), ({'item_tfms': Transform(lambda x: x.no)}, 'test_summary'), ({'batch_tfms': Transform(lambda x: x.no)}, '<lambda> '),
                                         ({'blocks': (TransformBlock(lambda i: i.no), CategoryBlock)}, '<lambda> ')])
def test_summary_names_the_step_that_fails(capsys, kwargs, step):
    out, error = _summary(capsys, _block(**kwargs), range(10))
    assert error and 'FAILS on' in out.splitlines()[-1]


def test_summary_uses_no_random_numbers(capsys):
    import random
    set_seed(0); expected = random.random()
    set_seed(0); _summary(capsys, _block(), range(10))
    assert random.random() == expected


def test_summary_leaves_the_recipe_alone(capsys):
    block = DataBlock(blocks=(TransformBlock(_image), CategoryBlock), get_y=_parity)
    _summary(capsys, block, range(4))
    assert block.datasets([1, 3, 2, 4, 5, 7]*4).vocab == ['even', 'odd']


def test_no_warnings_on_ordinary_use():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        _block().dataloaders(range(20), bs=4, device='cpu').one_batch()


def test_summary_shows_its_source_from_the_base_path(tmp_path, monkeypatch, capsys):
    (tmp_path/'images').mkdir()
    monkeypatch.setattr(Path, 'BASE_PATH', tmp_path, raising=False)
    _block(get_items=lambda p: list(range(10))).summary(tmp_path/'images')
    assert "Source: Path('images')" in capsys.readouterr().out


def test_a_splitter_that_takes_the_index_of_a_filtered_table_for_places(table):
    part = table[table.index > 3]
    block = DataBlock(blocks=(TransformBlock, TransformBlock), get_x=ColReader("fname"), get_y=ColReader("fname"), splitter=lambda d: (d.index[1:].tolist(), d.index[:1].tolist()))
    with pytest.raises(IndexError, match=f'index {table.index[-1]}, .*{len(part)} items, counted from 0: .*reset_index'): block.datasets(part)
    assert len(block.datasets(part.reset_index(drop=True)).train) == len(part) - 1


def test_a_target_without_a_block():
    with pytest.raises(ValueError, match='^get_y is given, .*no block is left for a target: .*CategoryBlock$'): DataBlock(blocks=(TransformBlock,), get_y=str)

"Data sets and loaders with transforms: order, chance, types and the way back; and what each mistake is told."
import random
from pathlib import Path

import pandas as pd
import pytest
import torch

from fastbook_impl.data import core
from fastbook_impl.data.core import DataLoaders, Datasets, TfmdDL, TfmdLists, TypeDispatch, item_error, show_batch, show_item, test_set as make_test_set, typedispatch
from fastbook_impl.data.load import SkipItemException
from fastbook_impl.data.transforms import (Categorize, ColReader, EndSplitter, IntToFloatTensor, ItemTransform, MultiCategorize, Normalize, OneHotEncode,
                                           RandTransform, RegressionSetup, ToTensor, Transform, fastuple)
from fastbook_impl.torch_core import TensorCategory, TensorImage, TensorMultiCategory, set_seed


def _image(i): return TensorImage(torch.full((3, 4, 4), int(i) % 256, dtype=torch.uint8))
def _parity(i): return 'odd' if i % 2 else 'even'
def _dsets(n=20, **kwargs): return Datasets(range(n), [[_image], [_parity, Categorize()]], splits=EndSplitter(0.3)(range(n)), **kwargs)
def _dls(n=20, **kwargs): return _dsets(n).dataloaders(**{'bs': 4, 'after_batch': [IntToFloatTensor, Normalize.from_stats([.5]*3, [.5]*3, cuda=False)], 'device': 'cpu', **kwargs})


# --- lists

def test_transforms_learn_from_training_items_only():
    class Mean(Transform):
        def setups(self, items): self.mean = sum(items)/len(items)
    tls = TfmdLists([1, 2, 3, 100], [lambda x: x*10, Mean()], splits=([0, 1, 2], [3]))
    assert tls.mean == 20


def test_each_transform_learns_from_what_the_ones_before_it_leave():
    tls = TfmdLists(['1', '2'], [int, RegressionSetup()])
    assert tls.c == 1 and tls[1] == 2.


def test_indices_of_all_kinds():
    tls = TfmdLists(list('abcd'), str.upper)
    assert tls[-1] == 'D' and tls[torch.tensor(1)] == 'B' and tls[1:3] == ['B', 'C'] and tls[[0, 3]] == ['A', 'D']
    assert tls[torch.tensor([1, 2])] == ['B', 'C'] and list(tls) == list('ABCD')
    with pytest.raises(IndexError): tls[4]
    dsets = Datasets(list('abcd'), [str.upper, ord])
    assert dsets[[1, 2]] == [('B', 98), ('C', 99)] and dsets[1] == ('B', 98)


def test_an_index_error_inside_a_transform_does_not_end_a_loop_over_the_items():
    tls = TfmdLists(['a', ''], lambda s: s and s[0] or [][0], do_setup=False)
    with pytest.raises(ValueError, match='raised IndexError'): list(tls)


def test_rows_of_a_table():
    df = pd.DataFrame({'x': [1, 2, 3], 'y': ['a', 'b', 'a']}, index=[10, 11, 12])
    dsets = Datasets(df, [[ColReader('x')], [ColReader('y'), Categorize()]], splits=([0, 1], [2]))
    assert dsets.valid[0] == (3, TensorCategory(0)) and len(dsets.train) == 2
    assert dsets.tls[0].types == [pd.Series, type(df.x.iloc[0])]
    assert Datasets(df, [None, None])[0][0].name == 10


def test_parts_share_transforms_and_know_their_split():
    dsets = _dsets()
    assert (dsets.train.split_idx, dsets.valid.split_idx, dsets.split_idx) == (0, 1, None)
    assert dsets.train.tls[1].tfms[1] is dsets.valid.tls[1].tfms[1]
    with pytest.raises(IndexError, match='TfmdLists has no validation set.*splits='): TfmdLists([1, 2], None).valid


def test_what_the_transforms_know():
    dsets = _dsets()
    assert dsets.vocab == dsets.train.vocab == ['even', 'odd'] and dsets.c == 2
    with pytest.raises(AttributeError, match="Datasets has no attribute 'colour', and none of its transforms has"): dsets.colour


def test_setting_up_uses_no_random_numbers():
    set_seed(0); expected = random.random()
    set_seed(0); TfmdLists([1, 2], lambda x: random.random())
    assert random.random() == expected


def test_repr(): assert repr(Datasets(range(30), [[lambda i: -i], [_parity]])).startswith("(#30) [(0, 'even'), (-1, 'odd'),")


# --- errors name the item

def test_the_item_and_the_step_are_named():
    def rule(p): return p.name.split('_')[1]
    with pytest.raises(ValueError, match=r'^x/a.jpg: .*rule raised IndexError: list index out of range$'): TfmdLists([Path('x/a.jpg')], rule)
    tls = TfmdLists([Path('x/a_1.jpg'), Path('x/b.jpg')], rule)
    with pytest.raises(ValueError, match='^x/b.jpg: '): tls[1]


def test_rows_are_named_by_their_index():
    df = pd.DataFrame({'y': [1., float('nan')]}, index=['one', 'two'])
    dsets = Datasets(df, [[ColReader('y'), RegressionSetup()]])
    with pytest.raises(ValueError, match='^row two: RegressionSetup: the target is .*nan.* not a finite number'): dsets[1]


def test_a_missing_file_stays_a_missing_file():
    def opened(p): return open(p)
    df = pd.DataFrame({'fname': ['/nowhere/a.jpg']})
    with pytest.raises(FileNotFoundError, match="^row 0: .*opened: .*'/nowhere/a.jpg'"): Datasets(df, [[ColReader('fname'), opened]])
    with pytest.raises(FileNotFoundError) as e: TfmdLists(['/nowhere/a.jpg'], opened)
    assert str(e.value).count('/nowhere/a.jpg') == 1  # it says so itself


def test_what_asks_to_be_skipped_is_skipped():
    def odd(i):
        if i % 2 == 0 and i: raise SkipItemException
        return i
    assert [b.tolist() for b in TfmdDL(TfmdLists(range(8), odd), bs=8)] == [[0, 1, 3, 5, 7]]
    assert isinstance(item_error(SkipItemException(), 'abc'), SkipItemException)


def test_errors_after_the_data_set_name_the_item_too():
    def fail(x):
        if isinstance(x, int) and x == 3: raise RuntimeError('no')
        return x
    dl = TfmdDL(TfmdLists(['a', 'ab', 'abc'], len), bs=3, after_item=[fail])
    with pytest.raises(ValueError, match='^abc: .*fail raised RuntimeError: no$'): dl.one_batch()


def test_an_item_is_named_once():
    dl = TfmdDL(TfmdLists(range(5, 9), lambda i: 1/(i-7), do_setup=False), bs=4)
    with pytest.raises(ValueError, match='^item 2, 7: .*lambda.* raised ZeroDivisionError: [a-z ]*division by zero$'): dl.one_batch()


def test_unequal_shapes():
    dl = TfmdDL(TfmdLists(['a.jpg', 'b.jpg', 'ccc.jpg'], lambda s: TensorImage(torch.zeros(3, len(s), 8))), bs=3)
    with pytest.raises(ValueError) as e: dl.one_batch()
    assert str(e.value) == ('the items of a batch must have one shape, and a.jpg has (3, 5, 8) and ccc.jpg has (3, 7, 8). '
                            'Bring images to one size with item_tfms=Resize(224), say.')


# --- loaders

def test_a_training_set_smaller_than_a_batch():
    with pytest.raises(ValueError, match='14 items, fewer than one batch of 64.*bs=7.*drop_last=False'): _dls(20, bs=64)
    assert len(_dls(20, bs=64, drop_last=False).train) == 1
    assert len(_dls(20, bs=64, shuffle=False).train) == 1


def test_empty_parts():
    dsets = Datasets([1, 2], [None], splits=([], [0, 1]))
    with pytest.raises(ValueError, match='the training set is empty: check the items and the splitter'): dsets.dataloaders(bs=1)
    with pytest.warns(UserWarning, match='the validation set is empty'): Datasets([1, 2], [None], splits=([0, 1], [])).dataloaders(bs=1)
    with pytest.raises(ValueError, match='there are no items to predict: the list is empty'): _dls().test_dl([])


def test_arguments_for_one_part_or_both():
    dls = _dls(bs=4, val_bs=3, val_shuffle=True)
    assert (dls.train.bs, dls.valid.bs, dls.valid.shuffle, dls.train.drop_last, dls.valid.drop_last) == (4, 3, True, True, False)
    assert len(_dsets(20).dataloaders(bs=2, n=6, device='cpu').train) == 3
    with pytest.raises(TypeError, match="named 'batchsize'"): _dls(batchsize=3)


def test_types_and_shapes_of_a_batch():
    xb, yb = _dls().one_batch()
    assert type(xb) is TensorImage and type(yb) is TensorCategory and xb.dtype == torch.float32 and yb.shape == (4,)


class _Flip(RandTransform):
    order = 9
    def encodes(self, x: TensorImage): return -x


def test_validation_batches_are_not_augmented():
    dls = _dsets().dataloaders(bs=4, after_batch=[IntToFloatTensor, _Flip(order=20)], device='cpu', shuffle=False)
    assert dls.one_batch()[0].min() < 0 <= dls.valid.one_batch()[0].min()
    with dls.valid.dataset.set_split_idx(0): assert dls.valid.one_batch()[0].min() < 0
    assert dls.valid.one_batch()[0].min() >= 0


class _Noisy(RandTransform):
    def encodes(self, x: TensorImage): return x + torch.randint(0, 50, (1,), dtype=torch.uint8) + random.randint(0, 50)


@pytest.mark.parametrize('kwargs', [{'num_workers': 2}, {'after_item': [_Noisy, Transform(lambda x: x, order=50)]}])
def test_who_makes_the_items_does_not_matter(kwargs):
    "Workers, threads (ToTensor last) or one by one (something behind ToTensor): the same batches."
    def epoch(**kw):
        set_seed(5)
        return [xb for xb,_ in _dsets().dataloaders(bs=4, device='cpu', **{'after_item': [_Noisy, ToTensor], **kw}).train]
    for a,b in zip(epoch(), epoch(**kwargs), strict=True): assert torch.equal(a, b)


def test_own_item_making_is_respected():
    dls = _dls(after_item=[ToTensor])
    dls.train.do_item = lambda i: (_image(7), TensorCategory(0))
    dls.train.after_batch.fs.clear()
    assert (dls.one_batch()[0] == 7).all()


def test_indices_can_be_replaced():
    dls = _dls(shuffle=False)
    dls.train.get_idxs = lambda: iter([3]*8)
    assert [len(b[0]) for b in dls.train] == [4, 4]


def test_unique_leaves_the_loader_as_it_was(tmp_path):
    dls = _dls()
    dls.show_batch(unique=True, max_n=2)
    assert 'get_idxs' not in dls.train.__dict__
    assert len(list(dls.train)) == 3


def test_a_plain_batch_finds_its_types_again():
    dls = _dls()
    xb, yb = dls.valid.one_batch()
    plain = xb.as_subclass(torch.Tensor), yb.as_subclass(torch.Tensor)
    for items in (dls.valid.decode_batch(plain, max_n=2), dls.valid.decode_batch((xb, yb), max_n=2)):
        assert items[0][1] == 'even' and type(items[0][0]) is TensorImage and items[0][0].max() == 14


def test_asking_for_types_changes_no_random_numbers():
    set_seed(3); expected = random.random()
    dls = _dls()
    set_seed(3); assert dls.n_inp == 1
    dls.train._one_pass()
    assert random.random() == expected


def test_several_inputs():
    dsets = Datasets(range(8), [[_image], [lambda i: torch.tensor(float(i))], [_parity, Categorize()]], n_inp=2, splits=([0, 1, 2, 3], [4, 5, 6, 7]))
    dls = dsets.dataloaders(bs=2, device='cpu')
    assert dls.n_inp == 2
    b = dls.test_dl([1, 2]).one_batch()
    assert len(b) == 2 and dls.test_dl([1, 2]).n_inp == 2


def test_labels_of_new_items():
    dls = _dls()
    assert len(dls.test_dl([1, 2]).one_batch()) == 1
    assert dls.test_dl([1, 2], with_labels=True).one_batch()[1].tolist() == [1, 0]
    assert len(list(dls.test_dl(list(range(9)), bs=2))) == 5


def test_new_items_come_in_where_their_type_fits():
    tls = TfmdLists([Path('a/3')], [lambda p: str(p), len, lambda n: float(n)])
    assert [tls.infer_idx(o) for o in (Path('x'), 'x', 3)] == [0, 0, 2]
    with pytest.raises(TypeError, match='a new item should be one of .*Path, str, int, float,.* it is a complex'): tls.infer_idx(1j)
    assert list(make_test_set(tls, [3, 4])) == [3., 4.]


def test_paths_and_strings_are_alike():
    df = pd.DataFrame({'f': ['a/1', 'b/2']})
    tls = TfmdLists(df, [ColReader('f'), lambda p: int(Path(p).name)])
    assert list(make_test_set(tls, [Path('c/7')])) == [7]


def test_normalize_learns_from_a_batch():
    dls = _dls(after_batch=[Normalize(), IntToFloatTensor])
    assert dls.train.after_batch[1].mean.shape == (1, 3, 1, 1)
    assert dls.train.after_batch[1] is dls.valid.after_batch[1]


def test_adding_transforms_later():
    dls = _dls()
    dls.add_tfms([Transform(lambda x: x, order=100)], 'after_batch')
    assert len(dls.train.after_batch) == len(dls.valid.after_batch) == 3


def test_new_pipelines_are_set_up():
    class Learns(Transform):
        def setups(self, dl): self.n = len(dl.dataset)
    dl = _dls().valid.new(after_item=[Learns])
    assert dl.after_item.n == 6


def test_empty_copies_decode():
    dls = _dls()
    empty = dls.new_empty()
    xb, = empty.test_dl([3]).one_batch()
    assert empty.train.decode_batch((xb, torch.tensor([1])))[0][1] == 'odd' and empty.vocab == ['even', 'odd']


def test_empty_copies_of_plain_lists():
    pairs = [(torch.zeros(2), i) for i in range(8)]
    assert [len(dl.dataset) for dl in DataLoaders.from_dsets(pairs, pairs, bs=2, device='cpu').new_empty()] == [0, 0]


def test_from_dsets():
    pairs = [(torch.zeros(2), i) for i in range(8)]
    dls = DataLoaders.from_dsets(pairs, pairs, bs=3, drop_last=(False, False), after_batch=[lambda x: x], device='cpu')
    assert (len(dls.train), dls.train.shuffle, dls.valid.shuffle) == (3, True, False)


def test_several_labels():
    labels = [['a'], [], ['a', 'b'], ['b']]
    dls = Datasets(range(4), [[_image], [labels.__getitem__, MultiCategorize(), OneHotEncode()]], splits=([0, 1, 2], [3])).dataloaders(bs=3, shuffle=False, device='cpu')
    xb, yb = dls.one_batch()
    assert type(yb) is TensorMultiCategory and yb.tolist() == [[1, 0], [0, 0], [1, 1]] and dls.c == 2
    assert [list(o[1]) for o in dls.train.decode_batch((xb, yb))] == [['a'], [], ['a', 'b']]


# --- items that are one object

class _Trio(fastuple):
    shown = []
    def show(self, ctx=None, **kwargs): self.shown.append(tuple(self)); return ctx


class _MakeTrio(Transform):
    def encodes(self, i: int): return _Trio(_image(i), _image(i+1), i % 2 == 0)


def test_an_object_that_shows_itself():
    dls = TfmdLists(range(8), _MakeTrio(), splits=(range(4), range(4, 8))).dataloaders(bs=4, after_item=[ToTensor], after_batch=[IntToFloatTensor], device='cpu')
    b = dls.valid.one_batch()
    assert type(b) is _Trio and dls.n_inp == 2 and b[2].dtype == torch.bool
    assert type(dls.valid.decode(tuple(b))) is _Trio
    dls.valid.show_batch(b, max_n=3)
    assert len(_Trio.shown) == 3
    dls.valid.show_results(b, torch.tensor([True]*4), max_n=2)
    assert len(_Trio.shown) == 7


def test_a_transform_of_all_elements():
    class Sort(ItemTransform):
        def encodes(self, o): return sorted(o, key=str)
    assert TfmdDL([(3, 1), (2, 1)], bs=2, after_item=[Sort]).one_batch()[0].tolist() == [1, 1]


# --- showing

def test_the_closest_pair_of_types_wins():
    @TypeDispatch
    def f(x, y): return 'any'
    @f.register
    def _(x: torch.Tensor, y): return 'tensor'
    @f.register
    def _(x: TensorImage, y: TensorCategory): return 'image, category'
    @f.register
    def _(x: TensorImage, y): return 'image'
    x, y = TensorImage(torch.zeros(1)), TensorCategory(0)
    assert [f(x, y), f(x, 0), f(y, y), f(0, y), f(x, None)] == ['image, category', 'image', 'tensor', 'any', 'image']


def test_typedispatch_adds_to_the_function_it_would_replace():
    class Mine(fastuple): pass
    @typedispatch
    def show_batch(x: Mine, y, samples, ctxs=None, max_n=9, **kwargs): return 'mine'
    assert show_batch(Mine(1), None, []) == 'mine'
    assert globals()['show_batch'] is show_batch


def test_typedispatch_knows_our_functions_and_begins_new_ones():
    class Mine(fastuple): pass
    scope = {'typedispatch': typedispatch, 'Mine': Mine}
    exec("@typedispatch\ndef show_results(x: Mine, y, *args): return 'mine'\n"
         "@typedispatch\ndef draw(x, y): return 'any'\nfirst = draw\n"
         "@typedispatch\ndef draw(x: Mine, y): return 'mine'", scope)
    assert scope['show_results'] is core.show_results and core.show_results(Mine(1), None) == 'mine'
    assert scope['draw'] is scope['first'] and [scope['draw'](o, 0) for o in (Mine(1), 1)] == ['mine', 'any']
    assert not hasattr(core, 'draw')


def test_show_without_drawing(capsys):
    parts = _dls().show_batch(show=False)
    assert type(parts[0]) is TensorImage and len(parts[2]) == 4
    show_item(('a', torch.zeros(3), 2.5))
    assert capsys.readouterr().out == 'a\n2.5\n'


def test_what_only_the_transforms_know():
    class Codes(Transform):
        vocab, c, colour = ['sky', 'road'], None, 'red'
    dl = TfmdDL(list('abc'), bs=1, after_item=[Codes])
    assert dl.vocab == ['sky', 'road'] and dl.colour == 'red' and not hasattr(dl, 'fs') and not hasattr(dl, 'c')
    assert DataLoaders(dl).vocab == ['sky', 'road']


def test_augmented_validation_items():
    dls = _dsets().dataloaders(bs=6, after_batch=[IntToFloatTensor, _Flip(order=20)], device='cpu')
    assert dls.augmented(dls.valid).one_batch()[0].min() < 0 <= dls.valid.one_batch()[0].min()
    assert dls.valid.dataset.split_idx == 1
    assert dls.augmented(dls.valid, batch_tfms=[IntToFloatTensor]).one_batch()[0].min() >= 0
    assert (dls.augmented(dls.train).one_batch()[1] == torch.tensor([0, 1]*3)).all()


def test_a_wrong_column_in_a_function_of_the_row_names_those_there_are():
    table = pd.DataFrame({'fname': ['a', 'b'], 'labels': ['x', 'y']})
    with pytest.raises(ValueError) as e: TfmdLists(table, lambda r: r['label'])[0]
    assert str(e.value).endswith("raised KeyError: 'label'; the row has 'fname', 'labels'") and str(e.value).startswith('row 0: ')
    with pytest.raises(ValueError, match=r"KeyError: the table has no column 'label'; it has 'fname', 'labels'$"): TfmdLists(table, ColReader('label'))[0]

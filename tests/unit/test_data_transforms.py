"Transforms, splitters and getters: what goes wrong, and what must not change."
import pickle
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from fastcore.foundation import L
from fastcore.xtras import Path

from fastbook_impl.data.core import Datasets
from fastbook_impl.data.transforms import (AttrGetter, Categorize, CategoryMap, ColReader, ColSplitter, EncodedMultiCategorize, EndSplitter, FileSplitter,
                                           FuncSplitter, GrandparentSplitter, IntToFloatTensor, ItemGetter, ItemTransform, MultiCategorize, Normalize,
                                           OneHotEncode, Pipeline, RandomSplitter, RandomSubsetSplitter, RandTransform, RegexLabeller, RegressionSetup,
                                           ToTensor, Transform, TrainTestSplitter, annotated_types, fastuple, get_c, imagenet_stats, typedmethod, using_attr)
from fastbook_impl.torch_core import TensorBase, TensorCategory, TensorImage, TensorMask, set_seed


# --- dispatch

class _Kinds(Transform):
    @typedmethod
    def encodes(self, x: int): return 'int'
    @encodes.register
    def encodes(self, x: bool): return 'bool'
    @encodes.register
    def encodes(self, x: 'list|tuple'): return 'several'


def test_the_closest_annotation_wins():
    assert _Kinds()((True, 3, [1], 'text')) == ('bool', 'int', 'several', 'text')


def test_an_own_version_comes_before_an_inherited_one():
    class Sub(_Kinds):
        def encodes(self, x: object): return 'object'
    assert Sub()((True, 'text')) == ('object', 'object')
    assert _Kinds()('text') == 'text'


def test_versions_added_later_reach_subclasses_and_instances_that_exist():
    class Base(Transform): encodes = typedmethod()
    class Sub(Base): pass
    tfm = Sub()
    assert tfm(2.) == 2.

    @Base.encodes.register
    def _(self, x: float): return x + 1
    assert tfm(2.) == 3.


def test_a_method_replaced_later_reaches_instances_that_exist():
    class Base(Transform):
        def encodes(self, x): return x + 1
    class Sub(Base): pass
    tfm = Sub()
    assert tfm(1) == 2
    Base.encodes = lambda self, x: x + 10
    assert tfm(1) == 11
    Sub.encodes = lambda self, x: x + 100
    assert tfm(1) == 101


def test_a_version_registered_twice_is_there_once():
    class Add(Transform): encodes = typedmethod()
    for n in (1, 2):
        @Add.encodes.register
        def _(self, x: int, n=n): return x + n
    assert Add()(1) == 3 and len(Add.encodes.versions) == 1


def test_super_and_calls_of_a_method_with_versions():
    class A(Transform):
        @typedmethod
        def encodes(self, x: int): return x + 1
        @encodes.register
        def encodes(self, x: str): return x + '!'
    class B(A):
        def encodes(self, x): return super().encodes(x)*2
    assert B()((1, 'a', 2.5)) == (4, 'a!a!', 5.)
    assert A().encodes('a') == A.encodes(A(), 'a') == 'a!'


def test_a_function_named_encodes_is_wrapped_like_any_other():
    def encodes(x: int): return x + 1
    assert Transform(encodes)((1, 'a')) == (2, 'a')


def test_a_subclass_that_does_not_call_super_init():
    class Plain(Transform):
        def __init__(self, k): self.k = k
        def encodes(self, x): return x + self.k
    assert Plain(2)((1, 2)) == (3, 4) and Plain(2).order == 0


def test_super_encodes():
    class A(Transform):
        def encodes(self, x): return x + 1
    class B(A):
        def encodes(self, x): return super().encodes(x)*10
    assert B()(1) == 20


def test_types_of_tensors_are_kept_unless_an_annotation_says_otherwise():
    class Keep(Transform):
        def encodes(self, x: TensorImage): return x.as_subclass(torch.Tensor) + 1
    class Plain(Transform):
        def encodes(self, x: TensorImage) -> None: return x.as_subclass(torch.Tensor)
    class Cast(Transform):
        def encodes(self, x: TensorImage) -> TensorMask: return x.as_subclass(torch.Tensor)
    x = TensorImage(torch.zeros(3, 2, 2))
    assert [type(t()(x)) for t in (Keep, Plain, Cast)] == [TensorImage, torch.Tensor, TensorMask]


def test_a_return_annotation_of_any_converts_nothing():
    def increase(x) -> Any: return x + 1
    image = TensorImage(torch.zeros(1, 2, 2))
    assert Transform(increase)(1) == 2
    assert type(Transform(increase)(image)) is TensorImage

def test_a_number_made_of_a_bool_stays_a_number():
    assert type(Transform(lambda x: int(x))(True)) is int


def test_tuples_keep_their_class_and_named_tuples_are_single_things():
    class Trio(fastuple): pass
    tfm = Transform(lambda x: x*2)
    assert type(tfm(Trio(1, 2, 3))) is Trio
    row = next(pd.DataFrame({'a': [1], 'b': [2]}).itertuples())
    assert Transform(lambda r: r.a)(row) == 1


def test_split_idx():
    tfm = Transform(lambda x: -x, split_idx=0)
    assert [tfm(1, split_idx=i) for i in (0, 1, None)] == [-1, 1, 1]
    assert Pipeline([tfm], split_idx=0)(1) == -1 and Pipeline([tfm], split_idx=1)(1) == 1


def test_before_call_sees_the_whole_tuple_once():
    seen = []
    class Peek(RandTransform):
        def before_call(self, b, split_idx): seen.append((b, split_idx)); self.do = True
        def encodes(self, x: int): return x + 1
    assert Peek()((1, 2), split_idx=0) == (2, 3)
    assert seen == [((1, 2), 0)]


def test_item_transforms_get_all_elements_and_other_things_alone():
    class Sum(ItemTransform):
        def encodes(self, x: list): return x[0] + x[1]
    assert Sum()((1, 2)) == 3 and Sum()(5) == 5


def test_annotations_of_builtins_and_unions():
    assert annotated_types(str.upper) == (object,)
    assert annotated_types(len) == (object,)
    def f(x: int | None): pass
    assert annotated_types(f) == (int, type(None))


def test_transforms_and_pipelines_are_pickled_and_copied():
    import copy
    pipe = Pipeline([Categorize(vocab=['a', 'b']), Normalize.from_stats(*imagenet_stats, cuda=False)])
    for p in (pickle.loads(pickle.dumps(pipe)), copy.deepcopy(pipe), copy.copy(pipe)):
        assert p('b') == TensorCategory(1) and p.vocab == ['a', 'b']


# --- pipelines

def test_pipeline_sorts_by_order_and_keeps_ties_in_place():
    a, b, c = Transform(lambda x: x + 'a'), Transform(lambda x: x + 'b', order=-1), Transform(lambda x: x + 'c')
    assert Pipeline([a, b, c])('') == 'bac'


def test_pipeline_of_plain_things():
    assert Pipeline([str.strip, len])(' abc ') == 3
    assert Pipeline([int, float])('3') == 3.
    assert Pipeline()('x') == 'x' and Pipeline(None)('x') == 'x' and len(Pipeline([])) == 0


def test_pipeline_instantiates_classes_with_a_call():
    class Add:
        def __call__(self, x): return x + 1
    assert Pipeline([Add, ToTensor])(1) == 2


def test_an_error_names_its_step():
    def halve(x): return x/2
    with pytest.raises(TypeError) as e: Pipeline([halve])('a')
    assert e.value.step.endswith('halve')


def test_unknown_attributes_of_a_pipeline():
    with pytest.raises(AttributeError, match="Pipeline has no attribute 'vocab'"): Pipeline([len]).vocab
    assert not hasattr(Pipeline([len]), '__array__')


# --- splitters

def test_random_splitter_leaves_the_global_generator_alone():
    set_seed(1); expected = torch.rand(1)
    set_seed(1); RandomSplitter(seed=42)(range(10))
    assert torch.rand(1) == expected


@pytest.mark.parametrize('splitter', [RandomSplitter(), EndSplitter(), TrainTestSplitter(), FuncSplitter(bool), GrandparentSplitter(), RandomSubsetSplitter(.5, .5)])
def test_nothing_to_split(splitter):
    with pytest.raises(ValueError, match='there are no items to split: check that get_items, or the path it looks in, finds any'): splitter([])


def test_grandparents_that_are_not_there():
    files = [Path('d/training/3/1.png'), Path('d/testing/3/1.png')]
    with pytest.raises(ValueError, match="no file lies two levels below a folder named 'train'; the folders there are: 'testing', 'training'"): GrandparentSplitter()(files)
    assert GrandparentSplitter('training', 'testing')(files) == ([0], [1])


def test_file_splitter(tmp_path):
    (tmp_path/'valid.txt').write_text('b.jpg\n\n')
    assert FileSplitter(tmp_path/'valid.txt')([Path('x/a.jpg'), Path('x/b.jpg')]) == ([0], [1])
    with pytest.raises(ValueError, match="none of the 1 items is named in valid.txt; its first line is 'b.jpg'"): FileSplitter(tmp_path/'valid.txt')([Path('a.jpg')])


@pytest.mark.parametrize('values,valid', [([True, False], [0]), (['True', ' false'], [0]), ([0, 1], [1]), ([0., 1.], [1]), (['no', 'YES'], [1])])
def test_is_valid_in_many_spellings(values, valid):
    assert ColSplitter()(pd.DataFrame({'is_valid': values}))[1] == valid


def test_is_valid_that_says_neither():
    df = pd.DataFrame({'is_valid': [True, float('nan')]})
    with pytest.raises(ValueError, match="the column 'is_valid' must say for each row whether it is for validation, and in row 1 it says nan"): ColSplitter()(df)
    with pytest.raises(KeyError, match="the table has no column 'valid'; it has 'is_valid'"): ColSplitter('valid')(df)
    with pytest.raises(TypeError, match='ColSplitter needs a table'): ColSplitter()([1, 2])


def test_shares_that_cannot_be():
    with pytest.raises(ValueError, match='together at most 1.* 0.9 and 0.2'): RandomSubsetSplitter(.9, .2)


# --- getters

def test_a_label_rule_that_matches_nothing():
    with pytest.raises(ValueError, match=r"the pattern '\(\\\\d\+\)' matches nothing in 'a.jpg'"): RegexLabeller(r'(\d+)')('a.jpg')
    with pytest.raises(ValueError, match='needs a group in parentheses'): RegexLabeller(r'\d+')
    assert RegexLabeller(r'a_(\d)', match=True)('a_1') == '1'
    with pytest.raises(ValueError): RegexLabeller(r'_(\d)', match=True)('a_1')


def test_using_attr(): assert using_attr(str.upper, 'name')(Path('x/a')) == 'A'


def test_columns_of_rows_named_tuples_and_dicts():
    df = pd.DataFrame({'fname': ['a'], 'y': [2]})
    for row in (df.iloc[0], next(df.itertuples()), {'fname': 'a', 'y': 2}):
        assert ColReader(['fname', 'y'])(row) == ['a', 2]
    assert ColReader(1)(df.iloc[0]) == 2
    with pytest.raises(KeyError, match="the table has no column 'label'; it has 'fname', 'y'"): ColReader('label')(df.iloc[0])


def test_an_empty_cell_is_an_empty_set_of_labels():
    read = ColReader('l', label_delim=' ')
    assert [read({'l': v}) for v in ('cat  dog ', '', float('nan'), None)] == [['cat', 'dog'], [], [], []]


def test_item_and_attr_getters():
    assert ItemGetter(0)((1, 2)) == 1 and ItemGetter(-1)([1, 2]) == 2
    assert AttrGetter('nothing', default=3)('x') == 3


# --- targets

class _Split:
    "The least that `setup` needs of a collection: a training and a validation part."
    n_subsets = 2
    def __init__(self, train, valid): self.train, self.valid = train, valid


def test_labels_that_only_the_validation_set_has():
    sentence = "1 of the labels of the validation set never occur in the training set: 'c'. Split so that they do, leave those items out, or pass the classes as vocab."
    for cat, data in ((Categorize(), _Split(['a', 'b'], ['a', 'c'])), (MultiCategorize(), _Split([['a'], ['b']], [[], ['a', 'c']]))):
        with pytest.raises(ValueError) as e: cat.setup(data, train_setup=True)
        assert str(e.value) == sentence
    Categorize(vocab=['a', 'b', 'c']).setup(_Split(['a', 'b'], ['c']), train_setup=True)
    cat = Categorize(add_na=True)
    cat.setup(_Split(['a', 'b'], ['c']), train_setup=True)
    assert cat('c') == TensorCategory(0) and cat.vocab == ['#na#', 'a', 'b']


def test_one_class_only():
    with pytest.warns(UserWarning, match="all training items have the same label, 'a'.*two classes"): Categorize().setup(['a', 'a'])


def test_stray_spaces_in_labels():
    cat = Categorize()
    cat.setup(['cat', ' cat ', 'dog'])
    assert cat.vocab == ['cat', 'dog'] and cat('dog ') == TensorCategory(1)
    multi = MultiCategorize()
    multi.setup([['cat', ''], [' dog']])
    assert multi.vocab == ['cat', 'dog'] and multi(['dog ', '']).tolist() == [1]


def test_missing_and_unknown_labels():
    cat = Categorize(vocab=['a', 'b'])
    with pytest.raises(ValueError, match='^the label is missing$'): cat(float('nan'))
    with pytest.raises(ValueError, match="the label 'c' is not among the 2 classes of the training set: 'a', 'b'"): cat('c')
    with pytest.raises(ValueError, match='Categorize has no classes yet'): Categorize()('a')
    with pytest.raises(TypeError, match='labels of different types cannot be put in order'): CategoryMap([1, 'a'])


def test_labels_of_other_types():
    for labels in ([True, False], np.array([3, 7, 3]), torch.tensor([1, 0]), pd.Series(['x', 'y']), pd.Series(['b', 'a'], dtype='category')):
        cat = Categorize()
        cat.setup(labels)
        assert len(cat.vocab) == 2 and [int(cat(o)) for o in cat.vocab] == [0, 1]


def test_categorical_order_is_kept():
    col = pd.Series(pd.Categorical(['low', 'high'], categories=['low', 'mid', 'high']))
    assert CategoryMap(col) == ['low', 'mid', 'high'] and CategoryMap(col, strict=True) == ['low', 'high']


def test_one_hot_needs_classes():
    with pytest.raises(ValueError, match='does not know how many classes there are'): OneHotEncode().setup([1])


def test_encoded_labels():
    enc = EncodedMultiCategorize(['a', 'b'])
    assert enc(np.array([1, 0])).tolist() == [1., 0.] and enc.decode(enc([0, 0])) == []
    with pytest.raises(ValueError, match='an item has 3 zeros and ones, and there are 2 classes'): enc([0, 1, 1])


def test_targets_that_are_no_numbers():
    with pytest.raises(ValueError, match='the target is nan, .*not a finite number'): RegressionSetup()(float('nan'))
    reg = RegressionSetup()
    reg.setup([2.5, 3.])
    assert reg.c == 1 and reg.decode(reg(2.5)) == 2.5


def test_tuples_as_targets():
    reg = RegressionSetup()
    reg.setup([(1., 2.), (3., 4.)])
    assert reg((1, 2)).tolist() == [1., 2.]
    cat = MultiCategorize(vocab=['a', 'b'])
    assert cat(('b', 'a')).tolist() == [1, 0]


def test_get_c():
    class Dls: vocab = L(CategoryMap('ab'), CategoryMap('abc'))
    assert get_c(Dls()) == 3
    assert get_c(object()) == 0


# --- batches

def test_int_to_float_leaves_floats_alone_and_makes_masks_long():
    x, m = TensorImage(torch.rand(2, 3, 4, 4)), TensorMask(torch.full((2, 4, 4), 255, dtype=torch.uint8))
    assert IntToFloatTensor()(x) is x
    y = IntToFloatTensor(div_mask=255)(m)
    assert y.dtype == torch.long and y.max() == 1 and type(y) is TensorMask


def test_every_byte_comes_back():
    x = TensorImage(torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16))
    tfm = IntToFloatTensor()
    assert (tfm.decode(tfm(x)) == x).all()


def test_normalize_leaves_other_tensors_alone_and_keeps_the_memory_format():
    norm = Normalize.from_stats(*imagenet_stats, cuda=False)
    x = TensorImage(torch.rand(4, 3, 8, 8).contiguous(memory_format=torch.channels_last))
    before = x.clone()
    y = norm(x)
    assert (x == before).all() and type(y) is TensorImage
    assert y.is_contiguous(memory_format=torch.channels_last)
    t = torch.rand(4, 3)
    assert norm(t) is t


def test_normalize_follows_the_device():
    norm = Normalize.from_stats([0.], [1.], cuda=False)
    assert norm(TensorImage(torch.zeros(1, 1, 2, 2, device='meta'))).device.type == 'meta'


def test_no_warning_on_ordinary_use():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        Categorize().setup(_Split(['a', 'b'], ['a']), train_setup=True)
        Pipeline([Normalize.from_stats(*imagenet_stats, cuda=False)])(TensorBase(torch.zeros(2)))


def test_typical_mistakes_get_a_sentence():
    with pytest.raises(TypeError) as e: CategoryMap([['dog', 'bus'], ['cat']])
    assert str(e.value) == "a label is one name or number, and ['dog', 'bus'] is a list: MultiCategoryBlock is for several labels in one item, PointBlock and RegressionBlock are for numbers"
    with pytest.raises(TypeError, match="and tensor.* is a Tensor: "): CategoryMap([torch.tensor([1., 2.])])
    with pytest.raises(TypeError, match=r'^a list of 2 stands where one transform should be: put a \* before it, as in \[\*aug_transforms\(\), another\]$'): Pipeline([[str, str], str])
    with pytest.raises(ValueError, match='^valid_pct .*between 0 and 1, got 20$'): RandomSplitter(20)


def test_several_labels_in_one_text_are_told_from_new_classes():
    table = pd.DataFrame({'labels': ['dog', 'bus dog', 'cat', 'dog cat', 'bus cat']})
    with pytest.raises(ValueError, match=r"'bus cat', 'dog cat'\. Split .* vocab\. If each of these is several labels in one text, pass label_delim=' '\.$"):
        Datasets(table, [[ColReader('labels'), Categorize]], splits=[[0, 1, 2], [3, 4]])


def test_a_number_among_the_transforms():
    with pytest.raises(TypeError, match=r'^64 stands where a transform should be, a function or an object such as Resize\(64\)$'): Pipeline([str, 64])


def test_scores_are_no_class():
    categorize = Categorize(vocab=['cat', 'dog'])
    categorize.setup(['cat', 'dog'])
    assert categorize.decodes(torch.tensor(1)) == 'dog'
    with pytest.raises(ValueError, match=r'shape \(2,\).*CrossEntropyLossFlat'): categorize.decodes(torch.tensor([0.2, 0.8]))

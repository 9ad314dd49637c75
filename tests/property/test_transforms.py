"""What a transform encodes, it decodes."""
import numpy as np
import pandas as pd
import pytest
import torch
from fastcore.foundation import L
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbook_impl.data.transforms import Categorize, CategoryMap, IntToFloatTensor, MultiCategorize, Normalize, OneHotEncode, Pipeline
from fastbook_impl.tabular.core import Categorify, FillMissing, TabularPandas
from fastbook_impl.tabular.core import Normalize as NormalizeTable
from fastbook_impl.text.core import Tokenizer, WordTokenizer
from fastbook_impl.text.data import Numericalize
from fastbook_impl.torch_core import TensorImage, plain

pytestmark = pytest.mark.filterwarnings('ignore:all training items have the same label')

names = st.text(st.characters(categories=['L', 'N', 'P', 'S'], codec='utf-8'), min_size=1, max_size=8)
words = st.text('abcdefghij', min_size=1, max_size=6)
numbers = st.floats(-1e4, 1e4, width=32)


@given(st.lists(names, min_size=1, max_size=20), st.booleans())
def test_a_category_is_decoded_to_its_name(labels, sort):
    categorize = Categorize(sort=sort)
    categorize.setup(labels)
    for label in labels: assert categorize.decode(categorize(label)) == label


@given(st.lists(st.integers(-10**6, 10**6), min_size=1, max_size=20))
def test_numbers_can_be_categories(labels):
    categorize = Categorize()
    categorize.setup(labels)
    for label in labels: assert categorize.decode(categorize(label)) in (label, str(label))


@given(st.lists(names, min_size=1, max_size=20), st.booleans())
def test_numbers_and_objects_of_a_map_are_inverse(values, add_na):
    known = CategoryMap(values, add_na=add_na)
    assert list(known.map_ids(known.map_objs(values))) == values
    assert len(known) == len(set(values)) + add_na


@given(st.lists(st.sets(names, max_size=5), min_size=1, max_size=12).filter(any))
def test_several_categories_are_decoded_to_their_names_in_any_order(items):
    categorize = MultiCategorize()
    categorize.setup([sorted(o) for o in items])
    hot = OneHotEncode(len(categorize.vocab))
    for item in items:
        codes = categorize(sorted(item))
        assert set(categorize.decode(codes)) == item
        assert set(categorize.decode(hot.decode(hot(codes)))) == item


@given(st.integers(1, 4), st.integers(0, 2**31), st.floats(.01, 10), st.floats(-3, 3))
def test_normalized_images_are_decoded_to_their_values(channels, seed, std, mean):
    x = TensorImage(torch.rand(2, channels, 3, 5, generator=torch.Generator().manual_seed(seed)))
    normalize = Normalize.from_stats([mean]*channels, [std]*channels, cuda=False)
    torch.testing.assert_close(plain(normalize.decode(normalize(x))), plain(x), atol=1e-5, rtol=1e-5)


@given(st.integers(0, 2**31))
def test_bytes_become_fractions_and_bytes_again(seed):
    x = TensorImage(torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)))
    scale = IntToFloatTensor()
    encoded = scale(x)
    assert 0 <= encoded.min() and encoded.max() <= 1
    torch.testing.assert_close(plain(scale.decode(encoded)).float(), plain(x).float(), atol=1, rtol=0)


@given(st.lists(st.lists(words, min_size=1, max_size=12), min_size=1, max_size=6))
def test_numbers_of_tokens_are_decoded_to_the_tokens(texts):
    numericalize = Numericalize(min_freq=1)
    numericalize.setup(L(L(t) for t in texts))
    for tokens in texts: assert list(numericalize.decode(numericalize(L(tokens)))) == tokens


@given(st.lists(words, min_size=1, max_size=12))
def test_lower_case_words_are_cut_and_joined_to_the_same_text(tokens):
    tokenizer = Tokenizer(WordTokenizer(), rules=[])
    text = ' '.join(tokens)
    assert tokenizer.decode(tokenizer(text)) == text


@given(st.text(st.characters(codec='utf-8', exclude_categories=['Cs']), max_size=60))
def test_every_text_can_be_cut_into_tokens_that_are_numbered_and_named(text):
    tokenizer, numericalize = Tokenizer(WordTokenizer()), Numericalize(min_freq=1)
    tokens = tokenizer(text)
    numericalize.setup(L([tokens]))
    assert list(numericalize.decode(numericalize(tokens))) == list(tokens)


@given(st.text(st.characters(codec='utf-8', exclude_categories=['Z', 'C']), min_size=1, max_size=40))
def test_cutting_a_word_loses_no_character(word):
    assert ''.join(WordTokenizer().cut(word)) == word


@given(st.lists(st.tuples(names, names, numbers), min_size=4, max_size=20))
@settings(max_examples=20)
def test_rows_of_a_table_are_decoded_to_what_they_were(rows):
    df = pd.DataFrame(rows, columns=['kind', 'place', 'size']).astype({'size': 'float32'})
    table = TabularPandas(df, [Categorify, NormalizeTable], ['kind', 'place'], ['size'])
    back = table.decode().items
    assert list(back['kind']) == list(df['kind']) and list(back['place']) == list(df['place'])
    np.testing.assert_allclose(back['size'].astype(float), df['size'], rtol=1e-4, atol=1e-4*max(1, df['size'].abs().max()))


@given(st.lists(st.one_of(st.none(), numbers), min_size=3, max_size=20).filter(lambda o: any(v is not None for v in o)))
@settings(max_examples=20)
def test_filling_gaps_changes_nothing_else_and_notes_where_they_were(values):
    df = pd.DataFrame({'size': pd.Series(values, dtype='float32')})
    table = TabularPandas(df.copy(), [Categorify, FillMissing], [], ['size'])
    filled, gaps = table.items['size'], df['size'].isna()
    assert not filled.isna().any() and list(filled[~gaps]) == list(df['size'][~gaps])
    assert ('size_na' in table.cat_names) == bool(gaps.any())
    if gaps.any(): assert (filled[gaps] == df['size'].median()).all()


@given(st.lists(st.sampled_from('abcd'), min_size=1, max_size=8))
def test_a_pipeline_decodes_in_the_reverse_order(labels):
    categorize = Categorize()
    categorize.setup(list('abcd'))
    both = Pipeline([lambda s: s.lower(), categorize])
    for label in labels: assert both.decode(both(label.upper())) == label

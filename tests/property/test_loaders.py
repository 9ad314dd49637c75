"""Every item comes once, whoever makes the batches, and what is saved is what was trained."""
import numpy as np
import pytest
import torch
from fastcore.foundation import L
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fastbook_impl.data.load import DataLoader, DataLoaders
from fastbook_impl.data.transforms import EndSplitter, IndexSplitter, MaskSplitter, RandomSplitter
from fastbook_impl.learner import Learner
from fastbook_impl.text.data import LMDataLoader, SortedDL
from fastbook_impl.torch_core import plain, set_seed

sizes = st.integers(1, 40)
batch_sizes = st.integers(1, 12)


# items and batches

@given(sizes, batch_sizes, st.booleans())
def test_every_item_comes_once(n, bs, shuffle):
    batches = [b.tolist() for b in DataLoader(range(n), bs=bs, shuffle=shuffle)]
    assert sorted(sum(batches, [])) == list(range(n))
    assert all(len(b) == bs for b in batches[:-1]) and len(batches) == len(DataLoader(range(n), bs=bs))


@given(sizes, batch_sizes, st.booleans())
def test_without_the_last_batch_all_are_full_and_no_item_comes_twice(n, bs, shuffle):
    batches = [b.tolist() for b in DataLoader(range(n), bs=bs, shuffle=shuffle, drop_last=True)]
    seen = sum(batches, [])
    assert all(len(b) == bs for b in batches) and len(seen) == len(set(seen)) == n//bs*bs


@given(sizes, batch_sizes, st.integers(0, 10**6))
def test_the_seed_decides_the_order(n, bs, seed):
    def order():
        set_seed(seed)
        return [b.tolist() for b in DataLoader(range(n), bs=bs, shuffle=True)]
    assert order() == order()


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), batch_sizes)
def test_texts_sorted_by_length_come_once_and_never_grow(lengths, bs):
    texts = [torch.full((n,), i) for i, n in enumerate(lengths)]
    loader = SortedDL(texts, bs=bs, create_batch=lambda items: [(int(t[0]), len(t)) for t in items])
    seen = [o for batch in loader for o in batch]
    assert sorted(i for i, _ in seen) == list(range(len(lengths)))
    assert [n for _, n in seen] == sorted(lengths, reverse=True)


@given(st.lists(st.lists(st.integers(5, 50), min_size=1, max_size=30), min_size=1, max_size=12), st.integers(1, 4), st.integers(2, 8))
def test_a_stream_is_read_in_order_and_its_targets_are_one_ahead(texts, bs, seq_len):
    stream = sum(texts, [])
    if len(stream) <= 2*bs: return
    rows = [[] for _ in range(bs)]
    for x, y in LMDataLoader(L(torch.tensor(t) for t in texts), bs=bs, seq_len=seq_len):
        assert torch.equal(plain(x)[:, 1:], plain(y)[:, :-1]) and x.shape[1] <= seq_len
        for row, part in zip(rows, plain(x).tolist()): row += part
    each = len(rows[0])
    assert sum(rows, []) == stream[:each*bs]


# workers

class Noisy:
    "Items with random numbers from every source that an item may use."
    def __len__(self): return 11
    def __getitem__(self, i): return torch.tensor([i, float(torch.rand(1)), np.random.random()])


@pytest.mark.parametrize('bs,shuffle', [(4, False), (3, True)])
def test_two_workers_make_the_batches_that_none_makes(bs, shuffle):
    def batches(num_workers):
        set_seed(21)
        return list(DataLoader(Noisy(), bs=bs, shuffle=shuffle, num_workers=num_workers))
    for here, there in zip(batches(0), batches(2), strict=True): assert torch.equal(here, there)


# splits

@given(st.integers(2, 60), st.floats(0, 1), st.integers(0, 1000))
def test_a_random_split_puts_every_item_in_one_part(n, fraction, seed):
    train, valid = RandomSplitter(fraction, seed=seed)(range(n))
    assert sorted([*train, *valid]) == list(range(n)) and len(valid) == int(fraction*n)


@given(st.integers(2, 60), st.floats(0, 1), st.booleans())
def test_a_split_at_the_end_keeps_the_order(n, fraction, last):
    train, valid = EndSplitter(fraction, valid_last=last)(range(n))
    assert [*train, *valid] == list(range(n)) if last else [*valid, *train] == list(range(n))


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_a_mask_and_the_places_where_it_is_true_split_alike(mask):
    by_mask, by_place = (tuple(map(list, f(range(len(mask))))) for f in (MaskSplitter(mask), IndexSplitter([i for i, m in enumerate(mask) if m])))
    assert by_mask == by_place and by_mask[1] == [i for i, m in enumerate(mask) if m]


# saving

@given(st.integers(1, 6), st.integers(0, 10**6))
@settings(max_examples=8)
def test_what_was_saved_is_loaded_with_the_state_of_the_optimizer(tmp_path_factory, width, seed):
    set_seed(seed)
    rows = [(torch.rand(width), torch.rand(1)) for _ in range(12)]
    dls = DataLoaders(DataLoader(rows, bs=4), DataLoader(rows, bs=4))
    def learner(): return Learner(dls, nn.Sequential(nn.Linear(width, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)), loss_func=nn.MSELoss(), path=folder)
    folder = tmp_path_factory.mktemp('saved')
    first, second = learner(), learner()
    with first.no_bar(), first.no_logging(): first.fit(1, 1e-2)
    first.save('state')
    second.load('state')
    for name, value in first.model.state_dict().items(): assert torch.equal(value, second.model.state_dict()[name])
    for one in first, second:
        with one.no_bar(), one.no_logging(): one.fit(1, 1e-2)
    for name, value in first.model.state_dict().items(): assert torch.equal(value, second.model.state_dict()[name])

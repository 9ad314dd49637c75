"""The data loader: the same batches whoever makes them, and a sentence for what cannot be batched."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fastcore.foundation import L
from torch.utils.data import TensorDataset

from fastbook_impl.data.load import DataLoader, DataLoaders, SkipItemException, fa_collate
from fastbook_impl.torch_core import TensorImage, set_seed


def batches(dataset, seed=0, **kwargs):
    set_seed(seed)
    return list(DataLoader(dataset, **kwargs))


def same(a, b): return len(a) == len(b) and all(torch.equal(x, y) for p,q in zip(a, b) for x,y in zip(p, q))


pairs = [(torch.tensor([float(i), -float(i)]), i % 3) for i in range(20)]


@pytest.mark.parametrize('kwargs', [dict(bs=6), dict(bs=6, shuffle=True), dict(bs=6, shuffle=True, drop_last=True)])
def test_selection_and_item_by_item_give_the_same_batches(kwargs):
    assert same(batches(pairs, **kwargs), batches(pairs, after_item=lambda o: o, **kwargs))


@pytest.mark.parametrize('dataset', [pairs, L(pairs), TensorDataset(*fa_collate(pairs))])
def test_all_forms_of_the_same_data_set_agree(dataset):
    assert same(batches(pairs, bs=6, shuffle=True), batches(dataset, bs=6, shuffle=True))


def test_an_epoch_holds_every_item_once():
    xs = torch.cat([b for b in batches(torch.arange(100), bs=7, shuffle=True)])
    assert sorted(xs.tolist()) == list(range(100)) and xs.tolist() != list(range(100))


def test_epochs_are_shuffled_differently_and_seeds_repeat_them():
    set_seed(0)
    dl = DataLoader(torch.arange(50), bs=50, shuffle=True)
    first, second = next(iter(dl)), next(iter(dl))
    assert not torch.equal(first, second)
    set_seed(0)
    assert torch.equal(next(iter(dl)), first) and torch.equal(next(iter(dl)), second)


class Noisy:
    def __len__(self): return 23
    def __getitem__(self, i):
        import random
        return torch.tensor([i, random.random(), np.random.rand(), torch.rand(1).item()])


@pytest.mark.parametrize('workers', [1, 2])
def test_workers_make_the_same_random_items(workers):
    one = batches(Noisy(), bs=4, shuffle=True)
    assert same([(b,) for b in one], [(b,) for b in batches(Noisy(), bs=4, shuffle=True, num_workers=workers)])


def test_making_items_leaves_the_random_numbers_outside_alone():
    def after(ds):
        set_seed(0)
        list(DataLoader(ds, bs=4))
        return torch.rand(1).item()
    assert after(Noisy()) == after(torch.arange(23))


def test_changing_a_batch_does_not_change_the_data():
    x = torch.zeros(8, 2)
    for shuffle in (False, True):
        for b in DataLoader(x, bs=4, shuffle=shuffle): b += 1
    assert x.sum() == 0


def test_a_list_that_grows_is_stacked_again():
    data = [(torch.zeros(2), 0) for _ in range(4)]
    dl = DataLoader(data, bs=2, n=None)
    assert len(list(dl)) == 2
    data.append((torch.ones(2), 1))
    assert sum(len(y) for _,y in DataLoader(data, bs=2)) == 5


def test_types_are_kept():
    data = [(TensorImage(torch.rand(1, 4, 4)), 1) for _ in range(3)]
    assert type(DataLoader(data, bs=2).one_batch()[0]) is TensorImage


@pytest.mark.parametrize('how', [dict(), dict(after_item=lambda o: o)])
def test_unequal_shapes_name_the_items(how):
    data = [(torch.zeros(2, 3), 0), (torch.zeros(2, 3), 0), (torch.zeros(2, 4), 1)]
    with pytest.raises(ValueError, match=r'item 0 has shape \(2, 3\), item 2 has shape \(2, 4\)'): list(DataLoader(data, bs=3, **how))


def test_objects_that_are_no_tensors_are_named():
    with pytest.raises(TypeError, match='cannot make a batch of object objects: turn each into a tensor first'): list(DataLoader([object(), object()], bs=2))


@pytest.mark.parametrize('bs', [0, -1, 2.5, 'many'])
def test_a_batch_size_that_is_none_is_refused(bs):
    with pytest.raises(ValueError, match='the batch size must be a whole number of at least 1'): DataLoader(range(3), bs=bs)


def test_an_unknown_argument_is_named():
    with pytest.raises(TypeError, match="no argument or step named 'batchsize'"): DataLoader(range(3), batchsize=2)


def test_empty_and_too_small_say_so():
    with pytest.raises(ValueError, match='dataset is empty'): DataLoader([], bs=2).one_batch()
    with pytest.raises(ValueError, match='its 3 items do not fill one batch of 8, and drop_last=True drops it'): DataLoader(range(3), bs=8, drop_last=True).one_batch()
    assert list(DataLoader([], bs=2)) == []


def test_an_error_in_an_item_reaches_the_reader():
    def broken(i): raise OSError('picture 3 is truncated')
    for workers in (0, 1):
        with pytest.raises(OSError, match='picture 3 is truncated'): list(DataLoader(range(4), bs=2, create_item=broken, num_workers=workers))


def test_items_can_be_skipped():
    def odd_only(i):
        if i % 2 == 0: raise SkipItemException
        return i
    assert [b.tolist() for b in DataLoader(range(6), bs=2, create_item=odd_only)] == [[1], [3], [5]]


def test_a_generator_can_be_gone_through():
    assert [b.tolist() for b in DataLoader((i for i in range(5)), bs=2)] == [[0, 1], [2, 3], [4]]


def test_weighted_order_through_get_idxs():
    dl = DataLoader(torch.arange(5), bs=2, get_idxs=lambda: [4, 4, 0])
    assert [b.tolist() for b in dl] == [[4, 4], [0]]


def test_data_loaders_answer_for_their_loaders():
    dls = DataLoaders(DataLoader(pairs, bs=4), DataLoader(pairs[:4], bs=4))
    assert len(dls) == 2 and dls.bs == 4 and dls.train_ds is pairs and dls.device is None
    dls.device = torch.device('cpu')
    assert dls.valid.device == torch.device('cpu')
    assert torch.equal(dls.one_batch()[1], torch.tensor([0, 1, 2, 0]))
    with pytest.raises(AttributeError): dls.no_such_thing


def test_a_batch_size_in_quotes():
    from fastbook_impl.data.core import Datasets
    with pytest.raises(ValueError, match="^the batch size must be a whole number of at least 1,.* '4'$"): Datasets(range(8), [int], splits=[range(6), [6, 7]]).dataloaders(bs='4', device='cpu')


def test_a_validation_loader_that_is_missing_is_told():
    only = DataLoaders(DataLoader(list(range(8)), bs=4))
    with pytest.raises(IndexError, match='these DataLoaders have no validation loader: they hold 1'): only[1]
    assert only[0] is only.train and only[-1] is only.train


# --- a data set that changes

def the_labels(dl): return sorted(y for b in dl for y in b[1].tolist())


@pytest.mark.parametrize('kind', [list, L])
@pytest.mark.parametrize('where', [0, 7, 19])
def test_an_item_that_is_replaced_is_seen_in_the_next_epoch(kind, where):
    data = kind((torch.tensor([float(i), -float(i)]), i) for i in range(20))
    dl = DataLoader(data, bs=6, shuffle=True)
    assert the_labels(dl) == list(range(20)) == the_labels(dl)
    data[where] = (torch.tensor([9., 9.]), 77)
    assert the_labels(dl) == sorted([*range(where), *range(where+1, 20), 77])
    assert sum((x == 9).all(1).sum() for x,_ in dl) == 1


def test_bare_tensors_and_numbers_that_are_replaced_are_seen():
    for data in ([torch.rand(3) for _ in range(8)], list(range(8)), [torch.tensor(float(i)) for i in range(8)]):
        dl = DataLoader(data, bs=8)
        dl.one_batch()
        data[3] = data[5]
        assert torch.equal(dl.one_batch()[3], torch.as_tensor(data[5]))


def test_a_data_set_in_the_place_of_another_is_seen():
    "Even if it lies at the same address in memory."
    dl = DataLoader([(torch.zeros(2), 0)]*4, bs=4)
    for i in range(20):
        dl.dataset = [(torch.full((2,), float(i)), i)]*4
        assert dl.one_batch()[1].tolist() == [i]*4


def test_the_list_is_stacked_once_as_long_as_it_stays_the_same(monkeypatch):
    from fastbook_impl.data import load
    calls, real = [], load.stacked
    monkeypatch.setattr(load, 'stacked', lambda ds: calls.append(1) or real(ds))
    data = [(torch.rand(2), i) for i in range(8)]
    dl = DataLoader(data, bs=4)
    for _ in range(3): list(dl)
    assert len(calls) == 1
    data[2] = (torch.rand(2), 2)
    list(dl)
    assert len(calls) == 2


# --- items that stop

@pytest.mark.parametrize('workers', [0, 1])
def test_an_item_that_raises_stop_iteration_is_an_error(workers):
    def stops(i): return next(iter([])) if i == 5 else i
    for steps in (dict(create_item=stops), dict(after_item=stops)):
        with pytest.raises(RuntimeError, match='item 5 raised StopIteration'): list(DataLoader(range(8), bs=2, num_workers=workers, **steps))


@pytest.mark.parametrize('step', ['before_batch', 'create_batch', 'after_batch'])
def test_no_step_can_end_the_epoch_without_a_word(step):
    def stops(b): raise StopIteration
    with pytest.raises(RuntimeError, match='StopIteration'): list(DataLoader(range(8), bs=2, **{step: stops}))
    with pytest.raises(RuntimeError, match='StopIteration'): list(DataLoader(iter(range(8)), bs=2, after_item=stops))


def test_an_item_that_stops_in_a_pipeline_is_an_error():
    from fastbook_impl.data.core import Datasets, TfmdDL, TfmdLists
    def stops(i): return next(iter([])) if i == 5 else i
    for ds in (TfmdLists(range(8), stops), Datasets(range(8), [[stops], [int]])):
        with pytest.raises(Exception, match='StopIteration'): list(TfmdDL(ds, bs=2))


@pytest.mark.parametrize('drop_last', [False, True])
def test_a_stream_without_a_data_set_ends_when_it_stops(drop_last):
    items = iter(range(7))
    dl = DataLoader(bs=3, drop_last=drop_last, create_item=lambda i: next(items))
    assert [b.tolist() for b in dl] == [[0, 1, 2], [3, 4, 5]] + ([] if drop_last else [[6]])


# --- one return type

def test_do_item_returns_an_item_while_batches_are_made_too():
    from fastbook_impl.data.core import TfmdDL, TfmdLists
    from fastbook_impl.data.transforms import ToTensor
    from fastbook_impl.vision.core import PILImage
    dl = TfmdDL(TfmdLists(range(6), lambda i: PILImage.create(np.full((4, 4, 3), i, np.uint8))), bs=3, after_item=ToTensor)
    inside = []
    real = dl.create_item
    dl.after_batch = lambda b: inside.append(dl.do_item(0)) or b
    assert [b.shape for b in dl] == [(3, 3, 4, 4)]*2
    assert all(isinstance(o, TensorImage) for o in inside) and isinstance(dl.do_item(1), TensorImage)
    assert real(0) is not None and isinstance(dl.one_batch(), TensorImage)


# --- workers

BUSY = """
import os, sys, time, threading
from fastbook_impl.data.load import DataLoader
class Slow:
    def __len__(self): return 4
    def __getitem__(self, i):
        with open(sys.argv[1], 'a') as f: print(os.getpid(), file=f, flush=True)
        time.sleep(60 if i else 0)
        return i
dl = DataLoader(Slow(), bs=1, num_workers=2)
try:
    for b in dl: %s
except KeyboardInterrupt: print('interrupted', flush=True)
"""


def workers_of(path, n=2, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pids = set(path.read_text().split()) if path.exists() else set()
        if len(pids) == n: return [int(o) for o in pids]
        time.sleep(.02)
    raise AssertionError('the workers did not start')


def alive(pid):
    try: return 'Z' not in Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
    except OSError: return False


def gone(pids, seconds=5):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(map(alive, pids)): return True
        time.sleep(.05)
    return False


@pytest.mark.medium
@pytest.mark.skipif(sys.platform != 'linux', reason='looks into /proc')
@pytest.mark.parametrize('how', ['killed', 'left', 'interrupted'])
def test_no_worker_outlives_the_main_process(tmp_path, how):
    "Also while it is busy with an item that takes a minute."
    wait = 'while len(set(open(sys.argv[1]))) < 2: time.sleep(.02)'
    code = BUSY % (f'\n        {wait}\n        break' if how == 'left' else 'pass')
    p = subprocess.Popen([sys.executable, '-c', code, str(tmp_path/'pids')], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         start_new_session=True, cwd=Path(__file__).parent.parent.parent)
    pids = workers_of(tmp_path/'pids')
    try:
        if how == 'killed': p.kill()
        if how == 'interrupted': os.killpg(p.pid, signal.SIGINT)  # as a terminal does: to all of them
        out, err = p.communicate(timeout=600)
        assert gone(pids), 'a worker is left'
        assert how == 'killed' or (p.returncode == 0 and 'Error' not in err), err
        assert ('interrupted' in out) == (how == 'interrupted')
    finally:
        for pid in pids:
            if alive(pid): os.kill(pid, signal.SIGKILL)

"""However a fit ends, the learner is as after a clean end: the next fit, from the same weights and seeds, gives the same numbers to the last bit.

A representative part runs always. All of it (36 exceptions, 210 interrupts, 600 damaged files) is marked `slow`."""
import csv
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings

import pytest
import torch
from torch import nn

import fastbook_impl
from fastbook_impl.callback.core import Callback, CancelFitException
from fastbook_impl.callback.fp16 import MixedPrecision
from fastbook_impl.callback.hook import ActivationStats
from fastbook_impl.callback.mixup import CutMix, MixUp
from fastbook_impl.callback.progress import CSVLogger, ProgressCallback
from fastbook_impl.callback.rnn import ModelResetter, RNNRegularizer
from fastbook_impl.callback.schedule import ParamScheduler, SchedLin
from fastbook_impl.callback.tracker import SaveModelCallback
from fastbook_impl.callback.training import GradientAccumulation, GradientClip
from fastbook_impl.data.load import DataLoader, DataLoaders
from fastbook_impl.learner import FitInterrupted, Learner
from fastbook_impl.losses import CrossEntropyLossFlat
from fastbook_impl.metrics import accuracy
from fastbook_impl.optimizer import Adam
from fastbook_impl.torch_core import set_seed

PACKAGE = os.path.dirname(fastbook_impl.__file__)


class Reader(nn.Module):
    "A recurrent network with a state, as in chapter 12: it returns predictions and the activations that are regularized."
    def __init__(self):
        super().__init__()
        self.emb, self.rnn, self.out = nn.Embedding(8, 6), nn.RNN(6, 6, batch_first=True), nn.Linear(6, 3)
        self.reset()
    def reset(self): self.h = None
    def forward(self, x):
        h = self.h if self.h is not None and self.h.shape[1] == x.shape[0] else None
        raw, h = self.rnn(self.emb(x), h)
        self.h = h.detach()
        return self.out(raw[:, -1]), raw, raw


def image_net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def digits(n=56, workers=0, text=False):
    set_seed(3)
    y = torch.randint(0, 3, (n,))
    x = torch.randint(0, 8, (n, 5)) if text else torch.randn(n, 1, 8, 8) + y[:, None, None, None]
    items = list(zip(x, y))
    if workers: items = Lazily(items) # not stacked in advance, so that there is work for the workers
    return DataLoaders(DataLoader(items, bs=16, shuffle=True, num_workers=workers), DataLoader(items, bs=16, num_workers=workers))


class Lazily:
    def __init__(self, items): self.items = items
    def __len__(self): return len(self.items)
    def __getitem__(self, i): return self.items[i]


class Setup:
    "One of the ways to train: `learn` is made once, and `fit` called again and again."
    def __init__(self, name, path):
        self.name = name
        model = Reader() if name == 'text' else image_net()
        self.learn = Learner(digits(workers=2 if name == 'workers' else 0, text=name == 'text'), model, opt_func=Adam, lr=1e-2,
                             loss_func=CrossEntropyLossFlat(), metrics=accuracy, path=path)
        self.learn.remove_cb(ProgressCallback)
        self.learn.add_cb(Quiet())
        if name == 'bf16': self.learn.to_bf16()
        if name == 'fp16': self.learn.add_cb(Float16Anywhere(init_scale=2.**10))
        if name == 'hooks': self.learn.add_cbs([ActivationStats(every=2), CSVLogger()])
        if name == 'text': self.learn.add_cbs([ModelResetter(), RNNRegularizer(2., 1.)])
        set_seed(4)
        self.start = {k: v.clone() for k,v in self.learn.model.state_dict().items()}

    def cbs(self):
        if self.name == 'mixup': return [MixUp(), GradientClip()]
        if self.name == 'cutmix': return [CutMix(), GradientAccumulation(40)]
        if self.name == 'best': return [SaveModelCallback(fname='best'), ParamScheduler({'wd': SchedLin(0., .1)})]
        return []

    def fit(self, *more):
        if self.name == 'one_cycle': return self.learn.fit_one_cycle(2, 1e-2, cbs=list(more))
        return self.learn.fit(2, cbs=[*self.cbs(), *more])

    def reset(self):
        "The weights and the seeds from before, and a new optimizer: all that a person would think of."
        self.learn.model.load_state_dict(self.start)
        if hasattr(self.learn.model, 'reset'): self.learn.model.reset()
        self.learn.opt = None
        set_seed(5)

    def outcome(self):
        "What a clean fit gives: weights, the recorder's table, and predictions afterwards."
        self.reset()
        self.fit()
        rows = [[float(o) for o in v] for v in self.learn.recorder.values]
        state = {k: v.clone() for k,v in self.learn.model.state_dict().items()}
        return state, rows, list(self.learn.recorder.losses), list(map(float, self.learn.validate()))

    def check_in_order(self):
        "Nothing of the fit that ended is left."
        learn = self.learn
        assert not torch.is_autocast_enabled('cpu') and torch.is_grad_enabled()
        assert type(learn.loss_func) is CrossEntropyLossFlat and learn.loss_func.reduction == 'mean'
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in learn.model.modules())
        assert not {'do_forward', 'do_step'} & set(learn.__dict__) and learn.logger is print
        assert not learn.training and not any(m.training for m in learn.model.modules())
        assert not any(learn._active.values()) and learn._session is None and not learn._failed
        assert [cb.name for cb in learn.cbs] == self.names
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if hasattr(learn, 'csv_logger'): assert learn.csv_logger.file is None

    @property
    def names(self):
        more = {'bf16': ['mixed_precision'], 'fp16': ['mixed_precision'], 'hooks': ['activation_stats', 'csv_logger'],
                'text': ['model_resetter', 'rnn_regularizer']}
        return ['train_eval', 'recorder', 'quiet', *more.get(self.name, [])]


class Quiet(Callback):
    "Prints no rows."
    order = 60
    def before_fit(self): self.was, self.learn.logger = self.learn.logger, lambda row: None
    def cleanup_fit(self): self.learn.logger = self.was


class Float16Anywhere(MixedPrecision):
    name = 'mixed_precision'
    def _wants_fp16(self, kind): return True


def same(a, b):
    return all(torch.equal(a[0][k], b[0][k]) for k in b[0]) and a[1:] == b[1:]


SETUPS = ['plain', 'mixup', 'bf16', 'hooks', 'one_cycle', 'workers', 'text']
EVENTS = ('before_fit before_epoch before_train before_batch after_pred after_loss before_backward after_backward before_step after_step '
          'after_batch after_train before_validate after_validate').split()
ERRORS = [ValueError('x'), RuntimeError('x'), torch.OutOfMemoryError('CUDA out of memory'), KeyError('x'), SystemExit(3)]


def raising(event, error, at=1, order=90):
    "A callback that raises `error` when it hears `event` for time number `at`."
    class Raises(Callback):
        heard = 0
        def __init__(self): self.order = order
        def hear(self):
            self.heard += 1
            if self.heard == at: raise error
    setattr(Raises, event, Raises.hear)
    return Raises()


# exceptions -----------------------------------------------------------------------------------------------------------

def failing(setup, clean, event, error, at, order):
    setup.reset()
    with pytest.raises(type(error)) as e: setup.fit(raising(event, error, at, order))
    assert e.value is error
    setup.check_in_order()
    assert same(setup.outcome(), clean), (setup.name, event, type(error))


def cases():
    "36 of them: every event twice or more, every kind of error seven times, at the first hearing or a later one, before and after all other callbacks."
    single = {'before_fit', 'before_epoch', 'before_train', 'after_train', 'before_validate', 'after_validate'}
    for i in range(36):
        event = EVENTS[i % len(EVENTS)]
        late = 1 if event == 'before_fit' else 2 if event in single else 3
        yield SETUPS[i % 5], event, ERRORS[i % 5 if i < 15 else (i+i//14) % 5], late if i % 2 else 1, 90 if i % 3 else -90


@pytest.mark.parametrize('name', ['mixup', 'cutmix', 'fp16', 'hooks', 'best'])
def test_after_an_exception_the_next_fit_is_a_clean_one(name, tmp_path):
    setup = Setup(name, tmp_path)
    clean = setup.outcome()
    for event, at in (('before_fit', 1), ('after_loss', 3), ('before_validate', 1)): failing(setup, clean, event, ValueError('x'), at, 90)


@pytest.mark.slow
def test_36_exceptions_in_14_events(tmp_path):
    setups, clean, seen = {}, {}, []
    for name, event, error, at, order in cases():
        if name not in setups:
            setups[name] = Setup(name, tmp_path/name)
            clean[name] = setups[name].outcome()
        failing(setups[name], clean[name], event, error, at, order)
        seen.append(event)
    assert len(seen) == 36 and set(seen) == set(EVENTS)


# interrupts -----------------------------------------------------------------------------------------------------------

class interrupt_at:
    "Ctrl-C, a real SIGINT, before line number `at` that the package runs inside of the `with` block; `lines` is how many it ran."
    def __init__(self, at=None): self.at, self.lines = at, 0
    def __enter__(self):
        sys.settrace(self.call)
        return self
    def __exit__(self, *exc): sys.settrace(None)
    def call(self, frame, event, arg): return self.line if frame.f_code.co_filename.startswith(PACKAGE) else None
    def line(self, frame, event, arg):
        if event != 'line': return self.line
        self.lines += 1
        if self.lines == self.at: signal.raise_signal(signal.SIGINT)
        return self.line


def interrupted(setup, clean, at):
    setup.reset()
    with pytest.raises(KeyboardInterrupt), interrupt_at(at): setup.fit()
    setup.check_in_order()
    assert same(setup.outcome(), clean), (setup.name, at)


def lines_of(setup):
    setup.reset()
    with interrupt_at() as count: setup.fit()
    return count.lines


def places(n, how_many):
    "Some at the very beginning and the very end, where clean-up is easy to miss; the others anywhere."
    rng = random.Random(0)
    few = how_many//3
    return sorted({*rng.sample(range(2, min(n, 160)), few), *rng.sample(range(max(2, n-160), n-1), few), *rng.sample(range(2, n-1), how_many - 2*few)})


@pytest.mark.parametrize('name', ['mixup', 'bf16', 'hooks', 'text'])
def test_after_ctrl_c_the_next_fit_is_a_clean_one(name, tmp_path):
    setup = Setup(name, tmp_path)
    clean = setup.outcome()
    for at in places(lines_of(setup), 6): interrupted(setup, clean, at)


@pytest.mark.slow
@pytest.mark.parametrize('name', SETUPS)
def test_30_interrupts_in_each_of_7_setups(name, tmp_path):
    setup = Setup(name, tmp_path)
    clean = setup.outcome()
    found = places(lines_of(setup), 30)
    for at in found: interrupted(setup, clean, at)
    assert len(found) >= 28


@pytest.mark.slow
def test_every_line_of_a_fit_can_be_interrupted(tmp_path):
    "All lines up to the first batch and from the last one on, one after the other."
    setup = Setup('mixup', tmp_path)
    clean, n = setup.outcome(), lines_of(setup)
    for at in [*range(2, 150), *range(n-220, n)]: interrupted(setup, clean, at)

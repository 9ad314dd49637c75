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


# workers --------------------------------------------------------------------------------------------------------------

TRAINS_WITH_WORKERS = textwrap.dedent('''
    import multiprocessing, sys
    sys.path.insert(0, sys.argv[1])
    from test_ends import Setup
    from fastbook_impl.learner import FitInterrupted
    setup = Setup('workers', sys.argv[2])
    print('begins', flush=True)
    try: setup.learn.fit(10_000)
    except FitInterrupted as e: print('FitInterrupted', e)
    print('workers left:', len(multiprocessing.active_children()))
    setup.check_in_order()
    setup.reset(); setup.fit()
    print('trains again')
''')


def interrupted_process(tmp_path, seconds):
    "What a process prints that trains with two workers, and is interrupted as a terminal does it: with all of its children."
    process = subprocess.Popen([sys.executable, '-c', TRAINS_WITH_WORKERS, os.path.dirname(__file__), str(tmp_path)], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, start_new_session=True, env={**os.environ, 'PYTHONPATH': os.path.dirname(PACKAGE)})
    try:
        assert process.stdout.readline() == 'begins\n', process.communicate()[1]
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGINT)
        return process.communicate(timeout=600)
    finally:
        process.kill()
        process.wait()


def check_workers(tmp_path, seconds):
    out, err = interrupted_process(tmp_path, seconds)
    assert 'FitInterrupted Interrupted' in out and 'workers left: 0' in out and out.endswith('trains again\n') and 'KeyboardInterrupt' not in err, out + err


@pytest.mark.medium
def test_ctrl_c_of_a_terminal_reaches_the_workers_too(tmp_path):
    check_workers(tmp_path, 1.3)


@pytest.mark.slow
def test_ctrl_c_at_20_moments_with_workers(tmp_path):
    for i in range(20): check_workers(tmp_path, 0.5 + i*0.11)


def test_the_end_of_a_worker_by_the_same_ctrl_c_is_an_interrupt(tmp_path):
    def lost(because):
        def hear(self):
            try: raise because
            except BaseException: raise RuntimeError('DataLoader worker (pid(s) 12) exited unexpectedly')
        return type('Lost', (Callback,), {'after_loss': hear})()
    learn = Setup('plain', tmp_path).learn
    with pytest.raises(FitInterrupted): learn.fit(1, cbs=lost(KeyboardInterrupt()))
    with pytest.raises(RuntimeError, match='exited unexpectedly'): learn.fit(1, cbs=lost(ValueError()))


# the rules of clean-up ------------------------------------------------------------------------------------------------

LEVELS = ('fit', 'epoch', 'train', 'validate', 'batch')


class Balance(Callback):
    "Counts what has begun and is not cleaned up."
    def __init__(self, order=0): self.order, self.open, self.heard = order, [], []


def _hears(event, what):
    def hear(self):
        self.heard.append(event)
        if event.startswith('before'): self.open.append(what)
        elif event.startswith('cleanup'): assert self.open.pop() == what
    return hear


for _what in LEVELS:
    for _when in ('before', 'after', 'cleanup'): setattr(Balance, f'{_when}_{_what}', _hears(f'{_when}_{_what}', _what))


def test_clean_up_comes_last_at_every_level(tmp_path):
    learn, cb = Setup('plain', tmp_path).learn, Balance()
    learn.fit(1, cbs=cb)
    assert cb.open == [] and [e for e in cb.heard if 'batch' not in e] == [
        'before_fit', 'before_epoch', 'before_train', 'after_train', 'cleanup_train', 'before_validate', 'after_validate', 'cleanup_validate',
        'after_epoch', 'cleanup_epoch', 'after_fit', 'cleanup_fit']
    assert cb.heard.count('cleanup_batch') == cb.heard.count('before_batch') == 8


@pytest.mark.parametrize('event', EVENTS)
def test_what_has_begun_is_cleaned_up_and_nothing_else(event, tmp_path):
    learn, before, after = Setup('plain', tmp_path).learn, Balance(-95), Balance(95)
    with pytest.raises(KeyError): learn.fit(1, cbs=[before, after, raising(event, KeyError('x'))])
    assert before.open == after.open == [] and before.heard
    if event.startswith('before_') and event[7:] in LEVELS:
        assert event in before.heard and event not in after.heard and f'cleanup_{event[7:]}' not in after.heard


def test_after_events_come_after_ctrl_c_and_not_after_an_exception(tmp_path):
    learn, cb = Setup('plain', tmp_path).learn, Balance()
    with pytest.raises(FitInterrupted): learn.fit(1, cbs=[cb, raising('after_loss', KeyboardInterrupt())])
    assert cb.heard[-2:] == ['after_fit', 'cleanup_fit'] and 'after_epoch' not in cb.heard
    cb = Balance()
    with pytest.raises(KeyError): learn.fit(1, cbs=[cb, raising('after_loss', KeyError())])
    assert 'after_fit' not in cb.heard and cb.heard[-1] == 'cleanup_fit'


class BadCleanUp(Callback):
    order = 70
    def __init__(self, what='fit'): setattr(self, f'cleanup_{what}', self.fail)
    def fail(self): raise OSError(28, 'No space left on device')


def test_a_clean_up_that_fails_hides_neither_the_error_nor_other_clean_ups(tmp_path):
    learn, cb = Setup('plain', tmp_path).learn, Balance()
    with pytest.raises(KeyError) as e: learn.fit(1, cbs=[cb, BadCleanUp('fit'), BadCleanUp('batch'), raising('after_loss', KeyError('the loss'))])
    assert cb.open == []
    if sys.version_info >= (3, 11): assert sum('No space left on device' in note for note in e.value.__notes__) == 2
    learn.fit(1)


@pytest.mark.parametrize('what', LEVELS)
def test_a_clean_up_that_fails_after_a_clean_end_is_an_error(what, tmp_path):
    learn, cb = Setup('plain', tmp_path).learn, Balance()
    with pytest.raises(OSError, match='No space left'): learn.fit(1, cbs=[cb, BadCleanUp(what)])
    assert cb.open == []
    learn.fit(1)


def test_removing_an_active_callback_cleans_up(tmp_path):
    setup, cb = Setup('plain', tmp_path), MixUp()
    class Removes(Callback):
        def after_batch(self):
            if self.training and self.iter == 1: self.learn.remove_cb(cb)
    setup.learn.fit(1, cbs=[cb, Removes()])
    assert type(setup.learn.loss_func) is CrossEntropyLossFlat


def test_ctrl_c_before_a_callback_began_is_no_error_of_the_callback(tmp_path):
    for event in ('before_fit', 'before_epoch', 'before_train', 'before_validate', 'after_fit'):
        learn = Setup('hooks', tmp_path).learn
        with pytest.raises(FitInterrupted): learn.fit(1, cbs=[MixUp(), ParamScheduler({'lr': SchedLin(.1, .2)}), raising(event, KeyboardInterrupt(), order=-100)])


def test_a_full_disk_closes_the_history(tmp_path):
    learn, log = Setup('plain', tmp_path).learn, CSVLogger()
    class Full:
        "A file on a disk that is full after the first line."
        def __init__(self, file): self.file, self.lines = file, 0
        def write(self, text):
            self.lines += 1
            if self.lines > 1: raise OSError(28, 'No space left on device')
            return self.file.write(text)
        def flush(self): self.file.flush()
        def close(self): self.file.close()
    class Fill(Callback):
        order = 62
        def before_epoch(self):
            if self.epoch == 0: log.file = self.full = Full(log.file)
    with pytest.raises(OSError, match='No space left'): learn.fit(3, cbs=[log, fill := Fill()])
    assert fill.full.file.closed and log.file is None and learn.logger is print
    learn.fit(1, cbs=CSVLogger())
    assert [r[0] for r in csv.reader(open(tmp_path/'history.csv'))] == ['epoch', '0']


def test_the_same_error_comes_out_of_the_fit(tmp_path):
    "Its type, also where the constructor of the type takes other arguments, the object itself, and advice as a note."
    class Strange(RuntimeError):
        def __init__(self, code, size): super().__init__(f'{code}: size {size}'); self.code = code
    error = Strange(7, 3)
    with pytest.raises(Strange, match='7: size 3') as e: Setup('plain', tmp_path).learn.fit(1, cbs=raising('after_loss', error))
    assert e.value is error and error.code == 7
    if sys.version_info >= (3, 11): assert 'these shapes do not match: inputs' in error.__notes__[0]


def test_validation_after_an_exception_in_mixup_tells_the_truth(tmp_path):
    setup = Setup('plain', tmp_path)
    before = list(setup.learn.validate())
    with pytest.raises(torch.OutOfMemoryError, match='out of memory'): setup.learn.fit(1, cbs=[MixUp(), raising('after_pred', torch.OutOfMemoryError('out of memory'))])
    setup.reset() # the first forward pass has changed the statistics of the batch normalization
    assert list(setup.learn.validate()) == before


@pytest.mark.parametrize('error', [KeyError('x'), KeyboardInterrupt()], ids=['exception', 'interrupt'])
def test_a_schedule_that_ends_early_leaves_the_values_from_before(tmp_path, error):
    learn = Setup('plain', tmp_path).learn
    learn.create_opt()
    before = dict(learn.opt.hypers[-1])
    with pytest.raises(type(error)): learn.fit_one_cycle(1, 1e-2, cbs=raising('after_step', error, at=3))
    assert learn.opt.hypers[-1]['mom'] == before['mom']


def test_a_complete_schedule_leaves_its_last_values(tmp_path):
    learn = Setup('plain', tmp_path).learn
    learn.fit_one_cycle(1, 1e-2)
    assert learn.opt.hypers[-1]['mom'] == learn.recorder.hps['mom'][-1] and learn.opt.hypers[-1]['lr'] == learn.recorder.hps['lr'][-1]


def test_a_fit_begins_without_gradients(tmp_path):
    setup = Setup('plain', tmp_path)
    clean = setup.outcome()
    setup.reset()
    learn = setup.learn
    learn.create_opt()
    for p in learn.model.parameters(): p.grad = torch.ones_like(p)
    setup.fit()
    assert all(torch.equal(v, clean[0][k]) for k,v in learn.model.state_dict().items())


def test_predictions_within_a_fit_leave_the_fit_alone(tmp_path):
    "A callback that predicts in the middle of an epoch, in half precision, changes nothing in the training."
    class Looks(Callback):
        order = 40
        def after_batch(self):
            if not self.training: return
            states = torch.get_rng_state(), random.getstate()
            self.learn.get_preds(inner=True)
            torch.set_rng_state(states[0]); random.setstate(states[1])
            assert self.training and self.model.training and 'do_forward' in self.learn.__dict__
    setup = Setup('bf16', tmp_path)
    def trained(*cbs):
        setup.reset()
        setup.fit(*cbs)
        return list(setup.learn.recorder.losses)
    assert trained() == trained(Looks())


def test_autocast_is_left_as_it_was_also_by_an_interrupt_on_its_way_in(tmp_path, monkeypatch):
    setup = Setup('bf16', tmp_path)
    enter = torch.autocast.__enter__
    def interrupted_enter(self):
        enter(self)
        raise KeyboardInterrupt
    monkeypatch.setattr(torch.autocast, '__enter__', interrupted_enter)
    with pytest.raises(FitInterrupted): setup.fit()
    assert not torch.is_autocast_enabled('cpu')
    assert torch.autocast_increment_nesting() == 1 and torch.autocast_decrement_nesting() == 0


# threads --------------------------------------------------------------------------------------------------------------

def test_predictions_from_threads_belong_to_their_items(tmp_path):
    learn = Setup('plain', tmp_path).learn
    xs = [torch.randn(2, 1, 8, 8) for _ in range(160)]
    expected = [learn.get_preds(dl=[(x, torch.zeros(2, dtype=torch.long))])[0] for x in xs]
    wrong = []
    def work(part):
        for i in part:
            try: found = learn.get_preds(dl=[(xs[i], torch.zeros(2, dtype=torch.long))])[0]
            except Exception as e: wrong.append(e); continue
            if not torch.equal(found, expected[i]): wrong.append(i)
    threads = [threading.Thread(target=work, args=(range(k, 160, 8),)) for k in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert wrong == []


def test_predictions_during_a_fit_in_another_thread_are_refused(tmp_path):
    learn, found = Setup('plain', tmp_path).learn, []
    class Asks(Callback):
        def after_loss(self):
            def ask():
                try: learn.get_preds()
                except RuntimeError as e: found.append(str(e))
            thread = threading.Thread(target=ask)
            thread.start(); thread.join(timeout=10)
            raise CancelFitException
    learn.fit(1, cbs=Asks())
    assert len(found) == 1 and 'training in another thread' in found[0]
    learn.get_preds()


def test_a_learner_can_be_copied(tmp_path):
    import copy
    learn = Setup('plain', tmp_path).learn
    other = copy.deepcopy(learn)
    other.fit(1)
    assert other.cbs[0].learn is other and other._lock is not learn._lock

"Callbacks: schedules, the learning rate finder, trackers, half precision, hooks, the ways to change a step, and blends."
import copy
import math
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastbook_impl.callback.core import Callback, CancelFitException
from fastbook_impl.callback.fp16 import AMPMode, MixedPrecision
from fastbook_impl.callback.hook import (ActivationStats, Hook, HookCallback, Hooks, dummy_eval, hook_output, hook_outputs, layer_info, model_sizes,
                                         module_summary, num_features_model, total_params)
from fastbook_impl.callback.mixup import CutMix, MixUp
from fastbook_impl.callback.progress import ProgressCallback  # noqa: F401  (adds no_logging to Learner)
from fastbook_impl.callback.schedule import (ParamScheduler, SchedCos, SchedExp, SchedLin, SchedNo, SchedPoly, SuggestionMethod, annealer,
                                             combine_scheds, combined_cos, minimum, slide, steep, valley)
from fastbook_impl.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback, TerminateOnNaNCallback, TrackerCallback
from fastbook_impl.callback.training import BnFreeze, GradientAccumulation, GradientClip, ShortEpochCallback, set_bn_eval
from fastbook_impl.data.load import DataLoader, DataLoaders
from fastbook_impl.learner import Learner
from fastbook_impl.losses import CrossEntropyLossFlat, MSELossFlat
from fastbook_impl.metrics import accuracy, mae
from fastbook_impl.optimizer import SGD, Adam, ranger
from fastbook_impl.torch_core import set_seed


def line(n=160, bs=16, model=None, loss_func=None, opt_func=SGD, **kwargs):
    "A learner for `y = 2x+3` with a little noise; silent."
    set_seed(42)
    x = torch.randn(n+32, 1)
    y = 2*x + 3 + .1*torch.randn(n+32, 1)
    items = list(zip(x, y))
    dls = DataLoaders(DataLoader(items[:n], bs=bs, shuffle=True), DataLoader(items[n:], bs=bs))
    learn = Learner(dls, model or nn.Linear(1, 1), loss_func=loss_func or MSELossFlat(), opt_func=opt_func, **kwargs)
    learn.remove_cbs(ProgressCallback)
    learn.logger = lambda row: None
    return learn

def classes(n=96, bs=16, model=None, loss_func=None, cuda=False, onehot=False, **kwargs):
    "A learner for 3 classes that are far apart, in pictures of 8×8; silent."
    set_seed(42)
    y = torch.randint(0, 3, (n+32,))
    x = torch.randn(n+32, 1, 8, 8)*.3
    for i in range(3): x[y==i, 0, i*2:i*2+2] += 1
    items = list(zip(x, F.one_hot(y, 3).float() if onehot else y))
    dls = DataLoaders(DataLoader(items[:n], bs=bs, shuffle=True), DataLoader(items[n:], bs=bs), device='cuda' if cuda else None)
    model = model or nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    learn = Learner(dls, model, loss_func=loss_func or CrossEntropyLossFlat(), **kwargs)
    learn.remove_cbs(ProgressCallback)
    learn.logger = lambda row: None
    return learn

def groups(m): return [list(m[0].parameters()), list(m[1].parameters()), list(m[2].parameters())]
def three_groups(): return nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 2), nn.Linear(2, 1))
def weights(m): return torch.cat([p.detach().flatten().cpu().clone() for p in m.parameters()])

class Watch(Callback):
    "Remembers what `f(learn)` gives after each training batch."
    order = 90
    def __init__(self, f): self.f, self.seen = f, []
    def after_batch(self):
        if self.training: self.seen.append(self.f(self.learn))


# schedules ------------------------------------------------------------------------------------------------------------

def test_annealers_by_hand():
    pos = [0., .25, .5, 1.]
    assert [SchedLin(1, 3)(p) for p in pos] == pytest.approx([1, 1.5, 2, 3])
    assert [SchedCos(1, 3)(p) for p in pos] == pytest.approx([1, 2-math.sqrt(.5), 2, 3])
    assert [SchedNo(1, 3)(p) for p in pos] == [1]*4
    assert [SchedExp(1e-3, 1e1)(p) for p in pos] == pytest.approx([1e-3, 1e-2, 1e-1, 1e1])
    assert [SchedPoly(1, 3, 2)(p) for p in pos] == pytest.approx([1, 1.125, 1.5, 3])

def test_own_annealer():
    @annealer
    def sched_sqrt(start, end, pos): return start + (end-start)*pos**.5
    assert sched_sqrt(0, 2)(.25) == 1 and sched_sqrt.__name__ == 'sched_sqrt'

def test_schedules_of_groups():
    f = combined_cos(.5, np.array([1., 2.]), np.array([3., 4.]), np.array([0., 0.]))
    assert np.allclose(f(.5), [3, 4]) and np.allclose(f(.25), [2, 3]) and np.allclose(f(1.), 0)

def test_combined_schedules():
    f = combine_scheds([.3, .7], [SchedLin(0, 1), SchedCos(1, 0)])
    assert [f(p) for p in (0., .15, .3, .65, 1.)] == pytest.approx([0, .5, 1, .5, 0])
    g = combine_scheds([.2, .3, .5], [SchedNo(i, i) for i in range(3)])
    assert [g(p) for p in (0., .19, .21, .49, .51, .99, 1., 1.0000001)] == [0, 0, 1, 1, 2, 2, 2, 2]

@pytest.mark.parametrize('pcts,n,text', [([.5, .6], 2, r'add up to 1, got \[0.5, 0.6\]'),
                                         ([-.5, 1.5], 2, r'at least 0.*got \[-0.5, 1.5\]'), ([.5, .5], 3, '2 fractions for 3 schedules')])
def test_shares_that_do_not_add_up(pcts, n, text):
    with pytest.raises(ValueError, match=text): combine_scheds(pcts, [SchedNo(1, 1)]*n)

def test_one_cycle():
    learn = line(splitter=groups, model=three_groups())
    lrs = Watch(lambda l: [h['lr'] for h in l.opt.hypers])
    learn.fit_one_cycle(4, slice(1e-4, 1e-2), div=10, div_final=100, pct_start=.25, cbs=lrs, moms=(.9, .8, .95))
    n, hps = 40, learn.recorder.hps
    expected = [combined_cos(.25, 1e-3, 1e-2, 1e-4)(i/n) for i in range(n)]
    assert hps['lr'] == pytest.approx(expected)
    assert hps['mom'] == pytest.approx([combined_cos(.25, .9, .8, .95)(i/n) for i in range(n)])
    assert np.allclose(np.array(lrs.seen)[:, 0]*100, expected) and np.allclose(np.array(lrs.seen)[:, 1]*10, expected)
    assert learn.recorder.lrs == pytest.approx(expected)

def test_one_cycle_defaults():
    learn = line(lr=.02)
    learn.fit_one_cycle(2)
    lr, mom = learn.recorder.hps['lr'], learn.recorder.hps['mom']
    assert lr[0] == pytest.approx(.02/25) and max(lr) == pytest.approx(.02) and lr.index(max(lr)) == 5
    assert mom[0] == pytest.approx(.95) and min(mom) == pytest.approx(.85)

def test_one_cycle_that_goes_on():
    whole, part = line(), line()
    whole.fit_one_cycle(4, .1)
    part.fit_one_cycle(4, .1, start_epoch=2)
    assert part.recorder.hps['lr'] == pytest.approx(whole.recorder.hps['lr'][20:])

def test_one_cycle_passes_on_wd_callbacks_and_reset():
    learn = line(opt_func=Adam)
    learn.fit_one_cycle(1, .1)
    opt, count = learn.opt, Watch(lambda l: 1)
    learn.fit_one_cycle(1, .1, wd=.3, cbs=[count])
    assert learn.opt is opt and learn.opt.hypers[0]['wd'] == .3 and len(count.seen) == 10
    learn.fit_one_cycle(1, .1, reset_opt=True)
    assert learn.opt is not opt

def test_flat_cos():
    learn = line()
    learn.fit_flat_cos(4, .1)
    lr = learn.recorder.hps['lr']
    assert lr[:30] == pytest.approx([.1]*30) and lr[35] == pytest.approx(combined_cos(.75, .1, .1, 1e-6)(35/40))

@pytest.mark.parametrize('mult,lens', [(2, [10, 20, 40]), (1, [10, 10, 10])])
def test_sgdr(mult, lens):
    learn = line()
    learn.fit_sgdr(3, 1, .1, cycle_mult=mult)
    expected = [SchedCos(.1, 0.)(i/n) for n in lens for i in range(n)]
    assert learn.recorder.hps['lr'] == pytest.approx(expected)

def test_fine_tune():
    learn, moved = line(splitter=groups, model=three_groups()), []
    class Phases(Callback):
        order = 70
        def before_fit(self): moved.append((self.opt.frozen_idx, weights(self.model[0])))
        def after_fit(self): moved.append((max(self.recorder.hps['lr']), weights(self.model[0])))
    lrs = Watch(lambda l: [h['lr'] for h in l.opt.hypers])
    learn.fine_tune(2, 1e-2, freeze_epochs=1, cbs=[Phases(), lrs])
    (frozen, w0), (top1, w1), (free, _), (top2, w2) = moved
    assert frozen == 2 and free == 0 and torch.equal(w0, w1) and not torch.equal(w1, w2)
    top = np.array(lrs.seen)
    assert len(top) == 30 and top[:10, 2].max() == pytest.approx(1e-2, rel=.05)
    assert top[10:].max(0) == pytest.approx([5e-5, 5e-4, 5e-3], rel=1e-6)

def test_any_hyperparameter_can_be_scheduled():
    learn = line(opt_func=Adam)
    learn.fit(2, .1, cbs=ParamScheduler({'wd': SchedLin(0., .2), 'sqr_mom': SchedNo(.9, .9)}))
    assert learn.recorder.hps['wd'] == pytest.approx([.2*i/20 for i in range(20)]) and set(learn.recorder.hps['sqr_mom']) == {.9}

def test_plot_sched():
    import matplotlib.pyplot as plt
    learn = line()
    with pytest.raises(ValueError, match='no schedule.*fit_one_cycle or a ParamScheduler'): learn.recorder.plot_sched()
    learn.fit_one_cycle(1, .1)
    learn.recorder.plot_sched()
    assert [ax.get_ylabel() for ax in plt.gcf().axes] == ['lr', 'mom']
    learn.recorder.plot_sched('mom')
    assert len(plt.gcf().axes) == 1
    plt.close('all')

@pytest.mark.parametrize('lr', [0, -1., float('nan')])
def test_no_such_rate(lr):
    with pytest.raises(ValueError, match='^the learning rate must be above 0, got'): line().fit_one_cycle(1, lr)


# the learning rate finder ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize('opt_func', [SGD, Adam, ranger])
def test_lr_find_leaves_no_trace(opt_func):
    def train(find):
        learn = classes(opt_func=opt_func)
        learn.fit(1, 1e-3)
        if find: learn.lr_find(show_plot=False)
        state = {k: v.clone() for k, v in learn.model.state_dict().items()}
        rng = torch.rand(1).item(), random.random(), np.random.rand()
        learn.fit(2, 1e-3)
        return state, rng, weights(learn.model), [list(v) for v in learn.recorder.values]
    a, b = train(False), train(True)
    assert all(torch.equal(a[0][k], b[0][k]) for k in a[0]) and a[1] == b[1] and torch.equal(a[2], b[2]) and a[3] == b[3]

def test_lr_find_before_the_first_fit():
    a = line(opt_func=Adam)
    a.fit(1, .1)
    b = line(opt_func=Adam)
    b.lr_find(show_plot=False)
    assert b.opt is None
    b.fit(1, .1)
    assert torch.equal(weights(a.model), weights(b.model))

def test_lr_find_restores_after_an_error_too():
    learn = line()
    before = weights(learn.model)
    class Fails(Callback):
        def after_step(self):
            if self.train_iter == 20: raise KeyError('in the middle')
    with pytest.raises(KeyError, match='in the middle'):
        with learn.added_cbs(Fails()): learn.lr_find(show_plot=False)
    assert torch.equal(weights(learn.model), before)

def test_lr_find_rates_are_spaced_geometrically():
    learn = line()
    learn.lr_find(start_lr=1e-5, end_lr=1e-1, num_it=20, stop_div=False, show_plot=False)
    assert learn.recorder.lrs == pytest.approx([1e-5*10**(4*i/20) for i in range(20)])

def test_lr_find_stops_when_the_loss_explodes():
    learn = line(bs=4)
    learn.lr_find(end_lr=1000, num_it=200, show_plot=False)
    stopped = len(learn.recorder.lrs)
    learn.lr_find(end_lr=1000, num_it=200, stop_div=False, show_plot=False)
    assert stopped < 200 and len(learn.recorder.lrs) == 200

def test_lr_find_on_fewer_batches_than_steps():
    learn = line(n=32, bs=16)
    found = learn.lr_find(num_it=50, end_lr=1e-2, show_plot=False)
    assert len(learn.dls.train) == 2 and len(learn.recorder.lrs) == 50 and 1e-7 < found.valley < 1e-2
    learn = line(n=16, bs=16)
    learn.lr_find(num_it=50, end_lr=1e-2, show_plot=False)
    assert len(learn.dls.train) == 1 and len(learn.recorder.lrs) == 50

def test_lr_find_returns_what_was_asked_for():
    learn = line()
    assert learn.lr_find(show_plot=False)._fields == ('valley',)
    res = learn.lr_find(suggest_funcs=(minimum, steep), show_plot=False)
    lr_min, lr_steep = res
    assert type(res).__name__ == 'SuggestedLRs' and res._fields == ('minimum', 'steep') and (res.minimum, res.steep) == (lr_min, lr_steep)
    assert learn.lr_find(suggest_funcs=slide, show_plot=False)._fields == ('slide',)
    assert learn.lr_find(suggest_funcs=(SuggestionMethod.Minimum, SuggestionMethod.Valley), show_plot=False)._fields == ('minimum', 'valley')
    assert learn.lr_find(suggest_funcs=None, show_plot=False) is None

def test_lr_find_draws():
    import matplotlib.pyplot as plt
    learn = line()
    learn.lr_find(suggest_funcs=(minimum, steep, valley, slide))
    ax = plt.gca()
    assert ax.get_xscale() == 'log' and [t.get_text() for t in ax.get_legend().get_texts()] == ['minimum', 'steep', 'valley', 'slide']
    fig = learn.recorder.plot_lr_find(skip_end=0)
    assert len(fig.axes[0].lines[0].get_xdata()) == len(learn.recorder.lrs)
    plt.close('all')

def test_lr_find_too_short_to_tell():
    with pytest.raises(ValueError, match='^lr_find ran 6 batches, up to a learning rate of .* too few to suggest a rate: .*'
                                         'smaller start_lr or a larger num_it$'):
        line().lr_find(num_it=3, show_plot=False)

def test_lr_find_of_a_loss_that_is_nan_from_the_start():
    learn = line(loss_func=lambda p, t: (p-t).mean()*float('nan'))
    with pytest.raises(ValueError, match='^lr_find ran 1 batches'): learn.lr_find(show_plot=False)
    assert weights(learn.model).isfinite().all()

def test_lr_find_with_other_callbacks():
    learn = line(metrics=mae, cbs=[EarlyStoppingCallback(), SaveModelCallback()])
    learn.lr_find(show_plot=False)
    assert not hasattr(learn, 'lr_finder') and len(learn.recorder.lrs) > 20

def test_reading_the_curve_by_hand():
    lrs = torch.tensor([1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.])
    losses = torch.tensor([5., 4.9, 4., 2., 1., 8.])
    assert minimum(lrs, losses, 6)[0] == pytest.approx(1e-2) and minimum(lrs, losses, 6)[1] == pytest.approx((1e-1, 1.))
    assert steep(lrs, losses, 6)[0] == pytest.approx(1e-3) and steep(lrs, losses, 6)[1][1] == 4.
    assert valley(lrs, losses, 6)[0] == pytest.approx(1e-4)          # five of them fall; cut in thirds: 0 + 1 + 0
    lr, (at, loss) = slide(lrs, losses, 6, lr_diff=2)
    assert lr == at and lr in lrs.tolist() and loss == pytest.approx(losses[lrs.tolist().index(lr)].item(), rel=1e-4)


# trackers -------------------------------------------------------------------------------------------------------------

class Scripted(Callback):
    "Writes given numbers into the recorder's table."
    order = 55
    def __init__(self, vals): self.vals = vals
    def after_epoch(self): self.recorder.values[-1][1] = self.vals[self.epoch]

def scripted(vals, cb, tmp_path, **kwargs):
    learn = line(path=tmp_path, **kwargs)
    learn.fit(len(vals), .01, cbs=[Scripted(vals), cb])
    return learn

def test_best_so_far(tmp_path):
    class Bests(TrackerCallback):
        def before_fit(self): super().before_fit(); self.seen = []
        def after_epoch(self): super().after_epoch(); self.seen.append(self.new_best)
    def seen(vals, **kwargs):
        cb = Bests(**kwargs); scripted(vals, cb, tmp_path)
        return cb.seen
    assert seen([3., 2., 2., 1., 5.]) == [True, True, False, True, False]
    assert seen([3., 2.5, 1.]+[float('nan'), None], min_delta=1) == [True, False, True, False, False]
    assert seen([3., 2., 4.], comp=np.greater) == [True, False, True]

def test_direction_comes_from_the_name():
    assert [TrackerCallback(m).comp for m in ('valid_loss', 'error_rate', 'accuracy', 'f1_score')] == [np.less, np.less, np.greater, np.greater]

def test_best_is_kept_between_fits_if_asked(tmp_path):
    for reset, expected in ((True, 5.), (False, 1.)):
        cb, learn = TrackerCallback(reset_on_fit=reset), line(path=tmp_path)
        learn.fit(1, .01, cbs=[Scripted([1.]), cb])
        learn.fit(1, .01, cbs=[Scripted([5.]), cb])
        assert cb.best == expected

def test_unknown_monitor(tmp_path):
    for cb in (TrackerCallback, SaveModelCallback, EarlyStoppingCallback, ReduceLROnPlateau):
        with pytest.raises(ValueError, match=f"^{cb.__name__} cannot monitor 'acc': the columns are train_loss, valid_loss, mae$"):
            line(path=tmp_path, metrics=mae).fit(1, cbs=cb(monitor='acc'))

def test_early_stopping(tmp_path, capsys):
    learn = scripted([3., 2., 2.5, 2.1, 1., 0.], EarlyStoppingCallback(patience=2), tmp_path)
    assert len(learn.recorder.values) == 4 and capsys.readouterr().out == 'No improvement since epoch 1: early stopping\n'

def test_save_best_and_come_back_to_it(tmp_path, capsys):
    seen = []
    class Keep(Callback):
        order = 59
        def after_epoch(self): seen.append(weights(self.model))
    learn = line(path=tmp_path)
    cb = SaveModelCallback(fname='best')
    learn.fit(4, .01, cbs=[Scripted([3., 1., 2., 5.]), Keep(), cb])
    assert torch.equal(weights(learn.model), seen[1]) and not torch.equal(seen[1], seen[3])
    assert capsys.readouterr().out == 'Better model found at epoch 0 with valid_loss value: 3.0.\nBetter model found at epoch 1 with valid_loss value: 1.0.\n'
    assert (tmp_path/'models'/'best.safetensors').is_file() and cb.last_saved_path == tmp_path/'models'/'best.safetensors'

def test_save_every_epoch_and_at_the_end(tmp_path):
    scripted([1.]*5, SaveModelCallback(every_epoch=2), tmp_path)
    assert sorted(p.name for p in (tmp_path/'models').iterdir()) == ['model_0.safetensors', 'model_2.safetensors', 'model_4.safetensors']
    learn = scripted([1., 2.], SaveModelCallback(fname='last', at_end=True), tmp_path)
    end = weights(learn.model)
    learn.model.weight.data.zero_()
    learn.load('last')
    assert torch.equal(weights(learn.model), end)

def test_nothing_to_come_back_to(tmp_path):
    scripted([float('nan')]*2, SaveModelCallback(), tmp_path)           # no epoch was better: nothing saved, no error
    assert not (tmp_path/'models').exists()

def test_reduce_lr(tmp_path, capsys):
    cb = ReduceLROnPlateau(patience=2, factor=10, min_lr=5e-4)
    lrs = Watch(lambda l: l.opt.hypers[-1]['lr'])
    learn = line(path=tmp_path)
    learn.fit(8, .01, cbs=[Scripted([3., 3., 3., 2., 2., 2., 2., 2.]), cb, lrs])
    assert [lrs.seen[i*10] for i in range(8)] == pytest.approx([.01]*3 + [.001]*3 + [5e-4]*2)
    assert capsys.readouterr().out == 'Epoch 2: reducing lr from 0.01 to 0.001\nEpoch 5: reducing lr from 0.001 to 0.0005\n'

def test_nan_ends_the_fit_before_it_reaches_the_weights(capsys):
    calls = []
    def loss(p, t):
        calls.append(1)
        return F.mse_loss(p, t)*(float('nan') if len(calls) == 4 else 1)
    learn = line(loss_func=loss)
    learn.fit(3, .01, cbs=TerminateOnNaNCallback())
    assert len(learn.recorder.losses) == 3 and weights(learn.model).isfinite().all()
    assert capsys.readouterr().out == ('The loss became nan in epoch 1 of 3, batch 4 of 10, with a learning rate of 0.01: '
                                       'the fit ends here, with the weights from before this batch\n')
    learn.loss_func = lambda p, t: F.mse_loss(p, t)/0.
    learn.fit(1, .01, cbs=TerminateOnNaNCallback)
    assert 'The loss became inf' in capsys.readouterr().out


# half precision -------------------------------------------------------------------------------------------------------

class Types(nn.Module):
    def forward(self, x):
        self.seen = x.dtype, torch.is_autocast_enabled(x.device.type)
        return x

def half_net():
    set_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), Types(), nn.Linear(8, 3))

@pytest.mark.skipif(torch.cuda.is_available(), reason='for a machine without a GPU')
def test_to_fp16_on_a_cpu(capsys):
    learn = classes(model=half_net())
    assert learn.to_fp16() is learn
    assert capsys.readouterr().out == 'There is no GPU here: on a CPU half precision means bfloat16, which saves memory but is rarely faster.\n'
    learn.fit(2, 1e-2)
    assert learn.model[2].seen == (torch.bfloat16, True) and learn.model[1].weight.dtype == torch.float32

def test_bf16_learns_as_well():
    accs = []
    for half in (False, True):
        learn = classes(model=half_net(), metrics=accuracy)
        if half: learn.to_bf16()
        learn.fit(5, 1e-2)
        accs.append(learn.recorder.values[-1][2])
    assert accs[0] > .95 and accs[1] > .95

def test_half_precision_ends_with_the_fit():
    learn = classes(model=half_net()).to_bf16()
    learn.fit(1, 1e-2)
    assert not torch.is_autocast_enabled('cpu')
    learn.model(torch.zeros(1, 1, 8, 8, device=next(learn.model.parameters()).device))
    assert learn.model[2].seen == (torch.float32, False)
    preds, _ = learn.get_preds()
    assert learn.model[2].seen[1] and preds.dtype == torch.float32
    learn.validate()
    assert learn.model[2].seen[1] and 'do_forward' not in learn.__dict__
    learn.to_fp32().validate()
    assert not learn.model[2].seen[1] and not hasattr(learn, 'mixed_precision')

def test_half_precision_ends_with_an_error():
    class Breaks(nn.Module):
        def forward(self, x): raise KeyError('inside the model')
    learn = classes(model=nn.Sequential(half_net(), Breaks())).to_bf16()
    with pytest.raises(KeyError, match='inside the model'): learn.fit(1, 1e-2)
    assert not torch.is_autocast_enabled('cpu')

def test_a_learner_has_one_precision():
    learn = classes(model=half_net()).to_bf16().to_bf16()
    assert sum(isinstance(cb, MixedPrecision) for cb in learn.cbs) == 1 and learn.mixed_precision.amp_mode is AMPMode.BF16
    assert MixedPrecision('fp16').amp_mode is AMPMode.FP16
    with pytest.raises(ValueError): MixedPrecision('fp8')

def test_the_loss_sees_32_bits():
    seen = []
    def loss(p, t):
        seen.append((p.dtype, torch.is_autocast_enabled('cpu')))
        return F.cross_entropy(p, t)
    classes(model=half_net(), loss_func=loss).to_bf16().fit(1, 1e-2)
    assert set(seen) == {(torch.float32, False)}

class Float16Anywhere(MixedPrecision):
    "float16 and its scaler on a CPU too, where nobody would want them, so that they are tested everywhere."
    name = 'mixed_precision'
    def _wants_fp16(self, kind): return True

def test_float16_and_its_scaler():
    learn = classes(model=half_net(), metrics=accuracy, cuda=torch.cuda.is_available(), cbs=Float16Anywhere(init_scale=2.**40))
    steps = Watch(lambda l: weights(l.model))
    learn.fit(10, 1e-2, cbs=[GradientClip(1.), steps])
    scales = learn.mixed_precision.scales
    assert learn.model[2].seen == (torch.float16, True) and learn.recorder.values[-1][2] > .95
    assert scales[0] == 2.**40 and scales[-1] < 2.**30 and weights(learn.model).isfinite().all()
    for i in range(1, 10): assert torch.equal(steps.seen[i], steps.seen[i-1]) == (scales[i] > scales[-1])   # a step that overflows is skipped
    learn.lr_find(show_plot=False)

def test_the_scale_leaves_gradients_as_they_are():
    grads = []
    class Grads(Callback):
        order = 30
        def before_step(self): grads.append(torch.cat([p.grad.flatten().cpu() for p in self.model.parameters()]))
    for cbs in ([], [Float16Anywhere(init_scale=2.**10)], [Float16Anywhere(init_scale=2.**10), GradientAccumulation(16)]):
        classes(model=half_net(), cuda=torch.cuda.is_available(), cbs=[*cbs, ShortEpochCallback()]).fit(1, 1e-2, cbs=Grads())
    assert len(grads) == 3
    for g in grads[1:]: assert (g-grads[0]).norm() < .01*grads[0].norm()


# hooks ----------------------------------------------------------------------------------------------------------------

def test_hook_output():
    m, x = nn.Linear(3, 2), torch.randn(4, 3)
    with hook_output(m) as h: y = m(x)
    assert torch.equal(h.stored, y) and not h.stored.requires_grad
    m(x*2)
    assert torch.equal(h.stored, y)
    h = hook_output(m, detach=False)
    m(x)
    assert h.stored.requires_grad
    h.remove(); h.remove()

def test_hook_gradients():
    m, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)), torch.randn(5, 3)
    with hook_output(m[0], grad=True) as h, hook_output(m[0]) as a: m(x).sum().backward()
    expected = m[2].weight.sum(0).detach()*((x @ m[0].weight.T + m[0].bias) > 0)
    assert torch.allclose(h.stored[0], expected) and a.stored.shape == (5, 4)
    h.stored = None
    m(x).sum().backward()
    assert h.stored is None

def test_hook_function_gets_module_input_and_output():
    m, x = nn.Linear(3, 2), torch.randn(4, 3)
    with Hook(m, lambda m, i, o: (m, i[0].shape, o.mean())) as h: y = m(x)
    assert h.stored[:2] == (m, (4, 3)) and torch.equal(h.stored[2], y.mean())

def test_hooks():
    ms, x = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)), torch.randn(4, 3)
    with hook_outputs(ms) as hs: ms(x)
    assert len(hs) == 3 and [tuple(s.shape) for s in hs.stored] == [(4, 2), (4, 2), (4, 1)] and hs[1].stored.min() >= 0
    with Hooks(ms, lambda m, i, o: type(m).__name__) as hs: ms(x)
    assert list(hs.stored) == ['Linear', 'ReLU', 'Linear']
    assert all(not m._forward_hooks for m in ms)

def test_sizes_of_a_body():
    body = nn.Sequential(nn.Conv2d(5, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 7, 3, padding=1))
    mean = body[1].running_mean.clone()
    assert dummy_eval(body).shape == (1, 7, 32, 32)
    assert [tuple(s) for s in model_sizes(body, (20, 30))] == [(1, 6, 10, 15), (1, 6, 10, 15), (1, 7, 10, 15)]
    assert num_features_model(body) == 7 and num_features_model(nn.Sequential(nn.Conv2d(3, 8, 100))) == 8
    assert body.training and torch.equal(body[1].running_mean, mean)

def test_total_params():
    m = nn.Linear(3, 2)
    assert total_params(m) == (8, True)
    m.requires_grad_(False)
    assert total_params(m) == (8, False) and total_params(nn.ReLU()) == (0, False)

def test_layer_info_and_summary():
    learn = classes()
    learn.model[0].requires_grad_(False)
    x = torch.zeros(16, 1, 8, 8)
    assert list(layer_info(learn, x)) == [('Conv2d', 40, False, [1, 4, 6, 6], False), ('BatchNorm2d', 8, True, [1, 4, 6, 6], True), ('ReLU', '', '', [1, 4, 6, 6], True),
                                          ('Flatten', '', '', [1, 144], False), ('Linear', 435, True, [1, 3], False)]
    text = module_summary(learn, x)
    assert 'Sequential (input: 16 x 1 x 8 x 8)' in text and '483 parameters, 443 of them trained, 40 frozen' in text and '16 x 144' in text
    assert repr(text) == str(text) and learn.model.training

def test_learner_summary_changes_nothing():
    a = classes()
    a.fit(1, 1e-2)
    b = classes()
    before = b.model[1].running_mean.clone()
    text = str(b.summary())
    assert torch.equal(b.model[1].running_mean, before)
    for part in ('Optimizer used: Adam', 'Loss function: FlattenedLoss of CrossEntropyLoss()', 'Callbacks:', '  - Recorder'): assert part in text
    b.fit(1, 1e-2)
    assert torch.equal(weights(a.model), weights(b.model))
    b.freeze_to(0)
    assert 'Model unfrozen' in str(b.summary())

def test_hook_callback():
    class Shapes(HookCallback):
        def hook(self, m, i, o): return tuple(o.shape)
    learn = classes()
    learn.fit(1, 1e-2, cbs=(cb := Shapes(modules=[learn.model[3], learn.model[4]])))
    assert list(cb.hooks.stored) == [(16, 144), (16, 3)] and not any(m._forward_hooks for m in learn.model.modules())

def test_activation_stats_by_hand():
    outs = []
    learn = classes()
    handle = learn.model[4].register_forward_hook(lambda m, i, o: outs.append(o.detach().clone()) if m.training else None)
    learn.fit(2, 1e-2, cbs=(stats := ActivationStats(with_hist=True)))
    handle.remove()
    assert len(stats.stats) == len(outs) == 12 and len(stats.stats[0]) == 3
    mean, std, near_zero = stats.layer_stats(-1)
    assert mean == pytest.approx([o.mean().item() for o in outs]) and std == pytest.approx([o.std().item() for o in outs])
    assert near_zero == pytest.approx([(o <= .05).float().mean().item() for o in outs])
    assert torch.allclose(stats.hist(-1)[:, 3], outs[3].histc(40, 0, 10).log1p())

def test_activation_stats_now_and_then():
    learn = classes()
    learn.fit(2, 1e-2, cbs=(stats := ActivationStats(every=5)))
    assert len(stats.stats) == 3 and not any(m._forward_hooks for m in learn.model.modules())
    with pytest.raises(ValueError, match=r'^no histograms were recorded: use ActivationStats\(with_hist=True\)$'): stats.hist(0)

def test_activation_stats_draw():
    import matplotlib.pyplot as plt
    learn = classes(cbs=ActivationStats(with_hist=True))
    learn.fit(1, 1e-2)
    learn.activation_stats.plot_layer_stats(0)
    assert [ax.get_title() for ax in plt.gcf().axes] == ['mean', 'std', '% near zero']
    learn.activation_stats.color_dim(-2)
    assert plt.gcf().axes[0].images[0].get_array().shape == (40, 6)
    plt.close('all')


# changing a step ------------------------------------------------------------------------------------------------------

def test_accumulated_gradients_are_those_of_the_whole():
    a, b = line(n=128, bs=32), line(n=128, bs=8)        # the same weights and data
    for learn in (a, b): learn.dls.train.shuffle = False
    a.fit(3, .05); b.fit(3, .05, cbs=GradientAccumulation(32))
    assert torch.allclose(weights(a.model), weights(b.model), atol=1e-6)

def test_accumulation_counts_items_and_keeps_the_loss():
    steps = []
    class Steps(Callback):
        def after_step(self): steps.append(self.train_iter)
    plain = line(n=100, bs=16)
    plain.fit(1, 1e-9)
    learn = line(n=100, bs=16)
    learn.fit(1, 1e-9, cbs=[GradientAccumulation(40), Steps()])
    assert steps == [2, 5] and learn.recorder.losses == pytest.approx(plain.recorder.losses, rel=1e-5)

def test_gradient_clip():
    norms = Watch(lambda l: None)
    class Norm(Callback):
        order = 20
        def before_step(self): norms.seen.append(torch.cat([p.grad.flatten() for p in self.model.parameters()]).norm().item())
    learn = line()
    learn.fit(1, .01, cbs=[GradientClip(.5), Norm()])
    assert norms.seen == pytest.approx([.5]*10, rel=1e-4)

def test_short_epoch():
    learn = line(metrics=mae)
    learn.fit(2, .01, cbs=ShortEpochCallback(.3))
    assert len(learn.recorder.losses) == 6 and len(learn.recorder.values) == 2 and learn.recorder.values[0][2] is not None
    learn.fit(1, .01, cbs=ShortEpochCallback())
    assert len(learn.recorder.losses) == 1

def test_frozen_batchnorm():
    def moved(freeze, cbs):
        learn = classes()
        if freeze: learn.model[1].requires_grad_(False)
        learn.fit(1, 1e-2, cbs=cbs)
        return not torch.equal(learn.model[1].running_mean, torch.zeros(4))
    assert [moved(True, None), moved(True, BnFreeze), moved(False, BnFreeze)] == [True, False, True]
    m = nn.Sequential(nn.Sequential(nn.BatchNorm1d(3)), nn.BatchNorm1d(3, affine=False)).requires_grad_(False)
    set_bn_eval(m)
    assert not m[0][0].training and m[1].training
    set_bn_eval(m, use_eval=False)
    assert m[0][0].training


# blends ---------------------------------------------------------------------------------------------------------------

class Seen(Callback):
    order = 80
    def before_batch(self):
        if self.training and self.iter == 0: self.xb0, self.yb0 = self.learn.xb, self.learn.yb
    def after_loss(self):
        if self.training and self.iter == 0: self.loss0, self.pred0 = self.learn.loss, self.learn.pred.detach()

@pytest.mark.parametrize('mix', [MixUp, CutMix])
def test_blended_loss_is_that_of_blended_targets(mix):
    learn, seen, cb = classes(), Seen(), mix(1.)
    class First(Callback):
        order = -5
        def before_batch(self): self.orig = getattr(self, 'orig', None) or (self.learn.xb[0], self.learn.yb[0])
    first = First(); first.orig = None
    class Lam(Callback):
        order = 70
        def before_batch(self):
            if self.iter == 0 and self.training: self.lam, self.y1 = cb.lam.clone(), cb.yb1[0]
    lam = Lam()
    learn.fit(1, 1e-2, cbs=[first, cb, lam, seen])
    x, y = first.orig
    w = lam.lam.expand(16)[:, None]
    soft = w*F.one_hot(y, 3) + (1-w)*F.one_hot(lam.y1, 3)
    assert seen.loss0.item() == pytest.approx(-(soft*seen.pred0.log_softmax(1)).sum(1).mean().item(), rel=1e-5)
    assert learn.loss_func is not cb.lf and isinstance(learn.loss_func, CrossEntropyLossFlat) and seen.yb0[0].equal(y)
    if mix is MixUp: assert (lam.lam >= .5).all()
    else:
        share = (seen.xb0[0] == x).flatten(1).all(0).float().mean()
        assert share.item() == pytest.approx(lam.lam.item(), abs=1e-6)

def test_mixup_blends_pictures_as_it_blends_one_hot_targets():
    learn, seen = classes(onehot=True, loss_func=nn.BCEWithLogitsLoss()), Seen()
    learn.fit(1, 1e-2, cbs=[MixUp(1.), seen])
    y = seen.yb0[0]
    assert torch.allclose(y.sum(1), torch.ones(16)) and ((y > .01) & (y < .99)).any()
    rows = torch.stack([seen.xb0[0][:, 0, i*2:i*2+2].mean((1, 2)) for i in range(3)], 1)
    assert (rows - y).abs().max() < .4                                   # class i is bright in rows 2i and 2i+1

def test_blends_leave_validation_alone_and_work_with_functions():
    a, b = classes(loss_func=F.cross_entropy), classes(loss_func=F.cross_entropy)
    a.fit(1, 1e-9); b.fit(1, 1e-9, cbs=MixUp())
    b.model.load_state_dict(a.model.state_dict())
    assert a.validate()[0] == pytest.approx(b.validate()[0]) and b.loss_func is F.cross_entropy

def test_the_loss_function_comes_back_after_an_error():
    learn, cb = classes(), MixUp()
    was = learn.loss_func
    class Stop(Callback):
        def after_batch(self):
            if self.training: raise CancelFitException
    learn.fit(1, 1e-2, cbs=[cb, Stop()])
    assert learn.loss_func is was
    class Fails(Callback):
        def after_batch(self): raise KeyError('x')
    with learn.added_cbs(cb):
        with pytest.raises(KeyError): learn.fit(1, 1e-2, cbs=Fails())
        learn.fit(1, 1e-2)
    assert learn.loss_func is was

def test_a_loss_that_cannot_be_blended():
    with pytest.raises(TypeError, match='need a per-item loss: .*argument reduction.*"none"$'):
        classes(loss_func=lambda p, t: F.cross_entropy(p, t)).fit(1, 1e-2, cbs=MixUp())

@pytest.mark.parametrize('alpha', [0, -1, float('nan')])
def test_no_such_alpha(alpha):
    with pytest.raises(ValueError, match=f'^alpha must be above 0, got {alpha}$'): MixUp(alpha)


# all of them ----------------------------------------------------------------------------------------------------------

@pytest.mark.medium
def test_imports_stay_light():
    code = ("import sys\nfor m in 'schedule tracker fp16 hook training mixup'.split(): __import__(f'fastbook_impl.callback.{m}')\n"
            "print([m for m in ('sklearn', 'scipy', 'matplotlib.pyplot', 'pandas', 'torchvision') if m in sys.modules])")
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'

def test_everything_together():
    learn = classes(metrics=accuracy, cbs=[GradientClip(1.), ActivationStats(), TerminateOnNaNCallback(), EarlyStoppingCallback('accuracy', patience=9)])
    learn.to_bf16().fit_one_cycle(3, 1e-2, cbs=[GradientAccumulation(32), MixUp(.2)])
    assert learn.recorder.values[-1][2] > .8 and copy.copy(learn.activation_stats.stats)


@pytest.mark.medium
def test_the_finder_needs_no_other_import():
    code = 'from fastbook_impl.callback.schedule import *; from fastbook_impl.learner import Learner; Learner.lr_find, Learner.no_logging'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stderr == ''

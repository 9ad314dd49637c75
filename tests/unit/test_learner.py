"""The training loop under bad input and bad luck: each ends in one sentence, and nothing that was learned is lost."""
import math
import os
import resource
import signal

import pytest
import torch
from torch import nn

from fastbook_impl.callback.core import Callback, CancelBatchException, CancelEpochException
from fastbook_impl.callback.progress import ProgressCallback
from fastbook_impl.learner import DataLoader, DataLoaders, Learner, load_model, save_model
from fastbook_impl.optimizer import SGD, Adam
from fastbook_impl.torch_core import set_seed


def line_dls(n=64, bs=16, **kwargs):
    set_seed(0)
    x = torch.rand(n, 1)
    points = list(zip(x, 3*x + 2))
    return DataLoaders(DataLoader(points, bs=bs, shuffle=True, **kwargs), DataLoader(points, bs=bs))


def line_learner(dls=None, opt_func=SGD, **kwargs):
    set_seed(1)
    kwargs.setdefault('loss_func', nn.MSELoss())
    learn = Learner(dls or line_dls(), nn.Linear(1, 1), opt_func=opt_func, **kwargs)
    learn.remove_cb(ProgressCallback)
    learn.logger = lambda row: None
    return learn


class Note(Callback):
    "Writes down every event it hears."
    def __init__(self): self.heard = []


for _event in ('before_fit before_epoch before_train before_batch after_pred after_loss before_backward after_backward before_step after_step '
               'after_batch after_train before_validate after_validate after_epoch after_fit after_cancel_batch after_cancel_epoch').split():
    setattr(Note, _event, lambda self, e=_event: self.heard.append(e))


def test_events_come_in_the_documented_order():
    learn, note = line_learner(line_dls(n=16)), Note()
    learn.fit(1, 0.1, cbs=note)
    training = 'before_batch after_pred after_loss before_backward after_backward before_step after_step after_batch'.split()
    assert note.heard == ['before_fit', 'before_epoch', 'before_train', *training, 'after_train', 'before_validate',
                          'before_batch', 'after_pred', 'after_loss', 'after_batch', 'after_validate', 'after_epoch', 'after_fit']


def test_a_cancelled_batch_takes_no_step_and_the_epoch_goes_on():
    class SkipFirst(Callback):
        order = 10
        def after_loss(self):
            if self.training and self.iter == 0: raise CancelBatchException
    learn, note = line_learner(line_dls(n=32)), Note()
    learn.fit(1, 0.1, cbs=[note, SkipFirst()])
    assert note.heard.count('after_step') == 1 and 'after_cancel_batch' in note.heard and note.heard.count('after_batch') == 4


def test_a_cancelled_epoch_is_followed_by_the_next():
    class SkipSecond(Callback):
        def before_epoch(self):
            if self.epoch == 1: raise CancelEpochException
    learn, note = line_learner(), Note()
    learn.fit(3, 0.1, cbs=[note, SkipSecond()])
    assert note.heard.count('before_epoch') == 3 and note.heard.count('before_train') == 2


def test_callbacks_of_one_fit_are_gone_after_it_also_when_it_fails():
    class Bad(Callback):
        def before_epoch(self): raise ZeroDivisionError('in a callback')
    learn = line_learner()
    n = len(learn.cbs)
    with pytest.raises(ZeroDivisionError): learn.fit(1, 0.1, cbs=Bad())
    assert len(learn.cbs) == n and not hasattr(learn, 'bad')
    learn.fit(1, 0.1)


@pytest.mark.parametrize('lr', [0, -1., float('nan'), float('inf'), slice(0., 1.)])
def test_a_learning_rate_that_teaches_nothing_is_refused(lr):
    with pytest.raises(ValueError, match=r'learning rate must be above 0, got .*lr_find\(\)'): line_learner().fit(1, lr)


def test_a_training_set_smaller_than_a_batch_is_named():
    learn = line_learner(line_dls(n=5, bs=16, drop_last=True))
    with pytest.raises(ValueError, match='there is nothing to train on.*5 items do not fill one batch of 16'): learn.fit(1, 0.1)


def test_an_empty_training_set_is_named():
    dls = DataLoaders(DataLoader([], bs=4), DataLoader([], bs=4))
    with pytest.raises(ValueError, match='dataset is empty'): line_learner(dls).fit(1, 0.1)


def test_a_loss_of_the_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r'MSELoss returned 16 .*shape \(16, 1\).*mean'):
        line_learner(loss_func=nn.MSELoss(reduction='none')).fit(1, 0.1)


def test_a_metric_of_the_wrong_shape_is_named():
    def error(preds, targs): return (preds - targs).abs()
    with pytest.raises(ValueError, match="the metric 'error' returned 16 numbers"): line_learner(metrics=error).fit(1, 0.1)


def test_shapes_that_do_not_fit_are_told_with_the_batch():
    learn = line_learner()
    learn.model = nn.Linear(3, 1)
    with pytest.raises(RuntimeError, match=r'shapes.* inputs \(16, 1\), targets \(16, 1\)'): learn.fit(1, 0.1)


def test_predictions_and_targets_that_do_not_fit_are_told_with_the_batch():
    learn = line_learner(loss_func=nn.BCEWithLogitsLoss())
    learn.model = nn.Linear(1, 2)
    with pytest.raises(ValueError, match=r'shapes.* inputs \(16, 1\), predictions \(16, 2\), targets \(16, 1\)'): learn.fit(1, 0.1)


def test_running_out_of_memory_names_the_knob():
    class Hungry(Callback):
        def after_pred(self): raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')
    with pytest.raises(RuntimeError, match=r'out of memory with batches of 16: make them smaller \(bs=8\)'): line_learner().fit(1, 0.1, cbs=Hungry())


def test_no_loss_function_is_named():
    with pytest.raises(ValueError, match='pass loss_func'): line_learner(loss_func=None)


def test_no_validation_loader_is_named():
    dls = DataLoaders(line_dls().train)
    with pytest.raises(IndexError, match='no validation loader'): dls.valid


def test_a_nan_loss_ends_the_fit_in_one_sentence(capsys):
    learn = line_learner()
    learn.fit(200, 1e8)
    out = capsys.readouterr().out
    assert 'The loss became NaN at batch' in out and 'learn.lr_find()' in out
    assert len(learn.recorder.values) < 200


class InterruptAt(Callback):
    "A real SIGINT, at a batch that is known."
    order = 60
    def __init__(self, epoch, batch): self.at = epoch, batch
    def after_batch(self):
        if self.training and (self.epoch, self.iter) == self.at: signal.raise_signal(signal.SIGINT)


def test_ctrl_c_keeps_what_was_learned_and_recorded():
    learn = line_learner()
    before = learn.model.weight.item()
    with pytest.raises(KeyboardInterrupt, match=r'Interrupted in epoch 3 of 5, batch 2 of 4. The model keeps') as e: learn.fit(5, 0.1, cbs=InterruptAt(2, 1))
    assert e.value._render_traceback_() == [str(e.value)]
    assert len(learn.recorder.values) == 2 and len(learn.recorder.losses) == 2*4 + 2
    assert learn.model.weight.item() != before
    assert not hasattr(learn, 'interrupt_at')
    learn.fit(1, 0.1)
    assert len(learn.recorder.values) == 1


def test_the_same_seed_gives_the_same_numbers():
    def run(**kwargs):
        learn = line_learner(line_dls(**kwargs), opt_func=Adam)
        learn.fit(3, 0.1)
        return learn.model.weight.item(), [list(v) for v in learn.recorder.values]
    assert run() == run() == run(num_workers=2)


def test_a_checkpoint_continues_where_it_was(tmp_path):
    def continued(reload):
        learn = line_learner(opt_func=Adam, path=tmp_path)
        learn.fit(1, 0.1)
        if reload:
            learn.save('half')
            learn.fit(1, 1.)
            learn.load('half')
        set_seed(5)
        learn.fit(1, 0.1)
        return learn.model.weight.item()
    assert continued(False) == continued(True)


def test_saving_on_a_full_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    learn = line_learner(path=tmp_path)
    file = learn.save('model')
    good = file.read_bytes()
    from pathlib import Path

    def full(self, data):
        with open(self, 'wb') as f: f.write(b'half a fi')
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(OSError, match='could not save the model to .*No space left on device.*existing file is unchanged'): learn.save('model')
    assert file.read_bytes() == good and [f.name for f in file.parent.iterdir()] == [file.name]


def test_a_disk_that_really_fills_up(tmp_path):
    "The system refuses to let a file grow beyond 4 KiB while the new checkpoint is written."
    file = save_model(tmp_path/'m.safetensors', nn.Linear(4, 4))
    good = file.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    was = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match='could not save the model'): save_model(file, nn.Linear(400, 400))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, was)
    assert file.read_bytes() == good and [f.name for f in tmp_path.iterdir()] == [file.name]


def test_a_pickle_is_refused_and_not_run(tmp_path):
    made = tmp_path/'made_by_the_pickle'
    class Evil:
        def __reduce__(self): return os.mkdir, (str(made),)
    import pickle
    file = tmp_path/'model.safetensors'
    for content in (pickle.dumps(Evil()), b'', b'\0'*100):
        file.write_bytes(content)
        with pytest.raises(ValueError, match='is not a readable safetensors file'): load_model(file, nn.Linear(1, 1))
    torch.save(Evil(), file)
    with pytest.raises(ValueError, match='Only safetensors files are loaded'): load_model(file, nn.Linear(1, 1))
    assert not made.exists()


def test_weights_that_do_not_fit_are_named(tmp_path):
    save_model(tmp_path/'m.safetensors', nn.Linear(2, 1))
    with pytest.raises(ValueError, match=r'weight has shape \(1, 2\) in the file and \(1, 3\) in the model'): load_model(tmp_path/'m.safetensors', nn.Linear(3, 1))
    with pytest.raises(FileNotFoundError, match="no saved model 'n' in .*; available models: m"): load_model(tmp_path/'n.safetensors', nn.Linear(2, 1))


def test_tied_weights_are_saved_and_come_back(tmp_path):
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    b.weight = a.weight
    model = nn.Sequential(a, b)
    save_model(tmp_path/'tied.safetensors', model)
    fresh = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    load_model(tmp_path/'tied.safetensors', fresh)
    assert torch.equal(fresh[0].weight, a.weight) and torch.equal(fresh[1].weight, a.weight)


def picture_learner(tmp_path, order):
    set_seed(0)
    pictures = list(zip(torch.rand(48, 3, 8, 8), torch.randint(0, 2, (48,))))
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).to(memory_format=order)
    loader = DataLoader(pictures, bs=16)
    return Learner(DataLoaders(loader, loader), model, loss_func=nn.CrossEntropyLoss(), path=tmp_path, lr=1e-2)


@pytest.mark.parametrize('between', ['nothing', 'saved and loaded', 'laid out anew'])
def test_training_goes_on_with_the_statistics_of_each_weight(tmp_path, between):
    "Weights of convolutions lie in memory in one of two orders, and the fused step asks for none."
    def trained(order, between):
        learn = picture_learner(tmp_path, order)
        with learn.no_bar(), learn.no_logging():
            learn.fit(2)
            if between == 'saved and loaded': learn.save('half'); learn.load('half')
            if between == 'laid out anew': learn.model.to(memory_format=torch.channels_last)
            learn.fit(2)
        return torch.cat([p.detach().flatten() for p in learn.model.parameters()])
    order = torch.contiguous_format if between == 'laid out anew' else torch.channels_last
    assert torch.allclose(trained(order, between), trained(torch.contiguous_format, 'nothing'), atol=1e-5)


def test_get_preds_in_order_although_the_training_set_is_shuffled():
    learn = line_learner()
    preds, targs = learn.get_preds(ds_idx=0)
    assert torch.equal(targs, torch.stack([y for _,y in learn.dls.train_ds]))
    assert torch.equal(preds, learn.model(torch.stack([x for x,_ in learn.dls.train_ds])).detach())


def test_pct_train_runs_from_0_to_1():
    class Pct(Callback):
        order = 60
        def before_fit(self): self.pcts = []
        def before_batch(self):
            if self.training: self.pcts.append(self.pct_train)
        def after_fit(self): self.pcts.append(self.pct_train)
    cb = Pct()
    line_learner().fit(2, 0.1, cbs=cb)
    assert cb.pcts[0] == 0 and math.isclose(cb.pcts[-1], 1) and cb.pcts == sorted(cb.pcts) and len(cb.pcts) == 9


def test_a_plain_pytorch_loader_works():
    from torch.utils.data import DataLoader as TorchLoader, TensorDataset
    x = torch.rand(20, 1)
    loader = TorchLoader(TensorDataset(x, 2*x), batch_size=5)
    learn = line_learner(DataLoaders(loader, loader))
    learn.fit(2, 0.5)
    assert learn.recorder.values[1][1] < learn.recorder.values[0][1]


def test_biases_and_normalisation_do_not_decay():
    learn = line_learner(opt_func=Adam, wd=10.)
    learn.model = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    learn.create_opt()
    learn.opt.set_hypers(wd=10.)
    for p in learn.model.parameters(): p.grad = torch.zeros_like(p)
    before = {n: p.detach().clone() for n,p in learn.model.named_parameters()}
    learn.opt.step()
    changed = {n for n,p in learn.model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {'0.weight', '2.weight'}


def test_the_loss_of_each_item_also_from_a_plain_function():
    import torch.nn.functional as F
    losses = line_learner(loss_func=F.mse_loss).get_preds(with_loss=True)[-1]
    assert losses.shape == (64,)
    learn = line_learner(loss_func=lambda p, t: (p - t).abs().mean())
    with pytest.raises(ValueError, match='per-item loss is unavailable: <lambda> has no argument reduction'): learn.get_preds(with_loss=True)

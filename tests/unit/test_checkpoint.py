"""Files that `learn.save` wrote: nothing damaged or unfit is loaded, and what is refused changes nothing."""
import json
import os
import random
import stat
import subprocess
import sys
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from fastbook_impl.checkpoint import load_model, read_tensors, save_model
from fastbook_impl.optimizer import SGD, Adam, OptimWrapper, RMSProp, ranger
from fastbook_impl.torch_core import set_seed, tensors_checksum, written_whole


class Named(nn.Module):
    "Layers with names of their own, so that one more in front leaves the names of the others."
    def __init__(self, **layers):
        super().__init__()
        for name, layer in layers.items(): self.add_module(name, layer)
    def forward(self, x):
        for layer in self.children(): x = layer(x)
        return x


def trained(model=None, opt_func=Adam, steps=3, seed=0, **kwargs):
    set_seed(seed)
    model = model or Named(body=nn.Linear(4, 8), head=nn.Linear(8, 2))
    opt = opt_func(list(model.parameters()), lr=0.1, **kwargs)
    for _ in range(steps):
        model(torch.randn(5, 4)).pow(2).mean().backward()
        opt.step(); opt.zero_grad()
    return model, opt


def snapshot(model, opt):
    state = {i: {k: v.clone() if isinstance(v, torch.Tensor) else v for k,v in s.items()} for i,s in opt.state_dict()['state'].items()}
    return {k: v.clone() for k,v in model.state_dict().items()}, state, [dict(h) for h in opt.hypers]


def equal(a, b):
    if isinstance(a, dict): return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def unchanged(model, opt, before): return all(equal(a, b) for a,b in zip(snapshot(model, opt), before))


def refused(file, model, opt, match, **kwargs):
    before = snapshot(model, opt)
    with pytest.raises(ValueError, match=match): load_model(file, model, opt, **kwargs)
    assert unchanged(model, opt, before)


def goes_on(model, opt):
    for _ in range(2):
        model(torch.ones(5, 4)).pow(2).mean().backward()
        opt.step(); opt.zero_grad()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize('opt_func', [SGD, RMSProp, Adam, ranger])
def test_training_goes_on_from_a_file_to_the_last_bit(opt_func, tmp_path):
    kwargs = {'mom': 0.9} if opt_func is SGD else {}
    model, opt = trained(opt_func=opt_func, **kwargs)
    file = save_model(tmp_path/'m.safetensors', model, opt)
    other, other_opt = trained(opt_func=opt_func, seed=1, steps=1, **kwargs)
    load_model(file, other, other_opt)
    assert torch.equal(goes_on(model, opt), goes_on(other, other_opt))


def test_state_is_saved_by_the_name_of_its_parameter(tmp_path):
    tensors, about = read_tensors(save_model(tmp_path/'m.safetensors', *trained()))
    assert {'opt.body.weight.exp_avg', 'opt.head.bias.step', 'model.head.weight'} <= set(tensors)
    assert about['optimizer'] == 'Adam' and about['version'] == 2


def one_layer_more(): return Named(front=nn.Linear(4, 4), body=nn.Linear(4, 8), head=nn.Linear(8, 2))


def test_a_transfer_into_a_deeper_model_takes_what_fits(tmp_path):
    "Matched by position, the state of a small layer came to a larger one, and the fused step wrote beyond its end."
    model, opt = trained()
    file = save_model(tmp_path/'m.safetensors', model, opt)
    deeper, deeper_opt = trained(one_layer_more(), seed=1)
    refused(file, deeper, deeper_opt, 'weights are missing from the file')
    load_model(file, deeper, deeper_opt, strict=False)
    assert torch.equal(deeper.body.weight, model.body.weight)
    state, saved = deeper_opt.state_dict()['state'], opt.state_dict()['state']
    assert sorted(state) == [2, 3, 4, 5] and torch.equal(state[2]['exp_avg'], saved[0]['exp_avg'])
    assert goes_on(deeper, deeper_opt).isfinite().all()


def test_the_transfer_by_way_of_a_learner(tmp_path):
    from fastbook_impl.learner import DataLoader, DataLoaders, Learner
    items = list(zip(torch.randn(8, 4), torch.randn(8, 2)))
    dls = DataLoaders(DataLoader(items, bs=4), DataLoader(items, bs=4))
    def learner(model): return Learner(dls, model, nn.MSELoss(), path=tmp_path)
    old, new = learner(trained()[0]), learner(one_layer_more())
    with old.no_logging(): old.fit(1)
    old.save('old')
    new.load('old', strict=False)
    with new.no_logging(): new.fit(2)
    assert torch.isfinite(new.model.front.weight).all()


@pytest.mark.parametrize('change, match', [
    (lambda s: s.update(exp_avg=torch.zeros(3)), r'exp_avg has shape \(3,\), and the parameter has \(8, 4\)'),
    (lambda s: s.update(exp_avg=torch.tensor(0.)), 'exp_avg has shape'),
    (lambda s: s.update(exp_avg_sq=torch.zeros(8, 4, dtype=torch.float16)), 'exp_avg_sq is torch.float16'),
    (lambda s: s.update(step=torch.zeros(8, 4)), 'step has shape'),
    (lambda s: s.update(step='many'), 'step is neither a tensor nor a number'),
], ids='shape scalar dtype step text'.split())
def test_state_that_does_not_fit_never_reaches_an_optimizer(change, match):
    model, opt = trained()
    before, sd = snapshot(model, opt), trained(seed=1)[1].state_dict()
    change(sd['state'][0])
    with pytest.raises(ValueError, match=match): opt.load_state_dict(sd)
    assert unchanged(model, opt, before)


def test_state_of_more_parameters_or_groups_is_refused():
    model, opt = trained()
    before = snapshot(model, opt)
    for sd in ({'state': {9: {}}, 'hypers': [{}]}, {'state': {}, 'hypers': [{}, {}]}):
        with pytest.raises(ValueError, match='the saved optimizer has'): opt.load_state_dict(sd)
    assert unchanged(model, opt, before)


def test_the_statistics_of_every_optimizer_of_pytorch_are_accepted():
    for name in ('Adagrad', 'Adafactor', 'ASGD', 'NAdam', 'Rprop'):
        model, opt = trained(opt_func=lambda ps, lr: OptimWrapper(ps, getattr(torch.optim, name), lr=lr))
        opt.load_state_dict(opt.state_dict())
        goes_on(model, opt)


def rewritten(file, change):
    "The same file with `change`d tensors, and a checksum that is right."
    with safe_open(file, 'pt') as f: text, tensors = f.metadata()['fastbook_impl'], {k: f.get_tensor(k) for k in f.keys()}
    about = json.loads(text)
    change(tensors, about)
    text = json.dumps(about)
    save_file(tensors, file, metadata={'fastbook_impl': text, 'sha256': tensors_checksum(tensors, text)})


def test_a_bad_optimizer_part_is_found_before_the_weights_are_replaced(tmp_path):
    file = save_model(tmp_path/'m.safetensors', *trained())
    rewritten(file, lambda tensors, about: tensors.update({'opt.body.weight.exp_avg': torch.zeros(2)}))
    model, opt = trained(seed=1)
    refused(file, model, opt, r'exp_avg has shape \(2,\).* for body.weight')
    load_model(file, model, opt, strict=False)
    assert 0 not in opt.state_dict()['state'] and 1 in opt.state_dict()['state'] and goes_on(model, opt).isfinite().all()


def test_another_optimizer_is_refused_unless_it_may_be_left_out(tmp_path):
    file = save_model(tmp_path/'m.safetensors', *trained())
    model, opt = trained(opt_func=SGD, seed=1)
    refused(file, model, opt, 'contains the state of the optimizer Adam')
    load_model(file, model, opt, strict=False)
    load_model(file, model, opt, with_opt=False)


@pytest.mark.parametrize('about', [{'hypers': 3}, {'numbers': []}, {'hypers': [5]}, {'numbers': {'body.weight': 7}}], ids=str)
def test_a_description_that_makes_no_sense_is_refused(about, tmp_path):
    file = save_model(tmp_path/'m.safetensors', *trained())
    rewritten(file, lambda tensors, said: said.update(about))
    refused(file, *trained(seed=1), 'description of the optimizer is invalid')


def test_types_are_not_converted(tmp_path):
    for dtype in (torch.int32, torch.float16, torch.float64):
        save_file({k: v.to(dtype) for k,v in trained()[0].state_dict().items()}, tmp_path/'m.safetensors')
        for strict in (True, False): refused(tmp_path/'m.safetensors', *trained(seed=1), f'is {dtype} in the file', strict=strict)


def test_versions(tmp_path):
    file = save_model(tmp_path/'m.safetensors', *trained())
    rewritten(file, lambda tensors, about: about.update(version=3))
    refused(file, *trained(seed=1), 'saved as version 3')
    with safe_open(file, 'pt') as f: tensors = {k: f.get_tensor(k) for k in f.keys()}
    save_file(tensors, file, metadata={'fastbook_impl': json.dumps({'format': 'fastbook_impl', 'version': 1})})
    refused(file, *trained(seed=1), 'has no checksum')


def test_files_from_elsewhere_are_loaded_as_they_are(tmp_path):
    model, opt = trained()
    save_file(model.state_dict(), tmp_path/'m.safetensors')
    other, other_opt = trained(seed=1)
    load_model(tmp_path/'m.safetensors', other, other_opt)
    assert torch.equal(other.body.weight, model.body.weight)
    save_file({'something': torch.ones(2)}, tmp_path/'m.safetensors')
    refused(tmp_path/'m.safetensors', other, other_opt, 'no weight in the file has the name of a weight in the model', strict=False)


def test_what_was_loaded_no_longer_depends_on_the_file(tmp_path):
    file = save_model(tmp_path/'m.safetensors', *trained())
    model, opt = trained(seed=1)
    load_model(file, model, opt)
    before = snapshot(model, opt)
    file.write_bytes(bytes(file.stat().st_size))
    assert unchanged(model, opt, before)


def test_two_optimizers_do_not_share_their_state():
    model, opt = trained()
    other = trained(seed=1)[1]
    other.load_state_dict(opt.state_dict())
    before = snapshot(model, other)[1]
    goes_on(model, opt)
    assert equal(snapshot(model, other)[1], before)


def mutated(data, rng):
    "One of the ways in which files are damaged."
    data = bytearray(data)
    at = rng.randrange(len(data))
    kind = rng.choice('bit byte zeros cut swap header double'.split())
    if kind == 'bit': data[at] ^= 1 << rng.randrange(8)
    if kind == 'byte': data[at] = rng.randrange(256)
    if kind == 'zeros': data[at:at+64] = bytes(min(64, len(data) - at))
    if kind == 'cut': del data[at:]
    if kind == 'swap': data[at:at+32], data[:32] = data[:32], data[at:at+32]
    if kind == 'header': data[rng.randrange(8, min(len(data), 1500))] = rng.choice(b'0123456789"{}[]:,abcdef')
    if kind == 'double': data[at:at] = data[at:at+16]
    return bytes(data)


def check_mutations(tmp_path, n, seed):
    "How many of `n` damaged files were refused; all others load exactly what was saved."
    rng, model, opt = random.Random(seed), *trained()
    file = save_model(tmp_path/'m.safetensors', model, opt)
    good, right, other, other_opt = file.read_bytes(), snapshot(model, opt), *trained(seed=1)
    before, count = snapshot(other, other_opt), 0
    for i in range(n):
        file.write_bytes(mutated(good, rng))
        try: load_model(file, other, other_opt, strict=i % 2 == 0)
        except ValueError:
            assert unchanged(other, other_opt, before)
            count += 1
            continue
        assert unchanged(other, other_opt, right), 'wrong weights were loaded'
        file.write_bytes(save_model(tmp_path/'back.safetensors', *trained(seed=1)).read_bytes())
        load_model(file, other, other_opt)
    return count


def test_damaged_files_are_refused(tmp_path): assert check_mutations(tmp_path, 60, 1) >= 50


@pytest.mark.slow
def test_600_damaged_files(tmp_path): assert check_mutations(tmp_path, 600, 0) >= 550


# how files are written ------------------------------------------------------------------------------------------------

@pytest.mark.skipif(os.name != 'posix', reason='permissions as POSIX has them')
def test_saved_models_get_the_permissions_of_any_new_file(tmp_path):
    for mask, mode in ((0o022, 0o644), (0o077, 0o600)):
        was = os.umask(mask)
        try: file = save_model(tmp_path/f'{mode}.safetensors', *trained())
        finally: os.umask(was)
        assert stat.S_IMODE(file.stat().st_mode) == mode


def test_data_are_on_the_disk_before_the_old_file_is_replaced(tmp_path, monkeypatch):
    happened = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, 'fsync', lambda f: (happened.append('fsync'), fsync(f)))
    monkeypatch.setattr(os, 'replace', lambda a, b: (happened.append('replace'), replace(a, b)))
    with written_whole(tmp_path/'f') as part: part.write_text('x')
    assert happened[:2] == ['fsync', 'replace']


@pytest.mark.skipif(os.name != 'posix', reason='whether a process runs is asked the POSIX way')
def test_leftovers_of_killed_writers_are_removed_and_those_of_others_are_not(tmp_path, monkeypatch):
    ended = subprocess.Popen([sys.executable, '-c', ''])
    ended.wait()
    parts = []
    for name, pid, host in (('killed', ended.pid, 'here'), ('alive', os.getppid(), 'here'), ('elsewhere', ended.pid, 'there')):
        monkeypatch.setattr('platform.node', lambda: host)
        monkeypatch.setattr('os.getpid', lambda: pid)
        with pytest.raises(KeyError):
            with written_whole(tmp_path/name) as part: raise KeyError
        parts.append(part)
    monkeypatch.undo()
    monkeypatch.setattr('platform.node', lambda: 'here')
    for part in [*parts, tmp_path/'.notes.part']: part.write_text('half')
    with written_whole(tmp_path/'new') as part: part.write_text('x')
    assert sorted(tmp_path.iterdir()) == sorted([*parts[1:], tmp_path/'.notes.part', tmp_path/'new'])


@pytest.mark.slow
def test_20_kills_while_saving_leave_a_whole_file(tmp_path):
    code = ('import sys, torch; from torch import nn; from fastbook_impl.checkpoint import save_model\n'
            'm = nn.Linear(400, 400); print(1, flush=True)\nwhile True: save_model(sys.argv[1], m)')
    file = tmp_path/'m.safetensors'
    for i in range(20):
        process = subprocess.Popen([sys.executable, '-c', code, str(file)], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(0.02 + 0.003*i)
        process.kill()
        process.wait()
        if file.exists(): load_model(file, nn.Linear(400, 400))
    save_model(file, nn.Linear(400, 400))
    assert [o.name for o in tmp_path.iterdir()] == ['m.safetensors']

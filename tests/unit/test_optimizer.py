"""Optimizers against arithmetic by hand, and against PyTorch's own."""
import subprocess
import sys

import pytest
import torch
from torch import nn

from fastbook_impl.optimizer import SGD, Adam, Lookahead, Optimizer, OptimWrapper, RAdam, RMSProp, ranger
from fastbook_impl.torch_core import set_seed


def run(make, steps=6, n=2):
    set_seed(0)
    ps = [torch.randn(3).requires_grad_() for _ in range(n)]
    opt = make(ps)
    for _ in range(steps):
        for p in ps: p.grad = torch.randn(3)
        opt.step(); opt.zero_grad()
    return torch.stack([p.detach() for p in ps])


@pytest.mark.parametrize('ours, theirs', [
    (lambda ps: SGD(ps, lr=0.1), lambda ps: torch.optim.SGD(ps, lr=0.1)),
    (lambda ps: SGD(ps, lr=0.1, mom=0.9), lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9)),
    (lambda ps: SGD(ps, lr=0.1, mom=0.9, wd=0.1, decouple_wd=False), lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, weight_decay=0.1)),
    (lambda ps: Adam(ps, lr=0.1), lambda ps: torch.optim.AdamW(ps, lr=0.1, betas=(0.9, 0.99), eps=1e-5, weight_decay=0.01)),
    (lambda ps: Adam(ps, lr=0.1, decouple_wd=False), lambda ps: torch.optim.Adam(ps, lr=0.1, betas=(0.9, 0.99), eps=1e-5, weight_decay=0.01)),
    (lambda ps: RMSProp(ps, lr=0.1), lambda ps: torch.optim.RMSprop(ps, lr=0.1, alpha=0.99, eps=1e-8)),
    (lambda ps: RAdam(ps, lr=0.1), lambda ps: torch.optim.RAdam(ps, lr=0.1, betas=(0.9, 0.99), eps=1e-5)),
], ids='sgd momentum coupled_decay adam coupled_adam rmsprop radam'.split())
def test_same_steps_as_pytorch(ours, theirs):
    torch.testing.assert_close(run(ours), run(theirs), rtol=1e-5, atol=1e-6)


def test_ranger_learns():
    w = torch.ones(3).requires_grad_()
    opt = ranger([w], lr=0.1)
    for _ in range(60):
        (w**2).sum().backward(); opt.step(); opt.zero_grad()
    assert w.abs().max() < 0.5


def test_a_schedule_reaches_every_group():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    opt = Adam([list(a.parameters()), list(b.parameters())], lr=1e-3)
    opt.set_hypers(lr=slice(1e-4, 1e-2), mom=0.8)
    opt.sync()
    assert [(round(g['lr'], 6), g['betas'][0]) for g in opt.param_groups] == [(1e-4, 0.8), (1e-2, 0.8)]


def test_frozen_groups_stay_put_but_normalisation_moves():
    body, head = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.Linear(2, 1)
    opt = SGD([list(body.parameters()), list(head.parameters())], lr=0.1)
    opt.force_train.update(body[1].parameters())
    opt.freeze()
    before = {n: p.detach().clone() for n,p in body.named_parameters()}
    head(body(torch.randn(8, 2))).pow(2).sum().backward()
    opt.step()
    assert {n for n,p in body.named_parameters() if not torch.equal(p, before[n])} == {'1.weight', '1.bias'}


def test_state_survives_a_round_trip():
    def two_steps(reload):
        w = torch.ones(3).requires_grad_()
        opt = Adam([w], lr=0.1)
        w.grad = torch.tensor([1., 2., 3.]); opt.step()
        if reload:
            fresh = Adam([w], lr=0.5)
            fresh.load_state_dict(opt.state_dict())
            opt = fresh
        w.grad = torch.tensor([3., 2., 1.]); opt.step()
        return w.detach()
    assert torch.equal(two_steps(False), two_steps(True))


@pytest.mark.parametrize('call, sentence', [
    (lambda: SGD([], lr=0.1), 'an optimizer needs at least one parameter'),
    (lambda: OptimWrapper([torch.ones(1).requires_grad_()]), 'OptimWrapper needs opt'),
    (lambda: SGD([torch.ones(1).requires_grad_()], lr=[0.1, 0.2]), '2 values were given for 1 parameter groups'),
    (lambda: SGD([torch.ones(1).requires_grad_()], lr=0.1).freeze_to(5), r'freeze_to\(5\): there are 1 parameter groups'),
], ids='no_parameters no_class too_many_values no_such_group'.split())
def test_what_cannot_work_is_told(call, sentence):
    with pytest.raises(ValueError, match=sentence): call()


def test_an_optimizer_made_of_functions():
    def step(p, lr, **kwargs): p.sub_(p.grad, alpha=lr)
    torch.testing.assert_close(run(lambda ps: Optimizer(ps, step, lr=0.1)), run(lambda ps: SGD(ps, lr=0.1)))


def test_lookahead_goes_half_the_way():
    torch.testing.assert_close(run(lambda ps: Lookahead(SGD(ps, lr=0.1), k=100)), run(lambda ps: SGD(ps, lr=0.1)))


def test_lookahead_remembers_across_a_checkpoint():
    def steps(reload):
        w = torch.ones(3).requires_grad_()
        opt = ranger([w], lr=0.1, k=4)
        for i in range(9):
            if i == 6 and reload:
                fresh = ranger([w], lr=0.5, k=4)
                fresh.load_state_dict(opt.state_dict())
                opt = fresh
            w.grad = torch.tensor([1., 2., float(i)]); opt.step()
        return w.detach()
    assert torch.equal(steps(False), steps(True))


@pytest.mark.medium
def test_the_compiler_is_not_imported():
    "The first optimizer of a process would make PyTorch import torch._dynamo: two seconds that nobody asked for."
    code = '''import sys, torch
from fastbook_impl.optimizer import *
p = torch.nn.Parameter(torch.ones(2))
for f in (SGD, RMSProp, Adam, RAdam, ranger):
    opt = f([p], lr=0.1)
    for _ in range(2): p.grad = torch.ones(2); opt.step(); opt.zero_grad()
    opt.load_state_dict(opt.state_dict())
print('torch._dynamo' in sys.modules)'''
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == 'False'


def test_hooks_of_the_optimizer_underneath_are_called():
    p, seen = nn.Parameter(torch.ones(2)), []
    opt = SGD([p], lr=0.1)
    opt.opt.register_step_post_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    p.grad = torch.ones(2)
    opt.step()
    assert seen == [True] and isinstance(opt.opt, torch.optim.SGD) and torch.is_grad_enabled()


def test_a_step_can_be_learned_through():
    p = nn.Parameter(torch.ones(2))
    opt = OptimWrapper([p], torch.optim.SGD, lr=0.1, torch_args=dict(differentiable=True))
    p.grad = torch.ones(2)
    opt.step()
    assert type(opt.opt) is torch.optim.SGD

"""What chapter 5 explains: softmax to cross-entropy by hand, fine-tuning step by step; what its notebook reached; and real pets, where there are any."""
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastbook_impl.course.pet_breeds import cross_entropy, fine_tune_steps, log_softmax, nll_loss, pets_net, read_slice, softmax, three_groups
from fastbook_impl.vision.all import (CategoryBlock, DataBlock, DataLoader, DataLoaders, ImageBlock, Learner, Normalize, RandomSplitter, RegexLabeller, Resize, URLs,
                                      aug_transforms, default_split, error_rate, get_image_files, imagenet_stats, set_seed, untar_data, using_attr, vision_learner)


def test_the_worked_example():
    acts = torch.tensor([[0.6734, 0.2576]])
    torch.testing.assert_close(softmax(acts), torch.tensor([[0.6025, 0.3975]]), atol=5e-5, rtol=0)
    assert round(cross_entropy(acts, torch.tensor([0])).item(), 4) == 0.5067
    assert round(cross_entropy(acts, torch.tensor([1])).item(), 4) == 0.9225


@pytest.mark.parametrize('n', [2, 3, 37])
def test_by_hand_as_by_pytorch(n):
    set_seed(n)
    acts, targs = 3*torch.randn(50, n), torch.randint(0, n, (50,))
    torch.testing.assert_close(softmax(acts), acts.softmax(1))
    torch.testing.assert_close(log_softmax(acts), acts.log_softmax(1))
    for reduction in ('mean', 'none'):
        torch.testing.assert_close(nll_loss(log_softmax(acts), targs, reduction), F.nll_loss(acts.log_softmax(1), targs, reduction=reduction))
        torch.testing.assert_close(cross_entropy(acts, targs, reduction), F.cross_entropy(acts, targs, reduction=reduction))


def test_the_gradient_is_probability_minus_target():
    acts, targs = torch.randn(4, 5, requires_grad=True), torch.tensor([0, 4, 2, 2])
    cross_entropy(acts, targs).backward()
    torch.testing.assert_close(acts.grad, (softmax(acts.detach()) - F.one_hot(targs, 5))/4)


@pytest.mark.parametrize('row', [[1000., 0.], [-1000., -1000.], [1e38, -1e38]])
def test_activations_of_any_size(row):
    acts = torch.tensor([row])
    torch.testing.assert_close(log_softmax(acts), acts.log_softmax(1))
    assert log_softmax(acts).isfinite().all()


@pytest.mark.parametrize('size', [32, 48, 64, 97])
def test_the_net_takes_pictures_of_any_size(size):
    assert pets_net(5)(torch.rand(2, 3, size, size)).shape == (2, 5)


@pytest.mark.parametrize('lr', [1e-3, slice(1e-3), slice(1e-5, 1e-3)])
def test_a_slice_is_read_as_the_optimizer_reads_it(lr):
    learn = _tiny_learner(three_groups)
    learn.create_opt()
    learn.opt.set_hyper('lr', lr)
    assert np.allclose([h['lr'] for h in learn.opt.hypers], read_slice(lr, 3), rtol=1e-9)
    assert len(read_slice(lr, 1)) == 1 and np.isclose(read_slice(lr, 1)[0], 1e-3)


def test_three_groups_hold_every_parameter_once():
    model = _tiny_model()
    groups = three_groups(model)
    assert len(groups) == 3 and sorted(id(p) for g in groups for p in g) == sorted(id(p) for p in model.parameters())


def test_fine_tune_by_hand_gives_the_same_weights():
    learners = [_tiny_learner(default_split) for _ in range(2)]
    for learn,f in zip(learners, (lambda o: fine_tune_steps(o, 2, 1e-2, freeze_epochs=2), lambda o: o.fine_tune(2, 1e-2, freeze_epochs=2))):
        set_seed(1)
        with learn.no_bar(), learn.no_logging(): f(learn)
    for a,b in zip(*(o.model.parameters() for o in learners)): assert torch.equal(a, b)


def _tiny_model():
    set_seed(0)
    body = pets_net(widths=(4, 4, 4, 4))[:4]
    return nn.Sequential(body, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)))


def _tiny_learner(splitter):
    set_seed(0)
    data = [(torch.rand(3, 16, 16), i%3) for i in range(24)]
    return Learner(DataLoaders(DataLoader(data, bs=8), DataLoader(data, bs=8)), _tiny_model(), loss_func=F.cross_entropy, splitter=splitter)


@pytest.fixture(scope='module')
def reached(saved_figures): return saved_figures('05_pet_breeds')


def test_the_notebook_tells_37_breeds_apart(reached):
    assert reached['pets_error'] < 0.15


def test_its_mistakes_are_where_the_breeds_are_alike(reached):
    "Nine pairs of 666 were drawn to be alike: chance would put one mistake in seventy there."
    assert reached['among_lookalikes'] > 0.2


def test_a_body_that_knows_dogs_helps_with_cats(reached):
    assert reached['cats_frozen'] < reached['cats_scratch'] - 0.15


@pytest.mark.slow
def test_cats_and_dogs_on_photographs(mirror, tmp_path, monkeypatch):
    "600 photographs of three breeds, 480 of them to learn from; 45 of the other 120 are dogs, so always saying cat would be wrong in 0.375."
    monkeypatch.setenv('FASTBOOK_MIRROR', str(mirror))
    monkeypatch.setenv('FASTBOOK_DATA', 'real')
    monkeypatch.setenv('FASTBOOK_HOME', str(tmp_path))
    path = untar_data(URLs.PETS)
    set_seed(42)
    block = DataBlock(blocks=(ImageBlock, CategoryBlock), splitter=RandomSplitter(seed=42), get_y=using_attr(RegexLabeller(r'(.+)_\d+.jpg$'), 'name'),
                      item_tfms=Resize(80), batch_tfms=[*aug_transforms(size=64, min_scale=0.75), Normalize.from_stats(*imagenet_stats)])
    dls = block.dataloaders(get_image_files(path/'images').sorted(), bs=32)
    learn = vision_learner(dls, pets_net(), pretrained=False, lin_ftrs=[], ps=0.25, metrics=error_rate)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(10, 5e-3)
        preds, targs = learn.get_preds()
    is_dog = torch.tensor([not v[0].isupper() for v in dls.vocab])
    confused = (is_dog[preds.argmax(1)] != is_dog[targs]).float().mean()
    wrong = (preds.argmax(1) != targs).float().mean()
    assert len(targs) == 120 and confused < 0.22 and wrong < 0.45

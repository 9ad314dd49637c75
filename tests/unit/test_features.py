"""A head trained on the features of a frozen body, which are computed once; and a few items of each label."""
import pytest
import torch
from colored_images import two_colors
from torch import nn

import fastbook_impl.vision.all  # the callbacks that every learner has in a chapter
from fastbook_impl.data.load import DataLoader, DataLoaders
from fastbook_impl.data.transforms import few_per_label, parent_label
from fastbook_impl.learner import Learner
from fastbook_impl.torch_core import set_seed
from fastbook_impl.vision.learner import add_normalize, create_head, feature_learner, vision_learner
from fastbook_impl.vision.models import tvm


@pytest.fixture(scope='module')
def colors(tmp_path_factory):
    "Plain images of two colors, 12 of each, wider than high."
    return two_colors(tmp_path_factory.mktemp('colors'), 12, 32, 48)


def small(pretrained=False, weights=None):
    "A network with normalization, dropout and pooling."
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


def learner(folder, method='squish', frozen=True, train_bn=False, batch_tfms=None, **kwargs):
    from fastbook_impl.metrics import accuracy
    from fastbook_impl.vision.all import ImageDataLoaders, Resize, get_image_files
    dls = ImageDataLoaders.from_name_func(folder, get_image_files(folder).sorted(), lambda f: f.split('_')[0], seed=0, bs=8, device='cpu', item_tfms=Resize(16, method=method), batch_tfms=batch_tfms)
    learn = vision_learner(dls, small, pretrained=False, train_bn=train_bn, metrics=accuracy, **kwargs)
    if frozen: learn.freeze()
    return learn


def test_the_head_is_trained_and_the_body_is_called_once_for_each_image(colors):
    set_seed(0)
    learn = learner(colors)
    seen, body = [], {k: v.clone() for k, v in learn.model[0].state_dict().items()}
    learn.model[0].register_forward_hook(lambda m, i, o: seen.append(len(o)))
    head = feature_learner(learn)
    assert sum(seen) == 24
    with head.no_bar(), head.no_logging(): head.fit_one_cycle(20, 1e-2)
    assert sum(seen) == 24
    assert head.validate()[1] == 1 and learn.validate()[1] == 1
    assert all(torch.equal(v, body[k]) for k, v in learn.model[0].state_dict().items())
    torch.testing.assert_close(learn.get_preds()[0], head.get_preds()[0])
    assert learn.get_preds()[1].tolist() == head.get_preds()[1].tolist()


def test_the_loaders_are_like_those_of_the_images(colors):
    learn = learner(colors, lr=0.02, wd=0.3)
    head = feature_learner(learn)
    assert [len(dl.dataset) for dl in head.dls] == [len(dl.dataset) for dl in learn.dls]
    assert [dl.bs for dl in head.dls] == [8, 8] and head.dls.train.shuffle and not head.dls.valid.shuffle
    assert (head.lr, head.wd, head.path) == (learn.lr, learn.wd, learn.path) and head.loss_func is learn.loss_func
    assert head.dls.one_batch()[0].shape == (8, 16)  # mean and maximum of 8 features


@pytest.mark.parametrize('kwargs, what', [(dict(frozen=False), 'still train, such as .*learn.freeze'), (dict(train_bn=True), 'train_bn=False')])
def test_a_body_that_trains_is_refused(colors, kwargs, what):
    with pytest.raises(ValueError, match=what): feature_learner(learner(colors, **kwargs))


def test_images_that_change_are_refused(colors):
    from fastbook_impl.vision.all import aug_transforms
    with pytest.raises(ValueError, match="because of Resize, .*method='squish'"): feature_learner(learner(colors, 'crop'))
    with pytest.raises(ValueError, match='because of .*(Flip|Affine|Rotate|Space)'): feature_learner(learner(colors, batch_tfms=aug_transforms()))


def test_a_model_without_a_body_and_a_head_is_refused(colors):
    learn = learner(colors)
    other = Learner(learn.dls, nn.Sequential(nn.Flatten()), loss_func=nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match='a body and a head.*got Sequential'): feature_learner(other)


def test_after_a_refusal_nothing_has_changed(colors):
    learn = learner(colors, 'crop')
    modes = [m.training for m in learn.model.modules()]
    state = torch.get_rng_state()
    with pytest.raises(ValueError): feature_learner(learn)
    assert [m.training for m in learn.model.modules()] == modes and torch.equal(torch.get_rng_state(), state)


def test_few_of_each_label_in_their_order():
    files = [f'{label}/{i}.jpg' for i in range(60) for label in ('cat', 'dog')] + ['pig/0.jpg']
    few = few_per_label(files, parent_label, 40)
    assert [sum(parent_label(o) == label for o in few) for label in ('cat', 'dog', 'pig')] == [40, 40, 1]
    assert [files.index(o) for o in few] == sorted(files.index(o) for o in few) and len(set(few)) == 81
    assert few == few_per_label(files, parent_label, 40) != few_per_label(files, parent_label, 40, seed=1)


@pytest.mark.parametrize('items, n, what', [(['a/1'], 0, 'at least 1, got 0'), ([], 5, 'no items')])
def test_few_of_nothing(items, n, what):
    with pytest.raises(ValueError, match=what): few_per_label(items, parent_label, n)


def test_loaders_without_transforms_are_left_as_they_are():
    noise = [(torch.rand(3, 16, 16), i % 2) for i in range(8)]
    dls = DataLoaders(DataLoader(noise, bs=4), DataLoader(noise, bs=4))
    add_normalize(dls, ([0.5]*3, [0.5]*3))
    torch.testing.assert_close(next(iter(dls.train))[0], torch.stack([x for x, _ in noise[:4]]))

"""The networks `xresnet18` and its larger siblings: as many weights as fastai's, the variants, and the uses as a body, as a U-Net and in an exported file."""
import pytest
import torch

from fastbook_impl.layers import Mish
from fastbook_impl.vision.all import (CategoryBlock, CrossEntropyLossFlat, DataBlock, Image, ImageBlock, L, Learner, Resize, get_image_files, load_learner, np, num_params, resnet18,
                                      unet_learner, using_attr, vision_learner)
from fastbook_impl.vision.models.xresnet import ResBlock, XResNet, _xresnet, xresnet18, xresnet34, xresnet50, xresnet101


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(24): Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path/f'{"ab"[i % 2]}{i:02}.png')
    return get_image_files(tmp_path).sorted()


@pytest.fixture
def dls(files):
    return DataBlock((ImageBlock, CategoryBlock), get_y=using_attr(lambda name: name[0], 'name'), item_tfms=Resize(32)).dataloaders(files, bs=8)


@pytest.mark.parametrize('arch,n', [(xresnet18, 11_200_874), (xresnet34, 21_309_034), (xresnet50, 23_547_754), (xresnet101, 42_539_882)])
def test_as_many_weights_as_fastais(arch, n):
    model = arch(n_out=10)
    assert num_params(model) == n
    assert [type(o).__name__ for o in model] == 3*['ConvLayer'] + ['MaxPool2d'] + 4*['Sequential'] + ['AdaptiveAvgPool2d', 'Flatten', 'Dropout', 'Linear']


@pytest.mark.parametrize('kwargs', [dict(c_in=1), dict(widen=.5), dict(stem_szs=(16, 16, 32)), dict(sa=True), dict(p=.3), dict(act_cls=Mish), dict(groups=2), dict(reduction=8)])
def test_a_variant_takes_images_of_any_size(kwargs):
    model = xresnet18(n_out=3, **kwargs).eval()
    assert model(torch.randn(2, kwargs.get('c_in', 3), 33, 47)).shape == (2, 3)


def test_there_can_be_five_stages_and_bottlenecks():
    assert XResNet(ResBlock, 4, [1, 1, 1, 1, 1], n_out=3)(torch.randn(2, 3, 64, 64)).shape == (2, 3)
    assert _xresnet('xresnet9', 1, [1, 1, 1, 1])(n_out=2)(torch.randn(2, 3, 32, 32)).shape == (2, 2)


def test_a_body_without_pretrained_weights_says_so_and_names_a_network_that_has_some(dls, capsys):
    learn = vision_learner(dls, xresnet18)
    said = capsys.readouterr().out
    for fact in ('xresnet18', 'pretrained=False', resnet18.__name__): assert fact in said
    assert [len(L(g)) > 0 for g in learn.splitter(learn.model)] == [True]*3 and len(learn.model[0]) == 8


def test_a_unet_can_stand_on_it(dls):
    unet = unet_learner(dls, xresnet18, n_out=2, pretrained=False).model
    assert unet.eval()(torch.randn(1, 3, 32, 32)).shape == (1, 2, 32, 32)


def test_an_exported_one_predicts_the_same(dls, files, tmp_path):
    learn = Learner(dls, XResNet(ResBlock, 1, [1, 1], n_out=2, stem_szs=(8, 8, 16), widen=.25), loss_func=CrossEntropyLossFlat(), path=tmp_path/'out')
    torch.testing.assert_close(load_learner(learn.export()).predict(files[0])[2], learn.predict(files[0])[2])

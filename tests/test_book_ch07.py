"""What the cells of the book's chapter 7 ask of the library: the same calls, with small pictures and a twentieth of the drawn ones, so that a CPU can run them. And the networks it uses."""
import pytest

from fastbook_impl.vision.all import *
from fastbook_impl.vision.models.xresnet import _xresnet

pytestmark = pytest.mark.medium


@pytest.fixture(scope='module')
def path(): return untar_data(URLs.IMAGENETTE_160)


def some(path): return get_image_files(path).sorted()[::20]


@pytest.fixture(scope='module')
def get_dls(path):
    def get_dls(bs, size):
        dblock = DataBlock(blocks=(ImageBlock, CategoryBlock),
                           get_items=some,
                           get_y=parent_label,
                           item_tfms=Resize(size + 16),
                           batch_tfms=[*aug_transforms(size=size, min_scale=0.75),
                                       Normalize.from_stats(*imagenet_stats)])
        return dblock.dataloaders(path, bs=bs)
    return get_dls


def fitted(learn, *args):
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, *args)
    return learn.recorder.values[-1]


def test_the_baseline(path):
    dblock = DataBlock(blocks=(ImageBlock(), CategoryBlock()),
                       get_items=some,
                       get_y=parent_label,
                       item_tfms=Resize(48),
                       batch_tfms=aug_transforms(size=32, min_scale=0.75))
    dls = dblock.dataloaders(path, bs=16)
    model = xresnet50(n_out=dls.c)
    learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), metrics=accuracy)
    assert len(fitted(learn, 3e-3)) == 3 and dls.c == 10
    x,y = dls.one_batch()
    assert x.mean(dim=[0,2,3]).shape == x.std(dim=[0,2,3]).shape == (3,)


def test_normalised_progressive_and_at_test_time(get_dls):
    dls = get_dls(16, 32)
    x,y = dls.one_batch()
    assert x.mean(dim=[0,2,3]).abs().max() < 1.5 and x.shape[-2:] == (32, 32)
    learn = Learner(dls, xresnet18(n_out=dls.c), loss_func=CrossEntropyLossFlat(), metrics=accuracy)
    fitted(learn, 3e-3)
    learn.dls = get_dls(8, 48)
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(1, 1e-3)
    preds,targs = learn.tta()
    assert preds.shape == (10, 10) and 0 <= accuracy(preds, targs).item() <= 1
    assert learn.dls.one_batch()[0].shape[-2:] == (48, 48)


def test_mixup_and_smoothed_labels(get_dls):
    dls = get_dls(16, 32)
    learn = Learner(dls, xresnet18(n_out=dls.c), loss_func=CrossEntropyLossFlat(), metrics=accuracy, cbs=MixUp())
    fitted(learn, 3e-3)
    learn = Learner(dls, xresnet18(n_out=dls.c), loss_func=LabelSmoothingCrossEntropy(), metrics=accuracy)
    fitted(learn, 3e-3)


# the networks

@pytest.mark.parametrize('arch,n', [(xresnet18, 11_200_874), (xresnet34, 21_309_034), (xresnet50, 23_547_754), (xresnet101, 42_539_882)])
def test_as_many_weights_as_fastais(arch, n):
    model = arch(n_out=10)
    assert num_params(model) == n
    assert [type(o).__name__ for o in model] == 3*['ConvLayer'] + ['MaxPool2d'] + 4*['Sequential'] + ['AdaptiveAvgPool2d', 'Flatten', 'Dropout', 'Linear']


@pytest.mark.parametrize('kwargs', [dict(c_in=1), dict(widen=.5), dict(stem_szs=(16, 16, 32)), dict(sa=True), dict(p=.3), dict(act_cls=Mish), dict(groups=2), dict(reduction=8)])
def test_variants(kwargs):
    model = xresnet18(n_out=3, **kwargs).eval()
    assert model(torch.randn(2, kwargs.get('c_in', 3), 33, 47)).shape == (2, 3)


def test_five_stages_and_bottlenecks():
    assert XResNet(ResBlock, 4, [1, 1, 1, 1, 1], n_out=3)(torch.randn(2, 3, 64, 64)).shape == (2, 3)
    assert _xresnet('xresnet9', 1, [1, 1, 1, 1])(n_out=2)(torch.randn(2, 3, 32, 32)).shape == (2, 2)


def test_as_a_body(get_dls, capsys, tmp_path):
    dls = get_dls(16, 32)
    learn = vision_learner(dls, xresnet18, metrics=accuracy, path=tmp_path)
    assert 'There are no pretrained weights of xresnet18: use pretrained=False to start from random weights, or resnet18. Starting from random weights.' in capsys.readouterr().out
    assert [len(L(g)) > 0 for g in learn.splitter(learn.model)] == [True]*3 and len(learn.model[0]) == 8
    unet = unet_learner(dls, xresnet18, n_out=2, pretrained=False).model
    assert unet.eval()(torch.randn(1, 3, 32, 32)).shape == (1, 2, 32, 32)


def test_exported(get_dls, path, tmp_path):
    dls = get_dls(16, 32)
    learn = Learner(dls, XResNet(ResBlock, 1, [1, 1], n_out=dls.c, stem_szs=(8, 8, 16), widen=.25), loss_func=CrossEntropyLossFlat(), path=tmp_path)
    file = some(path)[0]
    torch.testing.assert_close(load_learner(learn.export()).predict(file)[2], learn.predict(file)[2])

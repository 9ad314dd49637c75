"U-Nets: the same numbers as by hand, any body, any size, what is saved and copied, the diagram; chapter 1's segmentation; and what can be wrong about all that."
import copy
import os
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import fastbook_impl.vision.all  # the callbacks that every learner has in a chapter
from fastbook_impl.layers import ResBlock, SelfAttention, SigmoidRange
from fastbook_impl.torch_core import set_seed
from fastbook_impl.vision.learner import create_body
from fastbook_impl.vision.models import tvm
from fastbook_impl.vision.models.tvm import resnet18, resnet34
from fastbook_impl.vision.learner import unet_learner
from fastbook_impl.vision.models.unet import DynamicUnet, UnetBlock, body_layers, create_unet_model, draw_unet, layer_shapes, size_changes


def tiny_body(n_in=3):
    "Three halvings, few channels."
    conv = lambda ni, nf, stride=2: nn.Sequential(nn.Conv2d(ni, nf, 3, stride, 1), nn.ReLU(inplace=True))
    return nn.Sequential(conv(n_in, 4), conv(4, 6), conv(6, 6, 1), conv(6, 8))


def tiny_unet(n_out=2, size=(16, 24), n_in=3, **kwargs):
    set_seed(42)
    return DynamicUnet(tiny_body(n_in), n_out, size, **kwargs).eval()


@torch.no_grad()
def test_it_is_what_one_computes_by_hand():
    set_seed(42)
    m, x = [o.to(memory_format=torch.channels_last) for o in (create_unet_model(resnet18, 5, (64, 96), pretrained=False).eval(), torch.rand(2, 3, 64, 96))]
    body, norm, act, middle, b4, b3, b2, b1, shuffle, resize, merge, cross, final = m
    a = body[:3](x); b = body[3:5](a); c = body[5](b); d = body[6](c)
    y = middle(norm(body[7](d)).relu())
    for block, skip in zip((b4, b3, b2, b1), (d, c, b, a)):
        y = block.conv2(block.conv1(torch.cat([block.shuf(y), block.bn(skip)], 1).relu()))
    torch.testing.assert_close(m(x), final(cross(torch.cat([shuffle(y), x], 1))), rtol=0, atol=0)


@torch.no_grad()
def test_one_block_by_hand():
    block, up, skip = UnetBlock(8, 6).eval(), torch.randn(2, 8, 3, 5), torch.randn(2, 6, 5, 9)
    block.bn.running_mean.normal_()
    wide = F.interpolate(block.shuf(up), (5, 9), mode='nearest')
    both = torch.cat([wide, F.batch_norm(skip, block.bn.running_mean, block.bn.running_var, block.bn.weight, block.bn.bias)], 1).relu()
    y = F.conv2d(F.conv2d(both, block.conv1[0].weight, block.conv1[0].bias, padding=1).relu(), block.conv2[0].weight, block.conv2[0].bias, padding=1).relu()
    torch.testing.assert_close(block(up, skip), y, rtol=1e-5, atol=1e-5)
    assert block.nf == 10 and UnetBlock(8, 6, final_div=False).nf == 5


@pytest.mark.parametrize('name', [*'resnet18 squeezenet1_1 alexnet efficientnet_b0 mobilenet_v2 mobilenet_v3_small convnext_tiny'.split(),
                                  *(pytest.param(o, marks=pytest.mark.slow) for o in ('resnet34', 'densenet121', 'vgg11_bn'))])
@torch.no_grad()
def test_any_body_and_any_size(name):
    m = create_unet_model(getattr(tvm, name), 3, (64, 64), pretrained=False).eval()
    assert len(m.skip_at) >= 3
    for size in (64, 64), (97, 131), (66, 70): assert m(torch.rand(1, 3, *size)).shape == (1, 3, *size)
    assert len([p for p in tvm.model_meta[name]['split'](m)]) >= 2
    assert sum(len(g) for g in tvm.model_meta[name]['split'](m)) == len(list(m.parameters()))


@torch.no_grad()
def test_bottlenecks():
    with torch.device('meta'): body = create_body(tvm.resnet50, pretrained=False)        # shapes without numbers
    shapes, x = [], torch.empty(1, 3, 64, 64, device='meta')
    for l in body_layers(body):
        x = l(x)
        shapes.append(tuple(x.shape))
    assert [shapes[i] for i in size_changes(shapes)] == [(1, 64, 32, 32), (1, 256, 16, 16), (1, 512, 8, 8), (1, 1024, 4, 4)]


@torch.no_grad()
def test_options():
    x = torch.rand(2, 3, 16, 24)
    assert isinstance(tiny_unet(y_range=(-1, 2))[-1], SigmoidRange)
    out = tiny_unet(y_range=(-1, 2))(x*100)
    assert -1 <= out.min() and out.max() <= 2
    kinds = lambda m, kind: sum(isinstance(l, kind) for l in m.modules())
    assert kinds(tiny_unet(last_cross=False), ResBlock) == 0 and kinds(tiny_unet(), ResBlock) == 1
    assert [kinds(tiny_unet(**k), nn.AvgPool2d) for k in ({}, {'blur': True}, {'blur': True, 'blur_final': False})] == [0, 2, 1]
    m = create_unet_model(resnet18, 2, (64, 64), pretrained=False, self_attention=True)
    assert [kinds(b, SelfAttention) for b in m if isinstance(b, UnetBlock)] == [0, 1, 0, 0]
    for kwargs in ({'bottle': True}, {'act_cls': nn.SiLU}, {'blur': True}, {'norm_type': tvm_norm()}, {'init': None}):
        assert tiny_unet(**kwargs)(x).shape == (2, 2, 16, 24)
    assert tiny_unet(n_in=1)(x[:, :1]).shape == (2, 2, 16, 24)
    assert tiny_unet(bottle=True)[-2].convpath[0][0].weight.shape[0] == 3                # (4 + 3)//2


def tvm_norm():
    from fastbook_impl.layers import NormType
    return NormType.Batch


def test_it_learns_everywhere_and_keeps_nothing():
    m, x = tiny_unet(5).train(), torch.rand(2, 3, 17, 23)
    m(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in m.named_parameters() if 'shuf' not in n)
    assert not hasattr(x, 'orig') or x.orig is None
    tensors = [k for l in m.modules() for k, v in vars(l).items() if isinstance(v, torch.Tensor) or isinstance(v, list) and any(isinstance(o, torch.Tensor) for o in v)]
    assert tensors == []                                                                 # neither activations nor hooks stay behind
    assert not any(l._forward_hooks for l in m.modules())


@torch.no_grad()
def test_copied_pickled_and_loaded():
    m, x = tiny_unet(), torch.rand(1, 3, 16, 24)
    m(x)
    other = tiny_unet()
    for p in other.parameters(): p.zero_()
    other.load_state_dict(m.state_dict())
    for twin in (copy.deepcopy(m), pickle.loads(pickle.dumps(m)), other): torch.testing.assert_close(twin(x), m(x), rtol=0, atol=0)
    assert all(k.startswith('layers.') for k in m.state_dict())
    assert torch.equal(m.state_dict()['layers.0.0.0.weight'], m[0][0][0].weight)         # the body's names below `layers.0`


@torch.no_grad()
def test_memory_layouts_agree():
    m, x = create_unet_model(resnet18, 2, (64, 64), pretrained=False).eval(), torch.rand(2, 3, 64, 64)
    before = m(x)
    last = copy.deepcopy(m).to(memory_format=torch.channels_last)
    torch.testing.assert_close(last(x), before, rtol=1e-3, atol=1e-4)


def test_several_threads_at_once():
    from concurrent.futures import ThreadPoolExecutor
    m, xs = tiny_unet(), [torch.rand(1, 3, 16 + 2*i, 24) for i in range(6)]
    with torch.no_grad():
        alone = [m(x) for x in xs]
        with ThreadPoolExecutor(4) as pool:
            for a, b in zip(alone*5, pool.map(torch.no_grad()(m.__call__), xs*5)): torch.testing.assert_close(a, b)


def test_the_diagram():
    import matplotlib.pyplot as plt
    ax = draw_unet(tiny_unet(7), (16, 24))
    words = [t.get_text() for t in ax.texts]
    assert 'picture\n3×16×24' in words and 'body\n4×8×12' in words and 'body\n8×2×3' in words and 'answer\n7×16×24' in words
    assert len(ax.patches) == len(words) - words.count('') == 2 + 2 + 1 + 2 + 2 + 1
    plt.close('all')


# ---- what can be wrong

def test_a_model_that_is_no_body():
    with pytest.raises(ValueError, match=r'ResNet returns the shape \(1, 1000\): use create_body'):
        DynamicUnet(resnet18(), 2, (64, 64))
    with pytest.raises(ValueError, match='factor of 16 within one layer.*pass a body with several layers'):
        DynamicUnet(nn.Sequential(nn.Conv2d(3, 8, 16, stride=16)), 2, (64, 64))


def test_a_cut_that_leaves_nothing():
    from fastbook_impl.vision.learner import create_body, cut_model
    for cut in (-10, 0): 
        with pytest.raises(ValueError, match=f'cut={cut} leaves nothing of ResNet, which has 10 layers'): create_unet_model(resnet18, 2, (64, 64), pretrained=False, cut=cut)
    def nothing(m): return nn.Sequential(nn.ReLU())
    with pytest.raises(ValueError, match='cut function nothing leaves nothing of ResNet that has weights'): create_body(resnet18, pretrained=False, cut=nothing)
    with pytest.raises(TypeError, match=r'cut function .*lambda.* must return a model, got \[\]'): cut_model(resnet18(), lambda m: [])


def test_a_head_for_another_body():
    from fastbook_impl.vision.learner import add_head, create_head, create_vision_model
    body = create_body(resnet18, pretrained=False)
    for wrong in (lambda: add_head(body, 512, 37, head=create_head(2048, 37)), lambda: add_head(body, 2048, 37), lambda: add_head(body, 2048, 37, concat_pool=False),
                  lambda: create_vision_model(resnet18, 37, pretrained=False, custom_head=create_head(2048, 37, lin_first=True))):
        with pytest.raises(ValueError, match=r'head expects 2048 features but the body returns 512: use create_head\(512, …\)'): wrong()
    with pytest.raises(ValueError, match='head expects 256 features but the body returns 512'): add_head(body, 512, 2, head=nn.Sequential(nn.Conv2d(256, 2, 1), nn.AdaptiveAvgPool2d(1)))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(512*4, 2))                              # right for pictures of 64 pixels
    assert create_vision_model(resnet18, 2, pretrained=False, custom_head=flat)(torch.rand(2, 3, 64, 64)).shape == (2, 2)


def test_an_architecture_that_is_not_known():
    with pytest.raises(KeyError, match='resnet43 is not in model_meta: did you mean resnet34 or '): tvm.model_meta['resnet43']
    with pytest.raises(TypeError, match='such as resnet34.*timm.*got 34'): create_unet_model(34, 2, (64, 64))


# ---- pictures with masks

CODES = ['ground', 'disc', 'square']

@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    "Twelve pictures of 48x32 pixels with masks of three classes; the outermost pixels are of no class, 9."
    path, rng = tmp_path_factory.mktemp('scenes'), np.random.default_rng(0)
    for folder in ('images', 'masks', 'void'): (path/folder).mkdir()
    for i in range(12):
        mask = np.zeros((32, 48), np.uint8)
        mask[8:20, 6:18], mask[14:26, 26:38] = 1, 2
        mask = np.roll(mask, rng.integers(-3, 4, 2), (0, 1))
        Image.fromarray(rng.integers(0, 60, (32, 48, 3), np.uint8) + 90*mask[..., None]).save(path/'images'/f'{i:02}.png')
        Image.fromarray(mask).save(path/'masks'/f'{i:02}.png')
        mask[[0, -1]], mask[:, [0, -1]] = 9, 9
        Image.fromarray(mask).save(path/'void'/f'{i:02}.png')
    return path


def loaders(path, masks='masks', codes=CODES, **kwargs):
    from fastbook_impl.vision.data import SegmentationDataLoaders
    set_seed(42)
    return SegmentationDataLoaders.from_label_func(path, fnames=sorted((path/'images').iterdir()), label_func=lambda f: path/masks/f.name, codes=codes, seed=42, bs=4, device='cpu', **kwargs)


def small_arch(pretrained=False, **kwargs): return nn.Sequential(*tiny_body(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


def test_a_learner_from_data_to_saved_model(scenes, tmp_path):
    from fastbook_impl.vision.learner import create_unet_model as also, unet_learner as same
    assert same is unet_learner and also is create_unet_model
    learn = unet_learner(loaders(scenes), small_arch, pretrained=False, path=tmp_path)
    assert (type(learn.loss_func).__name__, learn.loss_func.axis) == ('CrossEntropyLossFlat', 1)
    assert learn.model(torch.rand(1, 3, 33, 49)).shape == (1, 3, 33, 49)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(2, 3e-3)
    losses = [v[0] for v in learn.recorder.values]
    assert losses[1] < losses[0]
    learn.save('unet')
    before = learn.get_preds()[0]
    twin = unet_learner(loaders(scenes), small_arch, pretrained=False, path=tmp_path)
    twin.load('unet')
    torch.testing.assert_close(twin.get_preds()[0], before)
    answer = learn.predict(scenes/'images'/'00.png')[0]
    assert answer.shape == (32, 48) and set(answer.unique().tolist()) <= {0, 1, 2}


def test_config_n_out_and_ranges(scenes):
    dls = loaders(scenes)
    learn = unet_learner(dls, small_arch, pretrained=False, n_out=7, config={'last_cross': False}, y_range=(0, 1))
    assert learn.model(torch.rand(1, 3, 16, 16)).shape == (1, 7, 16, 16) and isinstance(learn.model[-1], SigmoidRange)
    with pytest.raises(ValueError, match='number of outputs.*pass n_out'):
        unet_learner(loaders(scenes, codes=None), small_arch, pretrained=False)


def test_pretrained_bodies_begin_frozen_in_three_groups(scenes, monkeypatch):
    weights = tvm.resnet18().state_dict()
    monkeypatch.setattr(tvm, 'imagenet_weights', lambda name, w=None: weights)
    learn = unet_learner(loaders(scenes), resnet18)
    assert len(learn.opt.param_lists) == 3 and learn.opt.frozen_idx == 2
    assert not learn.model[0][4][0].conv1.weight.requires_grad and learn.model[0][1].weight.requires_grad and learn.model[3][0][0].weight.requires_grad
    assert torch.equal(learn.model[0][0].weight, weights['conv1.weight'])


def test_void_is_not_learned_and_not_counted(scenes):
    from functools import partial
    from fastbook_impl.losses import CrossEntropyLossFlat
    from fastbook_impl.metrics import ClassAccuracy, foreground_acc
    from fastbook_impl.vision.data import ImageBlock, MaskBlock
    from fastbook_impl.vision.all import DataBlock, RandomSplitter, get_image_files
    block = DataBlock(blocks=(ImageBlock, MaskBlock(CODES, void=9)), get_items=lambda p: sorted(get_image_files(p/'images')), get_y=lambda f: f.parent.parent/'void'/f.name, splitter=RandomSplitter(seed=42))
    dls = block.dataloaders(scenes, bs=4, device='cpu')
    xb, yb = dls.one_batch()
    assert yb.max() == 9
    learn = unet_learner(dls, small_arch, pretrained=False, loss_func=CrossEntropyLossFlat(axis=1, ignore_index=9), metrics=[partial(foreground_acc, bkg_idx=9), ClassAccuracy(ignore_index=9)])
    acts = torch.randn(4, 3, 32, 48)
    inner = (slice(None), slice(1, -1), slice(1, -1))
    expected = F.cross_entropy(acts[:, :, 1:-1, 1:-1], torch.as_tensor(yb[inner]).as_subclass(torch.Tensor))
    torch.testing.assert_close(learn.loss_func(acts, yb), expected)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert 0 <= learn.recorder.values[-1][-1] <= 1


def test_one_colour_for_a_class(scenes):
    import matplotlib.pyplot as plt
    learn = unet_learner(loaders(scenes), small_arch, pretrained=False)
    learn.show_results(max_n=2, figsize=(4, 4))
    drawn = [im for ax in plt.gcf().axes for im in ax.images]
    masks = [im for im in drawn if im.get_array().ndim == 2]
    assert len(drawn) == 8 and len(masks) == 4                                            # a picture and a mask over it, target and prediction
    assert {(im.get_clim(), im.get_cmap().name) for im in masks} == {((0, 2), 'tab20')}
    plt.close('all')


def test_masks_that_do_not_belong(scenes):
    with pytest.raises(ValueError, match=r'the mask .*masks.*\d\d\.png has the value 2 in \d+ of its pixels, but there are 2 classes, 0 to 1: check the codes'):
        loaders(scenes, codes=['ground', 'disc']).one_batch()
    with pytest.raises(ValueError, match=r'void.*\.png has the value 9 in 156 of its pixels, but there are 3 classes, 0 to 2: .* MaskBlock\(codes, void=9\)'):
        unet_learner(loaders(scenes, masks='void'), small_arch, pretrained=False)
    Image.new('L', (24, 32)).save(scenes/'half.png')
    from fastbook_impl.vision.data import SegmentationDataLoaders
    with pytest.raises(ValueError, match=r'the mask .*half\.png has 24x32 pixels but its image has 48x32'):
        SegmentationDataLoaders.from_label_func(scenes, fnames=sorted((scenes/'images').iterdir()), label_func=lambda f: scenes/'half.png', codes=CODES, bs=4, device='cpu').one_batch()


# ---- the book's chapter 1

@pytest.mark.slow
def test_chapter_1_segmentation(mirror, tmp_path, monkeypatch):
    "As printed, with fewer pictures, on the mirror's `camvid_tiny`; without pretrained weights at hand it says so and starts from random ones."
    from fastbook_impl.vision.all import SegmentationDataLoaders, URLs, get_image_files, plt, untar_data
    for k, v in dict(FASTBOOK_MIRROR=str(mirror), FASTBOOK_DATA='auto', FASTBOOK_HOME=str(tmp_path)).items(): monkeypatch.setenv(k, v)
    path = untar_data(URLs.CAMVID_TINY)
    dls = SegmentationDataLoaders.from_label_func(
        path, bs=8, fnames = get_image_files(path/"images")[:10],
        label_func = lambda o: path/'labels'/f'{o.stem}_P{o.suffix}',
        codes = np.loadtxt(path/'codes.txt', dtype=str)
    )
    assert dls.c == 12 and dls.one_batch()[1].shape[1:] == (120, 160)
    learn = unet_learner(dls, resnet34)
    learn.fine_tune(1)
    learn.show_results(max_n=6, figsize=(7,8))
    plt.close('all')


def test_looking_at_a_head_leaves_the_random_numbers_alone(monkeypatch):
    from fastbook_impl.vision import learner
    def weights():
        set_seed(42)
        return torch.cat([p.flatten() for p in learner.add_head(tiny_body(), 8, 3).parameters()])
    looked = weights()
    monkeypatch.setattr(learner, 'check_head', lambda body, head: None)
    assert torch.equal(looked, weights())

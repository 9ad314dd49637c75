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

from fastbook_impl.layers import PixelShuffle_ICNR, ResBlock, SelfAttention, SigmoidRange
from fastbook_impl.torch_core import set_seed
from fastbook_impl.vision.learner import create_body
from fastbook_impl.vision.models import tvm
from fastbook_impl.vision.models.tvm import resnet18, resnet34
from fastbook_impl.vision.models.unet import DynamicUnet, UnetBlock, body_layers, create_unet_model, draw_unet, layer_shapes, size_changes, unet_learner


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
    m, x = create_unet_model(resnet18, 5, (64, 96), pretrained=False).eval(), torch.rand(2, 3, 64, 96)
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


@pytest.mark.parametrize('name', 'resnet18 resnet34 squeezenet1_1 densenet121 vgg11_bn alexnet efficientnet_b0 mobilenet_v2 mobilenet_v3_small convnext_tiny'.split())
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
    with pytest.raises(ValueError, match=r'a U-Net needs a body that returns rows and columns of features, and ResNet returns the shape \(1, 1000\): create_body cuts a model to its body'):
        DynamicUnet(resnet18(), 2, (64, 64))
    with pytest.raises(ValueError, match='the body makes pictures 16 times smaller within one layer: a U-Net needs to see the sizes between, so pass a body of several layers'):
        DynamicUnet(nn.Sequential(nn.Conv2d(3, 8, 16, stride=16)), 2, (64, 64))

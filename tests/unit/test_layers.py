"Layers: shapes, how they begin, and what they compute, against PyTorch or arithmetic by hand."
import copy
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastbook_impl import layers as ly
from fastbook_impl.layers import (AdaptiveConcatPool1d, AdaptiveConcatPool2d, BatchNorm1dFlat, ConvLayer, Embedding, LinBnDrop, MergeLayer, NormType,
                                  PixelShuffle_ICNR, PoolType, ResBlock, SelfAttention, SequentialEx, SigmoidRange, SimpleCNN, SimpleSelfAttention)


@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(42)

def names(m): return [type(l).__name__ for l in m]


# ranges and pooling ---------------------------------------------------------------------------------------------------

def test_sigmoid_range():
    x = torch.tensor([-100., 0., torch.log(torch.tensor(3.)), 100.])
    assert torch.allclose(ly.sigmoid_range(x, -1, 3), torch.tensor([-1., 1., 2., 3.]))
    assert torch.equal(SigmoidRange(-1, 3)(x), ly.sigmoid_range(x, -1, 3))
    assert ly.sigmoid(torch.tensor(1e4)) < 1 and ly.sigmoid(torch.tensor(-1e4)) > 0

def test_concat_pooling_has_the_maximum_first():
    x = torch.randn(2, 3, 5, 6)
    y = AdaptiveConcatPool2d()(x)
    assert y.shape == (2, 6, 1, 1)
    assert torch.allclose(y[:, :3, 0, 0], x.amax((2, 3))) and torch.allclose(y[:, 3:, 0, 0], x.mean((2, 3)), atol=1e-6)
    assert AdaptiveConcatPool2d(2)(x).shape == (2, 6, 2, 2) and AdaptiveConcatPool1d()(x[..., 0]).shape == (2, 6, 1)

@pytest.mark.parametrize('kind,n', [(PoolType.Avg, 3), (PoolType.Max, 3), (PoolType.Cat, 6)])
def test_pool_flatten(kind, n): assert ly.PoolFlatten(kind)(torch.randn(2, 3, 5, 5)).shape == (2, n)

def test_no_such_pooling():
    with pytest.raises(ValueError, match="'Min'.* Avg, Max, Cat$"): ly.adaptive_pool('Min')


# normalisation and convolution ----------------------------------------------------------------------------------------

def test_norms_begin_as_they_should():
    assert ly.BatchNorm(4).weight.eq(1).all() and ly.BatchNorm(4).bias.eq(1e-3).all()
    assert ly.BatchNorm(4, norm_type=NormType.BatchZero).weight.eq(0).all()
    assert ly.InstanceNorm(4, norm_type=NormType.InstanceZero).weight.eq(0).all()
    assert isinstance(ly.BatchNorm(4, ndim=1), nn.BatchNorm1d) and isinstance(ly.InstanceNorm(4, ndim=3), nn.InstanceNorm3d)

def test_flat_batchnorm():
    x, m, ref = torch.randn(3, 4, 5), BatchNorm1dFlat(5), nn.BatchNorm1d(5)
    assert torch.allclose(m(x), ref(x.reshape(-1, 5)).view(3, 4, 5))
    assert m(x[:, 0]).shape == (3, 5)

def test_lin_bn_drop():
    m = LinBnDrop(4, 3, p=.5, act=nn.ReLU())
    assert names(m) == ['BatchNorm1d', 'Dropout', 'Linear', 'ReLU'] and m[0].num_features == 4 and m[2].bias is None
    m = LinBnDrop(4, 3, act=nn.ReLU(), lin_first=True)
    assert names(m) == ['Linear', 'ReLU', 'BatchNorm1d'] and m[2].num_features == 3
    assert names(LinBnDrop(4, 3, bn=False)) == ['Linear'] and LinBnDrop(4, 3, bn=False)[0].bias is not None

@pytest.mark.parametrize('kw,layers,bias', [
    ({}, ['Conv2d', 'BatchNorm2d', 'ReLU'], False), ({'bn_1st': False}, ['Conv2d', 'ReLU', 'BatchNorm2d'], False),
    ({'norm_type': None}, ['Conv2d', 'ReLU'], True), ({'act_cls': None}, ['Conv2d', 'BatchNorm2d'], False),
    ({'norm_type': NormType.Instance, 'bias': True}, ['Conv2d', 'InstanceNorm2d', 'ReLU'], True),
    ({'norm_type': NormType.Weight}, ['ParametrizedConv2d', 'ReLU'], True), ({'norm_type': NormType.Spectral}, ['ParametrizedConv2d', 'ReLU'], True),
    ({'ndim': 1}, ['Conv1d', 'BatchNorm1d', 'ReLU'], False), ({'transpose': True, 'xtra': nn.Dropout()}, ['ConvTranspose2d', 'BatchNorm2d', 'ReLU', 'Dropout'], False)])
def test_conv_layer_parts(kw, layers, bias):
    m = ConvLayer(3, 4, **kw)
    assert names(m) == layers and (m[0].bias is not None) == bias

@pytest.mark.parametrize('kw,shape', [({}, (2, 4, 9, 9)), ({'stride': 2}, (2, 4, 5, 5)), ({'ks': 1}, (2, 4, 9, 9)), ({'padding': 0}, (2, 4, 7, 7)),
                                      ({'ks': 5, 'dilation': 2}, (2, 4, 5, 5)), ({'transpose': True, 'ks': 2, 'stride': 2}, (2, 4, 18, 18)),
                                      ({'transpose': True, 'stride': 2, 'padding': 1, 'output_padding': 1}, (2, 4, 18, 18))])
def test_conv_layer_shapes(kw, shape): assert ConvLayer(3, 4, **kw)(torch.randn(2, 3, 9, 9)).shape == shape

def test_weights_suit_the_activation():
    def bound(act_cls): return ConvLayer(64, 64, norm_type=None, act_cls=act_cls)[0].weight.abs().max().item()
    fan = 64*9
    assert bound(nn.ReLU) == pytest.approx((6/fan)**.5, rel=1e-2)                   # Kaiming, uniform
    assert bound(nn.Sigmoid) == pytest.approx((6/(2*fan))**.5, rel=1e-2)            # Xavier, uniform
    assert ConvLayer(64, 64, norm_type=None)[0].bias.std().item() == pytest.approx(.01, rel=.3)
    lin = nn.Linear(5, 5); ly.init_linear(lin, init=nn.init.zeros_, bias_std=0)
    assert lin.weight.eq(0).all() and lin.bias.eq(0).all()

def test_spectral_norm_bounds_the_stretch():
    m = ConvLayer(8, 8, ks=1, norm_type=NormType.Spectral, act_cls=None)
    for _ in range(100): m(torch.randn(1, 8, 2, 2))
    assert torch.linalg.matrix_norm(m[0].weight.flatten(1), 2).item() == pytest.approx(1., abs=1e-3)

def test_init_helpers():
    m = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Sequential(nn.Linear(3, 3)))
    for p in m[2].parameters(): p.requires_grad_(False)
    before = m[2][0].weight.clone()
    ly.apply_init(m, nn.init.ones_)
    assert m[0].weight.eq(1).all() and m[0].bias.eq(0).all() and m[1].weight.eq(1).all() and m[2][0].weight.equal(before)

def test_simple_cnn():
    m = SimpleCNN([3, 8, 16, 10], kernel_szs=[5, 3, 3])
    assert m(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert [len(l) for l in list(m)[:3]] == [3, 3, 2] and m[0][0].kernel_size == (5, 5)


# layers with a memory -------------------------------------------------------------------------------------------------

def test_sequential_ex():
    x = torch.randn(2, 3)
    m = SequentialEx(nn.Linear(3, 3), nn.ReLU(), MergeLayer())
    assert torch.allclose(m(x), m[0](x).relu() + x) and len(m) == 3
    assert SequentialEx(nn.Linear(3, 3), MergeLayer(dense=True))(x).shape == (2, 6)
    assert getattr(x, 'orig', None) is None                                         # nothing is kept alive

def test_cat():
    x = torch.randn(2, 3)
    a, b = nn.Linear(3, 1), nn.Linear(3, 2)
    assert torch.equal(ly.Cat([a, b])(x), torch.cat([a(x), b(x)], 1)) and len(list(ly.Cat([a, b]).parameters())) == 4

@pytest.mark.parametrize('kw', [{}, {'sa': True}, {'groups': 4}, {'dw': True}, {'bn_1st': False}])
def test_a_residual_block_begins_as_the_identity(kw):
    x = torch.randn(2, 8, 6, 6)
    if kw.get('bn_1st') is not False: assert torch.allclose(ResBlock(1, 8, 8, **kw)(x), x.relu(), atol=2e-3)
    assert ResBlock(1, 8, 8, **kw)(x).shape == x.shape

@pytest.mark.parametrize('expansion,kw', [(1, {}), (4, {}), (1, {'pool_first': False}), (4, {'reduction': 2}), (1, {'norm_type': NormType.Spectral}), (1, {'norm_type': None})])
def test_a_residual_block_that_shrinks(expansion, kw):
    m = ResBlock(expansion, 8, 16, stride=2, **kw)
    assert m(torch.randn(2, 8*expansion, 7, 7)).shape == (2, 16*expansion, 4, 4)
    m(torch.randn(2, 8*expansion, 7, 7)).sum().backward()
    assert all(p.grad is not None for p in m.parameters())

def test_residual_block_in_one_dimension(): assert ResBlock(1, 4, 8, stride=2, ndim=1)(torch.randn(2, 4, 8)).shape == (2, 8, 4)

def test_squeeze_and_excite_by_hand():
    x, m = torch.randn(2, 8, 4, 4), ly.SEModule(8, 2)
    weights = m[2][0](F.relu(m[1][0](x.mean((2, 3), keepdim=True)))).sigmoid()
    assert torch.allclose(m(x), x*weights)


# up-sampling and attention --------------------------------------------------------------------------------------------

@pytest.mark.parametrize('scale', [2, 3])
@pytest.mark.parametrize('norm_type', [NormType.Weight, NormType.Batch, None])
def test_pixel_shuffle_begins_as_nearest_neighbour(scale, norm_type):
    m = PixelShuffle_ICNR(4, 6, scale=scale, norm_type=norm_type).eval()
    y = m(torch.randn(2, 4, 5, 5))
    assert y.shape == (2, 6, 5*scale, 5*scale)
    assert torch.allclose(y, F.interpolate(y[..., ::scale, ::scale], scale_factor=scale), atol=1e-6)

def test_pixel_shuffle_blur():
    m = PixelShuffle_ICNR(4, act_cls=None, blur=True)
    x = torch.randn(2, 4, 5, 5)
    sharp = F.pad(m[1](m[0](x)), (1, 0, 1, 0), mode='replicate')
    mean = (sharp[..., 1:, 1:] + sharp[..., :-1, 1:] + sharp[..., 1:, :-1] + sharp[..., :-1, :-1])/4
    assert m(x).shape == (2, 4, 10, 10) and torch.allclose(m(x), mean, atol=1e-6)

def test_pixel_shuffle_learns_and_copies():
    m = PixelShuffle_ICNR(4)
    m(torch.randn(1, 4, 3, 3)).sum().backward()
    assert all(p.grad is not None for p in m.parameters())
    x, twin = torch.randn(1, 4, 3, 3), copy.deepcopy(m)
    assert torch.equal(twin(x), m(x))
    twin = PixelShuffle_ICNR(4); twin.load_state_dict(m.state_dict())
    assert torch.equal(twin(x), m(x))

def test_self_attention_by_hand():
    x, m = torch.randn(2, 16, 3, 4), SelfAttention(16).eval()
    assert torch.equal(m(x), x)
    nn.init.constant_(m.gamma, .7)
    flat = x.flatten(2)
    q, k, v = m.query(flat), m.key(flat), m.value(flat)
    o = torch.zeros_like(flat)
    for b in range(2):
        for j in range(12):
            w = torch.stack([q[b, :, j] @ k[b, :, i] for i in range(12)]).softmax(0)
            o[b, :, j] = sum(w[i]*v[b, :, i] for i in range(12))
    assert torch.allclose(m(x), x + .7*o.view(x.shape), atol=1e-5)

def test_attention_over_few_channels():
    assert SelfAttention(3)(torch.randn(1, 3, 2, 2)).shape == (1, 3, 2, 2)
    assert SimpleSelfAttention(3, ks=3)(torch.randn(1, 3, 4, 4)).shape == (1, 3, 4, 4)
    with pytest.raises(ValueError, match='^SimpleSelfAttention: sym needs ks=1, not 3$'): SimpleSelfAttention(3, ks=3, sym=True)


# the rest -------------------------------------------------------------------------------------------------------------

def test_embedding():
    e = Embedding(500, 8, std=.1)
    assert e.weight.abs().max() <= .2 and e.weight.std().item() == pytest.approx(.088, abs=.005)
    assert Embedding(5, 8, padding_idx=0).weight[0].eq(0).all()

def test_flatten_model_and_in_channels():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.net = nn.Parameter(torch.ones(1)), nn.Sequential(nn.Conv2d(5, 2, 1), nn.Sequential(nn.ReLU()))
    assert names(ly.flatten_model(Odd())) == ['Conv2d', 'ReLU', 'ParameterModule'] and ly.in_channels(Odd()) == 5
    assert ly.in_channels(PixelShuffle_ICNR(7)) == 7
    with pytest.raises(ValueError, match='^Linear has no convolution'): ly.in_channels(nn.Linear(2, 2))

def test_none_reduce():
    x, y, loss = torch.randn(4), torch.randn(4), nn.MSELoss(reduction='sum')
    with pytest.raises(ZeroDivisionError):
        with ly.NoneReduce(loss) as l:
            assert l(x, y).shape == (4,)
            1/0
    assert loss.reduction == 'sum'
    with ly.NoneReduce(F.l1_loss) as l: assert torch.equal(l(x, y), (x-y).abs())

def test_small_layers_print_what_they_do():
    assert repr(ly.Lambda(torch.relu)) == 'Lambda(func=relu)'
    assert repr(ly.PartialLambda(F.leaky_relu, negative_slope=.2)) == 'PartialLambda(func=leaky_relu, negative_slope=0.2)'
    assert repr(ly.ResizeBatch(2, 3)) == 'ResizeBatch(2, 3)' and repr(ly.View(-1)) == 'View(-1)'

@pytest.mark.medium
def test_import_stays_light():
    code = "import sys, fastbook_impl.layers; print([m for m in ('sklearn', 'scipy', 'matplotlib', 'pandas', 'torchvision') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'


def test_functions_among_layers():
    net = ly.sequential(nn.Linear(4, 3), torch.relu, lambda x: x.mean(1))
    x = torch.randn(2, 4)
    assert [type(m) for m in net] == [nn.Linear, ly.Lambda, ly.Lambda] and torch.equal(net(x), net[0](x).relu().mean(1))
    assert [n for n,_ in ly.sequential(OrderedDict(a=nn.ReLU(), b=nn.Identity())).named_children()] == ['a', 'b']

"""What chapter 15b exports: its layers and its splitter, and the results that the saved notebook reports."""
from collections import Counter

import pytest
import torch
from torch import nn

from fastbook_impl.course.further_research import AttentionPool, NearestHead, PowerMean, Prototypes, stem_and_blocks
from fastbook_impl.course.pet_breeds import pets_net
from fastbook_impl.layers import PixelShuffle_ICNR
from fastbook_impl.vision.all import create_body, create_head, num_features_model, resnet18, resnet34, resnet50, set_seed


@pytest.fixture(scope='module')
def figures(saved_figures): return saved_figures('15b_further_research')


@pytest.mark.parametrize('arch,n', [(resnet18, 10), (resnet34, 18), (resnet50, 18)])
def test_every_parameter_is_in_exactly_one_group(arch, n):
    body = create_body(arch, pretrained=False)
    model = nn.Sequential(body, create_head(num_features_model(body), 7))
    groups = stem_and_blocks(model)
    assert len(groups) == n
    assert Counter(id(p) for g in groups for p in g) == {id(p): 1 for p in model.parameters()}
    assert {id(p) for p in groups[0]} == {id(p) for p in body[:4].parameters()} and {id(p) for p in groups[-1]} == {id(p) for p in model[1].parameters()}


def test_attention_pooling_finds_the_place_it_scores_highest():
    pool = AttentionPool(3, n_looks=2)
    x = torch.rand(5, 3, 4, 6)
    with torch.no_grad():
        pool.score.weight.zero_()
        pool.score.weight[1, 0] = 1000.                    # the second look goes where the first feature is largest
        out = pool(x)
    assert out.shape == (5, 6)
    torch.testing.assert_close(out[:, :3], x.mean((2, 3)))
    torch.testing.assert_close(out[:, 3], x[:, 0].amax((1, 2)), atol=1e-3, rtol=1e-3)


def test_a_power_mean_lies_between_mean_and_maximum():
    x = torch.rand(5, 3, 4, 6) + 0.1
    with torch.no_grad(): first, third, high = [PowerMean(p)(x) for p in (1., 3., 200.)]
    torch.testing.assert_close(first, x.mean((2, 3)))
    assert (third > first).all() and (third < high).all()
    torch.testing.assert_close(high, x.amax((2, 3)), atol=0.03, rtol=0)
    loss = PowerMean()(torch.zeros(2, 3, 4, 4, requires_grad=True)).sum()
    loss.backward()
    assert torch.isfinite(loss)                            # features that are all zero, as after a ReLU


def test_a_picture_belongs_to_the_prototype_in_whose_direction_it_points():
    head = Prototypes(8, 4, scale=10.)
    with torch.no_grad(): scores = head(5*head.weight)
    assert scores.argmax(1).tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(scores.diagonal(), torch.full((4,), 10.))


@pytest.mark.parametrize('skips', [True, False])
@pytest.mark.parametrize('size', [(16, 32), (48, 64)])
def test_an_answer_for_every_pixel(skips, size):
    set_seed(0)
    widths = (4, 8, 12, 16)
    model = NearestHead(create_body(pets_net(widths=widths), pretrained=False), widths, 5, skips)
    out = model(torch.randn(2, 3, *size))
    assert out.shape == (2, 5, *size)
    out.mean().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize('enlarge', [lambda n: nn.ConvTranspose2d(n, n, 2, stride=2), lambda n: PixelShuffle_ICNR(n, n)])
def test_another_layer_can_enlarge_the_grid(enlarge):
    widths = (4, 8, 12, 16)
    model = NearestHead(create_body(pets_net(widths=widths), pretrained=False), widths, 5, enlarge=enlarge)
    assert model(torch.randn(2, 3, 32, 48)).shape == (2, 5, 32, 48)
    assert [type(m) for m in model.enlarge] == [type(enlarge(4))]*4


def test_own_heads_are_not_far_from_the_default(figures):
    best = max(figures[k] for k in ('attention_four_heads', 'power_mean', 'prototypes'))
    assert figures['default'] > 0.8 and best > figures['default'] - 0.05


def test_a_group_for_every_stage_is_ahead_of_two_groups(figures):
    assert figures['every_stage_and_head'] > figures['two_groups'] + 0.01 and figures['two_groups'] > 0.5


def test_skip_connections_help_the_simplest_decoder(figures):
    assert figures['constant'] < figures['by_place']
    assert figures['nearest_neighbor_skips'] > figures['nearest_neighbor_no_skips'] + 0.03

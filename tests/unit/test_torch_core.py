"""Tensors that know what they are, seeds, and what is shown."""
import matplotlib
import numpy as np

import pytest
import torch
from fastcore.foundation import L
from PIL import Image
from torch import nn

from fastbook_impl import torch_core as tc
from fastbook_impl.torch_core import TensorCategory, TensorImage, TensorMask, TensorMultiCategory, plain, tensor


@pytest.mark.parametrize('given, expected', [
    ((1, 2, 3), [1, 2, 3]), (([1., 2.],), [1., 2.]), ((np.array([1.5, 2]),), [1.5, 2.]), ((L(1, 2),), [1, 2]), ((range(3),), [0, 1, 2]),
    ((np.array([1, 2], dtype=np.uint16),), [1, 2]), ((3,), 3), ((True,), True), (([torch.ones(2), torch.zeros(2)],), [[1., 1.], [0., 0.]]),
    ((Image.new('L', (2, 1), 7),), [[7, 7]])])
def test_tensor_takes_what_python_offers(given, expected): assert tensor(*given).tolist() == expected


def test_tensor_does_not_share_memory_and_is_32_bit():
    a = np.zeros(3)
    t = tensor(a); t += 1
    assert a.sum() == 0 and t.dtype == torch.float32
    assert tensor([1., 2.], dtype=torch.float64).dtype == torch.float64
    assert tensor([1., 2.], requires_grad=True).requires_grad


def test_a_picture_stays_a_picture_until_it_meets_weights_or_another_kind():
    x = TensorImage(torch.rand(2, 3, 8, 8))
    for y in (x*2, x[0], x.float(), x.clone(), x.flip(-1), torch.stack([x, x]), torch.nn.functional.interpolate(x, 4), x + torch.ones(1)): assert type(y) is TensorImage
    for m in (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3).requires_grad_(False)): assert type(m(x)) is torch.Tensor
    assert type(x + TensorMask(torch.zeros(1))) is torch.Tensor
    assert type(x.view(2, -1) @ torch.rand(192, 1).requires_grad_()) is torch.Tensor


def test_the_loss_of_the_book_s_chapter_6_runs_on_a_typed_batch():
    x, y = TensorImage(torch.rand(4, 3, 8, 8)), TensorMultiCategory(torch.ones(4, 2))
    activs = nn.Sequential(nn.Conv2d(3, 2, 8), nn.Flatten())(x)
    assert nn.BCEWithLogitsLoss()(activs, y).ndim == 0
    assert nn.BCEWithLogitsLoss()(TensorImage(activs.detach()), y).ndim == 0


def test_in_place_and_grad_work_on_a_typed_tensor():
    x = TensorImage(torch.rand(2, 2)).requires_grad_()
    (x*3).sum().backward()
    assert (plain(x.grad) == 3).all()
    y = TensorImage(torch.zeros(2)); y += 1
    assert type(y) is TensorImage and y.sum() == 2


def test_repr_names_the_kind(): assert repr(TensorCategory(torch.tensor([1, 2]))) == 'TensorCategory([1, 2])'


def test_nested_batches():
    b = (torch.ones(2), [torch.zeros(1), 'text'], {'k': torch.ones(3)})
    assert tc.find_bs(b) == 2 and tc.to_half(b)[2]['k'].dtype == torch.float16 and tc.to_cpu(b)[1][1] == 'text'
    assert tc.to_concat([(torch.ones(2), torch.zeros(2, 3))]*2)[1].shape == (4, 3)


def test_seeds_repeat_all_three_generators():
    def draw(): return tc.random.random(), np.random.rand(), torch.rand(1).item()
    tc.set_seed(7); first = draw()
    tc.set_seed(7); assert draw() == first
    tc.set_seed(7)
    with tc.no_random(1): draw()
    assert draw() == first


@pytest.mark.parametrize('im, shape', [(torch.rand(3, 5, 7), (5, 7, 3)), (torch.rand(1, 5, 7), (5, 7)), (torch.rand(5, 7), (5, 7)), (np.zeros((5, 7, 3), 'uint8'), (5, 7, 3)),
                                       (Image.new('RGB', (7, 5)), (5, 7, 3)), (torch.rand(3, 5, 7).half(), (5, 7, 3)), (torch.rand(3, 5, 3), (5, 3, 3))])
def test_show_image_takes_channels_first_or_last(im, shape):
    ax = tc.show_image(im, title='t')
    assert ax.images[0].get_array().shape == shape and ax.get_title() == 't'
    tc.plt.close('all')


def test_show_images_and_grids():
    tc.show_images(torch.rand(5, 4, 4), nrows=2, titles='abcde')
    fig = tc.plt.gcf()
    assert [ax.get_title() for ax in fig.axes][:5] == list('abcde') and len(fig.axes) == 6
    assert len(tc.get_grid(5)) == 5
    fig, axs = tc.subplots(2, 3)
    assert axs.shape == (2, 3) and isinstance(fig, matplotlib.figure.Figure)
    tc.plt.close('all')


def test_module_needs_no_super():
    class M(tc.Module):
        def __init__(self, n): self.l = nn.Linear(n, 1)
        def forward(self, x): return self.l(x)
    assert tc.num_params(M(3)) == 4 and len(tc.params(M(3))) == 2


def test_flatten_check_counts():
    with pytest.raises(ValueError, match='the predictions hold 6 numbers and the targets 3'): tc.flatten_check(torch.zeros(3, 2), torch.zeros(3))


def test_points_are_drawn_so_large_that_they_are_seen():
    import matplotlib.pyplot as plt
    for inches, width in ((0.5, 4), (2, 9.6), (6, 12)):
        fig = plt.figure(figsize=(inches, inches)); ax = fig.add_axes((0, 0, 1, 1))
        tc.show_image(torch.zeros(3, 60, 60), ax=ax)
        dots = tc.TensorPoint([[30., 20.]]).show(ctx=ax).collections[0]
        assert abs(dots.get_sizes()[0]**0.5 - width) < 0.1 and (dots.get_edgecolor()[0] == 1).all()
        assert tc.TensorPoint([[30., 20.]]).show(ctx=ax, s=50).collections[-1].get_sizes()[0] == 50
        plt.close(fig)

"Losses: shapes, reductions, weights and the way back, against PyTorch or a number worked out by hand."
import copy
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastbook_impl.losses import (BaseLoss, BCELossFlat, BCEWithLogitsLossFlat, CrossEntropyLossFlat, DiceLoss, FocalLoss, FocalLossFlat,
                                  L1LossFlat, LabelSmoothingCrossEntropy, LabelSmoothingCrossEntropyFlat, MSELossFlat)
from fastbook_impl.torch_core import TensorCategory, TensorImage


@pytest.fixture
def g(): return torch.Generator().manual_seed(42)

@pytest.fixture
def rows(g): return torch.randn(6, 4, generator=g), torch.randint(0, 4, (6,), generator=g)

@pytest.fixture
def masks(g): return torch.randn(2, 3, 5, 7, generator=g), torch.randint(0, 3, (2, 5, 7), generator=g)


# cross-entropy and its kin --------------------------------------------------------------------------------------------

def test_cross_entropy(rows):
    x, y = rows
    assert torch.equal(CrossEntropyLossFlat()(x, y), F.cross_entropy(x, y))
    by_hand = torch.stack([-x[i].log_softmax(0)[y[i]] for i in range(6)])
    assert torch.allclose(CrossEntropyLossFlat(reduction='none')(x, y), by_hand)

def test_cross_entropy_on_masks_keeps_the_order_of_pixels(masks):
    x, y = masks
    loss = CrossEntropyLossFlat(axis=1, reduction='none')(x, y)
    assert torch.allclose(loss.view(2, 5, 7), F.cross_entropy(x, y, reduction='none'), atol=1e-6)

def test_cross_entropy_of_a_language_model(g):
    x, y = torch.randn(2, 5, 9, generator=g), torch.randint(0, 9, (2, 5), generator=g)
    assert torch.allclose(CrossEntropyLossFlat()(x, y), F.cross_entropy(x.movedim(-1, 1), y))

def test_arguments_of_pytorch_go_through(rows):
    x, y = rows
    kw = dict(ignore_index=int(y[0]), label_smoothing=.2, reduction='sum', weight=torch.tensor([1., 2., 3., 4.]))
    assert torch.allclose(CrossEntropyLossFlat(**kw)(x, y), F.cross_entropy(x, y, **kw))
    assert torch.allclose(CrossEntropyLossFlat(weight=[1, 2, 3, 4])(x, y), F.cross_entropy(x, y, weight=kw['weight']))

def test_probabilities_as_targets(rows):
    x, y = rows
    p = F.one_hot(y, 4)*.8 + .05
    assert torch.allclose(CrossEntropyLossFlat()(x, p), F.cross_entropy(x, p))

def test_small_integers_are_class_indices(masks):
    x, y = masks
    for dtype in (torch.uint8, torch.int16, torch.int32):
        assert torch.allclose(CrossEntropyLossFlat(axis=1)(x, y.to(dtype)), F.cross_entropy(x, y))

def test_gradients_are_pytorchs(masks):
    x, y = masks
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    CrossEntropyLossFlat(axis=1)(a, y).backward()
    F.cross_entropy(b, y).backward()
    assert torch.allclose(a.grad, b.grad, atol=1e-7)

@pytest.mark.parametrize('eps', [0., .1, .4])
def test_label_smoothing_by_hand(rows, eps):
    x, y = rows
    target = F.one_hot(y, 4)*(1-eps) + eps/4
    by_hand = -(target*x.log_softmax(1)).sum(1)
    assert torch.allclose(LabelSmoothingCrossEntropy(eps)(x, y), by_hand.mean())
    assert torch.allclose(LabelSmoothingCrossEntropy(eps, reduction='none')(x, y), by_hand)
    assert torch.allclose(LabelSmoothingCrossEntropyFlat(eps=eps)(x, y), by_hand.mean())

def test_label_smoothing_on_masks(masks):
    x, y = masks
    assert torch.allclose(LabelSmoothingCrossEntropyFlat(axis=1)(x, y), F.cross_entropy(x, y, label_smoothing=.1))

@pytest.mark.parametrize('gamma', [0., 1., 2.])
def test_focal_by_hand(rows, masks, gamma):
    x, y = rows
    p = x.softmax(1)[range(6), y]
    by_hand = -(1-p)**gamma*p.log()
    w = torch.tensor([1., 2., 3., 4.])
    assert torch.allclose(FocalLoss(gamma)(x, y), by_hand.mean())
    assert torch.allclose(FocalLoss(gamma, reduction='sum')(x, y), by_hand.sum())
    assert torch.allclose(FocalLossFlat(gamma=gamma, weight=w)(x, y), (by_hand*w[y]).mean())
    x, y = masks
    assert torch.allclose(FocalLossFlat(gamma=gamma, axis=1)(x, y), FocalLoss(gamma)(x, y))


# binary and regression ------------------------------------------------------------------------------------------------

def test_binary_cross_entropy(g):
    x, y = torch.randn(5, 3, generator=g), torch.randint(0, 2, (5, 3), generator=g)
    expected = F.binary_cross_entropy_with_logits(x, y.float())
    for targ in (y, y.float(), y.bool(), y.double()): assert torch.allclose(BCEWithLogitsLossFlat()(x, targ).float(), expected)
    assert torch.allclose(BCELossFlat()(x.sigmoid(), y), expected)
    assert torch.allclose(BCEWithLogitsLossFlat()(x[:, :1], y[:, 0]), F.binary_cross_entropy_with_logits(x[:, 0], y[:, 0].float()))

def test_weights_per_class(g):
    x, y, w = torch.randn(5, 3, generator=g), torch.randint(0, 2, (5, 3), generator=g).float(), torch.tensor([1., 2., 9.])
    assert torch.allclose(BCEWithLogitsLossFlat(pos_weight=w)(x, y), F.binary_cross_entropy_with_logits(x, y, pos_weight=w))
    assert torch.allclose(BCEWithLogitsLossFlat(weight=w)(x, y), F.binary_cross_entropy_with_logits(x, y, weight=w))
    with pytest.raises(ValueError, match="^weights per class need the classes' axis: leave out flatten=True$"): BCEWithLogitsLossFlat(pos_weight=w, flatten=True)

def test_no_accidental_table(g):
    x, y = torch.randn(5, 1, generator=g), torch.randint(0, 9, (5,), generator=g)
    assert torch.allclose(MSELossFlat()(x, y), ((x[:, 0]-y)**2).mean())
    assert torch.allclose(L1LossFlat()(x, y), (x[:, 0]-y).abs().mean())
    assert MSELossFlat(reduction='none')(x, y).shape == (5,)
    pts = torch.randn(5, 1, 2, generator=g)
    assert torch.allclose(MSELossFlat()(x.expand(5, 2), pts), ((x-pts[:, 0])**2).mean())


# Dice -----------------------------------------------------------------------------------------------------------------

def test_dice_by_hand(masks):
    x, y = masks
    p, t = x.softmax(1), F.one_hot(y, 3).movedim(-1, 1)
    dice = torch.stack([torch.stack([2*(p[i, c]*t[i, c]).sum()/(p[i, c].sum()+t[i, c].sum()) for c in range(3)]) for i in range(2)])
    assert torch.allclose(DiceLoss()(x, y), (1-dice).sum(), atol=1e-5)
    assert torch.allclose(DiceLoss(reduction='mean')(x, y), (1-dice).mean(), atol=1e-5)
    assert torch.allclose(DiceLoss(reduction='none')(x, y), 1-dice, atol=1e-5)
    square = 1 - 2*(p*t).sum((2, 3))/((p**2).sum((2, 3))+t.sum((2, 3)))
    assert torch.allclose(DiceLoss(square_in_union=True, reduction='none')(x, y), square, atol=1e-5)
    assert DiceLoss().decodes(DiceLoss().activation(x)).equal(x.argmax(1))


# the way back ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('loss', [CrossEntropyLossFlat(axis=1), FocalLossFlat(axis=1), FocalLoss(), LabelSmoothingCrossEntropyFlat(axis=1), DiceLoss()])
def test_activation_and_decodes_of_classes(loss, masks):
    x, _ = masks
    p = loss.activation(x)
    assert torch.allclose(p, x.softmax(1)) and loss.decodes(p).equal(x.argmax(1))

def test_activation_and_decodes_of_the_others(rows):
    x, _ = rows
    assert LabelSmoothingCrossEntropy().activation(x).equal(x.softmax(-1))
    assert BCEWithLogitsLossFlat(thresh=.7).decodes(x.sigmoid()).equal(x.sigmoid() > .7)
    assert BCEWithLogitsLossFlat().activation(x).equal(x.sigmoid())
    for loss in (MSELossFlat(), L1LossFlat()): assert loss.decodes(loss.activation(x)) is x

def test_reduction_can_be_set(rows):
    x, y = rows
    for loss in (CrossEntropyLossFlat(), LabelSmoothingCrossEntropy(), FocalLoss(), FocalLossFlat(), LabelSmoothingCrossEntropyFlat()):
        mean = loss(x, y)
        loss.reduction = 'none'
        assert loss(x, y).shape == (6,) and torch.allclose(loss(x, y).mean(), mean)
        loss.reduction = 'sum'
        assert torch.allclose(loss(x, y), mean*6)

def test_typed_batches_give_a_plain_loss(rows):
    x, y = rows
    assert type(CrossEntropyLossFlat()(TensorImage(x), TensorCategory(y))) is torch.Tensor

def test_weights_follow_the_predictions(rows):
    loss = CrossEntropyLossFlat(weight=torch.ones(4))
    out = loss(rows[0].to('meta'), rows[1].to('meta'))
    assert out.device.type == 'meta' and loss.func.weight.device.type == 'meta'

def test_any_pytorch_loss_can_be_wrapped(rows):
    x, y = rows
    loss = BaseLoss(nn.MultiMarginLoss, margin=.5)
    assert torch.allclose(loss(x, y), F.multi_margin_loss(x, y, margin=.5))
    assert repr(loss) == 'FlattenedLoss of MultiMarginLoss()' and copy.deepcopy(loss)(x, y) == loss(x, y)

@pytest.mark.medium
def test_import_stays_light():
    code = "import sys, fastbook_impl.losses; print([m for m in ('sklearn', 'scipy', 'matplotlib', 'pandas', 'torchvision') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'


# bad input ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('loss', [CrossEntropyLossFlat(), LabelSmoothingCrossEntropyFlat(), FocalLossFlat()])
def test_sizes_that_do_not_fit(loss):
    name = type(loss.func).__name__
    with pytest.raises(ValueError, match=f'^{name}: predictions for 4 items with 3 classes on axis -1, but 2 targets$'): loss(torch.zeros(4, 3), torch.tensor([0, 1]))

@pytest.mark.parametrize('loss', [CrossEntropyLossFlat(), LabelSmoothingCrossEntropyFlat(), FocalLossFlat()])
def test_a_class_the_model_does_not_have(loss):
    name = type(loss.func).__name__
    with pytest.raises(IndexError, match=f'^{name}: the model has 3 classes, 0 to 2, .*target 7$'): loss(torch.zeros(2, 3), torch.tensor([0, 7]))

def test_ignored_targets_are_no_error():
    assert CrossEntropyLossFlat(ignore_index=255)(torch.zeros(2, 3), torch.tensor([0, 255])).item() == pytest.approx(torch.log(torch.tensor(3.)).item())

def test_numbers_where_classes_are_needed():
    with pytest.raises(TypeError, match=r'^CrossEntropyLoss needs integer class indices, .*shape \(4,\) are float32: '
                                        r'use MSELossFlat .*BCEWithLogitsLossFlat'):
        CrossEntropyLossFlat()(torch.zeros(4, 3), torch.zeros(4))

def test_predictions_and_numbers_that_do_not_fit():
    with pytest.raises(ValueError, match=r'^MSELoss: predictions of shape \(4, 3\) and targets of shape \(4,\) hold 12 and 4 numbers'):
        MSELossFlat()(torch.zeros(4, 3), torch.zeros(4))

def test_masks_of_another_size():
    with pytest.raises(ValueError, match=r'^DiceLoss: predictions of shape \(1, 2, 4, 4\) need targets like \(1, 4, 4\), not \(1, 4, 5\)$'):
        DiceLoss()(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 5))

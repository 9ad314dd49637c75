"""What chapter 4 builds, and how well it does: on the built-in digits, and on MNIST's own where they are to be had."""
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastbook_impl.course.mnist_basics import (BasicOptim, LinearModel, SimpleLearner, SimpleNet, batch_accuracy, init_params, load_images,
                                        mnist_distance, mnist_loss, sigmoid)
from fastbook_impl.vision.all import SGD, DataLoader, DataLoaders, Learner, URLs, set_seed, untar_data


@pytest.fixture(autouse=True)
def one_core():
    "Tensors as small as these are quickest on one core."
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(params=['sample', 'mnist_sample.tgz'], scope='module')
def digits(request):
    "`(name, train_3, train_7, valid_3, valid_7)`, built in and real."
    with pytest.MonkeyPatch.context() as mp:
        mp.setenv('FASTBOOK_DATA', 'sample')
        if request.param != 'sample':
            mp.setenv('FASTBOOK_DATA', 'real')
            mp.setenv('FASTBOOK_MIRROR', str(request.getfixturevalue('mirror')))
        path = untar_data(URLs.MNIST_SAMPLE)
    return request.param, *(load_images(path/split/digit) for split in ('train', 'valid') for digit in '37')


@pytest.fixture
def dls(digits):
    "The loaders of the chapter: pictures as rows, 1 for a 3."
    _, *parts = digits
    dsets = []
    for threes,sevens in (parts[:2], parts[2:]):
        x = torch.cat([threes, sevens]).view(-1, 28*28)
        y = torch.tensor([1]*len(threes) + [0]*len(sevens)).unsqueeze(1)
        dsets.append(list(zip(x, y)))
    set_seed(42)
    return DataLoaders(DataLoader(dsets[0], batch_size=64, shuffle=True), DataLoader(dsets[1], batch_size=256))


def report(digits, what, acc, floor, capsys):
    with capsys.disabled(): print(f'\n  {digits[0]}: {what} {acc:.4f} (floor {floor})', end='')
    assert acc >= floor


def test_pixel_similarity(digits, capsys):
    _, train_3, train_7, valid_3, valid_7 = digits
    mean3, mean7 = train_3.mean(0), train_7.mean(0)
    is_3 = lambda x: mnist_distance(x, mean3) < mnist_distance(x, mean7)
    acc = (is_3(valid_3).float().mean() + 1 - is_3(valid_7).float().mean())/2
    report(digits, 'pixel similarity', acc.item(), 0.93, capsys)


def test_linear_model(digits, dls, capsys):
    learner = SimpleLearner(dls, LinearModel(28*28, 1))
    learner.train_model(20, learning_rate=0.1)
    report(digits, 'linear model', learner.values[-1], 0.96, capsys)


def test_simple_net(digits, dls, capsys):
    learner = SimpleLearner(dls, SimpleNet(28*28, 1))
    learner.train_model(40, learning_rate=0.1)
    report(digits, 'net, by hand', learner.values[-1], 0.98, capsys)


def test_linear_model_with_the_learner(digits, dls, capsys):
    learn = Learner(dls, nn.Linear(28*28, 1), opt_func=SGD, loss_func=mnist_loss, metrics=batch_accuracy)
    with learn.no_bar(), learn.no_logging(): learn.fit(20, lr=0.1)
    report(digits, 'linear model, Learner', learn.recorder.values[-1][2], 0.96, capsys)


def test_net_with_the_learner(digits, dls, capsys):
    net = nn.Sequential(nn.Linear(28*28, 30), nn.ReLU(), nn.Linear(30, 1))
    learn = Learner(dls, net, opt_func=SGD, loss_func=mnist_loss, metrics=batch_accuracy)
    with learn.no_bar(), learn.no_logging(): learn.fit(40, 0.1)
    report(digits, 'net, Learner', learn.recorder.values[-1][2], 0.98, capsys)


# ---- the parts, on numbers small enough to work out

def test_load_images(tmp_path):
    from PIL import Image
    for i,value in enumerate((255, 0)): Image.new('L', (4, 3), value).save(tmp_path/f'{i}.png')
    images = load_images(tmp_path)
    assert images.shape == (2, 3, 4) and images.dtype == torch.float32
    assert images[0].unique().tolist() == [1.] and images[1].unique().tolist() == [0.]


def test_distance_is_one_number_for_each_picture():
    black, white = torch.zeros(2, 2), torch.ones(2, 2)
    assert mnist_distance(black, white) == 1
    assert mnist_distance(torch.stack([black, white, white/4]), black).tolist() == [0, 1, 0.25]
    assert mnist_distance(torch.ones(5, 1, 2, 2), torch.zeros(3, 2, 2)).shape == (5, 3)


def test_sigmoid_is_pytorchs():
    x = torch.linspace(-20, 20, 101)
    assert torch.allclose(sigmoid(x), torch.sigmoid(x))


def test_loss_is_the_mean_distance_to_the_target():
    preds, targs = torch.tensor([[0.], [100.], [-100.]]), torch.tensor([[1], [1], [1]])
    assert torch.allclose(mnist_loss(preds, targs), torch.tensor((0.5 + 0 + 1)/3))
    assert torch.allclose(mnist_loss(preds, 1-targs), torch.tensor((0.5 + 1 + 0)/3))
    p, t = torch.randn(50, 1), torch.randint(2, (50, 1))
    assert torch.allclose(mnist_loss(p, t), F.l1_loss(p.sigmoid(), t.float()))


def test_accuracy():
    preds, targs = torch.tensor([[3.], [-0.1], [0.1], [-3.]]), torch.tensor([[1], [1], [0], [0]])
    assert batch_accuracy(preds, targs) == 0.5
    assert batch_accuracy(preds, torch.tensor([[1], [0], [1], [0]])) == 1


def test_params_are_random_tracked_and_of_the_given_size():
    set_seed(42)
    p = init_params((400, 100), std=0.5)
    assert p.shape == (400, 100) and p.requires_grad and p.is_leaf
    assert abs(p.std().item() - 0.5) < 0.01 and abs(p.mean().item()) < 0.01
    assert abs(init_params(10_000).std().item() - 1) < 0.05


def test_linear_model_is_nn_linear():
    model, theirs, x = LinearModel(7, 3), nn.Linear(7, 3), torch.randn(5, 7)
    theirs.weight.data, theirs.bias.data = model.weights.data.T, model.bias.data
    assert torch.allclose(model(x), theirs(x), atol=1e-6)


def test_simple_net_is_nn_sequential():
    net, x = SimpleNet(7, 2, hidden=4), torch.randn(5, 7)
    theirs = nn.Sequential(nn.Linear(7, 4), nn.ReLU(), nn.Linear(4, 2))
    for p,(q,turn) in zip(net.parameters(), zip(theirs.parameters(), (True, False, True, False))): q.data = p.data.T if turn else p.data
    assert len(list(net.parameters())) == 4
    assert torch.allclose(net(x), theirs(x), atol=1e-6)


def test_basic_optim_is_sgd():
    p = torch.tensor([1., 2.], requires_grad=True)
    q = p.detach().clone().requires_grad_()
    for params,opt in ((p, BasicOptim([p], lr=0.1)), (q, torch.optim.SGD([q], lr=0.1))):
        for _ in range(3):
            (params**2).sum().backward()
            opt.step()
            opt.zero_grad()
    assert torch.allclose(p, q) and p.grad is None


def test_basic_optim_goes_over_a_generator_more_than_once():
    layer = nn.Linear(2, 1)
    opt = BasicOptim(layer.parameters(), 0.1)
    layer(torch.ones(1, 2)).sum().backward()
    opt.step(); opt.zero_grad()
    assert all(p.grad is None for p in layer.parameters())


def test_the_parts_of_one_step():
    model = LinearModel(2, 1)
    learner = SimpleLearner(None, model)
    xb, yb = torch.tensor([[1., 2.]]), torch.tensor([[1]])
    before = model.weights.detach().clone()
    mnist_loss(model(xb), yb).backward()
    grad = model.weights.grad.clone()
    learner.opt.zero_grad()
    learner.opt.lr = 0.5
    learner.train_batch(xb, yb)
    assert torch.allclose(model.weights, before - 0.5*grad)
    assert model.weights.grad is None and model.bias.grad is None


def test_validation_weighs_batches_by_their_size():
    model = lambda xb: xb
    model.parameters = lambda: [torch.zeros(1)]
    x, y = torch.tensor([[1.], [1.], [1.], [-1.]]), torch.ones(4, 1)
    valid = DataLoader(list(zip(x, y)), batch_size=3)
    learner = SimpleLearner(DataLoaders(valid, valid), model)
    assert learner.validate_epoch() == 0.75


def test_train_model_keeps_the_metric_and_prints_the_last(capsys):
    set_seed(42)
    x = torch.randn(64, 2)
    y = (x[:, :1] > 0).long()
    dl = DataLoader(list(zip(x, y)), batch_size=16, shuffle=True)
    learner = SimpleLearner(DataLoaders(dl, dl), LinearModel(2, 1))
    learner.train_model(5, learning_rate=5.)
    assert f'{learner.values[-1]:.4f}' in capsys.readouterr().out
    assert len(learner.values) == 5 and learner.values[-1] > 0.9

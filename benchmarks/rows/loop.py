"""The training loop itself: a small convolutional net on pictures that are in memory already, so that what a library adds is loop and loader only."""
from rows import NAMES, lib
from tables import Floor, Measure

TITLE = 'The loop itself'
NOTE = ('A convolutional net of four layers on random pictures of 64×64, batches of 64, SGD; 2,560 pictures in memory, as one tensor each for pictures and labels, shuffled. '
        'Mean of all epochs of a fit but the first, no progress bar, without validation. The floor is the promised overhead of at most 3 %.')
BASE, RUNS = 'plain', 5
MEASURES = [Measure('epoch', 'epoch of 40 batches'), Measure('batch', 'batch')]
FLOORS = [Floor('epoch', 'ours', 'plain', at_most=1.03)]
N, SIZE, BATCH, EPOCHS, LR = 2560, 64, 64, 6, 0.01


def pictures():
    import torch
    return torch.rand(N, 3, SIZE, SIZE), torch.randint(0, 10, (N,))


def net():
    from torch import nn
    widths = [3, 32, 64, 128, 128]
    layers = [l for a, b in zip(widths, widths[1:]) for l in (nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


def work(contender, job):
    x, y = pictures()
    epochs = 3 if job.quick else EPOCHS
    seconds = plain(x, y, epochs, job.clock) if contender == 'plain' else library(lib(contender), x, y, epochs, job.clock)
    return {'epoch': seconds, 'batch': seconds/(N//BATCH)}


def library(lib, x, y, epochs, clock):
    import torch
    from torch.nn import functional as F
    stamps = []
    class Stamp(lib.Callback):
        order = 100
        def before_epoch(self): stamps.append(clock())
        def after_train(self): stamps.append(clock())
        def before_validate(self): raise lib.CancelValidException()
    train = lib.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=BATCH, shuffle=True)
    valid = lib.DataLoader(torch.utils.data.TensorDataset(x[:BATCH], y[:BATCH]), batch_size=BATCH)
    learn = lib.Learner(lib.DataLoaders(train, valid), net(), opt_func=lib.SGD, loss_func=F.cross_entropy, cbs=Stamp())
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, LR)
    return mean_but_first(stamps)


def plain(x, y, epochs, clock):
    import torch
    from torch.nn import functional as F
    model, stamps = net(), []
    opt = torch.optim.SGD(model.parameters(), lr=LR)
    model.train()
    for _ in range(epochs):
        stamps.append(clock())
        for idx in torch.randperm(len(x)).split(BATCH):
            loss = F.cross_entropy(model(x[idx]), y[idx])
            loss.backward()
            opt.step()
            opt.zero_grad()
        stamps.append(clock())
    return mean_but_first(stamps)


def mean_but_first(stamps):
    "Mean length of the epochs after the first; `stamps` holds the beginning and the end of each."
    lengths = [b - a for a, b in zip(stamps[::2], stamps[1::2])][1:]
    return sum(lengths)/len(lengths)

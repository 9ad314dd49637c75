"""Chapter 4's net on 3s and 7s: the loop and the loader are nearly all there is to pay for, since a batch is computed in a fraction of a millisecond."""
from rows import NAMES, lib
from tables import Floor, Measure

TITLE = "An epoch of chapter 4's net"
NOTE = ('`nn.Linear(784,30)` → ReLU → `nn.Linear(30,1)`, SGD, batches of 256, shuffled; the data set is `list(zip(x, y))`, as in the book, and 11,438 training rows '
        '(the 3s and 7s of the data named below, repeated). An epoch trains, validates and reports the accuracy. Mean of all epochs of a fit but the first. '
        'Plain PyTorch takes slices of a permutation of the same tensors.')
DATA = 'MNIST_SAMPLE'
BASE, RUNS = 'plain', 5
MEASURES = [Measure('epoch', 'epoch, no progress bar'), Measure('epoch_bar', 'epoch, progress bar in a terminal'), Measure('accuracy', 'accuracy after 11 epochs', '', True)]
FLOORS = [Floor('epoch', 'ours', 'plain', at_most=1.3), Floor('epoch', 'fastai', 'ours', at_least=3),
          Floor('epoch_bar', 'ours', 'plain', at_most=1.3), Floor('epoch_bar', 'fastai', 'ours', at_least=3)]
ROWS, BATCH, EPOCHS, LR = 11_438, 256, 11, 0.1


def digits(folder, rows=ROWS):
    "Training and validation tensors: `(n, 784)` from 0 to 1, and `(n, 1)` with 1 for a three."
    import numpy as np
    import torch
    from pathlib import Path
    from PIL import Image
    def part(name):
        files = {d: sorted((Path(folder)/name/d).glob('*.png')) for d in '37'}
        x = np.stack([np.asarray(Image.open(f).convert('L')) for d in '37' for f in files[d]])
        y = [float(d == '3') for d in '37' for _ in files[d]]
        return torch.tensor(x).float().view(-1, 28*28)/255, torch.tensor(y)[:, None]
    x, y = part('train')
    again = torch.arange(rows) % len(x)
    return x[again], y[again], *part('valid')


def digits_loss(preds, targs): return (preds.sigmoid() - targs).abs().mean()


def digits_accuracy(preds, targs): return ((preds > 0) == (targs > 0.5)).float().mean()


def net():
    from torch import nn
    return nn.Sequential(nn.Linear(28*28, 30), nn.ReLU(), nn.Linear(30, 1))


def work(contender, job):
    data = digits(job.data)
    epochs = 3 if job.quick else EPOCHS
    if contender == 'plain': return plain(*data, epochs, job.clock)
    stamps, learn = library(lib(contender), *data, job.clock)
    with learn.no_bar(): learn.fit(epochs, LR)
    found = {'epoch': per_epoch(stamps), 'accuracy': float(learn.recorder.values[-1][-1])}
    stamps.clear()
    learn.fit(epochs, LR)
    return {**found, 'epoch_bar': per_epoch(stamps)}


def library(lib, x, y, vx, vy, clock):
    "A learner as the book makes it, and the list in which it leaves the time at which each epoch begins."
    stamps = []
    class Stamp(lib.Callback):
        order = -100
        def before_epoch(self): stamps.append(clock())
        def after_fit(self): stamps.append(clock())
    train = lib.DataLoader(list(zip(x, y)), batch_size=BATCH, shuffle=True)
    valid = lib.DataLoader(list(zip(vx, vy)), batch_size=BATCH)
    return stamps, lib.Learner(lib.DataLoaders(train, valid), net(), opt_func=lib.SGD, loss_func=digits_loss, metrics=digits_accuracy, cbs=Stamp())


def per_epoch(stamps): return (stamps[-1] - stamps[1])/(len(stamps) - 2)


def plain(x, y, vx, vy, epochs, clock):
    import torch
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=LR)
    stamps = [clock()]
    for _ in range(epochs):
        model.train()
        order = torch.randperm(len(x))
        for i in range(0, len(x), BATCH):
            idx = order[i:i+BATCH]
            loss = digits_loss(model(x[idx]), y[idx])
            loss.backward()
            opt.step()
            opt.zero_grad()
        model.eval()
        with torch.no_grad():
            found = [(digits_loss(p, t).item(), digits_accuracy(p, t).item(), len(t))
                     for p, t in ((model(vx[i:i+BATCH]), vy[i:i+BATCH]) for i in range(0, len(vx), BATCH))]
        accuracy = sum(a*n for _, a, n in found)/len(vx)
        stamps.append(clock())
    return {'epoch': per_epoch(stamps), 'epoch_bar': per_epoch(stamps), 'accuracy': accuracy}

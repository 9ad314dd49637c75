"""Chapter 1's table: who earns 50,000 dollars? Epochs of a `tabular_learner`, in batches of 64 and of 1,024, and how often it is right in the end."""
from rows import NAMES, lib
from tables import Floor, Measure

TITLE = 'An epoch of a table'
NOTE = ('`TabularDataLoaders.from_df` with the columns of chapter 1 and `[Categorify, FillMissing, Normalize]`, 12,800 rows to train on and the last 6,561 to validate with, '
        '`tabular_learner(dls, metrics=accuracy)`, three epochs of `fit_one_cycle` with batches of 64 and three with batches of 1,024, no progress bar; a seed for each run. '
        'An epoch is training and validation, the mean of all but the first. Plain PyTorch trains the same model on the same tensors and fetches a batch by a permutation of the rows. '
        'A prediction is `learn.predict(row)`, median of 30.')
DATA = 'ADULT_SAMPLE'
BASE, RUNS = 'plain', 3
MEASURES = [Measure('epoch', 'epoch, batches of 64'), Measure('epoch_1024', 'epoch, batches of 1,024'), Measure('accuracy', 'accuracy, batches of 64', '', True),
            Measure('predict', 'predict'), Measure('prepare', 'from the frame to loaders')]
FLOORS = [Floor('epoch', 'fastai', 'ours', at_least=4), Floor('accuracy', 'ours', 'fastai', at_least=0.994), Floor('epoch', 'ours', 'plain', at_most=1.3)]
CATS, CONTS = ['workclass', 'education', 'marital-status', 'occupation', 'relationship', 'race'], ['age', 'fnlwgt', 'education-num']
ROWS, VALID, EPOCHS, LR = 12800, 6561, 3, 1e-3


def work(contender, job):
    ns = lib('ours' if contender == 'plain' else contender, 'tabular.all')
    df = people(ns, job.data)
    found = {}
    for bs, key in ((64, 'epoch'), (1024, 'epoch_1024')):
        ns.set_seed(job.run)
        begin = job.clock()
        dls = loaders(ns, df, bs)
        found.setdefault('prepare', job.clock() - begin)
        learn = ns.tabular_learner(dls, metrics=ns.accuracy)
        seconds, right = (plain if contender == 'plain' else library)(ns, learn, 2 if job.quick else EPOCHS, job.clock)
        found[key] = seconds
        if bs == 64: found |= {'accuracy': right, 'predict': predictions(learn, df, contender, job.clock)}
    return found


def people(ns, folder):
    import pandas as pd
    df = pd.read_csv(ns.Path(folder)/'adult.csv', skipinitialspace=True)
    return pd.concat([df[:ROWS], df[-VALID:]], ignore_index=True)


def loaders(ns, df, bs):
    return ns.TabularDataLoaders.from_df(df.copy(), y_names='salary', cat_names=list(CATS), cont_names=list(CONTS), procs=[ns.Categorify, ns.FillMissing, ns.Normalize],
                                         valid_idx=list(range(ROWS, len(df))), bs=bs)


def library(ns, learn, epochs, clock):
    stamps = []
    class Stamp(ns.Callback):
        order = 100
        def before_epoch(self): stamps.append(clock())
        def after_epoch(self): stamps.append(clock())
    learn.add_cb(Stamp())
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs)
    return mean_but_first(stamps), float(learn.recorder.values[-1][-1])


def plain(ns, learn, epochs, clock):
    from torch.nn import functional as F
    decay, rest = [p for p in learn.model.parameters() if p.ndim > 1], [p for p in learn.model.parameters() if p.ndim < 2]
    groups = [{'params': decay, 'weight_decay': 0.01}, {'params': rest, 'weight_decay': 0.}]
    loss = lambda preds, targs: F.cross_entropy(preds, targs[:, 0])
    right = lambda preds, targs: (preds.argmax(1) == targs[:, 0]).sum()
    return plain_epochs(learn, groups, LR, loss, right, epochs, clock)


def plain_epochs(learn, groups, lr, loss, score, epochs, clock):
    "Train `learn.model` on the tensors of its table without the library: seconds of an epoch, and the mean over the validation rows of what `score` sums up."
    import torch
    model, bs, stamps = learn.model, learn.dls.train.bs, []
    train, valid = learn.dls.train_ds.tensors(), learn.dls.valid_ds.tensors()
    n = len(train[0])
    opt = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99), eps=1e-5)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, lr, total_steps=epochs*(n//bs), pct_start=0.25, base_momentum=0.85)
    for _ in range(epochs):
        stamps.append(clock())
        model.train()
        for idx in torch.randperm(n).split(bs)[:n//bs]:
            *xs, targs = [o[idx] for o in train]
            loss(model(*xs), targs).backward()
            opt.step()
            opt.zero_grad()
            sched.step()
        model.eval()
        with torch.no_grad(): total = sum(score(model(*xs), targs).item() for *xs, targs in zip(*[o.split(bs) for o in valid]))
        stamps.append(clock())
    return mean_but_first(stamps), total/len(valid[0])


def predictions(learn, df, contender, clock, n=30):
    "Median time of a prediction; plain PyTorch has nothing that takes a row."
    if contender == 'plain': return None
    from statistics import median
    times = []
    with learn.no_bar(), learn.no_logging():
        for i in range(n):
            begin = clock()
            learn.predict(df.iloc[i])
            times.append(clock() - begin)
    return median(times)


def mean_but_first(stamps):
    "Mean length of the epochs after the first; `stamps` holds the beginning and the end of each."
    lengths = [b - a for a, b in zip(stamps[::2], stamps[1::2])][1:]
    return sum(lengths)/len(lengths)

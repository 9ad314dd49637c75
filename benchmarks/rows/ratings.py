"""Chapter 8's recommender: epochs of a `collab_learner` on a hundred thousand ratings, and how far off it is in the end."""
from rows import NAMES, lib
from rows.adult import library, plain_epochs
from tables import Floor, Measure

TITLE = 'An epoch of ratings'
NOTE = ("`CollabDataLoaders.from_df` with the columns of chapter 8, a fifth to validate with, `collab_learner(dls, n_factors=50, y_range=(0, 5.5), wd=0.1)`, three epochs of `fit_one_cycle` with a "
        'highest rate of 5e-3 and batches of 64, no progress bar; a seed for each run. An epoch is training and validation, the mean of all but the first. '
        'Plain PyTorch trains the same model on the same tensors and fetches a batch by a permutation of the rows. The error is the mean of squares.')
DATA = 'ML_100k'
BASE, RUNS = 'plain', 3
MEASURES = [Measure('epoch', 'epoch'), Measure('error', 'error', '', True), Measure('prepare', 'from the frame to loaders')]
FLOORS = [Floor('epoch', 'fastai', 'ours', at_least=3), Floor('epoch', 'ours', 'plain', at_most=1.3)]
EPOCHS, LR = 3, 5e-3


def work(contender, job):
    import pandas as pd
    name = 'ours' if contender == 'plain' else contender
    ns, collab = lib(name, 'tabular.all'), lib(name, 'collab')
    df = pd.read_csv(ns.Path(job.data)/'u.data', delimiter='\t', header=None, names=['user', 'movie', 'rating', 'timestamp'])
    if job.quick: df = df[:5000]
    ns.set_seed(job.run)
    begin = job.clock()
    dls = collab.CollabDataLoaders.from_df(df, bs=64)
    prepare = job.clock() - begin
    learn = collab.collab_learner(dls, n_factors=50, y_range=(0, 5.5), wd=0.1, lr=LR)
    seconds, error = (plain if contender == 'plain' else library)(ns, learn, 2 if job.quick else EPOCHS, job.clock)
    return {'epoch': seconds, 'error': error, 'prepare': prepare}


def plain(ns, learn, epochs, clock):
    from torch.nn import functional as F
    groups = [{'params': list(learn.model.parameters()), 'weight_decay': 0.1}]
    loss = lambda preds, targs: F.mse_loss(preds, targs[:, 0])
    squares = lambda preds, targs: F.mse_loss(preds, targs[:, 0], reduction='sum')
    return plain_epochs(learn, groups, LR, loss, squares, epochs, clock)

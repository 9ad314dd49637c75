"""Chapter 10's classifier on short film reviews: tokenising, and an epoch of AWD-LSTM from random weights."""
from rows import NAMES, lib
from tables import Floor, Measure

TITLE = 'Reviews'
NOTE = ('Film reviews of one sentence each. Tokens: `tokenize_df(df, "text")` over all 10,662, with as many processes as each library takes by itself (fastai cuts with spaCy). '
        'Epoch: `TextDataLoaders.from_df(…, bs=64)` over 2,000 reviews for training and 400 for validation, `text_classifier_learner(dls, AWD_LSTM, pretrained=False, config=…)` with two LSTMs of 300 and 200 features, '
        'a size that can be trained from nothing on so few texts; three epochs of `fit_one_cycle` without a progress bar, validation included; a seed for each run. '
        'In the size of the pretrained weights (three LSTMs of up to 1,152 features) nine tenths of the time are the matrix products of the LSTM, which are the same for everyone; what is left is measured on 8 batches. '
        'Plain PyTorch trains `nn.LSTM`s of the same sizes with dropout between them, the same pooling and head, on batches that are sorted and filled up already: without dropout of weights and words, and without regularisation.')
DATA = 'rt_polarity.tgz'
BASE, RUNS = 'fastai', 3
MEASURES = [Measure('epoch', 'epoch'), Measure('tokens', 'texts to tokens', 'texts/s', True), Measure('accuracy', 'accuracy at the end', '', True), Measure('large', 'batch in the full size')]
FLOORS = [Floor('epoch', 'fastai', 'ours', at_least=1.5), Floor('tokens', 'ours', 'fastai', at_least=5)]
BATCH, EPOCHS, LR = 64, 3, 3e-3
SMALL, FULL = dict(emb_sz=200, n_hid=300, n_layers=2), dict(emb_sz=400, n_hid=1152, n_layers=3)


def table(data, n_train=2000, n_valid=400):
    "The first reviews for training and the first for validation, of either mood as many."
    import pandas as pd
    df = pd.read_csv(f'{data}/texts.csv')
    parts = [df[(df.is_valid == valid) & (df.label == label)][:n//2] for valid, n in ((False, n_train), (True, n_valid)) for label in ('negative', 'positive')]
    return df, pd.concat(parts).reset_index(drop=True)


def work(contender, job):
    df, few = table(job.data, *((256, 64) if job.quick else ()))
    fewer, train = table(job.data, 512, 64)[1], plain if contender == 'plain' else library
    ns = lib('ours' if contender == 'plain' else contender, 'text.all')
    numbers = {} if contender == 'plain' else {'tokens': tokens(ns, df, job)}
    seconds, accuracy = train(ns, few, SMALL, 1 if job.quick else EPOCHS, job)
    return {**numbers, 'epoch': seconds, 'accuracy': accuracy, 'large': train(ns, fewer, FULL, 1, job)[0]/8}


def tokens(ns, df, job):
    from time import perf_counter # processor time would leave out what the processes do
    begin = perf_counter()
    ns.tokenize_df(df, 'text')
    return len(df)/(perf_counter() - begin)


def library(ns, df, config, epochs, job):
    "Seconds for an epoch, and the accuracy at the end."
    ns.set_seed(job.run)
    dls = ns.TextDataLoaders.from_df(df, text_col='text', label_col='label', valid_col='is_valid', bs=BATCH)
    learn = ns.text_classifier_learner(dls, ns.AWD_LSTM, pretrained=False, config={**ns.awd_lstm_clas_config, **config}, metrics=ns.accuracy)
    begin = job.clock()
    with learn.no_bar(): learn.fit_one_cycle(epochs, LR)
    return (job.clock() - begin)/epochs, float(learn.recorder.values[-1][-1])


def plain(ns, df, config, epochs, job):
    "The same in a loop of its own."
    import torch
    from torch.nn import functional as F
    torch.manual_seed(job.run)
    dls = ns.TextDataLoaders.from_df(df, text_col='text', label_col='label', valid_col='is_valid', bs=BATCH)
    train, valid = ([tuple(ns.plain(o)) for o in dl] for dl in dls)
    model = net(len(dls.vocab[0]), config)
    opt = torch.optim.Adam(model.parameters(), lr=LR, fused=True)
    begin = job.clock()
    for _ in range(epochs):
        model.train()
        for x, y in train:
            F.cross_entropy(model(x), y).backward()
            opt.step()
            opt.zero_grad()
        model.eval()
        with torch.no_grad(): right = sum(int((model(x).argmax(1) == y).sum()) for x, y in valid)
    return (job.clock() - begin)/epochs, right/sum(len(y) for _, y in valid)


def net(n_tokens, config):
    import torch
    from torch import nn
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            emb_sz, n_hid, n_layers = config.values()
            sizes = [emb_sz, *[n_hid]*(n_layers - 1), emb_sz]
            self.emb = nn.Embedding(n_tokens, emb_sz, padding_idx=1)
            self.rnns = nn.ModuleList(nn.LSTM(a, b, batch_first=True) for a, b in zip(sizes, sizes[1:]))
            self.drop = nn.Dropout(0.15)
            self.head = nn.Sequential(nn.BatchNorm1d(3*emb_sz), nn.Dropout(0.2), nn.Linear(3*emb_sz, 50, bias=False), nn.ReLU(), nn.BatchNorm1d(50), nn.Dropout(0.1), nn.Linear(50, 2, bias=False))
        def forward(self, x):
            there = (x != 1)[:, :, None]
            h = self.emb(x)
            for rnn in self.rnns: h = rnn(self.drop(h))[0]
            last = there.sum(1).clamp(min=1).flatten() - 1
            mean, top = (h*there).sum(1)/(last + 1)[:, None], h.masked_fill(~there, -torch.inf).amax(1)
            return self.head(torch.cat([h[torch.arange(len(h)), last], top, mean], 1))
    return Net()

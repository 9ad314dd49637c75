"""One prediction after another from a learner that was exported and loaded: photographs with a ResNet-18 and with a small net, rows of a table."""
from rows import NAMES, lib
from rows.pets import fresh_pictures, median_time
from tables import Floor, Measure

TITLE = 'Predictions of a loaded learner'
NOTE = ('`learn.export()`, `load_learner(…)`, then `predict` on the path of a photograph that was never opened before: a ResNet-18 at 224 pixels, and a net of three convolutions at 64; '
        'and on a row of a table, `df.iloc[i]`, six columns of categories and three of numbers. Untrained models; the median of 30 photographs, of 400 rows. Plain PyTorch opens, scales, cuts, normalises and '
        'classifies the photograph by hand; for the table it looks up each category in a dictionary, fills gaps and scales the numbers.')
DATA = 'PETS'
BASE, RUNS = 'plain', 3
MEASURES = [Measure('resnet', 'photograph, ResNet-18'), Measure('small', 'photograph, small net'), Measure('row', 'row of a table'), Measure('load', 'loading the ResNet-18')]
FLOORS = [Floor(key, 'ours', 'plain', at_most=1.2) for key in ('resnet', 'small', 'row')]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CATS, CONTS, ROWS = [f'category {i}' for i in range(6)], [f'number {i}' for i in range(3)], 400


def work(contender, job):
    import tempfile
    from pathlib import Path
    ns, tabular = (lib('ours' if contender == 'plain' else contender, module) for module in ('vision.all', 'tabular.all'))
    ns.set_seed(job.run)
    with tempfile.TemporaryDirectory() as folder:
        folder, found, df = Path(folder), {}, table()
        for key, size, make in (('resnet', 224, resnet), ('small', 64, small)):
            learn, seconds = again(ns, make(ns, photographs(ns, job.data, size), folder), job.clock)
            if key == 'resnet' and contender != 'plain': found['load'] = seconds
            predict = by_hand(learn.model, learn.dls.vocab, size) if contender == 'plain' else learn.predict
            found[key] = timed(learn, predict, job, fresh_pictures(job.data))
        learn, _ = again(tabular, tabular.tabular_learner(rows_of(tabular, df), path=folder), job.clock)
        predict = row_by_hand(learn) if contender == 'plain' else learn.predict
        return {**found, 'row': timed(learn, predict, job, None, [df.iloc[i] for i in range(ROWS)])}


def again(ns, learn, clock):
    "The learner from its file, and the seconds that took."
    learn.export('export.pkl')
    begin = clock()
    return ns.load_learner(learn.path/'export.pkl'), clock() - begin


def timed(learn, predict, job, pictures, items=None):
    from contextlib import nullcontext
    quiet = learn.no_bar() if hasattr(learn, 'no_bar') else nullcontext()
    with quiet, pictures or nullcontext(items) as items: return median_time(predict, items, job.clock)


def photographs(ns, folder, size):
    files = sorted(ns.get_image_files(ns.Path(folder)/'images'))[:400]
    return ns.ImageDataLoaders.from_name_re(folder, files, r'^(.+)_\d+\.\w+$', bs=16, item_tfms=ns.Resize(size), batch_tfms=[ns.Normalize.from_stats(MEAN, STD)])


def resnet(ns, dls, folder): return ns.vision_learner(dls, ns.resnet18, pretrained=False, path=folder)


def small(ns, dls, folder):
    from torch import nn
    convs = [o for i, n in ((3, 16), (16, 32), (32, 64)) for o in (nn.Conv2d(i, n, 3, stride=2, padding=1), nn.BatchNorm2d(n), nn.ReLU())]
    return ns.Learner(dls, nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, len(dls.vocab))), loss_func=ns.CrossEntropyLossFlat(), path=folder)


def table():
    import numpy as np
    import pandas as pd
    made = np.random.default_rng(0)
    df = pd.DataFrame({**{c: made.choice(['red', 'green', 'blue', 'grey'], ROWS) for c in CATS}, **{c: made.normal(size=ROWS) for c in CONTS}, 'class': made.choice(['low', 'high'], ROWS)})
    df.loc[40, CONTS[0]] = np.nan
    return df


def rows_of(ns, df):
    return ns.TabularDataLoaders.from_df(df.copy(), y_names='class', cat_names=list(CATS), cont_names=list(CONTS), procs=[ns.Categorify, ns.FillMissing, ns.Normalize],
                                         valid_idx=list(range(ROWS//2, ROWS)), bs=64)


def by_hand(model, vocab, size):
    "What one would write without a library, for one photograph."
    import numpy as np
    import torch
    from PIL import Image
    mean, std, vocab = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None], list(vocab)
    def predict(path):
        im = Image.open(path).convert('RGB')
        scale = size/min(im.size)
        im = im.resize([max(size, round(n*scale)) for n in im.size], Image.BILINEAR)
        x, y = (im.width - size)//2, (im.height - size)//2
        pixels = torch.from_numpy(np.array(im.crop((x, y, x + size, y + size)))).permute(2, 0, 1)[None].float()
        with torch.no_grad(): probs = model((pixels/255 - mean)/std).softmax(1)[0]
        idx = probs.argmax()
        return vocab[idx], idx, probs
    return predict


def row_by_hand(learn):
    "The same for a row of the table."
    import torch
    to, model, vocab = learn.dls.train_ds, learn.model, list(learn.dls.vocab)
    codes = [(c, {v: i for i, v in enumerate(to.procs.classes[c])}) for c in to.cat_names]
    fills, conts = to.procs.na_dict, list(to.cont_names)
    means, stds = (torch.tensor([d[c] for c in conts]) for d in (to.procs.means, to.procs.stds))
    def predict(row):
        row = dict(row)
        for c, v in fills.items():
            row[f'{c}_na'] = row[c] != row[c]
            if row[c] != row[c]: row[c] = v
        cats, numbers = torch.tensor([[ids.get(row[c], 0) for c, ids in codes]]), torch.tensor([[float(row[c]) for c in conts]])
        with torch.no_grad(): probs = model(cats, (numbers - means)/stds).softmax(1)[0]
        idx = probs.argmax()
        return vocab[idx], idx, probs
    return predict

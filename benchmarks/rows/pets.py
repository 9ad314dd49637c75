"""A ResNet from nothing: three epochs of pet breeds through data block, augmentation and learner; then single predictions and the memory it all took."""
from rows import NAMES as COMMON, lib
from rows.presizing import library, warm_files
from tables import Floor, Measure

TITLE = 'Three epochs of a ResNet-18'
NOTE = ('`vision_learner(dls, resnet18, pretrained=False)`, three epochs of `fit_one_cycle`, `Resize(256)` and `aug_transforms(size=128, min_scale=0.75)`, batches of 64, no progress bar; '
        'a seed for each run. Plain PyTorch gets the same model and three epochs of the same batches, taken from this package beforehand and held in memory, and computes in channels-last. '
        'A prediction is `learn.predict(path)` as one types it, on a picture that was never opened before, median of 30; plain PyTorch opens, scales and classifies it. '
        'Memory is the peak of the main process, and of the largest worker where there are any.')
DATA = 'PETS'
NAMES = {**COMMON, 'ours': 'this package, first time', 'ours-cached': 'this package, pictures cached'}
BASE, RUNS = 'plain', 3
MEASURES = [Measure('seconds', 'three epochs'), Measure('error', 'error at the end', ''), Measure('predict', 'predict'),
            Measure('memory', 'peak memory, main process', 'MB'), Measure('memory_worker', 'peak memory, worker', 'MB')]
FLOORS = [Floor('seconds', 'fastai', 'ours', at_least=1.4), Floor('seconds', 'fastai', 'ours-cached', at_least=1.4),
          Floor('seconds', 'ours', 'plain', at_most=1.1), Floor('seconds', 'ours-cached', 'plain', at_most=1.1), Floor('predict', 'ours', 'fastai', at_most=0.5)]
SIZE, OUT, BATCH, EPOCHS, LR = 256, 128, 64, 3, 3e-3


def work(contender, job):
    warm_files(job.data)
    ns = lib('ours' if contender == 'plain' else contender)
    ns.set_seed(job.run)
    dls = library(ns, job.data, SIZE, OUT, BATCH)
    learn = ns.vision_learner(dls, ns.resnet18, pretrained=False, metrics=ns.error_rate)
    epochs = 1 if job.quick else EPOCHS
    if contender == 'plain': return plain(learn.model, dls, epochs, job)
    begin = job.clock()
    with learn.no_bar(): learn.fit_one_cycle(epochs, LR)
    seconds = job.clock() - begin
    found = {'seconds': seconds, 'error': float(learn.recorder.values[-1][-1]), **memory(workers(dls.train))}
    with fresh_pictures(job.data) as files:
        return {**found, 'predict': median_time(learn.predict, files, job.clock)}


def plain(model, dls, epochs, job):
    import torch
    from torch.nn import functional as F
    keep = lambda dl: [(x.as_subclass(torch.Tensor).contiguous(memory_format=torch.channels_last), y.as_subclass(torch.Tensor)) for x, y in dl]
    train, valid = [keep(dls.train) for _ in range(epochs)], keep(dls.valid)
    model = model.to(memory_format=torch.channels_last)
    opt = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.99), eps=1e-5, weight_decay=0.01)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, LR, total_steps=sum(map(len, train)), pct_start=0.25, base_momentum=0.85)
    begin = job.clock()
    for batches in train:
        model.train()
        for x, y in batches:
            F.cross_entropy(model(x), y).backward()
            opt.step()
            opt.zero_grad()
            sched.step()
        model.eval()
        with torch.no_grad(): wrong = sum((model(x).argmax(1) != y).sum().item() for x, y in valid)
    seconds = job.clock() - begin
    with fresh_pictures(job.data) as files, torch.no_grad():
        return {'seconds': seconds, 'error': wrong/sum(len(y) for _, y in valid), 'predict': median_time(lambda f: model(picture(f)).softmax(1).max(), files, job.clock)}


def picture(path):
    "One picture as a batch of one, normalised as the model expects it."
    import numpy as np
    import torch
    from PIL import Image
    pixels = np.asarray(Image.open(path).convert('RGB').resize((OUT, OUT), Image.BILINEAR))
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()/255
    return (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None])/torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def fresh_pictures(folder, n=35):
    "Copies of `n` photographs under new names in a folder that goes away: `with fresh_pictures(folder) as files`."
    import shutil
    import tempfile
    from contextlib import contextmanager
    from pathlib import Path
    @contextmanager
    def copies():
        with tempfile.TemporaryDirectory() as new:
            yield [shutil.copy(f, Path(new)/f'new_{i}{f.suffix}') for i, f in enumerate(sorted((Path(folder)/'images').glob('*_1*.jpg'))[:n])]
    return copies()


def median_time(f, files, clock, warm_up=5):
    "Median seconds of `f(file)`, the first few left out."
    from statistics import median
    def timed(file):
        begin = clock()
        f(file)
        return clock() - begin
    return median([timed(file) for file in files][warm_up:])


def workers(dl):
    "How many processes make the items of the loader `dl`."
    return getattr(dl, 'fake_l', dl).num_workers


def memory(workers):
    "Peak resident memory so far, in MB: of this process, and of the largest worker it has had, if it has `workers`."
    import resource
    import sys
    unit = 2**20 if sys.platform == 'darwin' else 2**10
    peak = lambda who: resource.getrusage(who).ru_maxrss/unit
    return {'memory': peak(resource.RUSAGE_SELF), 'memory_worker': peak(resource.RUSAGE_CHILDREN) if workers else None}


def report(results, names):
    "Mean error over the seeds."
    from statistics import mean
    errors = {c: [r['error'] for r in runs] for c, runs in results.items() if runs}
    return 'Mean error over the seeds: ' + ', '.join(f'{names[c]} {mean(e):.3f}' for c, e in errors.items()) + '.'

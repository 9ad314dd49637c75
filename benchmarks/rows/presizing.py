"""Presizing: photographs decoded, resized to 460 and, as a batch, turned, zoomed, warped, lit and cut to 224."""
from rows import NAMES, lib
from tables import Floor, Measure

TITLE = 'Presizing 460 → 224'
NOTE = ('`Resize(460)` on items and `aug_transforms(size=224, min_scale=0.75)` on batches of 64, with the loaders as `dataloaders` makes them (2 cores, so fastai uses 2 workers); '
        'training pictures a second, three passes in one process. No library has anything cached before the first pass; the files are in the system\'s cache. '
        'Plain PyTorch: torchvision\'s `v2` transforms on items, in 2 workers.')
DATA = 'PETS'
BASE, RUNS = 'fastai', 5
MEASURES = [Measure('first', 'first epoch', 'pictures/s', True), Measure('later', 'later epochs', 'pictures/s', True)]
FLOORS = [Floor('first', 'ours', 'fastai', at_least=4), Floor('later', 'ours', 'fastai', at_least=8)]
SIZE, OUT, BATCH, EPOCHS = 460, 224, 64, 3
STATISTICS = {'mean': 'mean of a picture', 'std': 'standard deviation within a picture', 'detail': 'mean step between neighbouring pixels', 'dark': 'share of pixels below 0.02'}
APART = 3   # standard errors that twelve comparisons may well be apart by chance


def breed(path): return path.name.rsplit('_', 1)[0]


def work(contender, job):
    warm_files(job.data)
    dl = plain(job.data) if contender == 'plain' else library(lib(contender), job.data).train
    speeds, facts = [], []
    for _ in range(2 if job.quick else EPOCHS):
        n, spent, begin = 0, 0., job.clock()
        for xb, _ in dl:
            n += len(xb)
            spent += job.clock() - begin
            facts.append(statistics(xb))
            begin = job.clock()
        speeds.append(n/(spent + job.clock() - begin))
    later = speeds[1:]
    return {'first': speeds[0], 'later': sum(later)/len(later), 'pictures': n, **summary(facts)}


def library(lib, folder, size=SIZE, out=OUT, bs=BATCH):
    "The data block of chapter 5."
    pets = lib.DataBlock(blocks=(lib.ImageBlock, lib.CategoryBlock), get_items=lib.get_image_files, splitter=lib.RandomSplitter(seed=42), get_y=breed,
                         item_tfms=lib.Resize(size), batch_tfms=lib.aug_transforms(size=out, min_scale=0.75))
    return pets.dataloaders(lib.Path(folder)/'images', bs=bs)


def plain(folder):
    "The same in torchvision's words: the usual training transforms, one picture at a time, in two workers."
    import torch
    from pathlib import Path
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms import v2
    tfms = v2.Compose([v2.Resize(SIZE), v2.CenterCrop(SIZE), v2.PILToTensor(), v2.RandomHorizontalFlip(), v2.RandomAffine(10, scale=(1, 1.1)), v2.RandomPerspective(0.2, 0.75),
                       v2.RandomResizedCrop(OUT, scale=(0.75, 1)), v2.ToDtype(torch.float32, scale=True), v2.ColorJitter(0.2, 0.2)])
    class Pictures(Dataset):
        def __init__(self): self.files = training_files(Path(folder)/'images')
        def __len__(self): return len(self.files)
        def __getitem__(self, i): return tfms(Image.open(self.files[i]).convert('RGB')), 0
    return DataLoader(Pictures(), batch_size=BATCH, shuffle=True, drop_last=True, num_workers=2)


def training_files(folder):
    "Four fifths of the pictures, by chance but always the same."
    import torch
    files = sorted(folder.glob('*.jpg'))
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(42))
    return [files[i] for i in order[:round(0.8*len(files))]]


def warm_files(folder):
    "Read every picture once, so that nobody waits for the disk."
    from pathlib import Path
    for f in Path(folder).rglob('*.jpg'): f.read_bytes()


def statistics(xb):
    "For each picture and channel of a batch `(bs, 3, h, w)`, 0 to 1: mean, spread, sharpness and share of dark pixels, as four tensors `(bs, 3)`."
    import torch
    x = xb.as_subclass(torch.Tensor)
    step = (x[..., 1:] - x[..., :-1]).abs().mean((2, 3)) + (x[..., 1:, :] - x[..., :-1, :]).abs().mean((2, 3))
    return {'mean': x.mean((2, 3)), 'std': x.std((2, 3)), 'detail': step/2, 'dark': (x < 0.02).float().mean((2, 3))}


def summary(facts):
    "Mean over all pictures seen, by channel, and the standard error of that mean (taking passes over one picture for one observation)."
    import torch
    found = {}
    for key in STATISTICS:
        v = torch.cat([f[key] for f in facts])
        seen = min(len(v), 448)
        found[key] = v.mean(0).tolist()
        found[f'{key}_error'] = (v.std(0)/seen**0.5).tolist()
    return found


def report(results, names):
    "The pixel statistics side by side, and how far apart the two libraries are."
    from tables import markdown
    found, rows = {c: average(runs) for c, runs in results.items() if runs and c != 'plain'}, []
    for key, label in STATISTICS.items():
        rows += [[label, names[c], *(f'{m:.4f} ± {e:.4f}' for m, e in zip(f[key], f[f'{key}_error']))] for c, f in found.items()]
    text = 'What comes out, by channel (mean over the pictures ± its standard error):\n\n' + markdown(['statistic', 'by', 'red', 'green', 'blue'], rows)
    if len(found) < 2: return text
    apart, where = furthest_apart(found['ours'], found['fastai'])
    return f'{text}\n\nFurthest apart: {where}, by {apart:.1f} standard errors ({"within" if apart <= APART else "**more than**"} the {APART} that count as noise for {3*len(STATISTICS)} numbers).'


def average(runs):
    "Mean over the runs of one contender, for every list of numbers that they report."
    return {k: [sum(c)/len(runs) for c in zip(*(r[k] for r in runs))] for k, v in runs[0].items() if isinstance(v, list)}


def furthest_apart(a, b):
    "The largest difference between two contenders' statistics in standard errors, and the name of that statistic."
    def errors(key): return max(abs(x - y)/max((ex**2 + ey**2)**0.5, 1e-9) for x, y, ex, ey in zip(a[key], b[key], a[f'{key}_error'], b[f'{key}_error']))
    return max((errors(key), label) for key, label in STATISTICS.items())

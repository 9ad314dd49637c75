"""Presizing: photographs decoded, resized to 460 and, as a batch, turned, zoomed, warped, lit and cut to 224."""
from rows import NAMES, lib
from tables import Floor, Measure

TITLE = 'Presizing 460 → 224'
NOTE = ('`Resize(460)` on items and `aug_transforms(size=224, min_scale=0.75)` on batches of 64, with the loaders as `dataloaders` makes them (on 2 cores fastai then uses 2 workers); '
        'training pictures a second, three passes in one process. No library has anything cached before the first pass; the files are in the system\'s cache. '
        'Plain PyTorch: torchvision\'s `v2` transforms on items, in 2 workers.')
DATA = 'PETS'
BASE, RUNS = 'fastai', 5
MEASURES = [Measure('first', 'first epoch', 'pictures/s', True), Measure('later', 'later epochs', 'pictures/s', True)]
FLOORS = [Floor('first', 'ours', 'fastai', at_least=4), Floor('later', 'ours', 'fastai', at_least=8)]
SIZE, OUT, BATCH, EPOCHS = 460, 224, 64, 3
STATISTICS = {'mean': 'mean of a picture', 'std': 'standard deviation within a picture', 'detail': 'mean step between neighbouring pixels', 'dark': 'share of pixels below 0.02'}
JUDGED, APART, PASSES = ('mean', 'std'), 3, 6   # statistics that a sharper picture leaves alone; standard errors that they may be apart by chance; passes it takes to say


def breed(path): return path.name.rsplit('_', 1)[0]


def held_out(path):
    "Whether a picture is for validation: a fifth of them, by their names, so that every contender has the same."
    from zlib import crc32
    return crc32(path.name.encode()) % 5 == 0


def work(contender, job):
    import torch
    warm_files(job.data)
    dl = plain(job.data) if contender == 'plain' else library(lib(contender), job.data).train
    speeds, facts = [], []
    for _ in range(2 if job.quick else EPOCHS):
        n, spent, pictures, begin = 0, 0., [], job.clock()
        for xb, _ in dl:
            n += len(xb)
            spent += job.clock() - begin
            pictures.append(statistics(xb))
            begin = job.clock()
        speeds.append(n/(spent + job.clock() - begin))
        facts.append({key: torch.cat([p[key] for p in pictures]).mean(0).tolist() for key in STATISTICS})
    later = speeds[1:]
    return {'first': speeds[0], 'later': sum(later)/len(later), **{key: [f[key] for f in facts] for key in STATISTICS}}


def library(lib, folder, size=SIZE, out=OUT, bs=BATCH):
    "The data block of chapter 5."
    pets = lib.DataBlock(blocks=(lib.ImageBlock, lib.CategoryBlock), get_items=lib.get_image_files, splitter=lib.FuncSplitter(held_out), get_y=breed,
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
        def __init__(self): self.files = [f for f in sorted((Path(folder)/'images').glob('*.jpg')) if not held_out(f)]
        def __len__(self): return len(self.files)
        def __getitem__(self, i): return tfms(Image.open(self.files[i]).convert('RGB')), 0
    return DataLoader(Pictures(), batch_size=BATCH, shuffle=True, drop_last=True, num_workers=2)


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


def report(results, names):
    "The pixel statistics side by side, and how far apart the two libraries are."
    from tables import markdown
    found, rows = {c: average(runs) for c, runs in results.items() if runs and c != 'plain'}, []
    for key, label in STATISTICS.items():
        rows += [[label, names[c], *(f'{m:.4f} ± {e:.4f}' for m, e in f[key])] for c, f in found.items()]
    text = 'What comes out, by channel (mean over all passes ± its standard error):\n\n' + markdown(['statistic', 'by', 'red', 'green', 'blue'], rows)
    if set(found) != {'ours', 'fastai'}: return text
    apart, where = furthest_apart(found['ours'], found['fastai'])
    passes = min(sum(len(r['mean']) for r in results[c]) for c in found)
    verdict = f'too few passes ({passes}) to judge' if passes < PASSES else 'within noise' if apart <= APART else f'**more than** the {APART} that count as noise'
    sharper = found['ours']['detail'][1][0]/found['fastai']['detail'][1][0] - 1
    return (f'{text}\n\nMean and standard deviation are furthest apart in the {where}: {apart:.1f} standard errors, {verdict}. '
            f'Neighbouring pixels differ by {sharper:+.0%} (and there are more of the darkest): fastai shrinks the whole batch by 3 % with an area filter before it samples '
            '(460/224 is a little over 2), which blurs; this package samples at once.')


def average(runs):
    "For each statistic, the mean over all passes of all runs of one contender and its standard error, one pair for each channel."
    from statistics import mean, stdev
    found = {}
    for key in STATISTICS:
        channels = zip(*(means for r in runs for means in r[key]))
        found[key] = [(mean(c), stdev(c)/len(c)**0.5) for c in channels]
    return found


def furthest_apart(a, b):
    "The largest difference between two contenders in standard errors, and the name of that statistic."
    def errors(key): return max(abs(x - y)/max((ex**2 + ey**2)**0.5, 1e-9) for (x, ex), (y, ey) in zip(a[key], b[key]))
    return max((errors(key), label) for key, label in STATISTICS.items() if key in JUDGED)

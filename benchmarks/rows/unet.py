"""Segmentation as in the book's first chapter: a U-Net over a ResNet-18 on street scenes, from nothing."""
from rows import LIBRARIES as NAMES, lib
from rows.presizing import warm_files
from tables import Floor, Measure

TITLE = 'An epoch of a U-Net'
NOTE = ('`SegmentationDataLoaders.from_label_func(path, bs=16, …)` at 96 × 128 with `aug_transforms()`, normalised as for pretrained weights, `unet_learner(dls, resnet18, pretrained=False)`, one epoch of `fit_one_cycle` without a '
        'progress bar; a seed for each run.')
DATA = 'CAMVID_TINY'
BASE, RUNS = 'fastai', 3
MEASURES = [Measure('epoch', 'epoch')]
FLOORS = [Floor('epoch', 'fastai', 'ours', at_least=1.3)]
SIZE, BATCH = (96, 128), 16


def work(contender, job):
    warm_files(job.data)
    ns = lib(contender)
    ns.set_seed(job.run)
    learn = ns.unet_learner(streets(ns, ns.Path(job.data), 40 if job.quick else None), ns.resnet18, pretrained=False)
    begin = job.clock()
    with learn.no_bar(): learn.fit_one_cycle(1, 1e-3)
    return {'epoch': job.clock() - begin}


def streets(ns, path, n):
    "The book's loaders, of the first `n` pictures or of all."
    import numpy as np
    return ns.SegmentationDataLoaders.from_label_func(
        path, bs=BATCH, fnames=ns.get_image_files(path/'images').sorted()[:n], seed=42, codes=np.loadtxt(path/'codes.txt', dtype=str),
        label_func=lambda o: path/'labels'/f'{o.stem}_P{o.suffix}', item_tfms=ns.Resize(SIZE, method='squish'), batch_tfms=[*ns.aug_transforms(), ns.Normalize.from_stats(*ns.imagenet_stats)])

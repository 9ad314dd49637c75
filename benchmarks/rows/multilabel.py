"""Chapter 6's data block on street scenes with six labels: rows of a table, several labels each, an epoch of a ResNet-18 from nothing."""
from rows import LIBRARIES as NAMES, lib
from rows.presizing import warm_files
from tables import Floor, Measure

TITLE = 'An epoch with several labels'
NOTE = ('`DataBlock(blocks=(ImageBlock, MultiCategoryBlock), get_x=ColReader(…), get_y=ColReader(…, label_delim=" "), splitter=ColSplitter())` over a data frame, '
        '`RandomResizedCrop(128, min_scale=0.35)` on items as in the book, batches of 64, normalised as for pretrained weights, `vision_learner(dls, resnet18, pretrained=False, metrics=accuracy_multi)`, three epochs of '
        '`fit_one_cycle` without a progress bar; a seed for each run. The time is the mean of the three, the first one included.')
DATA = 'camvid_multilabel.tgz'
BASE, RUNS = 'fastai', 3
MEASURES = [Measure('epoch', 'epoch'), Measure('accuracy', 'accuracy at the end', '', True)]
FLOORS = [Floor('epoch', 'fastai', 'ours', at_least=1.5)]
SIZE, BATCH, EPOCHS, LR = 128, 64, 3, 3e-3


def work(contender, job):
    warm_files(job.data)
    ns = lib(contender)
    ns.set_seed(job.run)
    learn = ns.vision_learner(scenes(ns, job.data), ns.resnet18, pretrained=False, metrics=ns.accuracy_multi)
    epochs = 1 if job.quick else EPOCHS
    begin = job.clock()
    with learn.no_bar(): learn.fit_one_cycle(epochs, LR)
    return {'epoch': (job.clock() - begin)/epochs, 'accuracy': float(learn.recorder.values[-1][-1])}


def scenes(ns, folder):
    "The data block of chapter 6."
    import pandas as pd
    df = pd.read_csv(ns.Path(folder)/'train.csv', keep_default_na=False)
    block = ns.DataBlock(blocks=(ns.ImageBlock, ns.MultiCategoryBlock), splitter=ns.ColSplitter(), get_x=ns.ColReader('fname', pref=f'{folder}/train/'),
                         get_y=ns.ColReader('labels', label_delim=' '), item_tfms=ns.RandomResizedCrop(SIZE, min_scale=0.35),
                         batch_tfms=ns.Normalize.from_stats(*ns.imagenet_stats))
    return block.dataloaders(df, bs=BATCH)

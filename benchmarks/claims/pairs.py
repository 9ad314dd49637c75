"""Chapter 15's pairs of photographs: is it the same breed? A Siamese network over EfficientNet-Lite0, pretrained and from scratch.

    python benchmarks/claims/pairs.py
    python benchmarks/claims/pairs.py --scratch no        # a minute

The pretrained encoder stays frozen. The features of each photograph are computed once, and the head learns from new pairs in every epoch.
From scratch, encoder and head learn from the photographs. A fifth of the photographs is held out, and its pairs are fixed.
"""
from common import ARCH, arguments, breed_of, data, measured


def main():
    args = arguments(__doc__.splitlines()[0], size=224, epochs=30, scratch='yes', scratch_size=128, scratch_epochs=5)
    from fastbook_impl.course.claims import claim
    path = data('PETS')
    pretrained = [measured('pairs, pretrained', seed, frozen, path, seed, args)[0] for seed in args.seeds]
    claim('pairs of photographs: accuracy with a pretrained encoder', pretrained, at_least=0.9, data=path, needs_real=True)
    if args.scratch == 'no': return
    scratch = [measured('pairs, from scratch', seed, from_scratch, path, seed, args)[0] for seed in args.seeds]
    claim('pairs of photographs: points of accuracy that pretraining brings', [100*(a - b) for a, b in zip(pretrained, scratch)], at_least=10, data=path, needs_real=True)


def frozen(path, seed, args):
    "The accuracy on the held-out pairs with a frozen pretrained encoder."
    from fastbook_impl.vision.all import (CrossEntropyLossFlat, DataLoader, DataLoaders, ImageDataLoaders, Learner, Resize, accuracy, create_head, feature_learner,
                                          get_image_files, set_seed, vision_learner)
    set_seed(seed)
    dls = ImageDataLoaders.from_path_func(path, get_image_files(path/'images').sorted(), breed_of, valid_pct=0.2, seed=seed, item_tfms=Resize(args.size, method='squish'), bs=32)
    features = feature_learner(vision_learner(dls, ARCH, train_bn=False))
    train, valid = [Pairs(*dl.dataset.tensors, fixed) for dl, fixed in zip(features.dls, (False, True))]
    pairs = DataLoaders(DataLoader(train, bs=32, shuffle=True, drop_last=True), DataLoader(valid, bs=64), path=path)
    learn = Learner(pairs, Comparison(create_head(4*1280, 2, pool=False)), loss_func=CrossEntropyLossFlat(), metrics=accuracy)
    with learn.no_logging(): learn.fit_one_cycle(args.epochs, 1e-3)
    return float(learn.recorder.values[-1][-1])


class Pairs:
    "Features of a photograph and of another one, of the same breed in half of the cases; 1 if it is the same. `fixed` pairs never change."
    def __init__(self, features, breeds, fixed):
        self.features, self.breeds, self.breed_list = features, breeds, breeds.tolist()
        self.of_breed = {b: [i for i, o in enumerate(self.breed_list) if o == b] for b in set(self.breed_list)}
        self.partners = [self.partner(i) for i in range(len(breeds))] if fixed else None

    def __len__(self): return len(self.features)

    def __getitem__(self, i):
        import torch
        j = self.partners[i] if self.partners else self.partner(i)
        return self.features[i], self.features[j], torch.tensor(int(self.breed_list[i] == self.breed_list[j]))

    def partner(self, i):
        import random
        same, breed = random.random() < 0.5, self.breed_list[i]
        if not same: breed = random.choice([b for b in self.of_breed if b != breed])
        return random.choice([j for j in self.of_breed[breed] if j != i])


def Comparison(head):
    "The judgment of `SiameseComparer` on two rows of features: the head sees their differences and their products."
    import torch
    from torch import nn
    class Comparison(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = head
        def forward(self, a, b): return self.head(torch.cat([(a - b).abs(), a*b], dim=1))
    return Comparison()


def from_scratch(path, seed, args):
    "The accuracy on the held-out pairs of a network that starts from random weights."
    from fastbook_impl.course.siamese import SiameseComparer, SiameseTransform, siamese_loss, siamese_splitter
    from fastbook_impl.vision.all import (IntToFloatTensor, Learner, Normalize, RandomSplitter, Resize, TfmdLists, ToTensor, accuracy, arch_meta, create_body,
                                          create_head, get_image_files, set_seed)
    set_seed(seed)
    files = get_image_files(path/'images').sorted()
    splits = RandomSplitter(0.2, seed=seed)(files)
    tls = TfmdLists(files, SiameseTransform(files, breed_of, splits), splits=splits)
    dls = tls.dataloaders(bs=32, after_item=[Resize(args.scratch_size), ToTensor], after_batch=[IntToFloatTensor, Normalize.from_stats(*arch_meta(ARCH)['stats'])])
    model = SiameseComparer(create_body(ARCH, pretrained=False), create_head(4*1280, 2, pool=False))
    learn = Learner(dls, model, loss_func=siamese_loss, splitter=siamese_splitter, metrics=accuracy)
    with learn.no_logging(): learn.fit_one_cycle(args.scratch_epochs, 3e-3)
    return float(learn.recorder.values[-1][-1])


if __name__ == '__main__': main()

"""Chapter 15's pairs of photographs: is it the same breed? A Siamese network over EfficientNet-Lite0, pretrained and from scratch.

    python benchmarks/claims/pairs.py
"""
import re

from common import arguments, say, timed

ARCH = 'tf_efficientnet_lite0'


def main():
    args = arguments(__doc__.splitlines()[0], size=160, epochs=4)
    from fastbook_impl.course.claims import claim, data_card
    from fastbook_impl.vision.all import URLs, untar_data
    path = untar_data(URLs.PETS)
    print(data_card(path))
    found = {'pretrained': [], 'from scratch': []}
    for seed in range(args.seeds):
        for kind in found:
            accuracy, wall, cpu = timed(accuracy_of, path, seed, args, kind == 'pretrained')
            say(f'pairs, {kind}', seed, accuracy, wall, cpu)
            found[kind].append(accuracy)
    claim('pairs of photographs: accuracy with a pretrained encoder', found['pretrained'], at_least=0.9, data=path, needs_real=True)


def accuracy_of(path, seed, args, pretrained):
    "The accuracy on the pairs of the held-out fifth, which are fixed."
    from fastbook_impl.course.siamese import SiameseComparer, SiameseTransform, siamese_loss, siamese_splitter
    from fastbook_impl.vision.all import (IntToFloatTensor, Learner, Normalize, RandomSplitter, Resize, TfmdLists, ToTensor, accuracy, arch_meta, create_body,
                                          create_head, get_image_files, set_seed)
    set_seed(seed)
    files = get_image_files(path/'images').sorted()
    splits = RandomSplitter(0.2, seed=seed)(files)
    tls = TfmdLists(files, SiameseTransform(files, lambda f: re.match(r'(.*)_\d+.jpg$', f.name)[1], splits), splits=splits)
    dls = tls.dataloaders(bs=32, after_item=[Resize(args.size), ToTensor], after_batch=[IntToFloatTensor, Normalize.from_stats(*arch_meta(ARCH)['stats'])])
    encoder = create_body(ARCH, pretrained=pretrained)
    model = SiameseComparer(encoder, create_head(4*1280, 2, pool=False))
    learn = Learner(dls, model, loss_func=siamese_loss, splitter=siamese_splitter, metrics=accuracy)
    with learn.no_bar(), learn.no_logging():
        if pretrained: learn.fine_tune(args.epochs)
        else: learn.fit_one_cycle(args.epochs + 1, 3e-3)
    return float(learn.validate()[1])


if __name__ == '__main__': main()

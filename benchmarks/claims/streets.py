"""A U-Net over EfficientNet-Lite0 on the mirror's street scenes, a whole drive held out, pretrained and from scratch.

    python benchmarks/claims/streets.py
"""
from collections import Counter
from functools import partial

from common import ARCH, arguments, data, measured

VOID = 11  # the class of pixels without a label, which are not counted


def main():
    args = arguments(__doc__.splitlines()[0], epochs=5, height=96, width=128)
    from fastbook_impl.course.claims import claim
    path = data('CAMVID_TINY')
    drives = Counter(drive(f) for f in (path/'images').iterdir())
    held_out = min((d for d in drives if drives[d] >= 15), key=drives.get)
    print(f'held out: the drive {held_out}, {drives[held_out]} of {sum(drives.values())} scenes', flush=True)
    found = {kind: [measured(f'street scenes, {kind}', seed, accuracy_of, path, seed, args, held_out, kind == 'pretrained')[0] for seed in args.seeds]
             for kind in ('pretrained', 'from scratch')}
    gains = [100*(a - b) for a, b in zip(*found.values())]
    claim('street scenes: points of pixel accuracy that pretraining brings on a drive never seen', gains, at_least=5, data=path, needs_real=True)


def drive(file): return file.name.rpartition('_')[0]


def accuracy_of(path, seed, args, held_out, pretrained):
    "The fraction of right pixels on the drive held out, Void not counted."
    import numpy as np
    from fastbook_impl.losses import CrossEntropyLossFlat
    from fastbook_impl.vision.all import DataBlock, FuncSplitter, ImageBlock, MaskBlock, aug_transforms, foreground_acc, get_image_files, set_seed, unet_learner
    set_seed(seed)
    codes = np.loadtxt(path/'codes.txt', dtype=str)
    block = DataBlock((ImageBlock, MaskBlock(codes[:VOID], void=VOID)), get_items=lambda p: get_image_files(p/'images').sorted(), splitter=FuncSplitter(lambda f: drive(f) == held_out),
                      get_y=lambda f: path/'labels'/f'{f.stem}_P{f.suffix}', batch_tfms=aug_transforms(size=(args.height, args.width)))
    learn = unet_learner(block.dataloaders(path, bs=8), ARCH, pretrained=pretrained, loss_func=CrossEntropyLossFlat(axis=1, ignore_index=VOID),
                         metrics=partial(foreground_acc, bkg_idx=VOID))
    with learn.no_logging():
        if pretrained: learn.fine_tune(args.epochs)
        else: learn.fit_one_cycle(args.epochs + 1, 2e-3)
    return float(learn.recorder.values[-1][-1])


if __name__ == '__main__': main()

"""Fine-tuning EfficientNet-Lite0 on the mirror's 600 photographs of pets, a random fifth held out, beside training from scratch.

    python benchmarks/claims/pets.py                      # three seeds, 224 pixels, three epochs
    python benchmarks/claims/pets.py --seeds 1 --size 128
"""
import re

from common import arguments, say, timed

ARCH = 'tf_efficientnet_lite0'


def main():
    args = arguments(__doc__.splitlines()[0], size=224, epochs=3)
    from fastbook_impl.course.claims import claim, data_card
    from fastbook_impl.vision.all import URLs, untar_data
    path = untar_data(URLs.PETS)
    print(data_card(path))
    tasks = {'cat or dog': (lambda f: 'cat' if f.name[0].isupper() else 'dog', 0.01), 'three breeds': (lambda f: re.match(r'(.*)_\d+.jpg$', f.name)[1], 0.04)}
    for task, (label, bound) in tasks.items():
        errors = {kind: [] for kind in ('fine-tuned', 'from scratch')}
        for seed in range(args.seeds):
            for kind in errors:
                error, wall, cpu = timed(error_of, path, label, seed, args, pretrained=kind == 'fine-tuned')
                say(f'{task}, {kind}', seed, error, wall, cpu)
                errors[kind].append(error)
        claim(f'{task}: error of {ARCH} after fine_tune({args.epochs}) at {args.size} pixels', errors['fine-tuned'], at_most=bound, data=path, needs_real=True)
        claim(f'{task}: points of error that pretraining saves', [100*(b - a) for a, b in zip(*errors.values())], at_least=5, data=path, needs_real=True)


def error_of(path, label, seed, args, pretrained):
    "The error on the held-out fifth after training."
    from fastbook_impl.vision.all import ImageDataLoaders, Resize, error_rate, get_image_files, set_seed, vision_learner
    set_seed(seed)
    dls = ImageDataLoaders.from_path_func(path, get_image_files(path/'images').sorted(), label, valid_pct=0.2, seed=seed, item_tfms=Resize(args.size), bs=32)
    learn = vision_learner(dls, ARCH, pretrained=pretrained, metrics=error_rate)
    with learn.no_bar(), learn.no_logging():
        if pretrained: learn.fine_tune(args.epochs)
        else: learn.fit_one_cycle(args.epochs + 1, 3e-3)
    return float(learn.validate()[1])


if __name__ == '__main__': main()

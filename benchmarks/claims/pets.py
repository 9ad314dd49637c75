"""Fine-tuning EfficientNet-Lite0 on the mirror's 600 photographs of pets, a random fifth held out, beside training from scratch.

    python benchmarks/claims/pets.py                                        # three seeds, 224 pixels, three epochs
    python benchmarks/claims/pets.py --seeds 1 --task breeds --scratch no

Training from scratch takes as many epochs, with the labels of the breeds. Its error for cat or dog counts a wrong breed of the right animal as right.
"""
from common import ARCH, arguments, breed_of, data, measured, species_of

TASKS = {'cat or dog': (species_of, 0.01), 'three breeds': (breed_of, 0.04)}


def main():
    args = arguments(__doc__.splitlines()[0], size=224, epochs=3, task='all', scratch='yes')
    path = data('PETS')
    tasks = {k: v for k, v in TASKS.items() if args.task == 'all' or args.task in k}
    if not tasks: raise SystemExit(f'there is no task {args.task!r}: use all, cat or breeds')
    tuned = {task: [measured(f'{task}, fine-tuned', seed, fine_tuned, path, label, seed, args) for seed in args.seeds] for task, (label, _) in tasks.items()}
    scratch = [measured('from scratch', seed, from_scratch, path, seed, args)[0] for seed in args.seeds if args.scratch == 'yes']
    for task, (_, bound) in tasks.items(): check(task, bound, tuned[task], [o[task] for o in scratch], path, args)


def check(task, bound, tuned, scratch, path, args):
    from fastbook_impl.course.claims import claim
    errors, seconds = zip(*tuned)
    claim(f'{task}: error after fine_tune({args.epochs}) at {args.size} pixels', errors, at_most=bound, data=path, needs_real=True)
    claim(f'{task}: seconds of fine_tune({args.epochs}), half of the processor time, for two cores', [o/2 for o in seconds], at_most=180, data=path, needs_real=True)
    if scratch: claim(f'{task}: points of error that pretraining saves', [100*(b - a) for a, b in zip(errors, scratch)], at_least=5, data=path, needs_real=True)


def loaders(path, label, seed, args):
    "Photographs squeezed to a square, so that no part of an animal is cut off, and flipped at random in training."
    from fastbook_impl.vision.all import Flip, ImageDataLoaders, Resize, get_image_files, set_seed
    set_seed(seed)
    return ImageDataLoaders.from_path_func(path, get_image_files(path/'images').sorted(), label, valid_pct=0.2, seed=seed, item_tfms=Resize(args.size, method='squish'),
                                           batch_tfms=Flip(), bs=32)


def fine_tuned(path, label, seed, args):
    "The error on the held-out fifth."
    from fastbook_impl.vision.all import error_rate, vision_learner
    learn = vision_learner(loaders(path, label, seed, args), ARCH, metrics=error_rate)
    with learn.no_logging(): learn.fine_tune(args.epochs)
    return float(learn.recorder.values[-1][-1])


def from_scratch(path, seed, args):
    "The errors on the held-out fifth, by task."
    from fastbook_impl.vision.all import vision_learner
    dls = loaders(path, breed_of, seed, args)
    learn = vision_learner(dls, ARCH, pretrained=False)
    with learn.no_logging(): learn.fit_one_cycle(args.epochs + 1, 3e-3)
    preds, targets = learn.get_preds()
    found, cats = preds.argmax(1), [breed[0].isupper() for breed in dls.vocab]
    return {'cat or dog': sum(cats[a] != cats[b] for a, b in zip(found.tolist(), targets.tolist()))/len(targets),
            'three breeds': float((found != targets).float().mean())}


if __name__ == '__main__': main()

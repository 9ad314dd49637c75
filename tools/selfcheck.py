"""Train chapter 4's classifier on the built-in digits: seconds that show whether everything fits together.

    python tools/selfcheck.py           # train, say how well, and fail below 0.95
    python tools/selfcheck.py --once    # only if this package has not passed yet, with these settings
    python tools/selfcheck.py --dry     # train, and leave no note of it
"""
import hashlib
import json
import os
import sys
import time
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
PASSED = ROOT/'.venv'/'fastbook-selfcheck.json'
FLOOR, EPOCHS = 0.95, 10


def steps(bar):
    "The self-check in small steps, so that the bar moves from the start: libraries, data, epochs."
    bar.set_description('loading PyTorch')
    import torch
    from torch import nn
    from fastbook_impl.data.external import URLs, untar_data
    from fastbook_impl.data.load import DataLoader, DataLoaders
    from fastbook_impl.learner import Learner
    from fastbook_impl.callback.core import Callback
    from fastbook_impl.callback import progress  # noqa: F401 (gives the learner `no_logging`)
    from fastbook_impl.course.mnist_basics import batch_accuracy, mnist_loss
    from fastbook_impl.optimizer import SGD
    from fastbook_impl.torch_core import set_seed
    bar.update()

    bar.set_description('reading digits')
    path = untar_data(URLs.MNIST_SAMPLE)
    train, valid = digits(path/'train'), digits(path/'valid')
    dls = DataLoaders(DataLoader(train, bs=64, shuffle=True), DataLoader(valid, bs=256))
    bar.update()

    class Tick(Callback):
        def after_epoch(self): bar.update()

    bar.set_description('training')
    set_seed(42)
    torch.set_num_threads(1)  # a net this small is not worth sharing out
    net = nn.Sequential(nn.Linear(28*28, 30), nn.ReLU(), nn.Linear(30, 1))
    learn = Learner(dls, net, loss_func=mnist_loss, opt_func=SGD, metrics=batch_accuracy, cbs=Tick)
    with learn.no_logging(): learn.fit(EPOCHS, 1.)
    return float(learn.recorder.values[-1][2]), len(train), len(valid)


def digits(folder):
    "Pairs of a flat picture and its answer, 1 for a 3 and 0 for a 7."
    import torch
    from fastbook_impl.course.mnist_basics import load_images
    threes, sevens = load_images(folder/'3'), load_images(folder/'7')
    x = torch.cat([threes, sevens]).view(-1, 28*28)
    y = torch.tensor([1]*len(threes) + [0]*len(sevens)).unsqueeze(1)
    return list(zip(x, y))


def fingerprint():
    "What the self-check depends on: the package's text, and what is installed."
    files = [*sorted((ROOT/'fastbook_impl').rglob('*.py')), ROOT/'.venv'/'fastbook-setup.json', Path(__file__)]
    text = b''.join(o.read_bytes() for o in files if o.exists())
    return hashlib.sha256(text).hexdigest()


def passed_before(wanted):
    try: found = json.loads(PASSED.read_text())
    except (OSError, ValueError): return None
    return found['said'] if found.get('fingerprint') == wanted else None


def main(args):
    wanted = fingerprint()
    said = passed_before(wanted) if '--once' in args else None
    if said:
        print(f'{said} (checked before; again with: make selfcheck)')
        return 0
    os.environ['FASTBOOK_DATA'] = 'sample'
    start = time.time()
    with tqdm(total=2 + EPOCHS, leave=False, bar_format='{desc:<16} |{bar:30}|') as bar:
        try: accuracy, n_train, n_valid = steps(bar)
        except Exception as e:
            if '--once' not in args: raise
            bar.close()
            print(f'The self-check failed ({type(e).__name__}: {e}); make selfcheck shows where, make test says more.', file=sys.stderr)
            return 1
    said = f'Self-check: accuracy {accuracy:.3f} on {n_valid} handwritten 3s and 7s, learned from {n_train}, in {time.time()-start:.1f} s'
    print(said)
    if accuracy < FLOOR:
        print(f'That is below {FLOOR}: something is wrong with this installation; make test says more.', file=sys.stderr)
        return 1
    if '--dry' not in args and PASSED.parent.exists(): PASSED.write_text(json.dumps({'fingerprint': wanted, 'said': said}))
    return 0


if __name__ == '__main__':
    try: sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt: sys.exit('\nStopped.')

"""What the claims share: the mirror's data, the options, and times."""
import argparse
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault('FASTBOOK_MIRROR', str(ROOT.parent/'shared'/'data'))
os.environ.setdefault('FASTBOOK_DATA', 'real')
ARCH = 'tf_efficientnet_lite0'


def arguments(about, **defaults):
    "Parse the number of seeds, and numbers that a quick look may lower."
    p = argparse.ArgumentParser(description=about)
    p.add_argument('--seeds', type=int, default=3, help='number of seeds (default: 3)')
    p.add_argument('--first-seed', type=int, default=0, help='first of the seeds (default: 0)')
    for name, value in defaults.items():
        p.add_argument(f'--{name.replace("_", "-")}', type=type(value), default=value, help=f'(default: {value})')
    args = p.parse_args()
    args.seeds = range(args.first_seed, args.first_seed + args.seeds)
    return args


def data(name):
    "Return the folder of a data set after printing its card."
    from fastbook_impl.course.claims import data_card
    from fastbook_impl.data.external import URLs, untar_data
    path = untar_data(getattr(URLs, name))
    print(data_card(path), flush=True)
    return path


def measured(what, seed, f, *args, **kwargs):
    "Print and return the result of `f`, and its processor time in seconds, which depends less on other programs than the time on the clock."
    wall, cpu = time.perf_counter(), time.process_time()
    result = f(*args, **kwargs)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f'{what}, seed {seed}: {_text(result)}   ({wall:.0f} s, {cpu:.0f} s of processor time)', flush=True)
    return result, cpu


def _text(o): return ', '.join(f'{k} {v:.4f}' for k, v in o.items()) if isinstance(o, dict) else f'{o:.4f}'



def breed_of(file): return file.name.rpartition('_')[0]


def species_of(file): return 'cat' if file.name[0].isupper() else 'dog'

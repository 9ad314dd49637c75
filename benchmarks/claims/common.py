"""What the claims share: the mirror's data, seeds and times."""
import argparse
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault('FASTBOOK_MIRROR', str(ROOT.parent/'shared'/'data'))
os.environ.setdefault('FASTBOOK_DATA', 'auto')


def arguments(about, **defaults):
    "Seeds, and the numbers that a quick look may lower."
    p = argparse.ArgumentParser(description=about)
    p.add_argument('--seeds', type=int, default=3)
    for name, value in defaults.items(): p.add_argument(f'--{name}', type=type(value), default=value)
    return p.parse_args()


def timed(f, *args, **kwargs):
    "The result of a call, its seconds, and the processor seconds of this process."
    wall, cpu = time.perf_counter(), time.process_time()
    result = f(*args, **kwargs)
    return result, time.perf_counter() - wall, time.process_time() - cpu


def say(name, seed, value, wall, cpu): print(f'{name}, seed {seed}: {value:.4f}   ({wall:.0f} s, {cpu:.0f} s of processor time)', flush=True)

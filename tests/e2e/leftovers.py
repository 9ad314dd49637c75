"""Run notebooks one after the other in this process, as `nbdev_test` does, and report what each one leaves behind.

    python tests/e2e/leftovers.py nbs/library/2_data/07_core.ipynb nbs/library/6_text/02_data.ipynb

The variables of a notebook are gone when it ends. What may stay are changes to objects that the next notebook uses too: methods of
the package's classes, registries, settings of PyTorch and Matplotlib, environment variables, the working directory.

These changes are harmless and not reported:

- caches, which hold what would be found again;
- a function that a cell defined again, if it does the same as before (`does_the_same`);
- a version registered for a class of the notebook, since nobody else has objects of that class;
- a method of tensors such as `rotate`, which makes a transform, uses it and drops it (`TEMPORARY`).
"""
import dis
import importlib
import os
import pkgutil
import re
import sys
import threading
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = 'fastbook_impl'
MAX_DEPTH = 3
CACHES = re.compile(r'\.(_found|_caches|_told|_silent|_device|_loaded|__slotnames__|_orig_\w+)\b|^environment KMP_|\.parallel\._pools\b')
TEMPORARY = re.compile(r'\.Tensor\w+\.(rotate|zoom|warp|flip_batch|dihedral_batch|brightness|contrast|saturation|hue)$')
CONSTANTS = (int, float, str, bytes, bool, type(None), type(...))


def load_everything():
    "Import all modules of the package and start a first shell, so that no import counts as a change."
    import requests  # noqa: F401  (this one and the next two add filters of warnings)
    import scipy.special  # noqa: F401
    import sklearn.metrics  # noqa: F401
    from execnb.shell import CaptureShell
    package = importlib.import_module(PACKAGE)
    for info in pkgutil.walk_packages(package.__path__, f'{PACKAGE}.'): importlib.import_module(info.name)
    CaptureShell().run('import matplotlib.pyplot as plt; plt.figure(); plt.close()')


# --- the state of the package: what its names stand for

def shared_classes():
    "Classes of other libraries to which the package or a notebook may add methods."
    import ipywidgets
    import torch
    from fastcore.foundation import L
    from PIL import Image
    return [Path, type(Path()), L, Image.Image, ipywidgets.FileUpload, torch.Tensor, torch.nn.Module, torch.optim.Optimizer]


def is_ours(o): return str(getattr(o, '__module__', '')).split('.')[0] == PACKAGE


def record(state, name, o, depth=0):
    "Note what the name `name` stands for, and what is inside if the package owns it. Objects are kept, so identities stay valid."
    state[name] = o
    if depth >= MAX_DEPTH or CACHES.search(name): return
    if isinstance(o, dict):
        for k, v in list(o.items()): record(state, f'{name}[{k!r:.120}]', v, depth+1)
    elif isinstance(o, (list, tuple)):
        for i, v in enumerate(o): record(state, f'{name}[{i}]', v, depth+1)
    elif not isinstance(o, (type, types.FunctionType, types.ModuleType)) and is_ours(type(o)):
        for k, v in list(getattr(o, '__dict__', {}).items()): record(state, f'{name}.{k}', v, depth+1)


def record_class(state, name, cls):
    state[name] = cls
    for k, v in list(vars(cls).items()):
        if not k.startswith('_abc') and k not in ('__dict__', '__weakref__', '__doc__'): record(state, f'{name}.{k}', v, 1)


def package_state():
    "A dictionary from dotted names to objects: all variables of the package's modules and all attributes of its classes."
    state, seen = {}, set()
    for mod_name, mod in sorted(sys.modules.items()):
        if mod_name.split('.')[0] != PACKAGE or mod is None: continue
        for k, v in list(vars(mod).items()):
            if k.startswith('__') or isinstance(v, types.ModuleType): continue
            name = f'{mod_name}.{k}'
            if isinstance(v, type) and v.__module__ == mod_name: record_class(state, name, v)
            elif id(v) in seen and not isinstance(v, CONSTANTS): state[name] = v  # what is inside is noted where it was seen first
            else:
                seen.add(id(v))
                record(state, name, v) if is_ours(type(v)) or isinstance(v, (list, dict, tuple)) else state.update({name: v})
    for cls in shared_classes(): record_class(state, f'{cls.__module__}.{cls.__qualname__}', cls)
    return state


def process_state():
    "Settings that belong to the process, by name, as text."
    import matplotlib
    import numpy as np
    import pandas as pd
    import torch
    import warnings
    from fastcore.basics import defaults
    state = {'threads of PyTorch': torch.get_num_threads(), 'dtype of PyTorch': torch.get_default_dtype(),
             'device of PyTorch': torch.get_default_device(), 'deterministic': torch.are_deterministic_algorithms_enabled(),
             'gradients': torch.is_grad_enabled(), 'matmul precision': torch.get_float32_matmul_precision(),
             'cudnn': (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic), 'working directory': os.getcwd(),
             'errors of NumPy': np.geterr(), 'printing of NumPy': np.get_printoptions(),
             'printing of PyTorch': vars(torch._tensor_str.PRINT_OPTS),
             'filters of warnings': sorted({str(f) for f in warnings.filters})}
    state.update({f'pandas {k}': pd.get_option(k) for k in ('display.max_colwidth', 'display.max_rows', 'display.max_columns')})
    state.update({f'environment {k}': v for k, v in os.environ.items() if k not in ('IN_TEST', 'COLUMNS', 'LINES')})
    state.update({f'rcParams {k}': v for k, v in matplotlib.rcParams.items() if k != 'backend'})
    state.update({f'fastcore default {k}': v for k, v in vars(defaults).items()})
    return {k: repr(v) for k, v in state.items()}


# --- whether a change matters

def does_the_same(old, new, seen=None):
    """True if `new`, made by running the code of `old` again, cannot be told from `old` by those who use it.

    Functions must have the same code, and all they refer to must be the same, or do the same. A class that was defined again is
    another class: `isinstance` and `is` tell them apart. Only classes of nothing but constants are compared by content.
    """
    seen = set() if seen is None else seen
    if old is new or (id(old), id(new)) in seen: return True
    seen.add((id(old), id(new)))
    def same(a, b): return does_the_same(a, b, seen)
    if type(old) is not type(new): return False
    if isinstance(old, CONSTANTS): return old == new
    if isinstance(old, types.FunctionType):
        return (same(old.__code__, new.__code__) and same(old.__defaults__, new.__defaults__) and same(old.__kwdefaults__, new.__kwdefaults__)
                and same(contents(old.__closure__), contents(new.__closure__))
                and all(same(old.__globals__.get(k), new.__globals__.get(k)) for k in names_in(old.__code__)))
    if isinstance(old, types.CodeType):
        return instructions(old) == instructions(new) and same(old.co_consts, new.co_consts)
    if isinstance(old, (list, tuple)): return len(old) == len(new) and all(map(same, old, new))
    if isinstance(old, dict): return old.keys() == new.keys() and all(same(old[k], new[k]) for k in old)
    if isinstance(old, property): return all(same(getattr(old, k), getattr(new, k)) for k in ('fget', 'fset', 'fdel'))
    if isinstance(old, (staticmethod, classmethod)): return same(old.__func__, new.__func__)
    if isinstance(old, type):
        a, b = ({k: v for k, v in vars(o).items() if not k.startswith('__')} for o in (old, new))
        return bool(a) and all(isinstance(v, CONSTANTS) for v in a.values()) and a == b
    if isinstance(old, (types.ModuleType, re.Pattern)): return old == new
    if isinstance(old, threading.local): return True  # scratch memory
    if hasattr(old, '__wrapped__'): return same(old.__wrapped__, new.__wrapped__)  # a function with a cache
    return hasattr(old, '__dict__') and not isinstance(old, (frozenset, set)) and same(vars(old), vars(new))


def contents(cells): return tuple(c.cell_contents for c in cells or ())


def instructions(code):
    "What `code` does, step by step. Python compiles calls of methods of imported modules in another way where the import is in the same file."
    return [(i.opname.replace('LOAD_METHOD', 'LOAD_ATTR'), i.argval if isinstance(i.argval, str) else None)
            for i in dis.get_instructions(code) if i.opname not in ('PUSH_NULL', 'NOP')]


def names_in(code):
    "The names that `code`, and the functions inside it, look up among the variables of their module."
    names = {i.argval for i in dis.get_instructions(code) if i.opname in ('LOAD_GLOBAL', 'LOAD_NAME')}
    return names.union(*(names_in(c) for c in code.co_consts if isinstance(c, types.CodeType)))


def differences(before, after):
    "What matters: a dictionary from names to the words that say what happened to them."
    words = {}
    for k in sorted(before.keys() | after.keys()):
        if CACHES.search(k) or TEMPORARY.search(k): continue
        if k not in after: words[k] = 'removed'
        elif k not in before:
            if not ('.versions[' in k and "<class '__main__." in k): words[k] = 'added'
        elif isinstance(before[k], (list, dict)) and type(before[k]) is type(after[k]) and before[k] is after[k]: continue  # compared by content
        elif not does_the_same(before[k], after[k]): words[k] = f'changed: {short(before[k])} -> {short(after[k])}'
    return words


def short(o):
    module = getattr(o, '__module__', None)
    return f'{module}.{o.__qualname__}' if isinstance(o, (type, types.FunctionType)) else f'{o!r:.80}'


# --- running notebooks

def run_notebook(path):
    "Run the notebook `path` in this process the way `nbdev_test` does: whether it passed, and the seconds it took."
    from nbdev.config import get_config
    from nbdev.test import test_nb
    return test_nb(Path(path).absolute(), skip_flags=get_config().tst_flags.split(), basepath=get_config().config_path)


def run_and_compare(path):
    "Run one notebook: whether it passed, its seconds, and the differences it makes to the package and the process."
    before, settings = package_state(), process_state()
    passed, seconds = run_notebook(path)
    return passed, seconds, {**differences(before, package_state()), **differences(settings, process_state())}


def main(paths):
    load_everything()
    bad = 0
    for path in paths:
        passed, seconds, left = run_and_compare(path)
        bad += not passed or bool(left)
        print(f'{"passed" if passed else "FAILED"} {seconds:6.1f} s  {path}', flush=True)
        for k, v in left.items(): print(f'    leaves {k}: {v}', flush=True)
    return bad


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))

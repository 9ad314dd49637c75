"""The benchmarks, one module each. A row says what it measures, who takes part and which floors hold; `work` does the work in a process of its own.

The two libraries run the same function: `lib(contender)` imports the namespace of one or of the other, nothing else differs."""
import importlib

LIBRARY = {'ours': 'fastbook_impl', 'fastai': 'fastai'}
NAMES = {'plain': 'plain PyTorch', 'ours': 'this package', 'fastai': 'fastai'}
LIBRARIES = {k: NAMES[k] for k in LIBRARY}
ORDER = ['imports', 'ch4', 'loop', 'presizing', 'pets', 'finetune', 'multilabel', 'siamese', 'unet', 'text', 'adult', 'ratings', 'predict']


def load(name:str):
    "The row called `name`."
    return importlib.import_module(f'rows.{name}')


def lib(contender:str, module:str='vision.all'):
    "The namespace that a reader gets from `from <library>.<module> import *`."
    return importlib.import_module(f'{LIBRARY[contender.split("-")[0]]}.{module}')

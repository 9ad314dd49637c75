"""How long a fresh process takes to import what a notebook's first line imports. The files are in the system's cache."""
from tables import Floor, Measure

TITLE = 'Import'
NOTE = ('Each import in a fresh process, after one that warms the file cache; measured inside the process, so the start of Python itself is not counted. '
        'All are given relative to `import torch` alone.')
NAMES = {'torch': '`import torch`', 'torch_core': '`from fastbook_impl.torch_core import *`', 'ours': '`from fastbook_impl.vision.all import *`',
         'fastai': '`from fastai.vision.all import *`'}
CODE = {'torch': 'import torch', 'torch_core': 'import fastbook_impl\nfrom fastbook_impl.torch_core import *',
        'ours': 'from fastbook_impl.vision.all import *', 'fastai': 'from fastai.vision.all import *'}
BASE, RUNS, WARM_UP = 'torch', 5, True
MEASURES = [Measure('seconds', 'import')]
FLOORS = [Floor('seconds', 'torch_core', 'torch', at_most=1.2), Floor('seconds', 'ours', 'torch', at_most=1.3)]


def work(contender, job):
    space = {}
    start = job.clock()
    exec(CODE[contender], space)
    return {'seconds': job.clock() - start}

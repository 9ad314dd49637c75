"""Mutate the descriptions of model files and load them, under a canary: `python fuzz_model_files.py jobs.json 5000`. Audit hooks stay, so this runs in a process of its own."""
import copy
import json
import os
import random
import sys
from pathlib import Path

NEVER = ('exec', 'compile', 'subprocess.Popen', 'os.system', 'os.exec', 'os.posix_spawn', 'os.fork', 'os.forkpty', 'os.remove', 'os.rename', 'os.mkdir', 'os.rmdir', 'os.chmod', 'os.putenv',
         'shutil.rmtree', 'shutil.move', 'shutil.copyfile', 'pickle.find_class', 'ctypes.dlopen', 'marshal.loads', 'code.__new__', 'function.__new__', 'builtins.input', 'sys.settrace', 'webbrowser.open')
songs, watching = [], False


def canary(event, args):
    if not watching: return
    writes = event == 'open' and (any(c in str(args[1]) for c in 'wax+') if args[1] else args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    new = event == 'import' and args[0] not in sys.modules
    if event in NEVER or writes or new or event.startswith('socket.'): songs.append([event, str(args)[:200]])


def self_check():
    "Do what must not happen, and print what was seen."
    global watching
    import socket
    import subprocess
    import tempfile
    watching = True
    eval(compile('1 + 1', 'x', 'eval'))
    open(Path(tempfile.mkdtemp())/'x', 'w').close()
    os.system('true')
    subprocess.run(['true'])
    socket.socket().close()
    import wave  # noqa: F401 (no other module needs it)
    watching = False
    print(json.dumps(sorted({event for event, _ in songs})))


DUNDERS = ['__class__', '__dict__', '__annotations__', '__reduce__', '__globals__', '__init__', '__call__', 'eval', 'train', 'forward', 'training', '_modules', '_forward_hooks', 'encodes', '_funcs', 'open']
VALUES = [None, True, False, 0, -1, 1, 2, 1.5, 10**9, 2**63, 10**40, -10**12, 1e308, {'float': 'nan'}, {'float': 'inf'}, '', 'x', 'x'*5000, 'name', '__class__', '../../etc/passwd', [], {}, [[]], [0], {'tuple': []},
          {'same': 0}, {'same': 3}, {'same': 10**9}, {'same': -1}, {'class': 'nn.ReLU', 'inplace': True}, {'class': 'os.system'}, {'class': ['nn.ReLU']}, {'yours': 'PairModel', 'fields': {}},
          {'yours': 'halved', 'fields': {}}, {'function': 'eval'}, {'function': 'str'}, {'function': 'tanh'}, {'your_function': 'eval'}, {'your_function': 'halved'},
          {'partial': {'function': 'str'}, 'args': ['x'], 'kwargs': []}, {'partial': {'your_function': 'exec'}, 'args': ['1'], 'kwargs': [['__x', 1]]},
          {'using_attr': {'function': 'parent_label'}, 'attr': '__globals__'}, {'using_attr': {'function': 'parent_label'}, 'attr': 'name'}, {'class': 'AttrGetter', 'nm': 'open', 'default': None},
          {'class': 'AttrGetter', 'nm': 'name', 'default': None}, {'class': 'ItemGetter', 'i': '__globals__'}, {'class': 'ColReader', 'cols': ['__class__'], 'pref': '', 'suff': '', 'label_delim': None},
          {'class': 'RegexLabeller', 'pat': ['((a*)*)*b', 0], 'match': True}, {'class': 'nn.Linear', 'in_features': 10**9, 'out_features': 10**9, 'bias': True}]


def nested(o, n):
    for _ in range(n): o = {'class': 'nn.Sequential', 'layers': [['0', o]]} if n % 2 else [o]
    return o


def containers(o):
    "All dictionaries and lists in `o`."
    if isinstance(o, (dict, list)):
        if o: yield o
        for v in (o.values() if isinstance(o, dict) else o): yield from containers(v)


def mutate(about, tensors, rng):
    "Change one thing, or a few, of a description; now and then its tensors."
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        places = list(containers(about))
        o = rng.choice(places)
        keys = list(o) if isinstance(o, dict) else list(range(len(o)))
        k, kind = rng.choice(keys), rng.randrange(11)
        if kind < 4: o[k] = copy.deepcopy(rng.choice(VALUES))
        elif kind == 4: del o[k]
        elif kind == 5 and isinstance(o, dict): o[rng.choice(DUNDERS)] = copy.deepcopy(rng.choice(VALUES))
        elif kind == 5: o.insert(rng.randrange(len(o) + 1), copy.deepcopy(rng.choice(VALUES)))
        elif kind == 6: o[k] = copy.deepcopy(rng.choice(places))
        elif kind == 7: o[k] = nested(o[k], rng.choice([1, 3, 70]))
        elif kind == 8 and isinstance(o, dict): o[rng.choice(DUNDERS + list(o))] = o.pop(k)
        elif kind == 8: o.append(copy.deepcopy(o[k]))
        elif kind == 9 and type(o[k]) in (int, float): o[k] = rng.choice([o[k] + 1, -o[k], o[k]*10**6, 2**40, str(o[k])])
        elif kind == 9: o[k] = copy.deepcopy(rng.choice(VALUES))
        elif len(tensors) > 1:
            a, b = rng.sample(sorted(tensors), 2)
            if rng.random() < .5: tensors[a], tensors[b] = tensors[b], tensors[a]
            else: tensors[a + rng.choice(['', 'x'])] = tensors[b] if rng.random() < .5 else tensors.pop(a)[:0]


def main(jobs, n):
    global watching
    import resource
    import torch
    from model_files import NAMES, as_plain
    from fastbook_impl.inference import ModelFileError, load_learner
    from fastbook_impl.inference.format import read_export, write_export
    from fastbook_impl.inference.registry import FUNCTIONS, LOADERS, SPECS, TYPES, listed
    import pandas, timm, torchvision, PIL.Image, tokenizers  # noqa: F401 (imported by the loader when a file needs them)
    for names in (FUNCTIONS, LOADERS, TYPES):
        for name in names: listed(names, name)
    for spec in SPECS.values(): spec.load()
    PIL.Image.init()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (24 << 30, 24 << 30))
    jobs = [(Path(f), tuple(item) if isinstance(item, list) else item) for f, item in json.loads(Path(jobs).read_text())]
    for file, item in jobs:
        for _ in range(2): load_learner(file, names=NAMES).predict(item)
    good = [(file, item, as_plain(load_learner(file, names=NAMES).predict(item)), *read_export(file)) for file, item in jobs]
    ends, foreign, raised = {}, [], {}
    sys.addaudithook(canary)
    for i in range(n):
        rng = random.Random(i)
        file, item, want, about, tensors = rng.choice(good)
        about, tensors = copy.deepcopy(about), dict(tensors)
        try: mutate(about, tensors, rng)
        except (IndexError, KeyError): pass
        tensors = {k: t.clone() for k, t in tensors.items()}
        bad = write_export(file.with_name('mutated.pkl'), about, tensors)
        watching, end = True, 'refused'
        try: learn = load_learner(bad, names=NAMES)
        except ModelFileError as e: assert '\n' not in str(e)
        except BaseException as e: foreign.append([i, repr(e)[:300]])
        else:
            try: end = 'same' if as_plain(learn.predict(item)) == want else 'another model'
            except Exception as e: end, raised[type(e).__name__] = 'cannot predict', raised.get(type(e).__name__, 0) + 1
            except BaseException as e: foreign.append([i, repr(e)[:300]])
        watching = False
        if songs and len(songs) < 20: songs[-1].append(i)
        ends[end] = ends.get(end, 0) + 1
    print(json.dumps({'ends': ends, 'raised': raised, 'canary': songs[:20], 'foreign': foreign[:20]}))


if __name__ == '__main__':
    if sys.argv[1] == 'canary':
        sys.addaudithook(canary)
        self_check()
    else: main(sys.argv[1], int(sys.argv[2]))

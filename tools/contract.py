"""Write down every public name of the package, with its signature and default values, or say what has changed since.

    python tools/contract.py            # what has changed; nothing is written
    python tools/contract.py --write    # accept the changes: write the golden files anew

The golden files are in `tests/contract/golden/`. All are sorted, with one name a line, so that a review shows each change as a line:

- `signatures.txt`: every public function, class, method, property and constant of ours. A name stays on its line when its module moves.
- `modules.txt`: the public names of each module.
- `surface_*.txt`: what `from fastbook_impl.X import *` gives in a fresh process. Methods are listed, too, because some of them are added to a class by another
  module, and are there only once that module has been imported.

A name from another package is listed as a name. `tests/contract/test_golden.py` compares the files with the package; with another version of fastcore than that of
the golden files, it leaves out the names that are fastcore's.
"""
import enum
import functools
import importlib
import inspect
import json
import multiprocessing
import os
import pkgutil
import re
import subprocess
import sys
import types
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path('tests')/'contract'/'golden'
PACKAGE = 'fastbook_impl'
SURFACES = ('basics', 'callback.fp16', 'callback.hook', 'collab', 'fastbook', 'inference', 'exercises.all', 'tabular.all', 'text.all', 'vision.all', 'vision.widgets')
EVERYTHING = 'everything'
LONGEST_VALUE = 120
BY_TYPE = 'encodes', 'decodes', 'setups'   # steps of a transform: a module may add one for its types, and the name of what it takes says nothing
FASTCORE = '    # fastcore'           # what another version of fastcore may not have
STARRED = ('basics', 'all')              # modules that only pass on what others have
FOREIGN = ('PIL.Image.Image', 'torch.Tensor', 'torch.nn.Module', 'pathlib.Path', 'fastcore.foundation.L', 'pandas.DataFrame', 'ipywidgets.FileUpload')  # may be given methods


# --- how a value is written ----------------------------------------------------------------------------------------------

def render(value, depth=0) -> str:
    "`value` as text without addresses, the same in every version of Python and torch."
    if depth > 4: return '...'
    again = functools.partial(render, depth=depth + 1)
    if value is None or isinstance(value, (bool, str, bytes)): return repr(value)
    if isinstance(value, enum.Enum): return f'{type(value).__name__}.{value.name}'
    if isinstance(value, (int, float, complex)) and type(value).__module__ == 'builtins': return repr(value)
    if isinstance(value, functools.partial):
        return 'partial(' + ', '.join([again(value.func), *map(again, value.args), *(f'{k}={again(v)}' for k, v in value.keywords.items())]) + ')'
    if isinstance(value, type) or callable(value) and hasattr(value, '__name__'): return value.__name__ if value.__name__ != '<lambda>' else 'lambda'
    if isinstance(value, types.ModuleType): return f'module {value.__name__}'
    if isinstance(value, slice): return 'slice(' + ', '.join(map(again, (value.start, value.stop, value.step))) + ')'
    if type(value) is tuple: return '(' + ', '.join(map(again, value)) + (',)' if len(value) == 1 else ')')
    if type(value) is list: return '[' + ', '.join(map(again, value)) + ']'
    if type(value) in (set, frozenset): return '{' + ', '.join(sorted(map(again, value))) + '}'
    if type(value) is dict: return '{' + ', '.join(f'{again(k)}: {again(v)}' for k, v in value.items()) + '}'
    return f'<{type(value).__name__}>'


def signature(f) -> str:
    "The parameters and defaults of the function `f`, without types, which may be added freely."
    try: return write_parameters(inspect.signature(f).parameters.values())
    except (ValueError, TypeError): return ''     # builtin


def class_signature(cls) -> str:
    "What `cls` is called with, if a class of ours says so. Metaclasses are looked through."
    maker = next((vars(o)[k] for o in cls.__mro__ if is_ours(o) for k in ('__init__', '__new__') if k in vars(o)), None)
    if maker is None or issubclass(cls, enum.Enum): return ''
    maker = getattr(maker, '__func__', maker)
    try: return write_parameters(list(inspect.signature(maker).parameters.values())[1:])
    except (ValueError, TypeError): return ''


def write_parameters(parameters) -> str:
    shown, starred, positional_only = [], False, False
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL: starred = True
        elif p.kind is p.KEYWORD_ONLY and not starred: shown.append('*'); starred = True
        if positional_only and p.kind is not p.POSITIONAL_ONLY: shown.append('/')
        positional_only = p.kind is p.POSITIONAL_ONLY
        star = {p.VAR_POSITIONAL: '*', p.VAR_KEYWORD: '**'}.get(p.kind, '')
        shown.append(star + p.name + ('' if p.default is p.empty else '=' + render(p.default)))
    if positional_only: shown.append('/')
    return '(' + ', '.join(shown) + ')'


# --- what there is -------------------------------------------------------------------------------------------------------

def is_ours(o) -> bool: return (getattr(o, '__module__', None) or '').split('.')[0] == PACKAGE


def public_names(module) -> list:
    "What `from module import *` gives."
    return sorted(set(getattr(module, '__all__', None) or [o for o in vars(module) if not o.startswith('_')]))


def members(cls) -> dict:
    "The public members of `cls` that a class of ours defines, inherited ones included: `{name: how it is written}`."
    found = {}
    for name in dir(cls):
        owner = next((o for o in cls.__mro__ if name in vars(o)), None)
        if name.startswith('_') and name != '__call__' or owner is None: continue
        raw = vars(owner)[name]
        if not (is_ours(owner) or is_ours(getattr(raw, 'fget', raw)) and (inspect.isroutine(raw) or isinstance(raw, property))): continue
        found[name] = write_member(cls, name, raw)
    return found


def write_member(cls, name, raw) -> str:
    if isinstance(raw, (property, functools.cached_property)): return ' [property]'
    if name in BY_TYPE and inspect.isroutine(raw): return ' [by type]'
    if isinstance(raw, (staticmethod, classmethod)): return signature(getattr(cls, name)) + f' [{type(raw).__name__}]'
    if isinstance(raw, enum.Enum): return f' = {render(raw.value)}'
    if inspect.isroutine(raw): return signature(raw)
    if isinstance(raw, type) and is_ours(raw): return class_signature(raw) + ' [class]'
    if inspect.ismethod(getattr(cls, name, None)): return signature(getattr(cls, name)) + ' [classmethod]'
    if hasattr(type(raw), '__get__') and not isinstance(raw, type): return f' [{type(raw).__name__}]'
    return write_value(raw)


def write_value(o) -> str:
    "A constant: its value if that is short and plain, and otherwise its type."
    text = render(o)
    return f' = {text}' if len(text) <= LONGEST_VALUE and '<' not in text else f' [{type(o).__name__}]'


def is_fastcores(name, o) -> bool:
    import fastcore.all as fastcore
    return getattr(fastcore, name, fastcore) is o


def write_name(name, o) -> dict:
    "The lines about one public name, `{what is named: how it is written}`; empty text for what is not ours."
    if is_fastcores(name, o) and not is_ours(o): return {name: FASTCORE}
    if isinstance(o, type):
        if not is_ours(o): return {name: '', **{f'{name}.{k}': v for k, v in members(o).items()}}
        bases = sorted({b.__name__ for b in o.__mro__[1:] if is_ours(b) and not b.__name__.startswith('_')})
        head = class_signature(o) + ' [class' + (': ' + ', '.join(bases) if bases else '') + ']'
        return {name: head, **{f'{name}.{k}': v for k, v in members(o).items()}}
    if isinstance(o, types.ModuleType): return {name: ''}
    if inspect.isroutine(o) or isinstance(o, functools.partial): return {name: signature(o) if is_ours(o) else ''}
    if callable(o) and is_ours(type(o)): return {name: f'{signature(o)} [{type(o).__name__}]'}
    if is_ours(type(o)) or type(o).__module__ == 'builtins': return {name: write_value(o)}
    return {name: ''}


def describe(module) -> dict:
    "Everything public in `module`: `{name: [where it is from, {member or name: how it is written}]}`."
    res = {}
    for name in public_names(module):
        o = getattr(module, name)
        res[name] = [o.__module__ if is_ours(o) and hasattr(o, '__name__') else '', write_name(name, o)]
    return res


def additions() -> dict:
    "What the modules imported so far have added to classes that are not the package's, in the form of `describe`."
    res = {}
    for name in FOREIGN:
        module, _, cls = name.rpartition('.')
        if module not in sys.modules or not hasattr(sys.modules[module], cls): continue
        found = members(getattr(sys.modules[module], cls))
        if found: res[name] = ['', {f'{name}.{k}': v for k, v in found.items()}]
    return res


def module_names() -> list:
    package = importlib.import_module(PACKAGE)
    names = [o.name for o in pkgutil.walk_packages(package.__path__, PACKAGE + '.')]
    return sorted(o for o in names if not o.rpartition('.')[2].startswith('_'))


def look(what: str) -> dict:
    "In this process: what the surface `what` gives, or what each module does, once all are imported."
    if what != EVERYTHING:
        module = importlib.import_module(f'{PACKAGE}.{what}')
        return {what: describe(module) | additions()}
    modules = {o: importlib.import_module(o) for o in module_names()}
    return {o.removeprefix(PACKAGE + '.'): describe(m) for o, m in modules.items()} | {'': additions()}


def look_afresh(root=ROOT) -> dict:
    "`look` at everything and at each surface, each in a process that has imported nothing else of the package: `{what: what was found}`."
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')])}
    done = subprocess.run([sys.executable, str(Path(__file__).resolve()), '--look'], capture_output=True, text=True, env=env, cwd=root)
    if done.returncode: raise RuntimeError(f'the package could not be looked at:\n{done.stderr}')
    return json.loads(done.stdout.splitlines()[-1])


def look_side_by_side() -> dict:
    "One process for each surface. Where processes can be forked, they share what takes longest to import and is not ours."
    import torch, torchvision, pandas, sklearn, fastcore.all   # noqa: F401, E401
    context = multiprocessing.get_context('fork' if sys.platform == 'linux' else 'spawn')
    what = (EVERYTHING, *SURFACES)
    with context.Pool(2, maxtasksperchild=1) as pool: return dict(zip(what, pool.map(look, what, chunksize=1)))


# --- the golden files ----------------------------------------------------------------------------------------------------

def signatures(modules: dict) -> dict:
    "Every name of ours, and how it is written: `{name: {text: modules}}`. One text in most cases; `Normalize` is two classes."
    res = defaultdict(lambda: defaultdict(set))
    for module, names in modules.items():
        if module in SURFACES and module.endswith(STARRED): continue    # what they have of ours, another module has, too
        for origin, lines in names.values():
            for name, text in lines.items():
                if text and text != FASTCORE: res[name][text].add((origin or module).removeprefix(PACKAGE + '.'))
    return res


def golden(root=ROOT) -> dict:
    "The golden files of the package as it is: `{file: lines}`."
    looked = look_afresh(root)
    modules = looked.pop(EVERYTHING)
    surfaces = {k: names for o in looked.values() for k, names in o.items()}
    texts = signatures(modules)
    lines = []
    for name, by_text in texts.items():
        for text, places in by_text.items():
            lines.append(name + text + (f'    # {", ".join(sorted(places))}' if len(by_text) > 1 else ''))
    def brief(name, text): return name if not text or text.startswith(' = ') or set(texts[name]) == {text} else name + text
    res = {'signatures.txt': sorted(lines), 'modules.txt': sorted(f'{m}: {n}' for m, names in modules.items() if m and m not in SURFACES for n in names)}
    for surface, names in surfaces.items():
        found = {brief(n, t): None for _, lines in names.values() for n, t in lines.items()}
        res[f'surface_{surface}.txt'] = sorted(found)
    return res


def without_fastcore(files: dict) -> dict: return {k: [o for o in lines if not o.endswith(FASTCORE)] for k, lines in files.items()}


def read(folder: Path) -> dict: return {f.name: f.read_text(encoding='utf-8').splitlines() for f in sorted(folder.glob('*.txt'))}


def write(files: dict, folder: Path):
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob('*.txt'):
        if old.name not in files: old.unlink()
    for name, lines in files.items(): (folder/name).write_text('\n'.join(lines) + '\n', encoding='utf-8')


def key(line: str) -> str:
    "The name at the start of `line`, by which a changed signature is told from a new name."
    return re.match(r'[\w.]+(: [\w.]+)?', line).group()


def compare(old: dict, new: dict) -> str:
    "What differs between two sets of golden files, for a person to read; empty if nothing does."
    gone, come = ({(line, f) for f in {*old, *new} for line in set(a.get(f, ())) - set(b.get(f, ()))} for a, b in ((old, new), (new, old)))
    by_files = defaultdict(lambda: ([], []))                    # what happened in the same files is told once
    for lines, which in (gone, 0), (come, 1):
        files = defaultdict(list)
        for line, file in lines: files[line].append(file)
        for line, where in files.items(): by_files[', '.join(sorted(where))][which].append(line)
    report = []
    for where in sorted(by_files):
        was, now = ({key(o): o for o in lines} if where == 'signatures.txt' else {o: o for o in lines} for lines in by_files[where])
        report.append(f'{where}:')
        for k in sorted({*was, *now}):
            if k in was and k in now: report += [f'  changed  {was[k]}', f'      now  {now[k]}']
            else: report.append(f'  gone     {was[k]}' if k in was else f'  new      {now[k]}')
    return '\n'.join(report)


def main(args) -> int:
    if args[:1] == ['--look']:
        print(json.dumps(look_side_by_side()))
        return 0
    if args not in ([], ['--write']):
        print(__doc__)
        return 2
    files, folder = golden(), ROOT/GOLDEN
    said = compare(read(folder), files)
    print(said or 'The public names and signatures are those of the golden files.')
    if args: write(files, folder)
    return 1 if said and not args else 0


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))

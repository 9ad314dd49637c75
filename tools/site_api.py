"""Write the API reference of the documentation site from the source of the package, without importing it.

Every public class, function and method becomes an entry: its signature, its docstring, and the comments beside its parameters. Each entry links to
its source on GitHub and to the heading of the notebook that explains it.
"""
import ast
import io
import json
import posixpath
import re
import tokenize
from dataclasses import dataclass, field
from inspect import cleandoc
from pathlib import Path

from site_pages import slug

LEAD = 'fastbook_impl'
GROUPS = {'Core': ('torch_core', 'imports', 'basics', 'losses', 'metrics', 'layers', 'optimizer', 'imagenet'), 'Data': ('data',), 'Learner and callbacks': ('learner', 'callback', 'checkpoint', 'interpret'),
          'Vision': ('vision',), 'Text': ('text',), 'Tables and recommenders': ('tabular', 'collab'), 'Exported models': ('inference', 'export'), 'Exercises': ('exercises',),
          'Built-in data sets': ('samples',)}


@dataclass
class Entry:
    "A public function, class, method or property."
    kind: str       # function, class, method or property
    name: str       # full name, such as fastbook_impl.learner.Learner.fit
    signature: str
    doc: str
    params: dict    # parameters → the comment beside them
    note: str       # what decorators and bases add
    lines: tuple    # first and last line of the source
    members: list = field(default_factory=list)


# --- reading a module --------------------------------------------------------------------------------------------------------

def comments(source):
    "The comments of a module by line number."
    return {o.start[0]: o.string.lstrip('# ').strip() for o in tokenize.generate_tokens(io.StringIO(source).readline) if o.type == tokenize.COMMENT}


def all_args(f): return [*f.args.posonlyargs, *f.args.args, *filter(None, [f.args.vararg]), *f.args.kwonlyargs, *filter(None, [f.args.kwarg])]


def documented(f, notes):
    "The comment beside the parameters. One that follows several on a line is about all of them."
    lines = {}
    for a in all_args(f):
        if a.arg not in ('self', 'cls'): lines.setdefault(a.end_lineno, []).append(a.arg)
    return {', '.join(names): notes[line] for line, names in lines.items() if line in notes and line < f.body[0].lineno}


def signature(f, skip_first):
    "The signature in one line. `self` is left out."
    args = ast.parse(ast.unparse(f)).body[0].args
    for names in (args.posonlyargs, args.args):
        if skip_first and names:
            names.pop(0)
            if len(args.defaults) > len(args.posonlyargs) + len(args.args): args.defaults.pop(0)
            break
    returns = f' -> {ast.unparse(f.returns)}' if f.returns else ''
    return f'({ast.unparse(args)}){returns}'


def decorators(node): return [ast.unparse(o) for o in node.decorator_list]


def doc_of(node): return cleandoc(ast.get_docstring(node, clean=False) or '')


def lines_of(node): return (min([node.lineno, *(o.lineno for o in node.decorator_list)]), node.end_lineno)


def function_entry(f, prefix, notes, method=False):
    marks = decorators(f)
    static = any(o in ('staticmethod',) for o in marks)
    as_property = any(re.match(r'(functools\.)?(cached_)?property$|patch\(as_prop=True\)|lazy', o) for o in marks)
    delegates = next((m[1] for o in marks if (m := re.match(r'delegates\(([\w.]+)', o))), '')
    note = f'Further keyword arguments are those of `{delegates}`.' if delegates else ''
    kind = 'property' if as_property else 'method' if method else 'function'
    text = '' if as_property else signature(f, method and not static)
    return Entry(kind, f'{prefix}.{f.name}', text, doc_of(f), documented(f, notes), note, lines_of(f))


def dataclass_signature(c):
    "The signature that a data class or a named tuple gets from its fields."
    fields = [ast.unparse(o) for o in c.body if isinstance(o, ast.AnnAssign) and isinstance(o.target, ast.Name) and 'ClassVar' not in ast.unparse(o.annotation)]
    return f'({", ".join(fields)})'


def class_entry(c, module, notes):
    name = f'{module}.{c.name}'
    init = next((o for o in c.body if isinstance(o, ast.FunctionDef) and o.name in ('__init__', '__new__')), None)
    bases = [ast.unparse(o) for o in c.bases]
    made = any(o.startswith(('dataclass', 'dataclasses.dataclass')) for o in decorators(c)) or 'NamedTuple' in bases
    text = signature(init, True) if init else dataclass_signature(c) if made else ''
    note = f'Bases: {", ".join(f"`{o}`" for o in bases)}.' if bases else ''
    entry = Entry('class', name, text, doc_of(c), documented(init, notes) if init else {}, note, lines_of(c))
    entry.members = [function_entry(o, name, notes, method=True) for o in c.body
                     if isinstance(o, ast.FunctionDef) and not o.name.startswith('_') and doc_of(o) and not any(d.endswith('.setter') for d in decorators(o))]
    return entry


def patched(f):
    "The classes to which `@patch` adds the function `f`."
    if not any(re.match(r'patch\b', o) for o in decorators(f)) or not f.args.args or not f.args.args[0].annotation: return []
    return re.findall(r'\w+', ast.unparse(f.args.args[0].annotation))[:1]


def public_names(tree):
    value = next((o.value for o in tree.body if isinstance(o, ast.Assign) and getattr(o.targets[0], 'id', '') == '__all__'), None)
    return set(ast.literal_eval(value)) if value is not None else set()


def module_entries(source, module, home=lambda name: None):
    "The entries of a module. A patched method belongs to its class, which `home` finds by name."
    tree, notes = ast.parse(source), comments(source)
    public = public_names(tree)
    found = []
    for o in tree.body:
        if isinstance(o, ast.ClassDef) and o.name in public: found.append(class_entry(o, module, notes))
        elif isinstance(o, ast.FunctionDef):
            classes = patched(o)
            if classes and not o.name.startswith('_') and doc_of(o): found.append(function_entry(o, home(classes[0]) or f'{module}.{classes[0]}', notes, method=True))
            elif not classes and o.name in public: found.append(function_entry(o, module, notes))
    return one_each(found)


def one_each(entries):
    "The entries with one for each name: a later definition, or a patch of a method, wins."
    found = {o.name: o for o in entries}
    for o in found.values(): o.members = list({m.name: m for m in o.members if m.name not in found}.values())
    return list(found.values())


# --- where a notebook explains it ---------------------------------------------------------------------------------------------

CELL = re.compile(r'^# %% (\S+\.ipynb) #(\S+)$')


def cells_of(source):
    "The notebook and the id of the cell that each line of a module was exported from."
    found, current = {}, None
    for i, line in enumerate(source.splitlines(), 1):
        m = CELL.match(line)
        if m: current = m[1], m[2]
        found[i] = current
    return found


class Notebooks:
    "Finds the heading under which a cell stands."
    def __init__(self, root): self.root, self._read = root, {}

    def heading(self, source, cell):
        if source not in self._read:
            last, found = None, {}
            for o in json.loads((self.root/source).read_text(encoding='utf-8'))['cells']:
                titles = re.findall(r'^#{1,6} +(.+)$', ''.join(o['source']), re.M) if o['cell_type'] == 'markdown' else []
                if titles: last = titles[-1]
                found[o.get('id')] = last
            self._read[source] = found
        return self._read[source].get(cell)


# --- writing -----------------------------------------------------------------------------------------------------------------

def escaped(text): return re.sub(r'(?<!`)<(?=[\w/])', '&lt;', text)


def tidy(doc):
    "A docstring as Markdown: what is indented below a line of text is an example, and Markdown's own characters are only that in code."
    parts = re.split(r'(```.*?```|`[^`\n]*`)', doc, flags=re.S)
    return ''.join(o if i % 2 else escaped(re.sub(r'([*_$\[\]])', r'\\\1', o)) for i, o in enumerate(parts))


class Writer:
    def __init__(self, root, links, modules):
        self.root, self.links, self.modules, self.notebooks = root, links, modules, Notebooks(root)

    def where(self, entry, file, cells):
        "The links to the source and to the notebook, as one line."
        first, last = entry.lines
        found = [f'[source]({self.links.on_github(file)}#L{first}-L{last})']
        made_from = next((cells[i] for i in range(first, last+1) if cells.get(i)), None)
        if made_from:
            notebook = posixpath.normpath(posixpath.join(posixpath.dirname(file), made_from[0]))
            target = self.links.targets.get(notebook)
            heading = self.notebooks.heading(notebook, made_from[1])
            anchor = f'#{slug(heading)}' if target and heading else ''
            label = re.sub(r'[`*\[\]]', '', heading or 'the notebook')
            found.append(f'explained in [{label}](../{target}{anchor})' if target else f'explained in [a notebook]({self.links.on_github(notebook)})')
        return '{.api-links}\n' + ' · '.join(found)

    def entry(self, o, file, cells, within=''):
        "The directive of an entry. Its page shows the name below the module, or the last part of it `within` a class."
        fence = ':::::' + ':' * bool(o.members)
        params = '\n'.join(f'- **{name}**: {tidy(note)}' for name, note in o.params.items())
        text = '\n\n'.join(p for p in [tidy(o.doc), params, o.note, self.where(o, file, cells)] if p)
        for m in o.members: text += '\n\n' + self.entry(m, file, cells, o.name)
        module = max((m for m in self.modules if o.name.startswith(f'{m}.')), key=len)
        name = o.name[len(within or module)+1:]
        return f'{fence}{{py:{o.kind}}} {name}{o.signature}\n:module: {module}\n\n{text}\n{fence}'

    def module(self, module, file, source, entries):
        first = re.match(r'# AUTOGENERATED.*File to edit: (\S+\.ipynb)', source)
        notebook = posixpath.normpath(posixpath.join(posixpath.dirname(file), first[1])) if first else ''
        target = self.links.targets.get(notebook)
        intro = f'The module `{module}`. It is built and explained in [its notebook](../{target}).' if target else f'The module `{module}`.'
        cells = cells_of(source)
        return '\n\n'.join([f'# {module.partition(".")[2]}', intro, *(self.entry(o, file, cells) for o in entries)]) + '\n'


def api_pages(root, links):
    "The pages of the reference by document, and the full names of all entries."
    sources = {}
    for path in sorted((root/LEAD).rglob('*.py')):
        file = path.relative_to(root).as_posix()
        if path.name.startswith('_') or '__pycache__' in file or file.startswith(f'{LEAD}/exercises/checks'): continue
        sources[file[:-len('.py')].replace('/', '.')] = (file, path.read_text(encoding='utf-8'))
    homes = {}
    for module, (_, source) in sources.items():
        for o in ast.parse(source).body:
            if isinstance(o, ast.ClassDef): homes.setdefault(o.name, f'{module}.{o.name}')
    writer, pages, names, first_lines = Writer(root, links, list(sources)), {}, [], {}
    for module, (file, source) in sources.items():
        entries = [o for o in module_entries(source, module, homes.get) if o.name not in names]
        if not entries: continue
        names += [m.name for o in entries for m in [o, *o.members]]
        pages[f'api/{module}'] = writer.module(module, file, source, entries)
        first_lines[module] = entries
    pages['api/index'] = index(first_lines)
    return pages, names


def group_of(module):
    part = module.split('.')[1]
    return next((title for title, parts in GROUPS.items() if part in parts), 'The course and its tools')


def index(modules):
    "The page that lists all modules."
    text = ('# API reference\n\nEvery public name of the package, by module. Each entry shows the signature, what the function does and what its parameters mean, '
            'and links to its source and to the notebook that explains it.\n')
    for title in [*GROUPS, 'The course and its tools']:
        here = [o for o in modules if group_of(o) == title]
        if not here: continue
        rows = [f'| [{o.partition(".")[2]}]({o}.md) | {", ".join(f"`{e.name.rpartition(chr(46))[2]}`" for e in modules[o][:6])}{" …" if len(modules[o]) > 6 else ""} |' for o in here]
        text += '\n'.join([f'\n## {title}\n', '| module | contents |', '| --- | --- |', *rows, '', '```{toctree}', f':caption: {title}', ':hidden:', '', *here, '```', ''])
    return text

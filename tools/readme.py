"""Write README.md from `nbs/index.ipynb`, the home page of the course: what `make readme` does.

The two never differ: `tests/unit/test_readme.py` renders the notebook, too, and compares. Two things are done on the way:

- the map of chapters, the cell that begins with `<!-- chapters -->`, is made anew from the chapters' own first lines;
- links are turned so that they lead to the same place from the folder above.

Of a code cell the README shows the source, unless JupyterLab hides it (`"jupyter": {"source_hidden": true}`), and the outputs.
"""
import base64
import os
import re
import sys
from pathlib import Path

from execnb.nbio import read_nb, write_nb

from course import chapters

ROOT = Path(__file__).resolve().parent.parent
PICTURES = 'README_files'
MAP = '<!-- chapters -->'


# --- the map of chapters -------------------------------------------------------------------------------------------------

def first_sentence(text):
    "The first sentence of `text`, on one line."
    return re.split(r'(?<=[.!?]) ', ' '.join(text.split()))[0]


def chapter_row(path):
    "A chapter's row in the map: number, title, what its first sentence promises, and the module it builds."
    cells = read_nb(path).cells
    title, *rest = next(c.source for c in cells if c.cell_type == 'markdown' and c.source.startswith('# ')).split('\n')
    promise = next((o for o in '\n'.join(rest).split('\n\n') if o.strip()), '').strip().lstrip('> ')
    module = next((m[1] for c in cells if (m := re.match(r'#\| *default_exp +(\S+)', c.source))), None)
    builds = f'`fastbook_impl.{module}`' if module else ''
    return f'| {path.stem.split("_")[0].lstrip("0")} | [{title[2:].strip()}]({path.name}) | {first_sentence(promise)} | {builds} |'


def chapter_map(root):
    rows = ['| | chapter | outcome | module |', '| --- | --- | --- | --- |', *map(chapter_row, chapters(root))]
    return MAP + '\n' + '\n'.join(rows)


def with_map(nb, root):
    "The index with its map of chapters in step with the chapters."
    cell = next(c for c in nb.cells if c.source.startswith(MAP))
    cell.source = chapter_map(root)
    return nb


# --- the rendering -------------------------------------------------------------------------------------------------------

def turn_links(text):
    "Links relative to nbs/ become links relative to the folder above it."
    def turned(m): return m[1] + (m[2] if re.match(r'[a-z]+:|#|/', m[2]) else os.path.normpath(f'nbs/{m[2]}')) + ')'
    return re.sub(r'(\]\()([^)\s]+)\)', turned, text)


def fenced(text, lang=''): return f'```{lang}\n{text.rstrip()}\n```'


def text_of(o): return ''.join(o) if isinstance(o, list) else o


def render_output(out, name, pictures):
    "Markdown for one output; a picture goes into `pictures` under a name of its own."
    if out.output_type == 'stream': return fenced(text_of(out.text))
    data = out.get('data', {})
    if 'image/png' in data:
        file = f'{PICTURES}/{name}.png'
        pictures[file] = base64.b64decode(text_of(data['image/png']))
        return f'![{name.replace("-", " ")}]({file})'
    if 'text/markdown' in data: return turn_links(text_of(data['text/markdown']))
    return fenced(text_of(data['text/plain']))


def caption(source, number):
    "The name of a cell's picture: its `#| label: …` line, or a number."
    m = re.search(r'^#\| *label: *(.+)$', source, re.M)
    return re.sub(r'\W+', '-', m[1].strip()) if m else f'picture-{number}'


def render_cell(cell, number, pictures):
    if cell.cell_type == 'markdown': return [turn_links(cell.source.replace(MAP + '\n', ''))]
    if cell.cell_type != 'code': return []
    source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M).strip()
    hidden = cell.metadata.get('jupyter', {}).get('source_hidden')
    parts = [] if hidden or not source else [fenced(source, 'python')]
    return parts + [render_output(o, caption(cell.source, number), pictures) for o in cell.outputs]


def render(nb):
    "README.md as text, and its pictures: file name to bytes."
    pictures = {}
    parts = [o for i, c in enumerate(nb.cells) for o in render_cell(c, i, pictures)]
    return '\n\n'.join(o.strip() for o in parts) + '\n', pictures


def main(root=ROOT):
    index = root/'nbs'/'index.ipynb'
    nb = with_map(read_nb(index), root)
    write_nb(nb, index)
    text, pictures = render(nb)
    (root/'README.md').write_text(text, encoding='utf-8')
    (root/PICTURES).mkdir(exist_ok=True)
    for old in (root/PICTURES).iterdir(): old.unlink()
    for name, data in pictures.items(): (root/name).write_bytes(data)
    print(f'README.md: {len(text.splitlines())} lines, {len(pictures)} pictures')


if __name__ == '__main__': sys.exit(main())

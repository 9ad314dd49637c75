"""Each exercise names the section that teaches it, and that section is in the chapter."""
import json
import re

from fastbook_impl.exercises.engine import CHAPTERS, exercises


def plain(heading):
    "A heading without what an editor may change and a reader would not miss: its number, capitals, emphasis and punctuation."
    words = re.sub(r'^\d+(\.\d+)*\.?\s+', '', heading.strip())
    return ' '.join(re.sub(r'[^\w\s]', ' ', words).casefold().split())


def headings(path):
    "The headings of a notebook, from the second level on."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    texts = [''.join(c['source']) for c in cells if c['cell_type'] == 'markdown']
    return [m[1] for text in texts for m in re.finditer(r'^##+ +(.+)$', text, re.M)]


def test_headings_are_compared_by_their_words():
    assert plain('3.2. *Mini-batches*, and why') == plain('Mini batches and why') != plain('Mini-batches')


def test_the_section_of_each_exercise_is_in_its_chapter(root):
    there = {c: headings(root/'nbs'/f'{name}.ipynb') for c, name in CHAPTERS.items()}
    missing = [(ex.number, c, h) for ex in exercises() for c, h in [ex.taught_in] if plain(h) not in map(plain, there[c])]
    lines = [f'  {number}: chapter {c} has no section {h!r}' for number, c, h in missing]
    lines += [f'chapter {c} has {there[c]}' for c in sorted({c for _, c, _ in missing})]
    assert not missing, '\n'.join(['set `section` in nbs/checks to a heading that is there:', *lines])

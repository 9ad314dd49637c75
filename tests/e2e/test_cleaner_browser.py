"""Somebody cleans pictures with the mouse: JupyterLab, a real browser, the book's two lines at the end.

    FASTBOOK_SHOTS=shots pytest tests/e2e/test_cleaner_browser.py      # keep the screenshots, to look at
"""
import re
import shutil

import pytest

from browsing import PATIENCE, Lab, Notebook, small_notebook
from fastbook_impl.data.external import URLs, untar_data

BREEDS = dict(Bengal=110, american_pit_bull_terrier=4, pug=6) # so many of each; those whose number can be divided by three are for validation, if they are not pit bulls

CELLS = dict(imports="""
from fastbook_impl.vision.all import *
from fastbook_impl.vision.widgets import *
import shutil
path = Path('pets').absolute()
""", learn="""
set_seed(42)
splitter = FuncSplitter(lambda o: o.parent.name != 'american_pit_bull_terrier' and int(o.stem.split('_')[-1]) % 3 == 0)
pets = DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, splitter=splitter, get_y=parent_label, item_tfms=Resize(32))
dls = pets.dataloaders(path, bs=16, device='cpu', num_workers=0)
learn = Learner(dls, nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, len(dls.vocab))))
""", show="""
cleaner = ImageClassifierCleaner(learn)
cleaner
""", unlink="""
for idx in cleaner.delete(): cleaner.fns[idx].unlink()
""", move="""
for idx,cat in cleaner.change(): shutil.move(str(cleaner.fns[idx]), path/cat)
""")


RED, BLUE = 'rgb(198, 40, 40)', 'rgb(21, 101, 192)'
FITS = """() => { const box = o => o.getBoundingClientRect(), apply = [...document.querySelectorAll('button')].find(o => o.innerText.includes('Apply'))
    return box(apply).bottom - box(document.querySelector('.widget-dropdown')).top < document.querySelector('.jp-WindowedPanel-outer').clientHeight }"""


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    "Pets, a folder for each breed, and beside them a notebook that cleans them."
    tmp = tmp_path_factory.mktemp('cleaner')
    folder, images = tmp/'work', untar_data(URLs.PETS)/'images'
    for breed,n in BREEDS.items():
        (folder/'pets'/breed).mkdir(parents=True)
        for k in range(n): shutil.copy(images/f'{breed}_{k%40+1}.jpg', folder/'pets'/breed/f'{breed}_{k+1}.jpg')
    small_notebook(folder/'clean.ipynb', **CELLS)
    server = Lab(folder, tmp)
    yield server
    server.close()


class Person(Notebook):
    "Somebody in front of the cleaner."
    def __init__(self, page, shots): self.page, self.shots = page, shots

    @property
    def cards(self): return self.page.locator('.widget-gridbox > .widget-vbox')
    def card(self, name): return self.cards.filter(has_text=name)
    def names(self): return [o.split()[0] for o in self.cards.locator('.widget-html').all_inner_texts()]
    def losses(self): return [float(o.split()[2]) for o in self.cards.locator('.widget-html').all_inner_texts()]
    def borders(self): return {name: colour for name,colour in zip(self.names(), self.cards.evaluate_all('os => os.map(o => getComputedStyle(o).borderColor)')) if colour in (RED, BLUE)}
    def press(self, text): self.page.get_by_role('button', name=text).click()
    def told(self, text): self.page.locator('.widget-label', has_text=text).wait_for()

    def shoot(self, name):
        self.page.locator('.widget-dropdown').first.evaluate('o => o.scrollIntoView()')
        self.page.wait_for_timeout(300)
        self.page.screenshot(path=self.shots/f'cleaner-{name}.png')

    def look(self, what, value, *numbers):
        "Choose a set or a class, and wait until the pictures with these numbers, and no others, are there."
        self.page.get_by_label(what).select_option(value)
        self.page.wait_for_function("""numbers => numbers === [...document.querySelectorAll('.widget-gridbox .widget-html')].map(o => o.innerText.match(/_(\\d+)\\.jpg/)[1]).sort().join()""",
                                    arg=','.join(map(str, numbers)))


@pytest.fixture
def person(server, browser, shots):
    page = browser.new_page(viewport=dict(width=1280, height=900))
    page.set_default_timeout(PATIENCE)
    server.open(page, 'clean.ipynb')
    yield Person(page, shots)
    page.close()


def tree(path): return {str(o.relative_to(path)): o.read_bytes() for o in path.rglob('*') if o.is_file()}


def test_somebody_cleans(server, person):
    "Two are marked in one class, another in the next; one is taken back; nothing happens to a file before the book's lines are run, and then only what was marked."
    pets = server.folder/'pets'
    before = tree(pets)
    assert len(before) == sum(BREEDS.values())

    # the worst come first, and of many the first thirty
    for o in 'imports', 'learn', 'show': person.run(o)
    person.told('0 to delete, 0 to move (30 of 74 shown)')
    person.shoot('1-many')
    assert person.cards.count() == 30
    person.press('30 more')
    person.told('(60 of 74 shown)')
    person.press('14 more')
    person.told(re.compile('^0 to delete, 0 to move$'))
    assert person.losses() == sorted(person.losses(), reverse=True) and len(set(person.names())) == 74
    person.shoot('2-all')
    assert person.page.locator('.widget-gridbox').evaluate('o => o.scrollHeight > 3*o.clientHeight && o.clientHeight < innerHeight'), 'the cards scroll by themselves'
    assert person.page.evaluate(FITS), 'what is chosen above the cards and the buttons below can be seen together'

    # classes and sets, also one with no picture
    person.look('Class', 'pug', 1, 2, 4, 5)
    assert all(o.startswith('pug_') for o in person.names())
    person.look('Set', 'Valid', 3, 6)
    person.look('Class', 'american_pit_bull_terrier')
    person.told('No images here.')
    person.shoot('3-none')

    # marks: with a click, from the list, and one that is taken back
    person.look('Set', 'Train', 1, 2, 3, 4)
    person.card('terrier_2.jpg').get_by_role('button', name='Delete').click()
    person.told('1 to delete, 0 to move')
    person.card('terrier_4.jpg').locator('select').select_option('pug')
    person.told('1 to delete, 1 to move')
    person.look('Class', 'pug', 1, 2, 4, 5)
    person.card('pug_5.jpg').get_by_role('button', name='→ Bengal').click()
    person.told('1 to delete, 2 to move')
    person.press('Undo')
    person.told('1 to delete, 1 to move')
    person.look('Class', 'american_pit_bull_terrier', 1, 2, 3, 4)
    person.shoot('4-marked')
    assert person.borders() == {'american_pit_bull_terrier_2.jpg': RED, 'american_pit_bull_terrier_4.jpg': BLUE}

    # asked whether it is meant, one can say no
    person.press('Apply')
    person.told('Delete 1 image and move 1?')
    person.shoot('5-asked')
    person.press('No')
    assert tree(pets) == before

    # the book's lines
    for o in 'unlink', 'move':
        person.run(o)
        assert person.outputs(o) == []
    moved = before.pop('american_pit_bull_terrier/american_pit_bull_terrier_4.jpg')
    del before['american_pit_bull_terrier/american_pit_bull_terrier_2.jpg']
    cleaned = before | {'pug/american_pit_bull_terrier_4.jpg': moved}
    assert tree(pets) == cleaned

    # who then asks the cleaner to do it as well is told that it is done
    person.press('Apply')
    person.press('Yes')
    person.told('0 files moved; american_pit_bull_terrier_2.jpg no longer exists; american_pit_bull_terrier_4.jpg no longer exists')
    person.look('Class', 'american_pit_bull_terrier', 1, 3)
    assert tree(pets) == cleaned
    person.shoot('6-done')

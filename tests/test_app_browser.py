"""A visitor uses the application of chapter 2: the real server (Voilà), the real browser, on a desk and on a telephone.

    FASTBOOK_SHOTS=shots pytest tests/test_app_browser.py      # keep the screenshots, to look at
"""
import importlib.util
import os
import pickle
import re
import shutil
import socket
import sys

import numpy as np
import pytest
from PIL import Image
from torch import nn

from browsing import Server, free_port
from fastbook_impl.callback.schedule import fit_one_cycle  # noqa: F401 (becomes a method of learners)
from fastbook_impl.data.external import URLs, untar_data
from fastbook_impl.layers import ConvLayer
from fastbook_impl.learner import Learner
from fastbook_impl.torch_core import set_seed
from fastbook_impl.vision.augment import Resize
from fastbook_impl.vision.data import ImageDataLoaders

BREEDS = ['american_pit_bull_terrier', 'Bengal', 'pug']

pytestmark = pytest.mark.skipif(importlib.util.find_spec('voila') is None, reason='Voilà is not installed: it is among the development requirements')


@pytest.fixture(scope='module')
def pets(): return untar_data(URLs.PETS)/'images'


@pytest.fixture(scope='module')
def home(pets, tmp_path_factory):
    "A folder with an exported model that tells three breeds apart."
    import fastbook_impl.export  # noqa: F401 (gives learners their `export`)
    home = tmp_path_factory.mktemp('app-home')
    set_seed(42)
    files = [pets/f'{b}_{k}.jpg' for b in BREEDS for k in range(1, 31)]
    dls = ImageDataLoaders.from_name_re(home, files, r'^(.*)_\d+.jpg$', seed=42, item_tfms=Resize(48), bs=8, device='cpu')
    net = nn.Sequential(ConvLayer(3, 16, stride=2), ConvLayer(16, 32, stride=2), ConvLayer(32, 64, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3))
    learn = Learner(dls, net)
    learn.fit_one_cycle(10, 5e-3)
    learn.export()
    return home


class App(Server):
    "The application as `make app` starts it, on a copy of its folder."
    def __init__(self, root, tmp, home):
        folder, self.port = tmp/'app', free_port()
        shutil.copytree(root/'nbs'/'app', folder, ignore=shutil.ignore_patterns('.ipynb_checkpoints', 'export.pkl'))
        super().__init__([sys.executable, '-m', 'voila', 'pets.ipynb', '--no-browser', f'--port={self.port}', '--Voila.ip=127.0.0.1'], tmp, cwd=folder, FASTBOOK_HOME=str(home))

    def found(self):
        with socket.socket() as s: return f'http://127.0.0.1:{self.port}/' if s.connect_ex(('127.0.0.1', self.port)) == 0 else None


@pytest.fixture(scope='module')
def app(root, home, tmp_path_factory):
    app = App(root, tmp_path_factory.mktemp('app'), home)
    yield app
    app.close()


class Visitor:
    "A page of the application, and what one does on it."
    def __init__(self, browser, app, **context):
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.goto(app.address())
        self.classify_button.wait_for()

    @property
    def classify_button(self): return self.page.get_by_role('button', name='Classify')

    def upload(self, file):
        with self.page.expect_file_chooser() as chooser: self.page.get_by_role('button', name='Choose a picture').click()
        chooser.value.set_files(str(file))

    def upload_picture(self, file):
        "Upload, and wait until the picture is on the page."
        shown = "() => [...document.querySelectorAll('.widget-image')].filter(o => o.offsetParent).map(o => o.src).join()"
        before = self.page.evaluate(shown)
        self.upload(file)
        self.page.wait_for_function(f"before => {{ const now = ({shown})(); return now && now !== before }}", arg=before)

    def classify(self):
        "The classes that are shown, and their probabilities, the first one at the top."
        self.classify_button.click()
        self.page.locator('.pets-row').first.wait_for()
        names, numbers = (self.page.locator(f'.pets-row {o}').all_inner_texts() for o in ('> span:first-child', '.pets-number'))
        return dict(zip(names, (int(re.sub(r'^< 1%$', '0%', o).strip('> %')) for o in numbers)))

    def told(self, text): self.page.get_by_text(text).wait_for()
    def rows(self): return self.page.locator('.pets-row').count()
    def shoot(self, path): self.page.wait_for_timeout(300); self.page.screenshot(path=path)


@pytest.fixture
def visitor(browser, app):
    visitor = Visitor(browser, app, viewport=dict(width=1280, height=900))
    yield visitor
    visitor.context.close()


def test_nothing_then_a_text_then_a_good_picture(visitor, pets, tmp_path, shots):
    "One visitor after a false start: each time there is a sentence, and what is wrong does not stick."
    visitor.told('The network knows 3 breeds and takes every picture for one of them: Bengal, american pit bull terrier, pug.')
    visitor.shoot(shots/'app-0-start.png')
    visitor.classify_button.click()
    visitor.told('Choose a picture first.')
    visitor.shoot(shots/'app-1-nothing.png')

    (tmp_path/'notes <b>.jpg').write_text('Milk, bread, eggs')
    visitor.upload(tmp_path/'notes <b>.jpg')
    visitor.told('notes <b>.jpg is not a picture, or is damaged. JPEG, PNG and WebP are fine.')
    visitor.classify_button.click()
    visitor.page.wait_for_timeout(300)
    assert visitor.rows() == 0
    visitor.shoot(shots/'app-2-text.png')

    visitor.upload_picture(pets/'pug_40.jpg')
    found = visitor.classify()
    assert next(iter(found)) == 'pug' and 'american pit bull terrier' in found and 98 <= sum(found.values()) <= 102
    visitor.shoot(shots/'app-3-good.png')


def test_a_picture_of_50_megapixels(visitor, pets, tmp_path, shots):
    "Some 20 MB, which is more than a server like this takes unless it is told to; the answer is the one that the small picture gets."
    small = np.asarray(Image.open(pets/'Bengal_40.jpg').convert('RGB').resize((866, 577))).repeat(10, 0).repeat(10, 1)
    noise = np.random.default_rng(0).integers(-20, 21, (577, 8660, 1), dtype=np.int16)
    for k in range(10): small[577*k:577*(k+1)] = (small[577*k:577*(k+1)] + noise).clip(0, 255)
    Image.fromarray(small).save(tmp_path/'large.jpg', quality=92)
    assert (tmp_path/'large.jpg').stat().st_size > 12_000_000 and small.shape[0]*small.shape[1] > 49_000_000
    visitor.upload_picture(tmp_path/'large.jpg')
    assert next(iter(visitor.classify())) == 'Bengal'
    visitor.shoot(shots/'app-4-large.png')


def test_a_file_that_the_server_could_not_take(visitor, pets, tmp_path, shots):
    "More than one message may hold (100 MB, see voila.json): it does not leave the browser, the sentence is the usual one, and the page goes on working."
    visitor.told('JPEG, PNG or WebP, 40 MB at most.')
    for name, size in ('film.jpg', 130_000_000), ('scan.jpg', 41_000_000):
        with (tmp_path/name).open('wb') as f: f.truncate(size)
        visitor.upload_picture(pets/'pug_40.jpg')
        visitor.upload(tmp_path/name)
        visitor.told(f'{name} is larger than 40 MB. Please choose a smaller picture.')
        visitor.page.locator('.widget-image').wait_for(state='hidden')
        visitor.classify_button.click()
        visitor.page.wait_for_timeout(300)
        assert visitor.rows() == 0
    visitor.shoot(shots/'app-8-too-large.png')
    visitor.upload_picture(pets/'pug_40.jpg')
    assert next(iter(visitor.classify())) == 'pug'


def test_on_a_telephone(browser, app, pets, shots):
    "390 points wide: nothing is cut off, nothing has to be pushed sideways, buttons are large enough for a thumb."
    visitor = Visitor(browser, app, viewport=dict(width=390, height=844), device_scale_factor=2, is_mobile=True, has_touch=True)
    visitor.upload_picture(pets/'american_pit_bull_terrier_40.jpg')
    assert len(visitor.classify()) == 3
    visitor.shoot(shots/'app-5-telephone.png')
    assert visitor.page.evaluate('[innerWidth, document.documentElement.scrollWidth]') == [390, 390]
    for box in (o.bounding_box() for o in visitor.page.locator('button:visible, .pets-row, .widget-image:visible').all()):
        assert 0 <= box['x'] and box['x'] + box['width'] <= 390
    ends = visitor.page.locator('.pets-number').evaluate_all("os => os.map(o => [o.getBoundingClientRect().right, o.closest('.jp-OutputArea-output').getBoundingClientRect().right])")
    assert all(end <= clipped for end,clipped in ends), f'the numbers are cut off: {ends}'
    assert visitor.classify_button.bounding_box()['height'] >= 38
    visitor.context.close()


@pytest.fixture
def no_model(home):
    "The place where the model is looked for, empty for a while; each visit loads what is there."
    file, kept = home/'export.pkl', home/'kept'
    file.rename(kept)
    yield file
    kept.replace(file)


def test_without_a_model_it_says_so(browser, app, no_model, shots):
    visitor = Visitor(browser, app)
    visitor.told('There is no model yet: run chapter 2')
    assert visitor.classify_button.is_disabled()
    visitor.shoot(shots/'app-6-no-model.png')
    visitor.context.close()


def test_a_pickle_is_refused_on_the_page(browser, app, no_model, tmp_path, shots):
    "Somebody offers a pickle under the name that is looked for: nothing in it is run."
    class Bomb:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'created'),)

    no_model.write_bytes(pickle.dumps(Bomb()))
    visitor = Visitor(browser, app)
    visitor.told('The model in export.pkl cannot be used')
    visitor.told('pickle')
    visitor.shoot(shots/'app-7-pickle.png')
    visitor.context.close()
    assert not (tmp_path/'created').exists()

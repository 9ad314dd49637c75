"""From addresses of images to an application in a notebook: download, look through, export, widgets, clean."""
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from IPython.display import display

import toys
from fastbook_impl.fastbook import *
from fastbook_impl.vision.all import *
from fastbook_impl.vision.widgets import *


@pytest.fixture(scope='module')
def shop(tmp_path_factory):
    "The address of a server with ten images of each kind of toy; the last green bar is broken off."
    folder = toys.draw_toys(tmp_path_factory.mktemp('shop'), each=10)
    half = folder/'green_bar_09.jpg'
    half.write_bytes(half.read_bytes()[:-300])
    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Silent, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


@pytest.fixture(scope='module')
def shelf(shop, tmp_path_factory):
    "A folder with a folder of downloaded images for each kind, without the broken one."
    shelf = Path(tmp_path_factory.mktemp('work')/'shelf')
    for kind in toys.KINDS: download_images(shelf/kind, urls=[f'{shop}/{kind}_{i:02}.jpg' for i in range(10)] + [f'{shop}/sold_out.jpg'])
    return shelf


@pytest.fixture(scope='module')
def broken(shelf):
    "What `verify_images` finds, taken away."
    found = verify_images(get_image_files(shelf))
    found.map(Path.unlink)
    return found


@pytest.fixture(scope='module')
def learner(shelf, broken):
    set_seed(7)
    block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, splitter=RandomSplitter(valid_pct=.25, seed=7), get_y=parent_label,
                      item_tfms=RandomResizedCrop(32, min_scale=.6), batch_tfms=aug_transforms())
    trained = vision_learner(block.dataloaders(shelf, bs=6), resnet18, metrics=error_rate, path=shelf.parent)
    with trained.no_bar(), trained.no_logging(): trained.fine_tune(1)
    return trained


def test_one_address_is_downloaded_to_a_file(shop, tmp_path):
    download_url(f'{shop}/red_ball_03.jpg', tmp_path/'ball.jpg')
    assert Image.open(tmp_path/'ball.jpg').size == (56, 44)


def test_addresses_that_answer_become_files_and_dead_ones_do_not(shelf, broken):
    assert {o.name: len(o.ls()) for o in shelf.ls()} == {'red_ball': 10, 'blue_brick': 10, 'green_bar': 9}


def test_images_that_cannot_be_read_are_listed_as_an_L_of_paths(shelf, broken):
    assert isinstance(broken, L) and len(broken) == 1 and broken[0].parent.name == 'green_bar'
    assert not verify_images(get_image_files(shelf))


def test_a_parent_folder_is_a_label(learner):
    assert list(learner.dls.vocab) == sorted(toys.KINDS)
    assert {parent_label(f) for f in learner.dls.train_ds.items} == set(toys.KINDS)


def test_export_writes_one_file_beside_the_data_that_predicts_the_same(learner, shelf):
    learner.export()
    assert [o.name for o in shelf.parent.ls(file_exts='.pkl')] == ['export.pkl']
    loaded, item = load_learner(shelf.parent/'export.pkl'), shelf/'red_ball'
    image = item.ls().sorted()[0]
    label, number, probs = loaded.predict(image)
    assert loaded.dls.vocab[number] == label and list(loaded.dls.vocab) == list(learner.dls.vocab)
    assert torch.equal(probs, learner.predict(image)[2])


def test_a_button_classifies_what_was_uploaded(learner, shelf):
    uploads = SimpleNamespace(data=[shelf.ls().sorted()[0].ls().sorted()[1]])
    answer, shown, go = widgets.Label(), widgets.Output(), widgets.Button(description='Ask')
    def ask(change):
        image = PILImage.create(uploads.data[-1])
        shown.clear_output()
        with shown: display(image.to_thumb(64, 64))
        kind, number, probs = learner.predict(image)
        answer.value = f'{kind} ({probs[number]:.2f})'
    go.on_click(ask)
    go.click()
    assert answer.value.split()[0] in toys.KINDS and go.description == 'Ask'


def test_an_upload_has_its_data_as_a_list_of_bytes():
    assert list(widgets.FileUpload().data) == []


def test_widgets_are_stacked_into_a_page():
    parts = [widgets.Label('Which toy is it?'), widgets.FileUpload(), widgets.Output()]
    assert list(VBox(parts).children) == parts and parts[0].value == 'Which toy is it?'


def test_a_cleaner_tells_what_was_marked_and_the_reader_does_it(learner, shelf):
    "The last test of the file: images go away."
    cleaner = ImageClassifierCleaner(learner)
    assert list(cleaner.delete()) == [] and list(cleaner.change()) == []
    gone, moved, count = cleaner.fns[0], cleaner.fns[1], len(get_image_files(shelf))
    other = next(k for k in toys.KINDS if k != moved.parent.name)
    cleaner.mark(0, '<Delete>')
    cleaner.mark(1, other)
    assert list(cleaner.delete()) == [0] and list(cleaner.change()) == [(1, other)]
    for i in cleaner.delete(): cleaner.fns[i].unlink()
    for i, kind in cleaner.change(): shutil.move(str(cleaner.fns[i]), shelf/kind)
    assert not gone.exists() and not moved.exists() and (shelf/other/moved.name).exists()
    assert len(get_image_files(shelf)) == count - 1

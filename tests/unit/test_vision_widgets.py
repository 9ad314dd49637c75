"The cleaner: nothing on disk without a yes, everything undone by undo; the widgets' values; the book's lines."
import shutil

import ipywidgets
import numpy as np
import pytest
import torch
from fastcore.xtras import Path
from PIL import Image
from torch import nn

from fastbook_impl.data.block import CategoryBlock, DataBlock, MultiCategoryBlock
from fastbook_impl.data.external import get_image_files
from fastbook_impl.learner import Learner
from fastbook_impl.torch_core import set_seed
from fastbook_impl.vision.augment import Resize
from fastbook_impl.vision.data import ImageBlock, ImageDataLoaders
from fastbook_impl.vision.widgets import DELETE, KEEP, ImageClassifierCleaner, ImagesCleaner

COLOURS = dict(red=0, green=1, blue=2)


class Brightest(nn.Module):
    "Says which of the three colours is the strongest: right without any training."
    def __init__(self): super().__init__(); self.scale = nn.Parameter(torch.tensor(10.))
    def forward(self, x): return x.mean((2, 3)).flip(1)*self.scale # blue, green, red: the order of the vocab


@pytest.fixture
def path(tmp_path):
    "Ten pictures of each colour, in a folder each; in `red` there is one more, and it is blue."
    rng = np.random.default_rng(0)
    def draw(folder, k, colour):
        a = rng.integers(0, 60, (12, 16, 3), dtype=np.uint8)
        a[..., COLOURS[colour]] += 100 + 10*k
        (tmp_path/'c'/folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(a).save(tmp_path/'c'/folder/f'{colour}{k}.png')
    for colour in COLOURS:
        for k in range(10): draw(colour, k, colour)
    draw('red', 11, 'blue')
    return tmp_path/'c'


@pytest.fixture
def learn(path):
    set_seed(0)
    dls = ImageDataLoaders.from_folder(path, valid_pct=0.3, seed=1, item_tfms=Resize(8), bs=4, device='cpu')
    assert list(dls.vocab) == ['blue', 'green', 'red']
    return Learner(dls, Brightest())


@pytest.fixture
def cleaner(learn): return ImageClassifierCleaner(learn)


def tree(path): return {str(o.relative_to(path)): o.read_bytes() for o in sorted(path.rglob('*')) if o.is_file()}
def intruder(cleaner): return next(i for i,f in enumerate(cleaner.fns) if f.name == 'blue11.png')
def show(cleaner): cleaner._build(); return cleaner
def button(box, text): return next(o for o in walk(box) if isinstance(o, ipywidgets.Button) and o.description == text)


def walk(box):
    yield box
    for o in getattr(box, 'children', ()): yield from walk(o)


# --- order

def test_the_worst_comes_first_in_its_class_and_set(cleaner):
    k = 0 if intruder(cleaner) < cleaner._start[1] else 1
    assert cleaner.worst(k)[0] == intruder(cleaner) == cleaner.worst(k, 2)[0] and intruder(cleaner) not in cleaner.worst(k, 0)
    for ds in 0, 1:
        assert sorted(i for c in range(3) for i in cleaner.worst(ds, c)) == sorted(cleaner.worst(ds))
        assert all(cleaner.fns[i].parent.name == cleaner.vocab[c] for c in range(3) for i in cleaner.worst(ds, c))
        losses = [cleaner.judged(ds)[i].loss for i in cleaner.worst(ds, 1)]
        assert losses == sorted(losses, reverse=True)
    assert sorted(cleaner.worst(0) + cleaner.worst(1)) == list(range(31)) and len(cleaner.fns) == 31


def test_training_pictures_are_judged_as_they_are(path):
    "Augmentation is left out: two looks give the same losses, and the loader of the training set stays as it was."
    from fastbook_impl.vision.augment import aug_transforms
    dls = ImageDataLoaders.from_folder(path, valid_pct=0.3, seed=1, item_tfms=Resize(8), batch_tfms=aug_transforms(max_lighting=0.9, p_lighting=1.), bs=4, device='cpu')
    learn = Learner(dls, Brightest())
    once, again = (ImageClassifierCleaner(learn).judged(0) for _ in range(2))
    assert once == again and dls.train.shuffle and learn.dls.train is dls.train


def test_the_page_shows_a_class_of_a_set_and_the_next(cleaner):
    show(cleaner)
    assert cleaner.dd_set.options == ('Train', 'Valid') and [o[0] for o in cleaner.dd_class.options] == ['blue', 'green', 'red']
    seen = set()
    for ds in 0, 1:
        for c in range(3):
            cleaner.dd_set.index, cleaner.dd_class.index = ds, c
            assert list(cleaner._cards) == cleaner.worst(ds, c)
            seen |= set(cleaner._cards)
    assert len(seen) == 31
    cleaner.max_n = 2
    cleaner.dd_set.index = cleaner.dd_class.index = 0
    assert len(cleaner._cards_box.children) == 2 and '(2 of ' in cleaner._status.value
    n = len(cleaner.worst(0, 0))
    button(cleaner.widget, '2 more').click()
    assert list(cleaner._cards) == cleaner.worst(0, 0)[:4] and f'(4 of {n} shown)' in cleaner._status.value
    cleaner.mark(cleaner.worst(0, 0)[3], DELETE)
    cleaner.apply()
    assert len(cleaner._cards) == 4 and f'(4 of {n-1} shown)' in cleaner._status.value # (and not two again)


# --- marks

def test_marks_are_kept_from_class_to_class(cleaner):
    show(cleaner)
    a = cleaner.worst(0, 0)[0]
    cleaner._cards[a].choice.value = DELETE
    cleaner.dd_class.index = 1
    b = cleaner.worst(0, 1)[0]
    cleaner._cards[b].choice.value = 'red'
    cleaner.dd_class.index = 0
    assert cleaner._cards[a].choice.value == DELETE
    assert (cleaner.delete(), cleaner.change(), cleaner.values().count(KEEP)) == ([a], [(b, 'red')], 29)
    assert cleaner._status.value == '1 to delete, 1 to move' and repr(cleaner) == 'ImageClassifierCleaner: 31 pictures, 1 to delete, 1 to move'


def test_one_click_deletes_and_one_moves_and_the_second_takes_it_back(cleaner):
    i = intruder(cleaner)
    cleaner.dd_set.index, cleaner.dd_class.index = int(i >= cleaner._start[1]), 2
    show(cleaner)
    card = cleaner._cards[i]
    button(card.box, '→ blue').click()
    assert cleaner.change() == [(i, 'blue')] and '#1565c0' in card.box.layout.border_top
    button(card.box, 'Delete').click()
    assert cleaner.delete() == [i] and cleaner.change() == [] and '#c62828' in card.box.layout.border_top
    button(card.box, 'Delete').click()
    assert cleaner.values().unique() == [KEEP] and 'transparent' in card.box.layout.border_top
    assert len([o for o in walk(card.box) if isinstance(o, ipywidgets.Button)]) == 2
    right = next(c for j,c in cleaner._cards.items() if j != i)
    assert [o.description for o in walk(right.box) if isinstance(o, ipywidgets.Button)] == ['Delete']


def test_what_a_picture_cannot_be(cleaner):
    with pytest.raises(ValueError, match="'whale': use <Keep>, <Delete> or one of "): cleaner.mark(0, 'whale')
    with pytest.raises(IndexError, match='index 31 is out of range: there are 31 images'): cleaner.mark(31, DELETE)
    assert cleaner.history == []
    with pytest.raises(TypeError, match=r"got the single path 'pics': .*get_image_files\('pics'\)"): ImagesCleaner().set_fns('pics')
    assert ImagesCleaner('cat').opts == ['cat']


# --- the disk

def test_nothing_happens_on_disk_before_the_yes(cleaner, path):
    before = tree(path)
    show(cleaner)
    cleaner.mark(0, DELETE); cleaner.mark(5, 'blue'); cleaner.mark(20, 'red')
    button(cleaner.widget, 'Apply …').click()
    assert cleaner._confirm.layout.display == 'flex' and cleaner._question.value == 'Delete 1 image and move 2?'
    button(cleaner.widget, 'No').click()
    assert cleaner._confirm.layout.display == 'none' and tree(path) == before and len(cleaner.marks) == 3


def test_yes_and_undo(cleaner, path):
    "Deleted ones lie where `get_image_files` does not look; undo brings all back, and the marks, too."
    before = tree(path)
    show(cleaner)
    i = cleaner.worst(0, 0)[0]
    name, j = cleaner.fns[i].name, intruder(cleaner)
    cleaner.mark(i, DELETE); cleaner.mark(j, 'blue')
    button(cleaner.widget, 'Apply …').click()
    button(cleaner.widget, 'Yes').click()
    assert cleaner._status.value == '2 files moved; deleted ones are in a folder .deleted'
    names = {str(o.relative_to(path)) for o in get_image_files(path)}
    assert len(names) == 30 and 'blue/blue11.png' in names and f'blue/{name}' not in names and (path/'blue'/'.deleted'/name).exists()
    assert i not in cleaner._cards and not cleaner.marks and cleaner._apply.disabled
    cleaner.mark(i, 'red')
    assert not cleaner.marks, 'what is done cannot be marked'

    button(cleaner.widget, 'Undo').click()
    assert tree(path) == before and cleaner.delete() == [i] and cleaner.change() == [(j, 'blue')] and i in cleaner._cards
    for _ in range(2): button(cleaner.widget, 'Undo').click()
    assert not cleaner.marks and cleaner._undo.disabled
    cleaner.undo()


def test_no_file_is_written_over(cleaner, path):
    shutil.copy(path/'green'/'green1.png', path/'blue'/'blue11.png')
    other = (path/'blue'/'blue11.png').read_bytes()
    moved = (path/'red'/'blue11.png').read_bytes()
    cleaner.mark(intruder(cleaner), 'blue')
    assert cleaner.apply() == []
    assert (path/'blue'/'blue11.png').read_bytes() == other and (path/'blue'/'blue11_1.png').read_bytes() == moved


def test_a_file_that_is_gone_does_not_stop_the_others(cleaner, path):
    cleaner.mark(0, DELETE); cleaner.mark(1, DELETE)
    name = cleaner.fns[0].name
    cleaner.fns[0].unlink()
    show(cleaner)
    assert 0 not in cleaner._cards
    assert cleaner.apply() == [f'{name} no longer exists'] and not cleaner.fns[0].exists() and not cleaner.marks and len(get_image_files(path)) == 29


def test_a_class_without_a_folder(path, tmp_path):
    "Where the label is not the name of the folder, one has to say where a picture goes."
    for f in get_image_files(path): shutil.copy(f, tmp_path/f.name)
    flat = ImageDataLoaders.from_name_re(tmp_path, get_image_files(tmp_path, recurse=False), r'^([a-z]+)\d', seed=1, item_tfms=Resize(8), bs=4, device='cpu')
    cleaner = show(ImageClassifierCleaner(Learner(flat, Brightest())))
    cleaner.mark(3, 'red')
    [said] = cleaner.apply()
    assert said.startswith(f'{cleaner.fns[3].name} ') and 'cannot be moved to red: pass move_to=' in said
    assert cleaner.change() == [(3, 'red')]
    cleaner.move_to = lambda fn, cat: fn.with_name(f'{cat}99.png')
    assert cleaner.apply() == [] and (tmp_path/'red99.png').exists()


def test_the_books_lines(cleaner, path):
    for i in [i for i in range(31) if i != intruder(cleaner)][2:4]: cleaner.mark(i, DELETE)
    cleaner.mark(intruder(cleaner), 'blue')
    for idx in cleaner.delete(): cleaner.fns[idx].unlink()
    for idx,cat in cleaner.change(): shutil.move(str(cleaner.fns[idx]), path/cat)
    assert len(get_image_files(path)) == 29 and (path/'blue'/'blue11.png').exists()


# --- without a learner; what it is not for

def test_any_pictures_with_any_options(path, tmp_path):
    (tmp_path/'broken.jpg').write_bytes(b'x')
    cleaner = ImagesCleaner(opts=('A', 'B'), max_n=5)
    cleaner.set_fns([tmp_path/'broken.jpg', *get_image_files(path)[:9]])
    show(cleaner)
    assert len(cleaner._cards) == 5 and cleaner._cards[0].choice.options == ((KEEP, KEEP), (DELETE, DELETE), ('A', 'A'), ('B', 'B'))
    assert all(o.value[:2] == b'\xff\xd8' for o in walk(cleaner.widget) if isinstance(o, ipywidgets.Image))
    cleaner.mark(1, 'B')
    assert cleaner.change() == [(1, 'B')] and isinstance(cleaner.fns[0], Path)
    cleaner.set_fns(get_image_files(path)[:2])
    assert cleaner.change() == [] and len(cleaner._cards) == 2


def test_a_cleaner_is_for_classifiers(path):
    files = get_image_files(path)
    block = DataBlock((ImageBlock, MultiCategoryBlock), get_y=lambda f: [f.parent.name, 'picture'], item_tfms=Resize(8))
    learn = Learner(block.dataloaders(files, bs=4, device='cpu'), nn.Sequential(nn.Flatten(), nn.Linear(192, 4)))
    with pytest.raises(ValueError, match='needs one label per image.*several labels or numbers'): ImageClassifierCleaner(learn).judged(0)
    arrays = [np.asarray(Image.open(f)) for f in files[:8]]
    block = DataBlock((ImageBlock, CategoryBlock), get_y=lambda a: str(a.mean() > 80), item_tfms=Resize(8))
    learn = Learner(block.dataloaders(arrays, bs=2, device='cpu'), Brightest())
    with pytest.raises(ValueError, match='are not files'): ImageClassifierCleaner(learn)
    learn.dls = type('NoVocab', (), {})()
    with pytest.raises(ValueError, match='no classes'): ImageClassifierCleaner(learn)


def test_labels_that_are_not_words(path):
    dls = ImageDataLoaders.from_name_func(path, get_image_files(path), label_func=lambda n: n[0] == 'r', seed=1, item_tfms=Resize(8), bs=4, device='cpu')
    cleaner = show(ImageClassifierCleaner(Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(192, 2)))))
    cleaner.mark(0, True)
    assert cleaner.change() == [(0, True)] and [o[0] for o in cleaner._cards[cleaner.worst(0, 0)[0]].choice.options] == [KEEP, DELETE, 'False', 'True']


def test_a_table_of_files(path):
    import pandas as pd
    df = pd.DataFrame([(str(f.relative_to(path)), f.parent.name) for f in get_image_files(path)], columns=['name', 'label'])
    dls = ImageDataLoaders.from_df(df, path, seed=1, item_tfms=Resize(8), bs=4, device='cpu')
    cleaner = ImageClassifierCleaner(Learner(dls, Brightest()))
    assert sorted(cleaner.fns) == get_image_files(path).sorted()
    k = int(intruder(cleaner) >= cleaner._start[1])
    assert cleaner.worst(k)[0] == intruder(cleaner)


# --- the widgets of the book

def test_the_books_application_runs_on_todays_widgets(path, learn):
    "`FileUpload.data` was taken away with ipywidgets 8; the book's function reads it."
    from datetime import datetime
    from fastbook_impl.vision.core import PILImage
    from fastbook_impl.fastbook import widgets
    btn_upload, out_pl, lbl_pred, btn_run = widgets.FileUpload(), widgets.Output(), widgets.Label(), widgets.Button(description='Classify')
    assert btn_upload.data == []

    def on_click_classify(change):
        img = PILImage.create(btn_upload.data[-1])
        out_pl.clear_output()
        pred,pred_idx,probs = learn.predict(img)
        lbl_pred.value = f'Prediction: {pred}; Probability: {probs[pred_idx]:.04f}'

    btn_run.on_click(on_click_classify)
    content = (path/'green'/'green3.png').read_bytes()
    btn_upload.value = [dict(name='green3.png', type='image/png', size=len(content), content=memoryview(content), last_modified=datetime(2026, 1, 1))]
    btn_run.click()
    assert lbl_pred.value.startswith('Prediction: green; Probability: 0.')
    assert isinstance(widgets.VBox([widgets.Label('Select your picture!'), btn_upload, btn_run, out_pl, lbl_pred]), ipywidgets.VBox)


@pytest.mark.medium
def test_importing_everything_loads_no_widgets():
    import subprocess, sys
    code = "import sys; from fastbook_impl.fastbook import *; assert 'ipywidgets' not in sys.modules; widgets.Button(); assert 'ipywidgets' in sys.modules"
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0

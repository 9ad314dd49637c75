"The drawn street scenes: the original's layout, masks that hold nothing but classes and fit their pictures, and drives that are drives."
import hashlib
from functools import partial

import numpy as np
import pytest
from PIL import Image

from fastbook_impl.data.external import URLs, get_image_files, untar_data
from fastbook_impl.samples.core import find_sample
from fastbook_impl.samples.camvid import CODES, COLOURS, DRIVES, View, draw_street, make_camvid, make_camvid_tiny, paint_mask, plan

VOID = CODES.index('Void')


def digest(image): return hashlib.sha256(image.tobytes()).hexdigest()
def frame(drive, i): return DRIVES[drive].files.format(DRIVES[drive].first + 30*i)


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    dest = tmp_path_factory.mktemp('camvid_tiny')
    make_camvid_tiny(dest, frames=(3, 4))
    return dest


@pytest.fixture(scope='module')
def masks(tiny): return {o.name: np.array(Image.open(o)) for o in sorted((tiny/'labels').iterdir())}


def test_the_samples_are_registered():
    assert find_sample('CAMVID_TINY').make is make_camvid_tiny and find_sample('CAMVID').make is make_camvid


def test_untar_data_makes_it(home, monkeypatch, capsys):
    monkeypatch.setenv('FASTBOOK_DATA', 'sample')
    monkeypatch.setattr(find_sample('CAMVID_TINY'), 'make', partial(make_camvid_tiny, frames=(1, 1)))
    path = untar_data(URLs.CAMVID_TINY)
    assert path.name == 'camvid_tiny' and len(get_image_files(path/'images')) == len(DRIVES)
    assert 'CAMVID_TINY: built-in sample' in capsys.readouterr().out


def test_layout(tiny):
    assert sorted(o.name for o in tiny.iterdir()) == ['codes.txt', 'images', 'labels']
    images, labels = sorted((tiny/'images').iterdir()), sorted((tiny/'labels').iterdir())
    assert len(images) == 6*3 + 4 and [f'{o.stem}_P.png' for o in images] == [o.name for o in labels]
    assert {o.stem.split('_')[0] for o in images} == set(DRIVES)
    for image, label in zip(images, labels):
        with Image.open(image) as a, Image.open(label) as b: assert (a.size, a.mode, b.size, b.mode) == ((128, 96), 'RGB', (128, 96), 'L')


def test_codes_are_the_originals(tiny):
    codes = np.loadtxt(tiny/'codes.txt', dtype=str)
    assert codes.tolist() == CODES and len(CODES) == 32 and (tiny/'codes.txt').read_bytes().endswith(b'VegetationMisc\nVoid\nWall\n')
    assert codes[[0, 4, 17, 21, 30]].tolist() == ['Animal', 'Building', 'Road', 'Sky', 'Void']
    assert len({tuple(c) for c in COLOURS.tolist()}) == 32


def test_camvid_names_a_drive_to_validate_with(tmp_path):
    make_camvid(tmp_path, frames=(1, 2))
    valid = (tmp_path/'valid.txt').read_text().splitlines()
    assert valid == ['0016E5_00390.png', '0016E5_00420.png']
    names = {o.name for o in get_image_files(tmp_path/'images')}
    assert set(valid) < names and not [n for n in names - set(valid) if n.startswith('0016E5')] and len(names) == 6 + 2
    with Image.open(tmp_path/'images'/valid[0]) as a, Image.open(tmp_path/'labels'/'0016E5_00390_P.png') as b: assert a.size == b.size == (480, 360)


def test_masks_hold_classes_and_nothing_else(masks):
    every = np.stack(list(masks.values()))
    share = np.bincount(every.ravel(), minlength=32)/every.size
    assert every.dtype == np.uint8 and every.max() < len(CODES)
    assert (share > 0).sum() >= 20 and share.max() < .4
    assert 0 < share[VOID] < .07
    for name in 'Sky Building Road Tree Sidewalk'.split(): assert all((m == CODES.index(name)).any() for m in masks.values() if name != 'Tree'), name


def test_the_sky_is_above_and_the_road_below(masks):
    for name, mask in masks.items():
        rows = {c: np.nonzero(mask == CODES.index(c))[0] for c in ('Sky', 'Road')}
        assert rows['Sky'].mean() < 40 < 60 < rows['Road'].mean(), name
        assert rows['Road'].min() > 40, name


def test_mask_and_picture_have_one_outline():
    "A red rectangle on grey: what is red in the picture has the number in the mask, to the pixel."
    view = View((240, 180))
    view.image.paste((128, 128, 128), (0, 0, 240, 180))
    view.air = 'ffffff', 1e9
    view.face('Car', -4.3, -.2, 9, .3, 2.2, 'ff0000')
    view.strip('Road', 1, 3, 'ff0000', 4, 20)
    view.stand('Pedestrian', 2, 8).fill([(0, -2), (.5, -1), (0, 0)], 'ff0000')
    red = (np.asarray(view.image) == (255, 0, 0)).all(2)
    mask = np.asarray(view.mask)
    assert red.sum() > 2000 and (red == (mask != VOID)).all()
    assert set(np.unique(mask)) == {CODES.index(o) for o in ('Car', 'Road', 'Pedestrian', 'Void')}


def test_what_is_twice_as_far_is_half_as_large():
    view = View((480, 360), x=0)
    (a, b), (c, d) = ([view.spot(x, 1, z) for x in (0, 1)] for z in (5, 10))
    assert np.isclose(b[0]-a[0], 2*(d[0]-c[0]))
    assert np.isclose(view.spot(0, 1.6, 5)[1], view.spot(0, 1.6, 50)[1]) and view.spot(3, 0, .1) == view.spot(3, 0, 1)


def test_pictures_are_the_same_each_time():
    import random
    state, np_state = random.getstate(), np.random.get_state()[1].tolist()
    first, again, other = (draw_street(n, (128, 96)) for n in ('Seq05VD_f00060', 'Seq05VD_f00060', 'Seq05VD_f00090'))
    assert [digest(o) for o in first] == [digest(o) for o in again] != [digest(o) for o in other]
    assert random.getstate() == state and np.random.get_state()[1].tolist() == np_state


def test_a_plan_does_not_change_by_being_used():
    before = [[(o.draw.__name__, o.s, o.x, o.seed) for o in part] for part in plan('0006R0')[:2]]
    draw_street(frame('0006R0', 2), (128, 96))
    assert before == [[(o.draw.__name__, o.s, o.x, o.seed) for o in part] for part in plan('0006R0')[:2]]


def test_neighbours_in_a_drive_are_more_alike_than_drives():
    labels = {d: [np.asarray(draw_street(frame(d, i), (64, 48))[1]) for i in (2, 3, 4)] for d in ('0011R0', 'Seq02VD', '0001TP')}
    same = np.mean([(a == b).mean() for o in labels.values() for a, b in zip(o, o[1:])])
    other = np.mean([(labels[a][i] == labels[b][i]).mean() for a in labels for b in labels if a != b for i in range(3)])
    assert other < same < .95


@pytest.mark.parametrize('name', ['0099XX_00030', 'street', '0016E5_x', '0016E5'])
def test_a_frame_that_is_not_there(name):
    with pytest.raises(ValueError) as e: draw_street(name)
    assert str(e.value).startswith(f'There is no frame {name!r}; frames are named like 0001TP_006690, ')


@pytest.mark.parametrize('drive', DRIVES)
def test_every_drive_to_its_end(drive):
    for i in (0, 17, 29):
        image, mask = draw_street(frame(drive, i), (64, 48))
        assert image.size == mask.size == (64, 48) and image.mode == 'RGB'
        assert np.asarray(image).std() > 15 and paint_mask(mask).mode == 'RGB'


def test_no_colour_tells_the_class():
    "Grey roads, grey houses, grey skies: the best class for every colour is often wrong in a drive not seen before."
    frames = [(d, *draw_street(frame(d, i), (64, 48))) for d in DRIVES for i in (1, 9)]
    x, y = (np.stack([np.asarray(o[k]) for o in frames]) for k in (1, 2))
    valid = np.array([o[0] == '0016E5' for o in frames])
    keys = (x//16).astype(int) @ [256, 16, 1]
    counts = np.zeros((4096, 32))
    np.add.at(counts, (keys[~valid].ravel(), y[~valid].ravel()), 1)
    guess = np.where(counts.sum(1) > 0, counts.argmax(1), CODES.index('Road'))
    known = y[valid] != VOID
    assert (guess[keys[valid]] == y[valid])[known].mean() < .8


def test_the_books_code_of_chapter_1(tiny):
    from fastbook_impl.vision.all import SegmentationDataLoaders, TensorImage, TensorMask, plt
    path = tiny
    dls = SegmentationDataLoaders.from_label_func(
        path, bs=8, fnames=get_image_files(path/"images"),
        label_func=lambda o: path/'labels'/f'{o.stem}_P{o.suffix}',
        codes=np.loadtxt(path/'codes.txt', dtype=str))
    xb, yb = dls.one_batch()
    assert type(xb) is TensorImage and type(yb) is TensorMask and xb.shape == (8, 3, 96, 128) and yb.shape == (8, 96, 128)
    assert int(yb.max()) < 32 and list(dls.vocab) == CODES
    dls.show_batch(max_n=4)
    plt.close('all')

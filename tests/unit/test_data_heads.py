"The drawn Biwi heads: the original's layout, formats and camera, and heads that are where, and turned as, their files say."
import hashlib
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fastbook_impl.samples import biwi as heads
from fastbook_impl.data.external import URLs, get_image_files, untar_data
from fastbook_impl.samples.biwi import PEOPLE, Person, Pose, View, draw_head, draw_person, make_heads, pose_at, project, rotation
from fastbook_impl.samples.core import find_sample


def digest(image): return hashlib.sha256(image.tobytes()).hexdigest()


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    dest = tmp_path_factory.mktemp('biwi')
    make_heads(dest, per_person=2)
    return dest


def test_the_sample_is_registered():
    assert find_sample('BIWI_HEAD_POSE').make is make_heads


def test_untar_data_makes_it(home, monkeypatch):
    monkeypatch.setattr(find_sample('BIWI_HEAD_POSE'), 'make', partial(make_heads, per_person=1))
    path = untar_data(URLs.BIWI_HEAD_POSE)
    assert path.name == 'biwi_head_pose' and len(get_image_files(path)) == len(PEOPLE) and (path/'13').is_dir()


def test_layout(small):
    assert len(PEOPLE) == 24 and sorted(o.name for o in small.iterdir()) == [f'{n:02}' for n in range(1, 25)]
    assert Counter(o.suffix for o in small.rglob('*') if o.is_file()) == {'.jpg': 48, '.txt': 48, '.cal': 24}
    for number in PEOPLE:
        frames = heads._frames(number, 20)
        assert frames[:1] == [3] and frames[:7] == heads._frames(number, 7) and np.diff(frames).min() >= 5
        assert {o.name for o in (small/number).iterdir()} == {'rgb.cal', *(f'frame_{f:05}_{o}' for f in frames[:2] for o in ('rgb.jpg', 'pose.txt'))}


def test_format_of_the_text_files(small):
    assert (small/'07'/'rgb.cal').read_bytes() == (b'517.679 0 320 \n0 517.679 240.5 \n0 0 1 \n\n0 0 0 0 \n\n'
                                                   b'1 0 0 \n0 1 0 \n0 0 1 \n\n0 0 0 \n\n640 480 \n')
    lines = (small/'07'/'frame_00003_pose.txt').read_text().split('\n')
    assert [len(o.split()) for o in lines] == [3, 3, 3, 0, 3, 0] and all(o.endswith(' ') for o in lines if o)


@pytest.mark.medium
def test_the_books_code(small):
    from fastbook_impl.vision.all import DataBlock, FuncSplitter, ImageBlock, PILImage, PointBlock, aug_transforms, tensor
    path = small
    img_files = get_image_files(path)
    def img2pose(x): return Path(f'{str(x)[:-7]}pose.txt')
    assert img2pose(img_files[0]).exists()
    im = PILImage.create(img_files[0])
    assert im.shape == (480, 640)
    cal = np.genfromtxt(path/'01'/'rgb.cal', skip_footer=6)
    assert cal.tolist() == [[517.679, 0, 320], [0, 517.679, 240.5], [0, 0, 1]]
    def get_ctr(f):
        ctr = np.genfromtxt(img2pose(f), skip_header=3)
        c1 = ctr[0] * cal[0][0]/ctr[2] + cal[0][2]
        c2 = ctr[1] * cal[1][1]/ctr[2] + cal[1][2]
        return tensor([c1, c2])
    for f in img_files: assert np.abs(get_ctr(f).numpy() - project(pose_at(f.parent.name, int(f.name[6:11])).centre)).max() < .01
    biwi = DataBlock(blocks=(ImageBlock, PointBlock), get_items=get_image_files, get_y=get_ctr,
                     splitter=FuncSplitter(lambda o: o.parent.name == '13'),
                     batch_tfms=aug_transforms(size=(240, 320)))
    dls = biwi.dataloaders(path, bs=2)
    xb, yb = dls.valid.one_batch()
    assert len(dls.valid_ds) == 2 and xb.shape == (2, 3, 240, 320) and yb.shape == (2, 1, 2) and yb.abs().max() < 1


def test_rotations_are_rotations(small):
    for f in small.rglob('*_pose.txt'):
        R = np.genfromtxt(f, max_rows=3)
        assert np.allclose(R @ R.T, np.eye(3), atol=1e-4) and abs(np.linalg.det(R) - 1) < 1e-4
        assert np.allclose(R, pose_at(f.parent.name, int(f.name[6:11])).turn, atol=1e-5)
    assert np.allclose(rotation(20, 10, 5), rotation(roll=5) @ rotation(yaw=20) @ rotation(pitch=10))


@pytest.fixture
def dotted(monkeypatch):
    "`dotted(pose, point)`: where in the picture a magenta dot is seen that is drawn at `point` of the head."
    def seen(pose, point=(0, 0, 0)):
        def dot(pen, who, view, k, behind):
            if not behind: pen.fill(heads.oval(*view.px(point), 5, 5), 'ff00ff')
        monkeypatch.setitem(heads.STYLES, 'dot', dot)
        monkeypatch.setitem(PEOPLE, '99', Person('e8b08a', 'dot', place='studio'))
        r, g, b = np.moveaxis(np.asarray(draw_person('99', pose)).astype(int), 2, 0)
        y, x = np.nonzero((r-g > 150) & (b-g > 150))
        assert len(x) > 40
        return np.array([x.mean()+.5, y.mean()+.5])
    return seen


@pytest.mark.parametrize('pose', [Pose(), Pose(40, -20, 10, 150, -80, 800), Pose(-55, 25, -15, -230, 60, 1050)])
def test_the_centre_in_the_file_is_the_centre_in_the_picture(dotted, pose):
    assert np.abs(dotted(pose) - project(pose.centre)).max() < .5


def test_the_face_turns_with_the_matrix(dotted):
    nose = (0, 27, -111)
    front = dotted(Pose(), nose)
    assert (dotted(Pose(yaw=35), nose) - front)[0] > 20 and (dotted(Pose(pitch=25), nose) - front)[1] < -20
    ear = (80, 0, 0)
    assert (dotted(Pose(roll=20), ear) - dotted(Pose(), ear))[1] > 10


def extent(pose):
    "First and last column and the top row of what a bald person with both ears changes in the picture, above the chin."
    with_head, without = (np.asarray(draw_person('16', replace(p))).astype(int) for p in (pose, replace(pose, x=0, y=2000)))
    changed = np.abs(with_head - without).sum(2) > 60
    cols = np.flatnonzero(changed[:int(project(pose.centre)[1])+5].any(0))
    return cols[0], cols[-1]+1, np.flatnonzero(changed.any(1))[0]


def test_a_head_is_drawn_around_its_centre_and_smaller_when_farther():
    near, far = (extent(Pose(y=-40, z=z)) for z in (750, 1050))
    for left, right, top in (near, far): assert abs((left+right)/2 - 320) < 1
    size = [right-left for left, right, _ in (near, far)]
    assert abs(size[0]/size[1] - 1050/750) < .04
    height = 2*(project((0, -40, 900))[1] - extent(Pose(y=-40, z=900))[2])
    assert 145 < height < 200  # of the head, in pixels


def test_the_picture_of_an_ellipsoid_is_the_outline_of_its_points():
    view, ball = View(rotation(30, 20, 10) @ np.diag([1, 1.1, .9]), (180, -90, 800)), (10, -20, 5, 60, 90, 70)
    rng = np.random.default_rng(0)
    p = rng.normal(size=(4000, 3))
    p = p/np.linalg.norm(p, axis=1)[:, None]*ball[3:] + ball[:3]
    px = view.px(p)
    (mid, m), = view.ellipses(ball)
    d = np.einsum('ni,ij,nj->n', px-mid, np.linalg.inv(m), px-mid)
    assert d.max() < 1+1e-9 and d.max() > .99
    assert np.abs(view.outline(ball).max(0) - px.max(0)).max() < 1


def test_caps():
    view, ball = View(np.eye(3), (0, 0, 900)), (0, 0, 0, 80, 80, 80)
    assert len(view.cap(ball, (0, 0, 1), .5)) == 0                           # at the back: not seen
    whole = view.cap(ball, (0, 0, 1), -1)
    assert np.abs(whole.max(0) - view.outline(ball).max(0)).max() < .5
    top = view.cap(ball, (0, -1, 0), 0)
    assert top[:, 1].max() < 246 and np.abs(top[:, 0].min() - whole[:, 0].min()) < .5


@pytest.mark.parametrize('number', PEOPLE)
def test_every_person(number):
    image = draw_head(number, 3)
    assert image.mode == 'RGB' and image.size == (640, 480)


def test_pictures_are_the_same_each_time_and_change_slowly():
    first, again, later = draw_head('13', 3), draw_head('13', 3), draw_head('13', 4)
    assert digest(first) == digest(again) != digest(later)
    assert np.abs(np.asarray(first).astype(int) - np.asarray(later)).mean() < 6
    steps = [np.linalg.norm(project(pose_at(n, f).centre) - project(pose_at(n, f+1).centre)) for n in PEOPLE for f in range(0, 240, 7)]
    assert max(steps) < 12


def test_heads_are_all_over_the_picture_and_inside_it():
    at = np.array([project(pose_at(n, f).centre) for n in PEOPLE for f in heads._frames(n, 20)])
    assert at.min(0).min() > 60 and (at.max(0) < (580, 370)).all() and np.hypot(*(at - (320, 240)).T).mean() > 64
    turns = np.array([[p.yaw, p.pitch, p.roll] for n in PEOPLE for p in [pose_at(n, f) for f in heads._frames(n, 20)]])
    assert (np.abs(turns).max(0) <= (62, 30, 20)).all() and (turns.std(0) > (20, 9, 6)).all()

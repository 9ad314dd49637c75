"Augmentation: draws as promised, one sampling, and everything that belongs to a picture goes where the picture goes."
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from fastbook_impl.data.parallel import thread_map, thread_stack
from fastbook_impl.data.transforms import IntToFloatTensor, Pipeline, ToTensor
from fastbook_impl.torch_core import TensorCategory, TensorImage, TensorImageBW, TensorMask, TensorPoint, plain, set_seed, tensor
from fastbook_impl.vision import augment
from fastbook_impl.vision.augment import *
from fastbook_impl.vision.core import PILImage, PILImageBW, PILMask, TensorBBox, scale_points, unscale_points

one = torch.zeros(1)

def smooth(h, w, seed=0):
    "A smooth random picture, bytes (3, h, w)."
    g = torch.Generator().manual_seed(seed)
    return (F.interpolate(torch.rand(1, 3, 8, 8, generator=g), (h, w), mode='bicubic', align_corners=False)[0].clamp(0, 1)*255).byte()

def spot(x, y, h, w, s=2.):
    "A picture (3, h, w), floats, with a soft spot around column x and row y."
    d = (torch.arange(w) - x)[None]**2 + (torch.arange(h) - y)[:, None]**2
    return (-d/(2*s*s)).exp().expand(3, h, w)

def centre(x):
    "Column and row of the spot's centre of gravity."
    x = plain(x).float()
    x = x[0] if x.ndim == 3 else x
    x = x*(x > 0.1*x.max())
    return torch.stack([(s*torch.arange(len(s))).sum()/s.sum() for s in (x.sum(0), x.sum(1))])

@pytest.fixture
def photo(tmp_path):
    fn = tmp_path/'a.png'
    Image.fromarray(smooth(120, 180).permute(1, 2, 0).numpy()).save(fn)
    return PILImage.create(fn)


# items

@pytest.mark.parametrize('size, want', [(64, (64, 64)), ((40, 80), (80, 40)), ([50, 30], (30, 50))])
@pytest.mark.parametrize('method', ['crop', 'pad', 'squish'])
@pytest.mark.parametrize('shape', [(120, 180), (180, 120), (64, 64), (30, 20), (1, 1), (7, 300)])
def test_resize_sizes(size, want, method, shape):
    im = PILImage.create(np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8))
    for split_idx in (0, 1):
        out = Resize(tuple(size) if isinstance(size, list) else size, method=method)(im, split_idx=split_idx)
        assert type(out) is PILImage and out.size == want and out.pixels().shape == (*want[::-1], 3)

def test_resize_centre_and_corners(photo):
    whole = resize_pixels(photo.pixels(), (96, 64))
    assert np.array_equal(Resize(64)(photo, split_idx=1).pixels(), whole[:, 16:80])
    places = set()
    set_seed(0)
    r = Resize(64)
    for _ in range(200):
        out = r(photo, split_idx=0).pixels()
        places.add(int(r.pcts[0]*32))
        assert np.array_equal(out, whole[:, int(r.pcts[0]*32):][:, :64])
    assert min(places) == 0 and max(places) == 31 and len(places) > 25                    # uniform over the places there are

def test_resize_unknown_method():
    with pytest.raises(ValueError, match="squish, crop, pad, got 'stretch'|crop, pad, squish, got 'stretch'"): Resize(64, method='stretch')

def test_resize_as_pil_does(photo):
    for size in ((90, 60), (64, 64), (300, 200), (37, 91)):
        ours = resize_pixels(photo.pixels(), size).astype(int)
        assert np.abs(ours - np.array(Image.fromarray(photo.pixels()).resize(size, Image.Resampling.BILINEAR))).max() <= 1
    grey = photo.convert('L')
    assert np.abs(resize_pixels(np.array(grey), (50, 40)).astype(int) - np.array(grey.resize((50, 40), Image.Resampling.BILINEAR))).max() <= 1

def test_oblong_picture_needs_little_memory():
    thin = np.zeros((4, 20000, 3), np.uint8); thin[:, 9990:10010] = 255
    out = Resize(224)(PILImage.create(thin), split_idx=1).pixels()                        # the whole would have 1,120,000 columns
    assert out.shape == (224, 224, 3) and out.mean() > 250

def test_pad_modes(photo):
    for mode, edge in (('zeros', 0), ('border', None), ('reflection', None)):
        out = Resize(90, 'pad', pad_mode=mode)(photo, split_idx=1).pixels()
        inner = resize_pixels(photo.pixels(), (90, 60))
        assert np.array_equal(out[15:75], inner)
        want = {'zeros': 0*inner[0], 'border': inner[0], 'reflection': inner[1]}[mode]
        assert np.array_equal(out[14], want)

@pytest.mark.parametrize('tfm', [lambda: Resize(64), lambda: Resize((40, 100)), lambda: Resize(64, 'pad', pad_mode='zeros'), lambda: Resize((40, 100), 'squish'), lambda: CropPad(90), lambda: CropPad(300),
                                 lambda: RandomCrop(80), lambda: RandomCrop(250), lambda: RandomResizedCrop(64, min_scale=0.5), lambda: RatioResize(100), lambda: FlipItem(1.),
                                 lambda: DihedralItem()])
@pytest.mark.parametrize('split_idx', [0, 1])
@pytest.mark.parametrize('place', [(100., 50.), (70., 90.)])
def test_marked_pixel_item(tfm, split_idx, place, tmp_path):
    pic = PILImage.create(spot(*place, 120, 180, 4.))
    f = tfm()
    for seed in range(6):
        set_seed(seed)
        p = scale_points(TensorPoint([place]), (180, 120))
        box = TensorBBox(torch.cat([p, p], -1))
        x, q, b, label = f((pic, p, box, 'cat'), split_idx=split_idx)
        there = unscale_points(plain(q)[0], x.size)
        w, h = x.size
        assert label == 'cat' and type(q) is TensorPoint and type(b) is TensorBBox and torch.allclose(plain(b)[0], plain(q)[0].repeat(2), atol=1e-5)
        if not (12 < there[0] < w-12 and 12 < there[1] < h-12): continue                  # the spot is cut
        assert (centre(torch.from_numpy(x.pixels()).permute(2, 0, 1)) - there).abs().max() < 0.12

def test_points_need_their_picture():
    with pytest.raises(ValueError, match='Resize needs the image to place its points.*this item has no image'): Resize(64)((TensorPoint([[0., 0.]]),))

def test_mask_goes_with_its_picture(tmp_path, photo):
    codes = (photo.pixels()[..., 0] > 128).astype(np.uint8)*11
    mask = PILMask.create(codes)
    for f in (Resize(60), Resize((40, 70), 'pad'), RandomCrop(90), RandomResizedCrop(60, min_scale=0.4), FlipItem(0.5), DihedralItem(), Resize(50, 'squish')):
        for seed in range(5):
            set_seed(seed)
            x, m = f((photo, mask), split_idx=0)
            assert type(m) is PILMask and set(np.unique(m.pixels())) <= {0, 11} and m.size == x.size
            assert ((x.pixels()[..., 0] > 128) == (m.pixels() == 11)).mean() > 0.97

def test_mask_of_another_size(tmp_path, photo):
    fn = tmp_path/'m.png'
    Image.fromarray(np.zeros((10, 20), np.uint8)).save(fn)
    with pytest.raises(ValueError) as e: Resize(32)((photo, PILMask.create(fn)))
    assert f'{fn} is 20x10, but its image {photo.fn} is 180x120' in str(e.value)
    two = Resize(32)((photo, PILImage.create(np.zeros((5, 6, 3), np.uint8)), tensor(1)))   # two pictures may well have two sizes
    assert [o.size for o in two[:2]] == [(32, 32)]*2

def test_random_crop_draws_all_places():
    im = PILImage.create(np.arange(6, dtype=np.uint8)[None].repeat(4, 0)[..., None].repeat(3, -1))
    set_seed(0)
    seen = [RandomCrop(4)(im, split_idx=0).pixels()[0, 0, 0] for _ in range(300)]
    assert {int(s) for s in seen} == {0, 1, 2} and min(seen.count(i) for i in (0, 1, 2)) > 70
    assert RandomCrop(4)(im, split_idx=1).pixels()[0, 0, 0] == 1

def test_random_resized_crop_draws():
    set_seed(0)
    ws = np.array([augment.random_window(400, 300, 0.2, 0.8, (3/4, 4/3)) for _ in range(4000)])
    x, y, w, h = ws.T
    share, ratio = w*h/120000, w/h
    assert 0.19 < share.min() < 0.21 and 0.79 < share.max() < 0.81 and 0.74 < ratio.min() and ratio.max() < 1.35
    assert (x >= 0).all() and (y >= 0).all() and (x+w <= 400).all() and (y+h <= 300).all()
    small = share < 0.4                                                                    # where every shape fits the draws are as they were drawn
    assert abs(np.log(ratio[small]).mean()) < 0.02 and abs(share[small].mean() - 0.3) < 0.01
    assert abs((x[small]/(400-w[small])).mean() - 0.5) < 0.03
    assert augment.random_window(1000, 10, 0.9, 1., (3/4, 4/3)) == (493, 0, 13, 10)        # nothing fits: the largest at the centre

def test_random_resized_crop_validates_on_the_centre(photo):
    out = RandomResizedCrop(100)(photo, split_idx=1)
    assert out.size == (100, 100) and np.array_equal(out.pixels(), resize_pixels(photo.pixels(), (116, 116))[8:108, 8:108])

def test_item_transforms_are_reproducible_and_lazy(photo):
    fresh = PILImage.create(photo.fn)
    for f in (Resize(64), RandomResizedCrop(64), FlipItem(), DihedralItem(), RandomCrop(50)):
        set_seed(3); a = f(fresh, split_idx=0)
        set_seed(3); b = f(fresh, split_idx=0)
        later = a
        assert np.array_equal(later.pixels(), b.pixels())
    f = Resize(64)
    set_seed(1); xs = [f(PILImage.create(photo.fn), split_idx=0) for _ in range(5)]        # drawn one after the other ...
    got = thread_map(lambda x: x.pixels(), xs[::-1])[::-1]                                 # ... made in any order
    set_seed(1)
    for g in got: assert np.array_equal(g, f(PILImage.create(photo.fn), split_idx=0).pixels())

def test_other_kinds_of_picture(photo):
    assert type(Resize(32)(PILImageBW.create(photo.fn))) is PILImageBW
    assert ToTensor()(Resize(32)(PILImageBW.create(photo.fn))).shape == (1, 32, 32)
    assert type(Resize(32)(Image.open(photo.fn))) is PILImage
    assert RatioResize(90)(photo).size == (90, 60) and RatioResize(90)(photo.transpose(2)).size == (60, 90)
    assert CropPad((60, 200))(photo).size == (200, 60)


# numbers

def share(x, v): return (x == v).float().mean().item()

def test_draws_of_the_maps():
    x = torch.zeros(20000, 3, 8, 8)
    set_seed(42)
    m = rotate_mat(x, max_deg=10, p=0.75)
    deg = torch.atan2(m[:, 0, 1], m[:, 0, 0])*180/math.pi
    assert abs(share(deg, 0) - 0.25) < 0.02 and -10 <= deg.min() < -9.9 and 9.9 < deg.max() <= 10.001 and abs(deg.std() - 10/3**.5*.75**.5) < 0.1
    z = 1/zoom_mat(x, min_zoom=0.8, max_zoom=1.1, p=0.75)[:, 0, 0]
    assert abs(share(z, 1) - 0.25) < 0.02 and 0.8 <= z.min() < 0.81 and 1.09 < z.max() <= 1.1001
    m = zoom_mat(x, min_zoom=1.5, max_zoom=1.5, p=1)
    at = m[:, :2, 2]/(1-1/1.5)
    assert at.min() < -0.99 and at.max() > 0.99 and at.mean().abs() < 0.02
    f = flip_mat(x, p=0.3)[:, 0, 0]
    assert abs(share(f, -1) - 0.3) < 0.02 and share(f, 1) + share(f, -1) == 1
    d = dihedral_mat(x, p=0.5)[:, :2, :2].flatten(1)
    kinds, n = d.unique(dim=0, return_counts=True)
    assert len(kinds) == 8 and abs(n.max()/20000 - (0.5+0.5/8)) < 0.02 and abs(n.sort().values[:7].float()/20000 - 0.5/8).max() < 0.01
    w = warp_mat(x, magnitude=0.2, p=0.75)
    assert abs((w == torch.eye(3)).all(-1).all(-1).float().mean() - 0.25**2) < 0.01

def test_draws_of_the_lights():
    x = torch.full((6000, 3, 1, 1), 0.3).as_subclass(TensorImage)
    set_seed(42)
    for tfm, back, neutral, lo, hi in ((Brightness(0.2), lambda y: (y.logit() - torch.tensor(.3).logit()).sigmoid(), 0.5, 0.4, 0.6),
                                       (Contrast(0.2), lambda y: y.logit()/torch.tensor(.3).logit(), 1, 0.8, 1.25)):
        d = back(plain(tfm(x)))[:, 0, 0, 0]
        same = (d - neutral).abs() < 1e-4
        assert abs(same.float().mean() - 0.25) < 0.02 and abs(d.min() - lo) < 0.005 and abs(d.max() - hi) < 0.005
        mid = d[~same].log().mean() if neutral == 1 else d[~same].mean()
        assert abs(mid - (0 if neutral == 1 else 0.5)) < 0.01                               # uniform, or uniform in the logarithm

def test_one_draw_for_a_batch():
    x = TensorImage(smooth(40, 40)[None].repeat(16, 1, 1, 1))
    set_seed(0)
    for tfms in (aug_transforms(size=20, batch=True), [Rotate(batch=True), Hue(batch=True), Saturation(batch=True)], [RandomResizedCropGPU(20, batch=True)]):
        y = Pipeline(tfms, split_idx=0)(x)
        assert (y - y[:1]).abs().max() == 0
    y = Pipeline(aug_transforms(size=20), split_idx=0)(x)
    assert len({tuple(o.flatten()[:50].tolist()) for o in y}) == 16

def test_draw_may_be_numbers_lists_and_functions():
    x = torch.zeros(3, 1, 4, 4)
    assert torch.allclose(rotate_mat(x, draw=90, p=1.)[:, 0, 1], torch.ones(3))
    assert torch.allclose(rotate_mat(x, draw=[0, 90, 30, 9], p=1.)[:, 0, 1], tensor([0, 1, 0.5]))
    assert torch.allclose(rotate_mat(x, draw=lambda x: torch.full((len(x),), 30.), p=1.)[:, 0, 1], torch.full((3,), .5))
    with pytest.raises(ValueError, match='2 numbers for a batch of 3'): rotate_mat(x, draw=[1, 2], p=1.)
    with pytest.raises(ValueError, match='min_zoom=2.0 is larger than max_zoom=1.0'): zoom_mat(x, min_zoom=2., max_zoom=1.)


# one map, one sampling

def test_corners_of_the_warp():
    m = warp_mat(one, draw_x=0.1, draw_y=-0.2, p=1.)
    target = tensor([[-1+.2, -1-.1], [-1-.2, 1+.1], [1-.2, -1+.1], [1+.2, 1-.1]])
    assert torch.allclose(project(target, m[0]), tensor([[-1., -1], [-1, 1], [1, -1], [1, 1]]), atol=1e-5)

@pytest.mark.parametrize('align', [True, False])
@pytest.mark.parametrize('mode', ['bilinear', 'nearest', 'bicubic'])
@pytest.mark.parametrize('pad', ['zeros', 'border', 'reflection'])
def test_sampling_is_grid_sample(align, mode, pad):
    x = torch.stack([smooth(50, 70, i) for i in range(5)])
    m = affine_mat(torch.linspace(.7, 1.2, 5), 0.2, 0.1, -0.1, 0.9, -0.2)
    want = F.grid_sample(x.float()/255, F.affine_grid(m[:, :2], (5, 3, 40, 60), align_corners=align), mode=mode, padding_mode=pad, align_corners=align)
    for src in (x, x.float()/255, x.contiguous(memory_format=torch.channels_last)):
        got = sample_map(src, m, (40, 60), mode=mode, pad_mode=pad, align_corners=align)
        # a coordinate that lies on the border between two pixels may go to either
        assert got.dtype == torch.float32 and ((got - want).abs() < 1e-4).float().mean() > (0.98 if mode == 'nearest' else 0.9999)

def test_only_one_sampling(monkeypatch):
    calls = []
    real = F.grid_sample
    monkeypatch.setattr(F, 'grid_sample', lambda x, *a, **k: calls.append(len(x)) or real(x, *a, **k))
    x = TensorImage(torch.stack([smooth(46, 46, i) for i in range(8)]))
    set_seed(0)
    Pipeline(aug_transforms(size=22, min_scale=0.75, flip_vert=True, min_zoom=0.9), split_idx=0)((x, TensorCategory([1]*8)))
    assert sum(calls) == 8                                                                 # one for each picture

@pytest.mark.parametrize('tfms', [lambda **k: [Flip(p=1., **k)], lambda **k: [Dihedral(p=1., **k)], lambda **k: [Rotate(30, p=1., **k)], lambda **k: [Zoom(0.7, 1.5, p=1., **k)],
                                  lambda **k: [Warp(0.3, p=1., **k)], lambda **k: [RandomResizedCropGPU(k['size'] or 100, min_scale=0.4, **{n: k[n] for n in ('align_corners', 'pad_mode')})],
                                  lambda **k: aug_transforms(max_lighting=0, max_rotate=40., max_warp=0.3, min_zoom=0.7, flip_vert=True, p_affine=1., **k),
                                  lambda **k: aug_transforms(max_lighting=0, max_rotate=40., min_scale=0.5, flip_vert=True, p_affine=1., **{**k, 'size': k['size'] or 100})])
@pytest.mark.parametrize('size', [None, 80, (60, 90)])
@pytest.mark.parametrize('align_corners', [True, False])
@pytest.mark.parametrize('src', [(100, 100), (90, 140)])
def test_marked_pixel_batch(tfms, size, align_corners, src):
    "Every pixel marked goes where its point goes, to a tenth of a pixel; masks and boxes too."
    h, w = src
    g = torch.Generator().manual_seed(0)
    places = torch.rand(16, 1, 2, generator=g)*torch.tensor([w*.5, h*.5]) + torch.tensor([w*.25, h*.25])
    x = TensorImage(torch.stack([spot(*p[0], h, w, 2.) for p in places]))
    mask = (plain(x)[:, 0] > 0.3).long().as_subclass(TensorMask)
    pts = scale_points(places, (w, h)).as_subclass(TensorPoint)
    boxes = torch.cat([plain(pts)-.05, plain(pts)+.05], -1).as_subclass(TensorBBox)
    set_seed(1)
    y, m, p, b, label = Pipeline(tfms(size=size, align_corners=align_corners, pad_mode='zeros'), split_idx=0)((x, mask, pts, boxes, TensorCategory(list(range(16)))))
    assert type(y) is TensorImage and type(m) is TensorMask and type(p) is TensorPoint and type(b) is TensorBBox and m.dtype == torch.int64
    assert m.shape == (16, *y.shape[-2:]) and label.tolist() == list(range(16))
    H, W = y.shape[-2:]
    found = 0
    for i in range(16):
        there = unscale_points(plain(p)[i, 0], (W, H))
        if not (10 < there[0] < W-10 and 10 < there[1] < H-10): continue
        found += 1
        assert (centre(y[i]) - there).abs().max() < 0.15, (i, centre(y[i]), there)
        assert (centre(m[i][None]) - there).abs().max() < 0.75
        bx = unscale_points(plain(b)[i, 0].reshape(2, 2), (W, H))
        assert (bx[0] < there).all() and (there < bx[1]).all()
    assert found >= 5

def test_composition_equals_the_steps():
    x = TensorImage(torch.stack([smooth(200, 200, i) for i in range(2)]).float()/255)
    steps = x.affine_coord(sz=150).warp(draw_x=-.2, draw_y=.2, p=1.).rotate(draw=30, p=1.).zoom(draw=1.2, draw_x=.2, draw_y=.7, p=1.)
    tfms = setup_aug_tfms([Rotate(draw=30, p=1, size=150), Zoom(draw=1.2, draw_x=.2, draw_y=.7, p=1., size=150), Warp(draw_x=-.2, draw_y=.2, p=1., size=150)])
    assert len(tfms) == 1
    y = Pipeline(tfms)(x)
    inner = np.s_[..., 30:120, 30:120]
    assert y.shape == steps.shape == (2, 3, 150, 150) and (y - steps)[inner].abs().mean() < 0.01

def test_uint8_and_float_give_the_same():
    x = torch.stack([smooth(92, 92, i) for i in range(4)])
    for make in (lambda: aug_transforms(size=44, min_scale=0.75), lambda: aug_transforms(), lambda: [Rotate()]):
        set_seed(5); a = Pipeline([*make(), IntToFloatTensor()], split_idx=0)(TensorImage(x))
        set_seed(5); b = Pipeline(make(), split_idx=0)(TensorImage(x.float()/255))
        assert a.dtype == torch.float32 and torch.allclose(a, b, atol=1e-5)

def test_validation_only_gets_its_size():
    x = torch.stack([smooth(92, 92, i) for i in range(3)])
    f = Pipeline(aug_transforms(size=44, min_scale=0.75, xtra_tfms=[RandomErasing(p=1.), Hue(), Saturation()]), split_idx=1)
    a, b = f(TensorImage(x)), f(TensorImage(x))
    assert torch.equal(a, b) and torch.equal(plain(a), sample_map(x, torch.eye(3).expand(3, 3, 3), (44, 44)))
    same = Pipeline(aug_transforms(), split_idx=1)(TensorImage(x))
    assert same.dtype == torch.uint8 and torch.equal(plain(same), x)                        # nothing to do: the bytes as they are

def test_much_smaller_results_are_averaged_first():
    stripes = torch.zeros(1, 3, 512, 512); stripes[..., ::2] = 1                           # finer than the result can show
    y = plain(TensorImage(stripes).affine_coord(sz=64))
    assert y.std() < 0.1 and abs(y.mean() - 0.5) < 0.05

def test_nothing_is_changed_in_place():
    x = torch.stack([smooth(40, 40, i) for i in range(4)]).float().div(255)
    for f in (*aug_transforms(), Saturation(p=1.), Hue(p=1.), Contrast(p=1.), Rotate(p=1.)):
        before = x.clone()
        f(TensorImage(x), split_idx=0)
        assert torch.equal(x, before)

def test_methods_of_tensors():
    x = TensorImage(torch.rand(2, 3, 30, 30))
    for f in (lambda: x.rotate(draw=20, p=1.), lambda: x.zoom(draw=1.3, p=1.), lambda: x.warp(draw_x=.1, draw_y=.1, p=1.), lambda: x.flip_batch(draw=1, p=1.), lambda: x.dihedral_batch(draw=3, p=1.),
              lambda: x.rotate(size=20, draw=20, p=1., mode='nearest', pad_mode='zeros', align_corners=False), lambda: x.brightness(draw=.7, p=1.), lambda: x.contrast(draw=1.3, p=1.),
              lambda: x.saturation(draw=0, p=1.), lambda: x.hue(draw=.2, p=1.), lambda: x.affine_coord(sz=(10, 20)), lambda: x.lighting(lambda l: l*2), lambda: x.dihedral(3), lambda: x.flip_lr()):
        y = f()
        assert type(y) is TensorImage and not torch.equal(y, x) if y.shape == x.shape else True
    assert torch.allclose(x.flip_batch(draw=1, p=1.), x.flip(-1), atol=1e-5)
    assert torch.allclose(x.saturation(draw=0, p=1.).std(1), torch.zeros(2, 30, 30), atol=1e-3)
    m = TensorMask(torch.randint(0, 5, (2, 30, 30)))
    assert torch.equal(m.flip_batch(draw=1, p=1.), m.flip(-1)) and m.rotate(draw=20, p=1.).dtype == torch.int64
    p = TensorPoint(torch.rand(2, 3, 2)*2-1)
    for k in range(8): assert torch.allclose(p.dihedral_batch(draw=k, p=1.), p.dihedral(k), atol=1e-5)
    for k in range(8): assert torch.allclose(x.dihedral_batch(draw=k, p=1.), x.dihedral(k), atol=1e-4)
    b = TensorBBox([[[-.5, -.2, .1, .3]]])
    assert b.flip_lr().shape == (1, 2, 4) or torch.allclose(plain(b.flip_lr()).reshape(-1), tensor([-.1, -.2, .5, .3]))
    assert torch.allclose(plain(b.flip_batch(draw=1, p=1.)), tensor([[[-.1, -.2, .5, .3]]]), atol=1e-6)

def test_books_comparison():
    "The book's own lines: step by step on the left, composed on the right."
    x = TensorImage(torch.stack([smooth(460, 460, i) for i in range(2)]).float()/255)
    x1 = TensorImage(x.clone())
    x1 = x1.affine_coord(sz=224)
    x1 = x1.rotate(draw=30, p=1.)
    x1 = x1.zoom(draw=1.2, p=1.)
    x1 = x1.warp(draw_x=-0.2, draw_y=0.2, p=1.)
    tfms = setup_aug_tfms([Rotate(draw=30, p=1, size=224), Zoom(draw=1.2, p=1., size=224), Warp(draw_x=-0.2, draw_y=0.2, p=1., size=224)])
    y = Pipeline(tfms)(x)
    assert x1.shape == y.shape == (2, 3, 224, 224)

def test_a_plain_tensor_is_a_batch_of_pictures_but_not_in_a_tuple():
    x = torch.rand(2, 3, 30, 30)
    assert type(Rotate(draw=30, p=1.)(x)) is TensorImage and type(Brightness(draw=.8, p=1.)(x)) is TensorImage
    y = Pipeline([Rotate(draw=30, p=1.)])((TensorImage(x), x))[1]
    assert y is x

def test_gradients_pass():
    x = torch.rand(1, 3, 20, 20, requires_grad=True)
    sample_map(x, rotate_mat(x, draw=30, p=1.), (10, 10)).sum().backward()
    colour_map(x, torch.eye(3)[None]*1.2, torch.zeros(1, 3)).sum().backward()
    assert x.grad.abs().sum() > 0

def test_a_map_of_your_own():
    class Wave:                                                                            # neither affine nor projective
        def before_call(self, x): self.n = len(x)
        def __call__(self, coords, invert=False):
            x, y = coords.unbind(-1)
            return torch.stack([x, y + (-1 if invert else 1)*0.1*torch.sin(3*x)], -1)
    place = TensorPoint([[[0.3, -0.2]]])
    pic = TensorImage(spot(*unscale_points(plain(place)[0, 0], (100, 100)), 100, 100)[None])
    tfm = setup_aug_tfms([AffineCoordTfm(coord_fs=Wave()), Rotate(draw=20, p=1.)])[0]
    y, p = tfm((pic, place))
    assert (centre(y[0]) - unscale_points(plain(p)[0, 0], (100, 100))).abs().max() < 0.1
    shear = AffineCoordTfm(aff_fs=lambda x: affine_mat(torch.ones(len(x)), 0.3, 0, 0, 1, 0))
    y, p = shear((pic, place))
    assert (centre(y[0]) - unscale_points(plain(p)[0, 0], (100, 100))).abs().max() < 0.1

def test_a_light_of_your_own():
    class Negative:
        def before_call(self, x): pass
        def __call__(self, l): return -l
    x = TensorImage(torch.rand(2, 3, 5, 5))
    assert torch.allclose(LightingTfm(Negative())(x), 1-x, atol=1e-5)
    both = setup_aug_tfms([LightingTfm(Negative()), Brightness(draw=0.7, p=1.), Saturation(draw=.3, p=1.)])
    assert len(both) == 1 and torch.allclose(both[0](x), (1-x).as_subclass(TensorImage).brightness(draw=.7, p=1.).saturation(draw=.3, p=1.), atol=1e-5)

def test_lights_compose_to_one_map():
    x = TensorImage(torch.rand(6, 3, 9, 9)*0.8 + 0.1)
    ds = dict(draw=torch.linspace(.3, .8, 6)), dict(draw=torch.linspace(.5, 1.5, 6)), dict(draw=torch.linspace(0, 2, 6))
    steps = x.brightness(p=1., **ds[0]).contrast(p=1., **ds[1]).saturation(p=1., **ds[2])
    one_map = setup_aug_tfms([Brightness(p=1., **ds[0]), Contrast(p=1., **ds[1]), Saturation(p=1., **ds[2])])
    assert len(one_map) == 1 and torch.allclose(one_map[0](x), steps, atol=1e-4)
    bw = TensorImageBW(torch.rand(6, 1, 9, 9))
    assert type(one_map[0](bw)) is TensorImageBW

def test_hsv_and_back():
    import colorsys
    x = torch.rand(4, 3, 6, 6); x[0] = 0; x[1, :, 0] = 1; x[2, 1] = x[2, 0]
    hsv = rgb2hsv(x)
    want = torch.tensor([colorsys.rgb_to_hsv(*p) for p in x.permute(0, 2, 3, 1).reshape(-1, 3).tolist()]).view(4, 6, 6, 3).permute(0, 3, 1, 2)
    d = (hsv - want).abs(); d[:, 0] = torch.minimum(d[:, 0], 1-d[:, 0])
    assert d.max() < 1e-5 and torch.allclose(hsv2rgb(hsv), x, atol=1e-5)

def test_erasing():
    set_seed(0)
    x = torch.zeros(3, 3, 64, 64)
    y = RandomErasing(p=1., sl=0.1, sh=0.3)(TensorImage(x.clone()), split_idx=0)
    hit = plain(y).ne(0).any(1)
    assert 0.05 < hit.float().mean() < 0.35 and torch.equal(hit[0], hit[1]) and abs(plain(y)[plain(y) != 0].std() - 1) < 0.1
    assert torch.equal(RandomErasing(p=1.)(TensorImage(x), split_idx=1), x)
    for _ in range(100): RandomErasing(p=1., sh=1., max_count=3)(TensorImage(torch.zeros(1, 3, 5, 5)), split_idx=0)

def test_aug_transforms_arguments():
    names = lambda *a, **k: [type(t).__name__ for t in aug_transforms(*a, **k)]
    assert names() == ['Flip', 'Brightness'] and names(do_flip=False) == ['Warp', 'Brightness'] and names(max_lighting=0.) == ['Flip']
    assert names(do_flip=False, max_warp=0., max_rotate=0., max_zoom=1.) == ['Brightness']
    assert names(do_flip=False, max_warp=0., max_rotate=0., max_zoom=1., max_lighting=0.) == []
    assert names(xtra_tfms=RandomErasing()) == ['Flip', 'Brightness', 'RandomErasing'] and names(xtra_tfms=[Saturation(), Hue()]) == ['Flip', 'Brightness', 'Hue']
    x = TensorImage(torch.rand(4000, 1, 2, 2))
    set_seed(0)
    t = aug_transforms(mult=2., p_affine=1., do_flip=False, max_warp=0., max_zoom=1.)[0]
    t.before_call(x, 0)
    assert 19.9 < (torch.atan2(t.mat[:, 0, 1], t.mat[:, 0, 0])*180/math.pi).max() < 20.01
    assert repr(aug_transforms()[0]).startswith('Flip(')

def test_same_seed_same_pictures_and_the_generator_matters():
    x = TensorImage(torch.stack([smooth(46, 46, i) for i in range(8)]))
    f = Pipeline(aug_transforms(size=22, min_scale=0.75, xtra_tfms=[Saturation(), Hue(), RandomErasing(p=1.)]), split_idx=0)
    out = []
    for _ in range(3): set_seed(11); out.append(f(x))
    assert torch.equal(out[0], out[1]) and torch.equal(out[1], out[2])
    n = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        set_seed(11)
        assert torch.equal(f(x), out[0])                                                   # also with another number of threads
    finally: torch.set_num_threads(n)

def test_black_and_white():
    x = TensorImageBW(torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8))
    y = Pipeline(aug_transforms(size=20), split_idx=0)(x)
    assert type(y) is TensorImageBW and y.shape == (4, 1, 20, 20)


# helpers of threads

def test_thread_map_raises_the_first_error():
    def f(i):
        if i in (7, 3, 11): raise ValueError(str(i))
    for _ in range(30):
        with pytest.raises(ValueError, match='^3$'): thread_map(f, range(20), n=4)
    assert thread_map(lambda i: i, range(5), n=3) == [0, 1, 2, 3, 4]

def test_thread_stack():
    for items in ([torch.rand(3, 200, 200) for _ in range(3)], [torch.randint(0, 255, (200, 300, 3), dtype=torch.uint8).permute(2, 0, 1) for _ in range(3)], [TensorImage(torch.rand(3, 9, 9))]*2,
                  [TensorMask(torch.randint(0, 9, (300, 300)))]*2):
        b = thread_stack(items)
        assert torch.equal(b, torch.stack(items)) and type(b) is type(items[0])


def test_resize_to_a_fraction_of_a_pixel():
    with pytest.raises(TypeError, match=r'integer or \(height, width\), got 80\.0$'): Resize(80.)
    with pytest.raises(TypeError, match="got '80'$"): Resize('80')

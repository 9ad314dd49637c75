"Pictures from files: odd ones, broken ones, and the sentence each failure ends in."
import io
import math
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fastbook_impl.data.transforms import Pipeline, ToTensor
from fastbook_impl.torch_core import TensorImage, TensorImageBW, TensorMask, TensorMultiCategory, TensorPoint, plain
from fastbook_impl.vision.augment import FlipItem, Resize
from fastbook_impl.vision.core import (AddMaskCodes, BBoxLabeler, LabeledBBox, OpenMask, PILImage, PILImageBW, PILMask, PointScaler, TensorBBox,
                                       TensorPointCreate, image2tensor, image_size, load_image, mask_codes, scale_points, to_image, to_mode, unscale_points)


@pytest.fixture(scope='module')
def photo():
    "A smooth picture, lighter to the right, redder to the bottom."
    y, x = np.mgrid[:60, :90]
    return Image.fromarray(np.stack([y*4, x*2, 255-x*2], -1).astype(np.uint8))

def saved(im, path, **kwargs):
    im.save(path, **kwargs)
    return path

def said(f, *args, kind=OSError):
    with pytest.raises(kind) as e: f(*args)
    return str(e.value)


# what is odd about a file

def test_gif_called_jpg(photo, tmp_path):
    fn = saved(photo, tmp_path/'a.jpg', format='GIF')
    im = PILImage.create(fn)
    assert im.mode == 'RGB' and im.size == (90, 60) and np.abs(im.pixels().astype(int) - np.array(photo)).mean() < 10

def test_palette(photo, tmp_path):
    im = PILImage.create(saved(photo.convert('P', palette=Image.Palette.ADAPTIVE), tmp_path/'a.png'))
    assert im.mode == 'RGB' and np.abs(im.pixels().astype(int) - np.array(photo)).mean() < 10

def test_alpha_is_laid_on_white(tmp_path):
    half = Image.new('RGBA', (8, 8), (200, 0, 0, 128)); half.putpixel((0, 0), (7, 7, 7, 0))
    im = PILImage.create(saved(half, tmp_path/'a.png'))
    assert im.getpixel((0, 0)) == (255, 255, 255) and im.getpixel((4, 4)) == (227, 127, 127)
    grey = PILImageBW.create(saved(Image.new('LA', (8, 8), (0, 0)), tmp_path/'b.png'))
    assert grey.getpixel((3, 3)) == 255

def test_transparent_palette_and_transparent_colour(photo, tmp_path):
    p = photo.convert('P'); first = p.getpixel((0, 0))
    assert PILImage.create(saved(p, tmp_path/'a.png', transparency=first)).getpixel((0, 0)) == (255, 255, 255)
    rgb = Image.new('RGB', (4, 4), (1, 2, 3))
    assert PILImage.create(saved(rgb, tmp_path/'b.png', transparency=(1, 2, 3))).getpixel((0, 0)) == (255, 255, 255)

@pytest.mark.parametrize('kind', [PILImage, PILImageBW])
def test_sixteen_bits(tmp_path, kind):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, 0)
    a = kind.create(saved(Image.fromarray(ramp), tmp_path/'a.png')).pixels()
    assert np.abs((a[0] if a.ndim == 2 else a[0, :, 1]).astype(int) - np.arange(256)).max() <= 1

def test_floating_point_and_wide_integers(tmp_path):
    unit = Image.fromarray(np.linspace(0, 1, 11, dtype=np.float32)[None])
    assert np.abs(np.array(to_mode(unit, 'L'))[0] - 25.5*np.arange(11)).max() < 0.51
    wide = Image.fromarray(np.array([[0, 100, 255]], np.int32))
    assert np.array(to_mode(wide, 'L'))[0].tolist() == [0, 100, 255]
    assert PILImage.create(saved(unit, tmp_path/'a.tif')).getpixel((10, 0)) == (255, 255, 255)

def test_cmyk(photo, tmp_path):
    im = PILImage.create(saved(photo.convert('CMYK'), tmp_path/'a.jpg', quality=95))
    assert im.mode == 'RGB' and np.abs(im.pixels().astype(int) - np.array(photo)).mean() < 12

def test_one_bit(tmp_path):
    im = PILImage.create(saved(Image.new('1', (5, 5), 1), tmp_path/'a.png'))
    assert im.getpixel((0, 0)) == (255, 255, 255)

@pytest.mark.parametrize('turn', range(1, 9))
@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp', 'tif'])
def test_upright_whatever_the_camera_says(photo, tmp_path, turn, suffix):
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[turn]          # PIL's transposition that the entry asks to be undone
    lying = photo if undo is None else photo.transpose(undo)
    exif = Image.Exif(); exif[0x0112] = turn
    fn = saved(lying, tmp_path/f'a.{suffix}', exif=exif, **({} if suffix in ('png', 'tif') else {'quality': 100}))
    im = PILImage.create(fn)
    assert im.size == image_size(fn) == (90, 60), 'the size is known without decoding'
    assert im.is_file
    assert np.abs(im.pixels().astype(int) - np.array(photo)).mean() < 4
    assert Resize(30)(PILImage.create(fn)).size == (30, 30)

def test_broken_exif_does_not_matter(photo, tmp_path):
    fn = saved(photo, tmp_path/'a.jpg', exif=b'Exif\0\0' + b'nonsense'*4)
    assert PILImage.create(fn).pixels().shape == (60, 90, 3) and image_size(fn) == (90, 60)


# what cannot be read

def test_truncated(photo, tmp_path):
    whole = saved(photo.resize((300, 200)), tmp_path/'whole.jpg', quality=95).read_bytes()
    fn = tmp_path/'cut.jpg'; fn.write_bytes(whole[:len(whole)//2])
    expected = f'{fn} is truncated or damaged (image file is truncated'
    for look in (lambda im: im.load(), lambda im: im.resize((10, 10)), np.array, lambda im: im.pixels(), lambda im: Resize(64)(im).pixels(), lambda im: ToTensor()(im)):
        im = PILImage.create(fn)
        assert said(look, im).startswith(expected)
    assert 'verify_images(files)' in said(load_image, fn)

def test_truncated_png(photo, tmp_path):
    whole = saved(photo, tmp_path/'whole.png').read_bytes()
    for n in (20, 40, len(whole)//2, len(whole)-30):
        fn = tmp_path/'cut.png'; fn.write_bytes(whole[:n])
        assert str(fn) in said(lambda: PILImage.create(fn).load())

def test_empty_text_folder_missing(tmp_path):
    (tmp_path/'empty.jpg').touch(); (tmp_path/'text.jpg').write_text('hello')
    way_out = 'verify_images(files)'
    def says(text, *facts): return all(fact in text for fact in facts)
    assert says(said(lambda: PILImage.create(tmp_path/'empty.jpg').load()), f'{tmp_path/"empty.jpg"} is empty', way_out)
    assert says(said(lambda: PILImage.create(tmp_path/'text.jpg').size), f'{tmp_path/"text.jpg"} is not an image', 'Pillow', way_out)
    assert f'{tmp_path} is a folder' in said(PILImage.create, tmp_path)
    assert said(PILImage.create, tmp_path/'no.jpg', kind=FileNotFoundError) == f'there is no file {tmp_path/"no.jpg"}'
    assert says(said(PILImage.create, b''), 'in these bytes is empty', way_out)
    assert says(said(PILImage.create, b'abc'), 'in these bytes is not an image', 'Pillow', way_out)

def test_bomb(photo, tmp_path, monkeypatch):
    fn = saved(photo, tmp_path/'a.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    assert 'is too large to be decoded safely' in said(load_image, fn)

def test_file_that_goes_away_after_create(photo, tmp_path):
    fn = saved(photo, tmp_path/'a.png')
    im = PILImage.create(fn); fn.unlink()
    assert said(im.load, kind=FileNotFoundError) == f'there is no file {fn}'

def test_no_file_stays_open(photo, tmp_path):
    if not os.path.isdir('/proc/self/fd'): pytest.skip('cannot count open files here')
    fn = saved(photo, tmp_path/'a.jpg')
    before = len(os.listdir('/proc/self/fd'))
    ims = [PILImage.create(fn) for _ in range(50)]
    for im in ims: im.size
    for im in ims[:25]: im.load()
    assert len(os.listdir('/proc/self/fd')) <= before + 1


# pictures that are decoded later

def test_nobody_can_tell(photo, tmp_path):
    fn = saved(photo, tmp_path/'a.png')
    lazy = lambda: PILImage.create(fn)
    assert lazy().is_file and lazy().fn == fn
    assert isinstance(lazy(), Image.Image) and lazy().mode == 'RGB' and lazy().width == 90 and lazy().height == 60
    assert np.array_equal(np.asarray(lazy()), np.asarray(photo))
    assert lazy().tobytes() == photo.tobytes() and lazy().getpixel((3, 4)) == photo.getpixel((3, 4))
    for f in (lambda i: i.resize((20, 30)), lambda i: i.crop((1, 2, 30, 40)), lambda i: i.transpose(0), lambda i: i.rotate(30), lambda i: i.rotate(90),
              lambda i: i.copy(), lambda i: i.convert('L'), lambda i: i.to_thumb(20), lambda i: i.transform((50, 50), Image.Transform.AFFINE, (1, 0, 0, 0, 1, 0)),
              lambda i: i.reduce(2), lambda i: i.effect_spread(0), lambda i: i.getchannel(1), lambda i: i.quantize(8)):
        ours, pils = f(lazy()), f(photo)
        assert ours.mode == pils.mode and ours.tobytes() == pils.tobytes()
    for f in (lambda i: i.resize((20, 30)), lambda i: i.crop((1, 2, 30, 40)), lambda i: i.rotate(30), lambda i: i.copy(), lambda i: i.to_thumb(20)):
        assert type(f(lazy())) is PILImage
    assert type(lazy().convert('L')) is Image.Image
    assert lazy() == lazy() and not lazy() == PILImage.create(photo.transpose(0))

def test_it_can_be_drawn_upon_and_saved(photo, tmp_path):
    im = PILImage.create(saved(photo, tmp_path/'a.png'))
    im.pixels()
    im.putpixel((0, 0), (1, 2, 3)); im.paste((9, 9, 9), (10, 10, 20, 20))
    assert im.pixels()[0, 0].tolist() == [1, 2, 3] and im.pixels()[15, 15].tolist() == [9, 9, 9]
    im.save(tmp_path/'b.png')
    assert np.array_equal(np.array(Image.open(tmp_path/'b.png')), im.pixels())

def test_what_follows_is_not_changed_by_drawing(photo):
    im = PILImage.create(photo)
    later = FlipItem(p=1.)(im, split_idx=0)
    im.paste((0, 0, 0), (0, 0, 90, 60))
    assert later.pixels().max() > 200

def test_pickle_and_copy(photo, tmp_path):
    for im in (PILImage.create(saved(photo, tmp_path/'a.png')), PILImage.create(photo), Resize(30)(PILImage.create(photo))):
        again = pickle.loads(pickle.dumps(im))
        assert type(again) is PILImage and np.array_equal(again.pixels(), im.pixels())
    assert repr(PILImage.create(photo)) == 'PILImage mode=RGB size=90x60'

def test_shown_in_a_notebook(photo, tmp_path):
    im = PILImage.create(saved(photo, tmp_path/'a.png'))
    png = im._repr_png_()
    assert Image.open(io.BytesIO(png)).size == (90, 60)
    ax = im.show(title='hello')
    assert ax.get_title() == 'hello' and im.show(ctx=ax) is ax

def test_helpers(photo):
    im = PILImage.create(photo)
    assert im.shape == (60, 90) and im.n_px == 5400 and im.aspect == 1.5 and im.reshape(10, 20).size == (20, 10)
    assert im.resize_max(max_px=1350).size == (45, 30) and im.resize_max(max_w=45).size == (45, 30) and im.resize_max(max_h=1000) is im
    assert photo.to_thumb(20, 40).size == (30, 20) and photo.size == (90, 60)


# create, and to tensors

def test_create_from_anything(photo, tmp_path):
    fn = saved(photo, tmp_path/'a.png')
    want = np.array(photo)
    t = torch.from_numpy(want).permute(2, 0, 1)
    for o in (fn, str(fn), fn.read_bytes(), bytearray(fn.read_bytes()), want, t, TensorImage(t), TensorImage(t).float()/255, want/255., photo, Image.open(fn), PILImage.create(photo)):
        assert np.array_equal(PILImage.create(o).pixels(), want), type(o)
    with open(fn, 'rb') as f: assert np.array_equal(PILImage.create(f).pixels(), want)
    assert PILImageBW.create(fn).pixels().shape == (60, 90) and PILImage.create(fn, mode='L').mode == 'L'
    assert to_image(torch.zeros(1, 5, 6)).size == (6, 5) and to_image(torch.zeros(5, 6)).mode == 'L'

def test_to_tensor(photo, tmp_path):
    fn = saved(photo, tmp_path/'a.png')
    t = ToTensor()(PILImage.create(fn))
    assert type(t) is TensorImage and t.dtype == torch.uint8 and t.shape == (3, 60, 90) and torch.equal(plain(t).permute(1, 2, 0), torch.from_numpy(np.array(photo)))
    assert type(ToTensor()(PILImageBW.create(fn))) is TensorImageBW and ToTensor()(PILImageBW.create(fn)).shape == (1, 60, 90)
    assert type(ToTensor()(photo)) is TensorImage and torch.equal(image2tensor(photo), plain(t))
    t[:] = 0                                                         # its memory is its own
    assert PILImage.create(fn).pixels().max() > 0

def test_users_function_in_a_pipeline(photo, tmp_path):
    fn = saved(photo, tmp_path/'a.png')
    pipe = Pipeline([PILImage.create, lambda im: im.rotate(90, expand=True), Resize(32), ToTensor])
    assert pipe(fn).shape == (3, 32, 32)


# masks

def test_palette_mask_keeps_its_numbers(tmp_path):
    codes = (np.arange(100).reshape(10, 10) % 12).astype(np.uint8)
    p = Image.fromarray(codes).convert('L').copy(); p.putpalette([(91*i) % 256 for i in range(768)])
    m = PILMask.create(saved(p, tmp_path/'a.png'))
    assert np.array_equal(m.pixels(), codes) and np.array_equal(PILMask.create(p).pixels(), codes)
    t = ToTensor()(OpenMask(tmp_path/'a.png'))
    assert type(t) is TensorMask and t.shape == (10, 10) and np.array_equal(t.numpy(), codes)

@pytest.mark.parametrize('mode', ['L', '1', 'I;16', 'I', 'LA'])
def test_other_masks(tmp_path, mode):
    codes = np.array([[0, 1], [1, 0]], np.uint8)
    im = {'L': lambda: Image.fromarray(codes), '1': lambda: Image.fromarray(codes.astype(bool)), 'I;16': lambda: Image.fromarray(codes.astype(np.uint16)),
          'I': lambda: Image.fromarray(codes.astype(np.int32)), 'LA': lambda: Image.merge('LA', [Image.fromarray(codes), Image.fromarray(codes)])}[mode]()
    assert np.array_equal(mask_codes(im), codes)
    assert np.array_equal(PILMask.create(saved(im, tmp_path/('a.tif' if mode == 'I' else 'a.png'))).pixels(), codes)

def test_more_than_256_classes(tmp_path):
    codes = np.array([[0, 300], [70000 % 65536, 65535]], np.uint16)
    m = PILMask.create(saved(Image.fromarray(codes), tmp_path/'a.png'))
    assert np.array_equal(m.pixels(), codes)
    t = ToTensor()(Resize(4, 'squish')(PILMask.create(tmp_path/'a.png')))
    assert t.shape == (4, 4) and set(t.unique().tolist()) == set(codes.ravel().tolist())

def test_mask_from_arrays_and_tensors():
    codes = np.array([[0, 7], [11, 0]])
    for o in (codes, torch.from_numpy(codes), TensorMask(codes), codes[..., None].astype(np.uint8)): assert np.array_equal(PILMask.create(o).pixels(), codes)

def test_mask_codes_go_with_decoded_masks():
    tfm = AddMaskCodes(['a', 'b', 'c'])
    assert tfm.c == 3 and tfm.vocab == ['a', 'b', 'c']
    ax = tfm.decode(TensorMask([[0, 1]])).show()
    assert ax.images[0].get_clim() == (0, 2)


# points and boxes

def test_points_scale_to_centres_of_pixels():
    pts = TensorPoint.create([[0, 0], [99, 49], [49.5, 24.5]])
    scaled = scale_points(pts, (100, 50))
    assert type(scaled) is TensorPoint and scaled.tolist() == [[-1, -1], [1, 1], [0, 0]]
    assert torch.equal(unscale_points(scaled, (100, 50)), pts)
    assert scale_points(TensorPoint.create((0, 0)), (1, 1)).tolist() == [[-1, -1]]         # a picture of one pixel divides by nothing

def test_point_scaler(photo, tmp_path):
    im = PILImage.create(saved(photo, tmp_path/'a.png'))
    s = PointScaler()
    x, p, label = s((im, TensorPoint.create((89, 0)), 'cat'))
    assert x is im and im.is_file and p.tolist() == [[1, -1]] and label == 'cat'
    assert s.decode((TensorImage(torch.zeros(3, 11, 21)), p, 'cat'))[1].tolist() == [[20, 0]]
    assert s.decode((TensorImage(torch.zeros(3, 11, 21)), TensorPoint([0.5, 0.5])))[1].tolist() == [15, 7.5]
    assert PointScaler(y_first=True)((im, TensorPoint.create((0, 89))))[1].tolist() == [[1, -1]]
    assert PointScaler(do_scale=False)((im, TensorPoint.create((0.5, 1))))[1].tolist() == [[0.5, 1]]
    out = s((im, TensorPoint.create((178, -30))))[1]                                       # outside the picture is legal
    assert out[0, 0] == 3 and out[0, 1] < -1
    box = s((im, TensorBBox.create([[0, 0, 89, 59]])))[1]
    assert type(box) is TensorBBox and box.tolist() == [[-1, -1, 1, 1]]

def test_point_that_is_no_number(photo, tmp_path):
    fn = saved(photo, tmp_path/'a.png')
    with pytest.raises(ValueError) as e: PointScaler()((PILImage.create(fn), TensorPoint.create((math.nan, 3))))
    assert f'a point of {fn} is not a number: [[nan, 3.0]]' in str(e.value) and 'remove the row' in str(e.value)

def test_point_without_a_picture():
    with pytest.raises(ValueError, match='points can only be scaled together with their image'): PointScaler()((TensorPoint.create((1, 2)),))

def test_point_scaler_counts():
    class _Dl: dataset = [(None, TensorPoint.create([[1, 2], [3, 4]]))]
    s = PointScaler(); s.setup(_Dl())
    assert s.c == 4 and TensorPointCreate.loss_func.__class__.__name__ == 'MSELossFlat'

def test_boxes_and_labels():
    l = BBoxLabeler(); l.vocab = ['#na#', 'cat']
    boxes = TensorBBox.create([[1, 2, 3, 4], [0, 0, 0, 0]])
    _, b, lab = l.decode((None, boxes, TensorMultiCategory([1, 0])))
    assert type(lab) is LabeledBBox and list(lab.lbl) == ['cat', '#na#'] and lab.bbox is boxes and b is boxes
    import matplotlib.pyplot as plt
    _, ax = plt.subplots()
    lab.show(ctx=ax)
    assert len(ax.lines) == 1 and ax.texts[0].get_text() == 'cat'                          # the empty box is not drawn
    plt.close('all')


@pytest.mark.medium
def test_import_is_light():
    code = "import sys, fastbook_impl.vision.augment; print([m for m in ('matplotlib.pyplot', 'torchvision', 'pandas', 'sklearn', 'IPython') if m in sys.modules])"
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=600)
    assert r.stdout.strip() == '[]', r.stderr

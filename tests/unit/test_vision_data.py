"Pictures with labels, masks, points and boxes; the one-line loaders; and the files and tables that are wrong."
import tarfile
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from fastbook_impl.data.block import CategoryBlock, DataBlock, MultiCategoryBlock, RegressionBlock
from fastbook_impl.data.core import Datasets, TfmdLists, show_results
from fastbook_impl.data.external import get_image_files
from fastbook_impl.data.transforms import (Categorize, ColReader, ColSplitter, IntToFloatTensor, Normalize, RandomSplitter, RegexLabeller, ToTensor,
                                           imagenet_stats, using_attr)
from fastbook_impl.course.siamese import SiameseImage, SiameseTransform
from fastbook_impl.torch_core import TensorCategory, TensorImage, TensorImageBW, TensorMask, TensorMultiCategory, TensorPoint, set_seed
from fastbook_impl.vision.augment import Resize, aug_transforms
from fastbook_impl.vision.core import PILImage, PILImageBW, PILMask
from fastbook_impl.vision.data import (BBoxBlock, BBoxLblBlock, ImageBlock, ImageDataLoaders, MaskBlock, PointBlock, SegmentationDataLoaders, bb_pad, verify_image, verify_images)


@pytest.fixture
def pets(tmp_path):
    "Twelve pictures named like pets, of two kinds and three sizes, with masks."
    rng = np.random.default_rng(0)
    (tmp_path/'masks').mkdir()
    for i in range(12):
        name, size = ('Bengal', 'pug')[i % 2], ((40, 30), (30, 40), (36, 36))[i % 3]
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path/f'{name}_{i}.jpg')
        Image.fromarray(rng.integers(0, 3, size, dtype=np.uint8)).save(tmp_path/'masks'/f'{name}_{i}.png')
    return tmp_path


def _files(path): return get_image_files(path, recurse=False)
def _kw(**kwargs): return {'item_tfms': Resize(32), 'bs': 4, 'device': 'cpu', **kwargs}


# --- the one-line loaders

def test_from_name_func_as_in_chapter_1(pets):
    def is_cat(x): return x[0].isupper()
    dls = ImageDataLoaders.from_name_func(pets, _files(pets), valid_pct=0.25, seed=42, label_func=is_cat, **_kw())
    xb, yb = dls.one_batch()
    assert (len(dls.train_ds), len(dls.valid_ds), dls.vocab, dls.c, dls.path) == (9, 3, [False, True], 2, pets)
    assert type(xb) is TensorImage and xb.shape == (4, 3, 32, 32) and 0 <= xb.min() < xb.max() <= 1 and type(yb) is TensorCategory
    for i in range(3): assert bool(dls.valid_ds[i][1]) == is_cat(dls.valid_ds.items[i].name)


def test_labels_by_expression_and_by_path(pets):
    assert ImageDataLoaders.from_name_re(pets, _files(pets), r'^(.*)_\d+.jpg$', **_kw()).vocab == ['Bengal', 'pug']
    assert ImageDataLoaders.from_path_re(pets, _files(pets), r'/([A-Za-z]+)_\d+.jpg$', **_kw()).vocab == ['Bengal', 'pug']
    assert ImageDataLoaders.from_path_func(pets, _files(pets), lambda f: f.suffix + f.name[0], **_kw()).vocab == ['.jpgB', '.jpgp']


@pytest.fixture
def folders(pets, tmp_path):
    root = tmp_path/'folders'
    for i,f in enumerate(_files(pets)):
        to = root/('train', 'train', 'valid')[i % 3]/f.name.split('_')[0]
        to.mkdir(parents=True, exist_ok=True)
        f.rename(to/f.name)
    return root


def test_from_folder(folders):
    dls = ImageDataLoaders.from_folder(folders, **_kw())
    assert (len(dls.train_ds), len(dls.valid_ds), dls.vocab) == (8, 4, ['Bengal', 'pug'])
    dls = ImageDataLoaders.from_folder(folders, valid_pct=0.5, seed=1, img_cls=PILImageBW, **_kw())
    assert len(dls.valid_ds) == 6 and type(dls.one_batch()[0]) is TensorImageBW and dls.one_batch()[0].shape[1] == 1
    assert len(ImageDataLoaders.from_folder(folders, vocab=['pug'], **_kw()).train_ds) == 4
    with pytest.raises(ValueError, match="no file lies two levels below a folder named 'test'"): ImageDataLoaders.from_folder(folders, valid='test', **_kw())
    with pytest.raises(FileNotFoundError): ImageDataLoaders.from_folder(folders/'nowhere', **_kw())


@pytest.fixture
def table(pets):
    names = [f.name for f in _files(pets)]
    df = pd.DataFrame({'fname': names, 'labels': [('cat furry', 'dog', None, 'dog  furry ')[i % 4] for i in range(12)], 'is_valid': [i >= 8 for i in range(12)], 'y': np.linspace(0, 1, 12)})
    df.to_csv(pets/'train.csv', index=False)
    return df


def test_from_a_table_with_several_labels(pets, table):
    for dls in (ImageDataLoaders.from_df(table, pets, label_delim=' ', valid_col='is_valid', **_kw()), ImageDataLoaders.from_csv(pets, 'train.csv', label_delim=' ', valid_col='is_valid', **_kw())):
        assert dls.vocab == ['cat', 'dog', 'furry'] and len(dls.valid_ds) == 4
        assert dls.train_ds[2][1].tolist() == [0, 0, 0] and dls.train_ds[3][1].tolist() == [0, 1, 1]
        assert type(dls.one_batch()[1]) is TensorMultiCategory


def test_from_a_table_with_numbers_or_one_label(pets, table):
    dls = ImageDataLoaders.from_df(table, pets, label_col='y', y_block=RegressionBlock, **_kw())
    assert dls.c == 1 and dls.one_batch()[1].dtype == torch.float32
    table['l'] = ['a', 'b ']*6
    assert ImageDataLoaders.from_df(table.assign(fname=[f[:-4] for f in table.fname]), pets, suff='.jpg', label_col='l', **_kw()).vocab == ['a', 'b']


def test_from_lists(pets):
    files = _files(pets)
    assert ImageDataLoaders.from_lists(pets, files, [f.name[0] for f in files], **_kw()).vocab == ['B', 'p']
    assert ImageDataLoaders.from_lists(pets, files, [[f.name[0], 'x'] for f in files], **_kw()).vocab == ['B', 'p', 'x']
    assert ImageDataLoaders.from_lists(pets, files, [float(i) for i in range(12)], **_kw()).c == 1
    with pytest.raises(ValueError, match='12 files but 1 labels'): ImageDataLoaders.from_lists(pets, files, ['a'], **_kw())


def test_segmentation(pets):
    dls = SegmentationDataLoaders.from_label_func(pets, fnames=_files(pets), label_func=lambda f: pets/'masks'/f'{f.stem}.png', codes=np.array(['a', 'b', 'c']), batch_tfms=aug_transforms(), **_kw())
    xb, yb = dls.one_batch()
    assert type(yb) is TensorMask and yb.shape == (4, 32, 32) and yb.dtype == torch.long and yb.max() <= 2
    assert list(dls.vocab) == ['a', 'b', 'c'] and dls.c == 3
    assert 'axis' in repr(vars(dls.loss_func)) or dls.loss_func is not None


# --- the data block, as chapter 5 writes it

def _pets_block(**kwargs):
    return DataBlock(**{'blocks': (ImageBlock, CategoryBlock), 'get_items': _files, 'splitter': RandomSplitter(seed=42), 'get_y': using_attr(RegexLabeller(r'(.+)_\d+.jpg$'), 'name'),
                        'item_tfms': Resize(48), 'batch_tfms': aug_transforms(size=32, min_scale=0.75), **kwargs})


def test_presized_batches(pets):
    dls = _pets_block().dataloaders(pets, bs=4, device='cpu')
    xb, yb = dls.one_batch()
    assert xb.shape == (4, 3, 32, 32) and xb.dtype == torch.float32
    assert dls.valid.one_batch()[0].shape[1:] == (3, 32, 32)
    assert str(dls.loss_func).startswith('FlattenedLoss of CrossEntropyLoss')


def test_the_same_batches_from_any_number_of_workers(pets):
    def epoch(n):
        set_seed(3)
        return list(_pets_block().dataloaders(pets, bs=4, num_workers=n, device='cpu').train)
    for (xa, ya), (xb, yb) in zip(epoch(0), epoch(2), strict=True): assert torch.equal(xa, xb) and torch.equal(ya, yb)


def test_plain_data_sets_and_reading_them(pets):
    files = _files(pets)
    dsets = Datasets(files, [[PILImage.create], [lambda f: f.name.split('_')[0], Categorize()]], splits=RandomSplitter(seed=1)(files))
    assert repr(dsets.train[0]) == f'({dsets.train[0][0]!r}, {dsets.train[0][1]!r})' and repr(dsets.train[0][0]).startswith('PILImage mode=RGB size=')
    dls = dsets.dataloaders(bs=4, after_item=[Resize(32), ToTensor], after_batch=[IntToFloatTensor, Normalize.from_stats(*imagenet_stats)], device='cpu')
    assert dls.one_batch()[0].shape == (4, 3, 32, 32)


def test_new_pictures_of_every_kind(pets):
    dls = _pets_block(batch_tfms=None).dataloaders(pets, bs=4, device='cpu')
    f = _files(pets)[0]
    kinds = f, str(f), PILImage.create(f), f.read_bytes(), np.array(PILImage.create(f)), Image.open(f)
    batches = [dls.test_dl([o]).one_batch()[0] for o in kinds]
    assert all(torch.equal(b, batches[0]) for b in batches)


def test_unequal_sizes_without_a_resize(pets, capsys):
    block = _pets_block(item_tfms=None, batch_tfms=None)
    with pytest.raises(ValueError, match=r'the items of a batch must have one shape, and .*\.jpg has \(3, \d+, \d+\) and .*\.jpg has \(3, \d+, \d+\)\. Bring images to one size with item_tfms=Resize\(224\)'):
        block.dataloaders(pets, bs=4, device='cpu').one_batch()
    with pytest.raises(ValueError, match='the items of a batch must have one shape'): block.summary(pets)
    out = capsys.readouterr().out
    assert 'PILImage mode=RGB size=' in out and "get_y " in out and 'stacking them FAILS' in out


def test_a_label_rule_that_matches_nothing(pets):
    Image.new('RGB', (8, 8)).save(pets/'readme.jpg')
    with pytest.raises(ValueError, match=r"readme.jpg: get_y: the pattern .* matches nothing in 'readme.jpg'"): _pets_block(splitter=lambda o: (range(len(o)), [0])).datasets(pets)


def test_a_missing_or_damaged_picture_is_named(pets, table):
    (pets/'Bengal_0.jpg').write_bytes((pets/'Bengal_0.jpg').read_bytes()[:400])
    block = DataBlock(blocks=(ImageBlock, RegressionBlock), get_x=ColReader('fname', pref=pets), get_y=ColReader('y'), splitter=ColSplitter(), item_tfms=Resize(32))
    with pytest.raises((OSError, ValueError), match='Bengal_0.jpg'): list(block.dataloaders(table, bs=8, device='cpu').train)
    table.loc[1, 'fname'] = 'gone.jpg'
    with pytest.raises(FileNotFoundError, match='^row 1: .*there is no file .*gone.jpg'): list(block.datasets(table).train)
    with pytest.raises(FileNotFoundError, match=r'^1 of the 12 files in the table are not on disk; the first is .*gone.jpg, in row 1: check path'): ImageDataLoaders.from_df(table, pets, **_kw())


def test_a_mask_of_another_size(pets):
    def mask(f): return PILMask.create(np.zeros((9, 9), np.uint8)) if f.name.startswith('pug') else pets/'masks'/f'{f.stem}.png'
    block = DataBlock(blocks=(ImageBlock, MaskBlock), get_items=_files, get_y=lambda f: pets/'masks'/'other.png', splitter=RandomSplitter(), item_tfms=Resize(32))
    Image.new('L', (9, 9)).save(pets/'masks'/'other.png')
    with pytest.raises(ValueError, match=r'\.jpg: CheckMask: the mask .*other.png has 9x9 pixels but its image has \d+x\d+: they must have the same size'): block.dataloaders(pets, bs=4, device='cpu').one_batch()
    block = DataBlock(blocks=(ImageBlock, MaskBlock), get_items=_files, get_y=mask, splitter=RandomSplitter(), item_tfms=Resize(32))
    with pytest.raises(ValueError, match='the mask  ?has 9x9'): list(block.dataloaders(pets, bs=4, device='cpu').train)


# --- points and boxes

def test_points_follow_the_picture(tmp_path):
    "A white pixel is where its point says, after a resize without interpolation."
    a = np.zeros((20, 30, 3), np.uint8)
    a[5, 21] = 255
    Image.fromarray(a).save(tmp_path/'a.png')
    files = [tmp_path/'a.png']*8
    dls = DataBlock(blocks=(ImageBlock, PointBlock), get_y=lambda f: (21, 5), splitter=lambda o: (range(4), range(4, 8)), item_tfms=Resize((20, 30))).dataloaders(files, bs=4, device='cpu')
    xb, yb = dls.one_batch()
    assert type(yb) is TensorPoint and dls.c == 2 and yb.shape == (4, 1, 2)
    assert torch.allclose(yb[0].as_subclass(torch.Tensor), torch.tensor([[2*21/29 - 1, 2*5/19 - 1]]))
    assert dls.decode_batch((xb, yb))[0][1].tolist() == [[21., 5.]]
    assert dls.decode_batch((xb, torch.zeros(4, 2)))[0][1].reshape(-1).tolist() == [14.5, 9.5]


def test_boxes_are_padded():
    from fastbook_impl.vision.core import TensorBBox
    one = TensorImage(torch.zeros(3, 4, 4)), TensorBBox.create([[-.5, -.5, .5, .5]]), TensorMultiCategory(torch.tensor([2]))
    two = TensorImage(torch.zeros(3, 4, 4)), TensorBBox.create([[-2., 0, 0, .5], [0, 0, .5, .5], [1., 1, 2, 2]]), TensorMultiCategory(torch.tensor([1, 2, 1]))
    (_, b1, l1), (_, b2, l2) = bb_pad([one, two])
    assert b1.shape == b2.shape == (2, 4) and l1.tolist() == [2, 0] and l2.tolist() == [1, 2] and b2[0, 0] == -1 and type(b1) is TensorBBox and type(l1) is TensorMultiCategory


def test_boxes_through_a_block(pets):
    files = _files(pets)
    block = DataBlock(blocks=(ImageBlock, BBoxBlock, BBoxLblBlock), n_inp=1, get_y=[lambda f: [[2., 3, 20, 25]]*(1 + ('pug' in f.name)), lambda f: [f.name[0]]*(1 + ('pug' in f.name))],
                      splitter=RandomSplitter(seed=0), item_tfms=Resize(32, method='squish'))
    dls = block.dataloaders(files, bs=4, device='cpu')
    _, boxes, labels = dls.one_batch()
    assert boxes.shape == (4, 2, 4) and labels.shape == (4, 2) and dls.vocab == ['#na#', 'B', 'p']
    dls.show_batch(max_n=2)


# --- showing

def test_right_is_green_and_wrong_is_red(pets):
    import matplotlib.pyplot as plt
    dls = _pets_block(batch_tfms=None).dataloaders(pets, bs=4, device='cpu', shuffle=False)
    xb, yb = dls.one_batch()
    axs = dls.train.show_results((xb, yb), torch.stack([yb[0], 1-yb[1], yb[2], yb[3]]).as_subclass(torch.Tensor), max_n=4)
    titles = [(ax.get_title(), ax.title.get_color()) for ax in plt.gcf().axes]
    names = [dls.vocab[i] for i in yb]
    assert titles[0] == (f'{names[0]}\n{names[0]}', 'green') and titles[1][1] == 'red' and titles[1][0].startswith(names[1])
    plt.close('all')


@pytest.mark.parametrize('y', [TensorMask(torch.zeros(2, 8, 8, dtype=torch.long)), TensorPoint(torch.zeros(2, 1, 2)), TensorImage(torch.zeros(2, 3, 8, 8))])
def test_places_are_drawn_side_by_side(y):
    import matplotlib.pyplot as plt
    plt.close('all')
    x = TensorImage(torch.rand(2, 3, 8, 8))
    show_results(x, y, [(a, b) for a,b in zip(x, y)], [(b,) for b in y])
    axes = plt.gcf().axes
    assert [ax.get_title() for ax in axes[:3]][-2:] in (['prediction', ''], ['target', 'prediction'])
    plt.close('all')


def test_items_of_two_pictures_as_in_chapter_15(pets):
    "Pairs of images: a class with `show`, a transform without super().__init__, `TfmdLists`."
    files, label_of = _files(pets).sorted(), using_attr(RegexLabeller(r'^([a-zA-Z]+)_'), 'name')
    splits = [0, 1, 2, 3, 6, 7, 8, 9], [4, 5, 10, 11]                    # sorted, the first six are Bengals
    tls = TfmdLists(files, SiameseTransform(files, label_of, splits), splits=splits)
    assert type(tls[0]) is SiameseImage and type(tls[0][0]) is PILImage
    assert tls.valid[0][2] == tls.valid[0][2]
    tls.valid.show(tls.valid[0])
    dls = tls.dataloaders(bs=4, after_item=[Resize(24), ToTensor], after_batch=[IntToFloatTensor, Normalize.from_stats(*imagenet_stats)], device='cpu')
    b = dls.one_batch()
    assert len(b) == 3 and b[0].shape == b[1].shape == (4, 3, 24, 24) and b[2].dtype == torch.bool and dls.n_inp == 2
    dls.show_batch(max_n=2)


# --- files

def test_verify_images(pets):
    (pets/'page.jpg').write_text('<html>')
    (pets/'empty.jpg').touch()
    (pets/'half.jpg').write_bytes((pets/'pug_1.jpg').read_bytes()[:500])
    assert sorted(f.name for f in verify_images(_files(pets))) == ['empty.jpg', 'half.jpg', 'page.jpg']
    assert verify_image(pets/'pug_1.jpg') and not verify_image(pets/'nowhere.jpg') and verify_images([]) == []


def test_no_warning_on_ordinary_use(pets):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        _pets_block().dataloaders(pets, bs=4, device='cpu').one_batch()


# --- real pictures

@pytest.fixture(scope='module')
def real_pets(mirror, tmp_path_factory):
    path = tmp_path_factory.mktemp('pets')
    with tarfile.open(mirror/'oxford-iiit-pet.tgz') as t: t.extractall(path, filter='data')
    return path/'oxford-iiit-pet'


def test_chapter_5_on_real_pets(real_pets):
    pets = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, splitter=RandomSplitter(seed=42),
                     get_y=using_attr(RegexLabeller(r'(.+)_\d+.jpg$'), 'name'), item_tfms=Resize(64), batch_tfms=aug_transforms(size=48, min_scale=0.75))
    dls = pets.dataloaders(real_pets/'images', device='cpu')
    xb, yb = dls.one_batch()
    assert xb.shape == (64, 3, 48, 48) and dls.vocab == ['Abyssinian', 'Bengal', 'american_bulldog'] and len(dls.train_ds) + len(dls.valid_ds) == 600


def test_chapter_6_on_real_streets(mirror, tmp_path):
    with tarfile.open(mirror/'camvid_multilabel.tgz') as t: t.extractall(tmp_path, filter='data')
    path = tmp_path/'camvid_multilabel'
    df = pd.read_csv(path/'train.csv')
    def splitter(df): return df.index[~df['is_valid']].tolist(), df.index[df['is_valid']].tolist()
    def get_x(r): return path/'train'/r['fname']
    read = ColReader('labels', label_delim=' ')
    dls = DataBlock(blocks=(ImageBlock, MultiCategoryBlock), splitter=splitter, get_x=get_x, get_y=read, item_tfms=Resize(64)).dataloaders(df, bs=32, device='cpu')
    xb, yb = dls.one_batch()
    assert yb.shape == (32, 6) and len(dls.vocab) == 6
    empty = df.index[df.labels.isna() & ~df.is_valid][0]
    assert dls.train_ds[list(splitter(df)[0]).index(empty)][1].sum() == 0


def test_from_csv_names_a_file_without_content(tmp_path):
    (tmp_path/'labels.csv').write_text('')
    with pytest.raises(ValueError, match=r'labels\.csv is empty'): ImageDataLoaders.from_csv(tmp_path)

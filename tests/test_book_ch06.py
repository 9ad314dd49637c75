"""The book's chapter 6, typed in with only the import lines changed, on the mirror's frames of street scenes with six labels; pictures smaller and epochs fewer."""
import pytest

from fastbook_impl.vision.all import *
from fastbook_impl.fastbook import *


@pytest.fixture(scope='module')
def path(mirror, tmp_path_factory):
    import os
    before = {k: os.environ.get(k) for k in ('FASTBOOK_MIRROR', 'FASTBOOK_DATA', 'FASTBOOK_HOME')}
    os.environ.update(FASTBOOK_MIRROR=str(mirror), FASTBOOK_DATA='auto', FASTBOOK_HOME=str(tmp_path_factory.mktemp('home')))
    yield untar_data('camvid_multilabel.tgz')
    for k,v in before.items(): os.environ.pop(k, None) if v is None else os.environ.update({k: v})
    plt.close('all')


@pytest.fixture(scope='module')
def df(path): return pd.read_csv(path/'train.csv', keep_default_na=False)[::4].reset_index(drop=True)


def get_x(r): return Path(r['path'])/'train'/r['fname']
def get_y(r): return r['labels'].split(' ')
def splitter(df):
    train = df.index[~df['is_valid']].tolist()
    valid = df.index[df['is_valid']].tolist()
    return train,valid


@pytest.fixture(scope='module')
def dls(path, df):
    set_seed(42)
    dblock = DataBlock(blocks=(ImageBlock, MultiCategoryBlock), splitter=splitter, get_x=get_x, get_y=get_y,
                       item_tfms=RandomResizedCrop(48, min_scale=0.35))
    return dblock.dataloaders(df.assign(path=str(path)), bs=16)


def test_from_a_bare_block_to_the_finished_one(path, df):
    dblock = DataBlock()
    dsets = dblock.datasets(df)
    assert len(dsets.train) + len(dsets.valid) == len(df)
    x,y = dsets.train[0]
    assert x['fname'] == y['fname']
    dblock = DataBlock(get_x = lambda r: r['fname'], get_y = lambda r: r['labels'])
    dsets = dblock.datasets(df)
    assert isinstance(dsets.train[0][0], str)
    dblock = DataBlock(blocks=(ImageBlock, MultiCategoryBlock), get_x = lambda r: path/'train'/r['fname'], get_y = get_y)
    dsets = dblock.datasets(df)
    img, y = dsets.train[0]
    assert isinstance(img, PILImage) and type(y) is TensorMultiCategory and set(y.unique().tolist()) <= {0., 1.}
    idxs = torch.where(dsets.train[0][1]==1.)[0]
    assert set(dsets.train.vocab[idxs]) == set(o for o in dsets.train.items.iloc[0]['labels'].split(' ') if o)
    dblock = DataBlock(blocks=(ImageBlock, MultiCategoryBlock), splitter=splitter, get_x=lambda r: path/'train'/r['fname'], get_y=get_y)
    dsets = dblock.datasets(df)
    assert len(dsets.valid) == int(df['is_valid'].sum())


def test_binary_cross_entropy_on_a_batch(dls):
    dls.show_batch(nrows=1, ncols=3)
    learn = vision_learner(dls, resnet18)
    x,y = to_cpu(dls.train.one_batch())
    activs = learn.model(x)
    assert activs.shape == (16, dls.c) and len(activs[0]) == len(dls.vocab)
    def binary_cross_entropy(inputs, targets):
        inputs = inputs.sigmoid()
        return -torch.where(targets==1, inputs, 1-inputs).log().mean()
    loss_func = nn.BCEWithLogitsLoss()
    loss = loss_func(activs, y)
    torch.testing.assert_close(plain(loss), plain(binary_cross_entropy(activs, y)))
    assert type(dls.loss_func).__name__ == 'BCEWithLogitsLossFlat'
    assert type(learn.loss_func).__name__ == 'BCEWithLogitsLossFlat'


def test_thresholds(dls):
    learn = vision_learner(dls, resnet18, metrics=partial(accuracy_multi, thresh=0.2))
    learn.fine_tune(1, base_lr=3e-3, freeze_epochs=1)
    learn.metrics = partial(accuracy_multi, thresh=0.1)
    first = learn.validate()
    learn.metrics = partial(accuracy_multi, thresh=0.99)
    assert first[1] != learn.validate()[1]
    preds,targs = learn.get_preds()
    assert 0 <= preds.min() and preds.max() <= 1
    assert 0 < accuracy_multi(preds, targs, thresh=0.9, sigmoid=False) <= 1
    xs = torch.linspace(0.05,0.95,29)
    accs = [accuracy_multi(preds, targs, thresh=i, sigmoid=False) for i in xs]
    plt.plot(xs,accs)
    learn.show_results(nrows=1, ncols=3)
    labels, mask, probs = learn.predict(dls.valid_ds.items.iloc[0])
    assert mask.shape == probs.shape == (dls.c,)


def heads(folder, people=3, n=8):
    "Pictures with a bright disc each, and its place in a text file beside it, one folder a person."
    from PIL import ImageDraw
    rng = np.random.default_rng(0)
    for p in range(people):
        (folder/f'{p:02}').mkdir(parents=True)
        for i in range(n):
            x, y = rng.uniform(20, 140), rng.uniform(20, 100)
            img = Image.new('RGB', (160, 120), (40, 60, 80))
            ImageDraw.Draw(img).ellipse((x-9, y-9, x+9, y+9), fill=(230, 200, 180))
            name = folder/f'{p:02}'/f'frame_{i:05}_rgb.jpg'
            img.save(name); name.with_suffix('.txt').write_text(f'{x} {y}')
    return folder


def test_regression_of_a_point(tmp_path):
    path = heads(tmp_path/'heads')
    img_files = get_image_files(path)
    assert len(img_files) == 24
    def get_ctr(f): return tensor([float(o) for o in f.with_suffix('.txt').read_text().split()])
    biwi = DataBlock(blocks=(ImageBlock, PointBlock), get_items=get_image_files, get_y=get_ctr,
                     splitter=FuncSplitter(lambda o: o.parent.name=='01'), batch_tfms=aug_transforms(size=(60,80)))
    set_seed(42)
    dls = biwi.dataloaders(path, bs=8)
    dls.show_batch(max_n=9, figsize=(8,6))
    xb,yb = dls.one_batch()
    assert xb.shape == (8, 3, 60, 80) and yb.shape == (8, 1, 2) and type(yb) is TensorPoint
    assert yb.abs().max() < 1.3
    learn = vision_learner(dls, resnet18, y_range=(-1,1))
    assert type(dls.loss_func).__name__ == 'MSELossFlat' and dls.c == 2
    def sigmoid_range(x, lo, hi): return torch.sigmoid(x) * (hi-lo) + lo
    learn.lr_find(num_it=10)
    learn.fine_tune(1, 1e-2)
    math.sqrt(learn.recorder.values[-1][1])
    learn.show_results(ds_idx=1, nrows=3, figsize=(6,8))
    point,_,raw = learn.predict(img_files[0])
    assert raw.abs().max() <= 1 and type(point) is TensorPoint
    assert -1 <= point.min() and point[..., 0].max() <= 160 and point[..., 1].max() <= 120

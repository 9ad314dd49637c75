"""Learners in a file: the same answers to the last bit for every kind of data, nothing that runs, and one sentence for whatever is wrong with the file."""
import copy
import json
import os
import pickle
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import fastbook_impl.callback.progress
from fastbook_impl.data.block import CategoryBlock, DataBlock, MultiCategoryBlock, RegressionBlock
from fastbook_impl.data.load import DataLoader, DataLoaders
from fastbook_impl.data.transforms import ColReader, IndexSplitter, Normalize, Transform, imagenet_stats
from fastbook_impl.export import to_onnx
from fastbook_impl.inference import InferenceLearner, MissingName, ModelFileError, load_learner
from fastbook_impl.inference.format import read_export, write_export
from fastbook_impl.inference.reader import Reader, read_model
from fastbook_impl.inference.writer import Writer, describe_model
from fastbook_impl.layers import ConvLayer, Flatten, Lambda, SelfAttention, SimpleCNN
from fastbook_impl.learner import Learner, load_model
from fastbook_impl.losses import CrossEntropyLossFlat
from fastbook_impl.torch_core import plain, set_seed
from fastbook_impl.vision.augment import Resize, RandomResizedCrop, RandomResizedCropGPU, aug_transforms
from fastbook_impl.vision.data import ImageBlock, ImageDataLoaders, MaskBlock, PointBlock, SegmentationDataLoaders
from fastbook_impl.vision.learner import create_body, vision_learner
from fastbook_impl.vision.models.tvm import resnet18, resnet50
from fastbook_impl.vision.learner import unet_learner

SIZE = 32


def label(f): return f.name[0]
def mask_of(f): return f.with_suffix('.bmp')
def shortest(row): return Path(row['file'])
def spots(f): return torch.tensor([[f.name.count('1') + 1., 5.], [7., 9.]])
def darker(x): return x


class Halve(Transform):
    def encodes(self, o: torch.Tensor): return o
    def __init__(self, by): self.by = by


class Mine(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.n, self.scale, self.lin = n, 2., nn.Linear(n, 2)
        self.register_buffer('shift', torch.arange(2.), persistent=False)
    def forward(self, x): return self.lin(x)*self.scale + self.shift


def rebuilt(model):
    "The model, written down and built again."
    w = Writer()
    about, tensors = describe_model(w, model.eval())
    return read_model(Reader(w.yours, Path('a file')), json.loads(json.dumps(about)), dict(tensors)).eval()


@pytest.fixture(scope='module')
def pics(tmp_path_factory):
    "Twelve pictures of noise, each with a mask."
    folder, rng = tmp_path_factory.mktemp('pics'), np.random.default_rng(0)
    for i in range(12):
        f = folder/f'{"ab"[i % 2]}{i}.png'
        Image.fromarray(rng.integers(0, 255, (36, 40, 3), dtype=np.uint8)).save(f)
        Image.fromarray(rng.integers(0, 3, (36, 40), dtype=np.uint8)).save(mask_of(f))
    return sorted(folder.glob('*.png'))


def dls_of(pics, **kwargs):
    kwargs = {'item_tfms': Resize(SIZE), 'batch_tfms': [*aug_transforms(), Normalize.from_stats(*imagenet_stats)], 'bs': 4, **kwargs}
    return ImageDataLoaders.from_path_func(pics[0].parent, pics, label, seed=0, **kwargs)


def small(n_out, **kwargs): return SimpleCNN([3, 8, n_out], **kwargs)


def shaken(learn):
    "Weights, and running statistics, that are not those of the beginning."
    for p in learn.model.state_dict().values():
        if p.is_floating_point(): p.mul_(1 + torch.rand_like(p)*.1)
    return learn


def same(a, b):
    "The same to the last bit, and of the same types."
    assert type(a) is type(b) or isinstance(a, str), (type(a), type(b))
    if isinstance(a, torch.Tensor): assert a.dtype == b.dtype and torch.equal(plain(a), plain(b))
    elif isinstance(a, (tuple, list)): assert len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    else: assert str(a) == str(b)
    return True


def round_trip(learn, items, tmp_path, **kwargs):
    "Export, load, and the predictions of both for all `items`."
    set_seed(0)
    shaken(learn)
    learn.path = tmp_path
    before = [learn.predict(o) for o in items]
    assert all(torch.as_tensor(b[2]).isfinite().all() for b in before)
    inf = load_learner(learn.export(), **kwargs)
    for o, b in zip(items, before): same(inf.predict(o), b)
    same(inf.predict(items[0], with_input=True)[1:], before[0])
    dl = inf.dls.test_dl(list(items))
    assert same(inf.get_preds(dl=dl)[0], learn.get_preds(dl=learn.dls.test_dl(list(items)))[0])
    return inf


# -- kinds of data ------------------------------------------------------------------------------------------------------------------------------

def test_classes(pics, tmp_path):
    dls = dls_of(pics)
    learn = Learner(dls, small(2), path=tmp_path)
    inf = round_trip(learn, [pics[0], str(pics[1]), Image.open(pics[2]), pics[3].read_bytes()], tmp_path)
    assert isinstance(inf, InferenceLearner) and list(inf.dls.vocab) == ['a', 'b'] == list(learn.dls.vocab) and inf.dls.c == 2
    assert inf.predict(pics[0])[0] == learn.predict(pics[0])[0] and type(inf.predict(pics[0])[0]).__name__ == 'Category'
    preds, targs, decoded = inf.get_preds(dl=inf.dls.test_dl(pics), with_decoded=True)
    assert targs is None and decoded.shape == (12,) and preds.sum(1).allclose(torch.ones(12))
    with pytest.raises(ValueError, match=r'has no data of its own: pass dl=learn.dls.test_dl\(items\)'): inf.get_preds()


@pytest.mark.parametrize('kwargs', [dict(item_tfms=Resize(SIZE, 'pad')), dict(item_tfms=Resize((SIZE, 40), 'squish')), dict(item_tfms=RandomResizedCrop(SIZE, min_scale=.3)),
                                    dict(item_tfms=Resize(40), batch_tfms=aug_transforms(size=SIZE, min_scale=.75)),
                                    dict(item_tfms=Resize(40), batch_tfms=RandomResizedCropGPU(SIZE, valid_scale=.8))])
def test_ways_to_one_size(pics, tmp_path, kwargs):
    round_trip(Learner(dls_of(pics, **kwargs), small(2), path=tmp_path), pics[:3], tmp_path)


@pytest.mark.parametrize('arch', [resnet18, resnet50])
def test_residual_networks_without_torchvision(pics, tmp_path, arch):
    learn = vision_learner(dls_of(pics), arch, pretrained=False, path=tmp_path)
    inf = round_trip(learn, pics[:2], tmp_path)
    assert [p.stride() for p in inf.model.parameters()] == [p.stride() for p in learn.model.parameters()]  # with two threads the last bit depends on it
    assert {type(m).__module__ for m in inf.model.modules()} <= {'fastbook_impl.inference.registry', 'fastbook_impl.layers'} | {k for k in sys.modules if k.startswith('torch.nn.')}


@pytest.mark.parametrize('name', ['resnet18', 'squeezenet1_1', 'densenet121', 'efficientnet_b0', 'convnext_tiny', 'mobilenet_v2', 'mobilenet_v3_small', 'xresnet18', 'tf_efficientnet_lite0'])
def test_bodies_of_other_libraries(name):
    import fastbook_impl.vision.models.tvm as tvm
    import fastbook_impl.vision.models.xresnet as xresnet
    body = create_body(getattr(tvm, name, getattr(xresnet, name, name)), pretrained=False).eval()
    x, again = torch.randn(1, 3, 64, 64), rebuilt(body)
    with torch.no_grad(): assert torch.equal(body(x), again(x))


def test_several_labels(pics, tmp_path):
    df = pd.DataFrame({'file': list(map(str, pics)), 'labels': ['red big', 'blue', '', 'red']*3})
    block = DataBlock((ImageBlock, MultiCategoryBlock), get_x=shortest, get_y=lambda r: r['labels'].split(), splitter=IndexSplitter([0, 1]), item_tfms=Resize(SIZE))
    from fastbook_impl.losses import BCEWithLogitsLossFlat
    learn = Learner(block.dataloaders(df, bs=4), small(3), loss_func=BCEWithLogitsLossFlat(thresh=.4), path=tmp_path)
    inf = round_trip(learn, pics[:3], tmp_path)  # paths need no get_x
    assert list(inf.dls.vocab) == ['big', 'blue', 'red'] and inf.loss_func.thresh == .4
    with pytest.raises(Exception, match="export.pkl needs your shortest, and the file contains no code"): inf.predict(df.iloc[0])
    given = load_learner(tmp_path/'export.pkl', names={'shortest': shortest})
    same(given.predict(df.iloc[0]), learn.predict(df.iloc[0]))


def test_columns_need_no_names(pics, tmp_path):
    df = pd.DataFrame({'file': [p.name for p in pics], 'labels': ['red,big', 'blue', 'big', 'red']*3})
    dls = ImageDataLoaders.from_df(df, pics[0].parent, label_delim=',', seed=1, item_tfms=Resize(SIZE), bs=4)
    round_trip(Learner(dls, small(3), path=tmp_path), [df.iloc[0], df.iloc[5]], tmp_path)


def test_points(pics, tmp_path):
    block = DataBlock((ImageBlock, PointBlock), get_y=spots, splitter=IndexSplitter([0, 1]), item_tfms=Resize(SIZE), batch_tfms=aug_transforms(size=24))
    inf = round_trip(Learner(block.dataloaders(pics, bs=4), small(4), path=tmp_path), pics[:2], tmp_path)
    assert inf.predict(pics[0])[0].shape == (4,)


def test_numbers(pics, tmp_path):
    block = DataBlock((ImageBlock, RegressionBlock), get_y=lambda f: float(len(f.name)), splitter=IndexSplitter([0, 1]), item_tfms=Resize(SIZE))
    round_trip(Learner(block.dataloaders(pics, bs=4), small(1), path=tmp_path), pics[:2], tmp_path)


@pytest.mark.parametrize('attention', [False, True])
def test_segmentation(pics, tmp_path, attention):
    dls = SegmentationDataLoaders.from_label_func(pics[0].parent, pics, mask_of, codes=['sky', 'road', 'cat'], seed=0, bs=2, item_tfms=Resize(SIZE))
    learn = unet_learner(dls, resnet18, pretrained=False, self_attention=attention, path=tmp_path)
    inf = round_trip(learn, pics[:2], tmp_path)
    assert inf.predict(pics[0])[0].shape == (SIZE, SIZE) and list(inf.dls.vocab) == ['sky', 'road', 'cat']


def texts_learner(path, **kwargs):
    from fastbook_impl.text.data import TextDataLoaders
    from fastbook_impl.text.learner import text_classifier_learner
    from fastbook_impl.text.models.awdlstm import AWD_LSTM
    df = pd.DataFrame({'text': ['A fine film, really!', 'Dull.', 'I liked it a lot, SO much', 'No no no no', 'Oh dear']*4, 'label': ['pos', 'neg', 'pos', 'neg', 'neg']*4})
    dls = TextDataLoaders.from_df(df, text_col='text', label_col='label', valid_pct=.2, seed=0, bs=4, seq_len=5, **kwargs)
    return text_classifier_learner(dls, AWD_LSTM, seq_len=5, config=dict(emb_sz=8, n_hid=10, n_layers=2), pretrained=False, path=path), df


def test_texts(tmp_path):
    learn, df = texts_learner(tmp_path)
    inf = round_trip(learn, ['A fine film', 'Really dull, no no no, and a word that nobody knows', ''], tmp_path)
    assert inf.dls.vocab[1] == ['neg', 'pos'] and inf.model[0].module.encoder.num_embeddings == len(inf.dls.vocab[0])


def test_texts_with_pieces_of_words(tmp_path):
    from fastbook_impl.text.core import SubwordTokenizer, Tokenizer
    df = texts_learner(tmp_path)[1]
    tok = Tokenizer(SubwordTokenizer(vocab_sz=60))
    tok.setup(df.text.tolist())
    again = Reader({}, Path('a file')).value('object', json.loads(json.dumps(Writer().value('object', tok))))
    assert list(again('A fine film')) == list(tok('A fine film')) and len(again('A fine film')) > 3


def test_what_writes_texts_is_refused(tmp_path):
    from fastbook_impl.text.learner import LMLearner
    learn = LMLearner.__new__(LMLearner)
    with pytest.raises(TypeError, match='a language model learner cannot be exported: save it with learn.save'): learn.export()


@pytest.mark.parametrize('y', ['class', 'number'])
def test_tables(tmp_path, y):
    from fastbook_impl.tabular.core import Categorify, FillMissing
    from fastbook_impl.tabular.data import TabularDataLoaders
    from fastbook_impl.tabular.learner import tabular_learner
    rng = np.random.default_rng(0)
    df = pd.DataFrame({'work': rng.choice(['own', 'state', None], 40), 'age': rng.integers(20, 60, 40), 'hours': rng.choice([20., 40., np.nan], 40),
                       'class': rng.choice(['low', 'high'], 40), 'number': rng.random(40)})
    dls = TabularDataLoaders.from_df(df, procs=[Categorify, FillMissing, Normalize], cat_names=['work'], cont_names=['age', 'hours'], y_names=y, valid_idx=range(30, 40), bs=8)
    learn = shaken(tabular_learner(dls, layers=[8], path=tmp_path))
    inf = load_learner(learn.export())
    rows = [df.iloc[0], df.iloc[1], df.iloc[35], {'work': 'elsewhere', 'age': 3, 'hours': None}]
    for row in rows:
        (a, *rest), (b, *more) = inf.predict(row), learn.predict(row)
        assert same(rest, more) and a.items.equals(b.items) and len(inf.dls.train_ds) == 0
    assert same(inf.get_preds(dl=inf.dls.test_dl(df.iloc[:9]))[0], learn.get_preds(dl=learn.dls.test_dl(df.iloc[:9]))[0])


# -- one item ---------------------------------------------------------------------------------------------------------------------------------------

class Noisy(Transform):
    order = 6
    def encodes(self, o: torch.Tensor): return o + torch.rand(1)*20


def test_random_numbers_of_ones_own(pics, tmp_path):
    "A step of the user's may draw: it is seeded as in a loader, so that the learner and the loaded one agree."
    learn = shaken(Learner(dls_of(pics, batch_tfms=None, item_tfms=[Resize(SIZE), Noisy()]), small(2), path=tmp_path))
    inf = load_learner(learn.export(), names={'Noisy': Noisy})
    answers = []
    for one in (learn, inf, inf):
        set_seed(3)
        answers.append(one.predict(pics[0]))
    assert same(answers[0], answers[1]) and same(answers[1], answers[2])
    assert not torch.equal(inf.predict(pics[0])[2], answers[0][2])


def test_steps_that_are_changed_after_loading(pics, tmp_path):
    inf = load_learner(shaken(Learner(dls_of(pics), small(2), path=tmp_path)).export())
    before = inf.predict(pics[0])
    inf.dls.add_tfms([Normalize.from_stats([.1]*3, [.2]*3)], 'after_batch')
    after = inf.predict(pics[0])
    assert not torch.equal(before[2], after[2])
    inf.dls.valid.create_batch = lambda items: (torch.zeros(1, 3, SIZE, SIZE),)
    assert same(inf.predict(pics[0])[1:], inf.predict(pics[5])[1:])


@pytest.mark.parametrize('item, message', [('nothing.png', 'there is no file nothing.png'), (b'text', 'is not an image in a format that Pillow can read'), (3, 'it is a int')])
def test_items_that_are_none(pics, tmp_path, item, message):
    inf = load_learner(Learner(dls_of(pics), small(2), path=tmp_path).export())
    with pytest.raises((OSError, TypeError, ValueError), match=message): inf.predict(item)


def odd_table(n=60):
    rng = np.random.default_rng(0)
    return pd.DataFrame({'word': rng.choice(['own', 'state', None], n), 'size': rng.integers(0, 4, n), 'part': rng.choice([.5, 1., 2.], n), 'yes': rng.random(n) > .5,
                         'age': rng.integers(20, 60, n), 'hours': rng.choice([20., 40., np.nan], n), 'height': rng.random(n).astype(np.float32), 'class': rng.choice(['low', 'high'], n)})


@pytest.fixture(scope='module', params=['all procs', 'gaps not told', 'numbers as they are'])
def tables(request, tmp_path_factory):
    from fastbook_impl.tabular.core import Categorify, FillMissing
    from fastbook_impl.tabular.data import TabularDataLoaders
    from fastbook_impl.tabular.learner import tabular_learner
    procs = {'all procs': [Categorify, FillMissing, Normalize], 'gaps not told': [Categorify, FillMissing(add_col=False), Normalize], 'numbers as they are': [FillMissing, Categorify]}[request.param]
    dls = TabularDataLoaders.from_df(odd_table(), procs=procs, cat_names=['word', 'size', 'part', 'yes'], cont_names=['age', 'hours', 'height'], y_names='class', valid_idx=range(50, 60), bs=8)
    learn = shaken(tabular_learner(dls, layers=[8], path=tmp_path_factory.mktemp('tables')))
    return learn, load_learner(learn.export())


def test_odd_rows(tables):
    "Whatever stands in a row, the loaded learner says what the trained one says, or raises the same error."
    learn, inf = tables
    df, rng, said = odd_table(), random.Random(1), 0
    values = ['own', 'new', '1', '', None, np.nan, 0, 1, 2., .5, True, False, -3, 2**53 + 1, np.float32(.1), np.int8(2), np.uint8(3), np.bool_(True), np.str_('own'), '#na#', pd.NA, pd.NaT, b'own']
    for i in range(60):
        row = df.iloc[i % len(df)].to_dict()
        for name in rng.sample(list(row), rng.randrange(3)): row[name] = rng.choice(values)
        row = [row, pd.Series(row), pd.Series(row, dtype=object)][i % 3]
        try: want = learn.predict(row)
        except Exception as e:
            with pytest.raises(type(e)) as got: inf.predict(row)
            assert str(got.value) == str(e)
        else:
            got, said = inf.predict(row), said + 1
            assert same(got[1:], want[1:]) and got[0].items.equals(want[0].items)
    assert said > 30


def test_rows_that_lack_a_column(tables):
    row = odd_table().iloc[0]
    with pytest.raises(KeyError, match="the table has no column 'hours'"): tables[1].predict(row.drop('hours'))
    with pytest.raises(ValueError, match="the column 'age' is in cont_names but contains a non-numeric value: 'old' in row 0"): tables[1].predict({**row, 'age': 'old'})


# -- what is the user's own ---------------------------------------------------------------------------------------------------------------------

def test_layers_of_ones_own(pics, tmp_path):
    learn = Learner(dls_of(pics), nn.Sequential(*small(8), Mine(8), Lambda(torch.sigmoid)), loss_func=CrossEntropyLossFlat(), path=tmp_path)
    round_trip(learn, pics[:2], tmp_path, names={'Mine': Mine})
    with pytest.raises(NameError, match=r"export.pkl needs your Mine, .*load_learner\('export.pkl', names=\{'Mine': …\}\)"):
        load_learner(tmp_path/'export.pkl')


def test_functions_in_layers_are_needed(pics, tmp_path):
    learn = Learner(dls_of(pics), nn.Sequential(*small(2), Lambda(darker)), loss_func=CrossEntropyLossFlat(), path=tmp_path)
    with pytest.raises(NameError, match='needs your darker'): load_learner(learn.export())
    assert load_learner(tmp_path/'export.pkl', names={'darker': darker}).predict(pics[0])


def test_transforms_of_ones_own(pics, tmp_path):
    learn = Learner(dls_of(pics, item_tfms=[Resize(SIZE), Halve(2)]), small(2), path=tmp_path)
    round_trip(learn, pics[:2], tmp_path, names={'Halve': Halve})
    with pytest.raises(NameError, match='needs your Halve'): load_learner(tmp_path/'export.pkl')


def test_two_things_of_one_name(pics, tmp_path):
    learn = Learner(dls_of(pics), nn.Sequential(*small(2), Lambda(lambda x: x), Lambda(lambda x: -x)), loss_func=CrossEntropyLossFlat(), path=tmp_path)
    with pytest.raises(ValueError, match='two of your .* are both named <lambda>'): learn.export()


def test_loaders_that_know_no_way(tmp_path):
    dl = DataLoader([(torch.rand(3), 0), (torch.rand(3), 1)], bs=2)
    learn = Learner(DataLoaders(dl, dl), nn.Linear(3, 2), loss_func=CrossEntropyLossFlat(), path=tmp_path)
    with pytest.raises(TypeError, match=r'these loaders \(DataLoader\) cannot be exported.*: create them with a DataBlock or Datasets, or save only the weights with learn.save\(\)'): learn.export()
    assert not (tmp_path/'export.pkl').exists()


def test_shared_weights_are_shared_again():
    a = nn.Linear(4, 4)
    b = nn.Linear(4, 4)
    b.weight = a.weight
    again = rebuilt(nn.Sequential(a, b, a))
    assert again[0].weight is again[1].weight and again[2] is again[0] and again[1].bias is not again[0].bias


@pytest.mark.parametrize('layer, x', [(nn.GRU(3, 4, batch_first=True, bidirectional=True), (2, 5, 3)), (nn.MultiheadAttention(4, 2, batch_first=True), None),
                                      (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), (2, 5, 4)), (SelfAttention(4), (2, 4, 3, 3)), (nn.BatchNorm2d(4), (2, 4, 3, 3)),
                                      (nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 3, 3)), (1, 2, 5, 5)), (nn.LayerNorm(3), (2, 3)), (nn.EmbeddingBag(5, 2), 'ints'),
                                      (ConvLayer(2, 3, transpose=True), (1, 2, 5, 5)), (Flatten(), (2, 3, 4)), (nn.Upsample(scale_factor=2), (1, 2, 3, 3))])
def test_layers(layer, x):
    layer, again = layer.eval(), rebuilt(layer)
    x = torch.tensor([[0, 2], [1, 4]]) if x == 'ints' else torch.randn(x or (2, 5, 4))
    args = (x, x, x) if isinstance(layer, nn.MultiheadAttention) else (x,)
    with torch.no_grad(): got, want = again(*args), layer(*args)
    assert all(torch.equal(a, b) for a, b in zip(got, want)) if isinstance(want, tuple) else torch.equal(got, want)


def test_the_learner_goes_on_as_before(pics, tmp_path):
    learn = Learner(dls_of(pics), small(2), path=tmp_path)
    learn.model.train()
    learn.export('folder/other name.pkl')
    assert learn.model.training and (tmp_path/'folder'/'other name.pkl').is_file()
    with learn.no_logging(): learn.fit(1)
    assert [p.name for p in tmp_path.rglob('*.part')] == []


def test_nothing_of_the_data_is_in_the_file(pics, tmp_path):
    learn = Learner(dls_of(pics), small(2), path=tmp_path)
    text = (learn.export()).read_bytes()
    assert not any(p.name.encode() in text for p in pics) and str(pics[0].parent).encode() not in text


# -- pickles ------------------------------------------------------------------------------------------------------------------------------------

class Attack:
    "A pickle of it makes a file when it is loaded."
    def __init__(self, mark): self.mark = mark
    def __reduce__(self): return open, (str(self.mark), 'w')


@pytest.fixture(params=[0, 1, 2, 3, 4, 5, 'torch', 'torch, old'])
def attack(request, tmp_path):
    mark = tmp_path/'mark'
    def write(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(request.param, int): file.write_bytes(pickle.dumps(Attack(mark), request.param))
        else: torch.save(Attack(mark), file, _use_new_zipfile_serialization=request.param == 'torch')
        return file
    yield write
    assert not mark.exists(), 'a pickle was run'


def test_the_attack_works(tmp_path):
    pickle.loads(pickle.dumps(Attack(tmp_path/'mark')))
    assert (tmp_path/'mark').exists()


@pytest.mark.parametrize('name', ['export.pkl', 'model.pth', 'model.pt', 'model.safetensors', 'model'])
def test_pickles_are_refused_by_load_learner(attack, tmp_path, name):
    with pytest.raises(ValueError, match='is a pickle, and is not loaded: loading one runs the code in it|is not an exported learner'): load_learner(attack(tmp_path/name))
    if name != 'model' and name != 'model.safetensors':
        with pytest.raises(ValueError, match='is a pickle, and is not loaded'): load_learner(tmp_path/name)


@pytest.mark.parametrize('ext', ['', '.pth', '.pkl', '.pt', '.safetensors'])
def test_pickles_are_refused_by_load(attack, pics, tmp_path, ext):
    learn = Learner(dls_of(pics), small(2), path=tmp_path)
    attack(tmp_path/'models'/f'm{ext}')
    for name in (f'm{ext}', 'm', str(tmp_path/'models'/f'm{ext}'), tmp_path/'models'/f'm{ext}'):
        with pytest.raises((ValueError, FileNotFoundError), match='pickle' if ext != '.safetensors' else 'm'): learn.load(name)
    with pytest.raises(ValueError, match='pickle'): load_model(tmp_path/'models'/f'm{ext}', learn.model)


@pytest.mark.parametrize('ext', ['', '.pth', '.pkl', '.safetensors'])
def test_pickles_are_refused_by_load_encoder(attack, tmp_path, ext):
    from fastbook_impl.text.learner import read_vocab, read_weights
    learn, _ = texts_learner(tmp_path)
    attack(tmp_path/'models'/f'm{ext}')
    for name in (f'm{ext}', 'm', tmp_path/'models'/f'm{ext}'):
        with pytest.raises((ValueError, FileNotFoundError)): learn.load_encoder(name)
    for f in (read_weights, read_vocab):
        with pytest.raises(ValueError, match='is refused'): f(tmp_path/'models'/f'm{ext}')
    with pytest.raises(ValueError, match='is refused'): learn.load_pretrained(tmp_path/'models'/f'm{ext}', tmp_path/'models'/f'm{ext}')


# -- files that are not as they should be ---------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def tiny(pics, tmp_path_factory):
    path = tmp_path_factory.mktemp('tiny')
    learn = Learner(dls_of(pics), SimpleCNN([3, 4, 2]), path=path)
    return learn.export(), learn.predict(pics[0])


def mutated(data, rng):
    "`data` with one accident: bits, bytes, a cut, a hole, a repetition, a swap."
    data, n = bytearray(data), len(data)
    kind, at = rng.randrange(8), rng.choice([rng.randrange(n), rng.randrange(min(n, 300))])
    if kind < 2: data[at] ^= 1 << rng.randrange(8)
    elif kind == 2: data[at:at+8] = rng.randbytes(8)
    elif kind == 3: del data[at:]
    elif kind == 4: del data[at:at + rng.randrange(1, 60)]
    elif kind == 5: data[at:at] = data[at:at + rng.randrange(1, 60)]
    elif kind == 6: data[:8] = rng.randrange(2**rng.randrange(1, 64)).to_bytes(8, 'little')
    else: data += rng.randbytes(rng.randrange(1, 60))
    return bytes(data)


def test_a_thousand_mutations(tiny, pics, tmp_path):
    import tracemalloc
    file, want = tiny
    data, rng, errors, bad = file.read_bytes(), random.Random(42), {}, tmp_path/'bad.pkl'
    tracemalloc.start()
    for i in range(1000):
        bad.write_bytes(m := mutated(data, rng))
        try: learn = load_learner(bad)
        except ValueError as e:
            assert str(e).startswith(str(bad)) and '\n' not in str(e) and len(str(e)) < 400 + len(str(bad)), e
            errors[str(e).partition('(')[2][:30]] = errors.get(str(e).partition('(')[2][:30], 0) + 1
        else: assert m == data and same(learn.predict(pics[0]), want)
    assert sum(errors.values()) > 900 and len(errors) >= 3
    assert tracemalloc.get_traced_memory()[1] < 2*len(data) + 5_000_000  # what Python itself asks for; for tensors see below
    tracemalloc.stop()


@pytest.fixture(scope='module')
def large(pics, tmp_path_factory):
    "Forty megabytes, in few tensors."
    model = nn.Sequential(Flatten(), nn.Linear(3*SIZE*SIZE, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 2))
    return Learner(dls_of(pics), model, loss_func=CrossEntropyLossFlat(), path=tmp_path_factory.mktemp('large')).export()


MEMORY = '''
import gc, os, random, resource, sys
import fastbook_impl.vision.data
from fastbook_impl.inference import load_learner

def now(key): return 1024*int(next(l for l in open('/proc/self/status') if l.startswith(key)).split()[1])
def peak(): return now('VmHWM') if os.path.exists('/proc/self/clear_refs') else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*(1 if sys.platform == 'darwin' else 1024)
def reset():
    gc.collect()
    if not os.path.exists('/proc/self/clear_refs'): return peak()
    with open('/proc/self/clear_refs', 'w') as f: f.write('5')
    return now('VmRSS')
def load(file):
    before = reset()
    try: load_learner(file); said = 'loaded'
    except ValueError as e: said = 'refused'
    return said, peak() - before

load_learner(sys.argv[1])
print(*load(sys.argv[2]))
file, size, rng = sys.argv[2], os.path.getsize(sys.argv[2]), random.Random(0)
with open(file, 'rb') as f: head = f.read(8 + int.from_bytes(f.read(8), 'little'))
def change(at, new):
    with open(file, 'r+b') as f:
        f.seek(at); old = f.read(len(new))
        f.seek(at); f.write(new)
    return old
changes = [(0, n.to_bytes(8, 'little')) for n in (size - 8, size - 9, size//2, 20_000_000, 2**40)] + [(size - 1, b'?'), (size//2, b'??')]
changes += [(rng.randrange(len(head)), rng.randbytes(1)) for _ in range(int(sys.argv[3]))] + [(head.index(b'2048', i), b'9999') for i in (0, len(head)//2)]
for at, new in changes:
    old = change(at, new)
    if old != new: print(*load(file))
    change(at, old)
print(*load(file))
os.truncate(file, size - 20_000_000)
print(*load(file))
'''


@pytest.mark.medium
@pytest.mark.parametrize('n', [6, pytest.param(30, marks=pytest.mark.slow)])
def test_memory_is_that_of_the_file(large, tiny, tmp_path, n):
    "Weights are in memory once; and whatever a damaged file claims, it does not get more than twice its size."
    file = tmp_path/'copy.pkl'
    file.write_bytes(large.read_bytes())
    size, root = file.stat().st_size, Path(__file__).parent.parent.parent
    out = subprocess.run([sys.executable, '-c', MEMORY, str(tiny[0]), str(file), str(n)], capture_output=True, text=True, check=True, cwd=root).stdout
    said = [(l.split()[0], int(l.split()[1])/size) for l in out.splitlines()]
    assert size > 40_000_000 and said[0][0] == said[-2][0] == 'loaded' and {s for s, _ in said[1:-2]} == {said[-1][0]} == {'refused'} and len(said) >= n + 7
    assert .9 < said[0][1] < 1.5 and said[-2][1] < 1.5, said
    assert max(m for _, m in said) < 2, said


def test_the_file_may_change_after_loading(tiny, pics, tmp_path):
    file, want = tmp_path/'export.pkl', tiny[1]
    file.write_bytes(tiny[0].read_bytes())
    learn = load_learner(file)
    with open(file, 'r+b') as f: f.write(b'x'*file.stat().st_size)
    assert same(learn.predict(pics[0]), want)
    with open(file, 'wb'): pass
    assert same(learn.predict(pics[0]), want)


def test_a_file_that_changes_while_it_is_read(large, tmp_path, monkeypatch):
    "The checksum is that of the bytes that become weights."
    import fastbook_impl.inference.format as inference_file
    file = tmp_path/'export.pkl'
    for change in ('weights', 'length'):
        file.write_bytes(large.read_bytes())
        def meanwhile(head, size, right=inference_file._places):
            if change == 'length': os.truncate(file, file.stat().st_size - 1)
            else: file.write_bytes(file.read_bytes()[:-4] + b'oops')
            return right(head, size)
        with monkeypatch.context() as m, pytest.raises(ValueError, match='its checksum is wrong' if change == 'weights' else 'it was truncated while it was read'):
            m.setattr(inference_file, '_places', meanwhile)
            load_learner(file)


def header_of(tensors, texts={}):
    "The beginning of a file of safetensors."
    text = json.dumps({'__metadata__': {'checksum': '0'*64, **texts}, **tensors}).replace('": ', '":').encode()
    text += b' '*(-len(text) % 8)
    return len(text).to_bytes(8, 'little') + text


@pytest.mark.parametrize('tensors, size', [({'a': {'dtype': 'F32', 'shape': [10**9], 'data_offsets': [0, 4*10**9]}}, 8), ({'a': {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 12]}}, 12),
                                           ({'a': {'dtype': 'F32', 'shape': [-1, -2], 'data_offsets': [0, 8]}}, 8), ({'a': {'dtype': 'F32', 'shape': [2], 'data_offsets': [4, 12]}}, 12),
                                           ({'a': {'dtype': 'U8', 'shape': [8], 'data_offsets': [0, 8]}, 'b': {'dtype': 'U8', 'shape': [8], 'data_offsets': [0, 8]}}, 8),
                                           ({'a': {'dtype': 'F32', 'shape': [1], 'data_offsets': [0, 4]}}, 8), ({'a': {'dtype': 'X', 'shape': [1], 'data_offsets': [0, 4]}}, 4),
                                           ({'a': {'dtype': 'U8', 'shape': [10**15]*100_000, 'data_offsets': [0, 4]}}, 4), ({'a': {'dtype': 'U8', 'shape': [0, 2**80], 'data_offsets': [0, 0]}}, 0),
                                           ({'a': []}, 0), ({'a': {'shape': 1}}, 0)])
def test_headers_that_promise_too_much(tmp_path, tensors, size):
    (tmp_path/'bad.pkl').write_bytes(header_of(tensors) + bytes(size))
    with pytest.raises(ValueError, match='is not an exported learner, or it is damaged') as e: load_learner(tmp_path/'bad.pkl')
    assert 'checksum' not in str(e.value) and '\n' not in str(e.value)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='export.pkl; learn.export'): load_learner(tmp_path/'export.pkl')
    (tmp_path/'other.pkl').write_bytes(b'')
    with pytest.raises(FileNotFoundError, match='this folder contains other.pkl'): load_learner(tmp_path/'export.pkl')
    with pytest.raises(ValueError, match='it does not begin with a header'): load_learner(tmp_path/'other.pkl')


def test_saved_weights_are_no_learner(pics, tmp_path):
    file = Learner(dls_of(pics), small(2), path=tmp_path).save('m')
    with pytest.raises(ValueError, match='is not an exported learner, or it is damaged'): load_learner(file)


# -- another process ----------------------------------------------------------------------------------------------------------------------------

SCRIPT = '''
import sys, time, torch
start = time.process_time()
from fastbook_impl.inference import load_learner
said = load_learner(sys.argv[1]).predict(sys.argv[2])
print(time.process_time() - start, said[2].tolist(), sorted(m for m in sys.modules if m.startswith('fastbook_impl')), 'torchvision' in sys.modules)
'''


def in_new_process(file, item):
    out = subprocess.run([sys.executable, '-c', SCRIPT, str(file), str(item)], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent.parent).stdout
    seconds, rest = out.split(' ', 1)
    return float(seconds), rest


@pytest.mark.medium
@pytest.mark.parametrize('kind', ['unet', pytest.param('resnet', marks=pytest.mark.slow), pytest.param('text', marks=pytest.mark.slow)])
def test_nothing_that_trains_is_imported(pics, tmp_path, kind):
    if kind == 'resnet': learn = vision_learner(dls_of(pics), resnet18, pretrained=False, path=tmp_path)
    elif kind == 'unet':
        dls = SegmentationDataLoaders.from_label_func(pics[0].parent, pics, mask_of, codes=['sky', 'road', 'cat'], seed=0, bs=2, item_tfms=Resize(SIZE))
        learn = unet_learner(dls, resnet18, pretrained=False, path=tmp_path)
    else: learn, _ = texts_learner(tmp_path)
    item = 'A fine film' if kind == 'text' else pics[0]
    seconds, rest = in_new_process(shaken(learn).export(), item)
    assert str(learn.predict(item)[2].tolist()) in rest and rest.strip().endswith('False')
    assert not any(m in rest for m in ("'fastbook_impl.learner'", 'fastbook_impl.optimizer', 'fastbook_impl.callback', '.export', 'vision.learner', 'text.learner', 'metrics'))
    assert seconds < 10  # of the processor, so that a busy machine does not matter; it is about one


def test_the_book_s_lines(pics, tmp_path):
    learn = Learner(dls_of(pics), small(2), path=tmp_path)
    learn.export()
    from fastbook_impl.vision.all import load_learner
    learn_inf = load_learner(tmp_path/'export.pkl')
    learn_inf.predict(pics[0])
    assert learn_inf.dls.vocab == learn.dls.vocab and (tmp_path/'export.pkl').exists()


def test_onnx(pics, tmp_path):
    learn = Learner(dls_of(pics), small(2), path=tmp_path)
    try: import onnx, onnxruntime, onnxscript
    except ImportError:
        with pytest.raises(ImportError, match='is not installed, .*: pip install onnx onnxscript onnxruntime'): to_onnx(learn, tmp_path/'m.onnx')
    else:
        assert to_onnx(learn, tmp_path/'m.onnx') < 1e-4
        session, x = onnxruntime.InferenceSession(str(tmp_path/'m.onnx')), learn.dls.valid.one_batch()[0][:1]
        assert np.abs(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0] - learn.model.eval()(plain(x)).detach().numpy()).max() < 1e-4

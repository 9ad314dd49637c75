"""Learners of every kind in files, for the tests that attack the files and those that load them elsewhere. All classes and functions that the learners need are in `NAMES`."""
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

from fastbook_impl.data.block import CategoryBlock, DataBlock, MultiCategoryBlock
from fastbook_impl.data.transforms import ItemGetter, Normalize, RandomSplitter
from fastbook_impl.layers import AdaptiveConcatPool2d, Flatten, Lambda, SimpleCNN
from fastbook_impl.torch_core import Module
from fastbook_impl.vision.augment import Resize, aug_transforms
from fastbook_impl.vision.data import ImageBlock, ImageDataLoaders, PointBlock, SegmentationDataLoaders


def first_letter(f): return Path(f).name[0]
def both_letters(f): return ['even' if int(Path(f).stem[1:]) % 2 == 0 else 'odd', first_letter(f)]
def mask_of(f): return Path(f).with_suffix('.bmp')
def corners(f): return torch.tensor([[3., 5.], [20., 9.]])
def is_same(pair): return 'same' if first_letter(pair[0]) == first_letter(pair[1]) else 'different'
def halved(x): return x/2


class PairModel(Module):
    def __init__(self, encoder, head): self.encoder, self.head = encoder, head
    def forward(self, a, b): return self.head(torch.cat([self.encoder(a), self.encoder(b)], 1))


NAMES = {'PairModel': PairModel, 'halved': halved}


def images(folder):
    "Twelve images of noise, each with a mask."
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(12):
        f = folder/f'{"ab"[i % 2]}{i}.png'
        Image.fromarray(rng.integers(0, 255, (36, 40, 3), dtype=np.uint8)).save(f)
        Image.fromarray(rng.integers(0, 3, (36, 40), dtype=np.uint8)).save(mask_of(f))
    return sorted(folder.glob('*.png'))


def image_learner(files, path, net=None):
    from fastbook_impl.learner import Learner
    tfms = [*aug_transforms(size=24), Normalize.from_stats([.5]*3, [.3]*3)]
    dls = ImageDataLoaders.from_name_func(files[0].parent, files, first_letter, seed=0, bs=4, item_tfms=Resize(32), batch_tfms=tfms)
    net = net or nn.Sequential(*list(SimpleCNN([3, 4, 8]))[:-1], AdaptiveConcatPool2d(), Flatten(), nn.Linear(16, 2), Lambda(halved))
    return Learner(dls, net, path=path), files[0]


def resnet_learner(files, path):
    from fastbook_impl.vision.learner import vision_learner
    from fastbook_impl.vision.models.tvm import resnet18
    return vision_learner(image_learner(files, path)[0].dls, resnet18, pretrained=False, path=path), files[0]


def block_learner(files, path, block, get_y, n_out, **kwargs):
    from fastbook_impl.learner import Learner
    dls = DataBlock((ImageBlock, block), get_y=get_y, splitter=RandomSplitter(seed=0), item_tfms=Resize(32), **kwargs).dataloaders(files, bs=4)
    return Learner(dls, SimpleCNN([3, 4, n_out]), path=path), files[0]


def mask_learner(files, path):
    from fastbook_impl.vision.models.tvm import resnet18
    from fastbook_impl.vision.learner import unet_learner
    dls = SegmentationDataLoaders.from_label_func(files[0].parent, files, mask_of, codes=['sky', 'road', 'cat'], seed=0, bs=2, item_tfms=Resize(32))
    return unet_learner(dls, resnet18, pretrained=False, self_attention=True, path=path), files[0]


def pair_learner(files, path):
    from fastbook_impl.learner import Learner
    pairs = [(str(a), str(b)) for a in files[:5] for b in files[5:9]]
    dls = DataBlock((ImageBlock, ImageBlock, CategoryBlock), n_inp=2, get_x=[ItemGetter(0), ItemGetter(1)], get_y=is_same, splitter=RandomSplitter(seed=0), item_tfms=Resize(32)).dataloaders(pairs, bs=4)
    return Learner(dls, PairModel(SimpleCNN([3, 4, 8]), nn.Linear(16, 2)), path=path), pairs[0]


def text_learner(files, path):
    from fastbook_impl.text.core import SubwordTokenizer, Tokenizer
    from fastbook_impl.text.data import TextDataLoaders
    from fastbook_impl.text.learner import text_classifier_learner
    from fastbook_impl.text.models.awdlstm import AWD_LSTM
    df = pd.DataFrame({'text': ['A fine film, really!', 'Dull.', 'I liked it a lot, SO much', 'No no no no', 'Oh dear']*4, 'label': ['pos', 'neg', 'pos', 'neg', 'neg']*4})
    tok = Tokenizer(SubwordTokenizer(vocab_sz=60)) if path.name == 'pieces' else None
    dls = TextDataLoaders.from_df(df, text_col='text', label_col='label', valid_pct=.2, seed=0, bs=4, seq_len=5, tok_tfm=tok)
    return text_classifier_learner(dls, AWD_LSTM, seq_len=5, config=dict(emb_sz=8, n_hid=10, n_layers=2), pretrained=False, path=path), 'A fine film, and so on'


def table_learner(files, path):
    from fastbook_impl.tabular.core import Categorify, FillMissing
    from fastbook_impl.tabular.data import TabularDataLoaders
    from fastbook_impl.tabular.learner import tabular_learner
    rng = np.random.default_rng(0)
    df = pd.DataFrame({'work': rng.choice(['own', 'state', None], 40), 'age': rng.integers(20, 60, 40), 'hours': rng.choice([20., 40., np.nan], 40), 'class': rng.choice(['low', 'high'], 40)})
    dls = TabularDataLoaders.from_df(df, procs=[Categorify, FillMissing, Normalize], cat_names=['work'], cont_names=['age', 'hours'], y_names='class', valid_idx=range(30, 40), bs=8)
    return tabular_learner(dls, layers=[8], path=path), {'work': 'own', 'age': 33, 'hours': None}


def rating_learner(files, path):
    from fastbook_impl.collab import CollabDataLoaders, collab_learner
    rng = np.random.default_rng(0)
    df = pd.DataFrame({'user': rng.choice(['ann', 'bob', 'cy'], 40), 'title': rng.choice(['up', 'down', 'left'], 40), 'rating': rng.integers(1, 6, 40).astype(float)})
    return collab_learner(CollabDataLoaders.from_df(df, seed=0, bs=8), n_factors=4, y_range=(0, 5.5), path=path), {'user': 'ann', 'title': 'down'}


KINDS = {'classes': image_learner, 'resnet': resnet_learner, 'labels': lambda f, p: block_learner(f, p, MultiCategoryBlock, both_letters, 4),
         'points': lambda f, p: block_learner(f, p, PointBlock, corners, 4, batch_tfms=aug_transforms(size=24)), 'masks': mask_learner, 'pairs': pair_learner,
         'texts': text_learner, 'pieces': text_learner, 'table': table_learner, 'ratings': rating_learner}


def learner_of(kind, folder):
    "The learner, and an item to predict. Weights and running statistics are not those of the beginning."
    from fastbook_impl.torch_core import set_seed
    set_seed(0)
    path = folder/kind
    path.mkdir(parents=True, exist_ok=True)
    learn, item = KINDS[kind](images(folder/'images'), path)
    for p in learn.model.state_dict().values():
        if p.is_floating_point(): p.mul_(1 + torch.rand_like(p)*.1)
    return learn, item


def as_plain(o):
    "A prediction as lists and texts, to be compared."
    if isinstance(o, torch.Tensor): return [str(o.dtype), list(o.shape), o.tolist()]
    if isinstance(o, (tuple, list)) and not isinstance(o, str): return [as_plain(p) for p in o]
    return o.items.to_dict('list') if hasattr(o, 'cont_names') else str(o)

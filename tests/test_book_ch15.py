"""The vision half of the book's chapter 15, typed in with only the import lines changed; pictures smaller, fewer and for fewer epochs, so that a CPU can run them."""
import pytest

from fastbook_impl.vision.all import *
from fastbook_impl import fastbook
from fastbook_impl.fastbook import *

from book_siamese import SiameseImage, SiameseModel, SiameseTransform, label_func, loss_func, siamese_splitter


@pytest.fixture(scope='module', autouse=True)
def figures_closed():
    yield
    plt.close('all')


def test_heads_and_bodies():
    fastbook.setup_book()
    assert model_meta[resnet50]['cut'] == -2 and set(model_meta[resnet50]) == {'cut', 'split', 'stats'}
    layers = [type(o).__name__ for o in create_head(20,2)]
    assert layers == ['AdaptiveConcatPool2d', 'Flatten', 'BatchNorm1d', 'Dropout', 'Linear', 'ReLU', 'BatchNorm1d', 'Dropout', 'Linear']


@pytest.fixture(scope='module')
def dls(real_pets):
    set_seed(42)
    files = get_image_files(real_pets/"images")[::8]
    img = PILImage.create(files[0])
    s = SiameseImage(img, img, True)
    s.show()
    splits = RandomSplitter()(files)
    tfm = SiameseTransform(files, label_func, splits)
    tls = TfmdLists(files, tfm, splits=splits)
    show_at(tls.valid, 0)
    return tls.dataloaders(bs=16, after_item=[Resize(64), ToTensor],
        after_batch=[IntToFloatTensor, Normalize.from_stats(*imagenet_stats)])


def test_pairs_from_transform_to_batch(dls):
    x1,x2,same = dls.one_batch()
    assert x1.shape == x2.shape == (16,3,64,64) and set(same.tolist()) <= {True, False}
    dls.show_batch()


def test_siamese_network_frozen_then_unfrozen(dls):
    encoder = create_body(resnet34, cut=-2)
    head = create_head(512*2, 2, ps=0.5)
    model = SiameseModel(encoder, head)
    learn = Learner(dls, model, loss_func=loss_func,
                    splitter=siamese_splitter, metrics=accuracy)
    before = params(encoder)[0].clone()
    learn.freeze()
    learn.fit_one_cycle(1, 3e-3)
    assert torch.equal(params(encoder)[0], before)
    learn.unfreeze()
    learn.fit_one_cycle(1, slice(1e-6,1e-4))
    assert [h['lr'] for h in learn.opt.hypers] != [learn.opt.hypers[0]['lr']]*2
    assert not torch.equal(params(encoder)[0], before)
    assert len(learn.recorder.values) == 1 and 0 <= learn.recorder.values[0][2] <= 1

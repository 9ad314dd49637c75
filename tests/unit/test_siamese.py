"""What chapter 15 exports: pairs of images, two networks that compare them, and the results that the saved notebook reports."""
import pytest
import torch
from fastcore.foundation import L
from torch import nn

from fastbook_impl.course.pet_breeds import pets_net
from fastbook_impl.course.siamese import SiameseComparer, SiameseImage, SiameseModel, SiameseTransform, siamese_loss, siamese_splitter
from fastbook_impl.vision.all import (CategoryBlock, DataBlock, DataLoaders, Image, ImageBlock, IntToFloatTensor, Learner, Normalize, PILImage, RandomSplitter,
                                      RegexLabeller, Resize, TensorDataset, TfmdLists, ToTensor, accuracy, aug_transforms, create_head, error_rate, get_image_files,
                                      imagenet_stats, np, params, plt, set_seed, using_attr, vision_learner)


def kind(f): return f.stem.split('_')[0]


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "Plain pictures, twenty red, twenty green and twenty blue ones."
    folder, rng = tmp_path_factory.mktemp('colours'), np.random.default_rng(0)
    for name, colour in dict(red=(200, 30, 30), green=(30, 160, 30), blue=(30, 30, 200)).items():
        for i in range(20):
            noise = rng.integers(-25, 25, (36, 44, 3))
            Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(folder/f'{name}_{i}.png')
    return get_image_files(folder).sorted()


@pytest.fixture(scope='module')
def splits(files): return RandomSplitter(0.3, seed=1)(files)


@pytest.fixture(scope='module')
def dls(files, splits):
    set_seed(0)
    tls = TfmdLists(files, SiameseTransform(files, kind, splits), splits=splits)
    return tls.dataloaders(bs=8, after_item=[Resize(32), ToTensor], after_batch=[IntToFloatTensor, Normalize.from_stats(*imagenet_stats)])


def test_partners_come_from_the_same_part_and_are_never_the_picture_itself(files, splits):
    set_seed(0)
    tfm = SiameseTransform(files, kind, splits)
    for part in splits:
        own = {files[i] for i in part}
        for f in own:
            for _ in range(10):
                other, same = tfm._draw(f)
                assert other in own and other != f and same == (kind(other) == kind(f))


def test_half_of_the_pairs_are_of_one_kind(files, splits):
    set_seed(0)
    tfm = SiameseTransform(files, kind, splits)
    share = np.mean([tfm._draw(files[splits[0][0]])[1] for _ in range(2000)])
    assert 0.46 < share < 0.54


def test_pairs_of_validation_are_fixed_those_of_training_fresh(dls):
    valid = [torch.cat([b[1].flatten(1).sum(1) for b in dls.valid]) for _ in range(2)]
    assert torch.equal(*valid)
    train = [torch.cat([b[2] for b in dls.train.new(shuffle=False)]).tolist() for _ in range(5)]
    assert len(set(map(str, train))) > 1


def test_a_kind_with_one_picture_is_told(files):
    few = L([*[f for f in files if kind(f) == 'red'][:4], next(f for f in files if kind(f) == 'blue')])
    with pytest.raises(ValueError, match='training set has only one of blue'):
        SiameseTransform(few, kind, [range(5), []])


def test_one_kind_only_is_told(files):
    red = L(f for f in files if kind(f) == 'red')
    with pytest.raises(ValueError, match=r'training set has only one class \(red\)'): SiameseTransform(red, kind, [range(20), []])


def test_an_item_shows_itself_before_and_after_it_is_a_tensor(files, dls):
    ax = SiameseImage(PILImage.create(files[0]), PILImage.create(files[1]).resize((20, 50)), True).show()
    assert ax.get_title() == 'same' and ax.images[0].get_array().shape[:2] == (36, 44*2 + 10)
    x1, x2, _ = dls.one_batch()
    assert SiameseImage(x1[0], x2[0], False).show().get_title() == 'different'
    plt.close('all')


@torch.no_grad()
def test_the_comparer_does_not_care_about_the_order(dls):
    x1, x2, _ = dls.one_batch()
    set_seed(0)
    body = pets_net()[:4]
    one = SiameseComparer(body, create_head(1024, 2, pool=False)).eval()
    torch.testing.assert_close(one(x1, x2), one(x2, x1))
    book = SiameseModel(body, create_head(512, 2)).eval()
    assert book(x1, x2).shape == (8, 2) and not torch.allclose(book(x1, x2), book(x2, x1), atol=1e-3)


def test_it_trains_and_shows_what_it_got_wrong(dls):
    set_seed(0)
    learn = Learner(dls, SiameseComparer(pets_net()[:4], create_head(1024, 2, pool=False, ps=0.1)), loss_func=siamese_loss, splitter=siamese_splitter, metrics=accuracy)
    learn.freeze()
    assert not params(learn.model.encoder)[0].requires_grad
    learn.unfreeze()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(10, 3e-3)
    assert learn.recorder.values[-1][2] >= 0.8
    learn.show_results(max_n=4)
    titles = [ax.get_title() for ax in plt.gcf().axes if ax.get_title()]
    assert len(titles) == 4 and all(t.split(', answer: ')[1] in ('same', 'different') for t in titles)
    plt.close('all')


@pytest.fixture(scope='module')
def reached(saved_figures): return saved_figures('15_arch_details')


def test_the_notebook_meets_its_floors(reached):
    assert reached['compared'] >= 0.8 and reached['concatenated'] >= 0.9
    assert reached['streets'] >= reached['streets_by_place'] + 0.03


def test_a_smaller_network_helps_less_than_the_other_remedies(reached):
    assert reached['remedies_1_to_4'] < min(reached['no_remedy'], reached['smaller']) - 0.05


def features(dl, comparer):
    with torch.no_grad(): batches = [(comparer.embed(xb).as_subclass(torch.Tensor), yb.as_subclass(torch.Tensor)) for xb, yb in dl]
    return [torch.cat(o) for o in zip(*batches)]


@pytest.mark.slow
def test_breeds_of_real_pets(real_pets):
    "The photographs of three breeds: a body that learned to name them, then a head that compares; every pair of the validation pictures is asked."
    names = get_image_files(real_pets/'images').sorted()
    block = DataBlock(blocks=(ImageBlock, CategoryBlock), splitter=RandomSplitter(seed=42), get_y=using_attr(RegexLabeller(r'(.+)_\d+.jpg$'), 'name'),
                      item_tfms=Resize(128), batch_tfms=[*aug_transforms(size=96, min_scale=0.75), Normalize.from_stats(*imagenet_stats)])
    set_seed(42)
    dls = block.dataloaders(names, bs=32)
    teacher = vision_learner(dls, pets_net(), pretrained=False, lin_ftrs=[], ps=0.25, metrics=error_rate)
    with teacher.no_bar(), teacher.no_logging(): teacher.fit_one_cycle(9, 8e-3)
    body = SiameseComparer(teacher.model[0], None).eval()
    (seen, kinds), (unseen, truth) = features(dls.test_dl(dls.train.items, with_labels=True), body), features(dls.valid, body)

    class Compare(nn.Module):
        def __init__(self): super().__init__(); self.head = create_head(1024, 2, ps=0.5, pool=False)
        def forward(self, a, b): return self.head(torch.cat([(a - b).abs(), a*b], 1))
    i, j = torch.randint(len(seen), (2, 60_000))
    same = kinds[i] == kinds[j]
    keep = torch.cat([o.nonzero()[:12_000, 0] for o in (same, ~same)])
    a, b = torch.triu_indices(len(unseen), len(unseen), 1)
    truth = truth[a] == truth[b]
    pairs = DataLoaders.from_dsets(TensorDataset(seen[i][keep], seen[j][keep], same[keep]), TensorDataset(unseen[a], unseen[b], truth), bs=64)
    learn = Learner(pairs, Compare(), loss_func=siamese_loss)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 1e-3)
    said = learn.get_preds()[0].argmax(1) == 1
    balanced = (said[truth].float().mean() + (~said[~truth]).float().mean()).item()/2
    print(f'same breed or not: {balanced:.3f} of {len(a)} pairs, same and different weighing alike; wrong breed {teacher.recorder.values[-1][2]:.3f}')
    assert balanced >= 0.65

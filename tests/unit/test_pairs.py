"""A user's own types and transforms, as chapter 15 of the book makes them: pairs of pictures that show themselves, drawn by a `Transform`, trained by a model with two inputs."""
import pytest

from fastbook_impl.vision.all import *


class Pair(fastuple):
    "Two pictures and whether they are of one kind."
    def show(self, ctx=None, **kwargs):
        one, two, same = self
        if not isinstance(one, Tensor):
            one, two = (tensor(o.resize((32, 32))).permute(2, 0, 1) for o in (one, two))
        gap = one.new_zeros(3, one.shape[1], 4)
        return show_image(torch.cat([one, gap, two], dim=2), title=bool(same), ctx=ctx)


def kind(f): return f.parent.name


class DrawPair(Transform):
    def __init__(self, files, splits):
        self.of_kind = {k: files.filter(lambda f: kind(f) == k) for k in files.map(kind).unique()}
        self.fixed = {f: self.draw(f) for f in files[splits[1]]}

    def draw(self, f):
        same = random.random() < 0.5
        kinds = [kind(f)] if same else [k for k in self.of_kind if k != kind(f)]
        return random.choice(self.of_kind[random.choice(kinds)]), same

    def encodes(self, f):
        other, same = self.fixed.get(f) or self.draw(f)
        return Pair(PILImage.create(f), PILImage.create(other), same)


class TwoInputs(Module):
    def __init__(self, encoder, head): self.encoder, self.head = encoder, head
    def forward(self, a, b): return self.head(torch.cat([self.encoder(a), self.encoder(b)], dim=1))


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "Plain pictures, forty red ones and forty blue ones: sixteen of them to validate."
    folder, rng = tmp_path_factory.mktemp('colours'), np.random.default_rng(0)
    for name, colour in {'red': (200, 30, 30), 'blue': (30, 30, 200)}.items():
        (folder/name).mkdir()
        for i in range(40):
            noise = rng.integers(-25, 25, (36, 44, 3))
            Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(folder/name/f'{i}.jpg')
    return get_image_files(folder)


@pytest.fixture(scope='module')
def dls(files):
    set_seed(0)
    splits = RandomSplitter(seed=1)(files)
    tls = TfmdLists(files, DrawPair(files, splits), splits=splits)
    return tls.dataloaders(bs=8, after_item=[Resize(32), ToTensor], after_batch=[IntToFloatTensor, Normalize.from_stats(*imagenet_stats)])


def test_pairs_of_the_validation_set_are_fixed_and_those_of_the_training_set_fresh(dls):
    valid = lambda: torch.cat([b[2] for b in dls.valid]).tolist()
    assert valid() == valid()
    train = lambda: torch.cat([b[2] for b in dls.train.new(shuffle=False)]).tolist()
    assert any(train() != train() for _ in range(5))


def test_a_batch_has_two_pictures_and_a_target(dls):
    a, b, same = dls.one_batch()
    assert a.shape == b.shape == (8, 3, 32, 32) and type(a) is TensorImage and same.shape == (8,)
    assert dls.n_inp == 2


def test_it_shows_itself(dls):
    dls.show_batch(max_n=4)
    titles = {ax.get_title() for ax in plt.gcf().axes if ax.get_title()}
    assert titles and titles <= {'True', 'False'}
    plt.close('all')


@pytest.mark.medium
def test_it_trains_frozen_then_unfrozen(dls):
    set_seed(0)
    encoder = create_body(resnet18, pretrained=False, cut=-2)
    head = create_head(512*2, 2, ps=0.5)
    def loss(out, targ): return nn.CrossEntropyLoss()(out, targ.long())
    def splitter(model): return [params(model.encoder), params(model.head)]
    learn = Learner(dls, TwoInputs(encoder, head), loss_func=loss, splitter=splitter, metrics=accuracy)
    learn.freeze()
    assert not encoder[0].weight.requires_grad and head[-1].weight.requires_grad
    learn.fit_one_cycle(2, 3e-3)
    learn.unfreeze()
    learn.fit_one_cycle(3, slice(1e-4, 1e-3))
    assert [h['lr'] < 1e-3 for h in learn.opt.hypers] == [True, True]
    learn.fit_one_cycle(6, 1e-3)
    assert learn.recorder.values[-1][2] >= 0.75

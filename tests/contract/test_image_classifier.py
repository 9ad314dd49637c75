"""A classifier of images, from files to the rates it was trained with: loaders, augmentation, training, what is confused, rates, half precision."""
import pytest

from fastbook_impl.vision.all import *
from fastbook_impl.callback.fp16 import *
from fastbook_impl.fastbook import *

NAMED = RegexLabeller(r'^([a-z_]+)_[0-9]+')
KINDS = ['blue_brick', 'green_bar', 'red_ball']


def starts_with_r(name): return name.startswith('r')


@pytest.fixture(scope='module')
def block():
    return DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, splitter=RandomSplitter(seed=3), get_y=using_attr(NAMED, 'name'),
                     item_tfms=Resize(40), batch_tfms=aug_transforms(size=32, min_scale=.8))


@pytest.fixture(scope='module')
def loaders(block, toy_box):
    set_seed(3)
    return block.dataloaders(toy_box, bs=8)


def silent(learner, f, *args, **kwargs):
    with learner.no_bar(), learner.no_logging(): return f(*args, **kwargs)


@pytest.fixture(scope='module')
def trained(loaders):
    learner = vision_learner(loaders, resnet18, metrics=error_rate)
    silent(learner, learner.fine_tune, 1)
    return learner


# loaders

def test_a_function_of_the_name_can_label_with_true_and_false(toy_box):
    given = get_image_files(toy_box)
    data = ImageDataLoaders.from_name_func(toy_box, given, valid_pct=.25, seed=1, label_func=starts_with_r, item_tfms=Resize(32), bs=8)
    assert (len(data.train_ds), len(data.valid_ds)) == (45, 15)
    assert list(data.vocab) == [False, True]
    x, y = data.one_batch()
    assert x.shape == (8, 3, 32, 32) and type(y) is TensorCategory


def test_the_seed_decides_which_images_validate(toy_box):
    given = get_image_files(toy_box).sorted()
    parts = [ImageDataLoaders.from_name_func(toy_box, given, valid_pct=.2, seed=s, label_func=starts_with_r, item_tfms=Resize(32), bs=8).valid_ds.items for s in (1, 1, 2)]
    assert parts[0] == parts[1] != parts[2]


def test_folders_are_split_into_train_and_valid_by_their_names(toy_shelves):
    data = ImageDataLoaders.from_folder(toy_shelves, item_tfms=Resize(32), bs=8)
    assert (len(data.train_ds), len(data.valid_ds)) == (45, 15) and list(data.vocab) == KINDS


def test_a_regular_expression_labels_by_the_name_of_a_file(toy_box):
    assert {NAMED(f.name) for f in get_image_files(toy_box)} == set(KINDS)
    assert using_attr(NAMED, 'name')(toy_box/'green_bar_07.jpg') == 'green_bar'


def test_images_are_found_in_all_folders_below(toy_shelves):
    found = get_image_files(toy_shelves)
    assert isinstance(found, L) and len(found) == 60 and {parent_label(f) for f in found} == set(KINDS)


def test_a_block_gives_typed_batches_and_a_vocabulary(loaders):
    x, y = loaders.one_batch()
    assert type(x) is TensorImage and type(y) is TensorCategory
    assert x.shape == (8, 3, 32, 32) and y.shape == (8,)
    assert list(loaders.vocab) == KINDS and loaders.c == 3


def test_a_block_is_copied_with_other_transforms(block, toy_box):
    other = block.new(item_tfms=Resize(24), batch_tfms=None)
    assert other is not block and other.dataloaders(toy_box, bs=4).one_batch()[0].shape == (4, 3, 24, 24)
    assert block.dataloaders(toy_box, bs=4).one_batch()[0].shape == (4, 3, 32, 32)


@pytest.mark.parametrize('resize', [Resize(24), Resize(24, ResizeMethod.Squish), Resize(24, ResizeMethod.Pad, pad_mode='zeros'),
                                    RandomResizedCrop(24, min_scale=.4)], ids='crop squish pad random'.split())
def test_every_way_of_resizing_gives_batches_of_one_size(block, toy_box, resize):
    data = block.new(item_tfms=resize, batch_tfms=None).dataloaders(toy_box, bs=6)
    assert data.one_batch()[0].shape == (6, 3, 24, 24)
    data.valid.show_batch(max_n=2, nrows=1)


def test_padding_with_zeros_leaves_black_bars_and_squishing_none(block, toy_box):
    def darkest_row(resize): return block.new(item_tfms=resize, batch_tfms=None).dataloaders(toy_box, bs=6).valid.one_batch()[0].amax((1, 3)).min()
    assert darkest_row(Resize(32, ResizeMethod.Pad, pad_mode='zeros')) < .1 < darkest_row(Resize(32, ResizeMethod.Squish))


def test_one_image_is_shown_in_its_variants(block, toy_box):
    data = block.new(item_tfms=Resize(32), batch_tfms=aug_transforms(mult=2)).dataloaders(toy_box, bs=4)
    data.train.show_batch(max_n=4, nrows=2, unique=True)
    assert len([ax for ax in plt.gcf().axes if ax.images]) == 4
    titles = {ax.get_title() for ax in plt.gcf().axes if ax.images}
    assert len(titles) == 1


def test_a_batch_is_shown_in_rows_and_columns_with_its_labels(loaders):
    loaders.show_batch(nrows=1, ncols=3)
    shown = [ax for ax in plt.gcf().axes if ax.images]
    assert len(shown) == 3 and {ax.get_title() for ax in shown} <= set(KINDS)


def test_a_summary_without_resize_names_it(toy_box):
    bare = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, splitter=RandomSplitter(seed=3), get_y=using_attr(NAMED, 'name'))
    sizes = toy_box.parent/'sizes'
    sizes.mkdir(exist_ok=True)
    for i in range(8): Image.new('RGB', (30 + i, 40)).save(sizes/f'{KINDS[i % 2]}_{i}.jpg')
    with pytest.raises(Exception, match='Resize'): bare.summary(sizes)


def test_a_loader_can_be_told_to_take_the_first_image_only(toy_box):
    twice = get_image_files(toy_box).sorted()[:1]*20 + get_image_files(toy_box).sorted()[-1:]*20
    same = DataBlock(blocks=(ImageBlock(), CategoryBlock()), get_y=using_attr(NAMED, 'name'), item_tfms=Resize(48, 'squish')).dataloaders(twice, bs=8)
    same.train.get_idxs = lambda: Inf.ones
    x, y = same.train.one_batch()
    assert x.shape == (8, 3, 48, 48) and all(torch.equal(x[0], o) for o in x) and len(y.unique()) == 1


# augmentation

def test_augmentation_methods_of_an_image_tensor_follow_one_another(toy_box):
    x = TensorImage(image2tensor(Image.open(toy_box/'red_ball_00.jpg')).float()[None]/255)
    turned = x.affine_coord(sz=32).rotate(draw=20, p=1.).zoom(draw=1.1, p=1.).warp(draw_x=.1, draw_y=-.1, p=1.)
    assert type(turned) is TensorImage and turned.shape == (1, 3, 32, 32)
    _, axs = subplots(1, 2)
    turned[0].show(ctx=axs[0])
    assert axs[0].images and not axs[1].images


def test_composed_augmentation_goes_where_its_steps_go_one_after_the_other():
    """One map takes the place of three, and a wrong one is seen at once. The zoom has a center of its own, and a composed warp comes before turn and zoom;
    with that order and center for both, what is left is the blur of three interpolations."""
    rows, columns = torch.linspace(0, 5, 80).cos(), torch.linspace(1, 4, 80).sin()
    x = TensorImage((rows[:, None]*columns)[None, None].repeat(2, 3, 1, 1))
    middle = dict(draw_x=.5, draw_y=.5)
    stepwise = x.affine_coord(sz=56).warp(draw_x=.15, draw_y=-.2, p=1.).rotate(draw=25, p=1.).zoom(draw=1.3, p=1., **middle)
    def distance(turn=25, scale=1.3, lean=.15):
        steps = [Rotate(draw=turn, p=1, size=56), Zoom(draw=scale, p=1., size=56, **middle), Warp(draw_x=lean, draw_y=-.2, p=1., size=56)]
        composed = Pipeline(setup_aug_tfms(steps))(x)
        assert composed.shape == (2, 3, 56, 56)
        return (plain(composed) - plain(stepwise)).abs()[..., 12:-12, 12:-12].mean()
    assert distance() < .003
    for wrong in distance(turn=20), distance(scale=1.4), distance(lean=-.15): assert wrong > 5*distance()


def test_statistics_normalize_and_are_taken_back():
    x = TensorImage(torch.rand(4, 3, 8, 8))
    scale = Normalize.from_stats(*imagenet_stats)
    torch.testing.assert_close(plain(scale.decode(scale(x.to(default_device())))).cpu(), plain(x), atol=1e-5, rtol=0)


# training and what it answers

def test_a_pretrained_network_or_a_word_that_it_is_not(loaders, capsys):
    learner = vision_learner(loaders, resnet18, metrics=error_rate)
    said = capsys.readouterr().out
    assert getattr(learner.model[0], 'is_pretrained', False) or 'random weights' in said


def test_fine_tune_trains_frozen_then_whole_and_records_the_last(trained):
    assert len(trained.recorder.values) == 1
    train_loss, valid_loss, error = trained.recorder.values[-1]
    assert train_loss > 0 and valid_loss > 0 and 0 <= error <= 1


def test_predict_answers_with_label_number_and_probabilities(trained, toy_box):
    label, number, probs = trained.predict(toy_box/'blue_brick_04.jpg')
    assert label in KINDS and trained.dls.vocab[number] == label
    assert probs.shape == (3,) and float(probs.sum()) == pytest.approx(1, abs=1e-4) and probs.argmax() == number


def test_predict_takes_an_open_image_and_gives_true_or_false_as_text(toy_box):
    data = ImageDataLoaders.from_name_func(toy_box, get_image_files(toy_box), valid_pct=.2, seed=1, label_func=starts_with_r, item_tfms=Resize(32), bs=8)
    answer, _, probs = vision_learner(data, resnet18, pretrained=False).predict(PILImage.create(image_cat()))
    assert answer in ('True', 'False') and probs.shape == (2,)


def test_an_image_shrinks_to_a_thumbnail_of_its_shape():
    cat = PILImage.create(image_cat())
    small = cat.to_thumb(96)
    assert max(small.size) == 96 and max(cat.size) > 96
    assert small.size[0]/small.size[1] == pytest.approx(cat.size[0]/cat.size[1], rel=.03)
    assert max(cat.to_thumb(50, 70).size) <= 70


def test_the_loss_of_a_category_is_cross_entropy(loaders):
    assert type(vision_learner(loaders, resnet18, pretrained=False).loss_func).__name__ == 'CrossEntropyLossFlat'


def test_predictions_of_one_batch_are_probabilities(trained, loaders):
    x, y = loaders.one_batch()
    preds, targets = trained.get_preds(dl=[(x, y)])
    assert preds.shape == (8, 3) and torch.equal(plain(targets), plain(y).cpu())
    torch.testing.assert_close(preds.sum(1), torch.ones(8))


def test_cross_entropy_is_the_negative_logarithm_of_softmax_at_the_target():
    scores, targets = torch.randn(7, 2), tensor([1, 1, 0, 1, 0, 0, 1])
    chosen = torch.softmax(scores, dim=1)[range(7), targets]
    torch.testing.assert_close(nn.CrossEntropyLoss()(scores, targets), -chosen.log().mean())
    torch.testing.assert_close(F.nll_loss(torch.softmax(scores, dim=1), targets, reduction='none'), -chosen)


# what is confused

def test_an_interpretation_counts_truth_against_answer(trained):
    looked_at = ClassificationInterpretation.from_learner(trained)
    matrix = looked_at.confusion_matrix()
    assert matrix.shape == (3, 3) and matrix.sum() == len(trained.dls.valid_ds)
    for truth, answer, times in looked_at.most_confused(min_val=2):
        assert times >= 2 and matrix[KINDS.index(truth), KINDS.index(answer)] == times


def test_a_confusion_matrix_is_drawn_in_a_given_size(trained):
    ClassificationInterpretation.from_learner(trained).plot_confusion_matrix(figsize=(4, 3), dpi=50)
    figure = plt.gcf()
    assert tuple(figure.get_size_inches()) == (4, 3) and figure.dpi == 50
    assert {o.get_text() for o in figure.axes[0].get_yticklabels()} == set(KINDS)


def test_the_worst_images_are_drawn_in_rows(trained):
    ClassificationInterpretation.from_learner(trained).plot_top_losses(4, nrows=2)
    assert len([ax for ax in plt.gcf().axes if ax.images]) == 4


# rates

@pytest.mark.medium
def test_the_finder_returns_a_rate_for_each_suggestion_and_leaves_the_weights(loaders):
    learner = vision_learner(loaders, resnet18, pretrained=False)
    last = learner.model[1][-1].weight
    before = copy(last.detach().clone())
    low, steepest = learner.lr_find(num_it=30, suggest_funcs=(minimum, steep))
    assert 1e-7 <= low <= 10 and 1e-7 <= steepest <= 10
    assert torch.equal(learner.model[1][-1].weight, before)


def test_the_finder_suggests_a_valley_and_stops_after_the_steps_given(loaders):
    learner = vision_learner(loaders, resnet18, pretrained=False)
    assert learner.lr_find(num_it=12).valley > 0
    assert len(learner.recorder.lrs) <= 12


def test_a_slice_of_rates_grows_from_the_first_group_to_the_last(loaders):
    learner = vision_learner(loaders, resnet18, pretrained=False)
    silent(learner, learner.fit_one_cycle, 1, 3e-3)
    learner.unfreeze()
    silent(learner, learner.fit_one_cycle, 1, lr_max=slice(1e-6, 1e-4))
    rates = [h['lr'] for h in learner.opt.hypers]
    assert len(rates) == 3 and rates == sorted(rates) and rates[0] < rates[-1]
    learner.recorder.plot_loss()
    assert plt.gcf().axes[0].lines


def test_fine_tune_takes_a_rate_and_a_number_of_frozen_epochs(loaders):
    learner = vision_learner(loaders, resnet18, pretrained=False)
    class Frozen(Callback):
        def before_fit(self): self.learn.told = [*getattr(self.learn, 'told', []), (self.n_epoch, self.opt.frozen_idx)]
    learner.add_cb(Frozen())
    silent(learner, learner.fine_tune, 1, base_lr=1e-3, freeze_epochs=2)
    assert learner.told == [(2, 2), (1, 0)]


def test_half_precision_trains_a_deeper_network(loaders):
    learner = vision_learner(loaders, resnet34, pretrained=False, metrics=error_rate).to_fp16()
    silent(learner, learner.fine_tune, 1, freeze_epochs=1)
    assert hasattr(learner, 'mixed_precision') and 0 <= learner.recorder.values[-1][2] <= 1


@pytest.mark.medium
def test_a_loss_and_a_metric_can_be_given(toy_shelves):
    learner = vision_learner(ImageDataLoaders.from_folder(toy_shelves, item_tfms=Resize(32), bs=8), resnet18, pretrained=False, loss_func=F.cross_entropy, metrics=accuracy)
    silent(learner, learner.fit_one_cycle, 6, .01)
    assert learner.recorder.values[-1][2] > .5


# masks

def test_masks_are_loaded_by_a_function_with_the_names_of_their_codes(tmp_path):
    (tmp_path/'photos').mkdir(); (tmp_path/'truth').mkdir()
    for i in range(10):
        Image.new('RGB', (40, 30), (90, 20*i, 60)).save(tmp_path/'photos'/f'{i}.png')
        Image.fromarray(np.full((30, 40), i % 2, dtype=np.uint8)).save(tmp_path/'truth'/f'{i}_m.png')
    (tmp_path/'names.txt').write_text('wall\nfloor\n')
    data = SegmentationDataLoaders.from_label_func(tmp_path, bs=4, fnames=get_image_files(tmp_path/'photos'), codes=np.loadtxt(tmp_path/'names.txt', dtype=str),
                                                   label_func=lambda f: tmp_path/'truth'/f'{f.stem}_m{f.suffix}')
    x, y = data.one_batch()
    assert type(x) is TensorImage and type(y) is TensorMask
    assert x.shape == (4, 3, 30, 40) and y.shape == (4, 30, 40) and set(y.unique().tolist()) <= {0, 1}
    data.show_batch(max_n=2)
    assert list(data.vocab) == ['wall', 'floor']

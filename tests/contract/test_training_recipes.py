"""Ways to train a network of images: stronger networks, sizes that grow, answers averaged over variants, blends, and networks, optimizers and callbacks of the reader's own."""
import pytest

from fastbook_impl.callback.hook import *
from fastbook_impl.fastbook import *
from fastbook_impl.vision.all import *


def fitted(learner, epochs=1, *args, **kwargs):
    with learner.no_bar(), learner.no_logging(): learner.fit_one_cycle(epochs, *args, **kwargs)
    return learner


@pytest.fixture(scope='module')
def loaders_of(toy_shelves):
    "Loaders of toys, with batches of a given number and size."
    def make(bs, size):
        block = DataBlock(blocks=(ImageBlock(), CategoryBlock()), get_items=get_image_files, splitter=GrandparentSplitter(), get_y=parent_label, item_tfms=Resize(size + 8),
                          batch_tfms=[*aug_transforms(size=size, min_scale=.75), Normalize.from_stats(*imagenet_stats)])
        return block.dataloaders(toy_shelves, bs=bs)
    return make


@pytest.fixture(scope='module')
def loaders(loaders_of):
    set_seed(6)
    return loaders_of(9, 32)


@pytest.fixture(scope='module')
def digits():
    "Some threes and sevens, in gray."
    block = DataBlock((ImageBlock(cls=PILImageBW), CategoryBlock), get_items=lambda path: get_image_files(path).sorted()[::20], splitter=GrandparentSplitter(), get_y=parent_label)
    return block.dataloaders(untar_data(URLs.MNIST_SAMPLE), bs=16)


# stronger baselines

@pytest.mark.parametrize('loss', [CrossEntropyLossFlat(), LabelSmoothingCrossEntropy()], ids=['plain', 'smoothed'])
def test_a_network_without_pretraining_is_trained_with_a_given_loss(loaders, loss):
    learner = fitted(Learner(loaders, xresnet18(n_out=loaders.c), loss_func=loss, metrics=accuracy), 1, 3e-3)
    assert [type(o) for o in learner.recorder.values[-1]] == [float]*3


def test_a_normalized_batch_is_near_zero_in_every_channel(loaders):
    x, _ = loaders.one_batch()
    mean, spread = x.mean(dim=[0, 2, 3]), x.std(dim=[0, 2, 3])
    assert mean.shape == spread.shape == (3,) and mean.abs().max() < 2 and 0 < spread.min() < spread.max() < 2


@pytest.mark.medium
def test_a_learner_goes_on_with_larger_images(loaders_of):
    learner = fitted(Learner(loaders_of(9, 24), xresnet18(n_out=3), loss_func=CrossEntropyLossFlat(), metrics=accuracy), 1, 3e-3)
    before = learner.model[0][0].weight.detach().clone()
    learner.dls = loaders_of(6, 40)
    with learner.no_bar(), learner.no_logging(): learner.fine_tune(1, 1e-3)
    assert learner.dls.one_batch()[0].shape == (6, 3, 40, 40)
    assert not torch.equal(before, learner.model[0][0].weight)


def test_answers_are_averaged_over_variants_of_the_validation_images(loaders):
    learner = Learner(loaders, xresnet18(n_out=3), loss_func=CrossEntropyLossFlat())
    with learner.no_bar(): preds, truth = learner.tta()
    assert preds.shape == (15, 3) and torch.equal(truth.bincount(), tensor([5, 5, 5]))
    torch.testing.assert_close(preds.sum(1), torch.ones(15))
    assert 0 <= accuracy(preds, truth) <= 1


def test_blended_images_are_trained_with_blended_losses(loaders):
    plain_loss = CrossEntropyLossFlat()
    learner = fitted(Learner(loaders, xresnet18(n_out=3), loss_func=plain_loss, metrics=accuracy, cbs=MixUp()), 1, 3e-3)
    assert learner.loss_func is plain_loss and hasattr(learner, 'mix_up') and learner.recorder.values[-1][0] > 0


def test_larger_networks_have_the_same_form():
    heads = [xresnet50(n_out=7)[-1], xresnet18(n_out=7)[-1]]
    assert [h.out_features for h in heads] == [7, 7] and heads[0].in_features > heads[1].in_features


# a network of convolutions

def test_convolution_with_several_kernels_gives_a_map_for_each(digits):
    images, _ = to_cpu(first(digits.valid))
    assert images.shape[1:] == (1, 28, 28)
    edges = tensor([[-2., 0, 2]]*3, [[2., 2, 2], [0, 0, 0], [-2, -2, -2]]).unsqueeze(1)
    maps = F.conv2d(images, edges, padding=1)
    assert maps.shape == (len(images), 2, 28, 28)
    show_image(maps[0, 1])
    torch.testing.assert_close(plain(maps[0, 0, 10, 10]), (plain(images)[0, 0, 9:12, 11] - plain(images)[0, 0, 9:12, 9]).sum()*2)


def test_the_channels_of_an_image_are_shown_in_axes_of_their_own():
    channels = image2tensor(Image.open(image_bear()))
    assert channels.ndim == 3 and len(channels) == 3
    _, axs = subplots(1, 3)
    for ax, channel, color in zip(axs, channels, ['Reds', 'Greens', 'Blues']): show_image(channel, ax=ax, cmap=color)
    assert [ax.images[0].get_cmap().name for ax in axs] == ['Reds', 'Greens', 'Blues']


def stage(n_in, n_out, last=False, norm=False):
    conv = nn.Conv2d(n_in, n_out, kernel_size=3, stride=2, padding=1)
    return conv if last else sequential(conv, nn.ReLU(), *([nn.BatchNorm2d(n_out)] if norm else []))


def test_a_network_of_the_readers_own_is_summed_up_layer_by_layer(digits):
    network = sequential(stage(1, 4), stage(4, 8), stage(8, 16), stage(16, 16), stage(16, 2, last=True), Flatten())
    learner = Learner(digits, network, loss_func=F.cross_entropy, metrics=accuracy)
    told = str(learner.summary())
    assert told.count('Conv2d') == 5 and 'ReLU' in told
    assert learner.model[0][0].weight.shape == (4, 1, 3, 3)
    assert fitted(learner, 3, .02).recorder.values[-1][-1] > .8


def test_activations_are_recorded_and_drawn_layer_by_layer(tmp_path):
    rng = np.random.default_rng(3)
    for part in 'fit', 'check':
        for digit in '01':
            (tmp_path/part/digit).mkdir(parents=True)
            for i in range(24): Image.fromarray((rng.integers(0, 60, (20, 20)) + 120*int(digit)).astype(np.uint8)).save(tmp_path/part/digit/f'{i}.png')
    block = DataBlock(blocks=(ImageBlock(cls=PILImageBW), CategoryBlock), get_items=get_image_files, splitter=GrandparentSplitter('fit', 'check'), get_y=parent_label, batch_tfms=Normalize())
    data = block.dataloaders(tmp_path, bs=16)
    network = sequential(stage(1, 4, norm=True), stage(4, 8, norm=True), stage(8, 8, norm=True), nn.AdaptiveAvgPool2d(1), Flatten(), nn.Linear(8, 2))
    learner = fitted(Learner(data, network, loss_func=F.cross_entropy, metrics=accuracy, cbs=ActivationStats(with_hist=True)), 4, .02)
    for place in 0, -2: learner.activation_stats.plot_layer_stats(place)
    learner.activation_stats.color_dim(-2)
    assert plt.gcf().axes[0].images
    learner.recorder.plot_sched()
    assert len(plt.gcf().axes) == 2 and all(ax.lines for ax in plt.gcf().axes)    # rate and momentum
    data.show_batch(max_n=4, figsize=(3, 3))
    assert len([ax for ax in plt.gcf().axes if ax.images]) == 4


# residual blocks

class Shortcut(Module):
    "Two convolutions and a way around them."
    def __init__(self, n_in, n_out, stride=1):
        self.work = nn.Sequential(ConvLayer(n_in, n_out, stride=stride), ConvLayer(n_out, n_out, act_cls=None, norm_type=NormType.BatchZero))
        self.fit_channels = noop if n_in == n_out else ConvLayer(n_in, n_out, 1, act_cls=None)
        self.fit_size = noop if stride == 1 else nn.AvgPool2d(2, ceil_mode=True)

    def forward(self, x): return F.relu(self.work(x) + self.fit_channels(self.fit_size(x)))


def small_network(n_out=3):
    return sequential(ConvLayer(3, 8, 3, stride=2), nn.MaxPool2d(kernel_size=3, stride=2, padding=1), Shortcut(8, 8), Shortcut(8, 16, 2), nn.AdaptiveAvgPool2d(1), Flatten(), nn.Linear(16, n_out))


def test_a_module_needs_no_super_init_and_starts_as_its_shortcut():
    block = Shortcut(4, 4).eval()
    x = torch.rand(2, 4, 6, 6)
    assert len(list(block.parameters())) > 2
    torch.testing.assert_close(block(x), x, atol=.01, rtol=0)     # BatchZero: the work adds almost nothing yet


def test_a_network_of_residual_blocks_trains_in_half_precision(loaders):
    learner = Learner(loaders, small_network(), loss_func=nn.CrossEntropyLoss(), metrics=accuracy).to_fp16()
    with learner.no_bar(): assert learner.lr_find(num_it=10, show_plot=False).valley > 0
    assert fitted(learner, 1, 3e-3).recorder.values[-1][0] < 5


# optimizers made of steps

def descend(p, lr, **kwargs): p.data.add_(p.grad.data, alpha=-lr)
def mean_grad(p, mom, mean=None, **kwargs): return {'mean': p.grad.data.clone() if mean is None else mom*mean + p.grad.data}
def follow_mean(p, lr, mean, **kwargs): p.data.sub_(mean*lr)
def mean_square(p, sqr_mom, square=None, **kwargs): return {'square': (1 - sqr_mom)*p.grad.data**2 + (0 if square is None else sqr_mom*square)}
def even_step(p, lr, square, eps, **kwargs): p.data.addcdiv_(p.grad, square.sqrt() + eps, value=-lr)


def after_three_steps(optimizer_of, hypers=None):
    weight = nn.Parameter(tensor([1., -3.]))
    optimizer = optimizer_of([weight], lr=.1)
    if hypers: optimizer.set_hypers(**hypers)
    for _ in range(3):
        (weight**2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return weight.detach()


def test_an_optimizer_of_one_step_is_gradient_descent():
    torch.testing.assert_close(after_three_steps(partial(Optimizer, cbs=[descend])), tensor([1., -3.])*.8**3)
    torch.testing.assert_close(after_three_steps(SGD), tensor([1., -3.])*.8**3)


def test_what_a_step_returns_is_given_to_the_next_steps():
    weight, mean = tensor([1., -3.]), torch.zeros(2)
    for _ in range(3):
        mean = .5*mean + 2*weight
        weight = weight - .1*mean
    torch.testing.assert_close(after_three_steps(partial(Optimizer, cbs=[mean_grad, follow_mean], mom=.5)), weight)


@pytest.mark.parametrize('optimizer_of,kwargs', [(SGD, dict(moms=(0, 0, 0))), (partial(Optimizer, cbs=[descend]), {}), (partial(Optimizer, cbs=[mean_grad, follow_mean], mom=.9), {}),
                                                 (partial(Optimizer, cbs=[mean_square, even_step], sqr_mom=.99, eps=1e-7), {})], ids='SGD descend mean square'.split())
def test_every_optimizer_trains_in_a_learner(loaders, optimizer_of, kwargs):
    learner = Learner(loaders, small_network(), metrics=accuracy, opt_func=optimizer_of)
    before = learner.model[-1].weight.detach().clone()
    fitted(learner, 1, .003, **kwargs)
    assert not torch.equal(before, learner.model[-1].weight) and learner.recorder.values[-1][0] < 10


# callbacks

def test_a_callback_stops_a_fit_and_another_sees_how_far_it_came(loaders):
    class EndAtNonsense(Callback):
        order = 12
        def after_batch(self):
            if torch.isnan(self.loss) or torch.isinf(self.loss): raise CancelFitException
    class Steps(Callback):
        def before_fit(self): self.taken = 0
        def after_step(self): self.taken += 1
    broken = sequential(small_network(), Lambda(lambda x: x + float('inf')))
    learner = Learner(loaders, broken, loss_func=CrossEntropyLossFlat(), cbs=[EndAtNonsense(), Steps()])
    with learner.no_bar(), learner.no_logging(): learner.fit(4)
    assert learner.steps.taken <= 1 and learner.epoch == 0


# what a network looks at

def test_hooks_on_a_trained_body_give_maps_of_what_speaks_for_a_class(loaders):
    learner = fitted(vision_learner(loaders, resnet18, metrics=error_rate, pretrained=False))
    x, = first(loaders.test_dl([PILImage.create(image_cat())]))
    assert x.shape == (1, 3, 32, 32)
    seen, layer = {}, learner.model[0][-2]
    hooks = [layer.register_forward_hook(lambda module, given, out: seen.update(maps=out.detach()[0])),
             layer.register_full_backward_hook(lambda module, grad_in, grad_out: seen.update(grads=grad_out[0].detach()[0]))]
    scores = learner.model.eval()(x)
    scores[0, 2].backward()
    for hook in hooks: hook.remove()
    channels = len(seen['maps'])
    assert seen['grads'].shape == seen['maps'].shape
    weighted = torch.einsum('kc,chw->khw', learner.model[1][-1].weight[:, :channels], seen['maps'])
    assert weighted.shape == (3, *seen['maps'].shape[1:])


def test_a_decoded_image_is_shown_in_bytes_below_a_map(loaders):
    x, = first(loaders.test_dl([PILImage.create(image_cat())]))
    image = TensorImage(loaders.train.decode((x,))[0][0])
    assert image.shape == (3, 32, 32)
    _, ax = plt.subplots()
    image.show(ctx=ax)
    ax.imshow(torch.rand(4, 4), alpha=.5, extent=(0, 32, 32, 0), interpolation='bilinear', cmap='magma')
    assert len(ax.images) == 2


def test_a_body_and_a_head_train_alone_frozen_and_together_unfrozen(loaders):
    learner = vision_learner(loaders, resnet18, pretrained=False)
    body = params(learner.model[0])[0]
    before = body.detach().clone()
    learner.freeze()
    fitted(learner, 1, 1e-3)
    assert torch.equal(before, body)
    learner.unfreeze()
    fitted(learner, 1, 1e-3)
    assert not torch.equal(before, body)

"""Cells of the book's chapters 13 (convolutions), 14 (ResNets), 16 (training) and 18 (class activation maps), typed in with only the import lines changed; fewer pictures and epochs."""
import pytest

from fastbook_impl.callback.hook import *
from fastbook_impl.fastbook import *
from fastbook_impl.vision.all import *


@pytest.fixture(scope='module', autouse=True)
def figures_closed():
    yield
    plt.close('all')


def fitted(learn, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(*args, **kwargs)
    return learn


# chapter 13

@pytest.fixture(scope='module')
def sample():
    path = untar_data(URLs.MNIST_SAMPLE)
    mnist = DataBlock((ImageBlock(cls=PILImageBW), CategoryBlock),
                      get_items=lambda p: get_image_files(p)[::8],
                      splitter=GrandparentSplitter(),
                      get_y=parent_label)
    return mnist.dataloaders(path)


def test_kernels(sample):
    left_edge = tensor([[-1,1,0], [-1,1,0], [-1,1,0]]).float()
    top_edge = tensor([[-1,-1,-1], [0,0,0], [1,1,1]]).float()
    diag1_edge = tensor([[0,-1,1], [-1,1,0], [1,0,0]]).float()
    xb,yb = first(sample.valid)
    xb,yb = to_cpu(xb),to_cpu(yb)
    edge_kernels = torch.stack([left_edge, top_edge, diag1_edge]).unsqueeze(1)
    batch_features = F.conv2d(xb, edge_kernels, padding=1)
    assert batch_features.shape == (len(xb), 3, 28, 28)
    show_image(batch_features[0,0])
    im = image2tensor(Image.open(image_bear()))
    _,axs = subplots(1,3)
    for bear,ax,color in zip(im,axs,('Reds','Greens','Blues')): show_image(255-bear, ax=ax, cmap=color)
    assert im.shape == (3, 400, 480)


def conv(ni, nf, ks=3, act=True):
    res = nn.Conv2d(ni, nf, stride=2, kernel_size=ks, padding=ks//2)
    if act: res = nn.Sequential(res, nn.ReLU())
    return res


def test_a_cnn(sample, capsys):
    simple_cnn = sequential(
        conv(1 ,4),            #14x14
        conv(4 ,8),            #7x7
        conv(8 ,16),           #4x4
        conv(16,32),           #2x2
        conv(32,2, act=False), #1x1
        Flatten(),
    )
    learn = Learner(sample, simple_cnn, loss_func=F.cross_entropy, metrics=accuracy)
    print(learn.summary())
    assert 'Conv2d' in capsys.readouterr().out
    m = learn.model[0]
    assert m[0].weight.shape == (4, 1, 3, 3) and m[0].bias.shape == (4,)
    fitted(learn, 2, 0.01)
    assert learn.recorder.values[-1][-1] > .8


def test_ten_digits_and_their_statistics():
    path = untar_data(URLs.MNIST)
    dls = DataBlock(
        blocks=(ImageBlock(cls=PILImageBW), CategoryBlock),
        get_items=lambda p: get_image_files(p)[::6],
        splitter=GrandparentSplitter('training','testing'),
        get_y=parent_label,
        batch_tfms=Normalize()
    ).dataloaders(path, bs=64)
    dls.show_batch(max_n=9, figsize=(4,4))

    def conv(ni, nf, ks=3, act=True):
        layers = [nn.Conv2d(ni, nf, stride=2, kernel_size=ks, padding=ks//2)]
        if act: layers.append(nn.ReLU())
        layers.append(nn.BatchNorm2d(nf))
        return nn.Sequential(*layers)
    cnn = sequential(conv(1 ,8, ks=5), conv(8 ,16), conv(16,32), conv(32,64), conv(64,10, act=False), Flatten())
    learn = Learner(dls, cnn, loss_func=F.cross_entropy, metrics=accuracy, cbs=ActivationStats(with_hist=True))
    fitted(learn, 1, 0.06)
    learn.activation_stats.plot_layer_stats(0)
    learn.activation_stats.plot_layer_stats(-2)
    learn.activation_stats.color_dim(-2)
    learn.recorder.plot_sched()
    assert learn.recorder.values[-1][-1] > .6


# chapter 14

def get_data(url, presize, resize):
    path = untar_data(url)
    return DataBlock(
        blocks=(ImageBlock, CategoryBlock), get_items=lambda p: get_image_files(p).sorted()[::10],
        splitter=GrandparentSplitter(valid_name='val'),
        get_y=parent_label, item_tfms=Resize(presize),
        batch_tfms=[*aug_transforms(min_scale=0.5, size=resize),
                    Normalize.from_stats(*imagenet_stats)],
    ).dataloaders(path, bs=16)


@pytest.fixture(scope='module')
def dls(): return get_data(URLs.IMAGENETTE_160, 48, 32)


def _conv_block(ni,nf,stride):
    return nn.Sequential(
        ConvLayer(ni, nf//4, 1),
        ConvLayer(nf//4, nf//4, stride=stride),
        ConvLayer(nf//4, nf, 1, act_cls=None, norm_type=NormType.BatchZero))


class ResBlockByHand(Module):
    def __init__(self, ni, nf, stride=1):
        self.convs = _conv_block(ni,nf,stride)
        self.idconv = noop if ni==nf else ConvLayer(ni, nf, 1, act_cls=None)
        self.pool = noop if stride==1 else nn.AvgPool2d(2, ceil_mode=True)

    def forward(self, x):
        return F.relu(self.convs(x) + self.idconv(self.pool(x)))


def _resnet_stem(*sizes):
    return [
        ConvLayer(sizes[i], sizes[i+1], 3, stride = 2 if i==0 else 1)
            for i in range(len(sizes)-1)
    ] + [nn.MaxPool2d(kernel_size=3, stride=2, padding=1)]


class ResNet(nn.Sequential):
    def __init__(self, n_out, layers, expansion=1):
        stem = _resnet_stem(3,16,16,32)
        self.block_szs = [32, 32, 64, 128, 256]
        for i in range(1,5): self.block_szs[i] *= expansion
        blocks = [self._make_layer(*o) for o in enumerate(layers)]
        super().__init__(*stem, *blocks,
                         nn.AdaptiveAvgPool2d(1), Flatten(),
                         nn.Linear(self.block_szs[-1], n_out))

    def _make_layer(self, idx, n_layers):
        stride = 1 if idx==0 else 2
        ch_in,ch_out = self.block_szs[idx:idx+2]
        return nn.Sequential(*[
            ResBlockByHand(ch_in if i==0 else ch_out, ch_out, stride if i==0 else 1)
            for i in range(n_layers)
        ])


def test_a_resnet_by_hand(dls):
    def get_learner(m): return Learner(dls, m, loss_func=nn.CrossEntropyLoss(), metrics=accuracy).to_fp16()
    learn = get_learner(ResNet(dls.c, [1,1,1,1], 1))
    suggested = learn.lr_find(num_it=20, show_plot=False)
    assert suggested.valley > 0
    fitted(learn, 1, 3e-3)
    assert learn.recorder.values[-1][0] < 5


# chapter 16

def step(p, lr, **kwargs): p.data.add_(p.grad.data, alpha=-lr)


def test_optimizers_of_callbacks(dls):
    def get_learner(**kwargs): return Learner(dls, ResNet(dls.c, [1,1,1,1], 1), metrics=accuracy, **kwargs) # a resnet34 in the book

    def average_grad(p, mom, grad_avg=None, **kwargs):
        if grad_avg is None: grad_avg = torch.zeros_like(p.grad.data)
        return {'grad_avg': grad_avg*mom + p.grad.data}

    def momentum_step(p, lr, grad_avg, **kwargs): p.data.add_(grad_avg, alpha=-lr)

    def average_sqr_grad(p, sqr_mom, sqr_avg=None, **kwargs):
        if sqr_avg is None: sqr_avg = torch.zeros_like(p.grad.data)
        return {'sqr_avg': sqr_mom*sqr_avg + (1-sqr_mom)*p.grad.data**2}

    def rms_prop_step(p, lr, sqr_avg, eps, grad_avg=None, **kwargs):
        denom = sqr_avg.sqrt().add_(eps)
        p.data.addcdiv_(p.grad, denom, value=-lr)

    for opt_func in (SGD, partial(Optimizer, cbs=[step]), partial(Optimizer, cbs=[average_grad,momentum_step], mom=0.9),
                     partial(Optimizer, cbs=[average_sqr_grad,rms_prop_step], sqr_mom=0.99, eps=1e-7)):
        learn = fitted(get_learner(opt_func=opt_func), 1, 0.003, moms=(0,0,0) if opt_func is SGD else None)
        assert torch.isfinite(tensor(learn.recorder.values[-1][0]))


def test_a_callback_that_stops(dls):
    class TerminateOnNaN(Callback):
        order = 9
        def after_batch(self):
            if torch.isinf(self.loss) or torch.isnan(self.loss): raise CancelFitException
    class Count(Callback):
        def before_fit(self): self.n = 0
        def after_step(self): self.n += 1
    learn = Learner(dls, nn.Sequential(nn.AdaptiveAvgPool2d(1), Flatten(), nn.Linear(3, dls.c), Lambda(lambda x: x*float('nan'))),
                    loss_func=CrossEntropyLossFlat(), cbs=[TerminateOnNaN(), Count()])
    with learn.no_bar(), learn.no_logging(): learn.fit(3)
    assert learn.count.n <= 1


# chapter 18

def test_class_activation_maps(tmp_path):
    path = untar_data(URLs.PETS)/'images'
    def is_cat(x): return x[0].isupper()
    dls = ImageDataLoaders.from_name_func(
        path, get_image_files(path)[::30], valid_pct=0.2, seed=21,
        label_func=is_cat, item_tfms=Resize(64), bs=16)
    learn = vision_learner(dls, resnet18, metrics=error_rate, pretrained=False)
    fitted(learn, 1)
    img = PILImage.create(image_cat())
    x, = first(dls.test_dl([img]))

    class Hook():
        def hook_func(self, m, i, o): self.stored = o.detach().clone()
    hook_output = Hook()
    hook = learn.model[0].register_forward_hook(hook_output.hook_func)
    with torch.no_grad(): output = learn.model.eval()(x)
    act = hook_output.stored[0]
    assert abs(F.softmax(output, dim=-1).sum().item() - 1) < 1e-5 and dls.vocab == [False, True]
    hook.remove()
    cam_map = torch.einsum('ck,kij->cij', learn.model[1][-1].weight[:, :512], act)
    assert cam_map.shape == (2, 2, 2)
    x_dec = TensorImage(dls.train.decode((x,))[0][0])
    _,ax = plt.subplots()
    x_dec.show(ctx=ax)
    ax.imshow(cam_map[1].detach().cpu(), alpha=0.6, extent=(0,64,64,0), interpolation='bilinear', cmap='magma')

    class Hook():
        def __init__(self, m): self.hook = m.register_forward_hook(self.hook_func)
        def hook_func(self, m, i, o): self.stored = o.detach().clone()
        def __enter__(self, *args): return self
        def __exit__(self, *args): self.hook.remove()

    class HookBwd():
        def __init__(self, m): self.hook = m.register_full_backward_hook(self.hook_func)
        def hook_func(self, m, gi, go): self.stored = go[0].detach().clone()
        def __enter__(self, *args): return self
        def __exit__(self, *args): self.hook.remove()
    with HookBwd(learn.model[0][-2]) as hookg:
        with Hook(learn.model[0][-2]) as hook:
            output = learn.model.eval()(x)
            act = hook.stored
        output[0,1].backward()
        grad = hookg.stored
    w = grad[0].mean(dim=[1,2], keepdim=True)
    assert (w * act[0]).sum(0).shape == (4, 4)

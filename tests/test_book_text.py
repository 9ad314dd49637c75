"""The book's cells on language, typed in with only the import lines changed: chapters 1, 10, 11, 12. Data are the built-in samples, models small, weights random, epochs few."""
import io
from contextlib import redirect_stdout

import pytest

from fastbook_impl.text.all import *
from fastbook_impl.fastbook import *

SMALL = dict(emb_sz=32, n_hid=48, n_layers=2)


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    "A fifth of the reviews, in the folders of the original."
    whole, few = untar_data(URLs.IMDB), tmp_path_factory.mktemp('imdb')
    for f in get_text_files(whole):
        if int(f.name.split('_')[0]) % 5: continue
        to = few/f.relative_to(whole)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(f, to)
    return few


def quietly(f, *args, **kwargs):
    with redirect_stdout(io.StringIO()) as said: res = f(*args, **kwargs)
    return res, said.getvalue()


# Chapter 1

def test_chapter_1(path):
    set_seed(42)
    dls = TextDataLoaders.from_folder(path, valid='test', bs=32)
    learn = text_classifier_learner(dls, AWD_LSTM, drop_mult=0.5, metrics=accuracy, config=SMALL, pretrained=False)
    learn.fine_tune(1, 1e-2)
    answer, number, probs = learn.predict("I really liked that movie!")
    assert answer in ('neg', 'pos') and dls.vocab[1][number] == answer and probs.shape == (2,)
    assert float(probs.sum()) == pytest.approx(1) and probs.argmax() == number
    assert len(learn.recorder.values) == 1 and len(learn.recorder.values[0]) == 3


# Chapter 10

@pytest.fixture(scope='module')
def txts(path):
    files = get_text_files(path, folders=['train', 'test', 'unsup'])
    return L(o.open().read() for o in files[:300])


def test_word_tokenization(txts):
    txt = txts[0]
    assert txt[:75]
    spacy = WordTokenizer()
    toks = first(spacy([txt]))
    assert coll_repr(toks, 30).startswith(f'(#{len(toks)}) [')
    assert first(spacy(['The U.S. dollar $1 is $1.00.'])) == ['The', 'U.S.', 'dollar', '$', '1', 'is', '$', '1.00', '.']
    tkn = Tokenizer(spacy)
    assert tkn(txt)[:2] == ['xxbos', 'xxmaj'] and coll_repr(tkn(txt), 31)
    assert defaults.text_proc_rules == [fix_html, replace_rep, replace_wrep, spec_add_spaces, rm_useless_spaces, replace_all_caps, replace_maj, lowercase]
    assert list(tkn('&copy;   Fast.ai www.fast.ai/INDEX')) == ['xxbos', '©', 'xxmaj', 'fast.ai', 'xxrep', '3', 'w', '.fast.ai', '/', 'xxup', 'index']


def test_subword_tokenization(txts):
    def subword(sz):
        sp = SubwordTokenizer(vocab_sz=sz)
        sp.setup(txts)
        return ' '.join(first(sp([txts[0]]))[:40])
    coarse, fine = subword(1000), subword(200)
    assert coarse.startswith('▁') and fine.startswith('▁')
    assert len(coarse.replace(' ', '')) > len(fine.replace(' ', ''))  # forty larger pieces hold more text


def test_numericalization(txts):
    tkn = Tokenizer(WordTokenizer())
    toks = tkn(txts[0])
    toks200 = txts[:200].map(tkn)
    num = Numericalize()
    num.setup(toks200)
    assert coll_repr(num.vocab, 20).startswith(f'(#{len(num.vocab)}) [')
    assert num.vocab[:9] == [UNK, PAD, BOS, EOS, FLD, TK_REP, TK_WREP, TK_UP, TK_MAJ]
    nums = num(toks)[:20]
    assert isinstance(nums, TensorText) and ' '.join(num.vocab[o] for o in nums) == ' '.join(toks[:20])
    nums200 = toks200.map(num)
    dl = LMDataLoader(nums200)
    x, y = first(dl)
    assert (x.shape, y.shape) == (torch.Size([64, 72]), torch.Size([64, 72]))
    assert ' '.join(num.vocab[o] for o in x[0][1:20]) == ' '.join(num.vocab[o] for o in y[0][:19])


def test_a_stream_in_pieces():
    stream = "In this chapter, we will go back over the example of classifying movie reviews we studied in chapter 1 and dig deeper under the surface."
    tokens = Tokenizer(WordTokenizer())(stream)
    bs, seq_len = 4, 6
    d_tokens = np.array([tokens[i*seq_len:(i+1)*seq_len] for i in range(bs)])
    assert pd.DataFrame(d_tokens).shape == (4, 6) and d_tokens[0, 0] == 'xxbos'


@pytest.fixture(scope='module')
def dls_lm(path):
    set_seed(42)
    get_imdb = partial(get_text_files, folders=['train', 'test', 'unsup'])
    return DataBlock(
        blocks=TextBlock.from_folder(path, is_lm=True),
        get_items=get_imdb, splitter=RandomSplitter(0.1)
    ).dataloaders(path, path=path, bs=32, seq_len=40)


def test_language_model_and_classifier(path, dls_lm):
    assert 'text_' in quietly(dls_lm.show_batch, max_n=2)[1]
    learn = language_model_learner(
        dls_lm, AWD_LSTM, drop_mult=0.3, config=SMALL, pretrained=False,
        metrics=[accuracy, Perplexity()]).to_fp16()
    learn.fit_one_cycle(1, 2e-2)
    assert list(learn.recorder.metric_names) == ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'perplexity', 'time']
    learn.save('1epoch')
    learn = learn.load('1epoch')
    learn.unfreeze()
    learn.fit_one_cycle(1, 2e-2)
    assert learn.recorder.values[-1][2] > 0.3
    learn.save_encoder('finetuned')
    assert sorted(o.name for o in (path/'models').iterdir()) == ['1epoch.safetensors', 'finetuned.json', 'finetuned.safetensors']

    TEXT = "I liked this movie because"
    N_WORDS = 40
    N_SENTENCES = 2
    preds = [learn.predict(TEXT, N_WORDS, temperature=0.75)
             for _ in range(N_SENTENCES)]
    assert preds[0] != preds[1]
    for p in preds: assert p.startswith(TEXT.lower()) and len(p.split()) > 30 and 'xx' not in p, p

    dls_clas = DataBlock(
        blocks=(TextBlock.from_folder(path, vocab=dls_lm.vocab), CategoryBlock),
        get_y=parent_label,
        get_items=partial(get_text_files, folders=['train', 'test']),
        splitter=GrandparentSplitter(valid_name='test')
    ).dataloaders(path, path=path, bs=32, seq_len=72)
    said = quietly(dls_clas.show_batch, max_n=3)[1]
    assert 'category' in said and 'xxpad' not in said

    learn = text_classifier_learner(dls_clas, AWD_LSTM, drop_mult=0.5, config=SMALL, pretrained=False,
                                    metrics=accuracy).to_fp16()
    learn = learn.load_encoder('finetuned')
    frozen = get_encoder(learn.model).rnns[0].module.weight_hh_l0
    before = frozen.detach().clone()
    learn.fit_one_cycle(1, 2e-2)
    assert torch.equal(frozen, before)
    learn.freeze_to(-2)
    learn.fit_one_cycle(1, slice(1e-2/(2.6**4),1e-2))
    assert torch.equal(frozen, before)
    learn.freeze_to(-3)
    learn.fit_one_cycle(1, slice(5e-3/(2.6**4),5e-3))
    learn.unfreeze()
    learn.fit_one_cycle(1, slice(1e-3/(2.6**4),1e-3))
    assert not torch.equal(frozen, before)
    assert 0.4 < learn.recorder.values[-1][-1] <= 1


# Chapter 11

def test_the_middle_level(path):
    files = get_text_files(path, folders=['train', 'test'])
    txts = L(o.open().read() for o in files[:100])
    tok = Tokenizer.from_folder(path)
    tok.setup(txts)
    toks = txts.map(tok)
    num = Numericalize()
    num.setup(toks)
    nums = toks.map(num)
    nums_dec = num.decode(nums[0][:10])
    assert len(nums_dec) == 10 and tok.decode(nums_dec).startswith('xxbos')
    tfms = Pipeline([tok, num])
    t = tfms(txts[0])
    assert t[:20].tolist() == nums[0][:20].tolist() and tfms.decode(t)[:5] == 'xxbos'

    cut = int(len(files)*0.8)
    splits = [list(range(cut)), list(range(cut, len(files)))]
    tls = TfmdLists(files, [Tokenizer.from_folder(path), Numericalize], splits=splits)
    assert isinstance(tls[0], TensorText) and tls.decode(tls[0])[:5] == 'xxbos'
    x_tfms = [Tokenizer.from_folder(path), Numericalize]
    y_tfms = [parent_label, Categorize()]
    dsets = Datasets(files, [x_tfms, y_tfms], splits=splits)
    x, y = dsets.valid[0]
    assert isinstance(x, TensorText) and int(y) in (0, 1)
    dls = dsets.dataloaders(bs=16, before_batch=pad_input)
    assert dls.one_batch()[0].shape[0] == 16
    tfms = [[Tokenizer.from_folder(path), Numericalize], [parent_label, Categorize]]
    splits = GrandparentSplitter(valid_name='test')(files)
    dsets = Datasets(files, tfms, splits=splits)
    dls = dsets.dataloaders(bs=16, dl_type=SortedDL, before_batch=pad_input)
    xb = dls.valid.one_batch()[0]
    assert (xb[0] != 1).all() and (xb[-1] == 1).sum() <= xb.shape[1]
    quietly(dls.show_batch)


# Chapter 12

@pytest.fixture(scope='module')
def numbers():
    path = untar_data(URLs.HUMAN_NUMBERS)
    lines = L()
    with open(path/'train.txt') as f: lines += L(*f.readlines())
    with open(path/'valid.txt') as f: lines += L(*f.readlines())
    assert len(lines) == 9998 and lines[:3] == ['one \n', 'two \n', 'three \n']
    text = ' . '.join([l.strip() for l in lines])
    assert text[:39] == 'one . two . three . four . five . six .'
    tokens = text.split(' ')
    vocab = L(*tokens).unique()
    assert len(vocab) == 30
    word2idx = {w: i for i, w in enumerate(vocab)}
    nums = L(word2idx[i] for i in tokens)
    assert len(nums) == 63095 and nums[:5] == [0, 1, 2, 1, 3]
    return vocab, nums[:20000]


bs, sl = 64, 16


def group_chunks(ds, bs):
    m = len(ds) // bs
    new_ds = L()
    for i in range(m): new_ds += L(ds[i + m*j] for j in range(bs))
    return new_ds


@pytest.fixture(scope='module')
def dls(numbers):
    vocab, nums = numbers
    seqs = L((tensor(nums[i:i+sl]), tensor(nums[i+1:i+sl+1]))
             for i in range(0, len(nums)-sl-1, sl))
    cut = int(len(seqs) * 0.8)
    return DataLoaders.from_dsets(group_chunks(seqs[:cut], bs),
                                  group_chunks(seqs[cut:], bs),
                                  bs=bs, drop_last=True, shuffle=False)


class LMModel1(Module):
    def __init__(self, vocab_sz, n_hidden):
        self.i_h = nn.Embedding(vocab_sz, n_hidden)
        self.h_h = nn.Linear(n_hidden, n_hidden)
        self.h_o = nn.Linear(n_hidden, vocab_sz)

    def forward(self, x):
        h = F.relu(self.h_h(self.i_h(x[:,0])))
        h = h + self.i_h(x[:,1])
        h = F.relu(self.h_h(h))
        h = h + self.i_h(x[:,2])
        h = F.relu(self.h_h(h))
        return self.h_o(h)


class LMModel3(Module):
    def __init__(self, vocab_sz, n_hidden):
        self.i_h = nn.Embedding(vocab_sz, n_hidden)
        self.h_h = nn.Linear(n_hidden, n_hidden)
        self.h_o = nn.Linear(n_hidden, vocab_sz)
        self.h = 0

    def forward(self, x):
        for i in range(3):
            self.h = self.h + self.i_h(x[:,i])
            self.h = F.relu(self.h_h(self.h))
        out = self.h_o(self.h)
        self.h = self.h.detach()
        return out

    def reset(self): self.h = 0


class LMModel6(Module):
    def __init__(self, vocab_sz, n_hidden, n_layers):
        self.i_h = nn.Embedding(vocab_sz, n_hidden)
        self.rnn = nn.LSTM(n_hidden, n_hidden, n_layers, batch_first=True)
        self.h_o = nn.Linear(n_hidden, vocab_sz)
        self.h = [torch.zeros(n_layers, bs, n_hidden) for _ in range(2)]

    def forward(self, x):
        res,h = self.rnn(self.i_h(x), self.h)
        self.h = [h_.detach() for h_ in h]
        return self.h_o(res)

    def reset(self):
        for h in self.h: h.zero_()


class LMModel7(Module):
    def __init__(self, vocab_sz, n_hidden, n_layers, p):
        self.i_h = nn.Embedding(vocab_sz, n_hidden)
        self.rnn = nn.LSTM(n_hidden, n_hidden, n_layers, batch_first=True)
        self.drop = nn.Dropout(p)
        self.h_o = nn.Linear(n_hidden, vocab_sz)
        self.h_o.weight = self.i_h.weight
        self.h = [torch.zeros(n_layers, bs, n_hidden) for _ in range(2)]

    def forward(self, x):
        raw,h = self.rnn(self.i_h(x), self.h)
        out = self.drop(raw)
        self.h = [h_.detach() for h_ in h]
        return self.h_o(out),raw,out

    def reset(self):
        for h in self.h: h.zero_()


def test_first_language_models(numbers):
    vocab, nums = numbers
    seqs = L((tensor(nums[i:i+3]), nums[i+3]) for i in range(0,len(nums)-4,3))
    cut = int(len(seqs) * 0.8)
    dls = DataLoaders.from_dsets(seqs[:cut], seqs[cut:], bs=64, shuffle=False)
    learn = Learner(dls, LMModel1(len(vocab), 64), loss_func=F.cross_entropy,
                    metrics=accuracy)
    learn.fit_one_cycle(4, 1e-3)
    assert learn.recorder.values[-1][-1] > 0.3

    dls = DataLoaders.from_dsets(
        group_chunks(seqs[:cut], bs),
        group_chunks(seqs[cut:], bs),
        bs=bs, drop_last=True, shuffle=False)
    learn = Learner(dls, LMModel3(len(vocab), 64), loss_func=F.cross_entropy,
                    metrics=accuracy, cbs=ModelResetter)
    learn.fit_one_cycle(4, 3e-3)
    assert learn.recorder.values[-1][-1] > 0.3


def test_lstm(numbers, dls):
    learn = Learner(dls, LMModel6(len(numbers[0]), 64, 2),
                    loss_func=CrossEntropyLossFlat(),
                    metrics=accuracy, cbs=ModelResetter)
    learn.fit_one_cycle(3, 1e-2)
    assert learn.recorder.values[-1][-1] > 0.2


def test_regularized_lstm(numbers, dls):
    vocab, _ = numbers
    learn = Learner(dls, LMModel7(len(vocab), 64, 2, 0.5),
                    loss_func=CrossEntropyLossFlat(), metrics=accuracy,
                    cbs=[ModelResetter, RNNRegularizer(alpha=2, beta=1)])
    learn.fit_one_cycle(1, 1e-2, wd=0.1)
    set_seed(42)
    learn = TextLearner(dls, LMModel7(len(vocab), 64, 2, 0.4),
                        loss_func=CrossEntropyLossFlat(), metrics=accuracy)
    learn.fit_one_cycle(4, 1e-2, wd=0.1)
    assert learn.recorder.values[-1][-1] > 0.3
    assert {type(cb).__name__ for cb in learn.cbs} >= {'ModelResetter', 'RNNCallback', 'RNNRegularizer'}

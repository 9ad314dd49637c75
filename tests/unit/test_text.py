"""Texts: what happens with odd, broken and hostile ones, and that what is quick is also right."""
import json
import pickle
import re
import warnings
from collections import OrderedDict

import pytest

from fastbook_impl.text.all import *
from fastbook_impl.text import core

SMALL = dict(emb_sz=16, n_hid=24, n_layers=2)
WORDS = 'the film is good bad not at all and very so funny dull long'.split()


def reviews(n=60, seed=0):
    rng = random.Random(seed)
    return pd.DataFrame({'text': [' '.join(rng.choices(WORDS, k=rng.randint(1, 30))) for _ in range(n)], 'label': [('neg', 'pos')[i % 2] for i in range(n)]})


def loaders(df=None, **kwargs):
    return TextDataLoaders.from_df(reviews() if df is None else df, **{'text_col': 'text', 'label_col': 'label', 'bs': 8, 'min_freq': 1, 'seed': 42, **kwargs})


def classifier(dls, **kwargs): return text_classifier_learner(dls, AWD_LSTM, config=SMALL, pretrained=False, **kwargs)


def write_reviews(path, texts, encoding='utf8'):
    for part in 'train', 'valid':
        for i, (label, text) in enumerate(texts):
            f = path/part/label/f'{i}.txt'
            f.parent.mkdir(parents=True, exist_ok=True)
            f.write_text(text, encoding=encoding)


# Tokens

@pytest.mark.parametrize('text, tokens', [
    ('', ['xxbos']),
    ('   \n\t ', ['xxbos']),
    ('!!!!', ['xxbos', 'xxrep', '4', '!']),
    ('no no no no.', ['xxbos', 'xxwrep', '4', 'no', '.']),
    ("I DON'T, you can’t", ['xxbos', 'i', 'xxup', 'do', "n't", ',', 'you', 'ca', 'n’t']),
    ('3,200 at 10:35, v1.2', ['xxbos', '3,200', 'at', '10:35', ',', 'v1.2']),
    ('see https://a.org/b?c=1.', ['xxbos', 'see', 'https', ':', '/', '/', 'a.org', '/', 'b', '?', 'c', '=', '1', '.']),
    ('🎬 great 👍👍👍', ['xxbos', '🎬', 'great', 'xxrep', '3', '👍']),
    ('a\x00b', ['xxbos', 'a', '\x00', 'b']),
])
def test_tokens(text, tokens): assert list(Tokenizer()(text)) == tokens


@pytest.mark.parametrize('text', ['这部电影非常好看', 'このえいがはおもしろい', 'ภาพยนตร์เรื่องนี้ดีมาก', 'הסרט הזה טוב', 'यह फिल्म अच्छी है', 'Фильм ОЧЕНЬ хороший', '\u202eabc', '\ud7ff\ue000'])
def test_no_letter_of_any_script_is_lost(text):
    tokens = [t for t in Tokenizer()(text) if t not in defaults.text_spec_tok]
    assert tokens and ''.join(tokens) == text.lower().replace(' ', '')


def test_many_texts_in_processes_as_one_by_one(monkeypatch):
    texts = [f'{t} {i}' for i, t in enumerate(reviews(200).text)]
    alone = [list(Tokenizer()(t)) for t in texts]
    monkeypatch.setattr(core, '_per_process', 50)
    assert [list(o) for o in tokenize_texts(texts, n_workers=2)] == alone
    with pytest.raises(ValueError, match='the file is damaged'):
        def rule(t): raise ValueError('the file is damaged')
        tokenize_texts(texts, n_workers=2, rules=[rule])


def test_the_longest_text_takes_no_forever():
    for text in ('word '*50000, 'a'*50000, '! '*50000, "x'"*20000, 'a.'*20000, 'xx-'*20000, '@.a'*10000):
        start = time.process_time()
        Tokenizer()(text)
        assert time.process_time() - start < 5, text[:10]


def test_tokens_of_a_table():
    df = pd.DataFrame({'title': ['One', 'Two'], 'body': ['A film', 'A play'], 'n': [1, 2]})
    out, count = tokenize_df(df, ['title', 'body'])
    assert list(out.columns) == ['n', 'text', 'text_length'] and out.text[0] == 'xxbos xxfld 1 xxmaj one xxfld 2 a film'.split() and count['xxfld'] == 4
    with pytest.raises(KeyError, match="the table has no column 'boody'; did you mean 'body'\\?"): tokenize_df(df, 'boody')


def test_subwords_before_and_after_learning():
    sp = SubwordTokenizer(vocab_sz=60)
    with pytest.raises(ValueError, match='has learned no pieces yet: call setup'): sp(['a'])
    texts = list(reviews().text)
    for kind in 'unigram', 'bpe':
        sp = SubwordTokenizer(vocab_sz=60, model_type=kind)
        sp.setup(texts)
        assert ''.join(next(iter(sp(['good film'])))).replace('▁', ' ').strip() == 'good film'
    dls = loaders(tok_tfm=Tokenizer(SubwordTokenizer(vocab_sz=60)))
    assert any(t.startswith('▁') for t in dls.vocab[0])
    with pytest.raises(ValueError, match="model_type must be 'unigram' or 'bpe', got 'wordpiece'"): SubwordTokenizer(model_type='wordpiece')


# Batches

def test_a_stream_loses_no_token_and_goes_on_from_batch_to_batch():
    texts = [torch.arange(s, s + n) for s, n in ((0, 7), (7, 40), (47, 3), (50, 51))]
    dl = LMDataLoader(texts, bs=4, seq_len=6)
    xs, ys = zip(*dl)
    rows = torch.cat(xs, dim=1)
    assert rows.flatten().tolist() == list(range(100)) and torch.cat(ys, dim=1).flatten().tolist() == list(range(1, 101))
    assert len(dl) == len(xs) == 5 and xs[-1].shape == (4, 1) and dl.n_inp == 1
    set_seed(42)     # of 24 orders
    shuffled = LMDataLoader(texts, bs=4, seq_len=6, shuffle=True)
    first, again = (torch.cat([x for x, _ in shuffled], 1).flatten().tolist() for _ in range(2))
    assert first != again and len(set(first)) == 100


def test_streams_do_not_depend_on_batches_of_items():
    dls = TextDataLoaders.from_df(reviews(20), text_col='text', is_lm=True, bs=32, seq_len=4, min_freq=1)  # 16 texts, 32 rows
    assert dls.one_batch()[0].shape == (32, 4)
    with pytest.raises(ValueError, match='do not fill 500 rows: pass a smaller bs'): TextDataLoaders.from_df(reviews(20), text_col='text', is_lm=True, bs=500)


def test_sorted_batches_hold_every_text_once():
    set_seed(42)
    dls = loaders(reviews(83))
    texts = sorted(x.tolist() for x, _ in dls.train_ds)
    assert sorted([t for t in x.tolist() if t != 1] for xb, _ in dls.train.new(drop_last=False) for x in xb) == texts
    lens = [xb.shape[1] for xb, _ in dls.train]
    assert lens[0] == max(map(len, texts)) and lens[1:] != sorted(lens[1:], reverse=True)
    spread = [max(ns) - min(ns) for xb, _ in dls.train for ns in [[int((x != 1).sum()) for x in xb]]]
    assert sum(spread)/len(spread) < (max(map(len, texts)) - min(map(len, texts)))/3      # like with like
    valid_lens = [int((x != 1).sum()) for xb, _ in dls.valid for x in xb]
    assert valid_lens == sorted(valid_lens, reverse=True) and len(valid_lens) == 16
    assert sorted(dls.train.get_idxs()) == list(range(67))


def test_items_are_made_once_unless_they_are_random():
    calls = []
    def noted(x): calls.append(1); return x
    df = reviews(40)
    dsets = Datasets(df, [[ColReader('text'), Tokenizer(), Numericalize(min_freq=1), noted], [ColReader('label'), Categorize]])
    dl = SortedDL(dsets, bs=8, before_batch=pad_input)
    made = len(calls)
    for _ in range(3): list(dl)
    assert len(calls) == made
    class Noise(RandTransform):
        def encodes(self, x:TensorText): return x
    dsets = Datasets(df, [[ColReader('text'), Tokenizer(), Numericalize(min_freq=1), Noise(), noted], [ColReader('label'), Categorize]], split_idx=0)
    dl = SortedDL(dsets, bs=8, before_batch=pad_input)
    made = len(calls)
    list(dl)
    assert len(calls) == made + 40


def test_predictions_come_in_the_order_of_the_data():
    dls = loaders()
    learn = classifier(dls)
    preds, targs = learn.get_preds()
    assert [dls.vocab[1][int(t)] for t in targs] == dls.valid_ds.items.label.tolist()
    for i in (0, 5): assert torch.allclose(learn.predict(dls.valid_ds.items.text.iloc[i])[2], preds[i], atol=1e-5)


def test_labels_of_several_kinds():
    df = reviews().assign(tags=['a;b', '', 'b']*20, score=[i/10 for i in range(60)])
    dls = loaders(df, label_col='tags', label_delim=';')
    assert list(dls.vocab[1]) == ['a', 'b'] and dls.one_batch()[1].shape == (8, 2)
    classifier(dls, metrics=accuracy_multi).fit(1)
    learn = classifier(loaders(df, label_col='score', y_block=RegressionBlock()), y_range=(0, 6))
    learn.fit(1)
    assert 0 <= float(learn.predict('good')[1]) <= 6


def test_what_the_library_offers_for_pictures_works_for_texts():
    learn = classifier(loaders(), metrics=accuracy)
    with learn.no_logging(): learn.fit(1)
    interp = ClassificationInterpretation.from_learner(learn)
    assert interp.confusion_matrix().sum() == 12 and list(interp.vocab) == ['neg', 'pos']
    interp.plot_confusion_matrix()
    plt.close('all')
    assert learn.lr_find(show_plot=False).valley > 0
    assert learn.get_preds(dl=learn.dls.test_dl(reviews(7)))[0].shape == (7, 2)
    assert learn.predict(reviews().iloc[0])[0] in ('neg', 'pos')
    with redirect_stdout(io.StringIO()) as said:
        block = DataBlock(blocks=(TextBlock.from_df('text', min_freq=1), CategoryBlock), get_x=ColReader('text'), get_y=ColReader('label'))
        block.summary(reviews())
        DataBlock(blocks=TextBlock.from_df('text', is_lm=True, min_freq=1), get_x=ColReader('text')).summary(reviews())
    assert 'Pad_Chunk' in said.getvalue() and 'LMTensorText of size 4x72' in said.getvalue()


# Odd and broken texts

def test_empty_texts():
    df = reviews()
    df.loc[::3, 'text'] = ''
    learn = classifier(loaders(df))
    learn.fit(1)
    assert np.isfinite(learn.recorder.values[0][:2]).all()
    assert torch.isfinite(learn.predict('')[2]).all()
    assert TextDataLoaders.from_df(df, text_col='text', is_lm=True, bs=4, seq_len=8).one_batch()[0].shape == (4, 8)


def test_a_text_of_50_000_words_beside_short_ones():
    df = reviews()
    df.loc[0, 'text'] = 'good film '*25000
    dls = loaders(df, seq_len=72)
    learn = classifier(dls, max_len=144)
    assert max(xb.shape[1] for xb, _ in dls.valid) > 50000 or dls.one_batch()[0].shape[1] > 50000
    learn.model.train()
    xb = next(xb for dl in dls for xb, _ in dl if xb.shape[1] > 50000)
    out, mask = learn.model[0](plain(xb))
    assert 72 < out.shape[1] <= 144 and mask.shape == out.shape[:2]
    assert torch.isfinite(learn.predict('word '*50000)[2]).all()


def test_a_script_that_the_model_never_saw():
    learn = classifier(loaders())
    assert learn.predict('这部电影非常好看')[0] in ('neg', 'pos')
    lm = language_model_learner(TextDataLoaders.from_df(reviews(), text_col='text', is_lm=True, bs=4, seq_len=8), AWD_LSTM, config=SMALL, pretrained=False)
    assert lm.predict('ภาพยนตร์', n_words=3).startswith('xxunk')


def test_missing_texts_and_labels():
    df = reviews()
    df.loc[7, 'text'] = np.nan
    with pytest.raises(ValueError, match=r'the text of row 7 is missing \(nan\): .*df\.dropna\(subset=…\).*df\.fillna\(""\)'): loaders(df)
    df = reviews()
    df.loc[3, 'label'] = np.nan
    with pytest.raises(ValueError, match='row 3: Categorize: the label is missing'): loaders(df)
    with pytest.raises(TypeError, match='the text of item 1 is 7: pass a string or the path of a file'): tokenize_texts(['a', 7])


def test_files_in_another_encoding(tmp_path):
    write_reviews(tmp_path, [('pos', 'très bon film'), ('neg', 'mauvais')]*4, 'latin-1')
    with pytest.raises(ValueError, match=r'0\.txt is not UTF-8 text: the byte 0xe8 at position 2 is not valid.*for example encoding="latin-1"'):
        TextDataLoaders.from_folder(tmp_path, bs=2)
    dls = TextDataLoaders.from_folder(tmp_path, bs=2, encoding='latin-1', min_freq=1)
    assert 'très' in dls.vocab[0]
    reviews().assign(text='très bon').to_csv(tmp_path/'texts.csv', index=False, encoding='latin-1')
    with pytest.raises(ValueError, match=r"texts\.csv is not UTF-8 \(byte 0xe8 in it, .*\): say how it was written, with encoding='cp1252' for files from Windows"):
        TextDataLoaders.from_csv(tmp_path, 'texts.csv', text_col='text', label_col='label')
    assert 'très' in TextDataLoaders.from_csv(tmp_path, 'texts.csv', text_col='text', label_col='label', encoding='latin-1', bs=8).vocab[0]


def test_columns_and_folders_that_are_not_there(tmp_path):
    with pytest.raises((KeyError, ValueError), match="the table has no column 'review'; it has 'label', 'text'"): loaders(text_col='review')
    with pytest.raises((KeyError, ValueError), match="the table has no column 'mood'; it has 'label', 'text'"): loaders(label_col='mood')
    with pytest.raises(KeyError, match="the table has no column 'for_valid'; it has 'label', 'text'"): loaders(valid_col='for_valid')
    with pytest.raises((KeyError, ValueError), match="the table has no column 'title'"): loaders(text_col=['title', 'text'])
    with pytest.raises(FileNotFoundError, match='There is no folder'): TextDataLoaders.from_folder(tmp_path/'imbd')
    write_reviews(tmp_path, [('pos', 'good'), ('neg', 'bad')])
    with pytest.raises(ValueError, match="no file lies two levels below a folder named 'test'; the folders there are: 'train'"): TextDataLoaders.from_folder(tmp_path, valid='test')
    with pytest.raises(FileNotFoundError): TextDataLoaders.from_csv(tmp_path, 'no.csv')


def test_one_text_where_several_are_expected():
    for f in (WordTokenizer(), BaseTokenizer(), SubwordTokenizer().setup, tokenize_texts):
        with pytest.raises(TypeError, match=re.escape('a list of texts, got a single string: pass [text]')): f('a film')
    with pytest.raises(TypeError, match="expected a list of tokens, got the text 'a film': split it with a Tokenizer first"): Numericalize().setup(['a film'])
    with pytest.raises(ValueError, match='Numericalize has no vocabulary yet: call setup with the tokens of some texts, or pass vocab'): Numericalize()(['a'])


def test_what_is_no_text():
    with pytest.raises(ValueError, match=re.escape('the text of item 0 is missing (None)')): tokenize1(None)
    with pytest.raises(TypeError, match='the text of item 0 is 3: pass a string or the path of a file'): tokenize1(3)
    with pytest.raises(TypeError, match=re.escape('the text of row 0 is a whole row of the table: select its column with get_x=ColReader(…)')):
        DataBlock(blocks=TextBlock.from_df('text', is_lm=True)).dataloaders(reviews(), bs=4)
    with pytest.raises(ValueError, match='text_cols is empty: pass the name of at least one column'): tokenize_df(reviews(), [])
    with pytest.raises(ValueError, match='there are no items in the table'): loaders(reviews()[:0])
    with pytest.raises(TypeError, match='a pandas DataFrame, got a list'): TextDataLoaders.from_df(['a film'])
    with pytest.raises(TypeError, match='a new item should be one of Series, str, .* it is a DataFrame'): classifier(loaders()).predict(reviews()[:2])
    for col in 'text_col', 'label_col':
        with pytest.raises(ValueError, match="the table has no column 7; it has 'label', 'text'|the table has no column 7; it has 'text', 'label'"): loaders(**{col: 7})


def test_wrong_vocabularies_and_tokenizers():
    both = loaders().vocab
    for vocab in (both, 'abc', Counter(['a'])):
        with pytest.raises(TypeError, match=re.escape('must be a list of tokens: for the vocabulary of a classifier pass dls.vocab[0]')): loaders(text_vocab=vocab)
    assert loaders(text_vocab=both[0]).vocab[0] == both[0]
    with pytest.raises(TypeError, match=re.escape('a WordTokenizer takes a list of texts: pass tok_tfm=Tokenizer(WordTokenizer(…))')): loaders(tok_tfm=WordTokenizer())
    with pytest.raises(ValueError, match='seq_len must be at least 1, got 0'): loaders(is_lm=True, seq_len=0)
    assert SentencePieceTokenizer is SubwordTokenizer


def test_pieces_that_cannot_be_learned_or_found(tmp_path):
    with pytest.raises(ValueError, match='vocab_sz=3 is too small, .* 19 distinct characters .* pass a larger vocab_sz'): SubwordTokenizer(vocab_sz=3).setup(list(reviews().text))
    with pytest.raises(ValueError, match='there are no texts to learn pieces from'): SubwordTokenizer().setup([])
    with pytest.raises(ValueError, match='has learned no pieces yet'): SubwordTokenizer().save(tmp_path/'x')
    with pytest.raises(FileNotFoundError, match='no saved subword model .*none.json'): SubwordTokenizer(sp_model=tmp_path/'none.json')
    sp = SubwordTokenizer(vocab_sz=60)
    sp.setup(list(reviews().text))
    sp.save(tmp_path/'pieces.json')
    assert list(SubwordTokenizer(sp_model=tmp_path/'pieces.json')(['good film'])) == list(sp(['good film']))


def test_loaders_of_the_other_kind():
    lm = TextDataLoaders.from_df(reviews(), text_col='text', is_lm=True, bs=4, seq_len=8)
    with pytest.raises(ValueError, match=re.escape('these loaders are for a language model (is_lm=True) and have no classes: create loaders for the classifier without is_lm, and pass text_vocab=dls.vocab')): classifier(lm)
    with pytest.raises(ValueError, match='these loaders are for a classifier: .* with is_lm=True'):
        language_model_learner(loaders(), AWD_LSTM, config=SMALL, pretrained=False)


def test_fields_of_a_row_are_joined_as_those_of_a_table():
    df = reviews().assign(title='One Title')
    dls = loaders(df, text_col=['title', 'text'], valid_pct=0.5)
    for i in range(3):
        row = dls.train_ds.items.iloc[i]
        assert dls.train_ds.decode(dls.train_ds[i])[0] == ' '.join(tokenize_df(row.to_frame().T, ['title', 'text'])[0].text.iloc[0])
    with pytest.raises(ValueError, match=re.escape('the text of row 7 is missing (nan)')): loaders(df.assign(title=df.title.where(df.index != 7)), text_col=['title', 'text'])


def test_arguments_of_fastai_are_taken():
    df = reviews()
    block = TextBlock.from_df('text', n_workers=1, min_freq=1)
    assert DataBlock(blocks=(block, CategoryBlock), get_x=ColReader('text'), get_y=ColReader('label')).dataloaders(df, bs=4).one_batch()[0].shape[0] == 4
    items = [(torch.tensor([2, 3]), 0), (torch.tensor([2]), 1)]
    assert [o[0].tolist() for o in pad_input_chunk(items, 1, 9, seq_len=1)] == [[2, 3], [9, 2]]
    other = Tokenizer(WordTokenizer(), sep='_')
    assert other.decode(other('a film')) == 'xxbos_a_film'


# Models

def test_weight_dropout_leaves_the_fused_layer_alone():
    set_seed(1)
    lstm = nn.LSTM(8, 12, batch_first=True)
    dropped = WeightDropout(lstm, 0.5)
    x = torch.randn(3, 5, 8)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        set_seed(2); out, _ = dropped(x)
        out.sum().backward()
        assert torch.equal(dropped.eval()(x)[0], lstm(x)[0])
    set_seed(2)
    w = lstm.weight_hh_l0.detach()*dropout_mask(x, (48, 12), 0.5)
    by_hand = nn.LSTM(8, 12, batch_first=True)
    by_hand.load_state_dict({**lstm.state_dict(), 'weight_hh_l0': w})
    assert torch.allclose(by_hand(x)[0], out, atol=1e-6)
    by_hand(x)[0].sum().backward()
    assert torch.allclose(lstm.weight_hh_l0.grad, by_hand.weight_hh_l0.grad*(w != 0)*2, atol=1e-5)
    assert lstm.weight_ih_l0.grad is not None and [n for n, _ in dropped.named_parameters()] == [f'module.{n}' for n, _ in lstm.named_parameters()]


def test_a_classifier_gives_a_text_the_same_scores_in_any_company():
    set_seed(0)
    model = get_text_classifier(AWD_LSTM, 50, 2, seq_len=6, config=SMALL).eval()
    texts = [torch.randint(2, 50, (n,)) for n in (30, 17, 6, 1)]
    alone = torch.cat([model(t[None])[0] for t in texts])
    for pad in (partial(pad_input_chunk, seq_len=6), pad_input):
        for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
            items = pad([(texts[i],) for i in order])
            scores = model(torch.stack([o[0] for o in items]))[0]
            assert torch.allclose(scores, alone[order], atol=1e-5)


def test_gradients_reach_the_last_pieces_only():
    emb = nn.Embedding(20, 4)
    class Plain(Module):
        def __init__(self): self.emb = emb
        def forward(self, x): return self.emb(x)
    enc = SentenceEncoder(5, Plain(), max_len=10)
    x = torch.arange(2, 20)[None][:, :18]
    enc(x)[0].sum().backward()
    reached = emb.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert reached == list(range(12, 20))       # pieces begin at 0, 5, 10, 15: the last two begin within 10 of the end


def test_a_model_of_two_directions():
    model = get_language_model(AWD_LSTM, 30, config={**SMALL, 'bidir': True})
    assert model(torch.randint(2, 30, (2, 7)))[0].shape == (2, 7, 30)
    assert [len(g) for g in awd_lstm_lm_split(model)] == [8, 8, 2]


def test_unknown_architectures_and_wrong_sizes():
    with pytest.raises(ValueError, match="'resnet18' is not an architecture for text: pass AWD_LSTM"): get_language_model(resnet18, 10)
    with pytest.raises(TypeError, match='arch must be a class, got a str: pass AWD_LSTM'): get_language_model('AWD_LSTM', 10)
    with pytest.raises(TypeError, match="config has no entry 'dropout': use emb_sz, n_hid, "): get_text_classifier(AWD_LSTM, 10, 2, config={'dropout': .5})
    with pytest.raises(ValueError, match='ps has 3 values for 2 layers'): PoolingLinearClassifier([6, 4, 2], [0.1, 0.1, 0.1])
    with pytest.raises(ValueError, match='config changes n_hid: pass pretrained=False'): text_classifier_learner(loaders(), AWD_LSTM, config=dict(n_hid=10))


# Learners and what they keep

def lm_learner(path, **kwargs):
    dls = TextDataLoaders.from_df(reviews(), text_col='text', is_lm=True, bs=4, seq_len=8, min_freq=1, path=path)
    return language_model_learner(dls, AWD_LSTM, config=SMALL, **{'pretrained': False, **kwargs})


def test_models_that_the_callbacks_are_not_for():
    dls = DataLoaders.from_dsets([(torch.tensor([1, 2, 3]), torch.tensor([2, 3, 4]))]*8, bs=4, device='cpu')
    def fit(cbs):
        with (learn := Learner(dls, nn.Sequential(nn.Embedding(5, 5)), loss_func=CrossEntropyLossFlat(), cbs=cbs)).no_logging(): learn.fit(1)
    with pytest.raises(AttributeError, match='ModelResetter needs a model with a method reset, but Sequential has none'): fit(ModelResetter)
    for cbs in (RNNRegularizer(alpha=1), RNNRegularizer(beta=1), [RNNCallback(), RNNRegularizer(alpha=1)]):
        with pytest.raises(ValueError, match=re.escape('RNNRegularizer needs a model that returns (predictions, raw_out, out), but Sequential returns only predictions')): fit(cbs)


def test_an_encoder_kept_and_matched(tmp_path):
    lm = lm_learner(tmp_path)
    lm.save_encoder('enc')
    assert json.loads((tmp_path/'models'/'enc.json').read_text()) == text_vocab(lm.dls)
    learn = classifier(loaders(path=tmp_path)).load_encoder('enc')
    assert torch.equal(get_encoder(learn.model).rnns[1].module.weight_hh_l0, get_encoder(lm.model).rnns[1].module.weight_hh_l0)
    for word in ('film', 'dull'):
        a, b = (get_encoder(l.model).encoder.weight[text_vocab(l.dls).index(word)] for l in (lm, learn))
        assert torch.equal(a, b)
    assert not get_encoder(learn.model).encoder.weight.requires_grad and learn.model[1].layers[0][2].weight.requires_grad
    with pytest.raises(FileNotFoundError, match="there is no saved encoder 'encoder' in .*: choose from: enc"): learn.load_encoder('encoder')
    with pytest.raises(ValueError, match='enc.safetensors does not match this model'): text_classifier_learner(learn.dls, AWD_LSTM, config={**SMALL, 'n_hid': 30}, pretrained=False).load_encoder('enc')


def test_pretrained_weights_that_cannot_be_had(home, monkeypatch):
    from fastbook_impl.data import external
    monkeypatch.setattr(external, '_find_real', lambda *args: ['s3.amazonaws.com does not answer'])
    with pytest.raises(FileNotFoundError) as e: text_classifier_learner(loaders(), AWD_LSTM)
    for fact in ('AWD_LSTM', 'WikiText-103', '(s3.amazonaws.com does not answer)', 'Pass pretrained=False', 'connect to the internet',
                 'set FASTBOOK_MIRROR to a folder that contains wt103-fwd.tgz', f'put that file (105 MB) into {home/"archive"}'):
        assert fact in str(e.value)


@pytest.fixture
def wikitext(tmp_path, home, monkeypatch):
    "A mirror with an archive like fastai's, of a small model."
    import hashlib
    vocab = ['xxunk', 'xxpad', 'xxbos', 'xxmaj', 'film', 'good', 'zebra', 'xxfake', 'xxfake']
    monkeypatch.setattr('fastbook_impl.text.learner._check_config', lambda *args: None)
    model = get_language_model(AWD_LSTM, len(vocab), config=SMALL)
    folder, mirror = tmp_path/'wt103-fwd', tmp_path/'mirror'
    folder.mkdir(); mirror.mkdir()
    def make(weights=None, itos=None):
        theirs = OrderedDict((re.sub(r'module\.(weight_hh_l0)$', r'\1_raw', k), v) for k, v in model.state_dict().items())
        torch.save(weights or theirs, folder/'lstm_fwd.pth')
        (folder/'itos_wt103.pkl').write_bytes(pickle.dumps(itos or vocab))
        with tarfile.open(mirror/'wt103-fwd.tgz', 'w:gz') as tar: tar.add(folder, 'wt103-fwd')
        (mirror/'SHA256SUMS').write_text(f'{hashlib.sha256((mirror/"wt103-fwd.tgz").read_bytes()).hexdigest()}  wt103-fwd.tgz\n')
        return model, vocab
    monkeypatch.setenv('FASTBOOK_MIRROR', str(mirror)); monkeypatch.setenv('FASTBOOK_DATA', 'auto')
    return make


def test_pretrained_weights_are_converted_once_and_matched(wikitext, tmp_path, home):
    theirs, vocab = wikitext()
    learn = lm_learner(tmp_path, pretrained=True)
    emb = lambda word: learn.model[0].encoder.weight[text_vocab(learn.dls).index(word)]
    assert torch.equal(emb('film'), theirs[0].encoder.weight[4]) and torch.allclose(emb('dull'), theirs[0].encoder.weight.mean(0))
    assert torch.equal(learn.model[0].rnns[0].module.weight_hh_l0, theirs[0].rnns[0].module.weight_hh_l0)
    assert learn.model[1].decoder.weight is learn.model[0].encoder.weight
    kept = home/'model'/'wt103-fwd-safe'
    assert sorted(o.name for o in kept.iterdir()) == ['vocab.json', 'weights.safetensors'] and json.loads((kept/'vocab.json').read_text()) == vocab
    shutil.rmtree(tmp_path/'mirror'); (tmp_path/'mirror').mkdir()
    learn = classifier(loaders()).load_pretrained(kept/'weights.safetensors', kept/'vocab.json')  # needs the archive no more
    assert torch.equal(get_encoder(learn.model).rnns[1].module.bias_hh_l0, theirs[0].rnns[1].module.bias_hh_l0)
    text_classifier_learner(loaders(), AWD_LSTM, config=SMALL)


class Trap:
    "What a hostile pickle holds: an order to make a file."
    def __init__(self, file): self.file = file
    def __reduce__(self): return open, (str(self.file), 'w')


@pytest.mark.parametrize('where', ['weights', 'vocabulary'])
def test_a_hostile_archive_runs_nothing(wikitext, tmp_path, where, home):
    trap = tmp_path/'sprung'
    wikitext(**({'weights': {'0.encoder.weight': Trap(trap)}} if where == 'weights' else {'itos': ['xxunk', Trap(trap)]}))
    name = 'lstm_fwd.pth is refused: it is not a file of weights' if where == 'weights' else 'itos_wt103.pkl is refused: it must contain only a list of tokens'
    with pytest.raises(ValueError, match=name): lm_learner(tmp_path, pretrained=True)
    assert not trap.exists() and not (home/'model'/'wt103-fwd-safe').exists()


def test_a_language_model_writes(tmp_path):
    learn = lm_learner(tmp_path)
    set_seed(1); a = learn.predict('the film', n_words=20)
    set_seed(1); b = learn.predict('the film', n_words=20)
    assert a == b and a.startswith('the film ') and not set(a.split()) & {'xxunk', 'xxpad', 'xxfake'}
    assert len({learn.predict('good', n_words=12, temperature=1e-4) for _ in range(3)}) == 1
    with pytest.raises(ValueError, match='the temperature must be above 0'): learn.predict('good', temperature=0)
    # fed token by token, the model says what it says of the whole text
    x = torch.tensor([learn._numbers_of('the film is good')])
    learn.model.eval(); learn.model.reset()
    whole = learn.model(x)[0][0, -1]
    learn.model.reset()
    for t in x[0]: last = learn.model(t[None, None])[0][0, -1]
    assert torch.allclose(whole, last, atol=1e-5)


def test_weights_and_vocabulary_that_do_not_belong_together():
    with pytest.raises(ValueError, match='the weights have 3 tokens, but the vocabulary has 2: pass the vocabulary that belongs to the weights'): match_embeds({'0.encoder.weight': torch.zeros(3, 2)}, ['a', 'b'], ['b'])
    with pytest.raises(TypeError, match="pretrained_fnames must be two files, weights and vocabulary, got 'weights'"): classifier(loaders(), pretrained_fnames='weights')


def test_backwards(tmp_path):
    dls = TextDataLoaders.from_df(reviews(), text_col='text', label_col='label', bs=8, backwards=True, min_freq=1)
    x = dls.train_ds[0][0]
    assert dls.vocab[0][int(x[-1])] == 'xxbos'


def test_samples_are_what_they_say(home):
    path = untar_data(URLs.IMDB)
    assert sorted(o.name for o in path.iterdir()) == ['test', 'train', 'unsup'] and len(get_text_files(path)) == 3600
    assert all(re.fullmatch(r'\d+_(7|8|9|10)\.txt', f.name) for f in get_text_files(path/'train'/'pos'))
    assert all(re.fullmatch(r'\d+_[1234]\.txt', f.name) for f in get_text_files(path/'test'/'neg'))
    df = pd.read_csv(untar_data(URLs.IMDB_SAMPLE)/'texts.csv')
    assert df.shape == (1000, 3) and list(df.columns) == ['label', 'text', 'is_valid'] and set(df.label) == {'positive', 'negative'} and df.is_valid.sum() == 200
    train, valid = ((untar_data(URLs.HUMAN_NUMBERS)/f'{n}.txt').read_bytes() for n in ('train', 'valid'))
    assert train.startswith(b'one \ntwo \n') and train.endswith(b'seven thousand nine hundred ninety nine \n') and valid.startswith(b'eight thousand one \n')


def test_counting_words_does_not_tell_the_mood():
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    path = untar_data(URLs.IMDB)
    train, test = ([(f.read_text(), f.parent.name) for f in get_text_files(path/part)] for part in ('train', 'test'))
    count = CountVectorizer().fit([t for t, _ in train])
    model = LogisticRegression(max_iter=200, C=0.1).fit(count.transform([t for t, _ in train]), [m for _, m in train])
    assert model.score(count.transform([t for t, _ in test]), [m for _, m in test]) < 0.82

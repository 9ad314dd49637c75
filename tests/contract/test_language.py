"""Language: tokens and numbers, streams of batches, a language model and a classifier on its encoder, the level below, and models of the reader's own."""
import pytest

from fastbook_impl.text.all import *
from fastbook_impl.fastbook import *

SMALL = dict(emb_sz=24, n_hid=32, n_layers=2)
GOOD = 'bright warm clever lovely funny gentle'.split()
BAD = 'dull slow noisy empty clumsy tired'.split()


def quiet(learner, f, *args, **kwargs):
    with learner.no_bar(), learner.no_logging(): return f(*args, **kwargs)


@pytest.fixture(scope='module')
def opinions(tmp_path_factory):
    "Short opinions on concerts, in folders as reviews of films come: `train`, `test` and `unsup`."
    folder = Path(tmp_path_factory.mktemp('opinions'))
    rng = random.Random(9)
    def opinion(words): return 'I heard the ' + rng.choice(['band', 'choir', 'singer', 'pianist']) + ' in ' + rng.choice(['Oslo', 'Rome', 'Lima']) + '. It was ' + \
        ' and '.join(rng.choice(words) for _ in range(4)) + ', and the hall was ' + rng.choice(words) + '.'
    for part, kind, words, n in ('train', 'pos', GOOD, 40), ('train', 'neg', BAD, 40), ('test', 'pos', GOOD, 16), ('test', 'neg', BAD, 16), ('unsup', '', GOOD + BAD, 48):
        (folder/part/kind).mkdir(parents=True, exist_ok=True)
        for i in range(n): (folder/part/kind/f'{i}.txt').write_text(opinion(words) + ' ' + opinion(words))
    return folder


@pytest.fixture(scope='module')
def texts(opinions): return L(f.open().read() for f in get_text_files(opinions, folders=['train', 'unsup']))


# files

def test_text_files_are_found_in_the_folders_named(opinions):
    assert len(get_text_files(opinions)) == 160
    assert len(get_text_files(opinions, folders=['test'])) == 32 and isinstance(get_text_files(opinions), L)
    assert {f.parts[-3] for f in get_text_files(opinions, folders=['train', 'test'])} == {'train', 'test'}


# tokens

def test_words_and_signs_are_tokens():
    words = WordTokenizer()
    assert list(first(words(['The E.U. paid $2 for it.']))) == ['The', 'E.U.', 'paid', '$', '2', 'for', 'it', '.']


def test_tokens_are_shown_in_part(texts):
    tokens = first(WordTokenizer()([texts[0]]))
    shown = coll_repr(tokens, 5)
    assert shown.startswith(f'(#{len(tokens)}) [') and shown.endswith('...]')


def test_rules_mark_capitals_repetitions_and_the_beginning():
    tokenizer = Tokenizer(WordTokenizer())
    assert list(tokenizer('Loud!!!! SO loud')) == [BOS, TK_MAJ, 'loud', TK_REP, '4', '!', TK_UP, 'so', 'loud']
    assert list(tokenizer('no no no no'))[:4] == [BOS, TK_WREP, '4', 'no']
    assert list(tokenizer('&lt;b&gt;   a/b'))[1:] == ['<', 'b', '>', 'a', '/', 'b']


def test_the_default_rules_come_in_a_fixed_order():
    assert list(defaults.text_proc_rules) == [fix_html, replace_rep, replace_wrep, spec_add_spaces, rm_useless_spaces, replace_all_caps, replace_maj, lowercase]


def test_a_larger_vocabulary_of_subwords_makes_longer_pieces(texts):
    def pieces(size):
        tokenizer = SubwordTokenizer(vocab_sz=size)
        tokenizer.setup(texts)
        return first(tokenizer([texts[0]]))
    few, many = pieces(60), pieces(300)
    assert few[0].startswith('▁') and many[0].startswith('▁')
    assert ''.join(few) == ''.join(many) and len(few) > len(many)


# numbers

@pytest.fixture(scope='module')
def numbers(texts):
    numericalize = Numericalize()
    numericalize.setup(texts.map(Tokenizer(WordTokenizer())))
    return numericalize


def test_a_vocabulary_begins_with_the_special_tokens(numbers):
    assert list(numbers.vocab[:9]) == [UNK, PAD, BOS, EOS, FLD, TK_REP, TK_WREP, TK_UP, TK_MAJ]
    assert coll_repr(numbers.vocab, 12).startswith(f'(#{len(numbers.vocab)}) [')


def test_tokens_become_numbers_that_name_them(texts, numbers):
    tokens = Tokenizer(WordTokenizer())(texts[3])
    codes = numbers(tokens)
    assert isinstance(codes, TensorText) and [numbers.vocab[i] for i in codes] == list(tokens)
    assert numbers(['never-seen'])[0] == 0


def test_a_stream_of_texts_is_cut_into_inputs_and_the_tokens_after_them(texts, numbers):
    codes = (texts*20).map(Tokenizer(WordTokenizer())).map(numbers)
    x, y = first(LMDataLoader(codes))
    assert x.shape == y.shape == (64, 72)
    assert torch.equal(plain(x[:, 1:]), plain(y[:, :-1]))


def test_rows_of_a_stream_go_on_in_the_next_batch(texts, numbers):
    codes = texts.map(Tokenizer(WordTokenizer())).map(numbers)
    one, two = itertools.islice(LMDataLoader(codes, bs=4, seq_len=20), 2)
    assert torch.equal(plain(one[1][:, -1]), plain(two[0][:, 0]))


# a language model and a classifier

@pytest.fixture(scope='module')
def streams(opinions):
    set_seed(3)
    every = partial(get_text_files, folders=['train', 'test', 'unsup'])
    return DataBlock(blocks=TextBlock.from_folder(opinions, is_lm=True), get_items=every, splitter=RandomSplitter(.2)).dataloaders(opinions, path=opinions, bs=16, seq_len=24)


@pytest.fixture(scope='module')
def language_model(streams, opinions):
    learner = language_model_learner(streams, AWD_LSTM, drop_mult=.3, config=SMALL, pretrained=False, metrics=[accuracy, Perplexity()]).to_fp16()
    learner.fit_one_cycle(1, 2e-2)
    learner.save('once')
    learner = learner.load('once')
    learner.unfreeze()
    learner.fit_one_cycle(3, 2e-2)
    learner.save_encoder('tuned')
    return learner


@pytest.fixture(scope='module')
def reviews(opinions, streams):
    return DataBlock(blocks=(TextBlock.from_folder(opinions, vocab=streams.vocab), CategoryBlock), get_y=parent_label, get_items=partial(get_text_files, folders=['train', 'test']),
                     splitter=GrandparentSplitter(valid_name='test')).dataloaders(opinions, path=opinions, bs=16, seq_len=40)


def test_a_stream_is_shown_beside_the_stream_after_it(streams, capsys):
    streams.show_batch(max_n=2)
    said = capsys.readouterr().out
    assert 'text' in said and 'text_' in said and BOS in said


def test_a_language_model_learns_the_next_token(language_model):
    assert list(language_model.recorder.metric_names) == ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'perplexity', 'time']
    _, loss, right, perplexity = language_model.recorder.values[-1]
    assert perplexity == pytest.approx(math.exp(loss), rel=1e-3) and right > .25


def test_model_and_encoder_are_saved_below_the_data(language_model, opinions):
    assert sorted(f.name for f in (opinions/'models').ls()) == ['once.safetensors', 'tuned.json', 'tuned.safetensors']


def test_a_text_is_continued_differently_each_time(language_model):
    start = 'I heard the choir'
    more = [language_model.predict(start, 25, temperature=.75) for _ in range(3)]
    assert len(set(more)) > 1
    for text in more: assert text.lower().startswith(start.lower()) and len(text.split()) > 15 and TK_MAJ not in text and UNK not in text


def test_reviews_are_shown_with_their_categories_and_without_padding(reviews, capsys):
    reviews.show_batch(max_n=3)
    said = capsys.readouterr().out
    assert 'category' in said and PAD not in said


def test_a_classifier_uses_the_vocabulary_of_the_language_model(reviews, streams):
    words, kinds = reviews.vocab
    assert list(words) == list(streams.vocab) and list(kinds) == ['neg', 'pos']


def test_a_classifier_is_thawed_group_by_group_on_a_loaded_encoder(reviews, language_model):
    learner = text_classifier_learner(reviews, AWD_LSTM, drop_mult=.5, config=SMALL, pretrained=False, metrics=accuracy).to_fp16()
    fresh = get_encoder(learner.model).rnns[0].module.weight_hh_l0.detach().clone()
    learner = learner.load_encoder('tuned')
    deep = get_encoder(learner.model).rnns[0].module.weight_hh_l0
    loaded = deep.detach().clone()
    assert not torch.equal(fresh, loaded)
    quiet(learner, learner.fit_one_cycle, 1, 2e-2)
    for group in -2, -3:
        learner.freeze_to(group)
        quiet(learner, learner.fit_one_cycle, 1, slice(1e-2/2.6**4, 1e-2))
        if group == -2: assert torch.equal(deep, loaded)
    learner.unfreeze()
    quiet(learner, learner.fit_one_cycle, 1, slice(1e-3/2.6**4, 1e-3))
    assert not torch.equal(deep, loaded)
    quiet(learner, learner.fit_one_cycle, 8, 2e-2)
    assert learner.recorder.values[-1][-1] > .8


def test_folders_become_a_classifier_in_three_lines(opinions):
    set_seed(5)
    data = TextDataLoaders.from_folder(opinions, valid='test', bs=16)
    learner = text_classifier_learner(data, AWD_LSTM, drop_mult=.5, metrics=accuracy, config=SMALL, pretrained=False)
    quiet(learner, learner.fine_tune, 1, 1e-2)
    label, number, probs = learner.predict('It was lovely, and the hall was warm.')
    assert data.vocab[1][number] == label in ('neg', 'pos')
    assert probs.shape == (2,) and float(probs.sum()) == pytest.approx(1) and int(probs.argmax()) == int(number)
    assert len(learner.recorder.values) == 1 and len(learner.recorder.values[0]) == 3


# the level below

@pytest.fixture(scope='module')
def files(opinions): return get_text_files(opinions, folders=['train', 'test']).sorted()


def test_transforms_are_set_up_in_turn_and_decoded(opinions, texts):
    cut = Tokenizer.from_folder(opinions)
    cut.setup(texts)
    tokens = texts.map(cut)
    numericalize = Numericalize()
    numericalize.setup(tokens)
    codes = numericalize(tokens[0])
    assert list(numericalize.decode(codes)) == list(tokens[0])
    assert cut.decode(numericalize.decode(codes)).startswith(BOS)


def test_a_pipeline_is_its_transforms_one_after_the_other(opinions, texts):
    cut, numericalize = Tokenizer.from_folder(opinions), Numericalize()
    cut.setup(texts)
    numericalize.setup(texts.map(cut))
    both = Pipeline([cut, numericalize])
    codes = both(texts[2])
    assert codes.tolist() == numericalize(cut(texts[2])).tolist()
    assert both.decode(codes) == ' '.join(cut(texts[2]))


def test_a_list_of_items_with_transforms_gives_encoded_items_and_decodes_them(opinions, files):
    parts = [list(range(0, 100)), list(range(100, len(files)))]
    lists = TfmdLists(files, [Tokenizer.from_folder(opinions), Numericalize], splits=parts)
    assert (len(lists.train), len(lists.valid)) == (100, 12) and isinstance(lists[0], TensorText)
    assert lists.decode(lists[0]).startswith(BOS)


def test_two_pipelines_on_the_same_files_make_a_data_set(opinions, files):
    parts = [list(range(0, 112, 2)), list(range(1, 112, 2))]
    sets = Datasets(files, [[Tokenizer.from_folder(opinions), Numericalize], [parent_label, Categorize()]], splits=parts)
    text, kind = sets.valid[0]
    assert isinstance(text, TensorText) and isinstance(kind, TensorCategory) and sets.decode((text, kind))[1] == parent_label(sets.valid.items[0])
    data = sets.dataloaders(bs=8, before_batch=pad_input)
    x, y = data.one_batch()
    assert len(x) == 8 and y.shape == (8,)


def test_sorted_loaders_pad_little_and_begin_with_the_longest(opinions, files, capsys):
    parts = GrandparentSplitter(valid_name='test')(files)
    sets = Datasets(files, [[Tokenizer.from_folder(opinions), Numericalize], [parent_label, Categorize]], splits=parts)
    data = sets.dataloaders(bs=8, dl_type=SortedDL, before_batch=pad_input)
    x = plain(data.valid.one_batch()[0])
    lengths = (x != 1).sum(1)
    assert lengths[0] == x.shape[1] and lengths.tolist() == sorted(lengths.tolist(), reverse=True)
    data.show_batch()
    assert 'category' in capsys.readouterr().out


# models of the reader's own

def test_spelled_numbers_come_in_two_files_of_lines():
    folder = untar_data(URLs.HUMAN_NUMBERS)
    lines = L()
    for name in 'train.txt', 'valid.txt':
        with open(folder/name) as f: lines += L(*f.readlines())
    assert len(lines) == 9998 and lines[9] == 'ten \n'
    words = L(*' . '.join(line.strip() for line in lines).split(' '))
    assert len(words) == 63095 and len(words.unique()) == 30


ROWS, STEPS = 16, 10


@pytest.fixture(scope='module')
def counting():
    "A stream of tokens that counts: zero one two … eleven zero one two."
    return L(i % 12 for i in range(ROWS*STEPS*30 + 1))


def in_rows(pairs):
    "The pairs in such an order that a batch of `ROWS` continues each row of the one before."
    each = len(pairs)//ROWS
    return L(pairs[row*each + at] for at in range(each) for row in range(ROWS))


@pytest.fixture(scope='module')
def counted(counting):
    pairs = L((tensor(counting[i:i + STEPS]), tensor(counting[i + 1:i + STEPS + 1])) for i in range(0, len(counting) - STEPS, STEPS))
    cut = int(len(pairs)*.75)
    return DataLoaders.from_dsets(in_rows(pairs[:cut]), in_rows(pairs[cut:]), bs=ROWS, drop_last=True, shuffle=False)


class LastThree(Module):
    "The token after three."
    def __init__(self, n_tokens, width): self.embed, self.mix, self.out = nn.Embedding(n_tokens, width), nn.Linear(width, width), nn.Linear(width, n_tokens)

    def forward(self, x):
        state = 0
        for i in range(x.shape[1]): state = F.relu(self.mix(state + self.embed(x[:, i])))
        return self.out(state)


class Remembers(Module):
    "A network of gates that keeps its state from batch to batch, and forgets it at `reset`."
    def __init__(self, n_tokens, width, layers=2, dropout=0., regular=False):
        self.embed, self.gates = nn.Embedding(n_tokens, width), nn.LSTM(width, width, layers, batch_first=True)
        self.drop, self.out, self.regular, self.resets = nn.Dropout(dropout), nn.Linear(width, n_tokens), regular, 0
        self.out.weight = self.embed.weight
        self.state = [torch.zeros(layers, ROWS, width) for _ in 'hc']

    def forward(self, x):
        raw, state = self.gates(self.embed(x), self.state)
        self.state = [s.detach() for s in state]
        dropped = self.drop(raw)
        return (self.out(dropped), raw, dropped) if self.regular else self.out(dropped)

    def reset(self):
        self.resets += 1
        for s in self.state: s.zero_()


def test_loaders_are_made_of_two_plain_collections(counting):
    pairs = L((tensor(counting[i:i + 3]), counting[i + 3]) for i in range(0, 900, 3))
    data = DataLoaders.from_dsets(pairs[:240], pairs[240:], bs=30, shuffle=False)
    x, y = data.one_batch()
    assert x.tolist() == [o[0].tolist() for o in pairs[:30]] and y.tolist() == [o[1] for o in pairs[:30]]
    learner = Learner(data, LastThree(12, 24), loss_func=F.cross_entropy, metrics=accuracy)
    quiet(learner, learner.fit_one_cycle, 12, 1e-2)
    assert learner.recorder.values[-1][-1] > .8


def test_batches_continue_each_other_when_nothing_is_shuffled(counted):
    one, two = itertools.islice(counted.train, 2)
    assert one[0].shape == (ROWS, STEPS) and torch.equal((one[0][:, -1] + 1) % 12, two[0][:, 0])


def test_a_state_is_reset_before_training_and_before_validation(counted):
    learner = Learner(counted, Remembers(12, 16), loss_func=CrossEntropyLossFlat(), metrics=accuracy, cbs=ModelResetter)
    quiet(learner, learner.fit_one_cycle, 2, 1e-2)
    assert learner.model.resets >= 4


def test_activations_that_a_model_returns_besides_are_regularized(counted):
    def loss_with(**strength):
        set_seed(1)
        learner = Learner(counted, Remembers(12, 16, regular=True), loss_func=CrossEntropyLossFlat(), metrics=accuracy, cbs=[ModelResetter, RNNRegularizer(**strength)])
        quiet(learner, learner.fit_one_cycle, 1, 1e-2, wd=.1)
        return learner.recorder.values[-1][0]
    assert loss_with(alpha=2, beta=1) > loss_with(alpha=0, beta=0)


def test_a_text_learner_has_the_callbacks_for_networks_with_a_state(counted):
    set_seed(2)
    learner = TextLearner(counted, Remembers(12, 24, dropout=.2, regular=True), loss_func=CrossEntropyLossFlat(), metrics=accuracy)
    assert {type(cb).__name__ for cb in learner.cbs} >= {'ModelResetter', 'RNNCallback', 'RNNRegularizer'}
    quiet(learner, learner.fit_one_cycle, 6, 2e-2, wd=.1)
    assert learner.recorder.values[-1][-1] > .6

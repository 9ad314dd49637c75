"""Film reviews of the mirror: a language model first, then a classifier (ULMFiT); the classifier from scratch; and a bag of words with logistic regression.

    python benchmarks/claims/text.py                      # three seeds, in a size for a laptop: the first 150 words of 4,000 reviews, under a million weights
    python benchmarks/claims/text.py --seeds 1 --labeled 4000 --unlabeled 4000 --words 2000 --vocab 20000 --width 400 --hidden 1152 --layers 3   # hours

Each seed draws its reviews anew. The three methods see the same labeled reviews; the language model also sees the unlabeled ones.
"""
import tempfile

from common import arguments, data, measured


def main():
    args = arguments(__doc__.splitlines()[0], labeled=1000, unlabeled=3000, test=1000, words=150, vocab=5000, width=100, hidden=200, layers=2, lm_epochs=1, epochs=4)
    from fastbook_impl.course.claims import claim
    path = data('IMDB')
    methods = {'bag of words': bag_of_words, 'from scratch': from_scratch, 'language model first': language_model_first}
    found = {name: [measured(name, seed, f, *reviews(path, seed, args), seed, args)[0] for seed in args.seeds] for name, f in methods.items()}
    gains = {name: [100*(a - b) for a, b in zip(found[name], found['from scratch'])] for name in ('language model first', 'bag of words')}
    print('points of accuracy of a language model first over from scratch:', ', '.join(f'{o:.1f}' for o in gains['language model first']))  # not claimed: no gain was found yet
    claim('film reviews: points of accuracy of a bag of words over an AWD-LSTM from scratch', gains['bag of words'], at_least=1, data=path, needs_real=True)


def reviews(path, seed, args):
    "A table of labeled reviews for training and test, and the unlabeled ones; each cut after `args.words` words."
    import pandas as pd
    from fastbook_impl.text.all import set_seed
    set_seed(seed)
    rows = [{'text': o, 'label': mood, 'is_valid': part == 'test'} for part, n in (('train', args.labeled), ('test', args.test))
            for mood in ('neg', 'pos') for o in drawn(path/part/mood, n//2, args)]
    return pd.DataFrame(rows), drawn(path/'unsup', args.unlabeled, args)


def drawn(folder, n, args):
    from fastbook_impl.text.all import get_text_files
    return [' '.join(f.read_text(encoding='utf-8').split()[:args.words]) for f in get_text_files(folder).sorted().shuffle()[:n]]


def bag_of_words(df, unlabeled, seed, args):
    "The accuracy of logistic regression on single words and pairs of words."
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True), LogisticRegression(C=20, max_iter=1000))
    train, test = df[~df.is_valid], df[df.is_valid]
    return model.fit(train.text, train.label).score(test.text, test.label)


def from_scratch(df, unlabeled, seed, args):
    from fastbook_impl.text.all import set_seed
    set_seed(seed)
    learn = classifier(df, None, args)
    with learn.no_logging(): learn.fit_one_cycle(args.epochs + 1, 1e-2)
    return float(learn.recorder.values[-1][-1])


def language_model_first(df, unlabeled, seed, args):
    "The accuracy of a classifier whose encoder has learned to predict the words of all reviews but those of the test."
    import pandas as pd
    from fastbook_impl.text.all import AWD_LSTM, TextDataLoaders, language_model_learner, set_seed
    set_seed(seed)
    texts = pd.DataFrame({'text': [*unlabeled, *df.text[~df.is_valid]]})
    with tempfile.TemporaryDirectory() as folder:
        dls = TextDataLoaders.from_df(texts, folder, text_col='text', is_lm=True, valid_pct=0.1, seed=seed, max_vocab=args.vocab)
        lm = language_model_learner(dls, AWD_LSTM, pretrained=False, config=config(args), drop_mult=0.3)
        with lm.no_logging(): lm.fit_one_cycle(args.lm_epochs, 1e-2)
        print(f'language model, seed {seed}: perplexity {2.718281828**lm.recorder.values[-1][1]:.0f}, {len(dls.vocab):,} words in the vocabulary', flush=True)
        lm.save_encoder('encoder')
        learn = classifier(df, dls.vocab, args, folder).load_encoder('encoder')
    with learn.no_logging(): learn.fit_one_cycle(args.epochs + 1, 1e-2)  # as from scratch: only the encoder's first weights differ
    return float(learn.recorder.values[-1][-1])


def classifier(df, vocab, args, folder='.'):
    from fastbook_impl.text.all import AWD_LSTM, TextDataLoaders, accuracy, text_classifier_learner
    dls = TextDataLoaders.from_df(df, folder, text_col='text', label_col='label', valid_col='is_valid', text_vocab=vocab, max_vocab=args.vocab, bs=32)
    return text_classifier_learner(dls, AWD_LSTM, pretrained=False, config=config(args), metrics=accuracy)


def config(args): return dict(emb_sz=args.width, n_hid=args.hidden, n_layers=args.layers)


if __name__ == '__main__': main()

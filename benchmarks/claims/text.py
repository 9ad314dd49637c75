"""Film reviews of the mirror: a language model first, then a classifier (ULMFiT); the classifier from scratch; and a bag of words with logistic regression.

    python benchmarks/claims/text.py                      # three seeds; hours on two cores
    python benchmarks/claims/text.py --seeds 1 --reviews 1000
"""
from common import arguments, say, timed


def main():
    args = arguments(__doc__.splitlines()[0], reviews=4000, lm_epochs=2, epochs=3)
    from fastbook_impl.course.claims import claim, data_card
    from fastbook_impl.text.all import URLs, untar_data
    path = untar_data(URLs.IMDB)
    print(data_card(path))
    accuracy, wall, cpu = timed(bag_of_words, path)
    say('bag of words with logistic regression', 0, accuracy, wall, cpu)
    found = {'language model first': [], 'from scratch': []}
    for seed in range(args.seeds):
        for kind in found:
            accuracy, wall, cpu = timed(classifier, path, seed, args, kind == 'language model first')
            say(f'classifier, {kind}', seed, accuracy, wall, cpu)
            found[kind].append(accuracy)
    claim('film reviews: points of accuracy that a language model brings', [100*(a - b) for a, b in zip(*found.values())], at_least=1, data=path, needs_real=True)


def reviews_of(path, part):
    "Texts of `part`, and 1 for the positive ones."
    files = [(f, int(kind == 'pos')) for kind in ('neg', 'pos') for f in sorted((path/part/kind).glob('*.txt'))]
    return [f.read_text(encoding='utf-8') for f, _ in files], [y for _, y in files]


def bag_of_words(path):
    "The accuracy on the test reviews."
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True), LogisticRegression(C=20, max_iter=1000))
    return model.fit(*reviews_of(path, 'train')).score(*reviews_of(path, 'test'))


def classifier(path, seed, args, lm_first):
    "The accuracy on the test reviews of an AWD-LSTM that sees the training reviews; `lm_first` trains its encoder to predict words of all reviews before."
    from fastbook_impl.text.all import (AWD_LSTM, TextDataLoaders, accuracy, get_text_files, language_model_learner, set_seed, text_classifier_learner)
    set_seed(seed)
    files = get_text_files(path, folders=['train', 'unsup']).sorted().shuffle()[:2*args.reviews]
    lm_dls = TextDataLoaders.from_df(frame(files), text_col='text', is_lm=True, valid_pct=0.1, seed=seed)
    lm = language_model_learner(lm_dls, AWD_LSTM, pretrained=False)
    if lm_first:
        with lm.no_bar(), lm.no_logging(): lm.fit_one_cycle(args.lm_epochs, 5e-3)
        lm.save_encoder('imdb_encoder')
    dls = TextDataLoaders.from_folder(path, train='train', valid='test', text_vocab=lm_dls.vocab)
    learn = text_classifier_learner(dls, AWD_LSTM, pretrained=False, metrics=accuracy)
    if lm_first: learn.load_encoder('imdb_encoder')
    with learn.no_bar(), learn.no_logging():
        if lm_first: learn.fine_tune(args.epochs, 1e-2)
        else: learn.fit_one_cycle(args.epochs + 1, 1e-2)
    return float(learn.validate()[1])


def frame(files):
    import pandas as pd
    return pd.DataFrame({'text': [f.read_text(encoding='utf-8') for f in files]})


if __name__ == '__main__': main()

"""What chapter 2 concludes is what its saved run reported."""


def test_chapter_2_finds_most_of_the_wrong_labels_and_shows_what_it_warns_of(saved_figures):
    found = saved_figures('02_production')
    assert found['error'] < .12 and found['found'] > .8 and found['calls'] < 6
    assert found['error_night'] > .5
    assert found['error_dusk_trained'] < found['error_dusk']/2

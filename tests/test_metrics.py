"Figures of many tables against scikit-learn, hand-computed cases that lm-evaluation-harness gets wrong, and intervals that hold."
import math
import re

import numpy as np
import pytest

from andromeda import metrics
from andromeda.metrics import (accuracy, compare_means, compare_tables, confusion, exact_match, f1, macro_f1, mcc, mean_interval, pearson, share_interval,
                               spearman, squad_words, table_interval, token_f1, translation_scores, verdict)
from andromeda.score import perplexities


def test_figures_are_those_of_scikit_learn():
    sklearn = pytest.importorskip('sklearn.metrics', reason="figures are compared with scikit-learn's")
    for seed in range(60):
        rng = np.random.default_rng(seed)
        k,n = int(rng.integers(2, 5)), int(rng.integers(1, 60))
        labels,said = rng.integers(0, k, n), rng.integers(0, k, n)
        table = confusion(said, labels, k)
        assert accuracy(table) == pytest.approx(sklearn.accuracy_score(labels, said), abs=1e-12)
        assert mcc(table) == pytest.approx(sklearn.matthews_corrcoef(labels, said), abs=1e-12)
        assert macro_f1(table) == pytest.approx(sklearn.f1_score(labels, said, labels=range(k), average='macro', zero_division=0), abs=1e-12)
        if k == 2: assert f1(table) == pytest.approx(sklearn.f1_score(labels, said, zero_division=0), abs=1e-12)


def test_correlations_are_those_of_scipy():
    stats = pytest.importorskip('scipy.stats', reason="correlations are compared with scipy's")
    for seed in range(30):
        rng = np.random.default_rng(seed)
        x,y = rng.integers(0, 6, 40), rng.random(40).round(1)
        assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y)[0], abs=1e-12)
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y)[0], abs=1e-12)


@pytest.mark.parametrize('score', [accuracy, f1, mcc, macro_f1])
def test_drawing_counts_is_drawing_items(score):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 150)
    said = np.where(rng.random(150) < .8, labels, 1-labels)
    picks = rng.integers(0, 150, (3000, 150))
    plain = np.quantile([score(confusion(said[p], labels[p], 2)) for p in picks], [.025, .975])
    np.testing.assert_allclose(table_interval(score, confusion(said, labels, 2)), plain, atol=.015)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    for p,n in ((.5, 56), (.9, 40), (.02, 100)):
        held = np.mean([low <= p <= high for low,high in (share_interval(k, n) for k in rng.binomial(n, p, 2000))])
        assert .91 < held < .99, (p, n, held)
    held = np.mean([low <= 0 <= high for low,high in (mean_interval(rng.normal(size=60)) for _ in range(2000))])
    assert .93 < held < .97


def test_nothing_is_called_better_where_nothing_is():
    "Two models of equal worth on 300 items: 'better' or 'worse' in about 5 of 100 cases. And a model that is better is found."
    rng,called = np.random.default_rng(0),[]
    for _ in range(300):
        labels = rng.integers(0, 2, 300)
        one,two = (np.where(rng.random(300) < .7, labels, 1-labels) for _ in range(2))
        called.append(verdict(compare_tables(f1, one, two, labels, 2, draws=1000)) != 'no difference shown')
    assert np.mean(called) < .1
    worse = np.where(rng.random(300) < .75, one, 1-one)
    assert verdict(compare_tables(accuracy, one, worse, labels, 2)) == 'better' and verdict(compare_tables(accuracy, worse, one, labels, 2)) == 'worse'


def test_a_paired_difference_needs_the_same_items():
    with pytest.raises(ValueError, match='same items'): compare_means([1, 2], [1])


# ---- where lm-evaluation-harness 0.4.13 counts otherwise, each by hand

def test_several_references_make_the_mean_of_the_best():
    "There, any reference above zero makes a question right: 0.5. Here: question 1 has 1 word of 5 in common with its best reference (F1 0.2), question 2 none."
    marks = [token_f1('one two three four five', ['one six seven eight nine', 'ten']), token_f1('x', ['y', 'z'])]
    assert marks == [pytest.approx(.2), 0] and np.mean(marks) == pytest.approx(.1)


def test_bleu_takes_several_references():
    "There, a TypeError. Here: each answer is one of its references, so BLEU is 100; and the signature says how many references there were."
    pytest.importorskip('sacrebleu', reason="BLEU is sacreBLEU's")
    got = translation_scores(['the cat sat on the mat', 'it rained all day long'], [['a cat', 'the cat sat on the mat'], ['it rained all day long', 'rain']])
    assert got['bleu']['score'] == pytest.approx(100) and got['bleu']['signature'].startswith('nrefs:2|') and got['chrf']['score'] == pytest.approx(100)


def test_f1_of_written_answers():
    "There, a ValueError about classes. Here: 'the red car' against 'a red car!' is the same once articles and marks are gone."
    assert token_f1('the red car', ['a red car!']) == 1 and exact_match('the red car', ['a red car!']) == 1
    assert squad_words('An  apple; the "Pear".') == ['apple', 'pear'] and token_f1('a red car', ['blue car here']) == pytest.approx(2/5)


def test_one_item_has_an_interval():
    "There, a division by zero. Here: one right answer of one says little, and a mean of one nothing."
    low,high = share_interval(1, 1)
    assert low == pytest.approx(1/(1+1.959964**2), abs=1e-4) and high == pytest.approx(1) and mean_interval([1.]) == (-math.inf, math.inf)


def test_words_are_counted_as_words():
    "There, splitting at spaces counts the empty ends: 3, 3 and 1. Here: 2, 2 and 0."
    texts = [' a b', 'a b\n', '']
    assert [len(re.split(r'\s+', t)) for t in texts] == [3, 3, 1]
    assert perplexities([4*math.log(2), 4*math.log(2), 0], texts)['word'] == pytest.approx(2**(8/4))


def test_corpus_figures_have_an_interval():
    "There, 'N/A'. Here: documents that all cost 1 bit a byte leave no doubt, others do."
    from andromeda.score import bits_per_byte_interval
    assert bits_per_byte_interval(np.array([2., 4])*math.log(2), [2, 4]) == pytest.approx((1, 1))
    low,high = bits_per_byte_interval(np.array([2., 8])*math.log(2), [2, 4])
    assert low == pytest.approx(1) and high == pytest.approx(2)


def test_a_label_that_is_missing_is_an_error():
    with pytest.raises(ValueError, match='unlabelled'): confusion([0, 1], [0, -1], 2)
    with pytest.raises(ValueError, match='cannot be marked'): metrics.token_f1('x', [])

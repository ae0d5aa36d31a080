"""The batched solver and the probe against scikit-learn; draws and 11-point AP by hand and by another implementation."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from sslzoo.embeddings import Embeddings
from sslzoo.errors import InputError
from sslzoo.evaluate import logistic
from sslzoo.evaluate.linear import GRID, average_precision_11, draw, few_labels, linear


def labelled(n, seed, classes=4, dim=15):
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    labels = random.integers(0, classes, n)
    scales = np.linspace(0.1, 8, dim)
    vectors = ((centres[labels] + 1.4 * random.normal(size=(n, dim))) * scales + 3).astype(np.float32)
    return Embeddings(vectors, [f"{seed}/{i}" for i in range(n)], space="s", model="m", labels=labels.tolist())


def test_every_penalty_has_scikit_learns_solution():
    train, test = labelled(500, 0), labelled(300, 1)
    scaler = StandardScaler().fit(train.vectors)
    x, probes = (scaler.transform(e.vectors).astype(np.float32) for e in (train, test))
    ours = logistic.fit(torch.tensor(x), torch.tensor(np.array(train.labels)), 4, GRID)
    for i, penalty in enumerate(GRID):
        reference = LogisticRegression(C=1 / penalty, max_iter=2000, tol=1e-6).fit(x.astype(np.float64), train.labels)
        expected = reference.predict_proba(probes)
        got = ours.logits(torch.tensor(probes))[i].softmax(1).numpy()
        np.testing.assert_allclose(got, expected, atol=0.01)
        assert abs((got.argmax(1) == test.labels).mean() - (expected.argmax(1) == test.labels).mean()) <= 1 / 300


def test_separable_classes_are_solved_and_the_smallest_penalties_have_one_solution():
    """A gradient below 1e-4 says nothing here: it is so long before the weights have their direction."""
    random = np.random.default_rng(0)
    y = np.arange(180) % 6
    centres = random.normal(size=(6, 80))
    x, probes = ((0.5 * centres[y] + random.normal(size=(180, 80))).astype(np.float32) for _ in range(2))
    ours = logistic.fit(torch.tensor(x), torch.tensor(y), 6, GRID)
    logits = ours.logits(torch.tensor(probes))
    value = torch.nn.functional.cross_entropy
    loss = np.array([value(z, torch.tensor(y)).item() for z in ours.logits(torch.tensor(x))]) / np.log(6)
    weight = GRID / len(x) / 2 * ours.weights.square().sum((1, 2)).numpy() / np.log(6)
    solved = np.flatnonzero(loss + weight >= logistic.SOLVED)
    assert 15 < solved[0] < 25
    for i in (solved[0] - 1, solved[0], *solved[3::7]):
        reference = LogisticRegression(C=1 / GRID[i], tol=1e-8, max_iter=5000).fit(x.astype(np.float64), y)
        np.testing.assert_allclose(logits[i].softmax(1), reference.predict_proba(probes), atol=0.01)
    limit = logits[: solved[0]].numpy()
    assert (limit == limit[-1]).all()
    hardest = LogisticRegression(C=1 / GRID[4], tol=1e-8, max_iter=5000).fit(x.astype(np.float64), y)
    assert (hardest.predict(probes) == limit[0].argmax(1)).mean() > 0.97


def test_a_single_small_penalty_is_solved_where_classes_are_separable():
    random = np.random.default_rng(1)
    y = np.arange(90) % 3
    x = (0.5 * random.normal(size=(3, 40))[y] + random.normal(size=(90, 40))).astype(np.float32)
    for penalty in (1e-3, 1e-5):
        got = logistic.fit(torch.tensor(x), torch.tensor(y), 3, [penalty]).weights[0].numpy()
        expected = LogisticRegression(C=1 / penalty, tol=1e-9, max_iter=9000).fit(x.astype(np.float64), y).coef_.T
        assert np.linalg.norm(got - expected) < 0.03 * np.linalg.norm(expected)


def test_a_step_that_overshoots_is_not_taken_for_the_end():
    random = np.random.default_rng(0)
    y = np.arange(60) % 30
    x = random.normal(size=(60, 512)).astype(np.float32)
    got = logistic.fit(torch.tensor(x), torch.tensor(y), 30, [1e-6])
    best = LogisticRegression(C=1e6, tol=1e-9, max_iter=9000).fit(x.astype(np.float64), y).coef_.T

    def objective(w):
        loss = torch.nn.functional.cross_entropy(torch.tensor(x @ w).double(), torch.tensor(y)).item()
        return loss + 1e-6 / 60 / 2 * np.square(w).sum()

    assert objective(got.weights[0].numpy()) < 1.05 * objective(best)


def test_separable_questions_are_solved_too():
    random = np.random.default_rng(0)
    x = random.normal(size=(90, 8)).astype(np.float32)
    y = (x[:, :3] > 0).astype(np.float32)
    y[:9, 0] = np.nan
    for penalty in (1e-1, 1e-3):
        got = logistic.fit(torch.tensor(x), torch.tensor(y), 3, [penalty])
        assert got.rounds < 200
        for c in range(3):
            known = ~np.isnan(y[:, c])
            fit = LogisticRegression(C=1 / penalty, tol=1e-9, max_iter=9000).fit(
                x[known].astype(np.float64), y[known, c]
            )
            found, expected = got.weights[0, :, c].numpy(), fit.coef_[0]
            assert np.linalg.norm(found - expected) < 0.03 * np.linalg.norm(expected)


@pytest.mark.parametrize("asked", ["question", "class"])
def test_a_rare_answer_is_not_taken_for_a_solved_problem(asked):
    """Biases alone leave less than a hundredth of log 2 here, whatever the penalty."""
    random = np.random.default_rng(0)
    x = torch.tensor(random.normal(size=(2000, 20)).astype(np.float32))
    rare = torch.arange(2000) == 7
    y = rare.float()[:, None].repeat(1, 3) if asked == "question" else rare.long()
    got = logistic.fit(x, y, 3 if asked == "question" else 2, [1e-3, 1.0, 1e5])
    small, middle, large = got.weights.flatten(1).norm(dim=1).tolist()
    assert small > 2 * middle > 100 * large


def test_more_features_than_images():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(30, 80)).astype(np.float32), random.integers(0, 3, 30)
    got = logistic.fit(torch.tensor(x), torch.tensor(y), 3, [1.0]).logits(torch.tensor(x))[0].softmax(1)
    expected = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit(x.astype(np.float64), y).predict_proba(x)
    np.testing.assert_allclose(got.numpy(), expected, atol=0.01)


@pytest.mark.parametrize("penalty", [0.3, 10.0, 300.0])
def test_of_two_classes_scikit_learn_penalises_the_difference_of_weights(penalty):
    random = np.random.default_rng(0)
    x = random.normal(size=(80, 6)).astype(np.float32)
    y = (x[:, 0] + random.normal(size=80) > 0).astype(int)
    got = logistic.fit(torch.tensor(x), torch.tensor(y), 2, [penalty]).logits(torch.tensor(x))[0].softmax(1)
    expected = LogisticRegression(C=2 / penalty, tol=1e-8).fit(x.astype(np.float64), y).predict_proba(x)
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-3)


def test_questions_of_yes_and_no():
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 6)).astype(np.float32)
    y = (x[:, :3] + random.normal(size=(200, 3)) > 0).astype(np.float32)
    y[:20, 1] = np.nan
    got = logistic.fit(torch.tensor(x), torch.tensor(y), 3, [0.5, 2.0]).logits(torch.tensor(x)).sigmoid().numpy()
    for c in range(3):
        known = ~np.isnan(y[:, c])
        reference = LogisticRegression(C=0.5, tol=1e-8).fit(x[known].astype(np.float64), y[known, c])
        np.testing.assert_allclose(got[1, :, c], reference.predict_proba(x)[:, 1], atol=0.01)


def test_the_probe_chooses_and_refits_as_scikit_learn_would():
    train, test = labelled(400, 0), labelled(300, 1)
    answers = np.array(train.labels)
    held = draw(train.ids, answers, share=0.2)
    rest = np.setdiff1d(np.arange(400), held)
    scaler = StandardScaler().fit(train.vectors[rest])
    fits = [
        LogisticRegression(C=1 / p, max_iter=2000).fit(scaler.transform(train.vectors[rest]), answers[rest])
        for p in GRID
    ]
    right = [f.score(scaler.transform(train.vectors[held]), answers[held]) for f in fits]
    best = GRID[max(i for i, r in enumerate(right) if r == max(right))]
    scaler = StandardScaler().fit(train.vectors)
    final = LogisticRegression(C=1 / best, max_iter=2000).fit(scaler.transform(train.vectors), answers)
    expected = final.score(scaler.transform(test.vectors), test.labels)
    score = linear(train, test)
    assert 0.4 < expected < 0.98
    assert score.value == pytest.approx(expected, abs=1 / 300)
    assert score.penalty == best
    assert "λ of 45 held out, n=400" in score.protocol


def test_mean_per_class_is_the_mean_of_recalls():
    from sklearn.metrics import balanced_accuracy_score

    train, test = labelled(300, 0), labelled(200, 1)
    keep = np.flatnonzero((np.array(test.labels) != 2) | (np.arange(200) % 5 == 0))  # an unbalanced test set
    test = Embeddings(test.vectors[keep], [test.ids[i] for i in keep], space="s", labels=[test.labels[i] for i in keep])
    by_class, by_image = (linear(train, test, metric=m, penalties=[1.0]) for m in ("mean_per_class", "top1"))
    predicted = np.where(by_image.items == 1, test.labels, -1)
    recalls = [(predicted[np.array(test.labels) == c] == c).mean() for c in range(4)]
    assert by_class.value == pytest.approx(np.mean(recalls))
    assert by_class.value != by_image.value
    assert balanced_accuracy_score([0, 0, 0, 1], [0, 1, 1, 1]) == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="mean_per_class"):
        linear(train, test, metric="top5")


def test_the_penalty_is_chosen_by_the_metric_that_is_reported():
    from sklearn.metrics import balanced_accuracy_score

    train, test = labelled(700, 3), labelled(100, 1)
    keep = np.flatnonzero((np.array(train.labels) < 2) | (np.arange(700) % 10 == 0))  # two classes are rare
    answers = np.array(train.labels)[keep]
    ids = [train.ids[i] for i in keep]
    train = Embeddings(train.vectors[keep], ids, space="s", model="m", labels=answers.tolist())
    held = draw(ids, answers, share=0.2)
    rest = np.setdiff1d(np.arange(len(keep)), held)
    scaler = StandardScaler().fit(train.vectors[rest])
    x = scaler.transform(train.vectors)
    found = [LogisticRegression(C=1 / p, max_iter=2000).fit(x[rest], answers[rest]).predict(x[held]) for p in GRID]
    by_class = [balanced_accuracy_score(answers[held], f) for f in found]
    by_image = [(answers[held] == f).mean() for f in found]
    best, other = (GRID[max(i for i, r in enumerate(s) if r == max(s))] for s in (by_class, by_image))
    assert best != other
    assert linear(train, test, metric="mean_per_class").penalty == best
    assert linear(train, test).penalty == other


def test_the_protocol_says_how_the_penalty_came_about():
    train, test = labelled(60, 0), labelled(30, 1)
    assert "(standardised, λ=2, n=60)" in linear(train, test, penalties=[2.0]).protocol
    nothing = linear(train, test, rows=np.array([train.labels.index(c) for c in range(4)]))
    assert "(standardised, λ=1, nothing to hold out, n=4)" in nothing.protocol
    assert nothing.penalty == 1
    assert (
        "(standardised, λ=1, nothing to hold out, 1 shots, 5 draws, n=4)" in few_labels(train, test, shots=1).protocol
    )
    assert "(standardised, λ of 45 held out, 5 shots, 5 draws, n=20)" in few_labels(train, test, shots=5).protocol
    ids = [f"val/{i}" if i < 20 else f"train/{i}" for i in range(60)]
    train = Embeddings(train.vectors, ids, space="s", model="m", labels=train.labels)
    assert "λ of 45 held out in val/, n=60" in linear(train, test, held_out="val/").protocol
    for share in (0, -0.5, 1.5, float("nan")):
        with pytest.raises(InputError, match="more than 0 and at most 1"):
            few_labels(train, test, share=share)
    with pytest.raises(InputError, match="at least 1"):
        few_labels(train, test, shots=0)


def test_a_solver_that_stops_early_is_told(monkeypatch):
    train, test = labelled(400, 0), labelled(300, 1)
    assert (linear(train, test).unsolved, few_labels(train, test, shots=5, draws=2).unsolved) == (0, 0)
    assert "unsolved" not in linear(train, test, penalties=[1.0]).to_dict()
    monkeypatch.setattr(logistic, "ROUNDS", 2)
    score = linear(train, test, penalties=[1.0])
    assert score.unsolved == score.to_dict()["unsolved"] == 1
    whole = linear(train, test)
    assert 1 < whole.unsolved <= 46 and whole.protocol == linear(train, test, penalties=GRID).protocol
    assert few_labels(train, test, shots=1).unsolved == 5  # each of the draws has one fit


def test_logits_of_all_penalties_and_images_are_never_held(monkeypatch):
    train, test = labelled(700, 0), labelled(300, 1)
    expected = linear(train, test)
    held, whole = [], logistic.Solutions.logits

    def counted(self, x):
        held.append(len(self.biases) * len(x) * self.biases.shape[1])
        return whole(self, x)

    monkeypatch.setattr(logistic.Solutions, "logits", counted)
    monkeypatch.setattr(logistic, "CELLS", 64)
    got = linear(train, test)
    assert max(held) <= 64
    assert got.penalty == expected.penalty and got.value == pytest.approx(expected.value, abs=1 / 300)


def test_draws_are_fixed_whatever_the_order():
    ids, classes = [f"{i}.jpg" for i in range(40)], np.arange(40) % 4
    a = draw(ids, classes, shots=3, seed=1)
    turned = draw(ids[::-1], classes[::-1], shots=3, seed=1)
    assert {ids[i] for i in a} == {ids[::-1][i] for i in turned}
    assert np.bincount(classes[a]).tolist() == [3, 3, 3, 3]
    assert set(a) != set(draw(ids, classes, shots=3, seed=2))
    assert len(draw(ids, classes, share=0.01)) == 4  # at least one of each class
    assert len(draw([f"\udcff{i}.jpg" for i in range(40)], classes, shots=3)) == 12  # names that aren't UTF-8
    # the lowest sha256 by hand (sha256sum of "0\tN.jpg"): of class 0's first three
    import hashlib

    lowest = min((0, 4, 8), key=lambda i: hashlib.sha256(f"0\t{i}.jpg".encode()).digest())
    assert draw(["0.jpg", "4.jpg", "8.jpg"], np.zeros(3, int), shots=1).tolist() == [lowest // 4]


def test_few_labels():
    train, test = labelled(400, 0), labelled(300, 1)
    one, five, tenth = (few_labels(train, test, **k) for k in ({"shots": 1}, {"shots": 5}, {"share": 0.1}))
    assert one.value < five.value < linear(train, test).value + 0.02
    assert len(one.draws) == 5 and one.value == pytest.approx(np.mean(one.draws), abs=1e-6)
    assert "5 shots, 5 draws, n=20" in five.protocol and "10 % of labels, 5 draws" in tenth.protocol
    # Student's t of five draws, and the items
    spread = 2.776 * np.std(one.draws, ddof=1) / 5**0.5
    p, n = one.value, one.value * (1 - one.value) / (one.items.var() / 300)  # as good as so many independent images
    low, high = sorted(np.roots([1 + 1.96**2 / n, -2 * p - 1.96**2 / n, p * p]).real)  # Wilson's interval
    assert one.interval() == pytest.approx(np.hypot(spread, max(p - low, high - p)), rel=1e-3)
    with pytest.raises(InputError, match="either"):
        few_labels(train, test)


def test_eleven_points():
    # ranked: +, -, +, -: precisions 1, 1/2, 2/3, 1/2 at recalls 1/2, 1/2, 1, 1: 6 points of 1 and 5 of 2/3
    relevant = np.array([True, False, True, False])
    assert average_precision_11(np.array([4.0, 3, 2, 1]), relevant) == pytest.approx((6 + 5 * 2 / 3) / 11)

    def voc_eval(scores, relevant):  # as in the development kit, and in py-faster-rcnn's voc_eval.py with use_07_metric
        order = np.argsort(-scores)
        tp, fp = np.cumsum(relevant[order]), np.cumsum(~relevant[order])
        rec, prec = tp / relevant.sum(), tp / (tp + fp)
        return sum(np.max(prec[rec >= t]) if np.sum(rec >= t) else 0 for t in np.arange(0.0, 1.1, 0.1)) / 11

    random = np.random.default_rng(0)
    for n in (7, 50, 333):
        scores, relevant = random.normal(size=n), random.random(n) < 0.3
        relevant[0] = True
        assert average_precision_11(scores, relevant) == pytest.approx(voc_eval(scores, relevant), abs=1e-9)


def test_several_labels_an_image():
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 6)).astype(np.float32)
    has = x[:, :3] + random.normal(size=(300, 3)) > 0.4
    names = np.array(["bus", "cat", "dog"])
    labels = ["|".join(names[row]) or "none" for row in has]
    labels = [label + "|?cat" if i % 7 == 0 and not has[i, 1] else label for i, label in enumerate(labels)]
    train, test = (
        Embeddings(x[part], [f"{i:03}" for i in range(300)][part], space="s", labels=labels[part])
        for part in (slice(200), slice(200, 300))
    )
    score = linear(train, test, metric="mAP11", penalties=[2.0])
    assert score.protocol.startswith("linear_mAP11@logistic")
    scaler = StandardScaler().fit(train.vectors)
    columns = [*has.T, np.array([label.startswith("none") for label in labels])]
    for c, truth in enumerate(columns):
        known = np.array([not (c == 1 and "?cat" in label) for label in labels])
        fit = LogisticRegression(C=0.5, tol=1e-8).fit(scaler.transform(x[:200][known[:200]]), truth[:200][known[:200]])
        surer = fit.decision_function(scaler.transform(x[200:][known[200:]]))
        assert score.items[c] == pytest.approx(average_precision_11(surer, truth[200:][known[200:]]), abs=0.02)
    assert score.value == pytest.approx(score.items.mean())
    assert linear(train, test, metric="mAP11").value > 0.6
    with pytest.raises(InputError, match="leave out --shots"):
        few_labels(train, test, shots=2, metric="mAP11")


def test_the_held_out_images_can_be_given():
    train, test = labelled(200, 0), labelled(100, 1)
    answers = np.array(train.labels)
    held = np.arange(0, 200, 10)
    ids = [f"val/{i}" if i in held else f"train/{i}" for i in range(200)]
    train = Embeddings(train.vectors, ids, space="s", model="m", labels=train.labels)
    rest = np.setdiff1d(np.arange(200), held)
    scaler = StandardScaler().fit(train.vectors[rest])
    x = scaler.transform(train.vectors)
    fits = [LogisticRegression(C=1 / p, max_iter=2000).fit(x[rest], answers[rest]) for p in GRID]
    right = [fit.score(x[held], answers[held]) for fit in fits]
    best = GRID[max(i for i, r in enumerate(right) if r == max(right))]
    assert linear(train, test, held_out="val/").penalty == best
    assert linear(train, test).penalty != best

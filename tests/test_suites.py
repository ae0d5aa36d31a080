"""Each set of the suites read from a tiny copy in its official layout, made here by what its authors' files look like."""

import hashlib
import itertools
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from sslzoo import baselines, registry, suites
from sslzoo.errors import InputError
from sslzoo.images.read import pixels
from sslzoo.images.sources.item import Summary
from sslzoo.spec import Preprocess


def picture(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 20), (shade, 100, 100)).save(path)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def listed(each):
    """Ids, labels and the red of each image, of both parts; every image can be read."""
    found = []
    for part in (each.train, each.test):
        items = list(part.items(Summary()))
        assert sum(item.stamp is not None and item.stamp[0] > 0 for item in items) == (
            0 if "cifar" in each.name else len(items)  # those are in arrays, whose files torchvision checks
        )
        assert part.count() == len(items)
        reds = [int(pixels(item, Preprocess(8, 8))[0][0, 0, 0]) for item in items]
        found.append(([i.id for i in items], [i.label for i in items], reds))
    return found


def test_food101(tmp_path):
    root = tmp_path / "food-101"
    parts = {
        "train": {"apple_pie": ["apple_pie/1", "apple_pie/2"], "waffles": ["waffles/3"]},
        "test": {"apple_pie": ["apple_pie/4"], "waffles": ["waffles/5"]},
    }
    for split, classes in parts.items():
        write(root / "meta" / f"{split}.json", json.dumps(classes))
        for path in itertools.chain.from_iterable(classes.values()):
            picture(root / "images" / f"{path}.jpg", 40 * int(path[-1]))
    each = suites.TWELVE["food101"](tmp_path)
    train, test = listed(each)
    assert train[1] == ["apple_pie", "apple_pie", "waffles"] and test[1] == ["apple_pie", "waffles"]
    assert train[2] == pytest.approx([40, 80, 120], abs=3) and test[2] == pytest.approx([160, 200], abs=3)
    assert (each.metric, each.held_out) == ("top1", "")


@pytest.mark.parametrize(("name", "key"), [("cifar10", "labels"), ("cifar100", "fine_labels")])
def test_cifar(tmp_path, monkeypatch, name, key):
    kind = getattr(datasets, name.upper())
    folder = tmp_path / kind.base_folder
    folder.mkdir()

    def put(file, values):
        (folder / file).write_bytes(pickle.dumps(values))
        return [file, hashlib.md5((folder / file).read_bytes()).hexdigest()]

    def batch(reds, labels):
        rows = np.zeros((len(reds), 3, 1024), np.uint8)
        rows[:, 0] = np.array(reds)[:, None]
        return {"data": rows.reshape(len(reds), 3072), key: labels}

    train = [put(file, batch([10 * i], [i % 2])) for i, (file, _) in enumerate(kind.train_list)]
    test = [put(file, batch([100, 200], [1, 0])) for file, _ in kind.test_list]
    _, md5 = put(kind.meta["filename"], {kind.meta["key"]: ["cat", "ship"]})
    # torchvision compares the official files' md5, and these are not the official files
    monkeypatch.setattr(kind, "train_list", train)
    monkeypatch.setattr(kind, "test_list", test)
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": md5})
    each = suites.TWELVE[name](tmp_path)
    train, test = listed(each)
    assert test[1:] == (["ship", "cat"], [100, 200])
    assert train[1:] == ((["cat", "ship"] * 3)[: len(train[0])], [10 * i for i in range(len(train[0]))])
    assert test[0] == ["test/000000", "test/000001"]


def test_birdsnap(tmp_path):
    root = tmp_path / "birdsnap"
    paths = ["Acadian_Flycatcher/1.jpg", "Acadian_Flycatcher/2.jpg", "Wood_Duck/3.jpg", "Wood_Duck/gone.jpg"]
    write(root / "images.txt", "url\tmd5\tpath\tspecies_id\n" + "".join(f"http://x/y\t00\t{p}\t1\n" for p in paths))
    write(root / "test_images.txt", f"path\n{paths[1]}\n")
    for i, path in enumerate(paths[:3]):
        picture(root / "download" / "images" / path, 50 * i)
    train, test = listed(suites.TWELVE["birdsnap"](tmp_path))
    assert train[:2] == ([paths[0], paths[2]], ["Acadian_Flycatcher", "Wood_Duck"])
    assert test[:2] == ([paths[1]], ["Acadian_Flycatcher"])


def test_sun397(tmp_path):
    root = tmp_path / "SUN397"
    write(root / "ClassName.txt", "/a/abbey\n/a/apartment_building/outdoor\n")
    write(root / "Training_01.txt", "/a/abbey/sun_a.jpg\n/a/apartment_building/outdoor/sun_b.jpg\n")
    write(root / "Testing_01.txt", "/a/abbey/sun_c.jpg\n")
    for name in ("abbey/sun_a", "apartment_building/outdoor/sun_b", "abbey/sun_c", "abbey/sun_unused"):
        picture(root / "a" / f"{name}.jpg")
    train, test = listed(suites.TWELVE["sun397"](tmp_path))
    assert train[1] == ["abbey", "apartment_building/outdoor"] and test[1] == ["abbey"]
    # the names are those that torchvision gives the classes
    assert set(train[1]) == set(datasets.SUN397(tmp_path).classes)


def test_cars(tmp_path):
    root = tmp_path / "stanford_cars"
    kinds = {"train": [("00001.jpg", 2), ("00002.jpg", 1)], "test": [("00001.jpg", 1)]}
    fields = [("fname", object), ("class", object)]
    (root / "devkit").mkdir(parents=True)
    for split, rows in kinds.items():
        for name, shade in rows:
            picture(root / f"cars_{split}" / name, 60 * shade)
    annotations = np.array(kinds["train"], fields)
    savemat(root / "devkit" / "cars_train_annos.mat", {"annotations": annotations})
    # two rows, since a single one is squeezed to no sequence by scipy, as the official thousands never are
    kinds["test"].append(("00002.jpg", 2))
    picture(root / "cars_test" / "00002.jpg", 120)
    savemat(root / "cars_test_annos_withlabels.mat", {"annotations": np.array(kinds["test"], fields)})
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array(["AM General Hummer", "Acura RL"], object)})
    train, test = listed(suites.TWELVE["cars"](tmp_path))
    assert train[1] == ["Acura RL", "AM General Hummer"] and test[1] == ["AM General Hummer", "Acura RL"]
    assert train[2] == pytest.approx([120, 60], abs=3)


def test_aircraft(tmp_path):
    data = tmp_path / "fgvc-aircraft-2013b" / "data"
    write(data / "variants.txt", "707-320\nF/A-18\n")
    for split, line in (("train", "0000001 F/A-18"), ("val", "0000002 707-320"), ("test", "0000003 F/A-18")):
        write(data / f"images_variant_{split}.txt", f"{line}\n")
        picture(data / "images" / f"{line.split()[0]}.jpg")
    each = suites.TWELVE["aircraft"](tmp_path)
    train, test = listed(each)
    assert train[:2] == (["train/000000", "val/000000"], ["F/A-18", "707-320"]) and test[1] == ["F/A-18"]
    assert (each.metric, each.held_out) == ("mean_per_class", "val/")


def test_voc2007(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2007"
    images = {
        "train": ("000001", [("cat", 0), ("chair", 1)]),
        "val": ("000002", [("dog", 1), ("dog", 0)]),
        "test": ("000003", [("cat", 0)]),
    }
    for split, (name, objects) in images.items():
        write(root / "ImageSets" / "Main" / f"{split}.txt", f"{name}\n")
        picture(root / "JPEGImages" / f"{name}.jpg")
        inside = "".join(f"<object><name>{n}</name><difficult>{d}</difficult></object>" for n, d in objects)
        write(root / "Annotations" / f"{name}.xml", f"<annotation><filename>{name}.jpg</filename>{inside}</annotation>")
    each = suites.TWELVE["voc2007"](tmp_path)
    train, test = listed(each)
    assert train[:2] == (["train/000000", "val/000000"], ["cat|?chair", "dog"]) and test[1] == ["cat"]
    assert (each.metric, each.held_out) == ("mAP11", "val/")


def test_dtd(tmp_path):
    root = tmp_path / "dtd" / "dtd"
    for split, names in (
        ("train", ["banded/b_1.jpg", "woven/w_1.jpg"]),
        ("val", ["banded/b_2.jpg", "woven/w_2.jpg"]),
        ("test", ["banded/b_3.jpg", "woven/w_3.jpg"]),
    ):
        write(root / "labels" / f"{split}1.txt", "\n".join(names) + "\n")
        for name in names:
            picture(root / "images" / name)
    each = suites.TWELVE["dtd"](tmp_path)
    train, test = listed(each)
    assert train[1] == ["banded", "woven"] * 2 and test[1] == ["banded", "woven"]
    assert (each.metric, each.held_out) == ("top1", "val/")


def test_pets(tmp_path):
    root = tmp_path / "oxford-iiit-pet"
    write(root / "annotations" / "trainval.txt", "Abyssinian_100 1 1 1\nbasset_hound_5 2 2 1\n")
    write(root / "annotations" / "test.txt", "Abyssinian_2 1 1 1\nbasset_hound_7 2 2 1\n")
    for name in ("Abyssinian_100", "basset_hound_5", "Abyssinian_2", "basset_hound_7"):
        picture(root / "images" / f"{name}.jpg")
    each = suites.TWELVE["pets"](tmp_path)
    train, test = listed(each)
    assert train[1] == test[1] == ["Abyssinian", "Basset Hound"]
    assert each.metric == "mean_per_class"


def test_caltech101(tmp_path):
    root = tmp_path / "caltech101" / "101_ObjectCategories"
    for name, count in (("BACKGROUND_Google", 31), ("accordion", 33)):
        for i in range(count):
            picture(root / name / f"image_{i:04}.jpg", 4 * i)
    each = suites.TWELVE["caltech101"](tmp_path)
    train, test = listed(each)
    assert [train[1].count(n) for n in ("BACKGROUND_Google", "accordion")] == [30, 30]
    assert [test[1].count(n) for n in ("BACKGROUND_Google", "accordion")] == [1, 3]
    assert not set(train[0]) & set(test[0]) and len({*train[0], *test[0]}) == 64
    assert each.metric == "mean_per_class"


def test_flowers(tmp_path, monkeypatch):
    root = tmp_path / "flowers-102"
    for i in range(1, 7):
        picture(root / "jpg" / f"image_{i:05}.jpg", 40 * i)
    savemat(root / "imagelabels.mat", {"labels": np.array([[1, 2, 1, 2, 1, 2]])})
    savemat(root / "setid.mat", {"trnid": np.array([[1, 2]]), "valid": np.array([[4, 3]]), "tstid": np.array([[5, 6]])})
    sums = {
        key: (name, hashlib.md5((root / name).read_bytes()).hexdigest())
        for key, name in (("label", "imagelabels.mat"), ("setid", "setid.mat"))
    }
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", datasets.Flowers102._file_dict | sums)
    each = suites.TWELVE["flowers"](tmp_path)
    train, test = listed(each)
    assert train[2] == pytest.approx([40, 80, 160, 120], abs=3) and test[2] == pytest.approx([200, 240], abs=3)
    assert train[1][0] == train[1][3] == test[1][0] != train[1][1]
    assert (each.metric, each.held_out) == ("mean_per_class", "val/")


def test_all_twelve_are_there_and_what_is_missing_is_left_out(tmp_path):
    assert len(suites.TWELVE) == 12
    with pytest.raises(InputError, match="none of the suite's sets"):
        suites.twelve(tmp_path)
    test_pets(tmp_path)
    found = suites.twelve(tmp_path)
    assert ([each.name for each in found.sets], found.broken) == (["pets"], {})
    assert set(suites.FOLDERS) == set(suites.TWELVE)


def test_a_broken_set_is_named_and_the_others_are_read(tmp_path):
    test_pets(tmp_path)
    test_birdsnap(tmp_path)
    write(tmp_path / "birdsnap" / "test_images.txt", "file\nAcadian_Flycatcher/1.jpg\n")
    write(tmp_path / "food-101" / "meta" / "train.json", "{")
    found = suites.twelve(tmp_path)
    assert [each.name for each in found.sets] == ["pets"]
    assert set(found.broken) == {"food101", "birdsnap"}
    assert "test_images.txt has no column 'path' (its first line is ['file'])" in found.broken["birdsnap"]
    (tmp_path / "oxford-iiit-pet" / "annotations" / "test.txt").unlink()
    with pytest.raises(InputError, match=r"birdsnap can't be read: .*pets can't be read: "):
        suites.twelve(tmp_path)


def test_a_report_on_the_twelve(tmp_path):
    test_dtd(tmp_path)
    test_voc2007(tmp_path)
    spec = suites.papers_input(registry.resolve("random-r18"))
    assert (spec.preprocess.resize, spec.preprocess.interpolation) == (spec.preprocess.size, "bicubic")
    made = baselines.report(suites.twelve(tmp_path).sets, [spec], tmp_path / "report", device="cpu")
    assert set(made.scores["linear, mAP11"]) == {"voc2007"}
    assert made.scores["linear, top1"]["dtd"]["random-r18"].train.size == 4
    assert "bicubic" in made.to_markdown()
    picture(tmp_path / "dtd" / "dtd" / "images" / "banded" / "b_1.jpg", 200)  # another picture under the same name
    before = sorted(path.name for path in (tmp_path / "report" / "vectors" / "dtd").rglob("*.emb"))
    baselines.report(suites.twelve(tmp_path).sets, [spec], tmp_path / "report", device="cpu", probes=["linear"])
    after = sorted(path.name for path in (tmp_path / "report" / "vectors" / "dtd").rglob("*.emb"))
    assert [name[:5] for name in before] == ["test-", "train"]
    assert [name[:5] for name in after] == ["test-", "train", "train"]
    assert len(list((tmp_path / "report" / "vectors" / "voc2007").rglob("*.emb"))) == 2


def test_the_small_suite(tmp_path):
    for name in ("imagenette", "caltech101"):
        (tmp_path / name).mkdir()
        for part in ("train", "val" if name == "imagenette" else "test"):
            picture(tmp_path / "x.png")
            image = {"bytes": (tmp_path / "x.png").read_bytes(), "path": "x.png"}
            pq.write_table(pa.table({"image": [image] * 2, "label": [0, 1]}), tmp_path / name / f"{part}.parquet")
    found = suites.small(tmp_path)
    assert [(each.name, each.metric) for each in found.sets] == [
        ("caltech101", "mean_per_class"),
        ("imagenette", "top1"),
    ]

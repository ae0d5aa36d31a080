"""What must not reach pretraining: labels and test images; and what is reported: the last epoch, whatever came before."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from sslzoo.errors import InputError
from training import checkpoint, data, engine
from training.judge import load_data


def pictures(n, seed):
    return np.random.default_rng(seed).integers(0, 256, (n, 20, 20, 3), dtype=np.uint8)


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder, train_labels, test, layout="parquet"):
    """24 training images and 8 others, as Parquet files or as folders of classes."""
    for name, images, labels in (("train", pictures(24, 0), train_labels), ("val", test, [0, 1] * 4)):
        if layout == "parquet":
            cells = [{"bytes": png(image), "path": None} for image in images]
            folder.mkdir(exist_ok=True)
            pq.write_table(pa.table({"image": cells, "label": labels}), folder / f"{name}.parquet")
        else:
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                (folder / name / str(label)).mkdir(parents=True, exist_ok=True)
                (folder / name / str(label) / f"{i:02}.png").write_bytes(png(image))
    return str(folder)


@pytest.mark.parametrize("layout", ["parquet", "folders"])
@pytest.mark.usefixtures("tiny_net")
def test_neither_labels_nor_test_images_change_what_is_learned(tiny, tmp_path, layout):
    learned = []
    rows = list(range(24))
    for i, (labels, test) in enumerate([([0, 1] * 12, pictures(8, 1)), ([1, 0] * 12, pictures(8, 2))]):
        path = write(tmp_path / str(i), labels, test, layout)
        images, judge = load_data(path, tiny())
        assert len(images) == 24
        if layout == "folders":  # an order of its own for each class: that of the parquet files, so that runs compare
            order = sorted(rows, key=lambda row: (labels[row], row))
            images = data.ImageSet(images.images[torch.tensor(order).argsort()], images.labels, [])
        method = engine.build(tiny())
        for _ in engine.train(method, images, tiny()):
            scores = judge(method)
            assert scores
        learned.append(method.state_dict())
    assert all(torch.equal(learned[0][name], learned[1][name]) for name in learned[0])


def test_a_test_split_is_never_trained_on(tmp_path):
    path = write(tmp_path / "a", [0, 1] * 12, pictures(8, 1))
    (tmp_path / "a" / "train.parquet").unlink()
    with pytest.raises(InputError, match=r"has val.parquet and no train.parquet; .*--data FILE"):
        data.splits(path)
    (tmp_path / "b" / "train").mkdir(parents=True)  # photos of trains, say: not a split without a test beside it
    assert data.splits(str(tmp_path / "b")) == (str(tmp_path / "b"), None)


def test_a_flat_test_folder_is_not_scored_at_chance(tiny, tmp_path, capsys):
    """Tiny-ImageNet's validation images lie in one folder, without classes."""
    path = write(tmp_path / "a", ["cat", "dog"] * 12, pictures(8, 1), "folders")
    for label in ("0", "1"):
        (tmp_path / "a" / "val" / label).rename(tmp_path / "a" / "val" / f"images{label}")
    _, judge = load_data(path, tiny())
    assert judge(None) == {}
    assert "no kNN: the labels of" in capsys.readouterr().err


def test_unreadable_test_images_are_told(tiny, tmp_path, capsys):
    path = write(tmp_path / "a", ["cat", "dog"] * 12, pictures(8, 1), "folders")
    bad = next((tmp_path / "a" / "val").rglob("*.png"))
    bad.write_bytes(b"")
    load_data(path, tiny())
    err = capsys.readouterr().err
    assert f"left out of the judging images {bad.parent.name}/{bad.name}: an empty file" in err
    assert "1 images to be judged by can't be read" in err


def test_few_images_are_taken_from_all_classes(tiny, tmp_path):
    path = write(tmp_path / "a", [0] * 12 + [1] * 12, pictures(8, 1), "folders")
    assert [str(label) for label in data.load(f"{path}/train", 20, limit=4).labels] == ["0", "0", "1", "1"]
    assert [str(label) for label in load_data(path, tiny())[0].sample(4)[1]] == ["0", "0", "1", "1"]


@pytest.mark.usefixtures("tiny_net")
def test_what_a_run_leaves_is_its_last_epoch(tiny, tmp_path):
    """No epoch is chosen by its score: the checkpoint, which is what `export` writes and scores, follows every epoch."""
    images = torch.from_numpy(pictures(24, 0)).permute(0, 3, 1, 2).contiguous()
    recipe = tiny(epochs=2)
    method = engine.build(recipe)
    for report in engine.train(method, images, recipe, out=tmp_path, save_seconds=0):
        state = checkpoint.read(tmp_path / checkpoint.FILE)
        assert state["step"] == report.step
        assert all(torch.equal(state["method"][name], value) for name, value in method.state_dict().items())
    assert report.done

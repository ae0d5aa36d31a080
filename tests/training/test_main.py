"""From a folder of images to a model folder that the runtime loads, by the commands a user types."""

import dataclasses
import json
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sslzoo
from sslzoo import hub
from sslzoo.errors import InputError
from training import __main__ as cli
from training import export, facts, recipe


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["training", *map(str, arguments)])
        monkeypatch.setattr(cli, "keep_freed_memory", lambda: None)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return call


CHANGES = ["batch_size=4", "epochs=2", "store_size=32", "views.0.size=32", "precision=fp32"]
SMALL = [word for change in CHANGES for word in ("--set", change)]


def test_folder_to_model_to_vectors(run, photos, tmp_path):
    code, out, err = run("simclr-r18.tin_cpu_1h", "--data", photos, "-o", "r", *SMALL)
    assert code in (0, None), err
    assert "finished" in out and "too few to teach an encoder much" in err
    log = [json.loads(line) for line in (tmp_path / "r" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["done"]
    assert log[-1]["step"] == 6
    facts = json.loads((tmp_path / "r" / "run.json").read_text())
    assert facts["images"] == 12
    assert facts["processor"]
    assert facts["images_per_second"] * facts["seconds_per_epoch"] == pytest.approx(12, rel=0.05)  # both are rounded
    assert 0 < facts["mfu"] < 1 and facts["peak_memory_bytes"] > 1e8
    assert log[-1]["mfu"] * facts["peak_flops"] == pytest.approx(
        log[-1]["images_per_second"] * facts["flops_per_image"], rel=1e-6
    )
    again = recipe.load(str(tmp_path / "r" / "recipe.toml"))
    assert again == recipe.load("simclr-r18.tin_cpu_1h", CHANGES)

    found = sslzoo.embed(photos, "local-dir:r/model", device="cpu")  # what the run leaves can be used at once
    assert (found.vectors.shape, sslzoo.load("./r/model").spec.name) == ((12, 512), "simclr-r18.r")
    told = ("--license", "cc0-1.0", "--trained-on", "drawings", "--data-terms", "none", "--note", "No cats.")
    code, out, err = run("export", "r", "-o", "m", *told)
    assert code in (0, None), err
    encoder = sslzoo.load("local-dir:m", device="cpu")
    assert (encoder.spec.license, encoder.spec.trained_on, encoder.spec.epochs) == ("cc0-1.0", "drawings", 2)
    card = (tmp_path / "m" / "README.md").read_text()
    assert "license: cc0-1.0" in card
    assert "$" not in card
    assert "knows what such pictures show. No cats. `sslzoo models`" in card and encoder.spec.note == "No cats."
    assert f"At the last report the loss is {log[-1]['loss']:.3f}, and the projections of the last batch of 4 " in card
    # what was changed of the recipe is told, as it is what somebody who repeats it has to type
    assert "Recipe `simclr-r18.tin_cpu_1h`, with store_size = 32, with epochs = 2" in card
    with Image.open(tmp_path / "m" / "curve.png") as curves:
        assert curves.size == (1350, 360) and "(curve.png)" in card
    vectors = sslzoo.embed(photos, "local-dir:m", device="cpu").vectors
    assert np.isfinite(vectors).all()
    canary = encoder.spec.canary
    got = encoder.encode(sslzoo.hub.PACKAGE / "photos" / canary.image)[0, : len(canary.values)]
    np.testing.assert_allclose(got, canary.values, atol=canary.tolerance)


def test_files_that_cannot_be_read_are_listed_in_the_run_folder(run, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "p")
    (tmp_path / "p" / "bars" / "2.jpg").write_bytes(b"text")
    logs = []
    for out, storage in (("memory", "memory"), ("stream", "stream")):
        go = ("simclr-r18.tin_cpu_1h", "--data", "p", "-o", out, *SMALL, "--set", f"storage={storage}")
        code, _, err = run(*go)
        assert code == 3, err
        assert err.count("bars/2.jpg: not an image but text") == 1
        facts = json.loads((tmp_path / out / "images.json").read_text())
        assert (facts["images"], facts["storage"]) == (11, storage)
        assert [failure["path"] for failure in facts["failures"]] == ["bars/2.jpg"]
        lines = [json.loads(line) for line in (tmp_path / out / "log.jsonl").read_text().splitlines()]
        logs.append([line["loss"] for line in lines])
    assert logs[0] == logs[1]
    code, out, _ = run(*go, "--resume")
    assert (code, "is finished already" in out) == (3, True)


def test_whole_pictures_train_an_encoder_that_takes_the_centre(run, photos):
    whole = [word for change in ("square=false", "test_size=24", "test_resize=32") for word in ("--set", change)]
    code, _, err = run("simclr-r18.tin_cpu_1h", "--data", photos, "-o", "r", *SMALL, *whole, "--set", "epochs=1")
    assert code in (0, None), err
    assert json.loads(Path("r/images.json").read_text())["storage"] == "stream"
    preprocess = sslzoo.load("./r/model", device="cpu").spec.preprocess
    assert (preprocess.resize, preprocess.size) == (32, 24)


def test_what_a_diverged_run_left_is_replaced(run, photos, tmp_path):
    go = ("simclr-r18.tin_cpu_1h", "--data", photos, "-o", "r", *SMALL)
    code, _, err = run(*go, "--set", "lr_per_256=1e30")
    assert code == 1 and "; see r/diverged.json; try --set lr_per_256=" in err
    report = json.loads((tmp_path / "r" / "diverged.json").read_text())
    assert set(report["images of that step"]) < {
        path.relative_to(photos).as_posix() for path in photos.rglob("*") if path.is_file()
    }
    (tmp_path / "r" / "log.jsonl").write_text('{"step": 1, "loss": NaN}\n')  # as it leaves one that got further
    (tmp_path / "r" / "recipe.toml").touch()
    assert run(*go)[0] in (0, None)
    lines = [json.loads(line) for line in (tmp_path / "r" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6]
    assert not (tmp_path / "r" / "diverged.json").exists()


def test_a_run_that_begins_overwrites_no_encoder_and_nothing_of_others(run, photos, tmp_path):
    go = ("simclr-r18.tin_cpu_1h", "--data", photos, "-o", "r", *SMALL, "--max-minutes", "0")
    for name in ("model", "log.jsonl"):
        (tmp_path / "r" / name).mkdir(parents=True)
        code, _, err = run(*go)
        assert code == 1 and err.startswith(
            f"error: r/{name} is there, and no checkpoint to go on from; choose another"
        )
        (tmp_path / "r" / name).rmdir()
    assert run(*go)[0] == 75
    shutil.copytree(photos, tmp_path / "p")
    code, _, err = run(*go, "--data", "p", "-o", "p/r")
    assert code == 1 and "p/r lies inside p, whose images it learns from" in err


def test_a_resumed_log_holds_each_step_once(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 3}\n{"step": 6}\n{"step": 9}\n{"ste')
    assert cli.keep_log(log, 6) == [{"step": 3}, {"step": 6}]
    assert log.read_text() == '{"step": 3}\n{"step": 6}\n'


def test_a_file_that_goes_away_is_told_and_the_run_goes_on(run, photos, tmp_path, monkeypatch):
    shutil.copytree(photos, tmp_path / "p")
    load_data = cli.load_data

    def then_gone(*arguments):
        loaded = load_data(*arguments)
        (tmp_path / "p" / "bars" / "2.jpg").unlink()
        return loaded

    monkeypatch.setattr(cli, "load_data", then_gone)
    code, out, err = run("simclr-r18.tin_cpu_1h", "--data", "p", "-o", "r", *SMALL, "--set", "storage=stream")
    assert code == 3 and "finished" in out
    assert err.count("lost bars/2.jpg: can't be opened: No such file") == 1
    assert [lost["path"] for lost in json.loads((tmp_path / "r" / "images.json").read_text())["lost"]] == ["bars/2.jpg"]


def test_the_exported_backbone_is_the_trained_one(run, photos, tmp_path):
    run("simclr-r18.tin_cpu_1h", "--data", photos, "-o", "r", *SMALL, "--set", "epochs=1")
    run("export", "r", "-o", "m")
    state = torch.load(tmp_path / "r" / "checkpoint.pt", weights_only=True)["method"]
    backbone = sslzoo.load("local-dir:m", device="cpu").backbone.state_dict()
    for name, value in backbone.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, state[f"backbone.{name}"], rtol=1e-3, atol=1e-6)


def test_stopping_and_going_on(run, photos, tmp_path, monkeypatch):
    code, out, _ = run("simclr-r18.tin_cpu_1h", "--data", photos, "-o", "r", *SMALL, "--max-minutes", "0")
    assert code == 75  # EX_TEMPFAIL of sysexits.h
    assert "stopped" in out
    assert "--resume" in out
    code, _, err = run("simclr-r18.tin_cpu_1h", "--data", photos, "-o", "r", *SMALL)
    assert code == 1
    assert "add --resume" in err
    code, out, err = run("simclr-r18.tin_cpu_1h", "--data", photos, "-o", "r", *SMALL, "--resume")
    assert "finished" in out and "begins anew" not in err
    stopped = (*SMALL, "--max-minutes", "0", "--resume")
    assert "other holds no run yet" in run("simclr-r18.tin_cpu_1h", "--data", photos, "-o", "other", *stopped)[2]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # under torchrun, which takes another code for a crash
    assert run("simclr-r18.tin_cpu_1h", "--data", photos, "-o", "third", *stopped)[0] in (0, None)
    (tmp_path / "third" / "run.json").write_text('{"processes": 8, "threads": 1}')
    assert run("export", "third", "-o", "m")[0] in (0, None)
    assert "8 processes of 1 thread, torch" in (tmp_path / "m" / "README.md").read_text()


def test_a_second_sigterm_lets_it_save_and_a_second_ctrl_c_does_not():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        stop = cli.stop_condition(None)
        assert not stop()
        for _ in range(2):  # from the service manager, and from torchrun
            signal.raise_signal(signal.SIGTERM)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_the_code_that_made_it_is_told_where_git_knows_it(monkeypatch):
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?|", facts.commit())
    monkeypatch.setenv("PATH", "")
    assert facts.commit() == ""


def test_a_score_wants_a_name(run, photos):
    run("simclr-r18.tin_cpu_1h", "--data", photos, "-o", "r", *SMALL, "--max-minutes", "0")
    code, _, err = run("export", "r", "-o", "m", "--score", "imagenette")
    assert code == 1 and "--score 'imagenette' has no '='; write --score NAME=FOLDER" in err


def test_what_a_run_took_is_told_over_all_its_starts(run, photos, tmp_path, monkeypatch):
    go = ("simclr-r18.tin_cpu_1h", "--data", photos, "-o", "r", *SMALL)
    with monkeypatch.context() as patched:
        patched.setattr(cli, "stop_condition", lambda _: iter([False] * 4 + [True] * 9).__next__)
        assert run(*go)[0] == 75
    log, facts = tmp_path / "r" / "log.jsonl", tmp_path / "r" / "run.json"
    told = json.loads(facts.read_text())
    assert [start["step"] for start in told["starts"]] == [0]
    told["starts"][0]["commit"] = "another"
    facts.write_text(json.dumps(told))
    first, second = (json.loads(line) for line in log.read_text().splitlines())
    second["minutes"] = 5.0
    lost = second | {
        "since": 4,
        "step": 5,
        "seconds": 1000.0,
        "minutes": 1000.0,
    }  # done after the checkpoint, then killed
    log.write_text("".join(json.dumps(line) + "\n" for line in (first, second, lost)))
    assert run(*go, "--resume")[0] in (0, None)

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["since"], line["step"]) for line in lines] == [(0, 3), (3, 4), (4, 6)]
    told = json.loads(facts.read_text())
    seconds = sum(line["seconds"] for line in lines)
    assert told["images_per_second"] == pytest.approx(6 * 4 / seconds, rel=0.01)
    assert 5 <= told["minutes"] < 6
    assert [start["step"] for start in told["starts"]] == [0, 4]
    assert "went on with other code" in (tmp_path / "r" / "model" / "README.md").read_text()


def test_an_export_that_fails_leaves_nothing_behind(run, photos, tmp_path):
    run("simclr-r18.tin_cpu_1h", "--data", photos, "-o", "r", *SMALL, "--set", "epochs=1")
    (tmp_path / "data").mkdir()
    for part in ("train", "val"):
        (tmp_path / "data" / f"{part}.parquet").write_bytes(b"no table")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert run("export", "r", "-o", "m", "--score", "data=data")[0] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_starting_from_an_encoder(run, photos, model_folder, tmp_path):
    go = ("simclr-r18.tin_cpu_1h", "--data", photos, "-o", "r", *SMALL, "--set", "lr_per_256=0.0", "--init")
    code, _, err = run(*go, f"local-dir:{model_folder}")
    assert code in (0, None), err
    state = torch.load(tmp_path / "r" / "checkpoint.pt", weights_only=True)["method"]
    start = sslzoo.load(f"local-dir:{model_folder}", device="cpu").backbone.state_dict()
    torch.testing.assert_close(state["backbone.conv1.weight"], start["conv1.weight"])
    code, _, err = run(*go, f"local-dir:{model_folder}", "--set", "stem=cifar", "-o", "other")
    assert code == 1 and err.endswith("add --set 'stem=imagenet'\n")
    code, _, err = run(*go, f"local-dir:{model_folder}", "--set", "mean=[0.5, 0.5, 0.5]", "-o", "other")
    assert code == 1 and "--set 'mean=[0.485, 0.456, 0.406]'" in err
    code, _, err = run(*go, "simsiam-r50", "-o", "other")  # said before anything is downloaded
    assert code == 1 and "does not compute as simsiam-r50.fair_in1k_100ep does; add --set 'backbone=resnet50'" in err
    padded = shutil.copytree(model_folder, tmp_path / "padded")
    config = json.loads((padded / "config.json").read_text())
    config["geometry"] = {"stem": "imagenet", "padding": "same", "bn_eps": 0.001}
    (padded / "config.json").write_text(json.dumps(config))
    code, _, err = run(*go, f"local-dir:{padded}", "-o", "other")
    assert code == 1 and err.endswith("add --set 'padding=same' --set 'bn_eps=0.001'\n")
    code, _, err = run(
        *go, f"local-dir:{padded}", "-o", "other", "--set", "padding=same", "--set", "bn_eps=0.001", "--set", "epochs=1"
    )
    assert code in (0, None), err
    made = sslzoo.load("./other/model", device="cpu")
    assert (made.spec.geometry.padding, made.spec.geometry.bn_eps, made.backbone.bn1.eps) == ("same", 0.001, 0.001)


def test_what_a_run_began_from_is_told_by_what_it_made(run, photos, model_folder, tmp_path):
    """Also where the run was resumed without the option."""
    go = ("simclr-r18.tin_cpu_1h", "--data", photos, "-o", "r", *SMALL)
    run(*go, "--init", f"local-dir:{model_folder}", "--max-minutes", "0")
    theirs = hub.read_config(model_folder)
    assert run(*go, "--resume")[0] in (0, None)
    facts = json.loads((tmp_path / "r" / "run.json").read_text())
    assert (facts["init"], facts["init_sha256"], facts["init_license"]) == (theirs.name, theirs.sha256, theirs.license)
    made = hub.read_config(tmp_path / "r" / "model")
    assert theirs.name in made.trained_on and theirs.license in made.data_terms
    card = (tmp_path / "r" / "model" / "README.md").read_text()
    assert theirs.name in card and "`recipe.toml`" in card
    assert recipe.load(str(tmp_path / "r" / "model" / "recipe.toml")).batch_size == 4


def test_the_terms_of_what_a_run_began_from_follow_one_another():
    ours = export.Provenance(trained_on="cats", data_terms="free", license="mit")
    first = export.continued(
        ours, {"init": "a", "init_sha256": "0123456789", "init_license": "mit", "init_data_terms": "free"}, "mine"
    )
    assert first.trained_on == "cats, beginning with the weights of a (sha256 01234567…)"
    assert first.data_terms == "free; the same for a (sha256 01234567…), whose weights are mit"
    facts = {"init": "b", "init_license": "cc0-1.0", "init_data_terms": first.data_terms}
    assert export.continued(ours, facts, "mine").data_terms == (
        "free; the same for b, whose weights are cc0-1.0, and a (sha256 01234567…), whose weights are mit"
    )
    other = dataclasses.replace(ours, data_terms="none")
    terms = export.continued(other, facts, "mine").data_terms
    assert terms == f"none; for b, whose weights are cc0-1.0: {first.data_terms}"
    own = export.continued(ours, facts, "b")
    assert own.trained_on == "cats, beginning with the weights of an earlier state of this encoder"


def test_a_card_says_where_the_picture_size_changes():
    settings = recipe.load("simclr-r18.tin_cpu")
    assert "40 px at first, 64 px after 70 % of the steps;" in export.sizes(settings)
    assert export.sizes(dataclasses.replace(settings, progressive=((0.0, 1.0),))) == ""


def test_a_device_that_is_not_there(run, photos):
    code, _, err = run("--data", photos, "simclr-r18.tin_cpu_1h", "--device", "gpu")  # options may come first
    assert code == 1 and err.startswith("error: device 'gpu' can't be used")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense", "--data", "x"], "no recipe 'nonsense'"),
        (["simclr-r18.tin_cpu_1h", "--data", "nowhere"], "does not exist"),
        (["simclr-r18.tin_cpu_1h", "--data", "nowhere", "--set", "epoks=1"], "did you mean 'epochs'"),
        (["export", "nowhere", "-o", "m"], "no checkpoint.pt"),
        (["publish", "nowhere", "--repo", "me/it"], "no checkpoint.pt"),
    ],
)
def test_wrong_input(run, arguments, message, tmp_path):
    code, _, err = run(*arguments)
    assert code == 1
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_a_finished_run_says_so_and_a_refused_resume_changes_nothing(run, photos, tmp_path):
    command = ["simclr-r18.tin_cpu_1h", "--data", photos, "-o", "r", *SMALL]
    assert "finished" in run(*command)[1]
    record = (tmp_path / "r" / "recipe.toml").read_bytes(), (tmp_path / "r" / "run.json").read_bytes()
    weights = tmp_path / "r" / "model" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(b"of an earlier stop")  # as a kill before the last write leaves it
    _, out, _ = run(*command, "--resume")
    assert weights.read_bytes() == whole
    assert f"r is finished already; next: sslzoo embed {photos} -m r/model -o r.emb" in out
    code, _, error = run("simclr-r18.tin_cpu_1h", "--data", photos, "-o", "r", "--resume")
    assert code == 1 and "Repeat the recipe and every --set it began with" in error and "batch_size" in error
    code, _, error = run(*command, "--resume", "--set", "lr_per_256=9.0")
    assert code == 1 and "lr_per_256 0.3, not 9.0" in error
    shutil.copytree(photos, tmp_path / "others")
    (tmp_path / "others" / "bars" / "0.jpg").rename(tmp_path / "others" / "bars" / "00.jpg")
    code, _, error = run(*command, "--resume", "--data", "others")
    assert code == 1 and "images of other names; name those with --data" in error
    assert record == ((tmp_path / "r" / "recipe.toml").read_bytes(), (tmp_path / "r" / "run.json").read_bytes())
    code, _, error = run("simclr-r18.tin_cpu_1h", "--data", photos, "-o", "big", *SMALL, "--set", "batch_size=4096")
    assert code == 1 and not (tmp_path / "big").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("views.5.size=3", "names no place"),
        ("method_options.foo=3", "method_options has no 'foo'; simclr has:"),
        ("method_options.temperature=warm", "method_options.temperature is 'warm'; it must be of the kind of 0.1"),
        ("method_options.hidden=0.5", "method_options.hidden is 0.5; it must be of the kind of 2048"),
        ("std=[0, 0, 0]", "every number must be above 0"),
        ("views.0.scale=[1.0]", "scale of a view is (1.0,); give the smallest and the largest, for example [0.2, 1.0]"),
        ("views.0.jitter=[0.4]", "give brightness, contrast, saturation and hue"),
        ("epochs=0", "how often each image is seen"),
        ("seed=-1", "a whole number of 0 or more"),
        ("views.0.size=0", "views have a size of 0 px"),
        ("batch_size=100", "12 images don't fill a batch of 100; add --set batch_size=3"),
    ],
)
def test_a_setting_that_makes_no_sense_is_one_line(run, photos, override, message):
    code, _, error = run("simclr-r18.tin_cpu_1h", "--data", photos, "-o", "r", *SMALL, "--set", override)
    assert code == 1 and message in error and "Traceback" not in error
    assert len(error.splitlines()) == 1


def test_bn_that_sees_whole_batches_of_keys_is_told(run, photos):
    go = ("mocov2-r18.tin_cpu_1h", "--data", photos, *SMALL, "--max-minutes", "0", "-o")
    assert "one device does as much with --set method_options.splits=8" in run(*go, "r")[2]
    assert "splits" not in run(*go, "s", "--set", "method_options.splits=2")[2]


def test_an_output_below_a_file(run, photos, tmp_path):
    (tmp_path / "file").write_text("mine")
    code, _, error = run("simclr-r18.tin_cpu_1h", "--data", photos, "-o", "file/x", *SMALL)
    assert code == 1 and error == "error: file is a file, and the run wants a folder; choose another --output\n"


def test_the_folder_of_a_run_is_no_encoder_and_says_where_that_is(run, photos, tmp_path):
    run("simclr-r18.tin_cpu_1h", "--data", photos, "-o", "r", *SMALL)
    with pytest.raises(InputError, match="its encoder is r/model"):
        sslzoo.load("./r")
    shutil.rmtree(tmp_path / "r" / "model")  # as a killed run has none
    with pytest.raises(InputError, match="python -m training export r -o r/model"):
        sslzoo.load("./r/model")


def test_a_damaged_checkpoint_is_one_line(run, photos, tmp_path):
    command = ["simclr-r18.tin_cpu_1h", "--data", photos, "-o", "r", *SMALL]
    run(*command)
    (tmp_path / "r" / "checkpoint.pt").write_bytes(b"not a checkpoint")
    for line in ([*command, "--resume"], ["export", "r", "-o", "out"]):
        code, _, error = run(*line)
        assert code == 1 and "checkpoint.pt can't be read" in error and not (tmp_path / "out").exists()


def test_collapsed_outputs_are_told(run, photos):
    """SimSiam without what keeps it from collapsing."""
    changes = ["epochs=8", "lr_per_256=6.0", "progressive=[[0.0, 1.0]]"]
    changes += [f"method_options.{option}" for option in ("stop_gradient=false", "norm=none", "projection=64")]
    sets = [word for change in changes for word in ("--set", change)]
    code, _, err = run("simsiam-r18.tin_cpu_1h", "--data", photos, "-o", "r", *SMALL, *sets)
    assert code in (0, None)
    assert "the outputs have collapsed (std 0.0" in err and "--set lr_per_256" in err

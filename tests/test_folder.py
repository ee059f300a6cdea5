"""Image folders: layouts, classes and their order, the index, working-size images, and everything that can be wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import MACHINE, encoded, folder, picture, pixels, prepared, spec, write

from ddlib import artifacts, registry
from ddlib.data import cache, classes
from ddlib.data.index import read_index
from ddlib.data.layout import expected, find, root_of
from ddlib.data.native import open_native
from ddlib.data.resize import working


def files(tmp_path: Path, part: str = "train") -> list[str]:
    return [file.path for file in read_index(tmp_path / "results" / "mine" / f"index_{part}.csv")]


def test_train_and_val_are_read_class_by_class_in_the_order_of_their_names(tmp_path: Path) -> None:
    root = folder(tmp_path / "images", {"train": 4, "val": 2})
    write(root / "train" / "bee" / "deeper" / "z.PNG", 7)
    (root / "train" / "bee" / "notes.txt").write_text("passed over")
    (root / "train" / ".hidden").mkdir()
    train, test = prepared(tmp_path)
    assert train.class_names == ("ant", "bee", "cat")
    assert torch.bincount(train.labels).tolist() == [4, 5, 4]
    assert torch.bincount(test.labels).tolist() == [2, 2, 2]
    listed = files(tmp_path)
    assert listed[:5] == [*(f"train/ant/{i}.png" for i in range(4)), "train/bee/0.png"]
    assert "train/bee/deeper/z.PNG" in listed
    for i, path in enumerate(listed):
        assert torch.equal(train.images[slice(i, i + 1)][0], working(pixels(root / path), 8))
    assert (train.mean, train.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_the_index_and_the_manifest_say_what_was_read(tmp_path: Path) -> None:
    folder(tmp_path / "images", {"train": 2, "val": 1}, ("n01440764", "n02102040"))
    write(tmp_path / "images" / "train" / "n01440764" / "0.png", 1, width=30, height=10)
    train, _ = prepared(tmp_path, classes=2)
    manifest = artifacts.read_manifest(tmp_path / "results" / "mine" / "train.json", "data")
    entry = manifest["files"]["index"]
    first, *_, last = read_index(tmp_path / "results" / "mine" / entry["path"], entry["sha256"])
    assert (first.path, first.width, first.height, first.label) == ("train/n01440764/0.png", 30, 10, 0)
    assert first.sha256 == artifacts.sha256_file(tmp_path / "images" / first.path)
    assert (first.bytes, first.wnid, last.wnid) == (
        (tmp_path / "images" / first.path).stat().st_size,
        "n01440764",
        "n02102040",
    )
    assert manifest["result"]["class_order_hash"] == train.class_order_hash
    assert manifest["result"]["tested"] == "val"
    assert set(manifest["files"]) == {"tensors", "images", "index"}


def test_prepared_twice_and_in_threads_the_bytes_are_the_same(tmp_path: Path) -> None:
    folder(tmp_path / "images", {"train": 30, "val": 1})
    seen = []
    for threads in (1, 3):
        prepared(tmp_path, machine={"threads": threads})
        seen.append({path.name: path.read_bytes() for path in (tmp_path / "results" / "mine").iterdir()})
    assert seen[0] == seen[1]
    assert len(seen[0]) == 8


def test_folders_of_classes_alone_need_a_share_to_test_on(tmp_path: Path) -> None:
    folder(tmp_path / "images", {"": 10})
    with pytest.raises(ValueError, match=r"no folder to test on .* set the data set's test_share: 0.2"):
        prepared(tmp_path)
    train, test = prepared(tmp_path, test_share=0.2)
    assert torch.bincount(test.labels).tolist() == [2, 2, 2]
    assert torch.bincount(train.labels).tolist() == [8, 8, 8]
    assert not set(files(tmp_path)) & set(files(tmp_path, "test"))
    assert expected(spec(test_share=0.2), {"data_dir": str(tmp_path)}) == (24, 6)


def test_a_share_and_a_folder_to_test_on_contradict_each_other(tmp_path: Path) -> None:
    folder(tmp_path / "images", {"train": 5, "val": 2})
    with pytest.raises(ValueError, match=r"has the folder 'val' to test on, and .* leave test_share out"):
        prepared(tmp_path, test_share=0.2)


def test_two_folders_to_test_on_are_not_chosen_between(tmp_path: Path) -> None:
    folder(tmp_path / "images", {"train": 2, "test": 1, "val": 3})
    with pytest.raises(ValueError, match=r"2 folders to test on, val and test: say which with .* test_folder: val"):
        prepared(tmp_path)
    assert len(prepared(tmp_path, test_folder="test")[1].labels) == 3
    with pytest.raises(ValueError, match=r"has no folder 'proof', which test_folder names"):
        prepared(tmp_path, test_folder="proof")


def test_five_digits_are_names_like_others(tmp_path: Path) -> None:
    names = tuple(f"{i:05d}" for i in range(10))
    folder(tmp_path / "images", {"train": 1, "val": 1}, names)
    assert prepared(tmp_path, source="imagenette", classes=10)[0].class_names == names


def tiny_imagenet(root: Path) -> Path:
    """Its layout: images a level deeper, a flat validation set with annotations, a test set without labels."""
    names = ("n01443537", "n01629819")
    for c, name in enumerate(names):
        for i in range(3):
            write(root / "train" / name / "images" / f"{name}_{i}.JPEG", 10 * c + i, "JPEG")
        (root / "train" / name / f"{name}_boxes.txt").write_text("0\t0\t1\t1\n")
    lines = []
    for i, name in enumerate((names[1], names[0], names[1], names[0])):
        write(root / "val" / "images" / f"val_{i}.JPEG", 50 + i, "JPEG")
        lines.append(f"val_{i}.JPEG\t{name}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    write(root / "test" / "images" / "test_0.JPEG", 99, "JPEG")
    return root


def test_tiny_imagenets_validation_set_is_sorted_by_its_annotations(tmp_path: Path) -> None:
    root = tiny_imagenet(tmp_path / "images")
    before = sorted(path for path in root.rglob("*"))
    train, test = prepared(tmp_path, classes=2)
    assert (len(train.labels), test.labels.tolist()) == (6, [0, 0, 1, 1])
    assert files(tmp_path, "test") == [f"val/images/val_{i}.JPEG" for i in (1, 3, 0, 2)]
    assert sorted(path for path in root.rglob("*")) == before  # nothing is written there
    (root / "val" / "images" / "val_2.JPEG").unlink()
    with pytest.raises(ValueError, match=r"val_annotations.txt has no file for 1 images, such as val_2.JPEG"):
        prepared(tmp_path, classes=2)
    write(root / "val" / "images" / "val_2.JPEG", 1, "JPEG")
    write(root / "val" / "images" / "more.JPEG", 1, "JPEG")
    with pytest.raises(ValueError, match=r"does not name 1 images, such as more.JPEG"):
        prepared(tmp_path, classes=2)


def test_published_lists_are_what_was_published() -> None:
    import hashlib

    hundred = classes.published("imagenet100")
    assert hashlib.md5("\n".join(hundred).encode()).hexdigest() == "b466a51f4134c8f593cf75cb7f62cdc5"  # class100.txt
    assert classes.published("imagenet10") == hundred[:10]
    for source, entry in registry.SOURCES.items():
        if name := entry.facts.get("list"):
            listed = classes.published(name)
            assert len(set(listed)) == len(listed) == entry.facts["classes"], source
            assert all(len(wnid) == 9 and wnid[0] == "n" for wnid in listed)


def test_a_published_source_takes_its_classes_from_all_of_imagenet_in_its_order(tmp_path: Path) -> None:
    listed = classes.published("imagefruit")
    folder(tmp_path / "imagenet", {"train": 1, "val": 1}, (*sorted(listed), "n01440764"))
    train, _ = prepared(tmp_path, source="imagefruit", classes=10, path="imagenet")
    assert train.class_names == listed != tuple(sorted(listed))
    assert root_of({"source": "imagefruit"}, {"data_dir": str(tmp_path)}) == (tmp_path / "imagenet").resolve()


def test_class_seed_takes_the_first_or_draws_as_numpy_permutes() -> None:
    there = tuple("abcdefgh")
    assert classes.chosen(spec(classes=3, class_seed=0), there, Path("x")) == ("a", "b", "c")
    drawn = tuple(there[i] for i in np.random.RandomState(5).permutation(8)[:3])
    assert classes.chosen(spec(classes=3, class_seed=5), there, Path("x")) == drawn
    hundred = classes.published("imagenet100")
    asked = spec(source="imagenet100", classes=10, class_seed=0)
    assert classes.chosen(asked, sorted(hundred), Path("x")) == hundred[:10]
    with pytest.raises(ValueError, match=r"classes: 9, there are 8 to choose from"):
        classes.chosen(spec(classes=9, class_seed=1), there, Path("x"))


def test_a_list_of_ones_own_sets_the_order_and_another_order_is_another_data_set(tmp_path: Path) -> None:
    folder(tmp_path / "images", {"train": 2, "val": 1})
    one = prepared(tmp_path)[0]
    other = prepared(tmp_path, class_list=["cat", "ant", "bee"])[0]
    assert other.class_names == ("cat", "ant", "bee")
    assert one.class_order_hash != other.class_order_hash
    assert torch.equal(one.images[one.of_class(0)], other.images[other.of_class(1)])


def test_missing_superfluous_and_empty_class_folders_are_named(tmp_path: Path) -> None:
    root = folder(tmp_path / "images", {"train": 2, "val": 1})
    with pytest.raises(ValueError, match=r"classes: 4, .* has 3 folders: ant, bee, cat. Set classes: 3, name those"):
        prepared(tmp_path, classes=4)
    with pytest.raises(ValueError, match=r"lacks 1 of the 2 classes asked for: cow. There are ant, bee, cat"):
        prepared(tmp_path, classes=2, class_list=["ant", "cow"])
    folder(tmp_path / "part", {"train": 1}, ("n01440764",))
    with pytest.raises(ValueError, match=r"lacks 9 of the 10 classes asked for"):
        prepared(tmp_path, source="imagenette", classes=10, path="part")
    (root / "val" / "bee").rename(root / "val" / "wasp")
    with pytest.raises(ValueError, match=r"val has no folder for 1 of the classes of train: bee"):
        prepared(tmp_path)
    folder(root, {"val": 1})
    with pytest.raises(ValueError, match=r"val has class folders that train lacks: wasp"):
        prepared(tmp_path)
    (root / "train" / "wasp").mkdir()
    with pytest.raises(ValueError, match=r"class wasp has no images: .*wasp holds no JPEG or PNG"):
        prepared(tmp_path, classes=4)


def test_no_folder_no_train_and_no_data_dir_are_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder with the images of folder: looked for .*images. Put it there"):
        prepared(tmp_path)
    with pytest.raises(ValueError, match=r"looked for .*imagenette2, .*imagenette. Put it"):
        root_of({"source": "imagenette"}, {"data_dir": str(tmp_path)})
    with pytest.raises(ValueError, match=r"machine.data_dir is not set"):
        root_of(spec(), {"data_dir": ""})
    folder(tmp_path / "images", {"val": 1})
    with pytest.raises(ValueError, match=r"has a folder to test on and no folder `train`"):
        prepared(tmp_path)


def test_truncated_files_stop_or_are_skipped_and_counted(tmp_path: Path) -> None:
    root = folder(tmp_path / "images", {"train": 3, "val": 1})
    bad = root / "train" / "bee" / "1.png"
    bad.write_bytes(encoded(picture(1), "JPEG")[:-100])
    (root / "train" / "bee" / "9.jpg").touch()
    with pytest.raises(ValueError, match=r"train/bee/1.png cannot be decoded: .* `skip_corrupt: true`"):
        prepared(tmp_path)
    train, _ = prepared(tmp_path, skip_corrupt=True)
    assert torch.bincount(train.labels).tolist() == [3, 2, 3]
    manifest = artifacts.read_manifest(tmp_path / "results" / "mine" / "train.json")
    assert manifest["result"]["skipped"] == ["train/bee/1.png", "train/bee/9.jpg"]
    assert len(files(tmp_path)) == len(train.images) == 8
    for path in (root / "train" / "cat").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"train: every image of class cat is unreadable"):
        prepared(tmp_path, skip_corrupt=True)


@pytest.mark.parametrize("name", ["a.gif", "b.WEBP", "c.tiff"])
def test_images_of_other_kinds_are_refused_not_passed_over(tmp_path: Path, name: str) -> None:
    root = folder(tmp_path / "images", {"train": 1, "val": 1})
    (root / "train" / "ant" / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=rf"{name} is a .* image: convert it to PNG or JPEG"):
        prepared(tmp_path, skip_corrupt=True)


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "images", {"train": 2, "val": 1})
    outside = write(tmp_path / "elsewhere" / "secret.png", 5)
    link = root / "train" / "ant" / "link.png"
    link.symlink_to(outside)
    with pytest.raises(ValueError, match=r"link.png is a link to .*secret.png, out of the data set's folder"):
        prepared(tmp_path)
    link.unlink()
    link.symlink_to(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"link.png is a link that leads nowhere"):
        prepared(tmp_path)
    link.unlink()
    (root / "train" / "dog").symlink_to(outside.parent)
    with pytest.raises(ValueError, match=r"dog is a link to .*elsewhere"):
        prepared(tmp_path, classes=4)
    (root / "train" / "dog").unlink()
    (root / "train" / "ant" / "round").symlink_to(root / "train" / "ant")
    with pytest.raises(ValueError, match=r"round leads to a folder that was read already"):
        prepared(tmp_path)
    (root / "train" / "ant" / "round").unlink()
    link.symlink_to(root / "train" / "ant" / "0.png")  # within the folder: allowed
    assert len(prepared(tmp_path)[0].labels) == 7
    root.rename(tmp_path / "moved")
    (tmp_path / "images").symlink_to(tmp_path / "moved")  # the folder itself may be one: it is what `path` says
    link.unlink()
    assert len(prepared(tmp_path)[0].labels) == 6


def test_a_class_with_one_image_and_one_of_one_pixel(tmp_path: Path) -> None:
    root = folder(tmp_path / "images", {"train": 4, "val": 1})
    write(root / "train" / "one" / "a.png", 1, width=1, height=1)
    write(root / "val" / "one" / "a.jpg", 2, "JPEG")
    train, _ = prepared(tmp_path, classes=4)
    assert train.images.shape == (13, 3, 8, 8)
    assert train.labels[-1] == 3
    with pytest.raises(ValueError, match=r"heldout: a share of 0.25 of the 1 images of class 3 is 0 images"):
        prepared(tmp_path, classes=4, heldout=0.25)


def test_normalisation_own_is_that_of_the_images_trained_on(tmp_path: Path) -> None:
    folder(tmp_path / "images", {"train": 8, "val": 1})
    train, test = prepared(tmp_path, normalisation="own", heldout=0.25, mean=None, std=None)
    seen = train.fit().tensors()["images"].double() / 255
    assert train.mean == pytest.approx(seen.mean(dim=(0, 2, 3)).tolist(), abs=1e-6)
    assert train.std == pytest.approx(seen.std(dim=(0, 2, 3), correction=0).tolist(), abs=1e-6)
    assert (test.mean, test.std) == (train.mean, train.std)


def test_test_images_may_be_cut_from_larger_ones(tmp_path: Path) -> None:
    root = folder(tmp_path / "images", {"train": 1, "val": 1})
    train, test = prepared(tmp_path, test_resize=10)
    native = pixels(root / "val" / "ant" / "0.png")
    assert torch.equal(test.images[slice(0, 1)][0], working(native, 8, 10))
    assert not torch.equal(working(native, 8, 10), working(native, 8))
    assert torch.equal(train.images[slice(0, 1)][0], working(pixels(root / "train" / "ant" / "0.png"), 8))


def test_the_cache_is_bounded_and_can_be_left_out(tmp_path: Path) -> None:
    folder(tmp_path / "images", {"train": 5, "val": 2})
    with pytest.raises(
        ValueError, match=r"take 4.0 kB, those of other data sets 0 B, together more than machine.cache_gb"
    ):
        prepared(tmp_path, machine={"cache_gb": 3e-6})
    kept, kept_test = prepared(tmp_path, heldout=0.2)
    folder_of = tmp_path / "results" / "mine"
    assert cache.place(folder_of, "train").is_file()
    with pytest.raises(ValueError, match=r"those of other data sets 4.5 kB"):
        cache.check_room(tmp_path / "results" / "other", 100, 1e-6)
    lazy, lazy_test = prepared(tmp_path, heldout=0.2, cache=False, machine={"cache_gb": 0, "threads": 2})
    assert not cache.place(folder_of, "train").exists()
    rows = torch.tensor([3, 0, 7])
    for one, other in ((kept, lazy), (kept.fit(), lazy.fit()), (kept_test, lazy_test)):
        assert one.images.shape == other.images.shape
        assert torch.equal(one.pixels(rows % len(one.labels)), other.pixels(rows % len(one.labels)))
        assert torch.equal(one.pixels(slice(1, 4)), other.pixels(slice(1, 4)))
    assert lazy.pixels(torch.zeros(0, dtype=torch.int64)).shape == (0, 3, 8, 8)
    with pytest.raises(ValueError, match=r"stay on the host: they are no tensor"):
        lazy.tensors()


def test_images_above_resident_mb_stay_on_the_host(tmp_path: Path) -> None:
    folder(tmp_path / "images", {"train": 5, "val": 2})
    here = prepared(tmp_path, heldout=0.2)[0]
    there = prepared(tmp_path, heldout=0.2, machine={"resident_mb": 0.001})[0]
    assert isinstance(here.images, torch.Tensor)
    assert not isinstance(there.images, torch.Tensor)
    assert torch.equal(here.fit().pixels(torch.arange(12)), there.fit().pixels(torch.arange(12)))
    assert torch.equal(there.to("cpu").heldout_part().pixels(slice(0, 3)), here.heldout_part().pixels(slice(0, 3)))


def test_changed_images_are_refused_when_read(tmp_path: Path) -> None:
    root = folder(tmp_path / "images", {"train": 2, "val": 1})
    prepared(tmp_path)
    path = cache.place(tmp_path / "results" / "mine", "train")
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    from ddlib.data.real import RealData

    manifest = tmp_path / "results" / "mine" / "train.json"
    with pytest.raises(artifacts.ArtifactError, match=r"train_images.safetensors is not the file its manifest"):
        RealData.load(manifest)
    lazy, _ = prepared(tmp_path, cache=False)
    write(root / "train" / "ant" / "0.png", 77)
    with pytest.raises(ValueError, match=r"ant/0.png was changed since the data set was prepared"):
        lazy.pixels(slice(0, 1))


def test_the_native_images_are_the_files(tmp_path: Path) -> None:
    root = folder(tmp_path / "images", {"train": 3, "val": 1})
    write(root / "train" / "bee" / "1.png", 5, "JPEG", width=50, height=11)
    train, _ = prepared(tmp_path, heldout=0.34)
    machine = {**MACHINE, "data_dir": str(tmp_path)}
    native = open_native(tmp_path / "results" / "mine" / "train.json", train, machine)
    assert (native.scale, native.names[4]) == (255.0, "train/bee/1.png")
    assert torch.equal(native.labels, train.labels)
    assert torch.equal(native.heldout, train.heldout)
    assert native.read(4).shape == (3, 11, 50)
    assert torch.equal(native.read(0), pixels(root / "train" / "ant" / "0.png"))
    write(root / "train" / "cat" / "2.png", 6)
    with pytest.raises(ValueError, match=r"cat/2.png was changed since the data set was prepared"):
        native.read(8)
    (root / "train" / "cat" / "2.png").unlink()
    with pytest.raises(ValueError, match=r"cat/2.png cannot be read: No such file"):
        native.read(8)
    with pytest.raises(ValueError, match=r"lists other images than the data set has"):
        open_native(tmp_path / "results" / "mine" / "train.json", train.fit(), machine)
    with pytest.raises(ValueError, match=r"no folder with the images of folder"):
        open_native(tmp_path / "results" / "mine" / "train.json", train, {"data_dir": str(tmp_path / "gone")})


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_data_set(tmp_path: Path) -> None:
    def held() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1000

    folder(tmp_path / "images", {"train": 10, "val": 1})
    prepared(tmp_path, size=224)
    before = held()
    folder(tmp_path / "images", {"train": 200, "val": 1})
    train, _ = prepared(tmp_path, size=224)
    assert train.images.shape == (600, 3, 224, 224)  # 90 MB on disk
    assert held() - before < 45


def test_names_that_are_no_utf8_and_fifos(tmp_path: Path) -> None:
    root = folder(tmp_path / "images", {"train": 1, "val": 1})
    odd = os.fsencode(root / "train" / "ant") + b"/\xff.png"
    with open(odd, "wb") as handle:
        handle.write(encoded(picture(9)))
    train, _ = prepared(tmp_path)
    native = open_native(tmp_path / "results" / "mine" / "train.json", train, {"data_dir": str(tmp_path)})
    place = next(i for i, name in enumerate(native.names) if "0.png" not in name)
    assert native.read(place).shape == (3, 16, 20)
    os.mkfifo(root / "train" / "ant" / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe.png is no plain file"):
        prepared(tmp_path)


def test_planning_knows_how_many_images_there_are(tmp_path: Path) -> None:
    folder(tmp_path / "images", {"train": 4, "val": 2})
    here = {"data_dir": str(tmp_path)}
    assert expected(spec(), here) == (12, 6)
    with pytest.raises(ValueError, match=r"no folder with the images"):
        expected(spec(path="gone"), here)
    told: dict[str, Any] = {"source": "imagenette", "classes": 10}
    assert expected(told, here) == (9469, 3925)
    assert expected({"source": "imagenet10", "classes": 10}, here) == (13000, 500)
    assert expected({"source": "imagenet1k", "classes": 1000}, here) == (1_281_167, 50_000)
    assert expected({"source": "imagenet1k", "classes": 100, "class_seed": 1}, here) == (128_117, 5_000)


def test_finding_needs_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    folder(tmp_path / "images", {"train": 1, "val": 1})
    code = (
        "import json, sys; from pathlib import Path; from ddlib.data.layout import find; "
        f"found = find(json.loads({json.dumps(json.dumps(spec()))}), Path({str(tmp_path / 'images')!r})); "
        "print(len(found.train), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "False"]
    assert len(find(spec(), (tmp_path / "images").resolve()).train) == 3

"""Collections through the command line, with everything real."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from support.collections import picture

LAYER = "features.relu4_1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of 30 pictures, one of them twice, and a file that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    for n in range(30):
        (folder / f"{n:02}.png").write_bytes(picture(n))
    (folder / "again.png").write_bytes(picture(0))
    (folder / "junk.png").write_bytes(b"junk")
    return folder


def test_a_collection_is_filled_searched_and_mapped(run, folder, tmp_path):
    assert run("collections", "create", "shapes").code == 0
    added = run("collections", "add", "shapes", folder)
    assert added.code == 1
    assert "added 30, there already 1" in added.out
    assert "refused junk.png" in added.err
    assert "added 0, there already 31" in run("collections", "add", "shapes", folder).out
    refused = run("collections", "nearest", "shapes", "00.png", "--layer", LAYER)
    assert refused.code == 2
    assert "extract_features" in refused.err
    assert run("collections", "index", "shapes", "--layer", LAYER).code == 0
    shown = json.loads(run("collections", "show", "shapes", "--json").out)
    assert {(f["layer"], f["pooling"], f["images"]) for f in shown["features"]} == {
        (LAYER, "MEAN", 30),
        (LAYER, "MAX", 30),
    }
    assert "shapes" in run("collections", "list").out
    assert "07.png" in run("collections", "show", "shapes", "--images").out


def test_pictures_of_a_collection(run, folder, tmp_path):
    sheet = tmp_path / "sheet.png"
    near = ("collections", "nearest", "shapes", "03.png", folder / "05.png", "--layer", LAYER)
    told = run(*near, "--out", sheet)
    assert told.code == 0
    assert pixels(sheet).shape[1] > pixels(sheet).shape[0]
    neighbours = json.loads(run(*near, "--approximate", "--json").out)
    assert list(neighbours) == ["03.png", str(folder / "05.png")]
    assert neighbours[str(folder / "05.png")][0] == ["05.png", pytest.approx(0, abs=1e-4)]
    top = ("collections", "top", "shapes", "1", "2", "--layer", LAYER, "--patterns")
    assert run(*top, "--out", sheet).code == 0
    assert pixels(sheet).shape[0] > 4 * 112
    values = json.loads(run(*top, "--json").out)["1"]
    peaks = [hit["value"] for _, hit in values]
    assert peaks == sorted(peaks, reverse=True)
    told = run("collections", "map", "shapes", "--layer", LAYER, "--out", sheet)
    assert "of the variance" in told.out
    assert pixels(sheet).std() > 1
    assert (
        run(
            "collections", "map", "shapes", "--layer", LAYER, "--projection", "tsne", "--perplexity", "5"
        ).code
        == 0
    )


def test_a_deleted_collection_is_gone(run):
    assert run("collections", "delete", "shapes").code == 0
    gone = run("collections", "show", "shapes")
    assert gone.code == 2
    assert "no collection 'shapes'" in gone.err


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)

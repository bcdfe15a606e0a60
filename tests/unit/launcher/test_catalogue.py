"""Catalogue files: rows become offers; what cannot be is named, and the good rows are still used."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.catalogues import catalogue_folder
from jobs.offer import Offer
from launcher.catalogue import read_catalogue
from launcher.price_check import compare_with_last, plausible
from tests.catalogues import files

NOW = datetime.now(UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return files.write_small(tmp_path / "catalogs")


def test_every_type_and_region_with_a_gpu_is_an_offer(folder: Path) -> None:
    found = read_catalogue("lambda", folder, NOW)
    assert found.notes == []
    assert len(found.offers) == len(files.ROWS_LAMBDA) * 2
    a100 = next(offer for offer in found.offers if offer.instance_type == "gpu_8x_a100")
    assert (a100.gpus, a100.gpu, a100.vram_gib, a100.price_per_hour, a100.ram_gib) == (8, "A100", 40.0, 15.92, 1800.0)
    assert a100 == Offer.model_validate(a100.model_dump())  # built without validation, and valid all the same
    assert {offer.arch for offer in found.offers if offer.gpu == "GH200"} == {"arm64"}


def test_of_zones_the_cheapest_stands_for_its_region_and_spot_is_an_offer_of_its_own(folder: Path) -> None:
    offers = [offer for offer in read_catalogue("aws", folder, NOW).offers if offer.instance_type == "g5.xlarge"]
    prices = sorted((str(offer.region), offer.spot, offer.price_per_hour) for offer in offers)
    assert prices == [
        ("eu-west-1", False, 1.006), ("eu-west-1", True, 0.45), ("us-east-1", False, 1.006), ("us-east-1", True, 0.45),
    ]  # fmt: skip


def test_a_missing_catalogue_says_the_command_and_an_old_one_its_age(folder: Path) -> None:
    (note,) = read_catalogue("lambda", folder / "elsewhere", NOW).notes
    assert "fetch_lambda_cloud" in note
    assert f"cd {folder / 'elsewhere'} && " in note  # it writes into the folder that it is run in
    assert "cd ~/.sky/catalogs/v8 && " in read_catalogue("lambda", None, NOW).notes[0]
    file = folder / "lambda" / "vms.csv"
    os.utime(file, (0, (NOW - timedelta(days=3)).timestamp()))
    old = read_catalogue("lambda", folder, NOW)
    assert "3 days old" in old.notes[0]
    assert old.offers
    os.utime(file, (0, (NOW - timedelta(hours=30)).timestamp()))
    assert "30 hours old" in read_catalogue("lambda", folder, NOW).notes[0]
    os.utime(file, (0, (NOW - timedelta(hours=23)).timestamp()))
    assert read_catalogue("lambda", folder, NOW).notes == []


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("Price", "nan", "its price is nan"),
        ("Price", "0", "its price is 0"),
        ("Price", "-1", "its price is -1"),
        ("Price", "", "its price is missing"),
        ("Price", "inf", "its price is inf"),
        ("AcceleratorCount", "0", "number of GPUs"),
        ("AcceleratorCount", "1.5", "number of GPUs"),
        ("AcceleratorName", "Z9000", "its GPU is not known"),
    ],
)
def test_a_bad_row_is_named_by_its_line_and_the_others_are_used(
    tmp_path: Path, column: str, value: str, says: str
) -> None:
    rows = files.lambda_rows()
    rows[2] |= {column: value, "GpuInfo": "" if column == "AcceleratorName" else rows[2]["GpuInfo"]}
    files.write(tmp_path / "lambda" / "vms.csv", files.LAMBDA, rows)
    found = read_catalogue("lambda", tmp_path, NOW)
    (note,) = found.notes
    assert says in note
    assert "line 4" in note
    assert len(found.offers) == len(rows) - 1


def test_rows_that_repeat_or_are_cut_off_are_named(tmp_path: Path) -> None:
    rows = files.lambda_rows()
    file = files.write(tmp_path / "lambda" / "vms.csv", files.LAMBDA, [*rows, rows[0]])
    with file.open("a") as stream:
        stream.write("gpu_1x_a10,A10\n")
    found = read_catalogue("lambda", tmp_path, NOW)
    assert len(found.offers) == len(rows)
    assert ["repeats" in note or "columns" in note for note in found.notes] == [True, True]


def test_a_catalogue_without_rows_is_said_the_first_time_too(tmp_path: Path) -> None:
    files.write(tmp_path / "lambda" / "vms.csv", files.LAMBDA, [])
    found = read_catalogue("lambda", tmp_path, NOW)
    assert found.offers == []
    assert "has no machine with a GPU that can be used; get it again: mkdir -p" in found.notes[0]


def test_a_file_without_a_column_is_not_used(tmp_path: Path) -> None:
    header = tuple(name for name in files.LAMBDA if name != "Price")
    rows = [{key: value for key, value in row.items() if key != "Price"} for row in files.lambda_rows()]
    files.write(tmp_path / "lambda" / "vms.csv", header, rows)
    found = read_catalogue("lambda", tmp_path, NOW)
    assert found.offers == []
    assert "no column Price" in found.notes[0]


def test_the_newest_version_is_read_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert catalogue_folder({}) is None
    for version in ("v7", "v10", "v9"):
        files.write_small(tmp_path / ".sky" / "catalogs" / version)
    assert catalogue_folder({}) == tmp_path / ".sky" / "catalogs" / "v10"
    assert catalogue_folder({"LAUNCH_CATALOGS": "/x"}) == Path("/x")


def h100(cloud: str, kind: str, usd: float, **more: object) -> Offer:
    return Offer.model_validate(
        {"cloud": cloud, "instance_type": kind, "region": "x", "gpus": 1, "gpu": "H100", "vram_gib": 80,
         "price_per_hour": usd, **more}
    )  # fmt: skip


def test_an_h100_for_a_cent_is_not_a_bargain() -> None:
    good = [h100("lambda", "a", 3.29), h100("aws", "b", 6.88), h100("aws", "c", 5.0), h100("aws", "s", 1.8, spot=True)]
    kept, notes = plausible([*good, h100("lambda", "d", 0.01)], NOW)
    assert kept == good
    assert "lambda d is not used" in notes[0]


def test_the_only_h100_for_a_cent_is_no_bargain_beside_other_gpus() -> None:
    others = [
        Offer(cloud="lambda", instance_type=f"gpu_{name}", gpus=1, gpu=name, vram_gib=24, price_per_hour=usd)
        for name, usd in (("A10", 1.29), ("A100", 1.99), ("T4", 0.5))
    ]
    kept, notes = plausible([*others, h100("lambda", "d", 0.01)], NOW)
    assert kept == others
    assert notes == [
        "lambda d is not used: $0.01 an hour for a H100 cannot be; by its speed other GPUs would cost $6.96"
    ]
    cheap = h100("lambda", "d", 0.99)
    assert plausible([*others, cheap], NOW) == ([*others, cheap], [])


def test_a_price_from_the_future_is_not_used() -> None:
    kept, notes = plausible([h100("aws", "a", 3.0, price_as_of=NOW + timedelta(hours=1))], NOW)
    assert kept == []
    assert len(notes) == 1
    assert "aws a is not used: its price is from the future" in notes[0]


def test_a_whole_catalogue_from_the_future_is_one_note_and_the_other_cloud_is_used() -> None:
    later, now = NOW + timedelta(days=30), h100("lambda", "good", 3.0, price_as_of=NOW)
    early = [h100("aws", f"m{number}", 3.0, price_as_of=later) for number in range(9)]
    kept, (note,) = plausible([*early, now], NOW)
    assert kept == [now]
    assert note.startswith("aws m0, aws m1, aws m2 and 6 more are not used: their prices are from the future")


def test_an_update_that_lost_a_clouds_machines_is_said_until_the_memory_is_deleted(tmp_path: Path) -> None:
    seen = tmp_path / "seen.json"
    before = [h100("lambda", name, 3.0) for name in "abcd"]
    for _ in range(2):
        assert compare_with_last(["lambda"], before, seen) == (before, [])
    other = h100("aws", "x", 5.0)
    for _ in range(2):
        kept, (note,) = compare_with_last(["aws", "lambda"], [other], seen)
        assert kept == [other]
        assert "lambda has lost 4 of 4" in note
        assert str(seen) in note
    assert compare_with_last(["aws"], [other], seen) == ([other], [])  # nobody looked at the other
    kept, (note,) = compare_with_last(["lambda"], before[:1], seen)
    assert kept == before[:1]
    assert "lost 3 of 4" in note
    seen.unlink()
    assert compare_with_last(["lambda"], before[:1], seen) == (before[:1], [])


def test_a_machine_at_a_fraction_of_its_last_price_is_not_used_and_does_not_become_the_last_price(
    tmp_path: Path,
) -> None:
    seen = tmp_path / "seen.json"
    before = [h100("lambda", "a", 3.29), h100("lambda", "b", 3.0)]
    compare_with_last(["lambda"], before, seen)
    for _ in range(2):
        kept, (note,) = compare_with_last(["lambda"], [h100("lambda", "a", 0.01), before[1]], seen)
        assert kept == [before[1]]
        assert "lambda a is not used: $0.01 an hour, and it was $3.29" in note
    assert compare_with_last(["lambda"], before, seen) == (before, [])


def test_a_price_that_rose_is_said_once_and_used(tmp_path: Path) -> None:
    seen = tmp_path / "seen.json"
    compare_with_last(["lambda"], [h100("lambda", "a", 3.0)], seen)
    dear = [h100("lambda", "a", 30.0)]
    kept, (note,) = compare_with_last(["lambda"], dear, seen)
    assert kept == dear
    assert "$30.00 an hour, and it was $3.00" in note
    assert compare_with_last(["lambda"], dear, seen) == (dear, [])


@pytest.mark.parametrize("text", ["{", "[]", '{"lambda": {"a": "x"}}', '{"lambda": [1]}', '{"lambda": {"a": NaN}}'])
def test_a_memory_that_is_damaged_is_begun_anew(tmp_path: Path, text: str) -> None:
    seen = tmp_path / "seen.json"
    seen.write_text(text)
    offers = [h100("lambda", "a", 3.0)]
    assert compare_with_last(["lambda"], offers, seen) == (offers, [])
    assert compare_with_last(["lambda"], [], seen)[1] != []

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmbench.errors import UserError
from fmbench.identity import key_of
from fmbench.store import ResultFolder, Store, WriteError, write_atomically

IDENTITY = {"stage": "train", "version": 1, "what": "a test"}
KEY = key_of(IDENTITY)
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([math.nan, math.inf])}


@pytest.fixture
def store(cache: Path) -> Store:
    return Store()


@pytest.fixture
def kept(store: Store) -> Store:
    """A store that holds one artefact."""
    store.write(KEY, IDENTITY, {"loss": 0.25}, TENSORS)
    return store


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---- writing whole or not at all ----


@pytest.mark.parametrize("call", ["replace", "fsync", "chmod", "fdopen"])
@pytest.mark.parametrize("before", [b"old", None])
def test_a_write_that_breaks_off_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, before: bytes | None
) -> None:
    path = tmp_path / "folder" / "file"
    if before is not None:
        write_atomically(path, before)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(WriteError, match=r"cannot write .*file: No space left on device.*--out, FMBENCH_CACHE"):
            write_atomically(path, b"new", durable=True)
    assert files(tmp_path) == ([] if before is None else ["folder/file"])
    assert before is None or path.read_bytes() == before
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_an_interrupt_while_writing_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    write_atomically(tmp_path / "file", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_atomically(tmp_path / "file", b"new")
    assert files(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_reader_sees_old_or_new_and_nothing_between(tmp_path: Path) -> None:
    path, stop = tmp_path / "file", threading.Event()
    contents = {bytes([i]) * 200_000 for i in range(8)}
    write_atomically(path, min(contents))

    def write() -> None:
        while not stop.is_set():
            for content in contents:
                write_atomically(path, content)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert all(path.read_bytes() in contents for _ in range(300))
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize("place", ["file/below", "/proc/below"])
def test_places_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="cannot write"):
        write_atomically(tmp_path / place, b"x")
    assert files(tmp_path) == ["file"]


# ---- artefacts ----


def test_what_is_written_is_read(kept: Store) -> None:
    artefact = kept.read(KEY)
    assert artefact.info == {"loss": 0.25}
    assert kept.has(KEY)
    assert kept.info(KEY) == {"loss": 0.25}
    for name, tensor in TENSORS.items():
        torch.testing.assert_close(artefact.tensors[name], tensor, rtol=0, atol=0, equal_nan=True)


FLOATS = st.floats() | st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 5e-324])
INFO = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=5), INFO, max_size=3))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_facts_come_back_as_they_were(store: Store, info: dict[str, Any]) -> None:
    store.write(KEY, IDENTITY, info)
    assert repr(store.info(KEY)) == repr(info)


def test_the_record_is_strict_json(store: Store) -> None:
    store.write(KEY, IDENTITY, {"value": math.nan, "stderr": math.inf})
    (record,) = store.root.rglob("*.json")

    def no_constants(name: str) -> None:
        raise AssertionError(name)

    json.loads(record.read_text(), parse_constant=no_constants)


def damaged_at(content: bytes) -> list[bytes]:
    """The content cut short anywhere, or with one byte changed."""
    cuts = [content[:n] for n in range(0, len(content), max(1, len(content) // 23))]
    flips = [content[:n] + bytes([content[n] ^ 1]) + content[n + 1 :] for n in range(0, len(content), 7)]
    return cuts + flips


def test_a_damaged_record_counts_as_missing(kept: Store) -> None:
    (path,) = kept.root.rglob("*.json")
    whole = path.read_bytes()
    altered = [
        *damaged_at(whole), b"[]", b"{}", b"null", b'"text"', b"\xff\xfe",
        whole.replace(b"0.25", b"0.26"), whole.replace(b"a test", b"b test"), whole.replace(b'"version": 1', b'"version": 2'),
    ]  # fmt: skip
    for content in altered:
        path.write_bytes(content)
        info = kept.info(KEY)
        assert info in (None, {"loss": 0.25})
        # Bytes that do not change what the record says (white space) do no harm.
        assert info is None or json.loads(content) == json.loads(whole)
    path.write_bytes(whole)
    assert kept.has(KEY)


def test_a_record_under_another_key_counts_as_missing(kept: Store) -> None:
    (path,) = kept.root.rglob("*.json")
    other = key_of(IDENTITY | {"what": "another"})
    moved = path.parent.parent / other.rpartition("-")[2][:2] / f"{other}.json"
    moved.parent.mkdir(exist_ok=True)
    moved.write_bytes(path.read_bytes())
    assert kept.info(other) is None


def test_damaged_tensors_are_named(kept: Store) -> None:
    (path,) = kept.root.rglob("*.safetensors")
    whole = path.read_bytes()
    for content in [whole[:-1], whole + b"x", b"", whole[:60] + bytes([whole[60] ^ 1]) + whole[61:]]:
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            kept.read(KEY)
        assert str(path) in str(caught.value)
        assert "Remove it" in str(caught.value)
    path.unlink()
    with pytest.raises(UserError, match="Remove it"):
        kept.read(KEY)


def test_tensors_without_a_record_are_not_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is written last: a process killed between the two files leaves nothing that looks finished."""
    replace, names = os.replace, []

    def first_only(source: str, target: Path) -> None:
        names.append(Path(target).suffix)
        if len(names) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", first_only)
        with pytest.raises(KeyboardInterrupt):
            store.write(KEY, IDENTITY, {}, TENSORS)
    assert names == [".safetensors", ".json"]
    assert not store.has(KEY)
    store.write(KEY, IDENTITY, {}, TENSORS)
    assert store.has(KEY)


def test_checkpoints(store: Store) -> None:
    assert store.checkpoint(KEY) is None
    store.write_checkpoint(KEY, TENSORS)
    found = store.checkpoint(KEY)
    assert found is not None
    torch.testing.assert_close(found["a"], TENSORS["a"])
    (path,) = store.root.rglob("*.checkpoint")
    path.write_bytes(path.read_bytes()[:-3])
    assert store.checkpoint(KEY) is None
    store.drop_checkpoint(KEY)
    store.drop_checkpoint(KEY)
    assert files(store.root) == []


def test_an_empty_cache_is_not_made_by_looking(store: Store, cache: Path) -> None:
    assert store.info(KEY) is None
    assert store.checkpoint(KEY) is None
    assert not cache.exists()


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert Store().root.parent == cache
    monkeypatch.delenv("FMBENCH_CACHE")
    assert "fmbench" in str(Store().root)


def test_a_cache_below_a_file_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FMBENCH_CACHE", str(tmp_path / "file"))
    store = Store()
    assert store.info(KEY) is None
    with pytest.raises(WriteError, match="FMBENCH_CACHE"):
        store.write(KEY, IDENTITY, {})
    with pytest.raises(WriteError, match="FMBENCH_CACHE"), store.locks([KEY]):
        pass


def test_a_full_disk_is_known_before_there_is_work(
    store: Store,
) -> None:
    store.ready()
    assert not store.root.exists()
    limits, heard = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # no file may grow
    try:
        with pytest.raises(WriteError, match=rf"cannot write {store.root}: .*\(FMBENCH_CACHE\)"):
            store.ready()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, heard)
    assert list(store.root.parent.parent.iterdir()) == []


def test_a_record_that_cannot_be_read_is_said(kept: Store) -> None:
    (path,) = kept.root.rglob("*.json")
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=f"cannot read {path}"):
        kept.info(KEY)


# ---- locks ----


def child(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_the_maker_s_lock_makes_others_wait_and_dies_with_it(store: Store) -> None:
    holder = child(f"""
        import time
        from fmbench.store import Store
        with Store().locks(["{KEY}"]):
            print("held", flush=True)
            time.sleep(60)
    """)
    with holder:
        assert line(holder) == "held"
        entered: list[float] = []

        def enter() -> None:
            with store.locks([KEY]):
                entered.append(time.monotonic())

        waiting = threading.Thread(target=enter)
        waiting.start()
        time.sleep(0.3)
        assert not entered
        holder.kill()
        waiting.join(5)
        assert entered


def test_locks_of_several_keys_do_not_wait_for_each_other(store: Store) -> None:
    keys = [f"train-{i:016x}" for i in range(6)]

    def hold(order: Callable[[list[str]], list[str]]) -> None:
        for _ in range(20):
            with Store().locks(order(keys)):
                pass

    threads = [threading.Thread(target=hold, args=(order,), daemon=True) for order in (list, lambda k: k[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def test_a_folder_is_one_process_s_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    holder = child(f"""
        import time
        from fmbench.store import ResultFolder
        with ResultFolder({str(folder)!r}).locked():
            print("held", flush=True)
            time.sleep(60)
    """)
    with holder:
        assert line(holder) == "held"
        with pytest.raises(UserError, match=r"another fmbench process is writing to .*out.*--out"):
            ResultFolder(folder).locked().__enter__()
        holder.kill()
        holder.wait()
    with ResultFolder(folder).locked():
        pass
    assert files(folder) == []


def test_the_folder_is_free_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with contextlib.suppress(ZeroDivisionError), ResultFolder(tmp_path).locked():
            raise ZeroDivisionError


# ---- the folder of a result ----


def test_the_table_is_the_same_twice(tmp_path: Path) -> None:
    from fmbench.table import frame, read_table

    rows = [{"metric": "w2", "value": 0.1 + 0.2, "stderr": math.inf, "seed": 2**62, "reason": 'a "b", c\nd'},
            {"metric": "nll", "value": math.nan, "status": "failed", "higher_is_better": False}]  # fmt: skip
    table = frame([{"method": "RF", "status": "ok", **row} for row in rows])
    ResultFolder(tmp_path).write_table(table)
    for name in ("results.parquet", "results.csv"):
        pd.testing.assert_frame_equal(read_table(tmp_path / name), table, check_exact=True)


def test_json_of_a_folder(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path)
    assert folder.read_json("manifest.json") is None
    folder.write_json("manifest.json", {"größe": [1, 2.5, None]})
    assert folder.read_json("manifest.json") == {"größe": [1, 2.5, None]}
    (tmp_path / "manifest.json").write_text("{")
    assert folder.read_json("manifest.json") is None


def test_what_a_kill_left_is_swept_away_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    store.write(KEY, IDENTITY, {}, {"x": torch.zeros(1)})
    (shelf,) = {path.parent for path in (tmp_path / "cache").rglob("*.json")}
    old, young = shelf / f".{KEY}.json.abcdefgh", shelf / f".{KEY}.json.ijklmnop"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    store.write(KEY, IDENTITY, {}, {"x": torch.zeros(1)})
    assert not old.exists()
    assert young.exists(), "another process may still be writing it"
    assert store.has(KEY)
    left, kept = tmp_path / ".results.csv.abcdefgh", tmp_path / "notes.txt"
    left.write_bytes(b"half")
    kept.write_bytes(b"mine")
    with ResultFolder(tmp_path).locked():
        assert not left.exists()
    assert kept.exists()

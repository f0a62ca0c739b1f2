"""MNIST and its download, from a real HTTP server on this computer."""

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from neuronexus_kernel.datasets import mnist
from neuronexus_kernel.datasets.download import RemoteFile, load
from neuronexus_kernel.errors import DatasetError
from neuronexus_kernel.settings import data_directory

NAMES = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")


@pytest.fixture(scope="module")
def originals():
    folder = data_directory() / "mnist"
    if not (folder / "train-images-idx3-ubyte.gz").exists():
        pytest.skip(f"no MNIST in {folder}; set NEURONEXUS_DATA to the folder that holds mnist/")
    return folder


class Mirror:
    """A server on the loopback interface, whose faults a test sets.

    Attributes
    ----------
    files
        What it serves, by name.
    cut_after
        Bytes after which it cuts a connection, while `cuts` is above 0.
    ranges
        Whether it understands ``Range``.
    status
        What it answers instead, if not None.
    requests
        Name and ``Range`` of every request.
    """

    def __init__(self, files):
        self.files = dict(files)
        self.cut_after, self.cuts = 0, 0
        self.ranges, self.status, self.told_encoding = True, None, False
        self.lengths = True
        self.requests = []
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                mirror.answer(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/mnist/"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, handler):
        name, asked = handler.path.rsplit("/", 1)[1], handler.headers.get("Range")
        self.requests.append((name, asked))
        if self.status is not None or name not in self.files:
            handler.send_error(self.status or 404)
            return
        body = self.files[name]
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if asked and self.ranges:
            if start >= len(body):
                handler.send_error(416)
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            body = body[start:]
        else:
            handler.send_response(200)
        if self.lengths:
            handler.send_header("Content-Length", str(len(body)))
        if self.told_encoding:
            handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()
        if self.cuts > 0:
            self.cuts -= 1
            handler.wfile.write(body[: self.cut_after])
            handler.wfile.flush()
            handler.connection.close()
            return
        handler.wfile.write(body)

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def mirrors():
    made = []

    def make(files):
        made.append(Mirror(files))
        return made[-1]

    yield make
    for mirror in made:
        mirror.close()


CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()


@pytest.fixture
def file():
    import hashlib

    return RemoteFile("numbers.gz", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


@pytest.fixture
def good():
    return {"numbers.gz": gzip.compress(CONTENT, mtime=0)}


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# MNIST


def test_mnist_has_60000_rows_to_train_on_and_10000_to_test(originals):
    train, test = mnist(), mnist("test")
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.input_shape == test.input_shape == (1, 28, 28)
    assert (train.classes, train.inputs.min(), train.inputs.max()) == (10, 0, 1)
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert round(float(train.inputs.mean()), 4) == 0.1307
    assert round(float(train.inputs.std()), 4) == 0.3081


def test_an_unknown_split_is_refused():
    with pytest.raises(DatasetError, match="'train' and 'test'"):
        mnist("validation")


def test_mnist_is_downloaded_once_when_it_is_missing(originals, mirrors, tmp_path):
    mirror = mirrors({name: (originals / name).read_bytes() for name in NAMES})
    folder = tmp_path / "data" / "mnist"
    first = mnist("test", folder=folder, mirrors=[mirror.url], progress=False)
    assert names_in(folder) == sorted(NAMES)
    again = mnist("test", folder=folder, mirrors=[mirror.url], progress=False)
    assert len(mirror.requests) == 2
    assert first.cid == again.cid == mnist("test").cid


def test_mnist_goes_on_after_a_cut_connection(originals, mirrors, tmp_path):
    mirror = mirrors({name: (originals / name).read_bytes() for name in NAMES})
    mirror.cut_after, mirror.cuts = 1_000_000, 1
    data = mnist("test", folder=tmp_path, mirrors=[mirror.url], progress=False)
    assert len(data) == 10_000
    assert [asked for _, asked in mirror.requests] == [None, "bytes=1000000-", None]
    assert names_in(tmp_path) == sorted(NAMES)


def test_damaged_mnist_on_disk_is_refused_and_kept(originals, tmp_path):
    for name in NAMES:
        (tmp_path / name).write_bytes((originals / name).read_bytes())
    damaged = bytearray((tmp_path / NAMES[0]).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / NAMES[0]).write_bytes(damaged)
    with pytest.raises(DatasetError, match="Delete it") as raised:
        mnist("test", folder=tmp_path, mirrors=[])
    assert str(tmp_path / NAMES[0]) in str(raised.value)
    assert (tmp_path / NAMES[0]).read_bytes() == damaged


# Downloads


def test_a_download_cut_twice_goes_on_each_time(mirrors, tmp_path, file, good):
    mirror = mirrors(good)
    mirror.cut_after, mirror.cuts = 70_000, 2
    assert load(file, tmp_path, mirrors=[mirror.url], progress=False) == CONTENT
    assert [asked for _, asked in mirror.requests] == [None, "bytes=70000-", "bytes=140000-"]


def test_a_later_call_goes_on_where_an_earlier_one_stopped(mirrors, tmp_path, file, good):
    mirror = mirrors(good)
    mirror.cut_after, mirror.cuts = 50_000, 3
    with pytest.raises(DatasetError, match="cut after 150000 bytes"):
        load(file, tmp_path, mirrors=[mirror.url], progress=False)
    assert [name.endswith(".part") for name in names_in(tmp_path)] == [True]
    assert load(file, tmp_path, mirrors=[mirror.url], progress=False) == CONTENT
    assert mirror.requests[-1] == ("numbers.gz", "bytes=150000-")
    assert names_in(tmp_path) == ["numbers.gz"]


def test_a_server_without_ranges_sends_the_whole_again(mirrors, tmp_path, file, good):
    mirror = mirrors(good)
    mirror.cut_after, mirror.cuts, mirror.ranges = 70_000, 1, False
    assert load(file, tmp_path, mirrors=[mirror.url], progress=False) == CONTENT
    assert (tmp_path / "numbers.gz").read_bytes() == good["numbers.gz"]


def test_a_server_that_tells_no_length_is_understood(mirrors, tmp_path, file, good):
    mirror = mirrors(good)
    mirror.lengths = False
    assert load(file, tmp_path, mirrors=[mirror.url], progress=False) == CONTENT


def test_a_server_that_calls_the_file_an_encoding_is_understood(mirrors, tmp_path, file, good):
    mirror = mirrors(good)
    mirror.told_encoding = True
    assert load(file, tmp_path, mirrors=[mirror.url], progress=False) == CONTENT
    assert (tmp_path / "numbers.gz").read_bytes() == good["numbers.gz"]


def test_a_whole_part_of_a_killed_download_is_used(mirrors, tmp_path, file, good):
    mirror = mirrors(good)
    mirror.cut_after, mirror.cuts = 50_000, 3
    with pytest.raises(DatasetError):
        load(file, tmp_path, mirrors=[mirror.url], progress=False)
    (part,) = tmp_path.iterdir()
    part.write_bytes(good["numbers.gz"])
    assert load(file, tmp_path, mirrors=[mirror.url], progress=False) == CONTENT
    assert names_in(tmp_path) == ["numbers.gz"]


def test_a_part_that_is_wrong_is_fetched_again_from_the_start(mirrors, tmp_path, file, good):
    mirror = mirrors(good)
    mirror.cut_after, mirror.cuts = 50_000, 3
    with pytest.raises(DatasetError):
        load(file, tmp_path, mirrors=[mirror.url], progress=False)
    (part,) = tmp_path.iterdir()
    part.write_bytes(b"x" * 60_000)
    assert load(file, tmp_path, mirrors=[mirror.url], progress=False) == CONTENT
    assert [asked for _, asked in mirror.requests[-2:]] == ["bytes=60000-", None]


@pytest.mark.parametrize(
    "wrong",
    [b"not gzip", gzip.compress(b"other", mtime=0), gzip.compress(CONTENT + b"x", mtime=0), b""],
)
def test_a_mirror_with_another_file_is_passed_over(mirrors, tmp_path, file, good, wrong):
    bad, fine = mirrors({"numbers.gz": wrong}), mirrors(good)
    assert load(file, tmp_path, mirrors=[bad.url, fine.url], progress=False) == CONTENT
    assert len(bad.requests) == 1
    assert names_in(tmp_path) == ["numbers.gz"]


def test_the_part_of_one_mirror_is_not_continued_from_another(mirrors, tmp_path, file, good):
    # Mirrors compress the same content differently: the pieces would not fit together.
    first, second = mirrors(good), mirrors({"numbers.gz": gzip.compress(CONTENT, 1, mtime=0)})
    first.cut_after, first.cuts = 10_000, 99
    assert load(file, tmp_path, mirrors=[first.url, second.url], progress=False) == CONTENT
    assert second.requests == [("numbers.gz", None)]
    assert names_in(tmp_path) == ["numbers.gz"]


def test_a_mirror_that_never_stops_is_stopped(mirrors, tmp_path, file):
    endless = mirrors({"numbers.gz": bytes(4_000_000)})
    with pytest.raises(DatasetError, match="more bytes than the file has"):
        load(file, tmp_path, mirrors=[endless.url], progress=False)
    assert names_in(tmp_path) == []


def test_a_file_that_unzips_to_far_too_much_is_refused(mirrors, tmp_path, file):
    bomb = mirrors({"numbers.gz": gzip.compress(bytes(200_000_000))})
    with pytest.raises(DatasetError, match="wrong SHA-256"):
        load(file, tmp_path, mirrors=[bomb.url], progress=False)


def test_when_all_mirrors_fail_the_error_says_why_and_what_to_do(mirrors, tmp_path, file, good):
    missing, broken, wrong = mirrors({}), mirrors(good), mirrors({"numbers.gz": b"wrong"})
    broken.status = 503
    closed = "http://127.0.0.1:9/"
    with pytest.raises(DatasetError) as raised:
        load(
            file,
            tmp_path,
            mirrors=[missing.url, broken.url, wrong.url, closed],
            progress=False,
        )
    message = str(raised.value)
    for part in ("404", "503", "wrong SHA-256", "127.0.0.1:9", f"put the file into {tmp_path}"):
        assert part in message
    assert len(missing.requests) == 1
    assert len(broken.requests) == 3
    assert names_in(tmp_path) == []


def test_without_mirrors_the_error_says_so(tmp_path, file):
    with pytest.raises(DatasetError, match="no mirror was given"):
        load(file, tmp_path, mirrors=[])


def test_a_folder_that_cannot_be_written_to_is_explained(mirrors, tmp_path, file, good):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DatasetError, match="NEURONEXUS_DATA"):
        load(file, tmp_path / "taken" / "mnist", mirrors=[mirrors(good).url])


def test_two_threads_download_a_file_once(mirrors, tmp_path, file, good):
    mirror = mirrors(good)
    results = []

    def work():
        results.append(load(file, tmp_path, mirrors=[mirror.url], progress=False))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [CONTENT] * 4
    assert len(mirror.requests) == 1


def test_progress_is_shown_on_request(mirrors, tmp_path, file, good, capsys):
    load(file, tmp_path, mirrors=[mirrors(good).url])
    assert "numbers.gz: 100%" in capsys.readouterr().err

"""MovieLens 100K: the conversion, and every way a download goes wrong, against a server on this machine."""

import hashlib
import io
import socket
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest

from reland_features.demo.download import download_movielens_100k
from reland_features.errors import RelandError, TableError

LINK = "http://us.imdb.com/x"
FLAGS = {"Toy": "0001110000000000000", "unknown": "1000000000000000000", "Amour": "0000000010000000000"}


def item(number: int, title: str, flags: str) -> str:
    return "|".join([str(number), title, "01-Jan-1995", "", LINK, *flags])


FILES = {
    "ml-100k/u.data": "2\t10\t3\t200\n10\t1\t5\t50\n2\t1\t4\t100\n",
    "ml-100k/u.item": "\n".join(
        [
            item(1, 'Toy "Story" (1995)', FLAGS["Toy"]),
            item(2, "unknown", FLAGS["unknown"]),
            item(10, "Misérables, Les (1995)", FLAGS["Amour"]),
        ]
    )
    + "\n",
    "ml-100k/u.user": "2|53|F|other|94043\n10|24|M|technician|T8H1N\n",
}


def archive(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, text in files.items():
            file.writestr(name, text.encode("latin-1"))
    return buffer.getvalue()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = archive(FILES)
        if self.path == "/gone.zip":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:50] if self.path == "/cut.zip" else content)

    def log_message(self, *_: object) -> None:
        """Keep the test output quiet."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_the_three_tables_are_converted(server: str, tmp_path: Path):
    md5 = hashlib.md5(archive(FILES)).hexdigest()
    paths = download_movielens_100k(tmp_path / "data", url=f"{server}/ml-100k.zip", md5=md5)
    assert pl.read_parquet(paths["interactions"]).rows() == [
        ("2", "1", 100, 4),
        ("2", "10", 200, 3),
        ("10", "1", 50, 5),
    ]
    assert pl.read_parquet(paths["items"]).rows() == [
        ("1", 'Toy "Story" (1995)', None, ["Animation", "Children's", "Comedy"], 1995),
        ("2", "unknown", None, [], None),
        ("10", "Misérables, Les (1995)", None, ["Drama"], 1995),
    ]
    assert pl.read_parquet(paths["users"]).rows() == [("2", 53, "F", "other"), ("10", 24, "M", "technician")]


def test_a_local_archive_needs_no_network(tmp_path: Path):
    path = tmp_path / "ml-100k.zip"
    path.write_bytes(archive(FILES))
    paths = download_movielens_100k(tmp_path, path, url="http://127.0.0.1:1/never")
    assert pl.read_parquet(paths["users"]).height == 2


@pytest.mark.parametrize(("name", "got"), [("gone.zip", "404"), ("cut.zip", "50 bytes")])
def test_a_bad_answer_is_reported_with_what_to_do(server: str, tmp_path: Path, name: str, got: str):
    with pytest.raises(RelandError) as caught:
        download_movielens_100k(tmp_path, url=f"{server}/{name}")
    assert got in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_another_file_than_expected_is_refused(server: str, tmp_path: Path):
    with pytest.raises(RelandError, match="not the MovieLens 100K archive") as caught:
        download_movielens_100k(tmp_path, url=f"{server}/ml-100k.zip")
    assert "0e33842e24a9c977be4e0107933c0723" in caught.value.expected


def test_no_network_says_so_and_what_to_type_next(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/ml-100k.zip"
        with pytest.raises(RelandError) as caught:
            download_movielens_100k(tmp_path, url=address)
    message = str(caught.value)
    assert "could not be downloaded" in message
    assert address in message
    assert "refused" in message
    assert "reland demo (without --dataset)" in message
    assert "--archive" in message


def test_a_silent_server_is_given_up_on(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/ml-100k.zip"
        with pytest.raises(RelandError, match="could not be downloaded") as caught:
            download_movielens_100k(tmp_path, url=address, timeout=0.2)
    assert "timed out" in caught.value.got


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>not a zip</html>", "cannot be read"),
        (archive({"ml-100k/u.data": ""}), "u.item"),
        (archive({**FILES, "ml-100k/u.user": "2|53\n"}), "another layout"),
        (archive({**FILES, "ml-100k/u.data": "1\t2\tfive\t3\n"}), "another layout"),
        (archive({**FILES, "ml-100k/u.data": ""}), "another layout"),
    ],
)
def test_a_wrong_archive_is_refused(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    with pytest.raises(TableError, match=message):
        download_movielens_100k(tmp_path / "out", path)
    assert not (tmp_path / "out").exists()


def test_a_missing_local_archive_is_named(tmp_path: Path):
    with pytest.raises(RelandError, match=r"missing\.zip"):
        download_movielens_100k(tmp_path, tmp_path / "missing.zip")

"""The barest parallel multipart upload to an S3 server: what a save to a bucket is held against.

A few threads with a connection each send parts straight out of memory, unsigned and without checksums; nothing is read,
copied or retried. The standard library alone, because each client's own copies and digests would make the limit slower.
Endpoint, region and keys come from the environment, as for Forebay; the bucket is a part of the path.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import http.client
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, urlsplit
from xml.sax.saxutils import unescape

PART_BYTES = 16 << 20
THREADS = 8
SAFE = "-_.~"
UNSIGNED = "UNSIGNED-PAYLOAD"


class Bucket:
    """An `s3://bucket/prefix`, reached with the keys of the environment."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc:
            raise SystemExit(f"--lake {url}: s3://bucket or s3://bucket/prefix is due")
        self.name, self.prefix = parts.netloc, parts.path.strip("/")
        self.region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        given = os.environ.get("AWS_ENDPOINT_URL") or f"https://s3.{self.region}.amazonaws.com"
        self.endpoint = urlsplit(given)
        self.key_id, self.secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
        self.token = os.environ.get("AWS_SESSION_TOKEN")
        self.connections = threading.local()

    def upload(self, key: str, memory: memoryview) -> None:
        """One object, its parts in parallel."""
        path = f"{self.prefix}/{key}".strip("/")
        said = self.request("POST", path, {"uploads": ""})[0]
        upload = unescape(re.search(r"<UploadId>(.*?)</UploadId>", said)[1])

        def send(number: int) -> str:
            part = memory[(number - 1) * PART_BYTES : number * PART_BYTES]
            query = {"partNumber": str(number), "uploadId": upload}
            return self.request("PUT", path, query, part)[1]["ETag"]

        count = -(-len(memory) // PART_BYTES)
        with ThreadPoolExecutor(THREADS) as pool:
            tags = list(pool.map(send, range(1, count + 1)))
        listed = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>" for number, tag in enumerate(tags, 1)
        )
        body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
        said = self.request("POST", path, {"uploadId": upload}, body)[0]
        if "<Error>" in said:
            raise OSError(said)

    def clear(self, under: str) -> None:
        """Deletes every object whose key begins so."""
        prefix = f"{self.prefix}/{under}".strip("/")
        while keys := self.list(prefix):
            for key in keys:
                self.request("DELETE", key, {})

    def list(self, prefix: str) -> list[str]:
        said = self.request("GET", "", {"list-type": "2", "prefix": prefix})[0]
        return [unescape(key) for key in re.findall(r"<Key>(.*?)</Key>", said)]

    def request(self, method: str, key: str, query: dict[str, str], body: bytes | memoryview = b""):
        """What the server says, and its headers."""
        path = quote(f"/{self.name}/{key}".rstrip("/"), safe="/" + SAFE)
        asked = "&".join(f"{name}={quote(value, safe=SAFE)}" for name, value in sorted(query.items()))
        connection = self.connection()
        connection.request(method, f"{path}?{asked}", body=body, headers=self.signed(method, path, asked))
        answer = connection.getresponse()
        said = answer.read().decode()
        if answer.status >= 300:
            raise OSError(f"{method} {path}: {answer.status} {said[:300]}")
        return said, answer.headers

    def connection(self) -> http.client.HTTPConnection:
        """This thread's own."""
        if not hasattr(self.connections, "one"):
            secure = self.endpoint.scheme == "https"
            kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
            self.connections.one = kind(self.endpoint.netloc)
        return self.connections.one

    def signed(self, method: str, path: str, asked: str) -> dict[str, str]:
        """The headers of a request, signed by version 4; its body is not."""
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        headers = {"host": self.endpoint.netloc, "x-amz-content-sha256": UNSIGNED, "x-amz-date": now}
        if self.token:
            headers["x-amz-security-token"] = self.token
        names = ";".join(headers)
        listed = "".join(f"{name}:{value}\n" for name, value in headers.items())
        canonical = "\n".join([method, path, asked, listed, names, UNSIGNED])
        scope = f"{now[:8]}/{self.region}/s3/aws4_request"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        key = f"AWS4{self.secret}".encode()
        for word in scope.split("/"):
            key = sign(key, word)
        signature = sign(key, f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{digest}").hex()
        said = f"Credential={self.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
        return headers | {"authorization": f"AWS4-HMAC-SHA256 {said}"}


def sign(key: bytes, words: str) -> bytes:
    return hmac.new(key, words.encode(), hashlib.sha256).digest()

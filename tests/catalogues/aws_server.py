"""The two price APIs of AWS on loopback, for what moto has not: products, pages, errors. Questions and answers are held
against botocore's own model of the services, so that neither side can speak a dialect of these tests.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

import botocore.session
from botocore.parsers import EC2QueryParser
from botocore.validate import ParamValidator

MODELS = botocore.session.Session()
PRODUCTS = MODELS.get_service_model("pricing").operation_model("GetProducts")
HISTORY = MODELS.get_service_model("ec2").operation_model("DescribeSpotPriceHistory")
CHANGED = datetime(2026, 11, 24, 6, tzinfo=UTC)


def checked(shape: Any, document: dict[str, Any]) -> dict[str, Any]:
    report = ParamValidator().validate(document, shape)
    assert not report.has_errors(), report.generate_report()
    return document


def product(kind: str, region: str, usd: str, **more: object) -> str:
    """An entry of a `PriceList`, less the attributes that nobody here reads; AWS adds reservations and a free tier."""
    sku = f"{kind}-{region}"
    dimension = {"unit": "Hrs", "beginRange": "0", "endRange": "Inf", "rateCode": f"{sku}.J.6", "appliesTo": [],
                 "description": f"{kind} per hour", "pricePerUnit": {"USD": usd}}  # fmt: skip
    upfront = {"unit": "Quantity", "pricePerUnit": {"USD": "1"}}
    document = {
        "product": {"productFamily": "Compute Instance", "sku": sku,
                    "attributes": {"instanceType": kind, "regionCode": region, "operatingSystem": "Linux"}},
        "serviceCode": "AmazonEC2",
        "terms": {
            "OnDemand": {f"{sku}.J": {"sku": sku, "priceDimensions": {f"{sku}.J.6": dimension}}},
            "Reserved": {f"{sku}.R": {"sku": sku, "priceDimensions": {f"{sku}.R.2": upfront}}},
        },
    }  # fmt: skip
    return json.dumps(document | more)


def spot(kind: str, zone: str, usd: str, *, hours_ago: float = 0) -> dict[str, object]:
    return {"AvailabilityZone": zone, "InstanceType": kind, "ProductDescription": "Linux/UNIX", "SpotPrice": usd,
            "Timestamp": CHANGED - timedelta(hours=hours_ago)}  # fmt: skip


def _element(name: str, value: object) -> str:
    tag = name[0].lower() + name[1:]
    return f"<{tag}>{escape(value.isoformat() if isinstance(value, datetime) else str(value))}</{tag}>"


@dataclass
class Aws:
    """What it answers, and what it was asked. `failing`: an error code by type, region, or `sts`."""

    products: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    spots: dict[str, list[dict[str, object]]] = field(default_factory=dict[str, list[dict[str, object]]])
    failing: dict[str, str] = field(default_factory=dict[str, str])
    message: str = "AKIAQUESTION1234567/SECRETSIGNATURE is in this message, as AWS does at times"
    body: bytes | None = None
    page: int = 100
    silent_on: set[str] = field(default_factory=set[str])
    asked: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    release: threading.Event = field(default_factory=threading.Event)
    address: str = ""

    def answer(self, target: str | None, region: str, body: bytes) -> tuple[int, bytes]:
        if target is not None:
            question = checked(PRODUCTS.input_shape, json.loads(body))
            assert (target, question["ServiceCode"]) == ("AWSPriceListService.GetProducts", "AmazonEC2")
            wanted = {each["Field"]: each["Value"] for each in question["Filters"]}
            kind = wanted.pop("instanceType")
            assert wanted == {
                "operatingSystem": "Linux", "tenancy": "Shared", "preInstalledSw": "NA", "capacitystatus": "Used"
            }  # fmt: skip
            return self._about(kind, "pricing", lambda: self._products(kind, int(question.get("NextToken", "0"))))
        question = dict(parse_qsl(body.decode()))
        if question["Action"] != "DescribeSpotPriceHistory":
            return self._about("sts", question["Action"], lambda: b"")
        assert question["ProductDescription.1"] == "Linux/UNIX"
        moments = {question["StartTime"], question["EndTime"]}
        assert len(moments) == 1, "what is in effect now, and no history"
        kinds = {value for name, value in question.items() if name.startswith("InstanceType.")}
        return self._about(region, "spot", lambda: self._spots(region, kinds))

    def _about(self, what: str, asked: str, answer: Any) -> tuple[int, bytes]:
        self.asked.append((asked, what))
        if what in self.silent_on:
            self.release.wait()
        if self.body is not None:
            return 200, self.body
        code = self.failing.get(what, self.failing.get(asked))
        if code is None:
            return 200, answer()
        if asked == "pricing":
            return 400, json.dumps({"__type": f"com.amazonaws#{code}", "message": self.message}).encode()
        error = f"<Error><Code>{code}</Code><Message>{self.message}</Message></Error>"
        if asked == "spot":
            return 403, f"<Response><Errors>{error}</Errors><RequestID>1</RequestID></Response>".encode()
        return 403, f"<ErrorResponse>{error}<RequestId>1</RequestId></ErrorResponse>".encode()

    def _products(self, kind: str, start: int) -> bytes:
        every = self.products.get(kind, [])
        answer: dict[str, Any] = {"FormatVersion": "aws_v1", "PriceList": every[start : start + self.page]}
        if start + self.page < len(every):
            answer["NextToken"] = str(start + self.page)
        return json.dumps(checked(PRODUCTS.output_shape, answer)).encode()

    def _spots(self, region: str, kinds: set[str]) -> bytes:
        rows = [row for row in self.spots.get(region, []) if row["InstanceType"] in kinds]
        answer = checked(HISTORY.output_shape, {"SpotPriceHistory": rows})
        items = "".join(f"<item>{''.join(_element(*pair) for pair in row.items())}</item>" for row in rows)
        body = (
            f"<DescribeSpotPriceHistoryResponse><requestId>1</requestId><spotPriceHistorySet>{items}"
            "</spotPriceHistorySet><nextToken/></DescribeSpotPriceHistoryResponse>"
        ).encode()
        read = EC2QueryParser().parse({"status_code": 200, "headers": {}, "body": body}, HISTORY.output_shape)
        assert read["SpotPriceHistory"] == answer["SpotPriceHistory"]
        return body


@contextmanager
def serve() -> Iterator[Aws]:
    state = Aws()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(("metadata", self.path))
            self.send_error(404)

        def do_PUT(self) -> None:
            self.do_GET()

        def do_POST(self) -> None:
            region = self.headers["Authorization"].split("/")[2]
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, answer = state.answer(self.headers["X-Amz-Target"], region, body)
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # who asked has given up

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name in the base class
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.address = f"http://127.0.0.1:{server.server_port}"
        try:
            yield state
        finally:
            state.release.set()
            server.shutdown()
            thread.join()

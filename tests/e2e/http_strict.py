# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP as hostile, slow and unusual clients speak it, against the real server on raw sockets."""
import base64, gzip, os, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "lib"))
from eas import *

s = Server(sets=["http.request_timeout_s=2", "http.keepalive_timeout_s=2", "http.send_timeout_s=2",
                 "http.body_bytes_max=100000", "core.retry_after_s=7"])
AUTH = "Authorization: Basic " + base64.b64encode(b"alice@example.test:secret").decode() + "\r\n"
H = "Host: mail.example.test\r\n" + AUTH


WAIT = object()  # in a list of pieces: read what the server says before going on


def talk(data, wait=6.0, half=False):
    """Sends bytes (or pieces), returns everything until the server closes or falls silent."""
    c = socket.create_connection(("127.0.0.1", s.http))
    c.settimeout(wait)
    out = b""
    try:
        for piece in data if isinstance(data, list) else [data]:
            if piece is WAIT:
                out += c.recv(65536)
                continue
            c.sendall(piece if isinstance(piece, bytes) else piece.encode("latin-1"))
        if half:
            c.shutdown(socket.SHUT_WR)
        while True:
            b = c.recv(65536)
            if not b:
                break
            out += b
    except OSError:
        pass
    c.close()
    return out


def code(out):
    return int(out.split(b" ")[1]) if out.startswith(b"HTTP/1.1 ") else out[:60]


def post(extra="", body="", target="?Cmd=Ping&DeviceId=d&DeviceType=t", version="14.1", close=True):
    return (f"POST /Microsoft-Server-ActiveSync{target} HTTP/1.1\r\n{H}MS-ASProtocolVersion: {version}\r\n"
            f"{'Connection: close' + chr(13) + chr(10) if close else ''}{extra}\r\n{body}")


# ---- smuggling and syntax --------------------------------------------------------------------------
cases = [
    ("two lengths that differ", post("Content-Length: 5\r\nContent-Length: 6\r\n", "abcdef"), 400),
    ("two equal lengths", post("Content-Length: 5\r\nContent-Length: 5\r\n", "abcde"), 400),
    ("length and chunked", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400),
    ("an unknown transfer coding", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), (400, 501)),
    ("chunked twice", post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"), (400, 501)),
    ("chunked not last", post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"), (400, 501)),
    ("a folded header", post("X-A: 1\r\n 2\r\nContent-Length: 0\r\n"), 400),
    ("a blank before the colon", post("Content-Length : 0\r\n"), 400),
    ("a bare LF", post("X-A: 1\nContent-Length: 0\r\n"), 400),
    ("a bare CR", post("X-A: 1\r2\r\nContent-Length: 0\r\n"), 400),
    ("a NUL in a header", post("X-A: \0\r\nContent-Length: 0\r\n"), 400),
    ("a negative length", post("Content-Length: -1\r\n"), 400),
    ("a length with a plus", post("Content-Length: +0\r\n"), 400),
    ("a hexadecimal length", post("Content-Length: 0x10\r\n"), 400),
    ("a length beyond 64 bits", post("Content-Length: 99999999999999999999999\r\n"), (400, 413)),
    ("a body of 2 GB announced", post("Content-Length: 2147483648\r\n"), 413),
    ("no Host", "POST /Microsoft-Server-ActiveSync HTTP/1.1\r\n\r\n", 400),
    ("two Hosts", "POST / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ("HTTP/2.0", "POST / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    ("HTTP/0.9", "GET /\r\n\r\n", 400),
    ("a chunk without digits", post("Transfer-Encoding: chunked\r\n", "\r\n\r\n"), 400),
    ("a chunk too long", post("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\n"), (400, 413)),
    ("a chunk not closed by CRLF", post("Transfer-Encoding: chunked\r\n", "1\r\nabc0\r\n\r\n"), 400),
    ("an unknown method", f"BREW /Microsoft-Server-ActiveSync HTTP/1.1\r\n{H}\r\n", 501),
    ("a browser's GET", f"GET /Microsoft-Server-ActiveSync HTTP/1.1\r\n{H}Connection: close\r\n\r\n", 405),
    ("another path", f"GET /index.html HTTP/1.1\r\n{H}Connection: close\r\n\r\n", 404),
    ("a head of 40 KB", post("X-A: " + "a" * 40000 + "\r\n"), 431),
    ("200 headers", post("".join(f"X-{i}: 1\r\n" for i in range(200))), 431),
    ("a target of 20 KB", post(target="?" + "a" * 20000), 414),
    ("an unknown command", post("Content-Length: 0\r\n", target="?Cmd=Dance&DeviceId=d&DeviceType=t"), 501),
    ("a command not built", post("Content-Length: 0\r\n", target="?Cmd=Search&DeviceId=d&DeviceType=t"), 501),
    ("no version", post("Content-Length: 0\r\n").replace("MS-ASProtocolVersion: 14.1\r\n", ""), 400),
    ("version 19.1", post("Content-Length: 0\r\n", version="19.1"), 400),
    ("no command", post("Content-Length: 0\r\n", target="?DeviceId=d&DeviceType=t"), 400),
    ("a comma in the device id", post("Content-Length: 0\r\n", target="?Cmd=Ping&DeviceId=a,b&DeviceType=t"), 400),
    ("a wrong content type at 12.1", post("Content-Type: text/html\r\nContent-Length: 3\r\n", "abc", version="12.1"), 400),
    ("a content coding we do not know", post("Content-Encoding: br\r\nContent-Length: 3\r\n", "abc"), 415),
    ("a body that claims gzip", post(f"Content-Type: {TYPE}\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n", "abc"), 400),
]
for name, request, want in cases:
    got = code(talk(request))
    ok(got in (want if isinstance(want, tuple) else (want,)), f"{name} gets {want}", got)

PING = wbxml(Phone.ping_body(60))
out = talk(post(f"Content-Type: {TYPE}\r\nTransfer-Encoding: chunked\r\n",
                "".join(f"1\r\n{chr(b)}\r\n" for b in PING) + "0\r\nTrailer: x\r\n\r\n"))
ok(code(out) == 200 and out.endswith(b"\x45\x47\x037\x00\x01\x01"), "a chunked body is read (7: no FolderSync yet)", out)
z = gzip.compress(PING).decode("latin-1")
out = talk(post(f"Content-Type: {TYPE}\r\nContent-Encoding: gzip\r\nContent-Length: {len(z)}\r\n", z))
ok(code(out) == 200 and out.endswith(b"\x45\x47\x037\x00\x01\x01"), "a gzip body is read", out)
bomb = gzip.compress(b"\0" * 50_000_000).decode("latin-1")
out = talk(post(f"Content-Type: {TYPE}\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n", bomb))
ok(code(out) == 413, "a gzip bomb is refused", out)
body = PING.decode("latin-1")
whole = post(f"Content-Type: {TYPE}\r\nContent-Length: {len(PING)}\r\n", body)
out = talk([whole[i:i + 1] for i in range(len(whole))])
ok(code(out) == 200, "a request byte by byte is read", out)
three = post("Content-Length: 0\r\n", close=False) * 2 + post("Content-Length: 0\r\n")
out = talk(three)
equal(out.count(b"HTTP/1.1 200"), 3, "three pipelined requests get three answers")
out = talk([post(f"Content-Type: {TYPE}\r\nExpect: 100-continue\r\nContent-Length: {len(PING)}\r\n"), WAIT, body])
ok(out.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200"), "Expect: 100-continue is answered at once", out)

# ---- slow ones ----------------------------------------------------------------------------------------
t = time.monotonic()
out = talk(f"POST /Microsoft-Server-ActiveSync HTTP/1.1\r\n{H}X-Slow: ")
ok(code(out) == 408 and time.monotonic() - t < 5, "an unfinished head gets 408 in time", out)
t = time.monotonic()
out = talk(post("Content-Length: 500\r\n", "abc"))
ok(code(out) == 408 and time.monotonic() - t < 5, "an unfinished body gets 408 in time", out)
t = time.monotonic()
out = talk("")
ok(out == b"" and time.monotonic() - t < 5, "a silent connection is closed in time")
t = time.monotonic()
out = talk(post("Content-Length: 0\r\n", close=False))
ok(code(out) == 200 and time.monotonic() - t < 6, "an idle connection is closed in time", out)

# a reader that takes nothing of a large answer is cut off, others are served meanwhile
p = Phone(s).ready()
for i in range(3):
    s.deliver(f"big {i}", "x" * 76 + "\r\n" + ("y" * 998 + "\r\n") * 6000)
body = wbxml(p.sync_body("1", options="<GetChanges>1</GetChanges><Options><MIMESupport>2</MIMESupport>"
                         "<AirSyncBase:BodyPreference><Type>4</Type></AirSyncBase:BodyPreference></Options>"))
c = socket.socket()
c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
c.connect(("127.0.0.1", s.http))
c.sendall((f"POST {PATH}?Cmd=Sync&DeviceId=phone1&DeviceType=SP HTTP/1.1\r\n{H}MS-ASProtocolVersion: 14.1\r\n"
           f"Content-Type: {TYPE}\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body)
time.sleep(0.3)
equal(p.post("Ping").status, 200, "another phone is served while one takes its answer slowly")
ok(wait_for(lambda: s.metrics()["roost_http_timeouts_total"] >= 3, 8), "a reader that takes nothing is cut off", s.metrics())
c.close()

# ---- many at once ----------------------------------------------------------------------------------------
slow = []
for i in range(300):
    c = socket.create_connection(("127.0.0.1", s.http))
    c.sendall(b"POST /Microsoft-Server-ActiveSync HTTP/1.1\r\nHost: a\r\nX")
    slow.append(c)
t = time.monotonic()
equal(p.post("Ping").status, 200, "300 slow heads do not keep a phone from being served")
ok(time.monotonic() - t < 1.5, "nor make it wait")
for c in slow:
    c.close()
ok(wait_for(lambda: s.metrics()["roost_connections"] <= 2, 8), "and leave nothing behind", s.metrics())
ok(all("CHECK" not in l for l in s.log) and s.p.poll() is None, "the server stands", "\n".join(s.log[-5:]))
done()

# SPDX-License-Identifier: GPL-3.0-or-later
"""Provision, FolderSync, Sync of mail, hanging Sync, fetches, moves and settings, by curl and libwbxml
(which calls the Status of a Flag FlagStatus)."""
import base64, os, struct, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "lib"))
from eas import *

s = Server(policy=True, sets=["push.heartbeat_min_s=2"])

# ---- policy ---------------------------------------------------------------------------------------------
p = Phone(s)
equal(p.folder_sync("0").xml["Status"], "142", "without a policy key: 142 from 14.0 on")
old = Phone(s, device="old", version="12.1")
a = old.folder_sync("0")
equal(a.status, 449, "without a policy key: HTTP 449 at 12.1")
one, two = p.provision()
ok(one.xml.one("Policies/Policy/Data/EASProvisionDoc") is not None and one.xml["Status"] == "1", "phase one brings the policy", one.xml)
ok(two.xml["Policies/Policy/Status"] == "1" and two.xml["Policies/Policy/PolicyKey"] not in (None, one.xml["Policies/Policy/PolicyKey"]),
   "phase two brings the final key", two.xml)
key = p.key
p.key = "12345"
equal(p.folder_sync("0").xml["Status"], "144", "a wrong policy key: 144")
p.key = key
a = p.folder_sync("0").xml
types = sorted(int(n["Type"]) for n in a.all("Changes/Add"))
equal((a["Status"], types), ("1", [2, 3, 4, 5, 6, 7, 8, 9, 10]), "FolderSync brings the standard tree")
equal(a["Changes/Count"], "9", "with its count")
b = p.folder_sync().xml
equal((b["Status"], b["Changes/Count"]), ("1", "0"), "nothing changed: count 0")
equal(p.folder_sync("99").xml["Status"], "9", "a wrong hierarchy key gets 9")
old.provision()
equal(old.folder_sync("0").xml["Status"], "1", "12.1 provisions too")

# ---- Sync of mail -----------------------------------------------------------------------------------------
a = p.sync("1", key="0").xml.one("Collections/Collection")
ok(a["Status"] == "1" and a.one("Commands") is None, "key 0 primes without items", a)
s.deliver("Grüße", "plain text body\r\nsecond line\r\n", headers='Content-Type: text/plain; charset=utf-8\r\n')
TEXT = "<Options><AirSyncBase:BodyPreference><Type>1</Type><TruncationSize>10</TruncationSize></AirSyncBase:BodyPreference></Options>"
before = p.keys["1"]
a = p.sync("1", options="<GetChanges>1</GetChanges>" + TEXT)
c = a.xml.one("Collections/Collection")
m = c.one("Commands/Add/ApplicationData")
equal((m["Subject"], m["From"], m["Read"], m["Body/Type"], m["Body/Data"], m["Body/Truncated"]),
      ("Grüße", '"Bob" <bob@example.test>', "0", "1", "plain text", "1"), "an Add with its body cut at 10 bytes")
first = c["Commands/Add/ServerId"]
lost = p.sync("1", key=before, options="<GetChanges>1</GetChanges>" + TEXT).xml.one("Collections/Collection")
equal((lost["Status"], lost["Commands/Add/ServerId"]), ("1", first), "a lost answer is said again for the previous key")
equal(p.sync("1", key="{nonsense}").xml["Collections/Collection/Status"], "3", "a wrong key gets 3")
equal(p.sync("77", key="0").xml["Collections/Collection/Status"], "8", "an unknown collection gets 8")
p.sync_all()
ok(p.sync("1").body == b"", "nothing new: an empty answer")
for i in range(7):
    s.deliver(f"mail {i}")
a = p.sync("1", options="<GetChanges>1</GetChanges><WindowSize>3</WindowSize>").xml.one("Collections/Collection")
ok(len(a.all("Commands/Add")) == 3 and a.one("MoreAvailable") is not None, "WindowSize holds and MoreAvailable says so", a)
rest = p.sync_all()
equal(len(rest), 4, "the rest comes")

q = Phone(s, device="phone2")
q.provision()
q.ready()
a = p.sync("1", inner=f"<Commands><Change><ServerId>{first}</ServerId><ApplicationData><Email:Read>1</Email:Read>"
           "<Email:Flag><Email:FlagStatus>2</Email:FlagStatus><Email:FlagType>Flag for follow up</Email:FlagType></Email:Flag>"
           "</ApplicationData></Change></Commands>")
ok(a.body == b"" or a.xml.one("Collections/Collection/Responses") is None, "a change of read and flag succeeds in silence", a)
c = q.sync("1").xml.one("Collections/Collection")
ch = c.one("Commands/Change/ApplicationData")
ok(ch is not None and ch["Read"] == "1" and ch["Flag/FlagStatus"] == "2" and ch.one("Subject") is None,
   "the other device gets a Change with just those", c)
a = p.sync("1", inner=f"<Commands><Delete><ServerId>{first}</ServerId></Delete></Commands>")
c = q.sync("1").xml.one("Collections/Collection")
equal(c["Commands/Delete/ServerId"], first, "a delete reaches the other device")
trash = Phone(s, device="phone2", key=q.key)
trash.folder_sync("0")
equal(len(trash.sync_all("3")), 1, "deleted mail is in Deleted Items")
a = p.sync("1", inner="<Commands><Change><ServerId>1:4711</ServerId><ApplicationData><Email:Read>1</Email:Read></ApplicationData></Change></Commands>")
equal(a.xml["Collections/Collection/Responses/Change/Status"], "8", "a change of what is not there gets 8")
many = "<Commands>" + f"<Delete><ServerId>1:9999</ServerId></Delete>" * 201 + "</Commands>"
equal((p.sync("1", inner=many).xml["Status"] or p.sync("1", inner=many).xml["Collections/Collection/Status"]), "4", "201 commands get 4")

# ---- estimate, fetch, move, settings -------------------------------------------------------------------------
s.deliver("with attachment", "--b\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>Hi <b>there</b></p>\r\n"
          "--b\r\nContent-Type: application/pdf; name=a.pdf\r\nContent-Disposition: attachment; filename=a.pdf\r\n"
          "Content-Transfer-Encoding: base64\r\n\r\n" + base64.b64encode(b"%PDF-hello").decode() + "\r\n--b--\r\n",
          headers="MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n")
e = p.post("GetItemEstimate", "<GetItemEstimate:GetItemEstimate><Collections><Collection>"
           f"<AirSync:SyncKey>{p.keys['1']}</AirSync:SyncKey><GetItemEstimate:CollectionId>1</GetItemEstimate:CollectionId>"
           "</Collection></Collections></GetItemEstimate:GetItemEstimate>").xml
equal((e["Response/Status"], e["Response/Collection/Estimate"]), ("1", "1"), "GetItemEstimate counts what is new")
c = p.sync("1", options="<GetChanges>1</GetChanges><Options><AirSyncBase:BodyPreference><Type>2</Type></AirSyncBase:BodyPreference></Options>").xml.one("Collections/Collection")
m = c.one("Commands/Add/ApplicationData")
ok("<b>there</b>" in (m["Body/Data"] or "") and m["Attachments/Attachment/DisplayName"] == "a.pdf", "HTML body and attachment are listed", m)
ref, sid = m["Attachments/Attachment/FileReference"], c["Commands/Add/ServerId"]
fetch = f"<ItemOperations:ItemOperations><Fetch><Store>Mailbox</Store><AirSyncBase:FileReference>{ref}</AirSyncBase:FileReference></Fetch></ItemOperations:ItemOperations>"
a = p.post("ItemOperations", fetch).xml
equal((a["Response/Fetch/Status"], base64.b64decode(a["Response/Fetch/Properties/Data"] or "")), ("1", b"%PDF-hello"), "an attachment is fetched")
a = p.post("ItemOperations", fetch, extra=["-H", "MS-ASAcceptMultiPart: T"])
n, off, ln, off2, ln2 = struct.unpack("<5I", a.body[:20])
ok(a.headers["content-type"] == "application/vnd.ms-sync.multipart" and n == 2 and a.body[off2:off2 + ln2] == b"%PDF-hello", "and in the multipart form", a)
a = p.post("ItemOperations", f"<ItemOperations:ItemOperations><Fetch><Store>Mailbox</Store><AirSync:CollectionId>1</AirSync:CollectionId><AirSync:ServerId>{sid}</AirSync:ServerId>"
           "<ItemOperations:Options><AirSyncBase:BodyPreference><Type>1</Type></AirSyncBase:BodyPreference></ItemOperations:Options></Fetch></ItemOperations:ItemOperations>").xml
ok("there" in (a["Response/Fetch/Properties/Body/Data"] or "") and "<b>" not in a["Response/Fetch/Properties/Body/Data"], "a message is fetched as text made of its HTML", a)
a = p.post("MoveItems", f"<Move:MoveItems><Move><SrcMsgId>{sid}</SrcMsgId><SrcFldId>1</SrcFldId><DstFldId>3</DstFldId></Move></Move:MoveItems>").xml
equal(a["Response/Status"], "3", "MoveItems moves (its success is 3)")
a = p.post("MoveItems", f"<Move:MoveItems><Move><SrcMsgId>{sid}</SrcMsgId><SrcFldId>1</SrcFldId><DstFldId>3</DstFldId></Move></Move:MoveItems>").xml
equal(a["Response/Status"], "1", "and not twice")
a = p.post("Settings", "<Settings:Settings><UserInformation><Get/></UserInformation></Settings:Settings>").xml
ok(a["Status"] == "1" and "alice@example.test" in repr(a), "Settings tells the address", a)
a = p.post("Settings", "<Settings:Settings><DeviceInformation><Set><Model>Model X</Model><FriendlyName>My phone</FriendlyName></Set></DeviceInformation></Settings:Settings>").xml
ok(a["DeviceInformation/Status"] == "1" and "Model X" in str(s.ctl_json("device", "show", "phone1")), "Settings keeps the device's model", a)
a = p.sync("1", options="<GetChanges>1</GetChanges>")

# ---- base64 query, gzip -----------------------------------------------------------------------------------------
q64 = base64.b64encode(bytes([141, 17]) + struct.pack("<H", 0x409) + b"\x06phone1" + b"\x04" + struct.pack("<I", int(p.key)) + b"\x02SP").decode()
url = f"http://127.0.0.1:{s.http}{PATH}?{q64}"
out = subprocess.run(["curl", "-s", "-i", "-u", "alice@example.test:secret", "-H", f"Content-Type: {TYPE}", "--data-binary", "@-", url],
                     input=wbxml("<Settings:Settings><UserInformation><Get/></UserInformation></Settings:Settings>"), capture_output=True)
ok(Answer(out.stdout).xml["Status"] == "1", "the base64 form of the query carries version, device and policy key", out)
for i in range(30):
    s.deliver(f"zip {i}", "text that repeats itself " * 40)
a = p.post("Sync", p.sync_body("1", options="<GetChanges>1</GetChanges><Options><AirSyncBase:BodyPreference><Type>1</Type></AirSyncBase:BodyPreference></Options>"),
           extra=["-H", "Accept-Encoding: gzip"])
import gzip
ok(a.headers.get("content-encoding") == "gzip" and len(a.body) < 8000, "large answers are compressed for those who take it", a)
plain = xml(gzip.decompress(a.body)).one("Collections/Collection")
equal(len(plain.all("Commands/Add")), 30, "and decompress to the document")
p.keys["1"] = plain["SyncKey"]
p.sync_all()

# ---- hanging Sync ---------------------------------------------------------------------------------------------------
h = p.hang("Sync", p.sync_body("1", after="<HeartbeatInterval>60</HeartbeatInterval>"))
ok(wait_for(lambda: s.parked() == 1), "a Sync with HeartbeatInterval hangs")
s.deliver("pushed")
c = h.answer().xml
equal(c["Collections/Collection/Commands/Add/ApplicationData/Subject"] if c else None, "pushed", "and brings the mail itself when it comes")
p.keys["1"] = c["Collections/Collection/SyncKey"]
equal(p.post("Sync").xml["Status"], "13", "an empty Sync after changes were sent gets 13")
h = p.hang("Sync", p.sync_body("1", after="<Wait>1</Wait>"))
ok(wait_for(lambda: s.parked() == 1), "Wait counts minutes and hangs too")
h2 = p.hang("Ping", p.ping_body(60))
a = h.answer(5)
ok(a.status == 200 and a.body == b"", "a newer Ping ends it with an empty answer", a)
h2.hang_up()
h = p.hang("Sync", p.sync_body("1", after="<HeartbeatInterval>2</HeartbeatInterval>"))
a = h.answer(8)
ok(a.status == 200 and a.body == b"" and a.seconds < 5, "nothing came: an empty answer at the end", a)
h = p.hang("Sync")
ok(wait_for(lambda: s.parked() == 1), "an empty request repeats it")
h.hang_up()
h = p.hang("Sync", p.sync_body("1", after="<HeartbeatInterval>60</HeartbeatInterval>"))
ok(wait_for(lambda: s.parked() == 1), "a Sync hangs again")
q.folder_sync("0")
made = q.post("FolderCreate", f"<FolderHierarchy:FolderCreate><SyncKey>{q.hierarchy}</SyncKey><ParentId>0</ParentId>"
              "<DisplayName>Projects</DisplayName><Type>12</Type></FolderHierarchy:FolderCreate>").xml
a = h.answer(5)
ok(made["Status"] == "1" and a.body and a.xml["Status"] == "12", "a folder made by another device ends it with 12: FolderSync first", a)
ok("Projects" in repr(p.folder_sync().xml), "and FolderSync brings the folder")
a = p.post("Sync", p.sync_body("1", after="<Wait>0</Wait>")).xml
equal((a["Status"], a["Limit"]), ("14", "1"), "Wait 0 gets 14 with the limit")
a = p.post("Sync", p.sync_body("1", after="<HeartbeatInterval>9999</HeartbeatInterval>")).xml
equal((a["Status"], a["Limit"]), ("14", "3540"), "a long HeartbeatInterval gets 14 with the limit")
a = p.post("Sync", p.sync_body("1", after="<Wait>1</Wait><HeartbeatInterval>60</HeartbeatInterval>")).xml
equal(a["Status"], "4", "both get 4")

ok(s.ctl("check").returncode == 0, "the store is consistent")
ok(s.p.poll() is None, "the server stands", "\n".join(s.log[-5:]))
equal(s.stop(), 0, "and ends in order")
done()

"""An editor of one plain-text document on a stock python-socketio client: the client's rule of the contract in Python.

In: as arguments the URL, a token, the document, a clientId; on stdin one JSON line {"type": text} for each text to insert
at the end of what is shown. Out: JSON lines {"event": "joined" | "progress" | "disconnected" | "error", …} with what is
shown, its version and how many of the own edits are confirmed. python-socketio reconnects by itself; the editor joins
again with what it knows and sends again what is unconfirmed. Only its AsyncClient will do, with
handlers that do not await: the other client runs every event on a thread of its own, so that edits overtake each other.
"""

import asyncio
import json
import sys

import socketio

from delta import apply, diff, push, transform


class Editor:
    def __init__(self, document_id, client_id):
        self.document_id, self.client_id = document_id, client_id
        self.text, self.version, self.hash, self.session = "", None, None, None
        self.unconfirmed = []  # [{"seq", "ops"}] in order
        self.base = ""  # the text without them
        self.seq = 0
        self.is_live = False
        self.outbox = asyncio.Queue()
        # Browsers and Node offer compression by themselves, aiohttp when it is told to.
        options = {"compress": 15}
        self.socket = socketio.AsyncClient(
            reconnection_delay=0.1, reconnection_delay_max=0.5, websocket_extra_options=options
        )
        self.listen()

    def listen(self):
        for event, handle in {
            "connect": self.join,
            "disconnect": self.disconnected,
            "document-joined": self.joined,
            "rejoin": lambda _: self.rejoin(),
            "edit": self.learn,
            "edit-committed": self.confirm,
            "error": lambda error: self.answered(None, {"error": error}),
        }.items():
            self.socket.on(event, handle)

    def join(self):
        self.is_live = False
        request = {"documentId": self.document_id, "seq": self.unconfirmed[0]["seq"] if self.unconfirmed else self.seq + 1}
        if self.session:
            request["session"] = self.session
        if self.version is not None:
            request |= {"version": self.version, "hash": self.hash}
        self.outbox.put_nowait(("join-document", request, self.answered_join))

    def rejoin(self):
        self.version = None
        self.join()

    def disconnected(self, *_):
        self.is_live = False
        self.say("disconnected")

    def joined(self, joined):
        self.session = joined["session"]
        if "edits" in joined:
            for entry in joined["edits"]:
                own = entry["clientId"] == self.client_id
                (self.confirm if own else self.learn)(entry)
        else:
            self.take_content(joined["content"], joined["lastSeq"])
        self.version, self.hash = joined["version"], joined["hash"]
        self.is_live = True
        for edit in self.unconfirmed:
            self.send(edit)
        self.say("joined")

    def take_content(self, content, last_seq):
        dropped = [edit for edit in self.unconfirmed if edit["seq"] <= last_seq]
        self.unconfirmed = self.unconfirmed[len(dropped) :]
        for edit in dropped:
            self.base = apply(self.base, edit["ops"])
        self.take_remote(diff(self.base, content))

    def learn(self, entry):
        if self.version is None or entry["version"] <= self.version:
            return
        self.take_remote(entry["ops"])
        self.version, self.hash = entry["version"], entry["hash"]
        self.say("progress")

    def take_remote(self, remote):
        self.base = apply(self.base, remote)
        for edit in self.unconfirmed:
            edit["ops"], remote = transform(remote, edit["ops"], False), transform(edit["ops"], remote, True)
        self.text = apply(self.text, remote)

    def confirm(self, entry):
        if self.version is None or entry["version"] <= self.version:
            return
        first = self.unconfirmed.pop(0)
        assert first["seq"] == entry["seq"], f"{first} was to be confirmed, not {entry}"
        self.base = apply(self.base, first["ops"])
        self.version, self.hash = entry["version"], entry["hash"]
        self.say("progress")

    def type(self, text):
        self.seq += 1
        ops = []
        push(ops, {"retain": len(self.text)})
        push(ops, {"insert": text})
        edit = {"seq": self.seq, "ops": ops}
        self.text = apply(self.text, ops)
        self.unconfirmed.append(edit)
        if self.is_live:
            self.send(edit)

    def send(self, edit):
        said = {"documentId": self.document_id, "version": self.version, "session": self.session, **edit}
        # Copied now: what waits to be sent must not change with the remote edits that come meanwhile.
        self.outbox.put_nowait(("edit", json.loads(json.dumps(said)), lambda answer: self.answered(edit["seq"], answer)))

    def answered_join(self, answer):
        if "error" in answer:
            self.say("error", answer["error"])

    def answered(self, seq, answer):
        error = answer.get("error")
        if error and error["code"] != "NOT_DURABLE_YET":
            self.say("error", {**error, "answers": seq})

    def say(self, event, error=None):
        confirmed = self.seq - len(self.unconfirmed)
        told = {"event": event, "version": self.version, "confirmed": confirmed, "text": self.text, "error": error}
        if event == "joined":
            told["compressed"] = bool(self.socket.eio.ws.compress)
        print(json.dumps(told), flush=True)

    async def pump(self):
        """Emits in order."""
        while True:
            event, payload, callback = await self.outbox.get()
            try:
                await self.socket.emit(event, payload, callback=callback)
            except socketio.exceptions.BadNamespaceError:
                pass  # offline; the next join sends again what is unconfirmed


async def main():
    url, token, document_id, client_id = sys.argv[1:]
    editor = Editor(document_id, client_id)
    pump = asyncio.create_task(editor.pump())
    await editor.socket.connect(url, transports=["websocket"], auth={"token": token, "clientId": client_id})
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    async for line in orders:
        editor.type(json.loads(line)["type"])
    pump.cancel()
    await editor.socket.disconnect()


asyncio.run(main())

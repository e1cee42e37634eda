"""The little of Quill's Delta that a plain-text client needs.

In: lists of {"insert": text} | {"retain": n} | {"delete": n}; lengths count characters of the basic plane. Out: the text
after a change; a change carried over another one; the change between two texts.
"""


def push(ops, op):
    """Appends one component in the normal form: inserts before deletes, neighbours of a kind merged."""
    (kind, value), = op.items()
    if not value:
        return
    if ops and kind in ops[-1]:
        ops[-1][kind] += value
    elif kind == "insert" and ops and "delete" in ops[-1]:
        if len(ops) > 1 and kind in ops[-2]:
            ops[-2][kind] += value
        else:
            ops.insert(len(ops) - 1, op)
    else:
        ops.append(op)


def apply(text, ops):
    """The text after `ops`."""
    out, at = [], 0
    for op in ops:
        if "insert" in op:
            out.append(op["insert"])
        elif "retain" in op:
            out.append(text[at : at + op["retain"]])
            at += op["retain"]
        else:
            at += op["delete"]
    assert at <= len(text), f"{ops} reaches past {len(text)} characters"
    return "".join(out) + text[at:]


def transform(this, other, this_first):
    """`other` as it applies after `this`; both were made on the same text."""
    out, a, b = [], _Walk(this), _Walk(other)
    while a.has_next() or b.has_next():
        if a.kind == "insert" and (this_first or b.kind != "insert"):
            push(out, {"retain": len(a.take(a.left))})
        elif b.kind == "insert":
            push(out, {"insert": b.take(b.left)})
        else:
            length = min(a.left, b.left)
            if a.kind != "delete":
                push(out, {b.kind: length})
            a.take(length)
            b.take(length)
    if out and "retain" in out[-1]:
        out.pop()
    return out


def diff(before, after):
    """One change from the one text to the other: what both begin and end with stays."""
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    end = 0
    while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
        end += 1
    ops = []
    push(ops, {"retain": start})
    push(ops, {"insert": after[start : len(after) - end]})
    push(ops, {"delete": len(before) - start - end})
    return ops


class _Walk:
    """Takes components in pieces; behind the end stands an endless retain."""

    def __init__(self, ops):
        self.ops, self.index, self.taken = ops, 0, 0

    def has_next(self):
        return self.index < len(self.ops)

    @property
    def kind(self):
        return next(iter(self.ops[self.index])) if self.has_next() else "retain"

    @property
    def left(self):
        if not self.has_next():
            return 1 << 62
        value = self.ops[self.index][self.kind]
        return (len(value) if self.kind == "insert" else value) - self.taken

    def take(self, length):
        if not self.has_next():
            return length
        value = self.ops[self.index][self.kind]
        taken = value[self.taken : self.taken + length] if self.kind == "insert" else length
        self.taken += length
        if self.left == 0:
            self.index, self.taken = self.index + 1, 0
        return taken

"""A lock in Python, by unary calls, in the layout of docs/recipes/lock.md: programs in Rust wait in the same line.

    pip install grpcio grpcio-tools grpcio-status
    python -m grpc_tools.protoc -I proto --python_out=. --grpc_python_out=. coordd/v1/coordd.proto
    python docs/python/lock.py 127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403 /app/lock 3

It takes the lock, holds it for so many seconds, writes under it, and gives it back. Each step is a line of its output.
"""

import os
import sys
import threading
import time

import grpc
from grpc_status import rpc_status

sys.path.insert(0, os.getcwd())  # Where protoc has put what it generated.
from coordd.v1 import coordd_pb2 as pb
from coordd.v1 import coordd_pb2_grpc

CALL_SECONDS = 5


class Refused(Exception):
    """A refusal by coordd: `error.code` is for programs, `error.message` for people."""

    def __init__(self, error):
        super().__init__(error.message)
        self.error = error


def refusal_of(failure):
    """Returns the `coordd.v1.Error` of a failed call. `None`: the call failed on its way, and may have been carried out."""
    status = rpc_status.from_call(failure)  # Decodes `grpc-status-details-bin`.
    for detail in status.details if status else []:
        if detail.Is(pb.Error.DESCRIPTOR):
            error = pb.Error()
            detail.Unpack(error)
            return error
    return None


class Ensemble:
    """Calls any node, and the next one where a node is out of reach or does not serve."""

    def __init__(self, endpoints):
        self.stubs = [coordd_pb2_grpc.CoorddStub(grpc.insecure_channel(endpoint)) for endpoint in endpoints]
        self.node = 0

    def stub(self):
        return self.stubs[self.node % len(self.stubs)]

    def call(self, method, request, seconds=60):
        """Repeats a call until it is answered: only for reads, and for writes with a `write_seq`."""
        give_up = time.monotonic() + seconds
        while True:
            try:
                return getattr(self.stub(), method)(request, timeout=CALL_SECONDS)
            except grpc.RpcError as failure:
                error = refusal_of(failure)
                again = (pb.ERROR_CODE_NOT_SERVING, pb.ERROR_CODE_THROTTLED, pb.ERROR_CODE_OUTCOME_UNKNOWN)
                if error and error.code not in again:
                    raise Refused(error) from None
                if time.monotonic() > give_up:
                    raise
            self.node += 1
            time.sleep(0.2)


class Session:
    """A session that is kept alive by a thread. `surely_lives` says whether its ephemerals are there, without asking anybody."""

    def __init__(self, ensemble, timeout_ms, name):
        self.ensemble, self.write_seq, self.deadline = ensemble, 0, 0.0
        opened = ensemble.stub().OpenSession(pb.OpenSessionRequest(timeout_ms=timeout_ms, client_name=name))
        self.ref = pb.SessionRef(session_id=opened.session_id, password=opened.password)
        self.lineage = opened.lineage  # Of every zxid and epoch here.
        self.timeout = opened.timeout_ms / 1000
        self.closed, self.ended = threading.Event(), threading.Event()
        threading.Thread(target=self.keep_alive, daemon=True).start()

    def keep_alive(self):
        keeper = Ensemble([])
        keeper.stubs = self.ensemble.stubs  # Its own turn at the nodes.
        while not self.closed.is_set():
            # A clock that goes on while the machine sleeps, read before the call is sent.
            sent = time.clock_gettime(time.CLOCK_BOOTTIME)
            try:
                reply = keeper.stub().KeepAlive(pb.KeepAliveRequest(session=self.ref), timeout=self.timeout / 3)
                # A tenth less, because clocks do not tick alike. 0: nothing is sure, and the old deadline stays.
                if reply.alive_ms:
                    self.deadline = sent + reply.alive_ms / 1000 * 0.9
            except grpc.RpcError as failure:
                error = refusal_of(failure)
                if error and error.code in (pb.ERROR_CODE_SESSION_EXPIRED, pb.ERROR_CODE_NO_SESSION):
                    self.ended.set()
                    return
                keeper.node += 1
            self.closed.wait(self.timeout / 6)

    def surely_lives(self):
        return time.clock_gettime(time.CLOCK_BOOTTIME) < self.deadline

    def numbered(self):
        """The session with the next number: a write that is sent again with its number is carried out once."""
        self.write_seq += 1
        ref = pb.SessionRef(write_seq=self.write_seq, acked_write_seq=self.write_seq - 1)
        ref.MergeFrom(self.ref)
        return ref

    def write(self, method, request):
        request.session.CopyFrom(self.numbered())
        return self.ensemble.call(method, request)

    def close(self):
        """Ends the session, and its ephemerals in the same step."""
        self.write("CloseSession", pb.CloseSessionRequest())
        self.closed.set()


class Lock:
    def __init__(self, session, path):
        self.session, self.ensemble, self.path = session, session.ensemble, path

    def acquire(self):
        """Waits in line. Returns the epoch, the fencing token of this grant."""
        while True:
            try:
                created = self.session.write("Create", pb.CreateRequest(
                    path=f"{self.path}/write-", data=b'{"id": "python"}', mode=pb.CREATE_MODE_EPHEMERAL_SEQUENTIAL))
                break
            except Refused as refused:
                if refused.error.code != pb.ERROR_CODE_NO_NODE:
                    raise
                self.make_containers(self.path)
        self.znode, self.epoch = created.path, created.stat.czxid
        while True:
            before, zxid = self.before_us(created.zxid)
            if before is None:
                return self.epoch
            self.wait_until_changed(before, zxid)

    def before_us(self, min_zxid):
        """The ephemeral just before ours by number, of readers and writers, and the zxid of the listing."""
        own, line, after = self.znode.rsplit("/", 1)[1], [], ""
        while True:
            page = self.ensemble.call(
                "List", pb.ListRequest(path=self.path, with_stat=True, after=after, min_zxid=min_zxid,
                                       lineage=self.session.lineage))
            for child in page.children:
                kind, _, number = child.name.rpartition("-")
                # What is not ephemeral stands for nobody.
                if kind in ("read", "write") and number.isdigit() and child.stat.ephemeral_owner:
                    line.append((int(number), child.name))
            if not page.more:
                break
            after = page.children[-1].name
        line.sort()
        names = [name for _, name in line]
        if own not in names:
            raise RuntimeError(f"somebody else has deleted {self.znode}")
        index = names.index(own)
        return (f"{self.path}/{names[index - 1]}" if index else None), page.zxid

    def wait_until_changed(self, path, zxid):
        request = pb.SubscribeRequest(
            paths=[pb.SubscribePath(path=path, kind=pb.WATCH_KIND_PERSISTENT)], from_zxid=zxid,
            lineage=self.session.lineage)
        try:
            for item in self.ensemble.stub().Subscribe(request, timeout=30):
                if item.WhichOneof("item") != "mark":
                    return
        except grpc.RpcError:
            # The next listing shows whether it is gone.
            self.ensemble.node += 1
            time.sleep(0.2)

    def make_containers(self, path):
        parent = path.rsplit("/", 1)[0]
        try:
            self.session.write("Create", pb.CreateRequest(path=path, mode=pb.CREATE_MODE_CONTAINER))
        except Refused as refused:
            if refused.error.code == pb.ERROR_CODE_NO_NODE and parent:
                self.make_containers(parent)
                self.make_containers(path)
            elif refused.error.code != pb.ERROR_CODE_NODE_EXISTS:
                raise

    def is_held(self):
        """Whether nobody else can have the lock at this moment. Asks nobody."""
        return self.session.surely_lives()

    def guard(self):
        """A write with this guard is refused with GUARD_FAILED once the lock is gone, however late it arrives."""
        return pb.Check(path=self.znode, epoch=self.epoch, lineage=self.session.lineage)

    def release(self):
        self.session.write("Delete", pb.DeleteRequest(path=self.znode, guards=[self.guard()]))


def main(endpoints, path, seconds):
    ensemble = Ensemble(endpoints.split(","))
    session = Session(ensemble, timeout_ms=5000, name="lock.py")
    lock = Lock(session, path)
    print("waiting", flush=True)
    epoch = lock.acquire()
    while not lock.is_held():  # Until the first confirmation has come.
        if session.ended.wait(0.01):
            print("lost", flush=True)
            return 1
    print(f"locked with epoch {epoch}", flush=True)
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        if not lock.is_held():
            print("lost", flush=True)
            return 1
        time.sleep(0.05)
    create = pb.CreateRequest(path=f"{path}-written", mode=pb.CREATE_MODE_PERSISTENT)
    try:
        session.write("Create", create)
    except Refused as refused:
        print(f"refused with {pb.ErrorCode.Name(refused.error.code)}: {refused.error.message}", flush=True)
    written = session.write(
        "Set", pb.SetRequest(path=f"{path}-written", data=str(epoch).encode(), guards=[lock.guard()]))
    print(f"written at {written.zxid}", flush=True)
    lock.release()
    print("released", flush=True)
    session.close()
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(f"usage: {sys.argv[0]} ENDPOINT,... PATH SECONDS")
    sys.exit(main(*sys.argv[1:]))

"""TEMPORARY stand-in by the lead; the object_store helper replaces it."""
from __future__ import annotations
import abc, contextlib, os, secrets, threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from beam_exactly_once.errors import StagedOutputMissing, ConfigurationError

@dataclass(frozen=True)
class Created: pass
@dataclass(frozen=True)
class Mine: pass
@dataclass(frozen=True)
class Taken:
    body: bytes
PutResult = Created | Mine | Taken
@dataclass(frozen=True)
class ObjectEntry:
    key: str
    size_bytes: int
@dataclass(frozen=True)
class StagedObject:
    final_key: str
    size_bytes: int
    token: Mapping[str, Any]
    def to_json(self): return {"final_key": self.final_key, "size_bytes": self.size_bytes, "token": dict(self.token)}
    @classmethod
    def from_json(cls, d): return cls(d["final_key"], d["size_bytes"], d["token"])
class ObjectStore(abc.ABC):
    uri: str
class StagingWriter:
    def __init__(self, f, done): self._f=f; self._done=done; self.staged=None; self.closed=False
    def write(self, b): return self._f.write(b)
    def tell(self): return self._f.tell()
    def flush(self): self._f.flush()
    def close(self):
        if not self.closed:
            self.closed=True; n=self._f.tell(); self._f.flush(); os.fsync(self._f.fileno()); self._f.close(); self.staged=self._done(n)
    def abort(self):
        self.closed=True; self._f.close()
    def __enter__(self): return self
    def __exit__(self, t, *a):
        self.abort() if t else self.close()
    def writable(self): return True
    def readable(self): return False
    def seekable(self): return False
class LocalStore(ObjectStore):
    def __init__(self, root):
        self.root=Path(root).resolve(); self.uri=str(self.root); self.staging=self.root.parent/f".{self.root.name}.staging"
    def _p(self,k): return self.root/k
    def put_if_absent(self,key,body):
        p=self._p(key); p.parent.mkdir(parents=True, exist_ok=True); self.staging.mkdir(parents=True, exist_ok=True)
        t=self.staging/("tmp-"+secrets.token_hex(8)); t.write_bytes(body)
        try:
            os.link(t,p); return Created()
        except FileExistsError:
            b=p.read_bytes(); return Mine() if b==body else Taken(b)
        finally: t.unlink()
    def get(self,key):
        try: return self._p(key).read_bytes()
        except FileNotFoundError: return None
    def size_bytes(self,key):
        try: return self._p(key).stat().st_size
        except FileNotFoundError: return None
    def list(self,prefix="",start_after=""):
        if not self.root.exists(): return
        for p in sorted(str(x.relative_to(self.root)) for x in self.root.rglob("*") if x.is_file()):
            if p.startswith(prefix) and p>start_after: yield ObjectEntry(p,(self.root/p).stat().st_size)
    def delete(self,keys):
        for k in keys: self._p(k).unlink(missing_ok=True)
    def stage(self,final_key):
        self.staging.mkdir(parents=True, exist_ok=True)
        t=self.staging/(final_key.replace("/","%2F")+"."+secrets.token_hex(4))
        return StagingWriter(open(t,"wb"), lambda n: StagedObject(final_key,n,{"path":t.name}))
    def publish(self,s):
        f=self._p(s.final_key); f.parent.mkdir(parents=True, exist_ok=True); t=self.staging/s.token["path"]
        try: os.link(t,f); r=True
        except FileExistsError: r=False
        except FileNotFoundError:
            if f.exists(): return False
            raise StagedOutputMissing(f"{f} is missing") from None
        t.unlink(missing_ok=True); return r
    def discard(self,s): (self.staging/s.token["path"]).unlink(missing_ok=True)
    def list_staged(self,prefix=""):
        if self.staging.exists():
            for t in self.staging.iterdir():
                if not t.name.startswith("tmp-"):
                    k=t.name.rpartition(".")[0].replace("%2F","/")
                    if k.startswith(prefix): yield StagedObject(k,t.stat().st_size,{"path":t.name})
    def verify(self): self.root.mkdir(parents=True, exist_ok=True)
_STACK: list[Any]=[]
def open_object_store(uri, options=None):
    global _STACK
    if _STACK:
        f=_STACK.pop()
        try: return f(uri, options)
        finally: _STACK.append(f)
    if uri.startswith("memory://"): raise ConfigurationError("no memory yet")
    return LocalStore(uri.removeprefix("file://"))
@contextlib.contextmanager
def override_stores(factory):
    _STACK.append(factory)
    try: yield
    finally: _STACK.pop()

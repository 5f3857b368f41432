"""Generates Python messages and one descriptor set from the contracts: `python proto/generate.py`.

Imports that are not ours come from installed packages: `google/api` and `google/type` from
googleapis-common-protos, `google/protobuf` from grpcio-tools, and `buf/validate` from the descriptor that
protovalidate carries. So the repository holds no third-party contract and no generated file.
"""

import importlib
import shutil
import tempfile
from pathlib import Path

import google.api
import grpc_tools
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from protovalidate._gen.buf.validate import validate_pb

HERE = Path(__file__).resolve().parent
COMMON_PROTOS = Path(google.api.__path__[0]).parents[1]
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"


def validate_descriptors() -> bytes:
    """The descriptor set of `buf/validate/validate.proto` with what it imports."""
    validate = descriptor_pb2.FileDescriptorProto.FromString(validate_pb._DESC.proto.to_binary())
    files = descriptor_pb2.FileDescriptorSet()
    for name in validate.dependency:
        module = importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
        module.DESCRIPTOR.CopyToProto(files.file.add())
    files.file.add().CopyFrom(validate)
    return files.SerializeToString()


def generate(out: Path, root: Path = HERE, *, also: tuple[str, ...] = ("buf/validate/validate.proto",)) -> None:
    """Compiles every contract below `root` into `out`; raises RuntimeError where protoc refuses one."""
    contracts = sorted(str(path.relative_to(root)) for path in (root / "crm").rglob("*.proto"))
    with tempfile.NamedTemporaryFile(suffix=".binpb") as descriptors:
        descriptors.write(validate_descriptors())
        descriptors.flush()
        arguments = ["protoc", f"-I{root}", f"-I{HERE}", f"-I{COMMON_PROTOS}", f"-I{WELL_KNOWN}"]
        arguments += [f"--descriptor_set_in={descriptors.name}", f"--python_out={out}", f"--pyi_out={out}"]
        arguments += ["--include_imports", "--include_source_info", f"--descriptor_set_out={out}/contracts.binpb"]
        if protoc.main([*arguments, *contracts, *also]) != 0:
            raise RuntimeError("protoc refused a contract; its message is above")


def main() -> None:
    """Replaces `proto/gen` in one step, so that a failed run leaves the last good one."""
    target = HERE / "gen"
    fresh = Path(tempfile.mkdtemp(dir=HERE, prefix=".gen-"))
    try:
        generate(fresh)
        shutil.rmtree(target, ignore_errors=True)
        fresh.chmod(0o755)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: MIT
"""Build the fuzzer: ``python tests/fuzz/build.py FOLDER``; prints its path.

The Cython modules of the sans-IO core and of TLS are compiled once more, by clang, with
AddressSanitizer, UndefinedBehaviorSanitizer, the coverage that guides libFuzzer and
the debug checks, into a folder of their own; the modules in the tree stay as they are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import trustme
from Cython.Compiler.Main import compile_single
from Cython.Compiler.Options import CompilationOptions, get_directive_defaults

ROOT = Path(__file__).resolve().parents[2]
LAYERS = (
    "base",
    "auth",
    "wire",
    "tables",
    "board",
    "session",
    "statements",
    "relay",
)  # no socket
TLS = ("io.conn", "io.poll", "io.tls", "io.tls_context", "io.transport")
DEADLINE_S = 300
SANITIZE = (
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-fno-omit-frame-pointer",
)
CFLAGS = (
    *SANITIZE,
    "-O1",
    "-g",
    "-fno-strict-aliasing",
    "-DPOOLER_DEBUG=1",
    "-Wno-everything",
)


class BuildError(Exception):
    """The fuzzer cannot be built; says why."""


def compiler() -> str:
    """The clang to use: ``CLANG``, else the one on PATH."""
    name = os.environ.get("CLANG", "clang")
    found = shutil.which(name)
    if found is None:
        raise BuildError(
            f"{name} is not installed (apt-get install clang libclang-rt-14-dev)"
        )
    return found


def run(*command: str | Path) -> None:
    """Run a compiler."""
    answer = subprocess.run(
        command, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    if answer.returncode:
        said = (answer.stderr or answer.stdout)[-4000:]
        raise BuildError(f"{' '.join(map(str, command))}\n{said}")


def generate(source: Path, folder: Path) -> Path:
    """Translate a module to C."""
    relative = source.relative_to(ROOT).with_suffix("")
    target = (folder / relative).with_suffix(".c")
    target.parent.mkdir(parents=True, exist_ok=True)
    options = CompilationOptions(
        include_path=[str(ROOT)],
        output_file=str(target),
        compiler_directives={
            **get_directive_defaults(),
            "language_level": 3,
            "wraparound": False,
            "cdivision": True,
        },
    )
    result = compile_single(str(source), options, ".".join(relative.parts))
    if result.num_errors:
        raise BuildError(f"{source}: Cython does not compile it")
    return target


def core() -> list[Path]:
    """The sources of the layers without sockets and of TLS, of Python and of Cython."""
    layers = tomllib.loads((ROOT / "dev" / "layers.toml").read_text())["layer"]
    names = [name for row in layers if row["name"] in LAYERS for name in row["modules"]]
    names += [f"{layer}.__init__" for layer in (*LAYERS, "io")]
    names += TLS
    paths = [
        (ROOT / "pooler").joinpath(*name.split(".")).with_suffix(end)
        for name in names
        for end in (".py", ".pyx")
    ]
    return [path for path in paths if path.exists()]


def make_certificates(folder: Path) -> None:
    """What the TLS target's servers show."""
    made = trustme.CA().issue_cert("localhost")
    made.cert_chain_pems[0].write_to_path(folder / "server.crt")
    made.private_key_pem.write_to_path(folder / "server.key")


def uses_openssl(source: Path) -> bool:
    return "tls" in source.stem or "auth" in source.stem or source.parent.name == "auth"


def build(folder: Path) -> Path:
    """Build into a folder; returns the program."""
    clang = compiler()
    packages = folder / "modules"
    shutil.rmtree(packages, ignore_errors=True)
    sources = core()
    for path in sources:
        if path.suffix == ".py":
            target = packages / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    for package in ("tests", "tests/fuzz"):
        (packages / package).mkdir(parents=True, exist_ok=True)
        (packages / package / "__init__.py").touch()
    make_certificates(packages / "tests" / "fuzz")
    sources += sorted(Path(__file__).parent.glob("*.pyx"))
    generated = [generate(path, packages) for path in sources if path.suffix == ".pyx"]
    include = f"-I{sysconfig.get_path('include')}"
    program = folder / "fuzzer"
    library_dir = sysconfig.get_config_var("LIBDIR")
    stdlib = sysconfig.get_path("stdlib")
    python_path = ":".join([stdlib, f"{stdlib}/lib-dynload", str(packages)])
    commands: list[list[str | Path]] = [
        [clang, *CFLAGS, "-fsanitize=fuzzer-no-link", "-fPIC", "-shared", include,
         source, "-o", source.with_suffix(".so"),
         *(("-lssl", "-lcrypto") if uses_openssl(source) else ())]
        for source in generated
    ]  # fmt: skip
    commands.append(
        [clang, *CFLAGS, "-fsanitize=fuzzer", "-rdynamic", include,
         f'-DPOOLER_FUZZ_PATH="{python_path}"', Path(__file__).with_name("driver.c"),
         "-o", program, f"-L{library_dir}", f"-Wl,-rpath,{library_dir}",
         f"-lpython{sysconfig.get_config_var('LDVERSION')}", "-ldl", "-lm"]
    )  # fmt: skip
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(lambda command: run(*command), commands):
            pass
    return program


if __name__ == "__main__":
    try:
        print(build(Path(sys.argv[1]).resolve()))
    except BuildError as problem:
        sys.exit(f"fuzz: {problem}")

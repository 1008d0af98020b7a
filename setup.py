# SPDX-License-Identifier: MIT
"""Build the extension modules; everything else is in pyproject.toml.

POOLER_DEBUG=1 turns the debug checks on (``-O0 -g``); POOLER_ASAN=1 adds
AddressSanitizer and UndefinedBehaviorSanitizer. POOLER_WITHOUT_EXTENSIONS=1 leaves
them all out, POOLER_JOBS=n works in that many processes.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("POOLER_DEBUG") == "1"
ASAN = os.environ.get("POOLER_ASAN") == "1"

OPTIMISE = ["-O0", "-g"] if DEBUG else ["-O3", "-g1"]
SANITIZE = (
    ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"] if ASAN else []
)
# Cython's own generated code trips these three; ours is checked by the rest.
CFLAGS = [
    *OPTIMISE,
    *SANITIZE,
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
    "-Wno-missing-field-initializers",
    "-Wno-cast-function-type",
    "-fno-strict-aliasing",
]

# Of the modules that use OpenSSL themselves.
LIBRARIES = {
    "pooler.auth.exchange": ["crypto"],
    "pooler.auth.secrets": ["crypto"],
    "pooler.io.logins": ["crypto"],
    "pooler.io.tls": ["ssl", "crypto"],
    "pooler.io.tls_context": ["ssl", "crypto"],
}


extensions = [
    Extension(
        ".".join(source.with_suffix("").parts),
        [source.as_posix()],
        define_macros=[("POOLER_DEBUG", "1" if DEBUG else "0")],
        extra_compile_args=CFLAGS,
        extra_link_args=SANITIZE,
        libraries=LIBRARIES.get(".".join(source.with_suffix("").parts), []),
    )
    for source in sorted(Path("pooler").rglob("*.pyx"))
]

# An editable install needs none: `make` compiles them in place, and shows progress.
JOBS = int(os.environ.get("POOLER_JOBS", "0"))
WITHOUT = os.environ.get("POOLER_WITHOUT_EXTENSIONS") == "1"

# Cython's own processes may import this file once more (multiprocessing, "spawn").
if __name__ != "__mp_main__":
    setup(
        options={"build_ext": {"parallel": str(JOBS)}} if JOBS else {},
        ext_modules=cythonize(
            [] if WITHOUT else extensions,
            nthreads=JOBS,
            compiler_directives={
                "language_level": 3,
                "boundscheck": DEBUG,
                "wraparound": False,
                "initializedcheck": DEBUG,
                "cdivision": True,
                "embedsignature": True,
            },
        ),
    )

# SPDX-License-Identifier: MIT
"""Build the extension modules; everything else is in pyproject.toml.

POOLER_DEBUG=1 turns the debug checks on (``-O0 -g``); POOLER_ASAN=1 adds
AddressSanitizer and UndefinedBehaviorSanitizer. POOLER_WITHOUT_EXTENSIONS=1 leaves
them all out, POOLER_JOBS=n works in that many processes.
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

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


class Build(build_ext):
    """Translates to C when it compiles, and not before.

    The sources of an extension stay what they are, so a source distribution has the
    .pyx files, and making one translates nothing.
    """

    def run(self) -> None:
        """Translate all modules, in JOBS processes, then compile them."""
        translated = cythonize(
            self.extensions,
            nthreads=JOBS,
            compiler_directives={
                "language_level": 3,
                "boundscheck": DEBUG,
                "wraparound": False,
                "initializedcheck": DEBUG,
                "cdivision": True,
                "embedsignature": True,
            },
        )
        sources = {one.name: one.sources for one in translated}
        for one in self.extensions:
            one.sources = sources[one.name]
        super().run()


# Cython's own processes may import this file once more (multiprocessing, "spawn").
if __name__ != "__mp_main__":
    # All that works is in them; a package without them installs, and never runs.
    if not extensions:
        sys.exit("setup.py: no .pyx file in pooler/, so there is nothing to compile")
    setup(
        cmdclass={"build_ext": Build},
        options={"build_ext": {"parallel": str(JOBS)}} if JOBS else {},
        ext_modules=[] if WITHOUT else extensions,
    )

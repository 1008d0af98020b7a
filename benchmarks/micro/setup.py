# SPDX-License-Identifier: MIT
"""Build the loops: ``python benchmarks/micro/setup.py build_ext --inplace``.

From the root. The inline functions of the core are compiled into the loops, so flags
and directives are those of the setup.py there.
"""

from Cython.Build import cythonize
from setuptools import Extension, setup

setup(
    name="pooler-micro",
    packages=[],
    py_modules=[],
    ext_modules=cythonize(
        [
            Extension(
                "benchmarks.micro._loops",
                ["benchmarks/micro/_loops.pyx"],
                define_macros=[("POOLER_DEBUG", "0")],
                extra_compile_args=["-O3", "-g1", "-fno-strict-aliasing"],
            )
        ],
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
        },
    ),
)

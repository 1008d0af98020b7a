# SPDX-License-Identifier: MIT
"""Build the probe: ``python tests/ext/setup.py build_ext --inplace`` from the root."""

from Cython.Build import cythonize
from setuptools import Extension, setup

setup(
    name="pooler-probe",
    packages=[],
    py_modules=[],
    ext_modules=cythonize(
        [
            Extension(
                "tests.ext._probe",
                ["tests/ext/_probe.pyx"],
                extra_compile_args=["-Wno-sign-compare"],
            )
        ],
        compiler_directives={"language_level": 3},
    ),
)

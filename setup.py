"""What setup.cfg cannot say: an extension that is built where there is a compiler, and left out where there is none."""

from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "beam_exactly_once.kafka._native_reader",
            sorted(glob("beam_exactly_once/kafka/native_reader/*.c")),
            depends=sorted(glob("beam_exactly_once/kafka/native_reader/*.h")),
            extra_compile_args=["-fvisibility=hidden"],
            define_macros=[("Py_LIMITED_API", "0x030A0000")],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)

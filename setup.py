"""What setup.cfg cannot say: an extension that is built where there is a compiler, and left out where there is none."""

from pathlib import Path

from setuptools import Extension, setup

NATIVE_READER = Path("beam_exactly_once/kafka/native_reader")

setup(
    ext_modules=[
        Extension(
            "beam_exactly_once.kafka._native_reader",
            sorted(map(str, NATIVE_READER.glob("*.c"))),
            depends=sorted(map(str, NATIVE_READER.glob("*.h"))),
            extra_compile_args=["-fvisibility=hidden"],
            define_macros=[("Py_LIMITED_API", "0x030A0000")],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)

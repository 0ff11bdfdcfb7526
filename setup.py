# SPDX-License-Identifier: Apache-2.0
import sys
from pathlib import Path

from setuptools import Distribution, find_packages, setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # under pip the project's folder is not on the path

from build_messages import INTERFACES, PACKAGE, BuildMessages  # noqa: E402

SHARE = f"share/{PACKAGE}"
EXECUTABLES = (
    *("llm_node", "import-gguf", "profile", "ask", "demo", "demo-real", "replay", "top"),
    *("bench", "measure-quality", "reach", "collect", "train-predictor", "evaluate-predictor"),
    "autoware_adapter",
)
# Uses the Python of the prefix that it is installed in (a virtual environment), otherwise the one
# on PATH. -P: a clone of this package in the working directory must not hide the installed one.
LAUNCHER = """\
#!/bin/sh
python="$(dirname "$0")/../../bin/python3"
[ -x "$python" ] || python=python3
exec "$python" -P -m {package} {name} "$@"
"""


class BuildPackage(BuildMessages):
    """Builds the messages, and the executables by which `ros2 run` and `ros2 launch` find us.

    They lie in lib/<package>/ under plain names. A virtual environment's bin/ is shared with every
    other package, so it gets a single command of its own: `timebill_ros NAME`.
    """

    def run(self) -> None:
        super().run()
        folder = Path(self.build_temp, "executables")
        folder.mkdir(parents=True, exist_ok=True)
        for name in EXECUTABLES:
            (folder / name).write_text(LAUNCHER.format(package=PACKAGE, name=name))
            (folder / name).chmod(0o755)
        executables = [str(folder / name) for name in EXECUTABLES]
        self.distribution.data_files.append((f"lib/{PACKAGE}", executables))


class BinaryDistribution(Distribution):
    """A distribution with compiled files: `build_ext` runs, and the wheel names its platform."""

    def has_ext_modules(self) -> bool:
        return True


def files(pattern: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern) if path.is_file())


def requirements(name: str) -> list[str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-"))]


setup(
    name=PACKAGE,
    version="0.1.0",
    description="A ROS 2 node that answers language-model instructions within their deadline",
    license="Apache-2.0",
    python_requires=">=3.11",
    extras_require={"test": ["pytest"], "train": requirements("train")},
    packages=find_packages(
        include=[PACKAGE, f"{PACKAGE}.*"],
        exclude=[f"{PACKAGE}.{kind}" for kind in INTERFACES],
    ),
    package_data={
        f"{PACKAGE}.embedded": ["**/*.json", "**/*.safetensors", "**/*.csv", "**/*.jinja"],
        f"{PACKAGE}.workload": ["schemas/*.json"],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (SHARE, ["package.xml"]),
        (f"{SHARE}/config", files("config/*.yaml")),
        (f"{SHARE}/config/foxglove", files("config/foxglove/*.json")),
        (f"{SHARE}/config/presets", files("config/presets/*.yaml")),
        (f"{SHARE}/config/security", files("config/security/*.xml")),
        (f"{SHARE}/examples", files("examples/*.py")),
        (f"{SHARE}/launch", files("launch/*.launch.*")),
        (f"{SHARE}/schema", files("schema/*.json")),
    ],
    entry_points={"console_scripts": [f"{PACKAGE} = {PACKAGE}.__main__:main"]},
    cmdclass={"build_ext": BuildPackage},
    distclass=BinaryDistribution,
    zip_safe=False,
)

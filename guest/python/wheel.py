"""Builds the wheel with nothing but Python: `python3 wheel.py OUT`, or as the backend that pip calls.

The same sources give the same bytes: https://packaging.python.org/specifications/binary-distribution-format
"""

import base64
import hashlib
import re
import sys
import zipfile
from pathlib import Path
from typing import Any, Dict, Optional

HERE = Path(__file__).resolve().parent
WHEEL = "Wheel-Version: 1.0\nGenerator: gridcentric\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def version() -> str:
    """Copper's, wherever these sources lie in its tree; 0 outside of it."""
    project = HERE.parent.parent / "pyproject.toml"
    found = project.exists() and re.search(r'^version = "(.+)"$', project.read_text(), re.MULTILINE)
    return found.group(1) if found else "0"


def metadata() -> str:
    """The package's description of itself."""
    project = (HERE / "pyproject.toml").read_text()
    field = dict(re.findall(r'^([a-z-]+) = "(.*)"', project, re.MULTILINE))
    return (
        f"Metadata-Version: 2.1\nName: {field['name']}\nVersion: {version()}\n"
        f"Summary: {field['description']}\nLicense: {field['license']}\n"
        f"Requires-Python: {field['requires-python']}\nDescription-Content-Type: text/markdown\n"
        f"\n{(HERE / field['readme']).read_text()}"
    )


def build_wheel(
    wheel_directory: str,
    config_settings: Optional[Dict[str, Any]] = None,
    metadata_directory: Optional[str] = None,
) -> str:
    """Writes the wheel into the folder, and returns its name (PEP 517)."""
    info = f"gridcentric-{version()}.dist-info"
    sources = sorted(path for path in (HERE / "gridcentric").iterdir() if path.is_file())
    members = {f"gridcentric/{path.name}": path.read_bytes() for path in sources}
    members[f"{info}/METADATA"] = metadata().encode()
    members[f"{info}/WHEEL"] = WHEEL.encode()
    record = "".join(f"{name},{_digest(data)},{len(data)}\n" for name, data in members.items())
    members[f"{info}/RECORD"] = (record + f"{info}/RECORD,,\n").encode()
    name = f"gridcentric-{version()}-py3-none-any.whl"
    with zipfile.ZipFile(Path(wheel_directory) / name, "w", zipfile.ZIP_DEFLATED) as wheel:
        for member, data in members.items():
            entry = zipfile.ZipInfo(member)  # of 1980, the earliest that zip knows
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            wheel.writestr(entry, data)
    return name


def _digest(data: bytes) -> str:
    code = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()
    return "sha256=" + code.rstrip("=")


if __name__ == "__main__":
    print(build_wheel(sys.argv[1]))

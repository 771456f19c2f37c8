"""Says of each given ONNX file whether a second run of the pipeline changes nothing and two runs give the same bytes.

By hand: python FILE model.onnx ... [--target onnxruntime]. Every file is optimized twice from scratch, and once more
from the result; the graphs' protobufs and weight files are compared byte by byte.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def faults(source: Path, folder: Path, *, target: str | None) -> list[str]:
    """Return what does not hold for one file; empty when it is a fixed point and deterministic."""
    from exporter.optimization import optimize

    once, twice, again = (folder / name / "model.onnx" for name in ("once", "twice", "again"))
    optimize(source, once, target=target)
    optimize(source, twice, target=target)
    report = optimize(once, again, target=target)
    found = [] if _bytes(once) == _bytes(twice) else ["two runs give different bytes"]
    events = [f"{event.rule} at {event.node}" for result in report.results for event in result.applied]
    if events:
        found.append(f"a second run applies {len(events)}: {events[:4]}")
    elif _bytes(once) != _bytes(again):
        found.append("a second run applies nothing, and still writes other bytes")
    return found


def _bytes(path: Path) -> tuple[bytes, ...]:
    data = path.with_name(path.name + ".data")
    return tuple(file.read_bytes() for file in (path, data) if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--target")
    arguments = parser.parse_args()
    failed = 0
    for source in arguments.models:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            try:
                found = faults(source, Path(folder), target=arguments.target)
            except Exception as error:
                found = [f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"]
        failed += bool(found)
        print(f"{source.name}: {'; '.join(found) or 'holds'}", flush=True)
    print(f"{len(arguments.models) - failed} of {len(arguments.models)} hold")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

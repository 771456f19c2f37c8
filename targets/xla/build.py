"""Writing an artifact: the exported program, the weights, the manifest; for a topology, what its compiler says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passes.base import node_label
from passes.errors import BuildFailed, MissingDependency
from targets.base import Artifact, BuildOptions, TensorSpec
from targets.manifest import Manifest, hashes_of, write_manifest
from targets.planned import planned_int8
from targets.xla.backend import load_jax, start_pool, tracing, versions
from targets.xla.bounds import signature_of, weight_shapes
from targets.xla.chips import HBM_SOURCE, chip_of
from targets.xla.lowering.program import Program
from targets.xla.settings import Settings, settings_from
from targets.xla.weights import FILE_NAME as WEIGHTS_FILE
from targets.xla.weights import weights_of, write_weights

if TYPE_CHECKING:
    import onnx_ir as ir

PROGRAM_FILE = "program.jax_export"
"""StableHLO with jax's calling convention, as `jax.export` serializes it."""

_INT8_ON_CPU = "matrix products in int8; convolutions as the same integers in float32 units, where the CPU is faster"

_PLATFORMS: tuple[tuple[str, ...], ...] = (("cpu", "tpu", "cuda"), ("cpu", "tpu"), ("cpu",))


@dataclass(frozen=True, slots=True)
class Exported:
    """A program and its declared inputs and outputs; `int8` lists the nodes that were lowered to int8 arithmetic."""

    program: bytes
    platforms: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    int8: tuple[str, ...]
    bounds: tuple[str, ...]
    symbols: Mapping[str, str]


def build_artifact(model: ir.Model, out: Path, options: BuildOptions) -> Artifact:
    """Write the artifact into `out`. Raises BuildFailed with the reasons when the model can't be lowered."""
    load_jax()
    start_pool(options.threads)
    settings = settings_from(options)
    if settings.topology and "libtpu" not in versions():
        raise MissingDependency(
            f"Compiling for {settings.topology} needs 'libtpu'.", hint="pip install 'graphwright[tpu]'"
        )
    exported = export_program(model, settings, options)
    (out / PROGRAM_FILE).write_bytes(exported.program)
    weights = weights_of(model)
    write_weights(out / WEIGHTS_FILE, weights, settings.float_type)
    details: dict[str, Any] = {
        **_int8_details(model, exported.int8),
        "platforms": list(exported.platforms),
        "weights": len(weights),
        "bounds": list(exported.bounds),
        "symbols": exported.symbols,
    }
    if settings.topology:
        details |= _compiled_ahead(out, settings, options)
    manifest = Manifest(
        target="xla",
        precision=options.precision,
        inputs=exported.inputs,
        outputs=exported.outputs,
        files=hashes_of(out, [PROGRAM_FILE, WEIGHTS_FILE]),
        settings={
            "topology": settings.topology,
            "shapes": settings.shapes,
            "matmul_precision": settings.matmul_precision,
            "compute_type": settings.float_type.name,
            "threads": str(options.threads),
        },
        versions=versions(),
        device=settings.topology or "cpu",
        runs_here=not settings.topology,
        details=details,
    )
    write_manifest(out, manifest)
    return Artifact(out, manifest)


def _int8_details(model: ir.Model, lowered: tuple[str, ...]) -> dict[str, Any]:
    """Return how many products the graph asks for in int8, how many are by operator, and which compute in float."""
    kinds = {node_label(node): node.op_type for node in model.graph.all_nodes()}
    planned = planned_int8(model)
    return {
        "int8_planned": len(planned),
        "int8_executed": dict(sorted(Counter(kinds[name] for name in lowered if name in kinds).items())),
        "float_fallbacks": sorted(set(planned) - set(lowered)),
        "int8_on_cpu": _INT8_ON_CPU if lowered else "",
    }


def export_program(model: ir.Model, settings: Settings, options: BuildOptions) -> Exported:
    """Return the model as one serialized program, for as many platforms as its operators have rules for."""
    import jax
    from jax import export

    signature = signature_of(model, settings, options)
    specs = signature.specs
    program = Program(model, settings.float_type)

    def function(weights: Any, inputs: Any) -> Any:
        return program(weights, inputs)

    with tracing(settings.matmul_precision):
        weights = weight_shapes(model, settings)
        platforms, exported = _exported(export, jax.jit(function), weights, signature.inputs())
    names = [str(value.name) for value in model.graph.outputs]
    symbols = signature.expressions()
    back = {size: name for name, size in symbols.items()}
    outputs = tuple(
        TensorSpec(
            name, aval.dtype.name, tuple(d if isinstance(d, int) else back.get(str(d), str(d)) for d in aval.shape)
        )
        for name, aval in zip(names, exported.out_avals, strict=True)
    )
    int8 = tuple(sorted(program.int8_nodes))
    return Exported(bytes(exported.serialize()), platforms, specs, outputs, int8, signature.restrictions(), symbols)


def _exported(export: Any, function: Any, weights: Any, inputs: Any) -> tuple[tuple[str, ...], Any]:
    reasons: list[str] = []
    for platforms in _PLATFORMS:
        try:
            return platforms, export.export(function, platforms=platforms)(weights, inputs)
        except NotImplementedError as error:  # an operator without a rule for one of the platforms
            reasons.append(str(error))
        except BuildFailed:
            raise
        except Exception as error:
            raise BuildFailed(
                f"XLA cannot export the program: {type(error).__name__}: {error}",
                hint="If a symbolic dimension is at fault, build for fixed shapes: --target xla:shapes=fixed.",
            ) from error
    raise BuildFailed("XLA has no rule for an operator of the program:\n" + "\n".join(reasons))


def _compiled_ahead(out: Path, settings: Settings, options: BuildOptions) -> dict[str, Any]:
    from targets.isolation import run_isolated
    from targets.xla.topology import environment_for

    chip = chip_of(settings.topology)
    report = run_isolated(
        "targets.xla.topology:compile_ahead",
        {"folder": str(out), "topology": settings.topology, "matmul_precision": settings.matmul_precision},
        time_limit_s=options.time_limit_s,
        environment=environment_for(settings.topology),
    )
    return {**report, "chip": {**asdict(chip), "hbm_source": HBM_SOURCE}}

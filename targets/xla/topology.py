"""Compiling ahead of time for a TPU topology, in a process of its own: the compiler is libtpu's, and needs no TPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from passes.errors import BuildFailed
from targets.xla.chips import chip_count, chip_of

_MEMORY_FIGURES = {
    "argument_bytes": "argument_size_in_bytes",
    "output_bytes": "output_size_in_bytes",
    "alias_bytes": "alias_size_in_bytes",
    "temporary_bytes": "temp_size_in_bytes",
    "code_bytes": "generated_code_size_in_bytes",
}
_COST_FIGURES = {"flops": "flops", "bytes_accessed": "bytes accessed"}


def environment_for(topology: str) -> dict[str, str]:
    """Return the variables that keep libtpu from asking a metadata server or claiming its lock file."""
    return {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": f"{chip_of(topology).accelerator}-{chip_count(topology)}",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }


def compile_ahead(folder: str, topology: str, matmul_precision: str) -> dict[str, Any]:
    """Return what the compiler says of the program in `folder`: bytes of memory, FLOP, bytes accessed.

    Raises BuildFailed with the compiler's own figures when the program doesn't fit the chip's memory.
    """
    import jax
    from jax import export
    from jax.experimental import topologies
    from jax.sharding import SingleDeviceSharding

    from targets.xla.build import PROGRAM_FILE

    program = export.deserialize(bytearray((Path(folder) / PROGRAM_FILE).read_bytes()))
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:
        raise BuildFailed(
            f"libtpu does not know the topology {topology}: {error}",
            hint="Check its grid; without libtpu: pip install 'graphwright[tpu]'.",
        ) from error
    sharding = SingleDeviceSharding(description.devices[0])
    arguments, keywords = jax.tree.unflatten(
        program.in_tree, [jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=sharding) for aval in program.in_avals]
    )
    with jax.enable_x64(True), jax.default_matmul_precision(matmul_precision):
        lowered = jax.jit(program.call).lower(*arguments, **keywords)
        try:
            compiled = lowered.compile()
        except Exception as error:
            raise _failure(topology, error) from error
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    return {
        "memory": {name: int(getattr(memory, field)) for name, field in _MEMORY_FIGURES.items()},
        "cost": {name: float(cost.get(key, 0.0)) for name, key in _COST_FIGURES.items()},
        "chips": chip_count(topology),
        "chips_used": 1,
    }


def _failure(topology: str, error: Exception) -> BuildFailed:
    text = str(error)
    if "RESOURCE_EXHAUSTED" in text:
        chip = chip_of(topology)
        lines = [line.strip() for line in text.splitlines() if "HBM" in line or "RESOURCE_EXHAUSTED" in line]
        return BuildFailed(
            f"The program does not fit one {chip.name} chip ({chip.hbm_bytes >> 30} GiB): {' '.join(lines)[:600]}",
            hint="Take a smaller batch, bf16, or a chip with more memory.",
        )
    return BuildFailed(f"The TPU compiler refuses the program: {text[:1500]}")

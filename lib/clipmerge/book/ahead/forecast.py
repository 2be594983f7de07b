"""`clipmerge plan` in words: what a run at a profile computes, downloads, writes and takes, and what it lacks."""

from collections.abc import Sequence
from dataclasses import dataclass

from clipmerge.book.ahead import estimates, planning
from clipmerge.book.ahead.planning import Graph
from clipmerge.book.run import Job
from clipmerge.clip import device
from clipmerge.clip.data import external, fomo, real
from clipmerge.errors import BadInput
from clipmerge.study.cache import store
from clipmerge.study.cache.step import Step


@dataclass(frozen=True)
class Forecast:
    """The graph of what was asked for, weights to fetch, a description line by line, and everything that is missing."""

    graph: Graph
    weights: tuple[str, ...]
    lines: tuple[str, ...]
    missing: tuple[str, ...]

    def refuse(self) -> None:
        """One message with everything that is missing, if anything is."""
        if self.missing:
            listed = "".join(f"\n  - {each}" for each in self.missing)
            raise BadInput(f"{self.graph.profile.name}: expected everything to be there, found missing:{listed}")


def make(jobs: Sequence[Job], engine: str = "") -> Forecast:
    """Foresee a run of these notebooks (with another engine than the profile's, if one is named)."""
    graph = planning.graph(jobs)
    to_do = graph.to_do()
    weights = estimates.weights_mb(str(step.config["model"]) for step in to_do if "model" in step.config)
    looked_at = planning.sets(graph)
    sets = _sets(looked_at)
    disk = sum(map(estimates.written_mb, to_do))
    engine = engine or store.engine(graph.profile.compute)
    missing = planning.missing(graph, engine, disk + sum(weights.values()), looked_at)
    lines = [
        _line("steps", f"{len(graph.steps)} behind {len(jobs)} notebooks, {len(to_do)} to do"),
        _line("downloads", _amounts(sets | weights)),
        _line("disk", f"about {disk / 1000:.1f} GB to write (`clipmerge gc --keep graded` frees most of it again)"),
        *_resources(graph, to_do),
        *[_line("missing" if not i else "", each) for i, each in enumerate(missing or ["nothing"])],
    ]
    return Forecast(graph, tuple(weights), (f"profile {graph.profile.name}", *lines), tuple(missing))


def _line(head: str, text: str) -> str:
    return f"{head:14}{text}"


def _resources(graph: Graph, to_do: Sequence[Step]) -> list[str]:
    """Memory, hours and the critical path, on a GPU in either precision or on this machine's processors."""
    workers = graph.profile.compute.workers
    ram, gpu = (mb / 1000 for mb in estimates.memory_mb(to_do))
    rates = {kind: estimates.rates(graph.steps, kind) for kind in ("fp32", "bf16")}
    spent = {kind: estimates.hours(to_do, rate) for kind, rate in rates.items()}
    on_gpu = " | ".join(f"{spent[kind][0]:.1f} {kind} ({_origin(rate)})" for kind, rate in rates.items())
    lines = [
        _line("memory", f"{ram:.1f} GB a worker, {workers * ram:.1f} GB for {workers}; GPU {gpu:.1f} GB at most"),
        _line("GPU-hours", f"{on_gpu}, good to a half; {spent['fp32'][1]:.1f} h of steps that need none"),
    ]
    if _on_processors(graph):
        processors = estimates.rates(graph.steps, "cpu")
        hours = sum(map(processors.seconds, to_do)) / 3600
        shared = f"{hours:.2f} h on this machine's processors, {hours / workers:.2f} h for {workers} workers"
        lines.append(_line("", f"{shared} ({_origin(processors)})"))
    paths = ((kind, *estimates.longest(to_do, rate)) for kind, rate in rates.items())
    said = " | ".join(f"{count} steps, {hours:.2f} h {kind}" for kind, count, hours in paths)
    return [*lines, _line("critical path", said)]


def _origin(rate: estimates.Rates) -> str:
    return "measured" if rate.measured else f"assumed {estimates.TFLOPS[rate.kind]:g} TFLOP/s"


def _on_processors(graph: Graph) -> bool:
    """Whether this machine would compute the steps without a GPU."""
    wanted = graph.profile.compute.device
    return wanted == "cpu" or (wanted == "auto" and device.resolve("auto").type == "cpu")


def _sets(looked_at: Sequence[str]) -> dict[str, float]:
    """Real sets still to be brought, in MB."""
    lacking = [name for name in looked_at if real.missing(name)]
    found = {name: float(external.load(real.key(name)).mb) for name in lacking if not name.startswith(real.FOMO)}
    if len(found) < len(lacking):
        found["FoMo-in-Flux"] = fomo.size_mb()
    return found


def _amounts(sizes: dict[str, float]) -> str:
    if not sizes:
        return "none"
    named = ", ".join(f"{name} {mb / 1000:.1f}" for name, mb in sizes.items())
    return f"{sum(sizes.values()) / 1000:.1f} GB ({named})"

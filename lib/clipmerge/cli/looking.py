"""Commands that look at models, or turn one format into another: inspect, convert, evaluate, figure."""

from argparse import ArgumentParser, Namespace
from collections import Counter
from pathlib import Path

from clipmerge.cli import words
from clipmerge.cli.command import MODEL, Command, say


def _inspect_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=f"{MODEL}; or the folder of a unified model")
    parser.add_argument("--tensors", action="store_true", help="list every tensor")


def _inspect(options: Namespace) -> None:
    from clipmerge.clip import hub
    from clipmerge.merge.folder import TRIGGERS, stored
    from clipmerge.merge.layout import CODES, size

    place = Path(options.model)
    unified = stored(place) if (place / TRIGGERS).exists() else None
    found = unified.delta if unified else hub.opened(options.model, [])[0]
    sizes = Counter()
    for shape, dtype in found.layout.values():
        sizes[CODES[dtype]] += size(shape, "int8")
    parts = ", ".join(f"{count:,} {code}" for code, count in sorted(sizes.items()))
    print(f"{options.model}: {len(found.layout)} tensors, {parts}")
    for key, value in sorted(found.meta.items()):
        print(f"  {key}: {value}")
    for task in unified.tasks if unified else ():
        print(f"  task {task.name}: rescaler {task.rescaler:.4f}")
    for name, (shape, dtype) in sorted(found.layout.items()) if options.tensors else ():
        print(f"  {name} {CODES[dtype]} {list(shape)}")


def _convert_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", metavar="MODEL", help=f"a .pt file; {MODEL}")
    parser.add_argument("out", type=Path, metavar="PATH", help="file to write; for huggingface a folder")
    parser.add_argument("--layout", choices=("open_clip", "huggingface"), default="open_clip", help="(open_clip)")
    parser.add_argument("--force", action="store_true", help="replace what is there already, once the new one is whole")


def _convert(options: Namespace) -> None:
    if options.source.endswith((".pt", ".pth", ".bin")) and options.layout == "open_clip":
        from clipmerge.merge.convert import convert

        convert(options.source, options.out, options.force)
    else:
        from clipmerge.clip import hub

        hub.write(hub.opened(options.source, [])[0], options.out, options.layout, options.force)


def _evaluate_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("unified", type=Path, metavar="DIR", help="a unified model")
    data = "names of manifests, or folders of class folders (or of train and test, which hold them); ends with --"
    parser.add_argument("--data", nargs="+", required=True, metavar="DATA", help=data)
    parser.add_argument("--out", required=True, type=Path, metavar="CSV", help="file to write")
    parser.add_argument("--force", action="store_true", help="replace what is there already")
    parser.add_argument("--base", metavar="MODEL", help="if it is no longer where it was")
    parser.add_argument("--experts", nargs="+", metavar="MODEL", help="if they are no longer where they were")
    parser.add_argument("--model", metavar="NAME", help="architecture, if no config says (nano-s, ViT-B-32-quickgelu)")
    merges = {"nargs": "*", "default": ["average", "ties"], "choices": list(words.TECHNIQUES), "metavar": "NAME"}
    parser.add_argument("--techniques", **merges, help="merges to compare with (average ties)")
    parser.add_argument("--nearest", type=int, default=1, metavar="K", help="experts that answer an image together (1)")
    kinds = ("auto", "cpu", "cuda", "mps")
    parser.add_argument("--device", default="auto", choices=kinds, help="where models run (auto)")


def _evaluate(options: Namespace) -> None:
    from clipmerge import files
    from clipmerge.clip import device
    from clipmerge.merge.preflight import guard
    from clipmerge.study.own import experts

    out = guard(options.out, [options.unified], options.force)
    asked = ("techniques", "base", "experts", "model", "nearest")
    how = {name: getattr(options, name) for name in asked}
    with device.using({"device": options.device, "autocast": "none"}):
        found = experts.grade(options.unified, options.data, say=say, **how)
    files.write_text(out, found.to_csv(index=False))
    means = found[(found.metric == "accuracy") & (found.task == "mean")]
    for method, value in zip(means.method, means.value, strict=True):
        print(f"{method:16} {value:6.2f}")


def _figure_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("results", type=Path, metavar="CSV", help="what clipmerge evaluate wrote")
    parser.add_argument("--out", type=Path, metavar="PATH", help=".png or .pdf (default: the csv's name with .png)")
    parser.add_argument("--force", action="store_true", help="replace what is there already")


def _figure(options: Namespace) -> None:
    from clipmerge.book import own_experts
    from clipmerge.merge.preflight import guard

    out = guard(options.out or options.results.with_suffix(".png"), [options.results], options.force)
    own_experts.save(options.results, out)


COMMANDS = {
    "evaluate": Command(
        "Grade base, experts, decoupled experts, routing and merges on your data.",
        "clipmerge evaluate unified --data photos/birds photos/flowers --out results.csv",
        *(_evaluate_arguments, _evaluate),
    ),
    "figure": Command(
        "Draw what evaluate found: accuracy per task, what was kept, who interferes with whom.",
        "clipmerge figure results.csv",
        *(_figure_arguments, _figure),
    ),
    "inspect": Command(
        "Say what is in a model, or in a unified model.",
        "clipmerge inspect unified",
        *(_inspect_arguments, _inspect),
    ),
    "convert": Command(
        "Turn a .pt state dict into safetensors, loading weights only, or one layout into another.",
        "clipmerge convert open_clip.pt open_clip.safetensors",
        *(_convert_arguments, _convert),
    ),
}

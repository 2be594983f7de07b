"""Commands that look at models, or turn one format into another: inspect, convert."""

from argparse import ArgumentParser, Namespace
from collections import Counter
from pathlib import Path

from clipmerge.cli.command import MODEL, Command


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


COMMANDS = {
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

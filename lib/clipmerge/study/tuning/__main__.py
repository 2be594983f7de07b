"""Choose what the profiles and the papers leave open, on validation images.

python -m clipmerge.study.tuning experts                          # lora, baselines, time: the usual grid
python -m clipmerge.study.tuning experts lr=5e-4,1e-3 classes=48  # another; written to data_manifests/tuning
"""

import argparse
from ast import literal_eval
from collections.abc import Sequence

from clipmerge import files, paths
from clipmerge.errors import BadInput
from clipmerge.merge.registry import Number
from clipmerge.study import profiles, results
from clipmerge.study.tuning import searches


def main(words: Sequence[str] | None = None) -> None:
    """Command line of the searches: write the rows, print the means."""
    parser = argparse.ArgumentParser(prog="clipmerge.study.tuning", description="Choose rates on validation images.")
    parser.add_argument("what", choices=searches.SEARCHES)
    parser.add_argument("axes", nargs="*", metavar="NAME=VALUE,VALUE", help="values in place of the usual ones")
    parser.add_argument("--profile", default="laptop")
    given = parser.parse_args(words)
    try:
        profile = profiles.load(given.profile)
        rows = searches.run(profile, given.what, dict(axis(text) for text in given.axes))
    except BadInput as error:
        parser.error(str(error))
    path = paths.manifests() / "tuning" / f"{profile.name}_{given.what}.csv"
    files.write_text(path, rows.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    columns = [column for column in rows if column not in results.COLUMNS]
    means = rows[rows.task == "mean"].pivot_table(index=columns, columns=["method", "metric"], values="value")
    print(means.round(2).to_string())


def axis(text: str) -> tuple[str, list[Number]]:
    """``lr=5e-4,1e-3`` → ``("lr", [0.0005, 0.001])``; counts stay whole numbers."""
    name, _, values = text.partition("=")
    try:
        numbers = [literal_eval(value) for value in values.split(",")]
    except (SyntaxError, ValueError):
        numbers = [None]
    if not all(type(number) in (int, float) for number in numbers):
        raise BadInput(f"tuning: expected an axis and numbers, as in lr=5e-4,1e-3; found {text!r}")
    return name, numbers


if __name__ == "__main__":
    main()

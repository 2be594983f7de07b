"""How the profiles' rates and the baselines' options were chosen: by searches on validation images.

`searches` has what is tried and how a trial is graded, ``python -m clipmerge.study.tuning`` is the command line, the
results are ``data_manifests/tuning/<profile>_<what>.csv``. No trial ever sees a test image: the trial's profile has
``data.validation``.
"""

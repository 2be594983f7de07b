"""What ConDU is compared with (paper §5.1, Table 1): one method, one file, entered into `contract` by its decorator.

A new one is a file here: options with their source, `keep`, how it answers. All are loaded, so it is found by name.
"""

import importlib
import pkgutil

for _found in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_found.name}")

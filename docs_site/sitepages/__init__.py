"""Parts of the site's pages that are made from the code: options, hooks, records, models, errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sitepages.errors import write_errors
from sitepages.hooks import write_hooks
from sitepages.models import write_models, write_native
from sitepages.options import write_options
from sitepages.records import write_records

#: What writes a part, by the name that pages call it.
PARTS: Mapping[str, Callable[[], str]] = {
    "errors": write_errors,
    "hooks": write_hooks,
    "models": write_models,
    "native models": write_native,
    "options": write_options,
    "records": write_records,
}
